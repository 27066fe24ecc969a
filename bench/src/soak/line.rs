//! One connection: a socket, TLS over it where nginx asks for it, the upgrade, and frames. What a client says is small, what it
//! hears is read in pieces whose size and pace it chooses.

use crate::realtime::wire;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// How long connecting, and one write, may take.
const PATIENCE: Duration = Duration::from_secs(15);
/// Bytes that are read at a time.
const PIECE: usize = 16 * 1024;
/// Above this a frame of the server is a fault of its: a recovery has less.
const MAX_FRAME: usize = 4 << 20;

/// Both ways of a connection.
pub(crate) trait Duplex: AsyncRead + AsyncWrite + Unpin + Send + std::fmt::Debug {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send + std::fmt::Debug> Duplex for T {}

/// A certificate that is trusted: that of an nginx of ours.
#[derive(Clone)]
pub(crate) struct Tls(TlsConnector);

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tls")
    }
}

impl Tls {
    /// Trusts this certificate and no other.
    pub(crate) fn trusting(certificate: &Path) -> Result<Self, String> {
        let pem = CertificateDer::from_pem_file(certificate).map_err(|error| error.to_string())?;
        let mut roots = RootCertStore::empty();
        roots.add(pem).map_err(|error| error.to_string())?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = config.map_err(|error| error.to_string())?.with_root_certificates(roots).with_no_client_auth();
        Ok(Self(TlsConnector::from(Arc::new(config))))
    }
}

/// What came.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Came {
    /// A whole message.
    Message(Vec<u8>),
    /// A ping of the WebSocket itself.
    Ping(Vec<u8>),
    /// The server closes with this code; zero when it cut the connection.
    Closed(u16),
}

/// A connection after its upgrade.
#[derive(Debug)]
pub(crate) struct Line {
    stream: Box<dyn Duplex>,
    carry: Vec<u8>,
    /// How much is read at a time.
    pub(crate) piece: usize,
}

/// A bare connection; `buffer` is how much the kernel may keep of what is not read.
pub(crate) async fn connect(
    address: SocketAddr,
    tls: Option<&Tls>,
    buffer: Option<u32>,
) -> io::Result<Box<dyn Duplex>> {
    let socket = TcpSocket::new_v4()?;
    if let Some(buffer) = buffer {
        socket.set_recv_buffer_size(buffer)?;
    }
    let connecting = async {
        let stream = socket.connect(address).await?;
        stream.set_nodelay(true)?;
        match tls {
            None => Ok(Box::new(stream) as Box<dyn Duplex>),
            Some(Tls(connector)) => {
                let name = ServerName::IpAddress(address.ip().into());
                Ok(Box::new(connector.connect(name, stream).await?) as Box<dyn Duplex>)
            }
        }
    };
    timeout(PATIENCE, connecting).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

impl Line {
    /// Asks for the upgrade; answers why not, if not.
    pub(crate) async fn open(mut stream: Box<dyn Duplex>, host: SocketAddr, path: &str) -> Result<Self, String> {
        let request = wire::upgrade(&host.to_string(), path);
        let mut carry = Vec::new();
        let asking = async {
            stream.write_all(request.as_bytes()).await?;
            loop {
                if let Some(end) = wire::head_end(&carry) {
                    return Ok(end);
                }
                if stream.read_buf(&mut carry).await? == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
        };
        let asked: io::Result<usize> =
            timeout(PATIENCE, asking).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        let end = asked.map_err(|error| error.kind().to_string())?;
        let head = String::from_utf8_lossy(&carry[..end]);
        let status = head.split(' ').nth(1).unwrap_or("no status").to_owned();
        if status != "101" {
            return Err(format!("status {status}"));
        }
        carry.drain(..end);
        Ok(Self { stream, carry, piece: PIECE })
    }

    /// Says something, in one frame.
    pub(crate) async fn say(&mut self, opcode: u8, payload: &[u8]) -> io::Result<()> {
        let mut frame = Vec::with_capacity(payload.len() + 14);
        wire::client_frame(opcode, payload, &mut frame);
        self.write(&frame).await
    }

    /// Writes bytes as they are.
    pub(crate) async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let writing = async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        };
        timeout(PATIENCE, writing).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    /// The next thing that comes. Nothing is lost when this is given up half-way.
    pub(crate) async fn next(&mut self) -> Came {
        loop {
            match self.take() {
                Ok(Some(came)) => return came,
                Ok(None) => {}
                Err(()) => return Came::Closed(1002),
            }
            self.carry.reserve(self.piece);
            let read = (&mut self.stream).take(self.piece as u64).read_buf(&mut self.carry).await;
            if !read.is_ok_and(|len| len > 0) {
                return Came::Closed(0);
            }
        }
    }

    /// What is whole already.
    fn take(&mut self) -> Result<Option<Came>, ()> {
        let Some(frame) = wire::frame(&self.carry).map_err(drop)? else {
            return if self.carry.len() > MAX_FRAME { Err(()) } else { Ok(None) };
        };
        let payload = frame.payload.to_vec();
        let (opcode, used) = (frame.opcode, frame.used);
        self.carry.drain(..used);
        Ok(match opcode {
            wire::CLOSE => {
                let code = payload.get(..2).and_then(|code| code.try_into().ok()).map_or(1005, u16::from_be_bytes);
                Some(Came::Closed(code))
            }
            wire::PING => Some(Came::Ping(payload)),
            wire::PONG => self.take()?,
            _ => Some(Came::Message(payload)),
        })
    }

    /// Says goodbye with a code and closes.
    pub(crate) async fn leave(mut self, code: u16) {
        if self.say(wire::CLOSE, &code.to_be_bytes()).await.is_ok() {
            let _ = timeout(PATIENCE, self.stream.shutdown()).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn frames_come_whole_however_they_are_cut() {
        let (mut server, ours) = tokio::io::duplex(3);
        let mut line = Line { stream: Box::new(ours), carry: Vec::new(), piece: 2 };
        let serving = tokio::spawn(async move {
            for (opcode, payload) in
                [(wire::TEXT, &b"hello"[..]), (wire::PONG, b""), (wire::PING, b"x"), (wire::CLOSE, b"\x0b\xb9bye")]
            {
                let _ = server.write_all(&wire::server_frame(opcode, payload)).await;
            }
        });
        assert_eq!(line.next().await, Came::Message(b"hello".to_vec()));
        assert_eq!(line.next().await, Came::Ping(b"x".to_vec()));
        assert_eq!(line.next().await, Came::Closed(3001));
        assert_eq!(line.next().await, Came::Closed(0));
        serving.await.unwrap();
    }
}
