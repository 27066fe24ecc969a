//! The operators' page, built into a real hub, in a real browser: `tests/clients/board.browser.mjs` under the hub's own policy.

use std::{fs, path::Path, process::Stdio, time::Duration};

use tokio::process::Command;

use crate::support::{eventually::patience, hub::World};

/// More than two pages of the board.
const OBJECTS: usize = 130;
/// As in production: an object of 7.5 MB in a debug build outlives the second that other tests take.
const LEASE_TTL: &str = "10s";
/// Those that say something about the hub; the others run against the mock.
const SCENARIOS: u32 = 13;
/// The whole run takes about half a minute; a browser that hangs must not take the suite with it.
const LONGEST: Duration = Duration::from_secs(240);

#[tokio::test]
async fn the_page_tells_the_truth_about_a_real_hub() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    assert!(dzvin::console::is_built(), "the page is not built; scripts/test does it (npm run build in console/)");
    let clients = root.join("tests/clients");
    assert!(clients.join("node_modules").exists(), "no node packages in tests/clients; scripts/test installs them");
    let mut world = World::new(OBJECTS, false).await;
    world.lease_ttl = LEASE_TTL;
    let hub = world.hub("page").await;
    // Into a file: what was said is told even when the end never comes.
    let out = world.dir.path().join("page.out");
    let file = fs::File::create(&out).expect("a file");
    let mut run = Command::new("node")
        .current_dir(clients)
        .args(["--test", "--test-concurrency=1", "--test-reporter=spec", "board.browser.mjs"])
        .env("DZVIN_URL", format!("http://{}", hub.addr))
        .env("DZVIN_TOKEN", World::token("operator"))
        .env("DZVIN_SANDBOX", world.sandbox.control_url())
        .env("DZVIN_TIMEOUT_MS", patience().as_millis().to_string())
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
    assert!(
        passed.is_some_and(|passed| passed >= SCENARIOS),
        "{passed:?} scenarios passed, and some must not be skipped"
    );
}
