//! What a session reads from and writes to: the client's own TCP socket, or one end of a pipe whose other end is served by a
//! task that speaks what the client speaks (TLS, an HTTP answer that goes on).

use std::{
    hint::black_box,
    io::{self, IoSlice},
    os::fd::AsRawFd,
    pin::Pin,
    task::{Context, Poll},
};

use socket2::SockRef;
use tokio::{
    io::{AsyncRead, Interest, ReadBuf, Ready},
    net::{TcpStream, UnixStream, tcp, unix},
};

/// A connection, whole.
#[derive(Debug)]
pub enum Socket {
    /// The client's own.
    Tcp(TcpStream),
    /// One end of a pipe.
    Pipe(UnixStream),
}

/// The half that is read.
#[derive(Debug)]
pub(super) enum Reader {
    Tcp(tcp::OwnedReadHalf),
    Pipe(unix::OwnedReadHalf),
}

/// The half that is written.
#[derive(Debug)]
pub(super) enum Writer {
    Tcp(tcp::OwnedWriteHalf),
    Pipe(unix::OwnedWriteHalf),
}

macro_rules! either {
    ($self:ident, $socket:ident => $call:expr) => {
        match $self {
            Self::Tcp($socket) => $call,
            Self::Pipe($socket) => $call,
        }
    };
}

impl Socket {
    pub(super) fn split(self) -> (Reader, Writer) {
        match self {
            Self::Tcp(socket) => {
                let (reader, writer) = socket.into_split();
                (Reader::Tcp(reader), Writer::Tcp(writer))
            }
            Self::Pipe(socket) => {
                let (reader, writer) = socket.into_split();
                (Reader::Pipe(reader), Writer::Pipe(writer))
            }
        }
    }
}

impl From<TcpStream> for Socket {
    fn from(socket: TcpStream) -> Self {
        Self::Tcp(socket)
    }
}

impl From<UnixStream> for Socket {
    fn from(socket: UnixStream) -> Self {
        Self::Pipe(socket)
    }
}

impl Reader {
    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        either!(self, socket => Pin::new(socket).poll_read(cx, buffer))
    }

    pub(super) async fn readable(&self) -> io::Result<()> {
        either!(self, socket => socket.readable().await)
    }

    pub(super) fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        either!(self, socket => socket.try_read(buffer))
    }
}

impl Writer {
    /// Asks the kernel at once: what the runtime knows of the socket lies elsewhere in memory, and is only of interest once it is full.
    /// Of a socket that is gone it hears by the error, as from every write: a Rust program ignores `SIGPIPE`.
    pub(super) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match either!(self, socket => SockRef::from(socket.as_ref()).send(bytes)) {
            // Asked again in earnest, so that the runtime knows: an event may have come since the first answer.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                either!(self, socket => socket.try_write(bytes))
            }
            written => written,
        }
    }

    /// Has the processor fetch what a write reads.
    pub(super) fn fetch(&self) {
        black_box(either!(self, socket => socket.as_ref().as_raw_fd()));
    }

    pub(super) fn try_write_vectored(&self, bytes: &[IoSlice<'_>]) -> io::Result<usize> {
        either!(self, socket => socket.try_write_vectored(bytes))
    }

    pub(super) async fn writable(&self) -> io::Result<()> {
        either!(self, socket => socket.writable().await)
    }

    pub(super) fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, socket => socket.as_ref().poll_write_ready(cx))
    }

    pub(super) async fn ready(&self, interest: Interest) -> io::Result<Ready> {
        either!(self, socket => socket.ready(interest).await)
    }

    /// Nothing more will be written.
    pub(super) fn shut_down(&self) -> io::Result<()> {
        either!(self, socket => SockRef::from(socket.as_ref()).shutdown(std::net::Shutdown::Write))
    }
}
