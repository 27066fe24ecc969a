//! Sessions over real sockets, with a log and a bus in memory.

mod codes;
mod grants;
mod model;
mod pusher;
mod queries;
mod races;
mod rights;
mod rpc;
mod terms;
mod traced;

use std::{
    collections::HashSet,
    future::Future,
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use dzvin_protocols::{
    channels::{Epoch, Extra, IdKey, Message, Position, Publication},
    entities::{Change, Op},
    identity::{Overrides, Permissions},
    platform::{EntityId, Kind, StreamName},
};
use futures_util::{SinkExt, StreamExt};
use ractor::{Actor, ActorRef};
use serde_json::{Value, json, value::RawValue};
use time::OffsetDateTime;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::timeout,
};
use tokio_tungstenite::{WebSocketStream, tungstenite};

use super::{Hub, Incoming};
use crate::{
    channels::{
        Access, Apps, ChannelRules, Conflate, Handlers, HoldRules, Limits, Mailboxes, Metrics, Namespaces, Numbers,
        Shard, ShardArgs, Shards, Topics, TopicsArgs, TopicsMessage, Tracer, Users, Wire,
    },
    platform::ports::{
        Appended, AuthError, Authenticator, Bus, BusError, BusEvent, ChangeLog, Conditions, HistoryLimits, Identity,
        LogSlice, Offer, Published, ReadLimit, ServerSubscription, Slice, StoreError, SubscriptionGrant, Verified,
    },
    supervise::{Progress, Slot},
};

/// The log and the bus at once: what the bus knows is a prefix of the log.
struct World {
    log: Mutex<Vec<Change>>,
    epoch: Mutex<Epoch>,
    bus_top: Mutex<u64>,
    bus_down: Mutex<bool>,
    subscribed: Mutex<HashSet<StreamName>>,
    /// What the application published, all on one channel.
    published: Mutex<Vec<Publication>>,
    /// Closed: who unsubscribes waits.
    leaving: Semaphore,
    waiting_to_leave: AtomicUsize,
    left: AtomicUsize,
    /// True: the log never answers for an entity.
    hanging: AtomicBool,
    /// True: the bus has lost what it had of the application's streams.
    emptied: AtomicBool,
}

fn kind() -> Kind {
    Kind::new("procedure").expect("kind")
}

impl World {
    fn new() -> Arc<Self> {
        let epoch = Mutex::new(Epoch::new("e1"));
        Arc::new(Self {
            log: Mutex::default(),
            epoch,
            bus_top: Mutex::new(0),
            bus_down: Mutex::new(false),
            subscribed: Mutex::default(),
            published: Mutex::default(),
            leaving: Semaphore::new(1),
            waiting_to_leave: AtomicUsize::new(0),
            left: AtomicUsize::new(0),
            hanging: AtomicBool::new(false),
            emptied: AtomicBool::new(false),
        })
    }

    fn commit(&self, id: &str) {
        self.commit_sized(id, 0);
    }

    fn commit_sized(&self, id: &str, size: usize) {
        let mut log = self.log.lock().unwrap();
        let revision = log.iter().filter(|c| c.id.as_str() == id).count() as u64 + 1;
        let doc = RawValue::from_string(format!("{{\"n\":{revision},\"pad\":\"{}\"}}", "x".repeat(size))).unwrap();
        let offset = log.len() as u64 + 1;
        log.push(Change {
            kind: kind(),
            id: EntityId::new(id).unwrap(),
            revision,
            offset,
            op: Op::Update,
            at: OffsetDateTime::now_utc(),
            by: "test".into(),
            changed: vec![],
            doc: Some(doc.into()),
            trace: None,
            fields: None,
        });
    }

    fn position_at(&self, offset: u64) -> Position {
        Position { epoch: self.epoch.lock().unwrap().clone(), offset }
    }

    fn slice(&self, after: u64, top: u64, limit: ReadLimit) -> Vec<Change> {
        let log = self.log.lock().unwrap();
        bounded(log.iter().filter(|c| c.offset > after && c.offset <= top).cloned(), limit)
    }
}

/// As many as the limit allows, and at least one, as the ports promise.
fn bounded(changes: impl Iterator<Item = Change>, limit: ReadLimit) -> Vec<Change> {
    let mut bytes = 0;
    let fits = |(n, change): &(usize, Change)| {
        bytes += change.publication().data.len();
        *n == 0 || bytes <= limit.bytes
    };
    changes.take(limit.count).enumerate().take_while(fits).map(|(_, change)| change).collect()
}

fn down() -> BusError {
    BusError { doing: "a test", source: Box::new(io::Error::other("down")) }
}

impl Bus for World {
    async fn append(&self, _: &StreamName, _: &Epoch, run: &[Publication]) -> Result<Appended, BusError> {
        let top = run.last().map_or(0, |p| p.offset);
        *self.bus_top.lock().unwrap() = top;
        Ok(Appended::Accepted { top })
    }
    async fn reset(&self, _: &StreamName, _: &Position) -> Result<(), BusError> {
        Ok(())
    }
    async fn publish(&self, stream: &StreamName, message: Message, _: &HistoryLimits) -> Result<Position, BusError> {
        let id = EntityId::new(stream.as_str()).unwrap();
        let mut published = self.published.lock().unwrap();
        let offset = published.len() as u64 + 1;
        published.push(message.publication(id, offset));
        Ok(self.position_at(offset))
    }
    async fn put(&self, stream: &StreamName, offer: Offer, _: &Conditions) -> Result<Published, BusError> {
        match offer {
            Offer::Kept(message, keep) => self.publish(stream, message, &keep).await.map(Published::At),
            Offer::Passing(_) => Ok(Published::Told),
        }
    }
    async fn forget(&self, _: &StreamName) -> Result<(), BusError> {
        Ok(())
    }
    async fn open(&self, _: &StreamName) -> Result<Position, BusError> {
        Ok(self.position_at(self.published.lock().unwrap().len() as u64))
    }
    async fn positions(&self, streams: &[StreamName]) -> Result<Vec<Option<Position>>, BusError> {
        let top = self.published.lock().unwrap().len() as u64;
        Ok(streams.iter().map(|_| Some(self.position_at(top))).collect())
    }
    async fn position(&self, _: &StreamName) -> Result<Option<Position>, BusError> {
        if *self.bus_down.lock().unwrap() {
            Err(down())
        } else {
            Ok(Some(self.position_at(*self.bus_top.lock().unwrap())))
        }
    }
    async fn read(&self, stream: &StreamName, after: u64, limit: ReadLimit) -> Result<Option<Slice>, BusError> {
        if *self.bus_down.lock().unwrap() {
            return Err(down());
        }
        if stream.kind().is_none() {
            if self.emptied.load(Ordering::SeqCst) {
                return Ok(None);
            }
            let published = self.published.lock().unwrap();
            let rest = published.iter().filter(|it| it.offset > after).take(limit.count).cloned();
            let position = self.position_at(published.len() as u64);
            return Ok(Some(Slice { position, publications: rest.collect(), complete: true }));
        }
        let top = *self.bus_top.lock().unwrap();
        let publications = self.slice(after, top, limit).iter().map(Change::publication).collect();
        Ok(Some(Slice { position: self.position_at(top), publications, complete: true }))
    }
    async fn subscribe(&self, stream: &StreamName) -> Result<(), BusError> {
        self.subscribed.lock().unwrap().insert(stream.clone());
        if *self.bus_down.lock().unwrap() { Err(down()) } else { Ok(()) }
    }
    async fn unsubscribe(&self, stream: &StreamName) -> Result<(), BusError> {
        self.waiting_to_leave.fetch_add(1, Ordering::SeqCst);
        drop(self.leaving.acquire().await);
        self.subscribed.lock().unwrap().remove(stream);
        self.left.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
    async fn whisper(&self, _: &StreamName, _: Bytes) -> Result<(), BusError> {
        Ok(())
    }
    async fn tell(&self, _: Option<&str>, _: Bytes) -> Result<bool, BusError> {
        Ok(true)
    }
    fn node(&self) -> &str {
        "node"
    }
    async fn nodes(&self) -> Result<Vec<Arc<str>>, BusError> {
        Ok(vec!["node".into()])
    }
}

impl ChangeLog for World {
    async fn positions(&self) -> Result<Vec<(Kind, Position)>, StoreError> {
        Ok(vec![])
    }
    async fn position(&self, of: &Kind) -> Result<Option<Position>, StoreError> {
        Ok((*of == kind()).then(|| self.position_at(self.log.lock().unwrap().len() as u64)))
    }
    async fn read(&self, of: &Kind, after: u64, limit: ReadLimit) -> Result<Option<LogSlice>, StoreError> {
        let position = self.position_at(self.log.lock().unwrap().len() as u64);
        let changes = self.slice(after, u64::MAX, limit);
        Ok((*of == kind()).then_some(LogSlice { position, changes, complete: true }))
    }
    async fn read_entity(
        &self,
        _: &Kind,
        key: &IdKey,
        after: u64,
        limit: ReadLimit,
    ) -> Result<Option<LogSlice>, StoreError> {
        if self.hanging.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        let mine: Vec<Change> =
            self.slice(0, u64::MAX, EVERYTHING).into_iter().filter(|c| c.id.as_str() == key.as_str()).collect();
        let position = self.position_at(mine.len() as u64);
        let changes = bounded(mine.into_iter().filter(|c| c.revision > after), limit);
        Ok(Some(LogSlice { position, changes, complete: true }))
    }
    async fn renew_epoch(&self, _: &Kind, _: &Epoch) -> Result<Option<Position>, StoreError> {
        Ok(None)
    }
}

struct Tokens;

/// `chat` is open to all, `latest` as well, and everything else to those to whom it is granted.
fn namespaces() -> Namespaces {
    let open = ChannelRules {
        subscribe: Access::Anyone,
        publish: Access::Anyone,
        deltas: true,
        join_leave: true,
        ..ChannelRules::default()
    };
    let latest = ChannelRules { latest_only: true, ..open.clone() };
    let hold = HoldRules { every: Duration::from_millis(40), conflate: Conflate::Channel };
    let ticker = ChannelRules { hold: Some(hold), ..open.clone() };
    let room = ChannelRules { presence: Some(Access::Anyone), ..open.clone() };
    let named = [("chat", open), ("latest", latest), ("ticker", ticker), ("room", room)];
    Namespaces::new(ChannelRules::default(), named.map(|(name, rules)| (name.to_owned(), rules)).into())
}

impl Authenticator for Tokens {
    fn authenticate<'a>(&'a self, token: &'a str) -> Verified<'a, Identity> {
        Box::pin(async move { self.identity(token) })
    }

    /// `CHANNEL`, or `CHANNEL short` for one that ends in two seconds, `hidden` for one that is shown to nobody, `named` for one of
    /// which others see something, and hear neither coming nor going.
    fn subscription<'a>(&'a self, token: &'a str, _: &'a str, channel: &'a str) -> Verified<'a, SubscriptionGrant> {
        let (of, ends) = token.split_once(' ').unwrap_or((token, ""));
        let expires_at = (ends == "short").then(|| OffsetDateTime::now_utc() + Duration::from_secs(2));
        let grant = match (of == channel, ends) {
            (_, "expired") => Err(AuthError::Expired),
            (true, "hidden") => {
                let overrides = Overrides { presence: Some(false), join_leave: Some(false), ..Overrides::default() };
                Ok(SubscriptionGrant { overrides, ..SubscriptionGrant::default() })
            }
            (true, "named") => {
                let overrides = Overrides { join_leave: Some(false), ..Overrides::default() };
                let info = Some(Bytes::from_static(b"{\"role\":\n\"clerk\"}"));
                Ok(SubscriptionGrant { info, overrides, ..SubscriptionGrant::default() })
            }
            (true, _) => Ok(SubscriptionGrant { expires_at, ..SubscriptionGrant::default() }),
            (false, _) => Err(AuthError::Invalid),
        };
        Box::pin(async { grant })
    }
}

impl Tokens {
    fn identity(&self, token: &str) -> Result<Identity, AuthError> {
        let permissions = match token {
            "reader" | "short" | "shortest" | "subscribed" | "one" | "twice" | "overriding" => {
                Permissions::parse(["entities:read:procedure"])
            }
            // As `reader`, who does not see one field.
            "masked" => Permissions::parse(["entities:read:procedure"]).map(|it| it.with_views(rights::views())),
            "all" => Permissions::parse(["entities:read:*"]),
            "panics" => panic!("a test's token"),
            "nobody" => Permissions::parse([]),
            "expired" => return Err(AuthError::Expired),
            "unavailable" => return Err(AuthError::Unavailable),
            _ => return Err(AuthError::Invalid),
        };
        let ttl = match token {
            "short" => Some(60),
            "shortest" => Some(1),
            _ => None,
        };
        let expires_at = ttl.map(|ttl| OffsetDateTime::now_utc() + Duration::from_secs(ttl));
        let made = |channel: &str| ServerSubscription { channel: channel.into(), ..ServerSubscription::default() };
        let subscriptions = match token {
            "subscribed" => [made("news.1"), made("entities.procedure"), made("entities.call")].into(),
            "one" => [made("news.1")].into(),
            "twice" => [made("news.1"), made("news.1")].into(),
            // Against what holds for either: of `chat` joins are told and nobody is shown, of `news` neither.
            "overriding" => [
                ServerSubscription {
                    overrides: Overrides {
                        join_leave: Some(false),
                        force_push_join_leave: Some(false),
                        ..Overrides::default()
                    },
                    ..made("chat.1")
                },
                ServerSubscription {
                    data: Some(Bytes::from_static(b"{\"hello\":1}")),
                    overrides: Overrides {
                        presence: Some(true),
                        join_leave: Some(true),
                        force_push_join_leave: Some(true),
                        ..Overrides::default()
                    },
                    ..made("news.1")
                },
            ]
            .into(),
            _ => Arc::default(),
        };
        Ok(Identity { expires_at, subscriptions, ..Identity::new("u1", Arc::new(permissions.unwrap())) })
    }
}

struct Node {
    world: Arc<World>,
    hub: Arc<Hub<World, World>>,
    topics: ActorRef<TopicsMessage>,
}

impl Node {
    async fn start(limits: Limits) -> Self {
        Self::with_shards(limits, 1).await
    }

    /// `count` shards, of which only the first lives.
    async fn with_shards(limits: Limits, count: usize) -> Self {
        Self::made(limits, count, Handlers::default()).await
    }

    /// One whose clients may call something.
    async fn with_handlers(limits: Limits, handlers: Handlers) -> Self {
        Self::made(limits, 1, handlers).await
    }

    async fn made(limits: Limits, count: usize, handlers: Handlers) -> Self {
        let (world, shards, slot, metrics) = (World::new(), Shards::new(count), Slot::default(), Metrics::default());
        let hub = Arc::new(Hub {
            bus: Arc::clone(&world),
            log: Arc::clone(&world),
            auth: Arc::new(Tokens),
            topics: slot,
            shards,
            limits,
            namespaces: Arc::new(namespaces()),
            numbers: Numbers::default(),
            users: Users::default(),
            presence: Slot::default(),
            handlers,
            apps: Apps::default(),
            observer: Arc::new(()),
            tracer: Tracer::default(),
            mailboxes: Mailboxes::default(),
            queries: Arc::new(queries::OneQuery),
            letters: tokio::sync::mpsc::channel(1).0,
            metrics,
            version: "dzvin test".to_owned(),
        });
        let args = TopicsArgs::new(&hub, Progress::default());
        let (topics, _) = Actor::spawn(None, Topics::default(), args).await.expect("topics");
        let node = Self { world, hub, topics };
        node.shard().await;
        node
    }

    /// A life of the first shard.
    async fn shard(&self) {
        let args = ShardArgs { index: 0, hub: Arc::clone(&self.hub), progress: Progress::default() };
        Actor::spawn(None, Shard::default(), args).await.expect("shard");
    }

    /// Ends topics and begins another life of theirs.
    async fn topics_again(&self) {
        if let Some(topics) = self.hub.topics.get() {
            topics.stop_and_wait(None, None).await.expect("stopped");
        }
        let args = TopicsArgs::new(&self.hub, Progress::default());
        Actor::spawn(None, Topics::default(), args).await.expect("topics again");
    }

    async fn client(&self) -> Client {
        Client::over(self.socket(&Arc::new(Semaphore::new(1))).await).await
    }

    /// The client's end of a connection that a shard was given.
    async fn socket(&self, sessions: &Arc<Semaphore>) -> TcpStream {
        self.connection(Wire::CentrifugeJson, sessions).await
    }

    /// The same on another wire.
    async fn socket_on(&self, wire: Wire) -> TcpStream {
        self.connection(wire, &Arc::new(Semaphore::new(1))).await
    }

    async fn connection(&self, wire: Wire, sessions: &Arc<Semaphore>) -> TcpStream {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let (client, server) =
            tokio::join!(TcpStream::connect(listener.local_addr().expect("address")), listener.accept());
        let permit = Arc::clone(sessions).try_acquire_owned().expect("permit");
        let socket = server.expect("accept").0;
        assert!(self.hub.shards.accept(Incoming {
            socket: socket.into(),
            leftover: bytes::Bytes::new(),
            wire,
            permit: permit.into(),
            mailbox: None,
            admission: None,
        }));
        client.expect("connect")
    }

    /// What the relay and the bus do after a commit.
    async fn tell(&self, offset: u64) {
        self.tell_run(offset, offset).await;
    }

    /// The same for several at once.
    async fn tell_run(&self, first: u64, last: u64) {
        *self.world.bus_top.lock().unwrap() = last;
        let publications = self.world.slice(first - 1, last, EVERYTHING).iter().map(Change::publication).collect();
        let epoch = self.world.epoch.lock().unwrap().clone();
        let event = BusEvent::Publications { stream: kind().stream(), epoch, publications };
        self.hub.topics.call(|reply| TopicsMessage::Events(vec![event], reply), PATIENCE).await.expect("told");
    }

    async fn publish(&self, id: &str) {
        self.world.commit(id);
        let top = self.world.log.lock().unwrap().len() as u64;
        self.tell(top).await;
    }
}

/// Channels of the application.
impl Node {
    /// Publishes on a channel; subscribers here are told.
    async fn say(&self, channel: &str, data: &str, tags: &[(&str, &str)]) {
        let stream = StreamName::from_checked(channel);
        let tags = tags.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let tags = tags.collect::<std::collections::BTreeMap<_, _>>().try_into().expect("tags");
        let extra = Some(Arc::new(Extra { tags, ..Extra::default() }));
        let message = Message { data: Bytes::copy_from_slice(data.as_bytes()), at: 0, trace: None, extra };
        self.world.publish(&stream, message, &HistoryLimits::default()).await.expect("published");
        let publications = vec![self.world.published.lock().unwrap().last().cloned().expect("one")];
        let epoch = self.world.epoch.lock().unwrap().clone();
        self.hear(BusEvent::Publications { stream, epoch, publications }).await;
    }

    async fn hear(&self, event: BusEvent) {
        let told = |reply| TopicsMessage::Events(vec![event], reply);
        self.hub.topics.call(told, PATIENCE).await.expect("topics");
    }
}

const PATIENCE: Duration = Duration::from_secs(10);
const EVERYTHING: ReadLimit = ReadLimit { count: usize::MAX, bytes: usize::MAX };

struct Client(WebSocketStream<TcpStream>);

impl Client {
    async fn over(socket: TcpStream) -> Self {
        Self(WebSocketStream::from_raw_socket(socket, tungstenite::protocol::Role::Client, None).await)
    }

    async fn send(&mut self, command: Value) {
        self.0.send(command.to_string().into()).await.expect("send");
    }

    async fn receive(&mut self) -> Value {
        loop {
            match timeout(PATIENCE, self.0.next())
                .await
                .expect("an answer in time")
                .expect("open")
                .expect("well formed")
            {
                tungstenite::Message::Text(text) => return serde_json::from_str(&text).expect("json"),
                tungstenite::Message::Close(frame) => return json!({"close": u16::from(frame.expect("a code").code)}),
                _ => {}
            }
        }
    }

    async fn ask(&mut self, command: Value) -> Value {
        self.send(command).await;
        self.receive().await
    }

    async fn connected(mut self, token: &str) -> Self {
        let reply = self.ask(json!({"id": 1, "connect": {"token": token}})).await;
        assert!(reply["connect"]["client"].is_string(), "{reply}");
        self
    }

    async fn offsets(&mut self, count: usize) -> Vec<u64> {
        let mut got = Vec::new();
        while got.len() < count {
            let push = self.receive().await;
            got.push(push["push"]["pub"]["offset"].as_u64().unwrap_or_else(|| panic!("a publication: {push}")));
        }
        got
    }
}

fn subscribe(channel: &str) -> Value {
    json!({"id": 2, "subscribe": {"channel": channel}})
}

fn recover(epoch: &str, offset: u64) -> Value {
    json!({"id": 2, "subscribe": {"channel": "entities.procedure", "recover": true, "epoch": epoch, "offset": offset}})
}

async fn eventually<F: Future<Output = bool>>(what: &str, check: impl Fn() -> F) {
    let waiting = async {
        while !check().await {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("never: {what}"));
}

#[tokio::test]
async fn a_subscriber_gets_every_change_in_order() {
    let node = Node::start(Limits::default()).await;
    let mut client = node.client().await.connected("reader").await;
    node.publish("a").await;
    let reply = client.ask(subscribe("entities.procedure")).await;
    assert_eq!(reply["subscribe"], json!({"recoverable": true, "positioned": true, "epoch": "e1", "offset": 1}));
    for id in ["a", "b", "a"] {
        node.publish(id).await;
    }
    assert_eq!(client.offsets(3).await, [2, 3, 4]);
    assert_eq!(
        client.ask(json!({"id": 3, "unsubscribe": {"channel": "entities.procedure"}})).await,
        json!({"id": 3, "unsubscribe": {}})
    );
    node.publish("a").await;
    assert_eq!(client.ask(json!({"id": 4, "ping": {}})).await, json!({"id": 4, "ping": {}}), "nothing came between");
}

#[tokio::test]
async fn an_entitys_own_channel_counts_revisions() {
    let node = Node::start(Limits::default()).await;
    node.publish("a").await;
    node.publish("b").await;
    let mut client = node.client().await.connected("reader").await;
    assert_eq!(client.ask(subscribe("entity.procedure.a")).await["subscribe"]["offset"], 1);
    for id in ["b", "a", "b", "a"] {
        node.publish(id).await;
    }
    assert_eq!(client.offsets(2).await, [2, 3]);
    let mut back = node.client().await.connected("reader").await;
    let mut command = recover("e1", 1);
    command["subscribe"]["channel"] = json!("entity.procedure.a");
    let reply = back.ask(command).await;
    assert_eq!(
        (&reply["subscribe"]["recovered"], reply["subscribe"]["publications"].as_array().map(Vec::len)),
        (&json!(true), Some(2))
    );
}

#[tokio::test]
async fn what_the_bus_did_not_tell_is_fetched() {
    let node = Node::start(Limits::default()).await;
    let mut client = node.client().await.connected("reader").await;
    client.ask(subscribe("entities.procedure")).await;
    for _ in 0..4 {
        node.world.commit("a");
    }
    node.tell(4).await;
    assert_eq!(client.offsets(4).await, [1, 2, 3, 4]);
    assert_eq!(node.hub.metrics.gaps_healed.get(), 1);
}

#[tokio::test]
async fn the_log_is_followed_while_the_bus_is_away() {
    let node = Node::start(Limits::default()).await;
    *node.world.bus_down.lock().unwrap() = true;
    let mut client = node.client().await.connected("reader").await;
    assert_eq!(client.ask(subscribe("entities.procedure")).await["subscribe"]["offset"], Value::Null);
    node.world.commit("a");
    node.world.commit("a");
    node.topics.cast(TopicsMessage::Check).expect("alive");
    assert_eq!(client.offsets(2).await, [1, 2]);
}

#[tokio::test]
async fn positions_are_recovered_or_said_to_be_lost() {
    let node = Node::start(Limits { recovery: ReadLimit { count: 3, bytes: 4096 }, ..Limits::default() }).await;
    for _ in 0..5 {
        node.publish("a").await;
    }
    for (epoch, offset, recovered, count) in [
        ("e1", 5, true, 0),
        ("e1", 3, true, 2),
        ("", 4, true, 1),
        ("e1", 1, false, 0),
        ("e0", 5, false, 0),
        ("_", 0, false, 0),
        ("e1", 99, false, 0),
    ] {
        let mut client = node.client().await.connected("reader").await;
        let reply = client.ask(recover(epoch, offset)).await["subscribe"].take();
        assert_eq!(reply["recovered"].as_bool().unwrap_or(false), recovered, "{epoch} {offset}: {reply}");
        assert_eq!(reply["publications"].as_array().map_or(0, Vec::len), count, "{epoch} {offset}");
        assert_eq!(reply["was_recovering"], true);
        assert_eq!(reply["offset"].as_u64(), Some(if recovered { offset } else { 5 }));
    }
    let mut strict = recover("e0", 1);
    strict["subscribe"]["flag"] = json!(2);
    let reply = node.client().await.connected("reader").await.ask(strict).await;
    assert_eq!(reply["error"]["code"], 112);
}

#[tokio::test]
async fn a_position_ahead_of_the_bus_waits_for_it() {
    let node = Node::start(Limits::default()).await;
    node.publish("a").await;
    node.world.commit("a");
    node.world.commit("a");
    let mut client = node.client().await.connected("reader").await;
    let reply = client.ask(recover("e1", 3)).await;
    assert_eq!((&reply["subscribe"]["recovered"], &reply["subscribe"]["offset"]), (&json!(true), &json!(3)));
    node.tell(2).await;
    node.tell(3).await;
    node.publish("b").await;
    assert_eq!(client.offsets(1).await, [4], "what the client has is not said again");
}

#[tokio::test]
async fn a_lost_past_makes_every_subscriber_recover() {
    let node = Node::start(Limits::default()).await;
    node.publish("a").await;
    let mut client = node.client().await.connected("reader").await;
    client.ask(subscribe("entities.procedure")).await;
    *node.world.epoch.lock().unwrap() = Epoch::new("e2");
    node.topics.cast(TopicsMessage::Check).expect("alive");
    assert_eq!(client.receive().await["push"]["unsubscribe"]["code"], 2500);
    let reply = client.ask(recover("e1", 1)).await;
    assert_eq!((&reply["subscribe"]["recovered"], &reply["subscribe"]["epoch"]), (&Value::Null, &json!("e2")));
}

#[tokio::test]
async fn a_subscriber_that_missed_something_is_told_at_the_check() {
    let node = Node::start(Limits::default()).await;
    let mut client = node.client().await.connected("reader").await;
    client.ask(subscribe("entities.procedure")).await;
    // The delivery of one publication is planted to be lost between topics and shard.
    let shard = node.hub.shards.get(0).expect("shard");
    shard.loses.store(true, Ordering::SeqCst);
    node.publish("a").await;
    shard.loses.store(false, Ordering::SeqCst);
    node.topics.cast(TopicsMessage::Check).expect("alive");
    assert_eq!(client.receive().await["push"]["unsubscribe"]["code"], 2500);
    eventually("counted", || async { node.hub.metrics.insufficient.get() == 1 }).await;
}

#[tokio::test]
async fn rights_and_unknown_names_are_answered() {
    let node = Node::start(Limits { channels: 1, ..Limits::default() }).await;
    let mut nobody = node.client().await.connected("nobody").await;
    assert_eq!(nobody.ask(subscribe("entities.procedure")).await["error"]["code"], 103);
    let mut reader = node.client().await.connected("reader").await;
    for (channel, code) in [("entities.secret", 103), ("news.1", 103), ("entities.", 107), ("", 107)] {
        assert_eq!(reader.ask(subscribe(channel)).await["error"]["code"], code, "{channel}");
    }
    assert!(reader.ask(subscribe("entities.procedure")).await["subscribe"].is_object());
    assert_eq!(reader.ask(subscribe("entities.procedure")).await["error"]["code"], 106);
    for (command, code) in [
        (json!({"id": 5, "publish": {"channel": "entities.procedure", "data": {}}}), 103),
        (json!({"id": 6, "rpc": {"method": "x"}}), 108),
        (json!({"id": 7, "presence": {"channel": "entities.procedure"}}), 108),
    ] {
        assert_eq!(reader.ask(command).await["error"]["code"], code);
    }
}

#[tokio::test]
async fn what_a_client_must_not_do_closes_it_with_its_code() {
    for (token, then, code) in [
        ("", json!({"id": 1, "connect": {"token": "wrong"}}), 3500),
        ("", json!({"id": 1, "connect": {}}), 3500),
        ("", subscribe("entities.procedure"), 3501),
        ("", json!([]), 3501),
        ("reader", json!({"id": 2, "connect": {"token": "reader"}}), 3501),
        ("reader", json!({"id": 2, "no_such": {}}), 3501),
        ("reader", json!({}), 3501),
        ("reader", json!({"id": 2, "refresh": {"token": "wrong"}}), 3500),
    ] {
        let node = Node::start(Limits::default()).await;
        let mut client = node.client().await;
        if !token.is_empty() {
            client = client.connected(token).await;
        }
        assert_eq!(client.ask(then.clone()).await, json!({"close": code}), "{then}");
        drop(client);
        eventually("forgotten", || async { node.hub.metrics.sessions.get() == 0 }).await;
    }
    let node = Node::start(Limits::default()).await;
    assert_eq!(node.client().await.ask(json!({"id": 1, "connect": {"token": "expired"}})).await["error"]["code"], 109);
    let mut binary = node.client().await;
    binary.0.send(tungstenite::Message::Binary(vec![1].into())).await.expect("send");
    assert_eq!(binary.receive().await, json!({"close": 3506}));
    let mut large = node.client().await;
    large.send(json!("x".repeat(70_000))).await;
    assert_eq!(large.receive().await, json!({"close": 1009}));
}

#[tokio::test]
async fn time_is_kept() {
    let short = Duration::from_millis(20);
    let stale = Node::start(Limits { connect: short, ..Limits::default() }).await;
    assert_eq!(stale.client().await.receive().await, json!({"close": 3502}));
    let silent = Node::start(Limits { ping: short, pong: short, ..Limits::default() }).await;
    let mut client = silent.client().await.connected("reader").await;
    assert_eq!(client.receive().await, json!({}), "a ping");
    client.send(json!({})).await;
    assert_eq!(client.receive().await, json!({}), "the next ping");
    assert_eq!(client.receive().await, json!({"close": 3012}));
    let reply = silent.client().await.ask(json!({"id": 1, "connect": {"token": "short"}})).await;
    assert_eq!((&reply["connect"]["expires"], &reply["connect"]["ttl"]), (&json!(true), &json!(59)));
}

/// A token of a second and a short grace: who refreshes in time stays, who does not is sent for a new one.
#[tokio::test]
async fn a_session_ends_with_its_token_unless_it_is_refreshed() {
    let node = Node::start(Limits { expiry_grace: Duration::from_millis(50), ..Limits::default() }).await;
    let (mut late, mut fresh) = (node.client().await, node.client().await);
    for client in [&mut late, &mut fresh] {
        let reply = client.ask(json!({"id": 1, "connect": {"token": "shortest"}})).await;
        assert_eq!((&reply["connect"]["expires"], &reply["connect"]["ttl"]), (&json!(true), &json!(1)));
    }
    let reply = fresh.ask(json!({"id": 2, "refresh": {"token": "short"}})).await;
    assert_eq!(reply["refresh"]["ttl"], 59, "{reply}");
    assert_eq!(late.receive().await, json!({"close": 3005}));
    assert_eq!(fresh.ask(json!({"id": 3, "ping": {}})).await["id"], 3, "still here when the first token has ended");
}

/// When rights change everybody begins again, and is taken again.
#[tokio::test]
async fn a_recall_makes_everybody_connect_again() {
    let node = Node::start(Limits::default()).await;
    let mut clients = Vec::new();
    for _ in 0..5 {
        clients.push(node.client().await.connected("reader").await);
    }
    node.hub.shards.recall(Duration::from_millis(50));
    for mut client in clients {
        assert_eq!(client.receive().await, json!({"close": 3011}));
    }
    let mut again = node.client().await.connected("nobody").await;
    assert_eq!(again.ask(subscribe("entities.procedure")).await["error"]["code"], 103);
}

#[tokio::test]
async fn a_slow_client_is_closed_and_slows_nobody() {
    let node = Node::start(Limits { queue_bytes: 4096, ..Limits::default() }).await;
    let mut quick = node.client().await.connected("reader").await;
    let mut slow = node.client().await.connected("reader").await;
    for client in [&mut quick, &mut slow] {
        client.ask(subscribe("entities.procedure")).await;
    }
    let mut published = 0;
    while node.hub.metrics.closed.get_or_create(&crate::channels::metrics::CloseLabel { code: 3008 }).get() == 0 {
        // Large enough to fill the kernel's buffers within a few hundred.
        node.world.commit_sized("a", 30_000);
        published += 1;
        node.tell(published).await;
        assert_eq!(quick.offsets(1).await, [published]);
    }
    // What had left before comes first, then the code, never a torn frame.
    let mut expected = 1;
    loop {
        let got = slow.receive().await;
        if got == json!({"close": 3008}) {
            break;
        }
        assert_eq!(got["push"]["pub"]["offset"], expected);
        expected += 1;
    }
    assert!(expected <= published);
}

#[tokio::test]
async fn history_pages_forward_and_back() {
    let node = Node::start(Limits::default()).await;
    for _ in 0..5 {
        node.publish("a").await;
    }
    let mut client = node.client().await.connected("reader").await;
    for (ask, offsets) in [
        (json!({"limit": 0}), vec![]),
        (json!({"limit": 2}), vec![1, 2]),
        (json!({"limit": -1}), vec![1, 2, 3, 4, 5]),
        (json!({"limit": 2, "reverse": true}), vec![5, 4]),
        (json!({"limit": 2, "since": {"offset": 3, "epoch": "e1"}}), vec![4, 5]),
        (json!({"limit": 2, "since": {"offset": 3, "epoch": "e1"}, "reverse": true}), vec![2, 1]),
        (json!({"limit": 9, "since": {"offset": 2, "epoch": "e1"}, "reverse": true}), vec![1]),
    ] {
        let mut history = ask.clone();
        history["channel"] = json!("entities.procedure");
        let reply = client.ask(json!({"id": 3, "history": history})).await;
        let got: Vec<u64> = reply["history"]["publications"]
            .as_array()
            .expect("a list")
            .iter()
            .filter_map(|p| p["offset"].as_u64())
            .collect();
        assert_eq!((got, &reply["history"]["offset"]), (offsets, &json!(5)), "{ask}");
    }
    let wrong = json!({"id": 4, "history": {"channel": "entities.procedure", "limit": 1, "since": {"offset": 1, "epoch": "e0"}}});
    assert_eq!(client.ask(wrong).await["error"]["code"], 112);
}

/// A page that its bytes cut short ends at the newest, not before it.
#[tokio::test]
async fn history_that_does_not_fit_keeps_what_it_begins_with() {
    let bytes = 3 * 10_000;
    let node =
        Node::start(Limits { history: ReadLimit { count: 300, bytes: bytes + 3 * 512 }, ..Limits::default() }).await;
    for _ in 0..20 {
        node.world.commit_sized("a", 9_900);
    }
    let mut client = node.client().await.connected("reader").await;
    for channel in ["entities.procedure", "entity.procedure.a"] {
        for (ask, offsets) in [
            (json!({"limit": 100}), vec![1, 2, 3]),
            (json!({"limit": 100, "reverse": true}), vec![20, 19, 18]),
            (json!({"limit": 2, "reverse": true}), vec![20, 19]),
            (json!({"limit": 100, "since": {"offset": 11, "epoch": "e1"}, "reverse": true}), vec![10, 9, 8]),
        ] {
            let mut history = ask.clone();
            history["channel"] = json!(channel);
            let reply = client.ask(json!({"id": 3, "history": history})).await;
            let list = reply["history"]["publications"].as_array().expect("a list");
            let got: Vec<u64> = list.iter().filter_map(|p| p["offset"].as_u64()).collect();
            assert_eq!(got, offsets, "{channel} {ask}");
        }
    }
}

#[tokio::test]
async fn topics_that_begin_again_lose_nobody() {
    let node = Node::start(Limits::default()).await;
    let mut client = node.client().await.connected("reader").await;
    client.ask(subscribe("entities.procedure")).await;
    node.topics_again().await;
    eventually("followed", || async { node.hub.metrics.streams.get() == 1 }).await;
    node.publish("a").await;
    assert_eq!(client.offsets(1).await, [1]);
}

#[tokio::test]
async fn a_drain_tells_everybody_to_come_back() {
    let node = Node::start(Limits::default()).await;
    let mut clients = Vec::new();
    for _ in 0..5 {
        clients.push(node.client().await.connected("reader").await);
    }
    assert_eq!(node.hub.shards.drain(Duration::from_millis(50)).await, 5);
    for mut client in clients {
        assert_eq!(client.receive().await, json!({"close": 3001}));
    }
}
