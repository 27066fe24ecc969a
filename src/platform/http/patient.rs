//! A socket with a limit to how long its reader may take nothing: an answer that nobody reads must not stay for ever.
//!
//! From the moment in which a handler has agreed to an upgrade nothing is written here: it is kept for whoever takes the socket. A client
//! that has said more behind its request is answered all of it in one packet, which is what a system call less comes to. It is the handler
//! that says so, and never what is written: data of others must not look like an answer.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use dzvin_actors::channels::Permit;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Instant, Sleep, sleep},
};

use super::{
    pump,
    tls::Secure,
    upgrade::{Taken, Upgrading},
};

/// A connection whose writes fail when the peer has taken nothing for so long.
#[derive(Debug)]
pub(super) struct Patient {
    stream: TcpStream,
    /// `None`: however long.
    within: Option<Duration>,
    /// Runs while a write waits; kept for the next one.
    deadline: Option<Pin<Box<Sleep>>>,
    waiting: bool,
    upgrading: Option<Upgrading>,
    /// What is kept since.
    kept: Vec<u8>,
}

impl Patient {
    pub(super) fn new(stream: TcpStream, within: Duration) -> Self {
        Self { stream, within: Some(within), deadline: None, waiting: false, upgrading: None, kept: Vec::new() }
    }

    /// The same, which keeps the answer to an upgrade. Not for what writes bytes of its own, as TLS does.
    pub(super) fn keeping(self, upgrading: Upgrading) -> Self {
        Self { upgrading: Some(upgrading), ..self }
    }

    pub(super) fn wait_for_ever(&mut self) {
        (self.within, self.deadline) = (None, None);
    }

    fn keeps(&self) -> bool {
        self.upgrading.as_ref().is_some_and(Upgrading::has_begun)
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

/// Takes an upgraded connection from the server.
///
/// # Errors
/// Out of descriptors, or the server was not ours.
pub(super) fn take(upgraded: Upgraded, permit: Permit) -> io::Result<Taken> {
    let upgraded = match upgraded.downcast::<TokioIo<Patient>>() {
        Ok(parts) => {
            let Patient { stream, kept, .. } = parts.io.into_inner();
            return Ok(Taken { socket: stream.into(), leftover: parts.read_buf, greeting: kept.into(), permit });
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
        if it.keeps() {
            it.kept.extend_from_slice(bytes);
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
        if it.keeps() {
            let before = it.kept.len();
            pieces.iter().for_each(|piece| it.kept.extend_from_slice(piece));
            return Poll::Ready(Ok(it.kept.len() - before));
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
