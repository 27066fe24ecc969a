//! `dzvin dev` as a newcomer starts it: the built binary, what it prints, and how it comes back after each end.

use std::{
    collections::BTreeMap,
    fs,
    net::{SocketAddr, TcpListener},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
};

use serde_json::Value;
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::support::{
    eventually::{eventually, patience},
    ports::free_address,
};

/// A data directory, open to the user as whom root runs PostgreSQL; a database that a failed test left there is asked to stop.
struct Room(TempDir);

impl Room {
    fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("dz").tempdir_in("/tmp").expect("dir");
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o711)).expect("set");
        Self(dir)
    }

    /// The server that works in it, while one does.
    fn postgres(&self) -> Option<u32> {
        fs::read_to_string(self.0.path().join("data/postgres/postmaster.pid")).ok()?.lines().next()?.trim().parse().ok()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        if let Some(pid) = self.postgres() {
            let _ = std::process::Command::new("kill").args(["-INT", &pid.to_string()]).status();
        }
    }
}

/// A running `dzvin dev`, and what it has printed.
struct Dev {
    child: Child,
    printed: PathBuf,
    log: PathBuf,
}

impl Dev {
    fn spawn(room: &Room, run: &str, listen: SocketAddr, internal: SocketAddr) -> Self {
        let (printed, log) = (room.file(&format!("{run}.out")), room.file(&format!("{run}.log")));
        let child = Command::new(env!("CARGO_BIN_EXE_dzvin"))
            .arg("dev")
            .arg("--data-dir")
            .arg(room.file("data"))
            .current_dir(room.0.path())
            .env("DZVIN__HTTP__LISTEN", listen.to_string())
            .env("DZVIN__HTTP__INTERNAL_LISTEN", internal.to_string())
            .stdin(Stdio::null())
            .stdout(fs::File::create(&printed).expect("file"))
            .stderr(fs::File::create(&log).expect("file"))
            .kill_on_drop(true)
            .spawn()
            .expect("the program starts");
        Self { child, printed, log }
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits for the last line of the greeting; answers the page's address and the token of each role.
    async fn greeted(&mut self) -> (String, BTreeMap<String, String>) {
        let text = eventually("the greeting", async || {
            if let Ok(Some(status)) = self.child.try_wait() {
                panic!("dzvin dev ended with {status}: {}", fs::read_to_string(&self.log).unwrap_or_default());
            }
            let text = fs::read_to_string(&self.printed).expect("readable");
            text.contains("\nCtrl-C stops everything").then_some(text)
        })
        .await;
        let page = text.lines().find_map(|line| line.trim().split_once("#token=")).expect("an address").0.to_owned();
        // A role and its token: two words, of which the second is a JWT.
        let tokens = text.lines().filter_map(|line| line.trim().split_once(' '));
        let tokens = tokens.map(|(role, token)| (role.to_owned(), token.trim().to_owned()));
        (page, tokens.filter(|(_, token)| token.starts_with("eyJ") && !token.contains(' ')).collect())
    }

    async fn ended(&mut self) -> ExitStatus {
        tokio::time::timeout(patience(), self.child.wait()).await.expect("ends in time").expect("reaped")
    }

    fn signal(&self, signal: &str) {
        let pid = self.child.id().expect("running").to_string();
        assert!(std::process::Command::new("kill").args([signal, &pid]).status().expect("kill").success());
    }
}

async fn ask(addr: SocketAddr, token: &str, method: reqwest::Method, path: &str) -> (u16, Value) {
    let request = reqwest::Client::new().request(method, format!("http://{addr}{path}")).bearer_auth(token);
    let response = request.send().await.expect("answered");
    (response.status().as_u16(), response.json().await.unwrap_or_default())
}

/// Waits until both mirrors are live; answers the offset of the newest change.
async fn live(addr: SocketAddr, token: &str) -> u64 {
    eventually("both mirrors are live", async || {
        let (_, mirrors) = ask(addr, token, reqwest::Method::GET, "/api/v1/mirrors").await;
        let items = mirrors["items"].as_array().cloned().unwrap_or_default();
        items.len() == 2 && items.iter().all(|item| item["state"] == "live")
    })
    .await;
    offset(addr, token).await
}

async fn offset(addr: SocketAddr, token: &str) -> u64 {
    let (status, list) = ask(addr, token, reqwest::Method::GET, "/api/v1/entities/procedure?limit=1").await;
    assert_eq!(status, 200, "{list}");
    list["position"]["offset"].as_u64().expect("an offset")
}

async fn changes_after(addr: SocketAddr, token: &str, before: u64) {
    eventually("objects change", async || offset(addr, token).await > before).await;
}

#[tokio::test]
async fn a_newcomer_sees_it_run_and_nothing_is_lost_by_a_kill() {
    let room = Room::new();
    let (listen, internal) = (free_address(), free_address());
    let mut dev = Dev::spawn(&room, "first", listen, internal);
    let (page, tokens) = dev.greeted().await;
    assert_eq!(page, format!("http://{listen}/console/"));
    assert_eq!(tokens.keys().collect::<Vec<_>>(), ["admin", "operator", "viewer"]);
    for (role, token) in &tokens {
        assert_eq!(ask(listen, token, reqwest::Method::GET, "/api/v1/mirrors").await.0, 200, "{role}");
        let resumed = ask(listen, token, reqwest::Method::POST, "/api/v1/mirrors/no-such-mirror/resume").await.0;
        assert_eq!(resumed, if role == "viewer" { 403 } else { 404 }, "{role}");
    }
    let viewer = &tokens["viewer"];
    let at = live(listen, viewer).await;
    changes_after(listen, viewer, at).await;
    let postgres = room.postgres().expect("a server");

    // Killed: the database lives on, and the next hub takes it over as it is.
    dev.signal("-KILL");
    dev.ended().await;
    assert!(Path::new(&format!("/proc/{postgres}")).exists(), "the database outlives its hub");
    let mut dev = Dev::spawn(&room, "second", listen, internal);
    dev.greeted().await;
    assert_eq!(room.postgres(), Some(postgres), "adopted: {}", dev.said());
    // The key is kept as well: tokens of the first run are still good.
    let at = live(listen, viewer).await;
    changes_after(listen, viewer, at).await;
    let metrics =
        reqwest::get(format!("http://{internal}/metrics")).await.expect("answered").text().await.expect("text");
    let sum = |name: &str| -> f64 {
        let of = metrics.lines().filter(|line| line.starts_with(&format!("{name}{{")));
        of.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    };
    assert!(metrics.contains("dzvin_mirror_state{"), "{metrics}");
    assert_eq!((sum("dzvin_mirror_gap"), sum("dzvin_mirror_gaps_total")), (0.0, 0.0), "nothing is taken for lost");

    dev.signal("-TERM");
    assert_eq!(dev.ended().await.code(), Some(0), "{}", dev.said());
    assert_eq!(room.postgres(), None, "the database stopped with its hub");
}

#[tokio::test]
async fn a_terminal_that_closes_stops_everything_in_order() {
    let room = Room::new();
    let mut dev = Dev::spawn(&room, "first", free_address(), free_address());
    dev.greeted().await;
    dev.signal("-HUP");
    assert_eq!(dev.ended().await.code(), Some(0), "{}", dev.said());
    assert_eq!(room.postgres(), None, "the database stopped with its hub");
}

#[tokio::test]
async fn a_taken_port_is_told_before_anything_is_made() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("address");
    for (key, listen, internal) in
        [("http.listen", port, free_address()), ("http.internal_listen", free_address(), port)]
    {
        let room = Room::new();
        let mut dev = Dev::spawn(&room, "first", listen, internal);
        assert_eq!(dev.ended().await.code(), Some(71), "{}", dev.said());
        let said = dev.said();
        assert!(said.contains(key) && said.contains(&port.port().to_string()), "{said}");
        assert!(!room.file("data").exists(), "nothing was begun");
    }
}
