//! Between a TLS connection and a session: the session has one end of a pipe, this task carries what passes the other.
//!
//! Invariants: nothing is queued here but one reading in each direction, so a client that reads nothing fills the pipe, and
//! the session closes it as slow; an end is passed on as an end, and what was said before it still arrives; the task does not
//! outlive its session by more than [`PARTING`]. While the session lives, time is the session's business.

use std::{
    future::poll_fn,
    io,
    mem::MaybeUninit,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
    time::Duration,
};

use dzvin_actors::channels::{Permit, Socket};
use prometheus_client::metrics::gauge::Gauge;
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::UnixStream,
    sync::oneshot,
    time::timeout,
};

use super::tls::Secure;

/// One reading, on the stack: a silent connection owns no buffer of ours.
const READ_BUFFER: usize = 16 * 1024;
/// What the kernel keeps between session and task, in each direction. The usual 208 KiB would hide a slow client for long.
const PIPE: usize = 64 * 1024;
/// How long a client may take the last words of its session: above the time that a session waits for its client's goodbye.
const PARTING: Duration = Duration::from_secs(5);

/// A pipe between a session and whoever serves its client, bounded in both directions.
///
/// # Errors
/// No descriptors are left.
pub fn pipe() -> io::Result<(UnixStream, UnixStream)> {
    let (ours, theirs) = UnixStream::pair()?;
    for end in [&ours, &theirs] {
        SockRef::from(end).set_send_buffer_size(PIPE)?;
    }
    Ok((ours, theirs))
}

/// Begins to carry. Gives the session's end of the pipe, and the permit by which its end will be known.
pub(super) fn start(mut client: Secure, permit: Permit) -> io::Result<(Socket, Permit)> {
    let (ours, theirs) = pipe()?;
    client.wait_for_ever();
    let (held, gone) = oneshot::channel::<()>();
    let counted = Counted::new(&client.metrics.tls_sessions);
    tokio::spawn(async move {
        if let Err(error) = carry(client, ours, gone, PARTING).await {
            tracing::debug!(%error, "a client behind tls left");
        }
        drop(counted);
    });
    Ok((theirs.into(), permit.with(held)))
}

/// Carries until both sides have ended, or the client is gone, or the session has been for too long.
async fn carry(
    mut client: impl AsyncRead + AsyncWrite + Unpin,
    mut session: UnixStream,
    gone: oneshot::Receiver<()>,
    parting: Duration,
) -> io::Result<()> {
    // What the client says when its session is over is read and forgotten: unread bytes would reset the connection, and
    // with it the close frame that is on its way.
    let (mut inward, mut outward) = (Lane::new(true), Lane::new(false));
    let mut carried = pin!(poll_fn(|cx| {
        let inward = inward.poll(&mut client, &mut session, cx)?;
        let outward = outward.poll(&mut session, &mut client, cx)?;
        if inward.is_ready() && outward.is_ready() { Poll::Ready(Ok(())) } else { Poll::Pending }
    }));
    tokio::select! {
        biased;
        ended = carried.as_mut() => return ended,
        // The sender is dropped with the session.
        _ = gone => {}
    }
    timeout(parting, carried).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// One direction.
struct Lane {
    /// What was read and not yet taken.
    held: Vec<u8>,
    at: usize,
    state: State,
    /// A side that takes nothing more ends the lane with an error, or lets what follows be forgotten.
    forgiving: bool,
    deaf: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    /// The one side has ended; the other is to be told.
    Ending,
    Ended,
}

impl Lane {
    const fn new(forgiving: bool) -> Self {
        Self { held: Vec::new(), at: 0, state: State::Open, forgiving, deaf: false }
    }

    /// Ready when one side has ended and the other knows.
    fn poll<R, W>(&mut self, from: &mut R, to: &mut W, cx: &mut Context<'_>) -> Poll<io::Result<()>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        loop {
            ready!(self.write_held(to, cx))?;
            let state = self.state;
            match state {
                State::Ended => return Poll::Ready(Ok(())),
                State::Ending => {
                    let told = if self.deaf { Ok(()) } else { ready!(Pin::new(&mut *to).poll_shutdown(cx)) };
                    self.state = State::Ended;
                    self.forgive(told)?;
                }
                State::Open if self.read(from, to, cx)?.is_pending() => {
                    if !self.deaf
                        && let Poll::Ready(flushed) = Pin::new(&mut *to).poll_flush(cx)
                    {
                        self.forgive(flushed)?;
                    }
                    return Poll::Pending;
                }
                State::Open => {}
            }
        }
    }

    /// Reads once, and writes what the other side takes at once.
    fn read<R, W>(&mut self, from: &mut R, to: &mut W, cx: &mut Context<'_>) -> Poll<io::Result<()>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        let mut space = [MaybeUninit::uninit(); READ_BUFFER];
        let mut buffer = ReadBuf::uninit(&mut space);
        let result = ready!(Pin::new(from).poll_read(cx, &mut buffer));
        // A client that goes without a word, or a session that is gone, is an end like another.
        if result.is_err() || buffer.filled().is_empty() {
            self.state = State::Ending;
            return Poll::Ready(Ok(()));
        }
        if self.deaf {
            return Poll::Ready(Ok(()));
        }
        let written = match Pin::new(to).poll_write(cx, buffer.filled()) {
            Poll::Ready(Ok(written)) => written,
            Poll::Ready(Err(error)) => {
                self.forgive(Err(error))?;
                return Poll::Ready(Ok(()));
            }
            Poll::Pending => 0,
        };
        self.held = buffer.filled().get(written..).unwrap_or_default().to_vec();
        Poll::Ready(Ok(()))
    }

    fn write_held<W: AsyncWrite + Unpin>(&mut self, to: &mut W, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.deaf && self.at < self.held.len() {
            match ready!(Pin::new(&mut *to).poll_write(cx, &self.held[self.at..])) {
                Ok(0) => self.forgive(Err(io::ErrorKind::WriteZero.into()))?,
                Ok(written) => self.at += written,
                Err(error) => self.forgive(Err(error))?,
            }
        }
        (self.held, self.at) = (Vec::new(), 0);
        Poll::Ready(Ok(()))
    }

    fn forgive(&mut self, result: io::Result<()>) -> io::Result<()> {
        if self.forgiving && result.is_err() {
            self.deaf = true;
            return Ok(());
        }
        result
    }
}

/// Counts a session behind TLS, however it ends.
struct Counted(Gauge);

impl Counted {
    fn new(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
#[path = "pump_tests.rs"]
mod tests;
