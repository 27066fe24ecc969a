//! A client that says exactly what a test wants, over a WebSocket.

use std::{collections::VecDeque, net::SocketAddr};

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::{net::TcpStream, time::timeout};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async, tungstenite::Message};

use super::{
    eventually::patience,
    hub::{Hub, World},
};

/// One connection.
pub struct Client(pub WebSocketStream<MaybeTlsStream<TcpStream>>, VecDeque<Value>);

impl Client {
    pub async fn new(hub: &Hub) -> Self {
        Self::at(hub.addr).await
    }

    pub async fn at(addr: SocketAddr) -> Self {
        let url = format!("ws://{addr}/connection/websocket");
        Self(connect_async(url).await.expect("a connection").0, VecDeque::new())
    }

    /// Signed in with a role of the default configuration.
    pub async fn connected(hub: &Hub, role: &str) -> Self {
        let mut client = Self::new(hub).await;
        let reply = client.ask(&json!({"id": 1, "connect": {"token": World::token(role)}}).to_string()).await;
        assert!(reply["connect"]["client"].is_string(), "{reply}");
        client
    }

    pub async fn ask(&mut self, text: &str) -> Value {
        self.0.send(text.to_owned().into()).await.expect("sent");
        self.receive().await
    }

    /// A reply, or `{"close": code}`.
    pub async fn receive(&mut self) -> Value {
        timeout(patience(), self.next()).await.expect("an answer")
    }

    /// The same, whenever it comes.
    pub async fn next(&mut self) -> Value {
        loop {
            if let Some(reply) = self.1.pop_front() {
                return reply;
            }
            match self.0.next().await.expect("open").expect("well formed") {
                // Replies to one reading come in one frame.
                Message::Text(text) => {
                    self.1.extend(text.lines().map(|line| serde_json::from_str::<Value>(line).expect("json")));
                }
                Message::Close(frame) => return json!({"close": u16::from(frame.expect("a code").code)}),
                _ => {}
            }
        }
    }
}
