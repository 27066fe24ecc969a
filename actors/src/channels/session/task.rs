//! The task of one session: reads, answers, keeps time, and closes in an orderly way.

use std::{
    future::Future,
    io,
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use dzvin_protocols::channels::{
    centrifuge::Disconnect,
    websocket::{Decoder, Message, pong_frame},
};
use rand::Rng as _;
use tokio::{
    task::yield_now,
    time::{sleep_until, timeout},
};

use super::{Hub, Session, commands::Conversation};
use crate::{
    channels::metrics::CloseLabel,
    platform::ports::{Bus, ChangeLog},
};

/// Borrowed from the stack for one read, so that a silent connection owns no buffer.
const READ_BUFFER: usize = 16 * 1024;
/// Reads in a row before other sessions get their turn.
const READS_PER_TURN: usize = 8;
/// How long a closed socket may take to say goodbye.
const LINGER: Duration = Duration::from_secs(2);

/// When something is due.
pub(super) struct Clock {
    /// The next ping of ours.
    ping_at: Instant,
    /// The pong of the last one.
    pub(super) pong_by: Option<Instant>,
    /// The `connect` command.
    pub(super) connect_by: Option<Instant>,
    /// The end of the token and its grace.
    pub(super) expires_at: Option<Instant>,
}

impl Clock {
    fn next(&self) -> Instant {
        [self.pong_by, self.connect_by, self.expires_at].into_iter().flatten().fold(self.ping_at, Instant::min)
    }
}

/// Lives as long as the connection.
pub(in crate::channels) async fn run<B: Bus, L: ChangeLog>(
    hub: Arc<Hub<B, L>>,
    session: Arc<Session>,
    shard: usize,
    leftover: Bytes,
) {
    let mut decoder = Decoder::new(hub.limits.message);
    decoder.feed(&leftover);
    drop(leftover);
    let now = Instant::now();
    // Spread from the first on, so that sessions of one moment do not ping in one moment.
    let first = hub.limits.ping.mul_f64(rand::rng().random_range(0.5..1.0));
    let clock =
        Clock { ping_at: now + first, pong_by: None, connect_by: Some(now + hub.limits.connect), expires_at: None };
    let mut conversation = Conversation::new(Arc::clone(&hub), Arc::clone(&session), shard, clock);
    let mut open = writing(&session, answer(&mut conversation, &mut decoder)).await;
    while open && session.closing().is_none() {
        tokio::select! {
            biased;
            () = session.wake.notified() => {}
            result = session.socket.writable(), if session.blocked() => {
                open = result.is_ok();
                session.unblock();
            }
            result = session.socket.readable() => {
                let turn = result.and_then(|()| read(&session, &mut decoder));
                // What came before the end is still answered.
                open = writing(&session, answer(&mut conversation, &mut decoder)).await && turn.is_ok();
                // A client that never stops talking stops no clock, and takes no thread for itself.
                tick(&mut conversation);
                if turn.is_ok_and(|more| more) {
                    yield_now().await;
                }
            }
            () = sleep_until(conversation.clock.next().into()) => tick(&mut conversation),
        }
    }
    let closing = session.closing();
    // A code that the client chose is no label: there are thousands of them.
    let code = closing.filter(|_| !conversation.closed_by_client).unwrap_or_default();
    hub.metrics.closed.get_or_create(&CloseLabel { code }).inc();
    tracing::debug!(client = session.client, user = session.user(), code, "session ended");
    if closing.is_some() {
        let _ = timeout(LINGER, say_goodbye(&session)).await;
    }
}

/// Works on what was said, while the socket goes on taking frames: a client that waits for us is not slow. False when
/// the connection is over.
async fn writing(session: &Session, work: impl Future<Output = bool>) -> bool {
    let mut work = pin!(work);
    loop {
        tokio::select! {
            biased;
            open = &mut work => return open,
            () = session.wake.notified() => {
                // Closed by the shard. A command cut here is undone by the end of the session.
                if session.closing().is_some() {
                    return true;
                }
            }
            result = session.socket.writable(), if session.blocked() => {
                if result.is_err() {
                    return false;
                }
                session.unblock();
            }
        }
    }
}

/// Reads what is there into the decoder; true when there may be more. An error is the end of the connection.
fn read(session: &Session, decoder: &mut Decoder) -> io::Result<bool> {
    let mut buffer = [0; READ_BUFFER];
    for _ in 0..READS_PER_TURN {
        match session.read(&mut buffer) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => decoder.feed(buffer.get(..n).unwrap_or_default()),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(e) => return Err(e),
        }
    }
    Ok(true)
}

/// Answers every whole message. False when the connection is over.
async fn answer<B: Bus, L: ChangeLog>(conversation: &mut Conversation<B, L>, decoder: &mut Decoder) -> bool {
    loop {
        if conversation.session.closing().is_some() {
            return true;
        }
        match decoder.next_message() {
            Ok(None) => return true,
            Ok(Some(Message::Text(text))) => {
                conversation.frame(&text).await;
                if conversation.abandoned {
                    return false;
                }
            }
            Ok(Some(Message::Ping(payload))) => conversation.session.send_frame(pong_frame(&payload)),
            Ok(Some(Message::Pong)) => {}
            Ok(Some(Message::Binary(_))) => conversation.session.close(Disconnect::InappropriateProtocol),
            Ok(Some(Message::Close(code))) => {
                conversation.session.close_with(code.unwrap_or(1000), "");
                conversation.closed_by_client = true;
                return true;
            }
            Err(error) => {
                tracing::debug!(client = conversation.session.client, user = conversation.session.user(), %error, "closing a client that broke the framing");
                conversation.session.close_with(error.close_code(), "protocol error");
                return true;
            }
        }
    }
}

fn tick<B: Bus, L: ChangeLog>(conversation: &mut Conversation<B, L>) {
    let now = Instant::now();
    let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
    let session = Arc::clone(&conversation.session);
    if due(conversation.clock.connect_by) {
        session.close(Disconnect::Stale);
    } else if due(conversation.clock.pong_by) {
        session.close(Disconnect::NoPong);
    } else if due(conversation.clock.expires_at) {
        session.close(Disconnect::Expired);
    } else if conversation.clock.ping_at <= now {
        conversation.clock.ping_at = now + conversation.hub.limits.ping;
        if conversation.clock.connect_by.is_none() {
            conversation.clock.pong_by = Some(now + conversation.hub.limits.pong);
            session.send("{}");
        }
    }
}

/// Lets the close frame leave, says that nothing follows, and reads until the client has gone: a socket that is dropped
/// with unread bytes sends a reset, which would take the close code with it.
async fn say_goodbye(session: &Session) {
    session.unblock();
    while !session.drained() {
        if session.socket.writable().await.is_err() {
            return;
        }
        session.unblock();
    }
    session.shut_down();
    let mut buffer = [0; 1024];
    loop {
        if session.socket.readable().await.is_err() {
            return;
        }
        match session.read(&mut buffer) {
            Ok(0) => return,
            Err(e) if e.kind() != io::ErrorKind::WouldBlock => return,
            _ => yield_now().await,
        }
    }
}
