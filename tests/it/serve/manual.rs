//! What is written about the program agrees with it: the manuals, compose, and the systemd unit.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use serde_json::Value;

use super::{SECRETS, config, failure};
use crate::support::{eventually::eventually, hub::World, ports::free_address, postgres::TestDb};

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
        "too_many(",
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
    // Those of edits stand in one place.
    let edits = fs::read_to_string(root("src/entities/edit.rs")).expect("edits");
    codes.extend(
        edits
            .split("=> \"")
            .skip(1)
            .filter_map(|rest| rest.split('"').next())
            .filter(|it| !it.contains('.'))
            .map(Into::into),
    );
    codes
}

#[test]
fn every_problem_code_is_in_the_manual() {
    let manual = fs::read_to_string(root("docs/ERRORS.md")).expect("the manual");
    let rows = manual.lines().filter_map(|line| line.strip_prefix("| `")?.split(" |").next());
    let told: BTreeSet<&str> = rows.flat_map(|row| row.split([',', ' ', '`'])).collect();
    let codes = problem_codes();
    assert!(codes.len() > 90 && codes.contains("unknown_kind") && codes.contains("schema_mismatch"), "{codes:?}");
    let missing: Vec<_> = codes.iter().filter(|code| !told.contains(code.as_str())).collect();
    assert!(missing.is_empty(), "not in docs/ERRORS.md: {missing:?}");
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
    assert!(unit.contains("Environment=DZVIN_CONFIG=/etc/dzvin/dzvin.toml"));
    // A start is over when the program is there, however long the schema takes; and what ends with 78 is not tried again.
    assert!(value("Type") == "exec" && !unit.lines().any(|line| line.starts_with("ExecStartPre=")));
    // By hand the credentials are where the unit has them from.
    let credentials: Vec<&str> =
        unit.lines().filter_map(|line| line.split_once("LoadCredential=")).map(|it| it.1).collect();
    assert!(credentials.len() > 1 && unit.contains("CREDENTIALS_DIRECTORY=/etc/dzvin dzvin check"));
    for credential in credentials {
        let (name, file) = credential.split_once(':').expect("a name and a file");
        assert_eq!(file, format!("/etc/dzvin/{name}"));
        assert!(unit.contains(&format!("_file = \"credential:{name}\"")), "{name}");
    }

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

/// As the unit starts it: the secrets are credentials, and the database has no schema yet.
#[tokio::test]
async fn the_systemd_unit_brings_the_schema() {
    let unit = fs::read_to_string(root("systemd/dzvin.service")).expect("the unit");
    let start = unit.lines().find_map(|line| line.strip_prefix("ExecStart=/usr/local/bin/dzvin ")).expect("ExecStart");
    let (dir, db) = (tempfile::tempdir().expect("a folder"), TestDb::new().await);
    let mut raw = db.raw().await;
    sqlx::raw_sql("DROP SCHEMA public CASCADE; CREATE SCHEMA public").execute(&mut raw).await.expect("emptied");
    let internal = free_address();
    let whole = config(&db.url(), "")
        .replace("internal_listen = \"127.0.0.1:0\"", &format!("internal_listen = \"{internal}\""))
        .replace(&format!("url = \"{}\"", db.url()), "url_file = \"credential:database_url\"")
        .replace(&format!("secret = \"{}\"", SECRETS[2]), "secret_file = \"credential:key\"");
    assert_eq!(whole.matches("credential:").count(), 2, "{whole}");
    for (name, text) in [("dzvin.toml", &*whole), ("database_url", &*db.url()), ("key", SECRETS[2])] {
        fs::write(dir.path().join(name), text).expect("written");
    }
    let program = |words: &str| {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_dzvin"));
        command.args(words.split(' ')).env("DZVIN_CONFIG", dir.path().join("dzvin.toml")).kill_on_drop(true);
        command.env("CREDENTIALS_DIRECTORY", dir.path());
        command
    };
    let serves = async || {
        let mut node = program(start).spawn().expect("starts");
        eventually("it serves", async || {
            assert_eq!(node.try_wait().expect("looked"), None, "it goes on");
            reqwest::get(format!("http://{internal}/readyz")).await.is_ok_and(|answer| answer.status() == 200)
        })
        .await;
        node.kill().await.expect("killed");
    };
    let checked = program("check").output().await.expect("starts");
    let said = String::from_utf8_lossy(&checked.stdout);
    assert!(checked.status.code() == Some(69) && said.contains("migrations behind"), "{said}");
    serves().await;
    let checked = program("check").output().await.expect("starts");
    let said = String::from_utf8_lossy(&checked.stdout);
    assert!(checked.status.success() && said.contains("the schema is up to date"), "{said}");

    // A node of the version before that comes back amid an upgrade finds more than it knows.
    let newer = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
        VALUES (29990101000000, 'newer', true, '', 0)";
    sqlx::raw_sql(newer).execute(&mut raw).await.expect("written");
    let by_hand = program("migrate").output().await.expect("starts");
    assert!(failure(&by_hand, 69).contains("29990101000000"), "this is no migration that it could make");
    serves().await;
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
