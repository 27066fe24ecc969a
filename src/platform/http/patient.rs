//! A socket with a limit to how long its reader may take nothing: an answer that nobody reads must not stay for ever.
//!
//! The answer to an upgrade is kept for whoever takes the socket: a client that has said more behind its request is answered all of it in
//! one packet, which is what a system call less comes to.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use dzvin_actors::channels::{Permit, Socket};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Instant, Sleep, sleep},
};

use super::{pump, tls::Secure};

/// A connection whose writes fail when the peer has taken nothing for so long.
#[derive(Debug)]
pub(super) struct Patient {
    stream: TcpStream,
    /// `None`: however long.
    within: Option<Duration>,
    /// Runs while a write waits; kept for the next one.
    deadline: Option<Pin<Box<Sleep>>>,
    waiting: bool,
    /// The answer to an upgrade, which nobody has written.
    switching: Vec<u8>,
}

/// How the answer to an upgrade begins, and nothing else.
const SWITCHING: &[u8] = b"HTTP/1.1 101 ";

/// What a session takes of an upgraded connection.
#[derive(Debug)]
pub struct Taken {
    /// The socket; behind TLS the end of a pipe, and the permit tells the task at the other end when the session is over.
    pub socket: Socket,
    /// What was read behind its request.
    pub leftover: Bytes,
    /// What has to be written before all else: the answer to its request, if it has not left.
    pub greeting: Bytes,
    /// Its place.
    pub permit: Permit,
}

impl Patient {
    pub(super) const fn new(stream: TcpStream, within: Duration) -> Self {
        Self { stream, within: Some(within), deadline: None, waiting: false, switching: Vec::new() }
    }

    pub(super) fn wait_for_ever(&mut self) {
        (self.within, self.deadline) = (None, None);
    }

    fn judge(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            self.waiting = false;
            return written;
        }
        let Some(within) = self.within else { return written };
        let deadline = self.deadline.get_or_insert_with(|| Box::pin(sleep(within)));
        if !std::mem::replace(&mut self.waiting, true) {
            deadline.as_mut().reset(Instant::now() + within);
        }
        ready!(deadline.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client reads nothing")))
    }
}

/// Takes an upgraded connection from the server. A client that has said nothing behind its request has the answer then.
///
/// # Errors
/// Out of descriptors, the client has left, or the server was not ours.
pub fn take(upgraded: Upgraded, permit: Permit) -> io::Result<Taken> {
    let upgraded = match upgraded.downcast::<TokioIo<Patient>>() {
        Ok(parts) => {
            let (Patient { stream, switching, .. }, leftover) = (parts.io.into_inner(), parts.read_buf);
            let mut greeting = Bytes::from(switching);
            if leftover.is_empty() && !greeting.is_empty() {
                // The first that is written on it: what does not go into its buffer whole will not go at all.
                let written = SockRef::from(&stream).send(&greeting)?;
                if written < greeting.len() {
                    return Err(io::ErrorKind::WriteZero.into());
                }
                greeting = Bytes::new();
            }
            return Ok(Taken { socket: stream.into(), leftover, greeting, permit });
        }
        Err(upgraded) => upgraded,
    };
    let parts = upgraded
        .downcast::<TokioIo<Secure>>()
        .map_err(|_| io::Error::other("an upgraded connection that is not of this server"))?;
    let (socket, permit) = pump::start(parts.io.into_inner(), permit)?;
    Ok(Taken { socket, leftover: parts.read_buf, greeting: Bytes::new(), permit })
}

impl AsyncRead for Patient {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Patient {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let it = self.get_mut();
        if bytes.starts_with(SWITCHING) {
            it.switching = bytes.to_vec();
            return Poll::Ready(Ok(bytes.len()));
        }
        let written = Pin::new(&mut it.stream).poll_write(cx, bytes);
        it.judge(cx, written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let it = self.get_mut();
        if pieces.first().is_some_and(|first| first.starts_with(SWITCHING)) {
            it.switching = pieces.iter().flat_map(|piece| piece.iter().copied()).collect();
            return Poll::Ready(Ok(it.switching.len()));
        }
        let written = Pin::new(&mut it.stream).poll_write_vectored(cx, pieces);
        it.judge(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
