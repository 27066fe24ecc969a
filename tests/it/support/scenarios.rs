//! Scenarios in a real browser: a script of `tests/clients` at a real hub and its sandbox.

use std::{fs, path::Path, process::Stdio, time::Duration};

use tokio::process::Command;

use super::{
    eventually::patience,
    hub::{Hub, World},
};

/// A whole run takes about half a minute; a browser that hangs must not take the suite with it.
const LONGEST: Duration = Duration::from_secs(240);

/// Where the scripts are, with their packages.
pub fn clients() -> std::path::PathBuf {
    let clients = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients");
    assert!(clients.join("node_modules").exists(), "no node packages in tests/clients; scripts/test installs them");
    clients
}

/// Runs a script; at least so many of its scenarios must pass, and none fail.
pub async fn pass(script: &str, least: u32, world: &World, hub: &Hub, environment: &[(&str, &str)]) {
    assert!(dzvin::console::is_built(), "the page is not built; scripts/test does it (npm run build in console/)");
    // Into a file: what was said is told even when the end never comes.
    let out = world.dir.path().join(format!("{script}.out"));
    let file = fs::File::create(&out).expect("a file");
    let mut run = Command::new("node")
        .current_dir(clients())
        .args(["--test", "--test-concurrency=1", "--test-reporter=spec", script])
        .env("DZVIN_URL", format!("http://{}", hub.addr))
        .env("DZVIN_TOKEN", World::token("operator"))
        .env("DZVIN_SANDBOX", world.sandbox.control_url())
        .env("DZVIN_TIMEOUT_MS", patience().as_millis().to_string())
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .stdout(file.try_clone().expect("a file"))
        .stderr(file)
        .kill_on_drop(true)
        .spawn()
        .expect("node starts");
    let ended = tokio::time::timeout(LONGEST, run.wait()).await;
    let said = fs::read_to_string(out).expect("a file");
    println!("{said}");
    let well = matches!(ended, Ok(Ok(status)) if status.success());
    assert!(well, "{ended:?}\n{said}\n{}", hub.log());
    let passed =
        said.lines().find_map(|line| line.trim_start_matches(|c: char| !c.is_ascii_alphabetic()).strip_prefix("pass "));
    let passed = passed.and_then(|count| count.trim().parse::<u32>().ok());
    assert!(passed.is_some_and(|passed| passed >= least), "{passed:?} scenarios passed, and some must not be skipped");
}
