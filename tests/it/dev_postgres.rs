//! The private PostgreSQL of `dzvin dev`, with real servers: every way in which the last run may have ended.

use std::{fs, os::unix::fs::PermissionsExt, path::Path, process::Command, time::Duration};

use dzvin::platform::{
    config::{Config, SecretUrl},
    dev::{DevError, DevRoom},
};
use sqlx::{Connection, PgConnection};
use tempfile::TempDir;

/// A directory that another user may pass through, as root's data directory must be.
fn open_dir() -> TempDir {
    let dir = tempfile::Builder::new().prefix("dz").tempdir_in("/tmp").expect("dir");
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o711)).expect("set");
    dir
}

async fn open(dir: &Path) -> Result<(DevRoom, SecretUrl), DevError> {
    let mut config = Config::default();
    config.dev.data_dir = Some(dir.to_owned());
    let room = DevRoom::open(&mut config).await?;
    assert_eq!(config.identity.keys.len(), 1, "a key is made");
    Ok((room, config.database.url.expect("an address")))
}

async fn count(url: &SecretUrl) -> i64 {
    let mut db = PgConnection::connect(url.expose()).await.expect("connected");
    sqlx::query("CREATE TABLE IF NOT EXISTS kept (n int)").execute(&mut db).await.expect("table");
    sqlx::query("INSERT INTO kept VALUES (1)").execute(&mut db).await.expect("row");
    sqlx::query_scalar("SELECT count(*) FROM kept").fetch_one(&mut db).await.expect("count")
}

fn is_alive(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

/// Whether the process, or one of its children, has a TCP socket that listens.
fn listens_on_tcp(pid: u32) -> bool {
    let inodes: Vec<String> = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .flat_map(|table| fs::read_to_string(table).unwrap_or_default().lines().map(str::to_owned).collect::<Vec<_>>())
        .filter(|line| line.split_whitespace().nth(3) == Some("0A"))
        .filter_map(|line| line.split_whitespace().nth(9).map(|inode| format!("socket:[{inode}]")))
        .collect();
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).expect("readable").flatten();
    let links = descriptors.filter_map(|entry| fs::read_link(entry.path()).ok());
    links.into_iter().any(|link| inodes.iter().any(|inode| link.as_os_str() == inode.as_str()))
}

#[tokio::test]
async fn data_is_kept_between_runs_whatever_ended_the_last_one() {
    let dir = open_dir();
    // What a crash in the middle of the first initialisation leaves behind is no data.
    fs::create_dir(dir.path().join("postgres.new")).expect("made");
    fs::write(dir.path().join("postgres.new/PG_VERSION"), "9").expect("written");

    let (room, url) = open(dir.path()).await.expect("a first start");
    assert_eq!(count(&url).await, 1);
    let first = room.postgres.as_ref().expect("private").pid;
    assert!(!listens_on_tcp(first));
    assert!(url.masked().contains("password=***"), "{url}");
    let busy = open(dir.path()).await.map(drop).expect_err("one hub at a time");
    assert!(matches!(busy, DevError::InUse(_)), "{busy}");

    // A hub that is killed leaves its database running, and the lock free.
    drop(room);
    assert!(is_alive(first));
    let (room, url) = open(dir.path()).await.expect("adopted");
    let postgres = room.postgres.as_ref().expect("private");
    assert_eq!((postgres.adopted, postgres.pid), (true, first));
    assert_eq!(count(&url).await, 2);
    room.close().await.expect("an adopted one stops in order");
    assert!(!is_alive(first));

    // An orderly stop leaves nothing, and all the data.
    let (room, url) = open(dir.path()).await.expect("a second start");
    assert_eq!(count(&url).await, 3);
    let second = room.postgres.as_ref().expect("private").pid;
    room.close().await.expect("stopped");
    assert!(!is_alive(second) && !dir.path().join("postgres/postmaster.pid").exists());
    let log = fs::read_to_string(dir.path().join("postgres.log")).expect("log");
    assert!(!log.contains("not properly shut down"), "{log}");
}

#[tokio::test]
async fn stale_pids_locks_and_sockets_are_seen_through() {
    let dir = open_dir();
    let (room, url) = open(dir.path()).await.expect("a first start");
    assert_eq!(count(&url).await, 1);
    room.close().await.expect("stopped");

    // The number of a dead server: of nobody, and of a living stranger (ourselves).
    let pid_file = dir.path().join("postgres/postmaster.pid");
    for (rows, pid) in [(2, 4_194_303), (3, std::process::id())] {
        let text = format!("{pid}\n{}\n1\n5432\n/tmp\n\n  1  1\nready\n", dir.path().join("postgres").display());
        fs::write(&pid_file, text).expect("written");
        let (room, url) = open(dir.path()).await.expect("seen through");
        assert!(!room.postgres.as_ref().expect("private").adopted);
        assert_eq!(count(&url).await, rows);
        room.close().await.expect("stopped");
    }

    // The whole machine went down, or the server itself was killed.
    let (room, url) = open(dir.path()).await.expect("started");
    assert_eq!(count(&url).await, 4);
    let mut room = room;
    let postgres = room.postgres.as_mut().expect("private");
    let killed = Command::new("kill").args(["-9", &postgres.pid.to_string()]).status().expect("kill");
    assert!(killed.success());
    tokio::time::timeout(Duration::from_secs(30), postgres.ended()).await.expect("its end is seen");
    drop(room);
    let (room, url) = open(dir.path()).await.expect("recovered");
    assert_eq!(count(&url).await, 5);

    // A cleaner of /tmp swept the socket of an orphan away.
    let orphan = room.postgres.as_ref().expect("private").pid;
    let host = url.expose().split(['?', '&']).find_map(|part| part.strip_prefix("host=")).expect("a socket");
    fs::remove_file(Path::new(host).join(".s.PGSQL.5432")).expect("swept");
    drop(room);
    let (room, url) = open(dir.path()).await.expect("started again");
    let now = room.postgres.as_ref().expect("private");
    assert!(!now.adopted && now.pid != orphan && !is_alive(orphan));
    assert_eq!(count(&url).await, 6);
    room.close().await.expect("stopped");
}

#[tokio::test]
async fn data_of_another_version_is_refused_with_what_helps() {
    let dir = open_dir();
    let data = dir.path().join("postgres");
    fs::create_dir(&data).expect("made");
    fs::write(data.join("PG_VERSION"), "9\n").expect("written");
    fs::write(data.join("precious"), "x").expect("written");
    let error = open(dir.path()).await.map(drop).expect_err("refused").to_string();
    assert!(error.contains("is of PostgreSQL 9") && error.contains(&format!("mv {}", data.display())), "{error}");
    assert!(data.join("precious").exists());
}

#[tokio::test]
async fn missing_binaries_are_told() {
    let dir = open_dir();
    let mut config = Config::default();
    config.dev.data_dir = Some(dir.path().to_owned());
    config.dev.pg_bin = Some("/nonexistent/bin".into());
    let error = DevRoom::open(&mut config).await.map(drop).expect_err("none").to_string();
    assert!(error.contains("looked in /nonexistent/bin") && error.contains("apt-get install postgresql"), "{error}");
}
