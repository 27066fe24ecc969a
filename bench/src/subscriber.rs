//! Clients: connections of the Centrifuge protocol in JSON that do nothing but note when each publication came.
//!
//! They live on a thread and a runtime of their own, so nothing else of the bench delays them. The time is taken when a message
//! has come out of the socket, before it is read; a client that falls behind therefore shows its own slowness too, on the safe
//! side.

use crate::error::{BenchError, Fallible};
use crate::feed::{DONE, DUE, now_micros};
use futures_util::{SinkExt, StreamExt};
use serde_json::json;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async, tungstenite::Message};

/// How long connecting and subscribing may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// One publication as a client saw it; times in microseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Receipt {
    /// The channel's offset.
    pub(crate) offset: i64,
    /// When the Mirror was to write the object; zero of a reference, which brings no document.
    pub(crate) due: i64,
    /// When it did; zero of a reference.
    pub(crate) done: i64,
    /// When it was here.
    pub(crate) came: i64,
}

/// Clients at work.
#[derive(Debug)]
pub(crate) struct Subscribers {
    thread: JoinHandle<Fallible<Vec<Vec<Receipt>>>>,
    deadline: watch::Sender<Option<Instant>>,
}

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

impl Subscribers {
    /// Connects so many clients and waits until all are subscribed. Each leaves after the publication of this offset.
    pub(crate) async fn start(url: &str, token: &str, channel: &str, count: usize, last: i64) -> Fallible<Self> {
        let (ready_in, mut ready) = mpsc::channel(count.max(1));
        let (deadline, until) = watch::channel(None);
        let (url, channel) = (url.to_owned(), channel.to_owned());
        let commands = [
            json!({"id": 1, "connect": {"token": token, "name": "dzvin-bench"}}).to_string(),
            json!({"id": 2, "subscribe": {"channel": channel}}).to_string(),
        ];
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.map_err(BenchError::because("starting the clients"))?;
            runtime.block_on(async {
                let mut clients = Vec::with_capacity(count);
                for _ in 0..count {
                    let (url, commands, ready, until) =
                        (url.clone(), commands.clone(), ready_in.clone(), until.clone());
                    clients.push(tokio::spawn(client(url, commands, ready, until, last)));
                }
                drop(ready_in);
                let mut all = Vec::with_capacity(count);
                for client in clients {
                    all.push(client.await.map_err(BenchError::because("running a client"))??);
                }
                Ok(all)
            })
        });
        let it = Self { thread, deadline };
        for _ in 0..count {
            if ready.recv().await.is_none() {
                // All that are left have failed: the first error says why.
                it.collect(Duration::ZERO).await?;
                return Err(BenchError::new("a client left before it was subscribed"));
            }
        }
        Ok(it)
    }

    /// What came: waits for the rest, but not for ever.
    pub(crate) async fn collect(self, limit: Duration) -> Fallible<Vec<Vec<Receipt>>> {
        self.deadline.send_replace(Some(Instant::now() + limit));
        let joined = tokio::task::spawn_blocking(move || self.thread.join()).await;
        let joined = joined.map_err(BenchError::because("waiting for the clients"))?;
        joined.map_err(|_| BenchError::new("a client panicked"))?
    }
}

async fn client(
    url: String,
    commands: [String; 2],
    ready: mpsc::Sender<()>,
    mut until: watch::Receiver<Option<Instant>>,
    last: i64,
) -> Fallible<Vec<Receipt>> {
    let greeting = greet(&url, commands);
    let (mut socket, mut receipts) = timeout(PATIENCE, greeting).await.map_err(BenchError::because("connecting"))??;
    let _ = ready.send(()).await;
    drop(ready);
    let over = async move {
        let deadline = match until.wait_for(Option::is_some).await {
            Ok(deadline) => *deadline,
            Err(_) => None,
        };
        let _ = timeout_at(deadline.unwrap_or_else(Instant::now), std::future::pending::<()>()).await;
    };
    tokio::pin!(over);
    while receipts.last().is_none_or(|receipt| receipt.offset < last) {
        let text = tokio::select! {
            text = next(&mut socket) => text?,
            () = &mut over => break,
        };
        let came = now_micros();
        note(&text, came, &mut socket, &mut receipts).await?;
    }
    let _ = socket.close(None).await;
    Ok(receipts)
}

/// Connects and subscribes. Publications may come right behind the answer.
async fn greet(url: &str, commands: [String; 2]) -> Fallible<(Socket, Vec<Receipt>)> {
    let (mut socket, _) = connect_async(url).await.map_err(BenchError::because("connecting a client"))?;
    if let MaybeTlsStream::Plain(stream) = socket.get_ref() {
        let _ = stream.set_nodelay(true);
    }
    let mut receipts = Vec::new();
    for (id, command) in (1..).zip(commands) {
        send(&mut socket, command).await?;
        let (reply, error) = (format!("{{\"id\":{id},"), format!("{{\"id\":{id},\"error\""));
        loop {
            let text = next(&mut socket).await?;
            let came = now_micros();
            if let Some(refused) = text.lines().find(|line| line.starts_with(&error)) {
                return Err(BenchError::new(format!("the hub refused a client: {refused}")));
            }
            note(&text, came, &mut socket, &mut receipts).await?;
            if text.lines().any(|line| line.starts_with(&reply)) {
                break;
            }
        }
    }
    Ok((socket, receipts))
}

async fn send(socket: &mut Socket, text: String) -> Fallible<()> {
    socket.send(Message::text(text)).await.map_err(BenchError::because("writing to the hub"))
}

/// The next text message.
async fn next(socket: &mut Socket) -> Fallible<String> {
    loop {
        match socket.next().await {
            Some(Ok(Message::Text(text))) => return Ok(text.as_str().to_owned()),
            Some(Ok(Message::Close(frame))) => {
                return Err(BenchError::new(format!("the hub closed a client: {frame:?}")));
            }
            Some(Ok(_)) => {}
            Some(Err(error)) => return Err(BenchError::because("reading from the hub")(error)),
            None => return Err(BenchError::new("the hub cut a client off")),
        }
    }
}

/// Notes the publications of a message and answers a ping.
async fn note(text: &str, came: i64, socket: &mut Socket, receipts: &mut Vec<Receipt>) -> Fallible<()> {
    for line in text.lines() {
        if line == "{}" {
            send(socket, "{}".to_owned()).await?;
        } else if line.starts_with("{\"push\"") {
            receipts.extend(receipt(line, came));
        }
    }
    Ok(())
}

/// Reads only what is needed: a whole parse of every document would be most of the bench's own time. The channel's offset
/// is the last one in the text; the members of the bench stand at the beginning of the document.
fn receipt(push: &str, came: i64) -> Option<Receipt> {
    let number = |name: &str, from: Option<usize>| {
        let rest = &push[from? + name.len() + 3..];
        rest[..rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len())].parse().ok()
    };
    let first = |name: &str| number(name, push.find(&format!("\"{name}\":")));
    let (due, done) = (first(DUE).unwrap_or_default(), first(DONE).unwrap_or_default());
    Some(Receipt { offset: number("offset", push.rfind("\"offset\":"))?, due, done, came })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_push_is_read_without_parsing_it() {
        let push = format!(
            "{{\"push\":{{\"channel\":\"entities.procedure\",\"pub\":{{\"data\":{{\"offset\":7,\"doc\":{{\"{DUE}\":11,\"{DONE}\":12,\"t\":\"x\"}}}},\"offset\":7,\"tags\":{{}}}}}}}}"
        );
        assert_eq!(receipt(&push, 13), Some(Receipt { offset: 7, due: 11, done: 12, came: 13 }));
        let reference = Receipt { offset: 7, due: 0, done: 0, came: 1 };
        assert_eq!(receipt("{\"push\":{\"pub\":{\"data\":{\"ref\":true},\"offset\":7}}}", 1), Some(reference));
        assert_eq!(receipt("{\"push\":{}}", 1), None);
    }
}
