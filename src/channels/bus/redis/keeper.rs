//! The task that keeps the connection to one server: it begins the next life when one has ended, and hands on what is
//! heard.

use std::{future::pending, sync::Arc, time::Duration};

use dzvin_actors::platform::ports::BusEvent;
use fred::{
    error::{Error, ErrorKind},
    types::{Message, config::ServerConfig},
};
use tokio::{
    sync::{broadcast, mpsc},
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};

use super::{
    Shared,
    config::Deployment,
    link::{Link, Socket},
    nodes,
    sentinel::{self, Address},
    shard::{Shard, Site},
    wire,
};

/// The first pause after a lost connection; it doubles up to the configured greatest.
const MIN_BACKOFF: Duration = Duration::from_millis(50);
/// Heartbeats between two questions to the sentinels, for the primary that we talk to may be the one that all others have
/// given up.
const SENTINEL_BEATS: u32 = 5;

/// Heartbeats one after the other that find subscriptions missing; then everything is made anew.
const MAX_UNHEARD: u32 = 3;

/// A task that ends with this.
#[derive(Debug)]
pub(super) struct AbortOnDrop(pub(super) JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Whoever still holds the bus's parts sees that it is down.
struct DownOnDrop(Arc<Shared>, Arc<Shard>);

impl Drop for DownOnDrop {
    fn drop(&mut self) {
        self.0.set_link(&self.1, None);
    }
}

/// Keeps a connection for as long as it is not aborted.
pub(super) async fn keep(shared: Arc<Shared>, shard: Arc<Shard>, events: mpsc::Sender<BusEvent>) {
    let _down = DownOnDrop(Arc::clone(&shared), Arc::clone(&shard));
    let mut pause = MIN_BACKOFF;
    loop {
        let opened = timeout(shared.config.connect_timeout, open(&shared, &shard)).await;
        let error = match opened.unwrap_or_else(|_| Err(too_slow())) {
            Ok((link, sockets, found)) => {
                let since = Instant::now();
                let error = live(&shared, &shard, Arc::new(link), sockets, found, &events).await;
                shared.set_link(&shard, None);
                if since.elapsed() > shared.config.max_backoff {
                    pause = MIN_BACKOFF;
                }
                error
            }
            Err(error) => error,
        };
        shared.metrics.failures.inc();
        tracing::warn!(error = &error as &dyn std::error::Error, server = shard.name(), "no connection to redis");
        // It may have been replaced.
        shared.refresh.notify_one();
        // Full jitter: nodes that lost the same Redis do not come back in one moment.
        sleep(pause.mul_f64(rand::random())).await;
        pause = (pause * 2).min(shared.config.max_backoff);
    }
}

async fn open(shared: &Shared, shard: &Shard) -> Result<(Link, [Socket; 2], Option<Address>), Error> {
    let (server, found) = match &shard.site {
        Site::At(server) => (server.clone(), None),
        Site::Watched => {
            let (host, port) = whereabouts(shared).await?;
            (ServerConfig::new_centralized(host.as_str(), port), Some((host, port)))
        }
    };
    let (link, sockets) = Link::open(&shared.config, server).await?;
    Ok((link, sockets, found))
}

async fn whereabouts(shared: &Shared) -> Result<Address, Error> {
    let Deployment::Watched(sentinels) = &shared.config.deployment else {
        return Err(Error::new(ErrorKind::Config, "nobody is there to be asked"));
    };
    // Half of the time is for the server itself.
    sentinel::primary(&shared.config, sentinels, shared.config.connect_timeout / 2).await
}

/// From a good connection to why it ended.
async fn live(
    shared: &Arc<Shared>,
    shard: &Arc<Shard>,
    link: Arc<Link>,
    sockets: [Socket; 2],
    found: Option<Address>,
    events: &mpsc::Sender<BusEvent>,
) -> Error {
    let messages = link.messages();
    if shared.is_home(shard)
        && let Err(error) = nodes::renew_at(shared, &link).await
        && !error.is_moved()
    {
        return error;
    }
    // First shown, then resubscribed: a stream that is wanted meanwhile is either in the set below or asks by itself.
    shared.set_link(shard, Some(Arc::clone(&link)));
    shared.metrics.connections.inc();
    if let Err(error) = resubscribe(shared, shard, &link).await {
        return error;
    }
    tracing::info!(server = shard.name(), "connected to redis");
    let _reader = AbortOnDrop(tokio::spawn(tell(Arc::clone(shared), messages, events.clone())));
    let [mut commands, mut subscriber] = sockets;
    tokio::select! {
        error = beat(shared, shard, &link) => error,
        error = commands.ended() => error,
        error = subscriber.ended() => error,
        error = replaced(shared, found) => error,
    }
}

/// Returns when the server does not answer or is not who it was.
async fn beat(shared: &Shared, shard: &Arc<Shard>, link: &Link) -> Error {
    let mut renewed = shared.is_home(shard).then(Instant::now);
    let mut unheard = 0;
    loop {
        sleep(shared.config.heartbeat).await;
        if let Err(error) = link.ping().await {
            return error;
        }
        if let Err(error) = link.check_primary().await {
            return error;
        }
        let routes = shared.routes();
        match link.is_heard(|channel| routes.has(shard, channel)).await {
            Ok(true) => unheard = 0,
            Ok(false) if unheard >= MAX_UNHEARD => {
                return Error::new(ErrorKind::Protocol, "the server does not keep what is subscribed");
            }
            Ok(false) => {
                unheard += 1;
                tracing::info!(server = shard.name(), "redis has ended subscriptions; they are made again");
                shared.unheard(shared.wanted_of(shard));
                shared.refresh.notify_one();
            }
            Err(error) => return error,
        }
        if !shared.is_home(shard) {
            renewed = None;
        } else if renewed.is_none_or(|at| at.elapsed() >= nodes::renewal(shared.config.lease)) {
            renewed = Some(Instant::now());
            if let Err(error) = nodes::renew(shared).await {
                tracing::warn!(error = &error as &dyn std::error::Error, "this node's lease was not prolonged");
            }
        }
    }
}

/// Returns when the sentinels name another server than the one that they led to.
async fn replaced(shared: &Shared, found: Option<Address>) -> Error {
    let Some(found) = found else { return pending().await };
    loop {
        sleep(shared.config.heartbeat * SENTINEL_BEATS).await;
        // Sentinels that do not answer are no reason to leave a server that does.
        if let Ok(now) = whereabouts(shared).await
            && now != found
        {
            return Error::new(ErrorKind::Sentinel, "the sentinels name another server");
        }
    }
}

async fn resubscribe(shared: &Shared, shard: &Arc<Shard>, link: &Link) -> Result<(), Error> {
    shared.unheard(link.subscribe_own(&shared.wanted_of(shard)).await?);
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
    if stream.as_ref().is_some_and(|stream| !shared.subscribed().contains(stream)) {
        return None;
    }
    if wire::is_later(&body) {
        shared.metrics.malformed.inc();
        // Whatever it says of a stream, what is kept can be looked up. The rest is passed over, as a word is that is not known.
        return stream.map(|stream| BusEvent::Begun { stream });
    }
    let event = match stream {
        Some(stream) => wire::event(stream, &body),
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
