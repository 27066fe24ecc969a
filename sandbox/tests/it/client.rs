//! A plain Mirror client for the tests: answers what it is asked, remembers what it is told.

use dzvin_sandbox::{
    CollectionConfig, Control, DEFAULT_TOKEN, Generator, Knobs, Sandbox, SandboxConfig, SandboxHandle, Ts,
};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async_with_config};

pub(crate) const LIMIT: Duration = Duration::from_secs(5);
pub(crate) const PROCEDURE: &str = "procedure";

/// A sandbox with so many generated procedures that were there from the start.
pub(crate) async fn sandbox(objects: usize, turn: impl FnOnce(&mut Knobs)) -> (SandboxHandle, Control) {
    let mut knobs = Knobs::unlimited();
    knobs.mirror.noop_ms = 0;
    turn(&mut knobs);
    let mut generator = Generator::new(1);
    let seed = (0..objects).map(|_| generator.procedure()).collect();
    let collections = vec![
        CollectionConfig { name: PROCEDURE.to_owned(), path: "procedures".to_owned(), seed },
        CollectionConfig::new("registry-object", "registry/objects"),
    ];
    let handle = Sandbox::start(SandboxConfig { collections, knobs, ..SandboxConfig::default() }).await.unwrap();
    let control = handle.control();
    (handle, control)
}

/// What the client answers, and what it has seen.
#[derive(Debug, Clone)]
pub(crate) struct Memory {
    pub(crate) protocol: &'static str,
    pub(crate) cursor: Value,
    pub(crate) point: Value,
    pub(crate) ids: Vec<String>,
    pub(crate) docs: BTreeMap<String, Value>,
    pub(crate) asked: Vec<String>,
    pub(crate) kinds: Vec<String>,
    pub(crate) bad: usize,
    pub(crate) binary: usize,
}

impl Memory {
    pub(crate) fn new(protocol: &'static str) -> Self {
        Self {
            protocol,
            cursor: Value::Null,
            point: Value::Null,
            ids: Vec::new(),
            docs: BTreeMap::new(),
            asked: Vec::new(),
            kinds: Vec::new(),
            bad: 0,
            binary: 0,
        }
    }

    pub(crate) fn count(&self, kind: &str) -> usize {
        self.kinds.iter().filter(|k| *k == kind).count()
    }

    fn version(doc: &Value) -> &str {
        doc["_lastModified"].as_str().unwrap_or("")
    }

    /// Takes a frame in; gives the answer if it is a request.
    pub(crate) fn take(&mut self, text: &str) -> Option<Value> {
        let Ok(mut frame) = serde_json::from_str::<Value>(text) else {
            self.bad += 1;
            return None;
        };
        let kind = frame["type"].as_str().unwrap_or("").to_owned();
        self.kinds.push(kind.clone());
        let data = match kind.as_str() {
            "protocol-request" => json!(self.protocol),
            "timestamp-request" => self.cursor.clone(),
            "init-point-request" => self.point.clone(),
            "ids-since-timestamp-request" => json!(self.ids),
            _ => {
                self.apply(&kind, &frame);
                return None;
            }
        };
        self.asked.push(kind);
        frame["data"] = data;
        Some(frame)
    }

    fn apply(&mut self, kind: &str, frame: &Value) {
        let data = &frame["data"];
        let id = data["_id"].as_str().unwrap_or("").to_owned();
        match kind {
            "upsert" => {
                let newer = self.docs.get(&id).is_none_or(|old| Self::version(old) <= Self::version(data));
                if newer {
                    self.docs.insert(id, data.clone());
                }
            }
            "update" => {
                let doc = self.docs.get_mut(&id).expect("an update of an unknown document");
                for (key, value) in data["$set"].as_object().unwrap() {
                    match key.split_once('.') {
                        Some((first, second)) => doc[first][second] = value.clone(),
                        None => doc[key] = value.clone(),
                    }
                }
            }
            "delete" => {
                self.docs.remove(&id);
            }
            _ => {}
        }
        if frame["ts"].is_array() {
            let ts = |v: &Value| serde_json::from_value::<Ts>(v.clone()).ok();
            self.cursor = if ts(&self.cursor) < ts(&frame["ts"]) { frame["ts"].clone() } else { self.cursor.clone() };
        }
    }
}

pub(crate) type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

pub(crate) async fn open(
    handle: &SandboxHandle,
    headers: &[(&'static str, &str)],
) -> Result<Socket, tungstenite::Error> {
    open_at(&handle.mirror_url(PROCEDURE), headers).await
}

pub(crate) async fn open_at(url: &str, headers: &[(&'static str, &str)]) -> Result<Socket, tungstenite::Error> {
    let mut request = url.into_client_request().unwrap();
    for (name, value) in headers {
        request.headers_mut().insert(*name, value.parse().unwrap());
    }
    let config = WebSocketConfig::default().max_message_size(Some(16 << 20)).max_frame_size(Some(16 << 20));
    Ok(connect_async_with_config(request, Some(config), true).await?.0)
}

pub(crate) const GOOD: [(&str, &str); 2] = [("authorization", DEFAULT_TOKEN), ("platform-version", "1.0")];

/// A connected client.
pub(crate) struct Client {
    pub(crate) socket: Socket,
    pub(crate) memory: Memory,
}

impl Client {
    pub(crate) async fn connect(handle: &SandboxHandle, memory: Memory) -> Self {
        Self { socket: open(handle, &GOOD).await.unwrap(), memory }
    }

    /// One message; the error or the close is what ends it.
    pub(crate) async fn step(&mut self) -> Result<(), Option<tungstenite::Error>> {
        let message = tokio::time::timeout(LIMIT, self.socket.next()).await.expect("nothing came in time");
        let text = match message {
            Some(Ok(Message::Text(text))) => text.to_string(),
            Some(Ok(Message::Binary(bytes))) => {
                self.memory.binary += 1;
                String::from_utf8(bytes.to_vec()).unwrap()
            }
            Some(Ok(Message::Close(frame))) => {
                let code = frame.map(|f| u16::from(f.code));
                let _ = self.socket.close(None).await;
                self.memory.kinds.push(format!("close {}", code.unwrap_or(0)));
                return Err(None);
            }
            Some(Ok(_)) => return Ok(()),
            Some(Err(error)) => return Err(Some(error)),
            None => return Err(None),
        };
        if let Some(answer) = self.memory.take(&text) {
            self.socket.send(Message::text(answer.to_string())).await.map_err(Some)?;
        }
        Ok(())
    }

    /// Goes on until the memory is as wanted.
    pub(crate) async fn until(&mut self, mut wanted: impl FnMut(&Memory) -> bool) {
        while !wanted(&self.memory) {
            self.step().await.unwrap();
        }
    }

    /// Goes on until the connection ends; what ended it.
    pub(crate) async fn ending(&mut self) -> Option<tungstenite::Error> {
        loop {
            if let Err(end) = self.step().await {
                return end;
            }
        }
    }

    /// Until it knows what the database knows.
    pub(crate) async fn until_equal(&mut self, control: &Control) {
        let (top, _) = control.top(PROCEDURE).unwrap();
        let top = json!(top);
        self.until(|memory| memory.cursor == top).await;
        assert_eq!(self.memory.docs, truth(control));
    }
}

pub(crate) fn truth(control: &Control) -> BTreeMap<String, Value> {
    let rows = control.truth(PROCEDURE).unwrap();
    rows.into_iter().map(|row| (row.id, serde_json::from_str(&row.raw).unwrap())).collect()
}

/// Some id of the database.
pub(crate) fn some_id(control: &Control) -> String {
    control.truth(PROCEDURE).unwrap()[0].id.clone()
}
