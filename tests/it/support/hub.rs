//! The hub as a process of its own, as an operator starts it: it can be killed, and comes back on the same ports.

use std::{fs, net::SocketAddr, path::PathBuf, process::Stdio, time::Duration};

use dzvin::identity::{SigningKey, TokenRules, Verifier};
use dzvin_protocols::identity::Claims;
use dzvin_sandbox::{CollectionConfig, DEFAULT_TOKEN, Knobs, Sandbox, SandboxConfig, SandboxHandle};
use tempfile::TempDir;
use time::OffsetDateTime;
use tokio::process::{Child, Command};

use super::{eventually::eventually, ports::free_address, postgres::TestDb, redis::Redis};

/// The key with which tests sign tokens.
pub const KEY: &str = "a key of thirty-two bytes and more, for tests only";

/// What hubs stand on: a database, an upstream, and Redis when there are several.
pub struct World {
    pub db: TestDb,
    pub sandbox: SandboxHandle,
    pub redis: Option<Redis>,
    pub dir: TempDir,
    /// Where hubs find the database, instead of `db` itself: a proxy before it.
    pub database_url: Option<String>,
    /// Where hubs find Redis, instead of `redis` itself: a proxy before it.
    pub redis_url: Option<String>,
    /// `[kinds.*]` and `[[mirrors]]` of every hub.
    pub mirrors: String,
    /// How long leases last.
    pub lease_ttl: &'static str,
}

impl World {
    /// An upstream with `objects` small objects of the kind `procedure`.
    pub async fn new(objects: usize, redis: bool) -> Self {
        let collections = vec![CollectionConfig::new("procedure", "procedures")];
        let config = SandboxConfig { collections, knobs: Knobs::unlimited(), ..SandboxConfig::default() };
        let sandbox = Sandbox::start(config).await.expect("sandbox");
        for n in 0..objects {
            sandbox.control().put("procedure", &small_object(n)).expect("an object");
        }
        Self::on(sandbox, redis).await
    }

    /// The same on an upstream that is there.
    pub async fn on(sandbox: SandboxHandle, redis: bool) -> Self {
        let redis = if redis { Some(Redis::start().await) } else { None };
        let mirrors = format!(
            r#"
[kinds.procedure]
fields = ["status"]
[[mirrors]]
name = "procedure"
kind = "procedure"
url = "{}"
token = "{DEFAULT_TOKEN}"
api_url = "{}"
platform_version = "1.0"
"#,
            sandbox.mirror_url("procedure"),
            sandbox.url(),
        );
        let dir = tempfile::tempdir().expect("a folder");
        Self {
            db: TestDb::new().await,
            sandbox,
            redis,
            dir,
            database_url: None,
            redis_url: None,
            mirrors,
            lease_ttl: "1s",
        }
    }

    /// A token with a role of the default configuration.
    pub fn token(role: &str) -> String {
        Self::token_for(role, 3600)
    }

    /// The same, good for so many seconds.
    pub fn token_for(role: &str, seconds: i64) -> String {
        let verifier =
            Verifier::new(vec![SigningKey::new("test", KEY.as_bytes()).expect("key")], TokenRules::default());
        let now = OffsetDateTime::now_utc().unix_timestamp();
        let claims = Claims {
            sub: format!("{role}-1"),
            exp: Some(now + seconds),
            roles: vec![role.to_owned()],
            ..Claims::default()
        };
        verifier.expect("verifier").sign(&claims).expect("signed")
    }

    fn config(&self, listen: SocketAddr, internal: SocketAddr, more: &str) -> String {
        let redis = self.redis_url.clone().or_else(|| self.redis.as_ref().map(Redis::url));
        let redis = redis.map_or(String::new(), |url| format!("[redis]\nurl = \"{url}\"\n"));
        format!(
            r#"
[http]
listen = "{listen}"
internal_listen = "{internal}"
[database]
url = "{}"
{redis}
[[identity.keys]]
id = "test"
secret = "{KEY}"
[leases]
ttl = "{}"
[shutdown]
grace = "5s"
[log]
format = "json"
level = "info,dzvin_actors=debug"
{}
{more}
"#,
            self.database_url.clone().unwrap_or_else(|| self.db.url()),
            self.lease_ttl,
            self.mirrors,
        )
    }

    /// Starts a hub and waits until it is ready.
    pub async fn hub(&self, name: &str) -> Hub {
        self.hub_with(name, "").await
    }

    /// The same with more configuration.
    pub async fn hub_with(&self, name: &str, more: &str) -> Hub {
        let mut hub = self.configured(name, more);
        hub.start().await;
        hub
    }

    /// A hub that was never started.
    pub fn unstarted(&self, name: &str) -> Hub {
        self.configured(name, "")
    }

    fn configured(&self, name: &str, more: &str) -> Hub {
        let (addr, internal) = (free_address(), free_address());
        let config = self.dir.path().join(format!("{name}.toml"));
        fs::write(&config, self.config(addr, internal, more)).expect("configuration");
        let log = self.dir.path().join(format!("{name}.log"));
        Hub { addr, internal, config, log, child: None }
    }
}

/// Rule 8, for every hub of every test: what would be of use to a thief is not in its log.
impl Drop for Hub {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        let log = self.log();
        // `eyJ` is how every JWT begins.
        for secret in [KEY, DEFAULT_TOKEN, "eyJ"] {
            assert!(!log.contains(secret), "{secret:?} is in {}:\n{log}", self.log.display());
        }
    }
}

/// About three hundred bytes, with a field that edits touch.
pub fn small_object(n: usize) -> String {
    format!(
        r#"{{"_id":"{n:024x}","status":"active_tendering","title":{{"uk_UA":"Лот <b>{n}</b>"}},"value":{{"amount":904.240,"currency":"UAH"}},"bids":null}}"#
    )
}

/// One hub.
pub struct Hub {
    pub addr: SocketAddr,
    pub internal: SocketAddr,
    pub config: PathBuf,
    log: PathBuf,
    child: Option<Child>,
}

impl Hub {
    /// Starts the process.
    pub fn spawn(&mut self) {
        let log = fs::OpenOptions::new().create(true).append(true).open(&self.log).expect("log");
        let child = Command::new(env!("CARGO_BIN_EXE_dzvin"))
            .args(["serve", "--config"])
            .arg(&self.config)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("log"))
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .expect("the hub starts");
        self.child = Some(child);
    }

    /// Waits for its end; answers its exit code.
    pub async fn ended(&mut self) -> Option<i32> {
        let mut child = self.child.take().expect("a running hub");
        let status = tokio::time::timeout(Duration::from_secs(30), child.wait()).await.expect("ends in time");
        status.expect("reaped").code()
    }

    /// Starts the process and waits until it is ready.
    pub async fn start(&mut self) {
        self.spawn();
        let log = self.log.clone();
        eventually(&format!("a ready hub; its log is {}", log.display()), async || {
            if let Ok(Some(status)) = self.child.as_mut().expect("started").try_wait() {
                panic!("the hub ended with {status}:\n{}", fs::read_to_string(&log).unwrap_or_default());
            }
            self.get("/readyz").await.is_some_and(|(status, _)| status == 200)
        })
        .await;
    }

    /// Kills it as the kernel would.
    pub async fn kill(&mut self) {
        let mut child = self.child.take().expect("a running hub");
        child.start_kill().expect("killed");
        child.wait().await.expect("reaped");
    }

    /// Asks it to stop; answers its exit code.
    pub async fn stop(&mut self) -> Option<i32> {
        self.signal("-TERM");
        let mut child = self.child.take().expect("a running hub");
        let status = tokio::time::timeout(Duration::from_secs(15), child.wait()).await.expect("stops in time");
        status.expect("reaped").code()
    }

    /// Changes its configuration file and lets it read it again.
    pub fn reload(&self, edit: impl FnOnce(String) -> String) {
        self.reconfigure(edit);
        self.signal("-HUP");
    }

    fn signal(&self, signal: &str) {
        let told = std::process::Command::new("kill").args([signal, &self.pid().to_string()]).status().expect("kill");
        assert!(told.success());
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().and_then(Child::id).expect("a running hub")
    }

    /// Asks the internal listener.
    pub async fn get(&self, path: &str) -> Option<(u16, String)> {
        let response = reqwest::get(format!("http://{}{path}", self.internal)).await.ok()?;
        Some((response.status().as_u16(), response.text().await.ok()?))
    }

    /// The value of a metric, summed over its labels; 0 when there is none.
    pub async fn metric(&self, name: &str) -> f64 {
        let (_, text) = self.get("/metrics").await.expect("metrics");
        let values = text
            .lines()
            .filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with('{') || rest.starts_with(' ')));
        values.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    /// Asks the API as a role; panics unless it is a success.
    pub async fn api(&self, role: &str, path: &str) -> serde_json::Value {
        let request = reqwest::Client::new().get(format!("http://{}{path}", self.addr)).bearer_auth(World::token(role));
        let response = request.send().await.expect("answered");
        let (status, text) = (response.status(), response.text().await.expect("read"));
        assert!(status.is_success(), "{path}: {status} {text}");
        serde_json::from_str(&text).expect("json")
    }

    /// Posts to the API as a role; answers the status and the text.
    pub async fn post(&self, role: &str, path: &str) -> (u16, String) {
        let request =
            reqwest::Client::new().post(format!("http://{}{path}", self.addr)).bearer_auth(World::token(role));
        let response = request.send().await.expect("answered");
        (response.status().as_u16(), response.text().await.expect("read"))
    }

    /// Changes its configuration file.
    pub fn reconfigure(&self, change: impl FnOnce(String) -> String) {
        let text = fs::read_to_string(&self.config).expect("configuration");
        fs::write(&self.config, change(text)).expect("configuration");
    }

    /// The most memory that it has had, in bytes.
    pub fn peak_memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("alive");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("VmHWM");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
    }

    /// Where it logs.
    pub fn log_file(&self) -> &std::path::Path {
        &self.log
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}
