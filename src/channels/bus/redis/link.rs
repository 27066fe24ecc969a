//! One life of the connection to Redis, and the task that begins the next.
//!
//! Two sockets, so that events do not wait behind a recovery's megabyte. The client library's own reconnection is not
//! used: it retries resubscription once at most, holds commands while it waits, and never gives up a socket that
//! stopped taking bytes. Here a life ends when a socket ends or a heartbeat fails, and everything is made anew.

use std::{future::poll_fn, pin::pin, sync::Arc, task::Poll, time::Duration};

use bytes::Bytes;
use dzvin_actors::platform::ports::BusEvent;
use dzvin_protocols::channels::Epoch;
use fred::{
    clients::Client,
    error::{Error, ErrorKind},
    interfaces::{ClientLike, EventInterface, PubsubInterface},
    types::{ConnectHandle, InfoKind, Key, Message, Value},
};
use tokio::{
    sync::{broadcast, mpsc},
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};

use super::{super::new_epoch, Shared, nodes, script::Script, wire};

/// The first pause after a lost connection; it doubles up to the configured greatest.
const MIN_BACKOFF: Duration = Duration::from_millis(50);
/// Channels in one SUBSCRIBE when all are asked for again.
const SUBSCRIBE_CHUNK: usize = 512;
/// Digits of the replication id at the beginning of an epoch; the scripts compare as many.
const PRIMARY_DIGITS: usize = 8;

/// A connection that was good when it was made.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) commands: Client,
    /// Names the primary: the beginning of every epoch that this life of it began. After a failover it is another.
    pub(super) primary: String,
    subscriber: Client,
}

/// The task that drives a socket; it ends with this.
struct Socket(ConnectHandle);

impl Socket {
    async fn connect(client: &Client) -> Result<Self, Error> {
        let mut ready = pin!(client.wait_for_connect());
        // Polled once before the task starts: its answer cannot come before we listen.
        let early = poll_fn(|cx| Poll::Ready(ready.as_mut().poll(cx))).await;
        // Owned from here on: if connecting is given up, no task stays behind.
        let socket = Self(client.connect());
        if early.is_pending() {
            ready.await?;
        }
        Ok(socket)
    }

    async fn ended(&mut self) -> Error {
        match (&mut self.0).await {
            Ok(Err(error)) => error,
            _ => Error::new(ErrorKind::IO, "the connection ended"),
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Link {
    async fn open(shared: &Shared) -> Result<(Self, [Socket; 2]), Error> {
        let builder = shared.config.builder();
        let (commands, subscriber) = (builder.build()?, builder.build()?);
        let sockets = tokio::try_join!(Socket::connect(&commands), Socket::connect(&subscriber))?;
        let primary = primary(&commands).await?;
        Ok((Self { commands, primary, subscriber }, sockets.into()))
    }

    /// A name for a new life of an application's stream on this primary.
    pub(super) fn new_epoch(&self) -> Epoch {
        Epoch::new(&format!("{}{}", self.primary, new_epoch().as_str()))
    }

    pub(super) async fn eval(&self, script: &Script, keys: Vec<Key>, args: Vec<Value>) -> Result<Value, Error> {
        script.run(&self.commands, false, keys, args).await
    }

    /// Returns when the server has taken them: the library answers as soon as they are written, so a ping follows on
    /// the same socket.
    pub(super) async fn subscribe(&self, channels: Vec<String>) -> Result<(), Error> {
        self.subscriber.subscribe(channels).await?;
        self.subscriber.ping(None).await
    }

    pub(super) async fn unsubscribe(&self, channel: String) -> Result<(), Error> {
        self.subscriber.unsubscribe(channel).await
    }

    pub(super) async fn publish(&self, channel: String, message: Bytes) -> Result<(), Error> {
        self.commands.publish(channel, Value::Bytes(message)).await
    }

    async fn ping(&self) -> Result<(), Error> {
        tokio::try_join!(self.commands.ping::<()>(None), self.subscriber.ping::<()>(None)).map(drop)
    }
}

/// The first eight digits of the replication id, which a primary gets anew when it takes over or starts.
async fn primary(client: &Client) -> Result<String, Error> {
    let info: String = client.info(Some(InfoKind::Replication)).await?;
    let id = info.lines().find_map(|line| line.strip_prefix("master_replid:")).unwrap_or_default();
    match id.get(..PRIMARY_DIGITS) {
        Some(id) if id.bytes().all(|b| b.is_ascii_alphanumeric()) => Ok(id.to_owned()),
        _ => Err(Error::new(ErrorKind::Protocol, "the server names no replication id")),
    }
}

/// Keeps a connection for as long as it is not aborted.
pub(super) async fn keep(shared: Arc<Shared>, events: mpsc::Sender<BusEvent>) {
    let _down = DownOnDrop(Arc::clone(&shared));
    let mut pause = MIN_BACKOFF;
    loop {
        let opened = timeout(shared.config.connect_timeout, Link::open(&shared)).await;
        let error = match opened.unwrap_or_else(|_| Err(too_slow())) {
            Ok((link, sockets)) => {
                let since = Instant::now();
                let error = live(&shared, Arc::new(link), sockets, &events).await;
                shared.set_link(None);
                if since.elapsed() > shared.config.max_backoff {
                    pause = MIN_BACKOFF;
                }
                error
            }
            Err(error) => error,
        };
        shared.metrics.failures.inc();
        tracing::warn!(error = &error as &dyn std::error::Error, "no connection to redis");
        // Full jitter: nodes that lost the same Redis do not come back in one moment.
        sleep(pause.mul_f64(rand::random())).await;
        pause = (pause * 2).min(shared.config.max_backoff);
    }
}

/// From a good connection to why it ended.
async fn live(shared: &Arc<Shared>, link: Arc<Link>, sockets: [Socket; 2], events: &mpsc::Sender<BusEvent>) -> Error {
    let messages = link.subscriber.message_rx();
    if let Err(error) = nodes::renew(shared, &link).await {
        return error;
    }
    // First shown, then resubscribed: a stream that is wanted meanwhile is either in the set below or asks by itself.
    shared.set_link(Some(Arc::clone(&link)));
    shared.metrics.connections.inc();
    if let Err(error) = resubscribe(shared, &link).await {
        return error;
    }
    tracing::info!("connected to redis");
    let _reader = AbortOnDrop(tokio::spawn(tell(Arc::clone(shared), messages, events.clone())));
    let [mut commands, mut subscriber] = sockets;
    let beat = async {
        let mut renewed = Instant::now();
        loop {
            sleep(shared.config.heartbeat).await;
            if renewed.elapsed() >= nodes::renewal(shared.config.lease) {
                renewed = Instant::now();
                if let Err(error) = nodes::renew(shared, &link).await {
                    return error;
                }
            }
            if let Err(error) = link.ping().await {
                return error;
            }
            // It changes under a living connection when a first replica is attached: nodes must not name it differently.
            match primary(&link.commands).await {
                Ok(name) if name == link.primary => {}
                Ok(_) => return Error::new(ErrorKind::Protocol, "the server has another replication id"),
                Err(error) => return error,
            }
        }
    };
    tokio::select! {
        error = beat => error,
        error = commands.ended() => error,
        error = subscriber.ended() => error,
    }
}

async fn resubscribe(shared: &Shared, link: &Link) -> Result<(), Error> {
    let mut channels: Vec<_> = shared.subscribed().iter().map(|s| shared.config.channel(s)).collect();
    channels.extend([shared.config.node_channel(Some(&shared.node)), shared.config.node_channel(None)]);
    for chunk in channels.chunks(SUBSCRIBE_CHUNK) {
        link.subscribe(chunk.to_vec()).await?;
    }
    Ok(())
}

/// Hands events to this node. Waiting for it is safe: the library's buffer runs over meanwhile and says so.
async fn tell(shared: Arc<Shared>, mut messages: broadcast::Receiver<Message>, events: mpsc::Sender<BusEvent>) {
    let mut event = Some(BusEvent::Lost);
    loop {
        if matches!(event, Some(BusEvent::Lost)) {
            shared.metrics.lost.inc();
        }
        if let Some(event) = event
            && events.send(event).await.is_err()
        {
            return;
        }
        event = match messages.recv().await {
            Ok(message) => heard(&shared, message),
            Err(broadcast::error::RecvError::Lagged(messages)) => {
                tracing::warn!(messages, "the reader of bus events lagged");
                Some(BusEvent::Lost)
            }
            Err(broadcast::error::RecvError::Closed) => return,
        };
    }
}

/// What a message says; `None` when it is not for this node any more.
fn heard(shared: &Shared, message: Message) -> Option<BusEvent> {
    let body = message.value.into_bytes().unwrap_or_default();
    let stream = shared.config.stream(&message.channel);
    let event = match stream {
        Some(stream) if shared.subscribed().contains(&stream) => wire::event(stream, &body),
        Some(_) => return None,
        None => wire::told(&body),
    };
    Some(event.unwrap_or_else(|error| {
        shared.metrics.malformed.inc();
        tracing::warn!(error = &error as &dyn std::error::Error, "a bus event is malformed");
        BusEvent::Lost
    }))
}

fn too_slow() -> Error {
    Error::new(ErrorKind::Timeout, "connecting took too long")
}

impl Shared {
    fn set_link(&self, link: Option<Arc<Link>>) {
        self.metrics.connected.set(i64::from(link.is_some()));
        self.link.send_replace(link);
    }
}

struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Whoever still holds the bus's parts sees that it is down.
struct DownOnDrop(Arc<Shared>);

impl Drop for DownOnDrop {
    fn drop(&mut self) {
        self.0.set_link(None);
    }
}
