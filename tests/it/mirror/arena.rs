//! One hub with many Mirrors, each on an upstream of its own, so that faults run beside each other without meeting.

use std::{
    collections::BTreeMap,
    fmt::Write,
    fs,
    io::{Read, Seek, SeekFrom},
    path::PathBuf,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use dzvin_sandbox::{
    ActiveFault, CollectionConfig, Control, DEFAULT_TOKEN, Knobs, Sandbox, SandboxConfig, SandboxHandle,
};
use serde_json::Value;
use sqlx::{PgPool, postgres::PgPoolOptions};

use crate::support::{
    eventually::patience,
    hub::{Hub, World},
};

use super::flow::{Stock, small};

/// How often something is looked at while it is waited for.
const LOOK: Duration = Duration::from_millis(50);

/// What one Mirror and its upstream are like.
pub struct Setting {
    /// Of the mirror, its kind and the upstream's collection.
    pub name: &'static str,
    pub full: bool,
    /// More lines of the dialect.
    pub dialect: &'static str,
    /// `reconcile = ...`
    pub reconcile: String,
    pub knobs: fn(&mut Knobs),
    /// Faults that are there from the beginning.
    pub at_start: Vec<ActiveFault>,
    /// What its objects are like.
    pub stock: Stock,
    /// Objects that are there from the beginning, and the date that they share, if they do.
    pub objects: usize,
    pub same_date: Option<&'static str>,
}

impl Setting {
    /// The full protocol heals by its stream alone: a comparison by the clock would hide what the stream loses.
    pub fn new(name: &'static str, full: bool) -> Self {
        let interval = if full { "0s" } else { "2s" };
        Self {
            name,
            full,
            dialect: "",
            reconcile: format!(r#"{{ interval = "{interval}", pause = "5ms", page = 20 }}"#),
            knobs: |_| {},
            at_start: Vec::new(),
            stock: small,
            objects: 30,
            same_date: None,
        }
    }
}

/// A change of a link's state, as the hub has logged it.
#[derive(Debug, Clone)]
pub struct Moved {
    pub state: String,
    pub reason: String,
}

/// The hub, and what it has said.
pub struct Arena {
    pub hub: Hub,
    _world: World,
    pub pool: PgPool,
    moves: Arc<Mutex<BTreeMap<String, Vec<Moved>>>>,
    reader: tokio::task::JoinHandle<()>,
}

/// One Mirror of the arena.
#[derive(Clone)]
pub struct Site {
    pub name: &'static str,
    pub full: bool,
    pub arena: Arc<Arena>,
    pub control: Control,
    /// The file that holds the token.
    pub token: PathBuf,
}

impl Arena {
    /// Starts the upstreams and the hub.
    pub async fn start(settings: &[Setting]) -> (Arc<Self>, Vec<Site>, Vec<SandboxHandle>) {
        let ours = SandboxConfig { knobs: Knobs::unlimited(), ..SandboxConfig::default() };
        let mut world = World::on(Sandbox::start(ours).await.expect("sandbox"), false).await;
        // Nobody takes over here; a busy machine must not look like a dead one.
        world.lease_ttl = "10s";
        // The hub's own restraint is not what is tested here.
        world.mirrors = "[cdb]\nper_second = 500\nper_minute = 30000\nburst = 500\nconnections = 100\n".to_owned();
        let mut upstreams = Vec::new();
        for setting in settings {
            let upstream = upstream(setting).await;
            let token = world.dir.path().join(format!("{}.token", setting.name));
            fs::write(&token, DEFAULT_TOKEN).expect("token");
            let Setting { name, dialect, reconcile, .. } = setting;
            let protocol = if setting.full { "full" } else { "simple" };
            write!(
                world.mirrors,
                "[[mirrors]]\nname = \"{name}\"\nkind = \"{name}\"\nurl = \"{}\"\napi_url = \"{}\"\n\
                 token_file = \"{}\"\nplatform_version = \"1.0\"\nreconcile = {reconcile}\n\
                 [mirrors.dialect]\nprotocol = \"{protocol}\"\n{dialect}\n",
                upstream.mirror_url(name),
                upstream.url(),
                token.display(),
            )
            .expect("a string");
            upstreams.push((upstream, token));
        }
        let hub = world.hub("arena").await;
        let pool =
            PgPoolOptions::new().max_connections(4).connect_with(world.db.connect_options()).await.expect("pool");
        let moves = Arc::default();
        let reader = tokio::spawn(read_log(hub.log_file().to_owned(), Arc::clone(&moves)));
        let arena = Arc::new(Self { hub, _world: world, pool, moves, reader });
        let site = |(setting, (upstream, token)): (&Setting, &(SandboxHandle, PathBuf))| Site {
            name: setting.name,
            full: setting.full,
            arena: Arc::clone(&arena),
            control: upstream.control(),
            token: token.clone(),
        };
        let sites = settings.iter().zip(&upstreams).map(site).collect();
        (arena, sites, upstreams.into_iter().map(|(upstream, _)| upstream).collect())
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

async fn upstream(setting: &Setting) -> SandboxHandle {
    let mut knobs = Knobs::unlimited();
    knobs.mirror.noop_ms = 1_000;
    (setting.knobs)(&mut knobs);
    let collections = vec![CollectionConfig::new(setting.name, "procedures")];
    let config = SandboxConfig { collections, knobs, ..SandboxConfig::default() };
    let upstream = Sandbox::start(config).await.expect("sandbox");
    let control = upstream.control();
    for n in 0..setting.objects {
        control.put_dated(setting.name, &(setting.stock)(n).1, setting.same_date).expect("an object");
    }
    for fault in &setting.at_start {
        control.fault_with(fault.clone());
    }
    upstream
}

/// Collects the changes of state from the log as it grows.
async fn read_log(path: PathBuf, moves: Arc<Mutex<BTreeMap<String, Vec<Moved>>>>) {
    let (mut at, mut rest) = (0, Vec::new());
    loop {
        let mut file = fs::File::open(&path).expect("log");
        file.seek(SeekFrom::Start(at)).expect("log");
        at += file.read_to_end(&mut rest).expect("log") as u64;
        let whole = rest.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        for line in rest.drain(..whole).collect::<Vec<u8>>().split(|byte| *byte == b'\n') {
            let Ok(Value::Object(line)) = serde_json::from_slice::<Value>(line) else { continue };
            let text = |key: &str| line.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
            assert!(!text("message").contains("panic"), "{line:?}");
            if text("message") == "the link's state changed" {
                let moved = Moved { state: text("state"), reason: text("reason") };
                moves.lock().expect("moves").entry(text("mirror")).or_default().push(moved);
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}

impl Site {
    /// What the link has been, from the first.
    pub fn moves(&self) -> Vec<Moved> {
        self.arena.moves.lock().expect("moves").get(self.name).cloned().unwrap_or_default()
    }

    /// How often the link was in a state for a reason that has this text in it.
    pub fn seen(&self, state: &str, reason: &str) -> usize {
        self.moves().iter().filter(|moved| moved.state == state && moved.reason.contains(reason)).count()
    }

    /// Waits until the condition gives a value; panics with what it last said instead.
    pub async fn until<T>(&self, what: &str, mut look: impl AsyncFnMut() -> Result<T, String>) -> T {
        let begun = Instant::now();
        loop {
            let why = match look().await {
                Ok(value) => return value,
                Err(why) => why,
            };
            if begun.elapsed() > patience() * 3 {
                let log = self.arena.hub.log();
                let ours: Vec<&str> = log.lines().filter(|line| line.contains(self.name)).collect();
                let last = ours[ours.len().saturating_sub(30)..].join("\n");
                let stats = format!("{:?}", self.control.stats());
                panic!("{}: never happened: {what}: {why:.1200}\n{stats:.900}\n{last}", self.name);
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// The same for a yes.
    pub async fn when(&self, what: &str, mut holds: impl FnMut() -> bool) {
        self.until(what, async || if holds() { Ok(()) } else { Err("not yet".to_owned()) }).await;
    }

    /// Waits until the link is in this state.
    pub async fn is(&self, state: &str) {
        self.until(state, async || {
            let now = self.moves().last().map(|moved| moved.state.clone()).unwrap_or_default();
            if now == state { Ok(()) } else { Err(now) }
        })
        .await;
    }

    /// Mirror connections ever made.
    pub fn connections(&self) -> u64 {
        self.control.stats().collection(self.name).connections
    }

    /// Handshakes and requests that were answered with this status.
    pub fn answered(&self, status: u16) -> u64 {
        let status = status.to_string();
        self.control.stats().requests.iter().filter(|(label, _)| label.starts_with(&status)).map(|(_, n)| n).sum()
    }

    /// A metric of this Mirror, summed over other labels.
    pub async fn metric(&self, name: &str) -> f64 {
        let (_, text) = self.arena.hub.get("/metrics").await.expect("metrics");
        let ours = format!("mirror=\"{}\"", self.name);
        let lines = text.lines().filter(|line| line.starts_with(&format!("{name}{{")) && line.contains(&ours));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    /// What an operator does.
    pub async fn resume(&self) {
        let (status, said) = self.arena.hub.post("operator", &format!("/api/v1/mirrors/{}/resume", self.name)).await;
        assert_eq!(status, 202, "{said}");
    }
}
