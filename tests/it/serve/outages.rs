//! What goes on while Redis or PostgreSQL is away, row by row as `docs/OPERATIONS.md` has it, and what ends a request or a stop.

use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    spine::{caught_up, play},
    support::{
        eventually::{eventually, patience},
        front::Front,
        hub::{Hub, World},
        node::Followers,
        proxy::{Proxy, Upstream},
    },
};

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
        followers.reach(what, least).await;
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
    followers.reach("changes", start + 20).await;
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
    let mut hub = world.unstarted("a");
    hub.reconfigure(|text| text.replace("grace = \"5s\"", "grace = \"60s\""));
    hub.start().await;
    caught_up(&world, &hub).await;
    let _followers = Followers::start(&format!("http://{}", hub.addr), 2, &[]).await;
    let began = Instant::now();
    assert_eq!(hub.stop().await, Some(0), "{}", hub.log());
    // Telling everybody may take half of the grace.
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
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
