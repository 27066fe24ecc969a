//! The real binary as an operator meets it: one clear line and a code for each failure, the internal listener, and what
//! goes on while Redis or PostgreSQL is away (the table of `docs/OPERATIONS.md`).

use std::{
    collections::BTreeSet,
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::{Duration, Instant},
};

use serde_json::Value;
use sqlx::Connection;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    spine::{caught_up, play},
    support::{
        eventually::{eventually, patience},
        front::Front,
        hub::{Hub, World},
        node::Followers,
        postgres::TestDb,
        proxy::{Proxy, Upstream},
    },
};

const SECRETS: [&str; 3] = ["pg-pass-5up3r", "redis-pass-5up3r", "key-of-thirty-two-bytes-5up3r-and-more"];

/// Runs the program with a configuration; only what is given here is in its environment.
fn dzvin(dir: &TempDir, args: &[&str], config: &str, env: &[(&str, &str)]) -> Output {
    let file = dir.path().join("dzvin.toml");
    fs::write(&file, config).expect("written");
    let mut command = Command::new(env!("CARGO_BIN_EXE_dzvin"));
    command.args(args).current_dir(dir.path()).envs(env.iter().copied());
    command.output().expect("the program starts")
}

/// A configuration that would serve on free ports; `more` begins with further keys of `[http]`.
fn config(database: &str, more: &str) -> String {
    format!(
        "[log]\nlevel = \"off\"\n[database]\nurl = \"{database}\"\nacquire_timeout = \"2s\"\n\
         [[identity.keys]]\nid = \"a\"\nsecret = \"{}\"\n\
         [http]\nlisten = \"127.0.0.1:0\"\ninternal_listen = \"127.0.0.1:0\"\n{more}\n",
        SECRETS[2]
    )
}

/// The one line of a failure.
fn failure(output: &Output, code: i32) -> String {
    let (said, printed) = (String::from_utf8_lossy(&output.stderr), String::from_utf8_lossy(&output.stdout));
    assert_eq!(output.status.code(), Some(code), "{said}{printed}");
    let lines: Vec<&str> = said.lines().collect();
    assert!(lines.len() == 1 && lines[0].starts_with("dzvin: "), "one line: {said}");
    lines[0].to_owned()
}

#[test]
fn a_wrong_configuration_is_one_line_and_78() {
    let dir = tempfile::tempdir().expect("a folder");
    let good = "postgres://127.0.0.1:1/dzvin";
    for (config, env, words) in [
        (config(good, "lisen = \"127.0.0.1:1\""), None, vec!["lisen", "listen"]),
        (config(good, "[channels]\nping = \"soon\""), None, vec!["channels.ping", "duration"]),
        (config(good, "[channels]\npong = \"1h\""), None, vec!["channels.pong", "channels.ping"]),
        (config(good, "[[["), None, vec!["dzvin.toml"]),
        (
            config(good, ""),
            Some(("DZVIN__HTTP__LISTNE", "127.0.0.1:1")),
            vec!["http.listne", "did you mean listen", "environment"],
        ),
        (config("mysql://127.0.0.1/x", ""), None, vec!["database.url", "postgres://"]),
        (
            "[[identity.keys]]\nid = \"a\"\nsecret = \"0123456789abcdef0123456789abcdef\"".to_owned(),
            None,
            vec!["database.url"],
        ),
        (format!("[database]\nurl = \"{good}\""), None, vec!["identity.keys"]),
    ] {
        let line = failure(&dzvin(&dir, &["serve"], &config, env.as_slice()), 78);
        for word in words {
            assert!(line.contains(word), "{word} is not in: {line}");
        }
        assert!(!line.contains(SECRETS[2]), "{line}");
    }
    let said = dzvin(&dir, &["sevre"], "", &[]);
    assert_eq!(said.status.code(), Some(64));
}

#[tokio::test]
async fn what_cannot_be_reached_is_one_line_and_its_code() {
    let dir = tempfile::tempdir().expect("a folder");
    let line = failure(&dzvin(&dir, &["serve"], &config("postgres://127.0.0.1:1/dzvin", ""), &[]), 69);
    assert!(line.contains("PostgreSQL"), "{line}");

    let db = TestDb::new().await;
    let line = failure(&dzvin(&dir, &["serve"], &config(&db.url(), "[redis]\nurl = \"redis://127.0.0.1:1\""), &[]), 69);
    assert!(line.contains("redis"), "{line}");

    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("address").port();
    for key in ["listen", "internal_listen"] {
        let whole = config(&db.url(), "")
            .replace(&format!("\n{key} = \"127.0.0.1:0\""), &format!("\n{key} = \"127.0.0.1:{port}\""));
        let line = failure(&dzvin(&dir, &["serve"], &whole, &[]), 71);
        assert!(line.contains(&port.to_string()) && line.contains(&format!("http.{key}")), "{line}");
    }
}

#[tokio::test]
async fn a_schema_that_is_behind_names_the_command_that_helps() {
    let (dir, db) = (tempfile::tempdir().expect("a folder"), TestDb::new().await);
    let mut raw = db.raw().await;
    sqlx::raw_sql("DROP SCHEMA public CASCADE; CREATE SCHEMA public").execute(&mut raw).await.expect("emptied");
    raw.close().await.expect("closed");
    let whole = config(&db.url(), "");
    let line = failure(&dzvin(&dir, &["serve"], &whole, &[]), 69);
    assert!(line.contains("dzvin migrate"), "{line}");
    for _ in 0..2 {
        let migrated = dzvin(&dir, &["migrate"], &whole, &[]);
        assert!(migrated.status.success(), "{}", String::from_utf8_lossy(&migrated.stderr));
    }
    let checked = dzvin(&dir, &["check"], &whole, &[]);
    let printed = String::from_utf8_lossy(&checked.stdout);
    assert!(checked.status.success() && printed.contains("the schema is up to date"), "{printed}");

    // The direct address is tried for what it is for.
    for (direct, code, words) in [
        (db.url(), 0, "ok     database.direct_url: LISTEN works"),
        ("postgres://u:pg-pass-5up3r@127.0.0.1:1/x".to_owned(), 69, "WRONG  database.direct_url"),
    ] {
        let whole = whole.replace("acquire_timeout", &format!("direct_url = \"{direct}\"\nacquire_timeout"));
        let checked = dzvin(&dir, &["check"], &whole, &[]);
        let printed = String::from_utf8_lossy(&checked.stdout);
        assert!(checked.status.code() == Some(code) && printed.contains(words), "{printed}");
        assert!(!printed.contains(SECRETS[0]), "{printed}");
    }
}

#[test]
fn check_masks_secrets_and_says_what_is_wrong() {
    let dir = tempfile::tempdir().expect("a folder");
    let database = format!("postgres://dzvin:{}@127.0.0.1:1/dzvin", SECRETS[0]);
    let whole = config(&database, &format!("[redis]\nurl = \"redis://:{}@127.0.0.1:1\"", SECRETS[1]));
    let output = dzvin(&dir, &["check"], &whole, &[]);
    let line = failure(&output, 69);
    assert!(line.contains("2 of the checks"), "{line}");
    let printed = String::from_utf8_lossy(&output.stdout);
    for secret in SECRETS {
        assert!(!printed.contains(secret) && !line.contains(secret), "{secret} is in\n{printed}");
    }
    let wrong: Vec<&str> = printed.lines().filter(|line| line.starts_with("WRONG")).collect();
    assert!(wrong.len() == 2 && wrong[0].contains("database") && wrong[1].contains("redis"), "{printed}");
    assert!(printed.contains("retention_days = 30"), "defaults are in force: {printed}");
}

#[tokio::test]
async fn a_printed_token_opens_what_its_role_may() {
    let world = World::new(0, false).await;
    let hub = world.hub("a").await;
    let file = world.dir.path().join("a.toml").display().to_string();
    let run = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dzvin"));
        command.args(["token", "--config", &file, "--sub", "olha"]).args(args).output().expect("starts")
    };
    assert!(failure(&run(&["--role", "king"]), 64).contains("operator"), "the known roles are named");
    let viewer = run(&["--role", "viewer"]);
    let token = String::from_utf8(viewer.stdout).expect("text").trim().to_owned();
    let ask = async |method: reqwest::Method, path: &str| {
        let request = reqwest::Client::new().request(method, format!("http://{}{path}", hub.addr)).bearer_auth(&token);
        request.send().await.expect("answered").status().as_u16()
    };
    assert_eq!(ask(reqwest::Method::GET, "/api/v1/mirrors").await, 200);
    assert_eq!(ask(reqwest::Method::POST, "/api/v1/mirrors/procedure/resume").await, 403);
}

#[tokio::test]
async fn operators_paths_are_on_the_internal_listener_alone() {
    let world = World::new(5, false).await;
    let hub = world.hub("a").await;
    for path in ["/healthz", "/readyz", "/metrics"] {
        assert_eq!(hub.get(path).await.expect("answered").0, 200, "{path}");
        let outside = reqwest::get(format!("http://{}{path}", hub.addr)).await.expect("answered");
        assert_eq!(outside.status(), 404, "{path}");
    }
    for path in ["/api/v1/kinds", "/connection/websocket", "/console/"] {
        assert_eq!(hub.get(path).await.expect("answered").0, 404, "{path}");
    }
}

/// A dependency that hangs keeps a node from taking traffic, not from saying why.
#[tokio::test]
async fn a_node_that_is_starting_says_so() {
    let world = World::new(0, false).await;
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let redis = format!("[redis]\nurl = \"redis://{}\"\n", silent.local_addr().expect("address"));
    let mut hub = world.unstarted("a");
    hub.reconfigure(|text| text + &redis);
    hub.spawn();
    let body = eventually("it answers", async || hub.get("/readyz").await).await;
    assert_eq!(body, (503, r#"{"checks":{},"status":"starting"}"#.to_owned()));
    assert_eq!(hub.get("/healthz").await.expect("answered").0, 200);
    assert_eq!(hub.ended().await, Some(69), "{}", hub.log());
}

fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

#[tokio::test]
async fn every_metric_is_in_the_manual() {
    let world = World::new(5, true).await;
    let hub = world.hub("a").await;
    let manual = fs::read_to_string(root("docs/METRICS.md")).expect("the manual");
    let known: BTreeSet<&str> = manual.split('`').skip(1).step_by(2).collect();
    let (_, scrape) = hub.get("/metrics").await.expect("metrics");
    let names: BTreeSet<&str> = scrape.lines().filter_map(|l| l.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    assert!(names.len() > 60, "{names:?}");
    let missing: Vec<_> = names.difference(&known).collect();
    assert!(missing.is_empty(), "not in docs/METRICS.md: {missing:?}");
    // Families with labels appear with their first sample; whatever is in neither place was renamed or removed.
    let registered = registered_metrics();
    let gone = known.iter().filter(|n| n.starts_with("dzvin_") && !n.contains('{') && !names.contains(*n));
    let gone: Vec<_> = gone.filter(|n| !registered.iter().any(|suffix| n.ends_with(suffix))).collect();
    assert!(gone.is_empty(), "in docs/METRICS.md, but not in the program: {gone:?}");
}

/// Every Rust file of a folder, tests cut off.
fn sources(folder: &str) -> Vec<String> {
    let (mut texts, mut folders) = (Vec::new(), vec![root(folder)]);
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(folder).expect("readable").flatten().map(|entry| entry.path()) {
            if path.is_dir() {
                folders.push(path);
            } else {
                let text = fs::read_to_string(path).unwrap_or_default();
                texts.push(text.split("#[cfg(test)]").next().unwrap_or_default().to_owned());
            }
        }
    }
    texts
}

/// The last parts of the names of metrics, as they are registered.
fn registered_metrics() -> BTreeSet<String> {
    let all = sources("src").into_iter().chain(sources("actors/src"));
    all.flat_map(|text| {
        let names = text.split(".register(").skip(1).filter_map(|rest| rest.split('"').nth(1));
        names.map(|name| format!("_{name}")).collect::<Vec<_>>()
    })
    .collect()
}

/// The codes of problems in the source: the first text of each constructor's arguments.
fn problem_codes() -> BTreeSet<String> {
    let mut codes = BTreeSet::new();
    let constructors = [
        "bad_request(",
        "not_found(",
        "conflict(",
        "unprocessable(",
        "unavailable(",
        "Problem::new(",
        "Self::new(StatusCode::",
    ];
    for text in sources("src") {
        for rest in constructors.iter().flat_map(|constructor| text.split(constructor).skip(1)) {
            let arguments: String = rest.chars().take(120).collect();
            let code = arguments.split('"').nth(1).unwrap_or_default();
            if code.contains('_') && code.bytes().all(|b| b.is_ascii_lowercase() || b == b'_') {
                codes.insert(code.to_owned());
            }
        }
    }
    codes
}

#[test]
fn every_problem_code_is_in_the_manual() {
    let manual = fs::read_to_string(root("docs/API.md")).expect("the manual");
    let codes = problem_codes();
    assert!(codes.len() > 10 && codes.contains("unknown_kind"), "{codes:?}");
    let missing: Vec<_> = codes.iter().filter(|code| !manual.contains(&format!("`{code}`"))).collect();
    assert!(missing.is_empty(), "not in docs/API.md: {missing:?}");
}

/// There is no container engine where the tests run: at least the files name only what exists, and are well formed.
#[test]
fn docker_files_name_what_exists() {
    let dockerfile = fs::read_to_string(root("docker/Dockerfile")).expect("Dockerfile");
    let copied = dockerfile.lines().filter(|line| line.starts_with("COPY ") && !line.contains("--from"));
    let mut count = 0;
    for line in copied {
        let words: Vec<&str> = line.split_whitespace().skip(1).filter(|word| !word.starts_with("--")).collect();
        for source in &words[..words.len() - 1] {
            count += 1;
            assert!(root(source).exists(), "{line}: {source}");
        }
    }
    assert!(count > 5 && dockerfile.lines().any(|line| line.starts_with("USER ")), "{dockerfile}");
    let script = "import sys, yaml, json; print(json.dumps(yaml.safe_load(open(sys.argv[1]))))";
    let read = Command::new("python3").args(["-c", script]).arg(root("docker/compose.yaml")).output().expect("python3");
    assert!(read.status.success(), "{} (python3-yaml is needed)", String::from_utf8_lossy(&read.stderr));
    let compose: Value = serde_json::from_slice(&read.stdout).expect("yaml");
    let services = compose["services"].as_object().expect("services");
    for service in services.values() {
        for mount in service["volumes"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            let source = mount.split(':').next().expect("a source");
            // Keys and certificates are made by whoever starts it.
            let ours = source.starts_with('.') && !source.starts_with("./local/");
            assert!(!ours || root("docker").join(source).exists(), "{mount}");
        }
        for needed in service["depends_on"].as_object().into_iter().flat_map(|needed| needed.keys()) {
            assert!(services.contains_key(needed), "{needed}");
        }
    }
}

/// The file that compose mounts is one that the program takes, secrets from files included.
#[test]
fn the_configuration_of_compose_is_taken() {
    let dir = tempfile::tempdir().expect("a folder");
    let text = fs::read_to_string(root("docker/hub.toml")).expect("hub.toml");
    for (name, secret) in [("database_url", "postgres://dzvin:x@postgres:5432/dzvin"), ("key", SECRETS[2])] {
        let mounted = format!("/run/secrets/{name}");
        assert!(text.contains(&mounted), "{mounted}");
        fs::write(dir.path().join(name), secret).expect("written");
    }
    let file = dir.path().join("hub.toml");
    fs::write(&file, text.replace("/run/secrets", &dir.path().display().to_string())).expect("written");
    let config = dzvin::platform::config::load(Some(&file)).expect("taken");
    assert!(config.database.url.is_some() && config.identity.keys.len() == 1 && config.mirrors.len() == 1);
    dzvin::identity::verifier(&config.identity).expect("keys");
    let dialect: dzvin_protocols::mirror::Dialect = config.mirrors[0].dialect.clone().try_into().expect("a dialect");
    dialect.check().expect("whole");
}

async fn checks(hub: &Hub) -> Value {
    let (status, body) = hub.get("/readyz").await.expect("answered");
    assert_eq!(status, 200, "readiness is never lost to a dependency: {body}");
    serde_json::from_str::<Value>(&body).expect("json")["checks"].clone()
}

async fn list_status(hub: &Hub) -> u16 {
    let request = reqwest::Client::new().get(format!("http://{}/api/v1/entities/procedure", hub.addr));
    request.bearer_auth(World::token("viewer")).send().await.expect("answered").status().as_u16()
}

/// Rule 12 and the table of `docs/OPERATIONS.md`, row by row, under one session that never closes.
#[tokio::test]
async fn sessions_outlive_redis_and_postgresql() {
    let mut world = World::new(50, true).await;
    let database = behind_a_proxy(&mut world).await;
    let hub = world.hub("a").await;
    caught_up(&world, &hub).await;
    let mut followers = Followers::start(&format!("http://{}", hub.addr), 2, &[]).await;
    let mut seen = followers.progress().await[0];
    play(&world, 50);
    let mut more = async |followers: &mut Followers, what: &str| {
        let least = seen + 20;
        eventually(what, async || followers.progress().await.into_iter().all(|last| last >= least)).await;
        seen = followers.progress().await.into_iter().max().expect("some");
    };
    more(&mut followers, "changes while all is well").await;

    // Redis away: changes go on, out of the log.
    world.redis.as_mut().expect("redis").kill();
    eventually("the bus is seen to be away", async || checks(&hub).await["bus"]["status"] == "down").await;
    assert_eq!(list_status(&hub).await, 200);
    more(&mut followers, "changes while redis is away").await;

    // Both away: sessions stay, REST says so and when to return.
    database.refuse(true);
    database.cut();
    eventually("the list is not served", async || list_status(&hub).await == 503).await;
    eventually("postgresql is seen to be away", async || checks(&hub).await["database"]["status"] == "down").await;
    assert_eq!(hub.get("/healthz").await.expect("answered").0, 200);
    assert_eq!(hub.metric("dzvin_sessions").await, 2.0);

    // Redis back, and empty; PostgreSQL still away.
    world.redis.as_mut().expect("redis").restart_empty().await;
    eventually("the bus is back", async || checks(&hub).await["bus"]["status"] == "ok").await;
    assert_eq!(list_status(&hub).await, 503);

    database.refuse(false);
    eventually("the list is served again", async || list_status(&hub).await == 200).await;
    eventually("and seen to be back", async || checks(&hub).await["database"]["status"] == "ok").await;
    more(&mut followers, "changes after all of it").await;
    play(&world, 0);
    caught_up(&world, &hub).await;
    let report = followers.finish().await;
    println!("{report}");
    for key in ["lost", "doubled", "behind", "differences"] {
        assert_eq!(report[key], 0, "{key} in {report}");
    }
    assert_eq!(report["disconnects"], serde_json::json!({"0": 2}), "no session was closed: {report}");
}

/// A proxy before the world's database, and the world told to go through it.
async fn behind_a_proxy(world: &mut World) -> Proxy {
    let socket = world.db.connect_options().get_socket().expect("a unix socket").join(".s.PGSQL.5432");
    let proxy = Proxy::start(Upstream::Unix(socket)).await;
    let name = world.db.connect_options().get_database().expect("a name").to_owned();
    world.database_url = Some(format!("postgres://dzvin@{}/{name}", proxy.addr));
    proxy
}

#[tokio::test]
async fn clients_recover_out_of_redis_while_postgresql_is_away() {
    let mut world = World::new(20, true).await;
    let database = behind_a_proxy(&mut world).await;
    let hub = world.hub("a").await;
    caught_up(&world, &hub).await;
    let front = Front::start(vec![hub.addr]).await;
    let mut followers = Followers::start(&format!("http://{}", front.addr), 2, &[]).await;
    let start = followers.progress().await[0];
    play(&world, 50);
    eventually("changes", async || followers.progress().await.into_iter().all(|last| last >= start + 20)).await;
    play(&world, 0);
    caught_up(&world, &hub).await;
    let before = hub.metric("dzvin_recoveries_total").await;
    database.refuse(true);
    database.cut();
    eventually("the list is not served", async || list_status(&hub).await == 503).await;
    front.cut();
    eventually("both subscribed again", async || hub.metric("dzvin_recoveries_total").await >= before + 2.0).await;
    assert_eq!(list_status(&hub).await, 503, "still away");
    database.refuse(false);
    eventually("the list is served again", async || list_status(&hub).await == 200).await;
    let report = followers.finish().await;
    assert_eq!((&report["recovered"], &report["unrecovered"]), (&Value::from(2), &Value::from(0)), "{report}");
    for key in ["lost", "doubled", "behind", "differences"] {
        assert_eq!(report[key], 0, "{key} in {report}");
    }
}

#[tokio::test]
async fn a_few_clients_do_not_hold_up_a_stop() {
    let world = World::new(1, false).await;
    let mut hub = world.hub_with("a", "").await;
    caught_up(&world, &hub).await;
    let _followers = Followers::start(&format!("http://{}", hub.addr), 2, &[]).await;
    let began = Instant::now();
    assert_eq!(hub.stop().await, Some(0), "{}", hub.log());
    // The grace of tests is 5 s, of which telling everybody may take half.
    assert!(began.elapsed() < Duration::from_millis(2000), "{:?}", began.elapsed());
}

/// A proxy that is still sending when the answer comes and the connection closes would tell its client of a bad gateway.
#[tokio::test]
async fn an_answer_waits_for_the_body_that_nobody_read() {
    let world = World::new(0, false).await;
    let hub = world.hub("a").await;
    let mut socket = tokio::net::TcpStream::connect(hub.addr).await.expect("connected");
    let path = "/api/v1/mirrors/procedure/resume";
    for _ in 0..2 {
        let head = format!("POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", 1 << 20);
        socket.write_all(head.as_bytes()).await.expect("taken");
        for _ in 0..16 {
            socket.write_all(&[b'x'; 1 << 16]).await.expect("taken to the end");
        }
        let mut answer = vec![0; 4096];
        let n = socket.read(&mut answer).await.expect("answered");
        let answer = String::from_utf8_lossy(&answer[..n]).to_lowercase();
        assert!(answer.starts_with("http/1.1 401") && !answer.contains("connection: close"), "{answer}");
    }
}

/// What a connection is told before it ends; nothing where it is cut.
async fn told(socket: &mut tokio::net::TcpStream) -> String {
    let mut answer = Vec::new();
    // A cut with bytes unread is a reset, after what was said.
    let _ = tokio::time::timeout(patience(), socket.read_to_end(&mut answer)).await.expect("it ends");
    String::from_utf8_lossy(&answer).into_owned()
}

/// Slow and large requests on the plain side: each limit by its key, and nobody else is held up.
#[tokio::test]
async fn requests_have_an_end() {
    let world = World::new(0, false).await;
    let mut hub = world.unstarted("a");
    let limits = "header_timeout = \"500ms\"\nrequest_timeout = \"500ms\"\nmax_head = \"8KiB\"\nmax_body = \"4KiB\"\n";
    hub.reconfigure(|text| text.replace("[http]\n", &format!("[http]\n{limits}")));
    hub.start().await;
    let connect = async || tokio::net::TcpStream::connect(hub.addr).await.expect("connected");
    let ready = async || hub.get("/readyz").await.is_some_and(|(status, _)| status == 200);

    // A head that drips: each byte in time, the whole not.
    let mut dripping = Vec::new();
    for _ in 0..20 {
        dripping.push(connect().await);
    }
    let drip = async |mut socket: tokio::net::TcpStream| {
        let head = format!("GET /api/v1/kinds HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n", "y".repeat(200));
        let mut every = tokio::time::interval(Duration::from_millis(50));
        for byte in head.bytes() {
            every.tick().await;
            if socket.write_all(&[byte]).await.is_err() {
                return true;
            }
        }
        false
    };
    let began = Instant::now();
    let cut = futures_util::future::join_all(dripping.into_iter().map(drip)).await;
    assert!(cut.into_iter().all(|cut| cut), "a head that drips is not waited for");
    // 200 and more bytes would take ten seconds.
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    let mut silent = connect().await;
    assert_eq!(told(&mut silent).await, "", "nor is one who says nothing");
    assert!(ready().await);

    // A head above its size, in one header, in the address, in many headers.
    let long = "y".repeat(9 * 1024);
    let many = "x: y\r\n".repeat(200);
    for head in [
        format!("GET / HTTP/1.1\r\nhost: x\r\nx: {long}\r\n\r\n"),
        format!("GET /{long} HTTP/1.1\r\nhost: x\r\n\r\n"),
        format!("GET / HTTP/1.1\r\nhost: x\r\n{many}\r\n"),
    ] {
        let mut socket = connect().await;
        socket.write_all(head.as_bytes()).await.expect("taken");
        let answer = told(&mut socket).await;
        assert!(answer.starts_with("HTTP/1.1 431 "), "{head:.40}: {answer:.80}");
    }
    // Within it, a token of almost 8 KiB is read, and found to be none.
    let mut socket = connect().await;
    let token = "y".repeat(7 * 1024);
    let head =
        format!("GET /api/v1/kinds HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\nconnection: close\r\n\r\n");
    socket.write_all(head.as_bytes()).await.expect("taken");
    assert!(told(&mut socket).await.starts_with("HTTP/1.1 401 "));

    // A body that does not come, and one that is too long.
    let post = |length: usize| {
        format!(
            "POST /api/publish HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ncontent-length: {length}\r\n\r\n{{",
            World::token("admin")
        )
    };
    let mut stalled = connect().await;
    stalled.write_all(post(100).as_bytes()).await.expect("taken");
    let answer = told(&mut stalled).await;
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("request_timeout"), "{answer}");
    let mut large = connect().await;
    large.write_all(post(5_000).as_bytes()).await.expect("taken");
    let answer = told(&mut large).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    assert!(ready().await);
}

/// The unit is one that systemd takes, and that agrees with the program's codes and defaults.
#[test]
fn the_systemd_unit_agrees_with_the_program() {
    let path = root("systemd/dzvin.service");
    let unit = fs::read_to_string(&path).expect("the unit");
    let value = |key: &str| {
        let found = unit.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        found.unwrap_or_else(|| panic!("no {key}")).to_owned()
    };
    let grace = dzvin::platform::config::load_from(None, []).expect("defaults").shutdown.grace;
    let stop: u64 = value("TimeoutStopSec").trim_end_matches('s').parse().expect("seconds");
    assert!(Duration::from_secs(stop) > grace, "{stop} s is not above the grace of {grace:?}");
    assert_eq!((&*value("KillSignal"), &*value("Restart")), ("SIGTERM", "on-failure"));
    // What no restart mends, by the table of docs/OPERATIONS.md.
    assert_eq!(value("RestartPreventExitStatus"), "64 78");
    let descriptors: u64 = value("LimitNOFILE").parse().expect("a number");
    let mut config = dzvin::platform::config::load_from(None, []).expect("defaults");
    config.http.tls = Some(dzvin::platform::config::Tls {
        certificate: PathBuf::new(),
        key: PathBuf::new(),
        handshake_timeout: grace,
        reload_interval: grace,
    });
    assert!(descriptors >= dzvin::platform::descriptors::needed(&config), "{descriptors}");
    let start = value("ExecStart");
    assert!(start.ends_with("/dzvin serve") && unit.contains("Environment=DZVIN_CONFIG="), "{start}");

    // With a program that exists here.
    let dir = tempfile::tempdir().expect("a folder");
    let copy = dir.path().join("dzvin.service");
    fs::write(&copy, unit.replace("/usr/local/bin/dzvin", env!("CARGO_BIN_EXE_dzvin"))).expect("written");
    match Command::new("systemd-analyze").arg("verify").arg(&copy).output() {
        Ok(ran) => {
            let said = String::from_utf8_lossy(&ran.stderr);
            assert!(ran.status.success() && !said.contains("dzvin.service:"), "{said}");
        }
        Err(error) => println!("systemd-analyze was not run: {error}"),
    }
}

/// The soft limit of descriptors is for programs of another time.
#[test]
fn a_hub_raises_its_limit_of_descriptors() {
    let dir = tempfile::tempdir().expect("a folder");
    let whole =
        config("postgres://127.0.0.1:1/dzvin", "").replace("level = \"off\"", "level = \"info\"\nformat = \"json\"");
    fs::write(dir.path().join("dzvin.toml"), whole).expect("written");
    let script = "ulimit -Hn; ulimit -Sn 512; exec \"$0\" serve";
    let ran = Command::new("sh").args(["-c", script, env!("CARGO_BIN_EXE_dzvin")]).current_dir(dir.path()).output();
    let ran = ran.expect("sh");
    // The database is not there; the limit was raised before.
    assert_eq!(ran.status.code(), Some(69));
    let (hard, said) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    let hard = hard.trim().parse::<u64>().expect("a number");
    let line = said.lines().find(|line| line.contains("file descriptors")).unwrap_or_else(|| panic!("{said}"));
    let line: Value = serde_json::from_str(line).expect("json");
    assert_eq!((&line["limit"], &line["before"]), (&Value::from(hard), &Value::from(512)), "{line}");
}
