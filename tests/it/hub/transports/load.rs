//! Clients that do not read, and many of them.

use super::*;

/// A short queue, and pings that do not come into it.
const SLOW: &str = "[channels]\nqueue_bytes = \"256KiB\"\nrecovery_bytes = \"128KiB\"\nmax_history_bytes = \"128KiB\"\nping = \"10m\"\npong = \"1m\"\n";

#[tokio::test]
async fn a_client_that_does_not_read_is_closed_as_slow_and_slows_nobody() {
    let world = World::new(1, false).await;
    let hub = world.hub_with("a", &format!("{}{SLOW}", rules())).await;
    let (mut fast, connected) = Stream::connected(&hub, "http_stream").await;
    let subscribe = |id: u32| json!({"id": id, "subscribe": {"channel": "chat.1"}}).to_string();
    let body = json!({"session": connected["session"], "node": connected["node"], "data": subscribe(2)});
    assert_eq!(emulate(&hub, body.to_string()).await.0, 204);
    assert_eq!(fast.next().await.expect("subscribed")["id"], 2);

    let mut slow = TcpStream::connect(hub.addr).await.expect("connect");
    let said = format!("{}\n{}", connect(&World::token("viewer")), subscribe(2));
    let head = format!(
        "POST /connection/http_stream HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        said.len()
    );
    slow.write_all(format!("{head}{said}").as_bytes()).await.expect("written");
    eventually("both listen", async || hub.metric("dzvin_subscriptions").await == 2.0).await;
    // More than both queue and kernel hold; the other one has it all meanwhile.
    let filling = json!("x".repeat(60_000));
    let mut offset = 0;
    while hub.metric("dzvin_sessions").await > 1.0 {
        offset += 1;
        assert!(offset < 1000, "the slow one is still there");
        publish(&hub, "chat.1", &filling).await;
        assert_eq!(fast.next().await.expect("told")["push"]["pub"]["offset"], offset);
    }
    let (_, metrics) = hub.get("/metrics").await.expect("metrics");
    assert!(metrics.lines().any(|line| line.starts_with("dzvin_sessions_closed_total{code=\"3008\"} 1")), "{metrics}");
    // What it would find now ends with whole messages or in the middle of one, and then the end.
    let mut rest = Vec::new();
    timeout(patience(), slow.read_to_end(&mut rest)).await.expect("the end comes").expect("read");
    assert!(rest.len() > 256 * 1024);
    drop(fast);
    nobody_left(&hub).await;
}

/// The descriptors of the hub.
fn descriptors(hub: &Hub) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", hub.pid())).expect("alive").count()
}

/// Resident memory of the hub, in bytes.
fn resident(hub: &Hub) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", hub.pid())).expect("alive");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
    line.trim().trim_end_matches(" kB").parse::<usize>().expect("a number") * 1024
}

#[tokio::test]
async fn a_thousand_streams_come_and_go() {
    const MANY: usize = 1_000;
    let world = World::new(1, false).await;
    let hub = world.hub_with("a", &rules()).await;
    let said = connect(&World::token("viewer"));
    let open = async |transport: &str, count: usize| {
        let ask =
            format!("POST /connection/{transport} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{said}", said.len());
        let one = async || {
            let mut socket = TcpStream::connect(hub.addr).await.expect("connect");
            socket.write_all(ask.as_bytes()).await.expect("written");
            let mut got = Vec::new();
            while !got.windows(9).any(|seen| seen == b"\"connect\"") {
                let mut buffer = [0; 2048];
                let read = timeout(patience(), socket.read(&mut buffer)).await.expect("in time").expect("read");
                assert_ne!(read, 0, "{}", String::from_utf8_lossy(&got));
                got.extend_from_slice(&buffer[..read]);
            }
            socket
        };
        let mut all = Vec::with_capacity(count);
        while all.len() < count {
            all.extend(join_all((0..50.min(count - all.len())).map(|_| one())).await);
        }
        all
    };
    drop(open("sse", 10).await);
    nobody_left(&hub).await;
    let (before, memory) = (descriptors(&hub), resident(&hub));
    for transport in ["sse", "http_stream"] {
        let all = open(transport, MANY).await;
        assert_eq!(hub.metric("dzvin_sessions").await, MANY as f64);
        // The socket and both ends of the pipe; those of the warming up may have lingered.
        assert!(descriptors(&hub) >= before + 3 * MANY - 100);
        println!("{transport}: {} bytes resident each", (resident(&hub) - memory) / MANY);
        drop(all);
        nobody_left(&hub).await;
        eventually("descriptors are given back", async || descriptors(&hub) <= before + 5).await;
    }
    assert_eq!(hub.metric("dzvin_queue_bytes").await, 0.0);
}
