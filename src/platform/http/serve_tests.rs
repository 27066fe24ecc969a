use axum::{http::StatusCode, response::IntoResponse, routing::get};
use dzvin_actors::channels::Socket;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::{Notify, oneshot},
};

use super::{super::listen, *};

struct Running {
    addr: SocketAddr,
    stop: oneshot::Sender<()>,
    ended: tokio::task::JoinHandle<()>,
    serving: Serving,
}

async fn run(router: Router, change: impl FnOnce(&mut Serving)) -> Running {
    let mut serving = Serving::new(&Http::default(), Duration::from_secs(5), HttpMetrics::default());
    change(&mut serving);
    let listener = listen("http.listen", SocketAddr::from(([127, 0, 0, 1], 0))).expect("free port");
    let addr = listener.local_addr().expect("bound");
    let (stop, stopped) = oneshot::channel();
    let ended = tokio::spawn(serve(listener, router, serving.clone(), async move { drop(stopped.await) }));
    Running { addr, stop, ended, serving }
}

async fn send(addr: SocketAddr, path: &str) -> TcpStream {
    let mut stream = TcpStream::connect(addr).await.expect("connected");
    let head = format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n");
    stream.write_all(head.as_bytes()).await.expect("sent");
    stream
}

async fn line(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n") {
        match tokio::time::timeout(Duration::from_secs(10), stream.read_u8()).await.expect("in time") {
            Ok(byte) => bytes.push(byte),
            Err(_) => break,
        }
    }
    String::from_utf8(bytes).expect("ascii").trim_end().to_owned()
}

/// Data that looks like the answer to an upgrade.
const DATA: &str = "HTTP/1.1 101 Switching Protocols\r\n\r\n";

#[tokio::test]
async fn an_upgrade_gives_the_socket_back() {
    async fn upgrade(mut request: axum::extract::Request) -> impl IntoResponse {
        let upgrading = request.extensions().get::<Upgrading>().expect("asked for").clone();
        let place = Arc::new(Semaphore::new(1)).try_acquire_owned().expect("a place");
        upgrading.begin(&mut request, place.into(), |taken| {
            let super::super::Taken { socket, leftover, greeting, permit: _permit } = taken;
            let Socket::Tcp(mut stream) = socket else { panic!("no plain TCP") };
            assert!(stream.nodelay().expect("asked"));
            #[cfg(target_os = "linux")]
            assert_eq!(
                socket2::SockRef::from(&stream).tcp_user_timeout().expect("asked"),
                Some(Duration::from_secs(7)),
                "as it is configured"
            );
            let answer = [greeting.as_ref(), leftover.as_ref(), b" and back\r\n"].concat();
            tokio::spawn(async move { stream.write_all(&answer).await.expect("sent") });
        });
        (StatusCode::SWITCHING_PROTOCOLS, [("connection", "upgrade"), ("upgrade", "bell")])
    }
    let change = |serving: &mut Serving| serving.peer_timeout = Duration::from_secs(7);
    let server = run(Router::new().route("/", get(upgrade)).route("/data", get(async || DATA)), change).await;
    // Whatever is asked before it, or said behind it.
    for (before, said) in [("", "there"), ("", ""), ("GET /data HTTP/1.1\r\nhost: x\r\n\r\n", "again")] {
        let mut stream = TcpStream::connect(server.addr).await.expect("connected");
        let head = "GET / HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: bell\r\n\r\n";
        stream.write_all(format!("{before}{head}{said}").as_bytes()).await.expect("sent");
        if !before.is_empty() {
            assert_eq!(line(&mut stream).await, "HTTP/1.1 200 OK");
            while !line(&mut stream).await.is_empty() {}
            let mut data = vec![0; DATA.len()];
            stream.read_exact(&mut data).await.expect("all of it");
            assert_eq!(data, DATA.as_bytes());
        }
        assert_eq!(line(&mut stream).await, "HTTP/1.1 101 Switching Protocols");
        while !line(&mut stream).await.is_empty() {}
        assert_eq!(line(&mut stream).await, format!("{said} and back"));
    }
}

/// The first line of the answer to this, sent to a path of a server that has a shorter way for `/bell`.
async fn told(server: &Running, head: &str) -> String {
    let mut stream = TcpStream::connect(server.addr).await.expect("connected");
    let head = format!("{head} HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: bell\r\n\r\n");
    stream.write_all(head.as_bytes()).await.expect("sent");
    line(&mut stream).await
}

#[tokio::test]
async fn the_shorter_way_agrees_or_leaves_it_to_the_router() {
    let metrics = HttpMetrics::default();
    let plumbing = super::super::Plumbing::new(&Http::default(), metrics.clone());
    let express = Express::new("/bell", &plumbing, |request, address, upgrading| {
        assert_eq!(address.to_string(), "127.0.0.1");
        assert_ne!(request.uri().query(), Some("fault"), "on purpose");
        let place = Arc::new(Semaphore::new(1)).try_acquire_owned().expect("a place");
        request.uri().query().is_none().then(|| upgrading.begin(request, place.into(), drop))?;
        Some((StatusCode::SWITCHING_PROTOCOLS, [("connection", "upgrade"), ("upgrade", "bell")]).into_response())
    });
    let change = |serving: &mut Serving| serving.express = Some(Arc::new(express));
    let server = run(Router::new().fallback(async || StatusCode::IM_A_TEAPOT), change).await;
    // What was taken is dropped, and the connection with it.
    assert_eq!(told(&server, "GET /bell").await, "");
    assert_eq!(metrics.count("/bell", "GET", 101), 1);
    for head in ["GET /bell?no", "GET /bell?fault", "GET /bell/", "POST /bell"] {
        assert!(told(&server, head).await.starts_with("HTTP/1.1 418 "), "{head}");
    }
    assert_eq!(metrics.count("/bell", "GET", 101), 1);
}

/// A client that leaves before its 101 is written: its place is free again, and nobody waits for it.
#[tokio::test]
async fn an_upgrade_that_does_not_happen_gives_the_place_back() {
    let places = Arc::new(Semaphore::new(1));
    let (ours, (agreed, was_agreed)) = (Arc::clone(&places), std::sync::mpsc::channel());
    let agree = async move |mut request: axum::extract::Request| {
        let upgrading = request.extensions().get::<Upgrading>().expect("asked for").clone();
        let place = Arc::clone(&ours).try_acquire_owned().expect("a place");
        upgrading.begin(&mut request, place.into(), drop);
        agreed.send(ours.available_permits()).expect("heard");
        (StatusCode::SWITCHING_PROTOCOLS, [("connection", "upgrade"), ("upgrade", "bell")])
    };
    let talk = Talk {
        peer: SocketAddr::from(([127, 0, 0, 1], 1)),
        router: Router::new().route("/", get(agree)),
        express: None,
        upgrading: Upgrading::default(),
        header_timeout: Duration::from_secs(5),
        max_head: 16_384,
    };
    let (mut client, server) = tokio::io::duplex(1024);
    client
        .write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: bell\r\n\r\nmore")
        .await
        .expect("sent");
    drop(client);
    let (_stop, stopping) = watch::channel(());
    tokio::time::timeout(Duration::from_secs(10), talk.over(server, stopping)).await.expect("over");
    assert_eq!((was_agreed.try_recv(), places.available_permits()), (Ok(0), 1));
}

#[tokio::test]
async fn the_stop_waits_for_requests_in_hand_and_cuts_idle_connections() {
    let (begun, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (started, finish) = (Arc::clone(&begun), Arc::clone(&go));
    let slow = get(move || async move {
        started.notify_one();
        finish.notified().await;
        "done"
    });
    let server = run(Router::new().route("/", get(|| async { "ok" })).route("/slow", slow), |_| ()).await;
    let mut idle = send(server.addr, "/").await;
    assert_eq!(line(&mut idle).await, "HTTP/1.1 200 OK");
    let mut busy = send(server.addr, "/slow").await;
    begun.notified().await;
    server.stop.send(()).expect("running");
    let mut rest = Vec::new();
    idle.read_to_end(&mut rest).await.expect("closed in order");
    assert!(TcpStream::connect(server.addr).await.is_err(), "nobody is accepted any more");
    assert!(!server.ended.is_finished());
    go.notify_one();
    assert_eq!(line(&mut busy).await, "HTTP/1.1 200 OK");
    server.ended.await.expect("ended");
    assert_eq!(server.serving.metrics.connections.get(), 0);
}

#[tokio::test]
async fn the_stop_ends_with_the_grace() {
    let begun = Arc::new(Notify::new());
    let started = Arc::clone(&begun);
    let never = get(move || async move {
        started.notify_one();
        std::future::pending::<()>().await;
    });
    let server = run(Router::new().route("/", never), |serving| serving.grace = Duration::from_millis(50)).await;
    let _busy = send(server.addr, "/").await;
    begun.notified().await;
    server.stop.send(()).expect("running");
    tokio::time::timeout(Duration::from_secs(5), server.ended).await.expect("within the grace").expect("ended");
}

#[tokio::test]
async fn connections_above_the_limit_wait_for_their_turn() {
    let router = Router::new().route("/", get(|| async { "ok" }));
    let server = run(router, |serving| serving.max_connections = 1).await;
    let mut first = send(server.addr, "/").await;
    assert_eq!(line(&mut first).await, "HTTP/1.1 200 OK");
    let mut second = send(server.addr, "/").await;
    let early = tokio::time::timeout(Duration::from_millis(50), second.read_u8()).await;
    assert!(early.is_err(), "the second waits");
    drop(first);
    assert_eq!(line(&mut second).await, "HTTP/1.1 200 OK");
    assert_eq!(server.serving.metrics.refused.get(), 2, "before the second and the next");
}

#[tokio::test]
async fn a_client_that_reads_nothing_of_its_answer_is_cut() {
    let held = Arc::new(());
    let answer = Arc::clone(&held);
    struct Large(Vec<u8>, #[expect(dead_code, reason = "counts who is left")] Arc<()>);
    impl AsRef<[u8]> for Large {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }
    // Above what the sockets' buffers take.
    let large = move || async move { bytes::Bytes::from_owner(Large(vec![0; 64 << 20], answer)) };
    let within = Duration::from_millis(100);
    let server = run(Router::new().route("/", get(large)), |serving| serving.write_timeout = within).await;
    let mut silent = send(server.addr, "/").await;
    assert_eq!(line(&mut silent).await, "HTTP/1.1 200 OK");
    let gone = async {
        while Arc::strong_count(&held) > 2 || server.serving.metrics.connections.get() > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), gone).await.expect("given up with its bytes");
}

#[tokio::test]
async fn slow_and_endless_headers_are_cut() {
    let router = Router::new().route("/", get(|| async { "ok" }));
    let server = run(router, |serving| serving.header_timeout = Duration::from_millis(50)).await;
    let mut slow = TcpStream::connect(server.addr).await.expect("connected");
    slow.write_all(b"GET / HTTP/1.1\r\nhost").await.expect("sent");
    let mut rest = Vec::new();
    let closed = tokio::time::timeout(Duration::from_secs(5), slow.read_to_end(&mut rest)).await;
    assert!(closed.is_ok(), "a slow head is not waited for");
    let mut idle = send(server.addr, "/").await;
    let closed = tokio::time::timeout(Duration::from_secs(5), idle.read_to_end(&mut rest)).await;
    assert!(closed.is_ok(), "nor is an idle connection");
    let head = server.serving.max_head;
    let mut large = send(server.addr, &format!("/?{}", "x".repeat(head - 100))).await;
    assert_eq!(line(&mut large).await, "HTTP/1.1 200 OK");
    let mut endless = send(server.addr, &format!("/?{}", "x".repeat(head))).await;
    assert!(line(&mut endless).await.starts_with("HTTP/1.1 431 "), "a head has an end");
    for (headers, status) in [(MAX_HEADERS, "HTTP/1.1 200 "), (MAX_HEADERS + 1, "HTTP/1.1 431 ")] {
        // One of them is the host.
        let more = "\r\na: b".repeat(headers - 2);
        let mut many = send(server.addr, &format!("/ HTTP/1.1{more}\r\nx: x")).await;
        assert!(line(&mut many).await.starts_with(status), "{headers} headers");
    }
}
