//! The shipped nginx configuration, run by a real nginx before two hubs. Only what differs from place to place is replaced.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use dzvin::platform::config::Config;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};
use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines},
    net::TcpListener,
    process::{Child, ChildStdout},
    task::JoinHandle,
    time::timeout,
};
use tokio_tungstenite::{Connector, connect_async, connect_async_tls_with_config};

use crate::{
    spine::{caught_up, play},
    support::{
        eventually::{eventually, patience},
        hub::{Hub, World},
        node::Followers,
        ports::free_address,
    },
};

const PLACES: [&str; 5] = ["hubs.conf", "tls.conf", "plain.conf", "idle.conf", "limits.conf"];

fn shipped() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("nginx")
}

fn shipped_place(name: &str) -> String {
    fs::read_to_string(shipped().join("dzvin").join(name)).expect("shipped")
}

/// A folder as `/etc/nginx` is laid out, with a certificate of its own.
struct Prefix(TempDir);

impl Prefix {
    /// The shipped files, some replaced: `(name, text)`.
    fn new(replaced: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        fs::create_dir(dir.path().join("dzvin")).expect("made");
        let it = Self(dir);
        it.certificate();
        for name in PLACES {
            let text = replaced.iter().find(|(replaced, _)| *replaced == name).map(|(_, text)| (*text).to_owned());
            let text = text.unwrap_or_else(|| shipped_place(name));
            let here = it.0.path().join("dzvin").display().to_string();
            fs::write(it.0.path().join("dzvin").join(name), text.replace("/etc/nginx/dzvin", &here)).expect("written");
        }
        let main = format!(
            "user root;\npid {0}/pid;\ndaemon off;\nmaster_process off;\nerror_log {0}/error.log warn;\n\
             events {{ worker_connections 1024; }}\n\
             http {{\n access_log off;\n client_body_temp_path {0}/body;\n proxy_temp_path {0}/proxy;\n \
             fastcgi_temp_path {0}/f;\n uwsgi_temp_path {0}/u;\n scgi_temp_path {0}/s;\n include {1};\n}}\n",
            it.0.path().display(),
            shipped().join("dzvin.conf").display()
        );
        fs::write(it.0.path().join("nginx.conf"), main).expect("written");
        it
    }

    fn certificate(&self) {
        let made = Command::new("openssl")
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"])
            .args(["-subj", "/CN=dzvin.test", "-addext", "subjectAltName=IP:127.0.0.1"])
            // An authority of its own would not be taken as a server's certificate by everybody.
            .args(["-addext", "basicConstraints=critical,CA:FALSE"])
            .arg("-keyout")
            .arg(self.0.path().join("dzvin/tls.key"))
            .arg("-out")
            .arg(self.ca())
            .output()
            .expect("openssl is installed");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    }

    fn ca(&self) -> PathBuf {
        self.0.path().join("dzvin/tls.crt")
    }

    fn command(&self) -> Command {
        let mut command = Command::new("nginx");
        // No `-e`: Ubuntu 22.04's nginx does not know it. Until it has read its configuration nginx complains to stderr anyway.
        command.arg("-p").arg(self.0.path()).arg("-c").arg(self.0.path().join("nginx.conf"));
        command
    }
}

/// A running nginx before these hubs; it dies with this value.
pub(crate) struct Nginx {
    prefix: Prefix,
    _process: Child,
    addr: SocketAddr,
    plain: SocketAddr,
}

impl Nginx {
    pub(crate) async fn start(hubs: &[&Hub], more: &[(&str, &str)]) -> Self {
        let addresses: Vec<_> = hubs.iter().map(|hub| hub.addr).collect();
        Self::before(&addresses, more).await
    }

    /// The same before whoever listens there.
    async fn before(hubs: &[SocketAddr], more: &[(&str, &str)]) -> Self {
        let (addr, plain) = (free_address(), free_address());
        let shipped = shipped_place("hubs.conf");
        let of_one = shipped.lines().filter(|line| line.starts_with("server "));
        let servers: String = of_one
            .flat_map(|line| hubs.iter().map(move |hub| line.replace("127.0.0.1:8480", &hub.to_string()) + "\n"))
            .collect();
        let tls = shipped_place("tls.conf").replace("listen [::]:443 ssl http2 backlog=4096;\n", "");
        let tls = tls.replace("listen 443", &format!("listen {addr}"));
        let http = format!("listen {plain};\nserver_name _;\n");
        let mut replaced = vec![("hubs.conf", &*servers), ("tls.conf", &*tls), ("plain.conf", &*http)];
        replaced.extend(more);
        let prefix = Prefix::new(&replaced);
        let process = tokio::process::Command::from(prefix.command())
            .stdin(Stdio::null())
            .stderr(fs::File::create(prefix.0.path().join("stderr")).expect("file"))
            .kill_on_drop(true)
            .spawn()
            .expect("nginx is installed");
        let nginx = Self { prefix, _process: process, addr, plain };
        eventually("nginx accepts", async || tokio::net::TcpStream::connect(addr).await.is_ok()).await;
        nginx
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("https://{}{path}", self.addr)
    }

    /// The certificate that it shows.
    pub(crate) fn ca(&self) -> PathBuf {
        self.prefix.ca()
    }

    /// For WebSockets: trusts this certificate.
    pub(crate) fn trust(&self) -> Connector {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.ca()).expect("a certificate")).expect("trusted");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = config.expect("versions").with_root_certificates(roots).with_no_client_auth();
        Connector::Rustls(Arc::new(config))
    }

    pub(crate) fn client(&self) -> reqwest::Client {
        let pem = fs::read(self.prefix.ca()).expect("certificate");
        let known = reqwest::Certificate::from_pem(&pem).expect("certificate");
        let client = reqwest::Client::builder().tls_danger_accept_invalid_certs(true).tls_certs_merge([known]);
        client.redirect(reqwest::redirect::Policy::none()).build().expect("client")
    }
}

/// A quiet client on Node, `tests/clients/idle.mjs`.
struct Idle {
    _child: Child,
    output: Lines<BufReader<ChildStdout>>,
}

impl Idle {
    fn start(nginx: &Nginx) -> Self {
        let mut child = tokio::process::Command::new("node")
            .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients"))
            .env("NODE_EXTRA_CA_CERTS", nginx.prefix.ca())
            .args(["idle.mjs", &format!("wss://{}/connection/websocket", nginx.addr), &World::token("viewer")])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("node starts");
        let output = BufReader::new(child.stdout.take().expect("stdout")).lines();
        Self { _child: child, output }
    }

    async fn hear(&mut self) -> Value {
        let line = timeout(patience(), self.output.next_line()).await.expect("heard in time").expect("read");
        serde_json::from_str(&line.expect("a line")).expect("json")
    }
}

#[test]
fn the_shipped_files_are_whole() {
    for replaced in [vec![], vec![("limits.conf", shipped_place("limits.conf").replace("#limit_", "limit_"))]] {
        let replaced: Vec<_> = replaced.iter().map(|(name, text)| (*name, text.as_str())).collect();
        let prefix = Prefix::new(&replaced);
        let tested = prefix.command().arg("-t").output().expect("nginx is installed");
        let said = String::from_utf8_lossy(&tested.stderr);
        assert!(tested.status.success() && said.contains("test is successful"), "{said}");
    }
}

#[test]
fn the_shipped_times_fit_the_default_configuration() {
    let text = shipped_place("idle.conf");
    let idle = text.lines().find_map(|line| line.strip_prefix("proxy_read_timeout ")?.strip_suffix("s;")?.parse().ok());
    let channels = Config::default().channels;
    assert!(Duration::from_secs(idle.expect("seconds")) > channels.ping + channels.pong, "{idle:?}");
    let body = fs::read_to_string(shipped().join("dzvin.conf")).expect("shipped");
    assert!(body.contains("client_max_body_size 1m;") && Config::default().http.max_body == 1 << 20);
}

#[tokio::test]
async fn clients_come_back_through_the_other_hub() {
    let world = World::new(50, true).await;
    let (mut a, b) = (world.hub("a").await, world.hub("b").await);
    let nginx = Nginx::start(&[&a, &b], &[]).await;
    caught_up(&world, &b).await;
    let mut followers = Followers::start_trusting(&nginx.url(""), 6, &nginx.prefix.ca()).await;
    let open = async |hub: &Hub| hub.metric("dzvin_sessions").await;
    // The balance is by open connections: both hubs have some.
    assert!(open(&a).await >= 1.0 && open(&b).await >= 1.0, "{} {}", open(&a).await, open(&b).await);
    let start = followers.progress().await[0];
    play(&world, 200);
    followers.reach("changes", start + 50).await;
    a.kill().await;
    eventually("all are at the other hub", async || open(&b).await >= 6.0).await;
    let now = followers.progress().await.into_iter().max().expect("some");
    followers.reach("changes at the other hub", now + 50).await;
    // REST does not notice that a hub is gone either.
    for _ in 0..4 {
        let asked = nginx.client().get(nginx.url("/api/v1/kinds")).bearer_auth(World::token("viewer"));
        assert_eq!(asked.send().await.expect("answered").status(), 200);
    }
    play(&world, 0);
    caught_up(&world, &b).await;
    let report = followers.finish().await;
    println!("{report}");
    for key in ["lost", "doubled", "behind", "differences"] {
        assert_eq!(report[key], 0, "{key} in {report}");
    }
    assert!(report["recovered"].as_u64() > Some(0), "some came back: {report}");
}

#[tokio::test]
async fn http_passes_with_limits_and_headers() {
    let world = World::new(50, true).await;
    let mut a = world.hub("a").await;
    let nginx = Nginx::start(&[&a], &[]).await;
    let client = nginx.client();
    let list = nginx.url("/api/v1/entities/procedure?limit=50");
    caught_up(&world, &a).await;
    let asked = client.get(&list).bearer_auth(World::token("viewer")).header("accept-encoding", "gzip");
    let answer = asked.send().await.expect("answered");
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["content-encoding"], "gzip");
    assert_eq!(answer.headers()["x-content-type-options"], "nosniff");
    assert!(answer.headers().contains_key("strict-transport-security"));

    let redirect = client.get(format!("http://{}/console/?x=1", nginx.plain)).send().await.expect("answered");
    assert_eq!(
        (redirect.status().as_u16(), &redirect.headers()["location"]),
        (308, &"https://127.0.0.1/console/?x=1".parse().expect("value"))
    );

    let problem = async |answer: reqwest::Response| {
        assert_eq!(answer.headers()["content-type"], "application/problem+json");
        let status = answer.status().as_u16();
        let body: Value = serde_json::from_str(&answer.text().await.expect("read")).expect("json");
        assert_eq!(body["status"], status);
        (status, body["code"].as_str().expect("a code").to_owned())
    };
    let resume = nginx.url("/api/v1/mirrors/procedure/resume");
    let large = client.post(&resume).bearer_auth(World::token("operator")).body(vec![b'x'; (1 << 20) + 1]);
    assert_eq!(problem(large.send().await.expect("answered")).await, (413, "body_too_large".to_owned()));
    let fits = client.post(&resume).bearer_auth(World::token("operator")).body(vec![b'x'; 1 << 20]);
    assert_eq!(fits.send().await.expect("answered").status(), 202);
    // The internal listener's paths are nothing here.
    for path in ["/metrics", "/readyz", "/healthz"] {
        let answer = client.get(nginx.url(path)).send().await.expect("answered");
        assert_eq!(problem(answer).await, (404, "not_found".to_owned()), "{path}");
    }
    a.kill().await;
    let answer = client.get(&list).send().await.expect("answered");
    assert_eq!(problem(answer).await, (503, "no_hub".to_owned()));
}

/// Everything scaled down by one factor: what the shipped time keeps, a time below the ping cuts.
#[tokio::test]
async fn a_silent_connection_lives_because_of_the_shipped_time() {
    const SCALE: u32 = 40;
    let world = World::new(0, false).await;
    let default = Config::default().channels;
    let ping = default.ping / SCALE;
    // As long as may be: the pong's time is not what is tested, and the machine may be slow.
    let (ping_ms, pong_ms) = (ping.as_millis(), ping.as_millis() - 1);
    let hub = world.hub_with("a", &format!("[channels]\nping = \"{ping_ms}ms\"\npong = \"{pong_ms}ms\"\n")).await;
    let idle = shipped_place("idle.conf");
    let seconds = idle.lines().find_map(|line| line.strip_prefix("proxy_read_timeout ")?.strip_suffix("s;"));
    let scaled = seconds.expect("seconds").parse::<u32>().expect("a number") * 1000 / SCALE;
    let with = |ms: u32| format!("proxy_read_timeout {ms}ms;\n");

    let shipped = Nginx::start(&[&hub], &[("idle.conf", &with(scaled))]).await;
    let mut client = Idle::start(&shipped);
    assert_eq!(client.hear().await["event"], "reply");
    // Well past both times.
    for n in 0..6 {
        assert_eq!(client.hear().await["event"], "ping", "ping {n}");
    }

    // The first ping comes after half its interval at the earliest.
    let short = Nginx::start(&[&hub], &[("idle.conf", &with(ping.as_millis() as u32 / 4))]).await;
    let mut client = Idle::start(&short);
    // On a slow machine even the answer to `connect` may come too late.
    loop {
        let heard = client.hear().await;
        assert_ne!(heard["event"], "ping", "a time below the ping cuts before it");
        if heard["event"] == "closed" {
            break;
        }
    }
}

/// What listens in place of a hub: reads one request of each connection, says the same to each, and ends it.
struct Double {
    addr: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
    answering: JoinHandle<()>,
}

impl Double {
    async fn start(answer: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let (addr, asked) = (listener.local_addr().expect("address"), Arc::<Mutex<Vec<String>>>::default());
        let heard = Arc::clone(&asked);
        let answering = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = Vec::new();
                while !request.ends_with(b"END") && stream.read_buf(&mut request).await.is_ok_and(|len| len > 0) {}
                let line = request.split(|byte| *byte == b'\r').next().unwrap_or_default();
                heard.lock().expect("heard").push(String::from_utf8_lossy(line).into_owned());
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        Self { addr, asked, answering }
    }

    fn asked(&self, what: &str) -> usize {
        self.asked.lock().expect("asked").iter().filter(|line| line.starts_with(what)).count()
    }
}

impl Drop for Double {
    fn drop(&mut self) {
        self.answering.abort();
    }
}

/// A publication that one hub has read and another is asked to make as well is two.
#[tokio::test]
async fn no_post_is_repeated() {
    const SILENT: &str = "";
    const FULL: &str = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    for answer in [SILENT, FULL] {
        let (one, two) = (Double::start(answer).await, Double::start(answer).await);
        let nginx = Nginx::before(&[one.addr, two.addr], &[]).await;
        let client = nginx.client();
        let times = |what: &str| one.asked(what) + two.asked(what);
        for path in ["/api/publish", "/connection/http_stream", "/connection/sse", "/emulation"] {
            let answer = client.post(nginx.url(path)).body("END").send().await.expect("answered");
            assert_eq!(answer.status(), 503, "{path}");
            assert_eq!(times(&format!("POST {path} ")), 1, "{path}");
        }
        // What only asks may be asked of the next one, and shows that this test would see it.
        let stream = client.get(nginx.url("/connection/sse")).body("END").send().await.expect("answered");
        assert_eq!(stream.status(), 503);
        assert!(times("GET /connection/sse ") > 1);
    }
}

/// A full hub sends clients on, which is a failure in nginx's eyes, and is asked for everything else as before.
#[tokio::test]
async fn a_hub_that_is_full_of_clients_answers_requests() {
    const CLIENTS: usize = 8;
    let world = World::new(0, true).await;
    let full = world.hub_with("a", "[channels]\nmax_sessions = 1\n").await;
    let other = world.hub("b").await;
    let (_only, _) = connect_async(format!("ws://{}/connection/websocket", full.addr)).await.expect("a session");
    let nginx = Nginx::start(&[&full, &other], &[]).await;
    let socket = nginx.url("/connection/websocket").replace("https", "wss");
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        let connecting = connect_async_tls_with_config(&socket, None, false, Some(nginx.trust()));
        clients.push(connecting.await.expect("the other hub has room"));
    }
    assert!(full.metric("dzvin_admission_refused_total").await >= 2.0, "nginx has met it");
    let asked = async |hub: &Hub| {
        let (_, text) = hub.get("/metrics").await.expect("metrics");
        let lines = text.lines().filter(|line| line.starts_with("dzvin_http_requests_total") && line.contains("kinds"));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>()
    };
    let client = nginx.client();
    for _ in 0..CLIENTS {
        let asking = client.get(nginx.url("/api/v1/kinds")).bearer_auth(World::token("viewer"));
        assert_eq!(asking.send().await.expect("answered").status(), 200);
    }
    let (at_full, at_other) = (asked(&full).await, asked(&other).await);
    assert_eq!(at_full + at_other, CLIENTS as f64);
    assert!(at_full > 0.0, "the full hub is held for dead");
}
