//! Methods that clients call: what they answer, refuse, or fail to, in both forms.

use dzvin_protocols::channels::centrifuge::ReplyError;
use futures_util::future::BoxFuture;

use super::*;
use crate::channels::{Answered, Handler};

const NOT_THERE: ReplyError<'static> = ReplyError { code: 404, message: "not there", temporary: false };

fn handlers() -> Handlers {
    let echo: Handler = Arc::new(|user: &Identity, data: Bytes| -> BoxFuture<'_, Answered> {
        let answer = format!("{{\"user\":\"{}\",\n\"data\":{}}}", user.user, String::from_utf8_lossy(&data));
        Box::pin(async move { Ok(answer.into()) })
    });
    let refuses: Handler =
        Arc::new(|_: &Identity, _: Bytes| -> BoxFuture<'_, Answered> { Box::pin(async { Err(NOT_THERE) }) });
    let hangs: Handler =
        Arc::new(|_: &Identity, _: Bytes| -> BoxFuture<'_, Answered> { Box::pin(std::future::pending()) });
    let falls: Handler = Arc::new(|_: &Identity, _: Bytes| -> BoxFuture<'_, Answered> {
        Box::pin(async { panic!("a method of a test") })
    });
    let at_once: Handler =
        Arc::new(|_: &Identity, _: Bytes| -> BoxFuture<'_, Answered> { panic!("a method of a test, at once") });
    Handlers::new([("echo", echo), ("refuses", refuses), ("hangs", hangs), ("falls", falls), ("at.once", at_once)])
}

async fn node() -> Node {
    Node::with_handlers(Limits { command: Duration::from_millis(100), ..Limits::default() }, handlers()).await
}

/// What each comes to: the code of its error, or nothing.
const CALLS: [(&str, u64); 6] =
    [("refuses", 404), ("hangs", 100), ("falls", 100), ("at.once", 100), ("no.such", 108), ("", 108)];

#[tokio::test]
async fn methods_answer_refuse_and_fail_alone() {
    let node = node().await;
    let mut client = node.client().await.connected("reader").await;
    let echoed = json!({"id": 2, "rpc": {"data": {"user": "u1", "data": {"n": 1}}}});
    let echo = json!({"id": 2, "rpc": {"method": "echo", "data": {"n": 1}}});
    assert_eq!(client.ask(echo.clone()).await, echoed);
    for (method, code) in CALLS {
        let reply = client.ask(json!({"id": 3, "rpc": {"method": method}})).await;
        assert_eq!(reply["error"]["code"], code, "{method}: {reply}");
        // What hangs or falls is worth another try; what refuses is not.
        assert_eq!(reply["error"]["temporary"] == true, code == 100, "{method}: {reply}");
        assert_eq!(client.ask(echo.clone()).await, echoed, "after {method} the session goes on");
    }
    assert_eq!(node.hub.metrics.panics.get(), 2);
    let mut nobody = node.client().await;
    assert_eq!(nobody.ask(echo).await, json!({"close": 3501}), "who has not said who it is calls nothing");
}

/// A member with its length before it: short ones alone are written here.
fn member(tag: u8, body: &[u8]) -> Vec<u8> {
    let length = u8::try_from(body.len()).ok().filter(|length| *length < 128).expect("a short one");
    [&[tag << 3 | 2, length], body].concat()
}

fn command(id: u8, tag: u8, body: &[u8]) -> Vec<u8> {
    let command = [&[1 << 3, id][..], &member(tag, body)].concat();
    [&[u8::try_from(command.len()).expect("a short one")], &command[..]].concat()
}

fn varint(from: &mut &[u8]) -> u64 {
    let (mut value, mut shift) = (0, 0);
    loop {
        let (byte, rest) = from.split_first().expect("a number");
        *from = rest;
        value |= u64::from(byte & 0x7f) << shift;
        shift += 7;
        if byte & 0x80 == 0 {
            return value;
        }
    }
}

/// The members of a message: its numbers, and what has a length.
fn members(mut from: &[u8]) -> Vec<(u64, u64, Vec<u8>)> {
    let mut all = Vec::new();
    while !from.is_empty() {
        let key = varint(&mut from);
        let number = varint(&mut from);
        if key & 7 == 2 {
            let (body, rest) = from.split_at(usize::try_from(number).expect("a length"));
            all.push((key >> 3, 0, body.to_vec()));
            from = rest;
        } else {
            all.push((key >> 3, number, Vec::new()));
        }
    }
    all
}

/// Asks, and answers the one member of the reply that is not its id.
async fn ask(client: &mut Client, command: Vec<u8>) -> (u64, Vec<u8>) {
    client.0.send(tungstenite::Message::Binary(command.into())).await.expect("sent");
    let message = timeout(PATIENCE, client.0.next()).await.expect("in time").expect("open").expect("well formed");
    let tungstenite::Message::Binary(reply) = message else { panic!("{message:?}") };
    let mut reply = &reply[..];
    let length = varint(&mut reply);
    assert_eq!(length, reply.len() as u64, "one reply");
    let (tag, _, body) = members(reply).into_iter().find(|(tag, ..)| *tag != 1).expect("what it is about");
    (tag, body)
}

#[tokio::test]
async fn methods_are_the_same_in_protobuf() {
    let node = node().await;
    let mut client = Client::over(node.socket_on(Wire::CentrifugeProtobuf).await).await;
    assert_eq!(ask(&mut client, command(1, 4, &member(1, b"reader"))).await.0, 5);
    let call = |method: &str| command(2, 13, &[member(1, b"7"), member(2, method.as_bytes())].concat());
    let (tag, result) = ask(&mut client, call("echo")).await;
    assert_eq!((tag, &members(&result)[0].2[..]), (13, &b"{\"user\":\"u1\",\n\"data\":7}"[..]));
    for (method, code) in CALLS {
        let (tag, error) = ask(&mut client, call(method)).await;
        assert_eq!((tag, members(&error)[0].1), (2, code), "{method}");
    }
}
