//! One WebSocket connection to a Mirror: dialling, a reading task within a byte budget, a writing task that pings.
//!
//! Invariants: every await has a limit; when the budget is full reading stops, and TCP tells the upstream, while our pings
//! go on; a message above the limit is reduced to id, version and cursor before it takes a place. What a frame means is not known here.

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use dzvin_protocols::mirror::{Cursor, Dialect, Sought};
use futures_util::{
    SinkExt, StreamExt,
    stream::{SplitSink, SplitStream},
};
use serde_json::value::RawValue;
use tokio::{
    net::TcpStream,
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch},
    task::JoinHandle,
    time::{Instant, MissedTickBehavior, interval, timeout},
};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async_with_config,
    tungstenite::{
        Error, Message, Utf8Bytes,
        client::IntoClientRequest,
        error::CapacityError,
        http::{HeaderName, HeaderValue, Request},
        protocol::{CloseFrame, WebSocketConfig, frame::coding::CloseCode},
    },
};

use super::{
    config::{CEILING_FACTOR, LinkConfig, MAX_CEILING, Token},
    metrics::LinkMetrics,
    tap::Tap,
};
use crate::cdb::Pass;

type Stream = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Messages between the reading task and the link; the byte budget is the real limit.
const QUEUE: usize = 1024;
/// Answers that wait to be written. The upstream asks a handful of questions.
const ANSWERS: usize = 64;
/// What is kept of a message that is put aside for its size.
const HEAD_BYTES: usize = 2 * 1024;
/// One connection of this kind a Mirror: the default buffers are meant for many readers with little each.
const READ_BUFFER: usize = 128 * 1024;
/// Answers are small.
const WRITE_BUFFER: usize = 4 * 1024;

/// Why a connection could not be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Refusal {
    /// 401, 403, 400: the same request would be refused again. No repeat without a person or a new token.
    Final(String),
    /// 429.
    TooMany,
    /// Anything else.
    Failed(String),
}

/// Why a connection ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ending {
    /// The upstream closed, or the transport broke, or it was silent too long.
    Lost(String),
    /// A message that we cannot read: above the ceiling, or the upstream says 1009.
    TooBig(String),
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Lost(why) | Self::TooBig(why)) = self;
        f.write_str(why)
    }
}

/// What the reading task hands over.
#[derive(Debug)]
pub(super) enum Inbound {
    /// A text frame with its place in the budget.
    Text(Utf8Bytes, OwnedSemaphorePermit),
    /// Bytes that are no text.
    Binary(Vec<u8>),
    /// A message above the limit, without its payload.
    OverLimit {
        /// The object, where that could be read.
        sought: Option<Sought>,
        /// Where the stream stands after it.
        cursor: Option<Box<RawValue>>,
        /// Its size.
        bytes: usize,
        /// How it begins.
        head: Vec<u8>,
    },
    /// Nothing more comes.
    Ended(Ending),
}

/// A task that ends with its owner.
pub(super) struct Task(JoinHandle<()>);

impl Task {
    pub(super) fn spawn(future: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(tokio::spawn(future))
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// An open connection. Dropping it closes the socket at once.
pub(super) struct Connection {
    /// What comes.
    pub(super) inbound: mpsc::Receiver<Inbound>,
    /// What goes. Dropping it closes in order.
    pub(super) answers: mpsc::Sender<String>,
    /// Messages above this many bytes end the connection.
    pub(super) ceiling: usize,
    writer: Option<JoinHandle<()>>,
    _reader: Task,
}

/// The right to a socket: a slot of the address and the link's only place. Given back when both tasks are gone.
#[derive(Clone)]
pub(super) struct Place {
    _held: Arc<(Pass, OwnedSemaphorePermit)>,
}

impl Place {
    pub(super) fn new(pass: Pass, place: OwnedSemaphorePermit) -> Self {
        Self { _held: Arc::new((pass, place)) }
    }
}

impl Connection {
    /// Says goodbye, for as long as that may take.
    pub(super) async fn close(mut self, limit: Duration) {
        let Some(writer) = self.writer.take() else { return };
        let abort = writer.abort_handle();
        let (_, gone) = mpsc::channel(1);
        drop(std::mem::replace(&mut self.inbound, gone));
        let (nobody, _) = mpsc::channel(1);
        drop(std::mem::replace(&mut self.answers, nobody));
        if timeout(limit, writer).await.is_err() {
            abort.abort();
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if let Some(writer) = &self.writer {
            writer.abort();
        }
    }
}

/// The request of the handshake.
fn request(config: &LinkConfig, url: &str, token: Option<&Token>) -> Result<Request<()>, String> {
    // The error may show the address, and the address may hold a secret.
    let mut request = url.into_client_request().map_err(|_| "the address is not a WebSocket URL".to_owned())?;
    let auth = &config.dialect.auth;
    let mut headers: Vec<(&str, String, bool)> =
        auth.headers.iter().map(|(name, value)| (name.as_str(), value.clone(), true)).collect();
    headers.extend(config.platform_version.iter().map(|version| ("platform-version", version.clone(), false)));
    headers.extend(token.map(|token| (auth.header.as_str(), format!("{}{}", auth.scheme, token.expose()), true)));
    for (name, value, secret) in headers {
        let bad = || format!("the header {name} has a name or a value that HTTP does not allow");
        let mut value = HeaderValue::from_str(&value).map_err(|_| bad())?;
        value.set_sensitive(secret);
        request.headers_mut().insert(HeaderName::from_bytes(name.as_bytes()).map_err(|_| bad())?, value);
    }
    Ok(request)
}

/// The highest size that is read at all while the limit is this.
pub(super) fn ceiling_of(limit: usize) -> usize {
    limit.saturating_mul(CEILING_FACTOR).min(MAX_CEILING.max(limit))
}

/// Connects.
pub(super) async fn dial(
    config: &LinkConfig,
    url: &str,
    token: Option<&Token>,
    ceiling: usize,
) -> Result<Stream, Refusal> {
    let request = request(config, url, token).map_err(Refusal::Final)?;
    let limits = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(WRITE_BUFFER)
        .max_write_buffer_size(WRITE_BUFFER + MAX_CEILING)
        .max_message_size(Some(ceiling))
        .max_frame_size(Some(ceiling));
    let dialled = Box::pin(connect_async_with_config(request, Some(limits), true));
    match timeout(config.limits.connect, dialled).await {
        Err(_) => Err(Refusal::Failed("no connection in time".into())),
        Ok(Ok((stream, _))) => Ok(stream),
        Ok(Err(Error::Http(answer))) => Err(match answer.status().as_u16() {
            status @ (400 | 401 | 403) => Refusal::Final(format!("the handshake was refused with {status}")),
            429 => Refusal::TooMany,
            status => Refusal::Failed(format!("the handshake was answered with {status}")),
        }),
        Ok(Err(error)) => Err(Refusal::Failed(told(&error))),
    }
}

/// An error for people, without addresses in it.
fn told(error: &Error) -> String {
    match error {
        Error::Url(_) | Error::HttpFormat(_) => "the address is unusable".into(),
        Error::Io(error) => format!("the transport failed: {}", error.kind()),
        other => other.to_string().chars().take(200).collect(),
    }
}

/// What the tasks of a connection share.
pub(super) struct Wiring {
    /// How the upstream speaks: needed to reduce a message above the limit.
    pub(super) dialect: Arc<Dialect>,
    /// The byte budget.
    pub(super) budget: Arc<Semaphore>,
    /// Its size.
    pub(super) budget_bytes: usize,
    /// The message limit, which may change any time.
    pub(super) limit: watch::Receiver<usize>,
    /// Longest write.
    pub(super) write: Duration,
    /// The numbers.
    pub(super) metrics: LinkMetrics,
    /// The recorder.
    pub(super) tap: Option<Arc<Tap>>,
}

/// Starts the tasks of an open stream.
pub(super) fn start(stream: Stream, wiring: Wiring, ceiling: usize, place: Place) -> Connection {
    let (sink, source) = stream.split();
    let (inbound_to, inbound) = mpsc::channel(QUEUE);
    let (answers, answers_from) = mpsc::channel(ANSWERS);
    let pings = Arc::new(Pings::default());
    let write = Writer {
        sink,
        answers: answers_from,
        failed: inbound_to.clone(),
        pings: Arc::clone(&pings),
        every: Duration::from_secs(wiring.dialect.heartbeat.ping_s),
        write: wiring.write,
        tap: wiring.tap.clone(),
        _place: place.clone(),
    };
    let read = Reader { source, to: inbound_to, pings, wiring, _place: place };
    Connection { inbound, answers, ceiling, writer: Some(tokio::spawn(write.run())), _reader: Task::spawn(read.run()) }
}

/// The last ping, until its pong comes.
#[derive(Default)]
struct Pings {
    number: AtomicU64,
    sent: Mutex<Option<(u64, Instant)>>,
}

impl Pings {
    fn next(&self) -> u64 {
        let number = self.number.fetch_add(1, Ordering::Relaxed);
        *self.sent.lock().unwrap_or_else(PoisonError::into_inner) = Some((number, Instant::now()));
        number
    }

    fn answered(&self, payload: &[u8]) -> Option<Duration> {
        let number = u64::from_be_bytes(payload.try_into().ok()?);
        let mut sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        sent.take_if(|(expected, _)| *expected == number).map(|(_, at)| at.elapsed())
    }
}

struct Writer {
    sink: SplitSink<Stream, Message>,
    answers: mpsc::Receiver<String>,
    failed: mpsc::Sender<Inbound>,
    pings: Arc<Pings>,
    every: Duration,
    write: Duration,
    tap: Option<Arc<Tap>>,
    _place: Place,
}

impl Writer {
    async fn run(mut self) {
        let mut tick = interval(self.every);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        tick.tick().await;
        loop {
            let message = tokio::select! {
                answer = self.answers.recv() => match answer {
                    Some(text) => {
                        if let Some(tap) = &self.tap {
                            tap.record("out", &text);
                        }
                        Message::text(text)
                    }
                    None => {
                        let frame = CloseFrame { code: CloseCode::Normal, reason: Utf8Bytes::from_static("") };
                        let _ = timeout(self.write, self.sink.send(Message::Close(Some(frame)))).await;
                        return;
                    }
                },
                _ = tick.tick() => Message::Ping(self.pings.next().to_be_bytes().to_vec().into()),
            };
            let why = match timeout(self.write, self.sink.send(message)).await {
                Ok(Ok(())) => continue,
                Ok(Err(error)) => told(&error),
                Err(_) => "the upstream does not read".into(),
            };
            // The reader may know a better reason: a Close frame, for one. It ends by itself then.
            let _ = timeout(self.write, self.failed.send(Inbound::Ended(Ending::Lost(why)))).await;
            return;
        }
    }
}

struct Reader {
    source: SplitStream<Stream>,
    to: mpsc::Sender<Inbound>,
    pings: Arc<Pings>,
    wiring: Wiring,
    _place: Place,
}

impl Reader {
    async fn run(mut self) {
        let ending = self.read().await;
        let _ = self.to.send(Inbound::Ended(ending)).await;
    }

    async fn read(&mut self) -> Ending {
        let beat = self.wiring.dialect.heartbeat;
        // Whatever the upstream closes after, we give up no later.
        let silence = Duration::from_secs(beat.any_frame_s.min(beat.idle_limit_s));
        let text_silence = Duration::from_secs(beat.text_frame_s);
        let mut text_at = Instant::now();
        loop {
            let wait = match beat.text_frame_s {
                0 => silence,
                _ => silence.min((text_at + text_silence).saturating_duration_since(Instant::now())),
            };
            // Only the wait for the peer is watched: when the budget is full, the silence is ours.
            let message = match timeout(wait, self.source.next()).await {
                Err(_) => return Ending::Lost("the upstream was silent too long".into()),
                Ok(None) => return Ending::Lost("the upstream closed the transport without a word".into()),
                Ok(Some(Err(Error::Capacity(CapacityError::MessageTooLong { size, max_size })))) => {
                    return Ending::TooBig(format!("a message of {size} bytes is above the ceiling of {max_size}"));
                }
                Ok(Some(Err(error))) => return Ending::Lost(told(&error)),
                Ok(Some(Ok(message))) => message,
            };
            let inbound = match message {
                Message::Text(text) => self.text(text).await,
                Message::Binary(bytes) => match String::from_utf8(bytes.to_vec()) {
                    Ok(text) => self.text(text.into()).await,
                    Err(error) => {
                        let mut bytes = error.into_bytes();
                        bytes.truncate(HEAD_BYTES);
                        Some(Inbound::Binary(bytes))
                    }
                },
                Message::Close(frame) => return closed(frame),
                Message::Pong(payload) => {
                    if let Some(rtt) = self.pings.answered(&payload) {
                        self.wiring.metrics.rtt.observe(rtt.as_secs_f64());
                    }
                    continue;
                }
                Message::Ping(_) | Message::Frame(_) => continue,
            };
            let Some(inbound) = inbound else { return Ending::Lost("the link is stopping".into()) };
            if self.to.send(inbound).await.is_err() {
                return Ending::Lost("the link is stopping".into());
            }
            text_at = Instant::now();
        }
    }

    /// Reduces a message above the limit; waits for room in the budget for any other.
    async fn text(&self, text: Utf8Bytes) -> Option<Inbound> {
        if let Some(tap) = &self.wiring.tap {
            tap.record("in", &text);
        }
        let bytes = text.len();
        if bytes > *self.wiring.limit.borrow() {
            let head = text.as_bytes()[..bytes.min(HEAD_BYTES)].to_vec();
            let (sought, cursor) = match self.wiring.dialect.decode(&text) {
                Ok(frame) => {
                    let cursor = match frame.cursor {
                        Cursor::At(raw) => Some(raw.to_owned()),
                        _ => None,
                    };
                    (self.wiring.dialect.sought(&frame), cursor)
                }
                Err(_) => (None, None),
            };
            return Some(Inbound::OverLimit { sought, cursor, bytes, head });
        }
        let cost = u32::try_from(bytes.clamp(1, self.wiring.budget_bytes)).unwrap_or(u32::MAX);
        let permit = Arc::clone(&self.wiring.budget).acquire_many_owned(cost).await.ok()?;
        Some(Inbound::Text(text, permit))
    }
}

fn closed(frame: Option<CloseFrame>) -> Ending {
    match frame {
        Some(frame) if frame.code == CloseCode::Size => Ending::TooBig("the upstream closed with 1009".into()),
        Some(frame) => {
            let said: String = frame.reason.chars().take(120).collect();
            Ending::Lost(format!("the upstream closed with {} {said}", u16::from(frame.code)))
        }
        None => Ending::Lost("the upstream closed".into()),
    }
}
