//! A WebSocket without a library between: frames as bytes, sound or not, over TCP.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::support::{
    eventually::patience,
    hub::{Hub, World},
};

pub const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
pub const TEXT: u8 = 0x1;
pub const BINARY: u8 = 0x2;
pub const CONTINUATION: u8 = 0x0;
pub const CLOSE: u8 = 0x8;
pub const PING: u8 = 0x9;
pub const PONG: u8 = 0xa;
pub const FIN: u8 = 0x80;
/// A command and its reply.
pub const ASK: &str = r#"{"id":2,"ping":{}}"#;

/// Where a client of the Centrifuge protocol upgrades.
pub const WEBSOCKET: &str = "/connection/websocket";

/// One connection without a library between.
pub struct Raw(TcpStream);

/// The request for one at this address.
pub fn upgrade(hub: &Hub, path: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n",
        hub.addr
    )
}

impl Raw {
    /// Upgraded, nobody yet.
    pub async fn open(hub: &Hub) -> Self {
        Self::at(hub, WEBSOCKET).await
    }

    /// The same at another address.
    pub async fn at(hub: &Hub, path: &str) -> Self {
        Self::saying(hub, path, b"").await
    }

    /// The same, having said this with the request.
    pub async fn saying(hub: &Hub, path: &str, said: &[u8]) -> Self {
        let mut socket = TcpStream::connect(hub.addr).await.expect("connected");
        socket.set_nodelay(true).expect("asked");
        socket.write_all(&[upgrade(hub, path).as_bytes(), said].concat()).await.expect("sent");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(timeout(patience(), socket.read_u8()).await.expect("in time").expect("an answer"));
        }
        let head = String::from_utf8(head).expect("ascii").to_lowercase();
        assert!(head.starts_with("http/1.1 101 ") && !head.contains("sec-websocket-extensions"), "{head}");
        // Clients of the protocol that most speak come past the layers, which would have given it an id.
        assert_eq!(head.contains("x-request-id"), !path.starts_with(WEBSOCKET), "{head}");
        Self(socket)
    }

    /// Signed in.
    pub async fn connected(hub: &Hub) -> Self {
        Self::connected_with(hub, 0).await
    }

    /// The same, having said so many bytes of its command with the request.
    pub async fn connected_with(hub: &Hub, beginning: usize) -> Self {
        let command = sign_in();
        let mut it = Self::saying(hub, WEBSOCKET, &command[..beginning]).await;
        it.send(&command[beginning..]).await;
        let (first, reply) = it.hear().await.expect("a reply");
        assert!(first == FIN | TEXT && reply.starts_with(br#"{"id":1,"connect":{"#), "{beginning} with the request");
        it
    }

    /// Signs in; answers the frame of the reply.
    pub async fn connect(&mut self) -> (u8, Vec<u8>) {
        self.send(&sign_in()).await;
        self.hear().await.expect("a reply")
    }

    pub async fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).await.expect("sent");
    }

    /// A frame of the server: its first byte and its payload; `None` at the end of the stream.
    pub async fn hear(&mut self) -> Option<(u8, Vec<u8>)> {
        timeout(patience(), async {
            let first = self.0.read_u8().await.ok()?;
            let size = match self.0.read_u8().await.expect("a length") {
                126 => u64::from(self.0.read_u16().await.expect("a length")),
                127 => self.0.read_u64().await.expect("a length"),
                short => {
                    assert!(short < 0x80, "a server masks nothing");
                    u64::from(short)
                }
            };
            let mut payload = vec![0; usize::try_from(size).expect("small")];
            self.0.read_exact(&mut payload).await.expect("a payload");
            Some((first, payload))
        })
        .await
        .expect("in time")
    }

    pub async fn expect(&mut self, first: u8, payload: &[u8], what: &str) {
        assert_eq!(self.hear().await, Some((first, payload.to_vec())), "{what}");
    }

    /// The connection still works.
    pub async fn works(&mut self, what: &str) {
        self.send(&frame(FIN | TEXT, ASK.as_bytes())).await;
        self.expect(FIN | TEXT, ASK.as_bytes(), what).await;
    }

    /// A close frame with this code is the next and the last thing to be heard.
    pub async fn closed(mut self, code: u16, what: &str) {
        let (first, payload) = self.hear().await.unwrap_or_else(|| panic!("{what}: no close frame"));
        assert_eq!(first, FIN | CLOSE, "{what}: {payload:?}");
        assert_eq!(payload.get(..2), Some(&code.to_be_bytes()[..]), "{what}");
        assert!(std::str::from_utf8(&payload[2..]).is_ok() && payload.len() <= 125, "{what}");
        assert_eq!(self.hear().await, None, "{what}: nothing follows");
    }
}

pub fn header(first: u8, length: &[u8], mask: [u8; 4]) -> Vec<u8> {
    [&[first], length, &mask[..]].concat()
}

pub fn masked_with(first: u8, payload: &[u8], mask: [u8; 4]) -> Vec<u8> {
    let length = match payload.len() {
        n @ 0..=125 => vec![0x80 | n as u8],
        n @ 126..=0xffff => [&[0x80 | 126][..], &(n as u16).to_be_bytes()].concat(),
        n => [&[0x80 | 127][..], &(n as u64).to_be_bytes()].concat(),
    };
    let mut out = header(first, &length, mask);
    out.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, key)| byte ^ key));
    out
}

/// The command that signs a viewer in.
pub fn sign_in() -> Vec<u8> {
    let connect = format!(r#"{{"id":1,"connect":{{"token":"{}"}}}}"#, World::token("viewer"));
    frame(FIN | TEXT, connect.as_bytes())
}

pub fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    masked_with(first, payload, MASK)
}

pub fn close(payload: &[u8]) -> Vec<u8> {
    frame(FIN | CLOSE, payload)
}
