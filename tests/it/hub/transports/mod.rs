//! The transports beside the WebSocket of both directions: unmodified clients forced onto each, clients that only listen, and
//! whoever does not mean well.

mod clients;
mod listening;
mod load;
mod refused;

use std::{path::Path, process::Stdio};

use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    process::Command,
    time::timeout,
};

use super::server::{API_KEY, publish, with_key};
use crate::{
    nginx::Nginx,
    support::{
        eventually::{eventually, patience},
        hub::{Hub, World},
    },
};

const ORIGIN: &str = "https://desk.example";

fn rules() -> String {
    with_key(
        "[channels.namespaces.chat]\nsubscribe = \"signed_in\"\n\
         [channels.namespaces.room]\nsubscribe = \"signed_in\"\npublish = \"signed_in\"\n",
    )
}

/// The same, with pages of another site that may connect.
fn rules_with_origin() -> impl FnOnce(String) -> String {
    |text| text.replace("[http]", &format!("[http]\nallowed_origins = [\"{ORIGIN}\"]"))
}

fn node(script: &str, certificate: Option<&Path>) -> Command {
    let mut command = Command::new("node");
    command.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients"));
    command.args(["--experimental-eventsource", "--no-warnings", script]);
    command.envs(certificate.map(|certificate| ("NODE_EXTRA_CA_CERTS", certificate)));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit()).kill_on_drop(true);
    command
}

/// Every trace of the clients is gone.
async fn nobody_left(hub: &Hub) {
    eventually("nobody is left", async || {
        hub.metric("dzvin_sessions").await + hub.metric("dzvin_mailboxes").await == 0.0
    })
    .await;
    assert_eq!(hub.metric("dzvin_session_panics_total").await, 0.0);
    assert_eq!(hub.metric("dzvin_http_panics_total").await, 0.0);
}

/// A stream that is read by hand.
struct Stream {
    response: reqwest::Response,
    read: Vec<u8>,
}

impl Stream {
    /// Asks for one with this first body.
    async fn post(hub: &Hub, transport: &str, body: &str) -> Self {
        let request = reqwest::Client::new().post(format!("http://{}/connection/{transport}", hub.addr));
        let response = request.body(body.to_owned()).send().await.expect("answered");
        assert_eq!(response.status(), 200);
        Self { response, read: Vec::new() }
    }

    /// The same, signed in; answers the connect result as well.
    async fn connected(hub: &Hub, transport: &str) -> (Self, Value) {
        let mut stream = Self::post(hub, transport, &connect(&World::token("viewer"))).await;
        let connected = stream.next().await.expect("an answer")["connect"].clone();
        assert!(connected["session"].is_string() && connected["node"].is_string(), "{connected}");
        (stream, connected)
    }

    /// The next message, of lines or of events; `None` at the end.
    async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.read.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.read.drain(..=end).collect();
                let line = line.strip_prefix(b"data: ").unwrap_or(&line);
                // Nothing, or a ping.
                if matches!(line.trim_ascii(), b"" | b"{}") {
                    continue;
                }
                return Some(serde_json::from_slice(line).expect("json"));
            }
            let piece = timeout(patience(), self.response.chunk()).await.expect("in time").expect("an orderly end");
            let Some(piece) = piece else {
                assert_eq!(self.read, b"", "nothing is torn");
                return None;
            };
            self.read.extend_from_slice(&piece);
        }
    }
}

fn connect(token: &str) -> String {
    json!({"id": 1, "connect": {"token": token}}).to_string()
}

/// Posts commands; answers the status and the problem's code.
async fn emulate(hub: &Hub, body: impl Into<reqwest::Body>) -> (u16, Value) {
    let request = reqwest::Client::new().post(format!("http://{}/emulation", hub.addr)).body(body);
    let answer = request.send().await.expect("answered");
    let status = answer.status().as_u16();
    (status, serde_json::from_slice::<Value>(&answer.bytes().await.expect("read")).unwrap_or_default()["code"].take())
}
