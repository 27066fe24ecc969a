//! The real binary as an operator meets it: one clear line and a code for each failure, the internal listener.

mod manual;
mod outages;
mod tables;

use std::{
    fs,
    net::TcpListener,
    process::{Command, Output},
};

use sqlx::Connection;
use tempfile::TempDir;

use crate::support::{eventually::eventually, hub::World, postgres::TestDb};

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
            config(good, "[identity.login]\nissuer = \"https://id.example\"\nclient_id = \"c\""),
            None,
            vec!["identity.login.issuer", "identity.issuers"],
        ),
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

/// An application's key stands in a page: what it opens beside what tokens open is said.
#[test]
fn check_says_what_a_key_of_an_application_opens() {
    let dir = tempfile::tempdir().expect("a folder");
    let app = |id: &str, more: &str| {
        let key = format!("{{ key = \"key-{id}\", secret = \"an app secret of many bytes\" }}");
        format!("[[pusher.apps]]\nid = \"{id}\"\nkeys = [{key}]\n{more}\n")
    };
    let alone = [app("own", "isolated = true"), app("off", "enabled = false")].concat();
    let shared = [&alone, &*app("one", ""), &*app("two", "")].concat();
    let anyone = "[channels.namespaces.default]\nsubscribe = \"anyone\"\n";
    let signed_in = "[channels.namespaces.default]\nsubscribe = \"signed_in\"\n";
    for (apps, rules, told) in
        [("", "", 0), (&*alone, "", 0), (&shared, anyone, 0), (&shared, "", 1), (&shared, signed_in, 1)]
    {
        let output = dzvin(&dir, &["check"], &config("postgres://u:p@127.0.0.1:1/x", &format!("{rules}{apps}")), &[]);
        let printed = String::from_utf8_lossy(&output.stdout);
        let lines: Vec<_> = printed.lines().filter(|line| line.starts_with("note   pusher: ")).collect();
        assert_eq!(lines.len(), told, "{rules} {printed}");
        let whole = |line: &&str| line.contains("a key of one, two ") && line.contains("namespaces.default.subscribe");
        assert!(lines.iter().all(whole), "{lines:?}");
    }
}

/// A place in an array, or a name of digits: a mask knows neither, and says so before anybody relies on it.
#[test]
fn check_says_what_a_mask_cannot_name() {
    let dir = tempfile::tempdir().expect("a folder");
    for path in ["bids.0.price", "prices.2024", "/prices/2024", "0"] {
        let views = format!("[kinds.procedure]\n[identity.views.viewer.procedure]\nmask = [\"title\", \"{path}\"]");
        let output = dzvin(&dir, &["check"], &config("postgres://u:p@127.0.0.1:1/x", &views), &[]);
        let printed = [output.stdout, output.stderr].concat();
        let printed = String::from_utf8_lossy(&printed);
        let said = format!("identity.views.viewer.procedure.mask: \"{path}\" names a place in an array");
        assert!(!output.status.success() && printed.contains(&said), "{printed}");
        assert!(printed.contains("leave the number out") && printed.contains("hide what it stands in"), "{printed}");
    }
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
