//! A socket with a limit to how long its reader may take nothing: an answer that nobody reads must not stay for ever.

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
}

impl Patient {
    pub(super) const fn new(stream: TcpStream, within: Duration) -> Self {
        Self { stream, within: Some(within), deadline: None, waiting: false }
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

/// What a session takes of an upgraded connection: its socket, what was read behind its request, and its permit. Behind TLS the
/// socket is the end of a pipe, and the permit tells the task at the other end when the session is over.
///
/// # Errors
/// Out of descriptors, or the server was not ours.
pub fn socket(upgraded: Upgraded, permit: Permit) -> io::Result<(Socket, Bytes, Permit)> {
    let upgraded = match upgraded.downcast::<TokioIo<Patient>>() {
        Ok(parts) => return Ok((parts.io.into_inner().stream.into(), parts.read_buf, permit)),
        Err(upgraded) => upgraded,
    };
    let parts = upgraded
        .downcast::<TokioIo<Secure>>()
        .map_err(|_| io::Error::other("an upgraded connection that is not of this server"))?;
    let (socket, permit) = pump::start(parts.io.into_inner(), permit)?;
    Ok((socket, parts.read_buf, permit))
}

impl AsyncRead for Patient {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Patient {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let it = self.get_mut();
        let written = Pin::new(&mut it.stream).poll_write(cx, bytes);
        it.judge(cx, written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let it = self.get_mut();
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
