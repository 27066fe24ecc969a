//! Large answers that nobody reads: they take no more memory than is set aside for them, and not for ever.

use std::net::SocketAddr;

use tokio::{
    io::AsyncWriteExt,
    net::{TcpSocket, TcpStream},
};

use crate::{
    spine::caught_up,
    support::{
        eventually::eventually,
        hub::{World, small_object},
    },
};

const MIB: usize = 1024 * 1024;
/// Near the upstream's largest, and more than the buffers of a socket take.
const LARGE: usize = 7 * MIB;

/// Asks and never reads.
async fn silent(addr: SocketAddr, path: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("socket");
    socket.set_recv_buffer_size(4096).expect("small");
    let mut socket = socket.connect(addr).await.expect("connected");
    let head = format!("GET {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n\r\n", World::token("viewer"));
    socket.write_all(head.as_bytes()).await.expect("asked");
    socket
}

#[tokio::test]
async fn clients_that_never_read_do_not_fill_the_memory() {
    let world = World::new(1, false).await;
    world.sandbox.control().put_sized("procedure", &small_object(7), LARGE).expect("a large object");
    let limits = "[http]\nanswer_bytes = '16MiB'\nrequest_timeout = '3s'\nwrite_timeout = '5s'\n";
    let mut hub = world.unstarted("a");
    hub.reconfigure(|text| text.replace("[http]\n", limits));
    hub.start().await;
    caught_up(&world, &hub).await;
    let path = format!("/api/v1/entities/procedure/{:024x}", 7);
    let ask = async || {
        let asked =
            reqwest::Client::new().get(format!("http://{}{path}", hub.addr)).bearer_auth(World::token("viewer"));
        let answer = asked.send().await.expect("answered");
        let (status, wait) = (answer.status().as_u16(), answer.headers().contains_key("retry-after"));
        (status, wait, answer.bytes().await.expect("read").len())
    };
    assert!(ask().await.2 > LARGE, "there is room for one");
    let before = hub.peak_memory();
    let mut clients = Vec::new();
    for _ in 0..40 {
        clients.push(silent(hub.addr, &path).await);
    }
    let held = async || hub.metric("dzvin_http_answer_bytes").await;
    eventually("one is held", async || held().await >= LARGE as f64).await;
    let (status, wait, _) = ask().await;
    assert_eq!((status, wait), (503, true), "no room, and when to come back");
    assert!(held().await <= (16 * MIB) as f64);
    let list = reqwest::Client::new().get(format!("http://{}/api/v1/entities/procedure?limit=1", hub.addr));
    let list = list.bearer_auth(World::token("viewer")).send().await.expect("answered");
    assert_eq!(list.status(), 200, "what is small passes");
    // The kernel counts the peak in steps: it may seem to sink.
    let grown = hub.peak_memory().saturating_sub(before);
    assert!(grown < 4 * LARGE as u64, "forty answers of 7 MiB took {} MiB", grown / MIB as u64);
    // Nobody has read a byte; those who were served are cut, and their room comes back.
    eventually("the room is free again", async || held().await == 0.0).await;
    assert_eq!(ask().await.0, 200);
    assert!(hub.metric("dzvin_http_answers_refused_total").await > 30.0);
    drop(clients);
}
