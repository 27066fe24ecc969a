//! The task of one session: reads, answers, and closes in an orderly way. Time is kept by the shard.

use std::{
    future::{Future, poll_fn},
    io,
    mem::MaybeUninit,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use dzvin_protocols::channels::{
    centrifuge::{Disconnect, Form},
    websocket::{Decoder, Message, pong_frame},
};
use tokio::{
    io::ReadBuf,
    task::yield_now,
    time::{Instant, sleep, sleep_until, timeout},
};

use super::{
    Admission, Hub, Incoming, Permit, Session, Wire,
    clock::{NEVER, millis, now},
    commands::Conversation,
};
use crate::{
    channels::{
        Mailbox,
        metrics::CloseLabel,
        socket::{Reader, Writer},
    },
    platform::ports::{Bus, ChangeLog},
};

/// Borrowed from the stack for one read, so that a silent connection owns no buffer.
const READ_BUFFER: usize = 16 * 1024;
/// How long answers wait for others of the same reading.
const TOGETHER: Duration = Duration::from_millis(2);
/// How long they wait once one of them has made the others wait.
const APART: Duration = Duration::from_millis(20);
/// How long a command may go on when it is in doubt whether its user may have what it asks for: a revocation is felt within a second, its
/// way over the nodes included.
const DOUBT: Duration = Duration::from_millis(500);
/// How long a closed socket may take to say goodbye.
const LINGER: Duration = Duration::from_secs(2);

/// What a session writes to, and its place on the node.
#[derive(Debug)]
pub(in crate::channels) struct Connection {
    pub(super) socket: Writer,
    pub(super) wire: Wire,
    pub(super) permit: Permit,
    pub(super) mailbox: Option<Mailbox>,
    pub(super) greeting: Bytes,
}

/// What it reads from.
pub(in crate::channels) struct Reading {
    socket: Reader,
    decoder: Decoder,
    leftover: Bytes,
    admission: Option<Admission>,
}

impl Connection {
    /// One socket in two: the shard writes while the session's task reads.
    pub(in crate::channels) fn split(incoming: Incoming) -> (Self, Reading) {
        let Incoming { socket, leftover, greeting, wire, permit, mailbox, admission } = incoming;
        let (reading, writing) = socket.split();
        // The limit is known when the task begins.
        let reading = Reading { socket: reading, decoder: Decoder::new(0), leftover, admission };
        (Self { socket: writing, wire, permit, mailbox, greeting }, reading)
    }
}

impl Reading {
    /// Waits for whatever comes first: by hand, for this is where a silent session spends its life.
    async fn next(&mut self, session: &Session) -> Happened {
        // Who blocks it later sets the wake as well.
        let blocked = session.blocked();
        poll_fn(|cx| {
            if session.wake.poll(cx).is_ready() {
                return Poll::Ready(Happened::Woken);
            }
            if blocked && let Poll::Ready(result) = session.socket.poll_write_ready(cx) {
                return Poll::Ready(Happened::Writable(result));
            }
            self.read(session, cx)
        })
        .await
    }

    /// Reads once. A pong, of the protocol or an empty one of the WebSocket, is by far the most that quiet clients say: it is known by
    /// its bytes and wakes nobody.
    fn read(&mut self, session: &Session, cx: &mut Context<'_>) -> Poll<Happened> {
        loop {
            let mut space = [MaybeUninit::uninit(); READ_BUFFER];
            let mut buffer = ReadBuf::uninit(&mut space);
            let result = ready!(self.socket.poll_read(cx, &mut buffer));
            let result = result.and_then(|()| match buffer.filled() {
                [] => Err(io::ErrorKind::UnexpectedEof.into()),
                bytes if self.decoder.is_idle() && session.wire.is_pong(bytes) => Ok(!session.pong()),
                [0x8a, 0x80, _, _, _, _] if self.decoder.is_idle() && session.wire.is_heard(&Message::Pong) => {
                    session.heard();
                    Ok(false)
                }
                bytes => {
                    self.decoder.feed(bytes);
                    Ok(true)
                }
            });
            match result {
                Ok(false) => {}
                Ok(true) => return Poll::Ready(Happened::Read(Ok(()))),
                Err(error) => return Poll::Ready(Happened::Read(Err(error))),
            }
        }
    }
}

/// What a session's task wakes for.
enum Happened {
    /// The shard wants something of it.
    Woken,
    /// The socket takes bytes again.
    Writable(io::Result<()>),
    /// Something was read, or the end.
    Read(io::Result<()>),
}

/// Lives as long as the connection.
pub(in crate::channels) async fn run<B: Bus, L: ChangeLog>(
    hub: Arc<Hub<B, L>>,
    session: Arc<Session>,
    shard: usize,
    mut reading: Reading,
) {
    if reading.leftover.is_empty() {
        // With nothing to answer the greeting leaves alone.
        session.flush();
    }
    reading.decoder = Decoder::new(hub.limits.message);
    reading.decoder.feed(&std::mem::take(&mut reading.leftover));
    let mut conversation = Conversation::new(Arc::clone(&hub), Arc::clone(&session), shard);
    if session.wire == Wire::Pusher {
        conversation.greet(reading.admission.take());
    }
    let mut open = said(&mut conversation, &mut reading.decoder).await && ordered(&mut conversation).await;
    while open && session.closing().is_none() {
        match reading.next(&session).await {
            Happened::Woken => open = ordered(&mut conversation).await,
            Happened::Writable(result) => {
                open = result.is_ok();
                session.unblock();
            }
            Happened::Read(result) => {
                // What came before the end is still answered.
                open = said(&mut conversation, &mut reading.decoder).await && result.is_ok();
                // Told meanwhile, when nobody waited for it.
                open = open && ordered(&mut conversation).await;
            }
        }
    }
    let closing = session.closing();
    // A code that the client chose is no label: there are thousands of them.
    let code = closing.filter(|_| !conversation.closed_by_client).unwrap_or_default();
    hub.metrics.closed.get_or_create(&CloseLabel { code }).inc();
    tracing::debug!(client = %session.client, user = session.user(), code, "session ended");
    if closing.is_some() {
        let _ = timeout(LINGER, Box::pin(say_goodbye(&session, &reading.socket))).await;
    }
}

/// Answers what has been read, if anything.
async fn said<B: Bus, L: ChangeLog>(conversation: &mut Conversation<B, L>, decoder: &mut Decoder) -> bool {
    if decoder.is_idle() {
        return true;
    }
    let (session, patience) = (Arc::clone(&conversation.session), conversation.hub.limits.pong);
    busy(&session, patience, Box::pin(answer(conversation, decoder))).await
}

/// Does what the node has told this session to do.
async fn ordered<B: Bus, L: ChangeLog>(conversation: &mut Conversation<B, L>) -> bool {
    let (session, patience) = (Arc::clone(&conversation.session), conversation.hub.limits.pong);
    loop {
        if session.closing().is_some() {
            return true;
        }
        // Those that come meanwhile as well: the word that told of them is taken by whoever waits here.
        let Some(order) = session.next_order() else { return true };
        let work = Box::pin(async {
            conversation.obey(order).await;
            true
        });
        if !busy(&session, patience, work).await {
            return false;
        }
    }
}

/// Works while the shard does not look for pongs. All of it is on the heap, so that a silent session does not keep the room that a
/// command needs. False when the connection is over.
async fn busy(session: &Session, patience: Duration, work: Pin<Box<impl Future<Output = bool>>>) -> bool {
    session.busy(true, NEVER);
    let open = Box::pin(writing(session, work)).await;
    session.busy(false, now() + millis(patience));
    open
}

/// Works on what was said, while the socket goes on taking frames: a client that waits for us is not slow. Answers leave
/// together, unless the rest lets them wait. Who is in doubt is not shown anything for as long as a slow command takes: it begins anew.
/// False when the connection is over.
async fn writing(session: &Session, mut work: Pin<Box<impl Future<Output = bool>>>) -> bool {
    let mut together = pin!(sleep(TOGETHER));
    let mut doubt = None;
    loop {
        if doubt.is_some() && !session.is_in_doubt() {
            doubt = None;
        }
        tokio::select! {
            biased;
            open = &mut work => {
                session.send_replies();
                return open;
            }
            () = session.wake.taken() => {
                // Closed by the shard. A command cut here is undone by the end of the session.
                if session.closing().is_some() {
                    return true;
                }
                if session.is_in_doubt() {
                    doubt.get_or_insert_with(|| Instant::now() + DOUBT);
                }
            }
            () = sleep_until(doubt.unwrap_or_else(Instant::now)), if doubt.is_some() => {
                doubt = None;
                if session.is_in_doubt() {
                    session.close_unsaid(Disconnect::ForceReconnect);
                    return true;
                }
            }
            result = session.socket.writable(), if session.blocked() => {
                if result.is_err() {
                    return false;
                }
                session.unblock();
            }
            () = &mut together => {
                session.send_replies();
                together.as_mut().reset(Instant::now() + APART);
            }
        }
    }
}

/// Answers every whole message. False when the connection is over.
async fn answer<B: Bus, L: ChangeLog>(conversation: &mut Conversation<B, L>, decoder: &mut Decoder) -> bool {
    loop {
        if conversation.abandoned {
            return false;
        }
        if conversation.session.closing().is_some() {
            return true;
        }
        let message = decoder.next_message();
        if matches!(&message, Ok(Some(message)) if conversation.session.wire.is_heard(message)) {
            conversation.session.heard();
        }
        match message {
            Ok(None) => return true,
            Ok(Some(Message::Text(text))) => conversation.frame(Form::Json, text.as_bytes()).await,
            Ok(Some(Message::Binary(bytes))) => conversation.frame(Form::Protobuf, &bytes).await,
            Ok(Some(Message::Ping(payload))) => conversation.session.send_frame(pong_frame(&payload)),
            Ok(Some(Message::Pong)) => {}
            Ok(Some(Message::Close(code))) => {
                conversation.session.close_with(code.unwrap_or(1000), "");
                conversation.closed_by_client = true;
                return true;
            }
            Err(error) => {
                tracing::debug!(client = %conversation.session.client, user = conversation.session.user(), %error, "closing a client that broke the framing");
                conversation.session.close_with(error.close_code(), "protocol error");
                return true;
            }
        }
    }
}

/// Lets the close frame leave, says that nothing follows, and reads until the client has gone: a socket that is dropped
/// with unread bytes sends a reset, which would take the close code with it.
async fn say_goodbye(session: &Session, reading: &Reader) {
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
        if reading.readable().await.is_err() {
            return;
        }
        match reading.try_read(&mut buffer) {
            Ok(0) => return,
            Err(e) if e.kind() != io::ErrorKind::WouldBlock => return,
            _ => yield_now().await,
        }
    }
}
