//! Addresses that are listened on.
//!
//! Invariants: an address is taken before anybody is answered there, and never shared with another program or another node of ours; whoever
//! connects in a storm waits in a queue instead of being reset: the kernel keeps at most `net.core.somaxconn` for one socket, which
//! is less than a restart's worth of clients, so an address has several.

use std::{
    io,
    net::SocketAddr,
    task::{Context, Poll},
};

use tokio::net::{TcpListener, TcpSocket, TcpStream};

/// Connections that the kernel keeps for one socket while we are busy accepting; capped by somaxconn.
pub const BACKLOG: u32 = 4096;
/// Sockets of one address: together they keep 16,384, as many as a node is meant to take in a storm.
const QUEUES: usize = 4;

/// The address cannot be listened on.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Somebody listens there already.
    #[error("{key}: the port {} of {} is taken by another program; stop it or choose another address", addr.port(), addr.ip())]
    Taken {
        /// The key of the configuration.
        key: &'static str,
        /// The address.
        addr: SocketAddr,
    },
    /// Anything else.
    #[error("{key}: cannot listen on {addr}")]
    Refused {
        /// The key of the configuration.
        key: &'static str,
        /// The address.
        addr: SocketAddr,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

/// An address that is ours, at which nobody is answered yet: whoever connects is refused, so that a proxy asks another node.
#[derive(Debug)]
pub struct Bound {
    key: &'static str,
    socket: TcpSocket,
    /// The address, with the port that was found where none was named.
    pub addr: SocketAddr,
}

impl Bound {
    /// Takes an address, unless somebody listens there. `key` names the configuration's key in errors.
    ///
    /// # Errors
    /// One that names the port.
    pub fn new(key: &'static str, addr: SocketAddr) -> Result<Self, ListenError> {
        let bound = || {
            let socket = open(addr)?;
            socket.bind(addr)?;
            let addr = socket.local_addr()?;
            Ok(Self { key, socket, addr })
        };
        bound().map_err(ListenError::of(key, addr))
    }

    /// Opens it, with long queues.
    ///
    /// # Errors
    /// One that names the port: another program has taken the same address meanwhile, and was faster.
    pub fn listen(self) -> Result<Listeners, ListenError> {
        let first = self.socket.listen(BACKLOG).map_err(ListenError::of(self.key, self.addr))?;
        // Not before it is ours alone: whoever binds without the mark from now on, as we did, is still refused.
        let more = if mark_shared(&first).is_ok() { QUEUES - 1 } else { 0 };
        // One less is no reason not to start.
        let others = (0..more).filter_map(|_| another(self.addr).ok());
        Ok(Listeners { all: std::iter::once(first).chain(others).collect(), next: 0 })
    }
}

/// Has the kernel share what comes in among all sockets of this address that carry the mark.
#[cfg(target_os = "linux")]
fn mark_shared(listener: &TcpListener) -> io::Result<()> {
    socket2::SockRef::from(listener).set_reuse_port(true)
}

/// Elsewhere the mark means something else.
#[cfg(not(target_os = "linux"))]
fn mark_shared(_: &TcpListener) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

fn open(addr: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if addr.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // Connections of our predecessor that linger must not keep us from starting.
    socket.set_reuseaddr(true)?;
    // Small frames must not wait for the answer to earlier ones. Connections have it from their listener.
    socket.set_nodelay(true)?;
    Ok(socket)
}

/// Another socket of an address that is ours.
fn another(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = open(addr)?;
    #[cfg(target_os = "linux")]
    socket.set_reuseport(true)?;
    socket.bind(addr)?;
    socket.listen(BACKLOG)
}

/// Sockets of one address, each with a queue of the kernel's.
#[derive(Debug)]
pub struct Listeners {
    all: Vec<TcpListener>,
    /// The one that is asked first.
    next: usize,
}

impl Listeners {
    /// The address.
    ///
    /// # Errors
    /// Those of the system.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.all.first().map_or(Err(io::ErrorKind::NotConnected.into()), TcpListener::local_addr)
    }

    /// A connection of any of them, in turn.
    pub(super) fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<(TcpStream, SocketAddr)>> {
        for _ in 0..self.all.len() {
            self.next = (self.next + 1) % self.all.len();
            if let Some(Poll::Ready(accepted)) = self.all.get(self.next).map(|listener| listener.poll_accept(cx)) {
                return Poll::Ready(accepted);
            }
        }
        Poll::Pending
    }
}

impl ListenError {
    fn of(key: &'static str, addr: SocketAddr) -> impl FnOnce(io::Error) -> Self {
        move |source| match source.kind() {
            io::ErrorKind::AddrInUse => Self::Taken { key, addr },
            _ => Self::Refused { key, addr, source },
        }
    }
}

/// Opens a listener at once.
///
/// # Errors
/// As [`Bound`].
pub fn listen(key: &'static str, addr: SocketAddr) -> Result<Listeners, ListenError> {
    Bound::new(key, addr)?.listen()
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[tokio::test]
    async fn a_taken_port_is_named() {
        let first = listen("http.listen", SocketAddr::from(([127, 0, 0, 1], 0))).expect("free port");
        let addr = first.local_addr().expect("bound");
        let error = listen("http.listen", addr).expect_err("taken");
        assert!(error.to_string().starts_with(&format!("http.listen: the port {} of 127.0.0.1 is taken", addr.port())));
    }

    /// Whoever comes while a node starts is told at once, and asks another one.
    #[tokio::test]
    async fn an_address_that_is_not_open_yet_refuses() {
        let bound = Bound::new("http.listen", SocketAddr::from(([127, 0, 0, 1], 0))).expect("free port");
        let addr = bound.addr;
        let error = TcpStream::connect(addr).await.expect_err("refused");
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
        let (other, mut open) =
            (Bound::new("http.listen", addr).expect("nobody listens"), bound.listen().expect("opened"));
        let (client, accepted) = tokio::join!(TcpStream::connect(addr), poll_fn(|cx| open.poll_accept(cx)));
        assert!(client.is_ok() && accepted.is_ok());
        assert!(matches!(other.listen(), Err(ListenError::Taken { .. })), "who is slower is told");
    }

    /// However the kernel shares them out, each is taken; and nobody else gets any.
    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn an_address_has_several_queues() {
        let mut ours = listen("http.listen", SocketAddr::from(([127, 0, 0, 1], 0))).expect("free port");
        let addr = ours.local_addr().expect("bound");
        let table = std::fs::read_to_string("/proc/net/tcp").expect("linux");
        let listening = format!("0100007F:{:04X} 00000000:0000 0A", addr.port());
        assert_eq!(table.lines().filter(|line| line.contains(&listening)).count(), QUEUES);
        let mut clients = Vec::new();
        for _ in 0..64 {
            clients.push(TcpStream::connect(addr).await.expect("connected"));
        }
        for _ in &clients {
            poll_fn(|cx| ours.poll_accept(cx)).await.expect("accepted");
        }
        assert!(matches!(Bound::new("http.listen", addr), Err(ListenError::Taken { .. })));
    }
}
