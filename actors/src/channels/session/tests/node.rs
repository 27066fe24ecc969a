//! A node over them, and clients that speak to it over real sockets.

use super::*;

pub(super) struct Tokens;

/// `chat` is open to all, `latest` as well, and everything else to those to whom it is granted.
pub(super) fn namespaces() -> Namespaces {
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
    let staff = ChannelRules::default();
    let named = [("chat", open), ("latest", latest), ("ticker", ticker), ("room", room), ("staff", staff)];
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

    fn revoked_for(&self, user: &str, mark: &TokenMark) -> bool {
        pusher::lent::is_revoked(user, mark)
    }
}

impl Tokens {
    pub(super) fn identity(&self, token: &str) -> Result<Identity, AuthError> {
        let permissions = match token {
            "reader" | "short" | "shortest" | "subscribed" | "one" | "twice" | "overriding" => {
                Permissions::parse(["entities:read:procedure"])
            }
            // As `reader`, who does not see one field.
            "masked" => Permissions::parse(["entities:read:procedure"]).map(|it| it.with_views(rights::views())),
            "staff" => Permissions::parse(["entities:read:procedure", "channels:subscribe:staff.*"]),
            "active" => Permissions::parse(["entities:read:procedure"]).map(|it| it.with_views(rights::active())),
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

pub(super) struct Node {
    pub(super) world: Arc<World>,
    pub(super) hub: Arc<Hub<World, World>>,
    pub(super) topics: ActorRef<TopicsMessage>,
}

impl Node {
    pub(super) async fn start(limits: Limits) -> Self {
        Self::with_shards(limits, 1).await
    }

    /// `count` shards, of which only the first lives.
    pub(super) async fn with_shards(limits: Limits, count: usize) -> Self {
        Self::made(limits, count, Handlers::default()).await
    }

    /// One whose clients may call something.
    pub(super) async fn with_handlers(limits: Limits, handlers: Handlers) -> Self {
        Self::made(limits, 1, handlers).await
    }

    async fn made(limits: Limits, count: usize, handlers: Handlers) -> Self {
        let (world, shards, slot, metrics) = (World::new(), Shards::new(count), Slot::default(), Metrics::default());
        let hub = Arc::new(Hub {
            bus: Arc::clone(&world),
            log: Arc::clone(&world),
            auth: Arc::new(Tokens),
            audit: Arc::new(()),
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
    pub(super) async fn shard(&self) {
        self.life_of(0).await;
    }

    /// A life of any.
    pub(super) async fn life_of(&self, index: usize) {
        let args = ShardArgs { index, hub: Arc::clone(&self.hub), progress: Progress::default() };
        Actor::spawn(None, Shard::default(), args).await.expect("shard");
    }

    /// Ends topics and begins another life of theirs.
    pub(super) async fn topics_again(&self) {
        if let Some(topics) = self.hub.topics.get() {
            topics.stop_and_wait(None, None).await.expect("stopped");
        }
        let args = TopicsArgs::new(&self.hub, Progress::default());
        Actor::spawn(None, Topics::default(), args).await.expect("topics again");
    }

    pub(super) async fn client(&self) -> Client {
        Client::over(self.socket(&Arc::new(Semaphore::new(1))).await).await
    }

    /// The client's end of a connection that a shard was given.
    pub(super) async fn socket(&self, sessions: &Arc<Semaphore>) -> TcpStream {
        self.connection(Wire::CentrifugeJson, sessions).await
    }

    /// The same on another wire.
    pub(super) async fn socket_on(&self, wire: Wire) -> TcpStream {
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
            greeting: bytes::Bytes::new(),
            wire,
            permit: permit.into(),
            mailbox: None,
            admission: None,
        }));
        client.expect("connect")
    }

    /// What the relay and the bus do after a commit.
    pub(super) async fn tell(&self, offset: u64) {
        self.tell_run(offset, offset).await;
    }

    /// The same for several at once.
    pub(super) async fn tell_run(&self, first: u64, last: u64) {
        *self.world.bus_top.lock().unwrap() = last;
        let publications = self.world.slice(first - 1, last, EVERYTHING).iter().map(Change::publication).collect();
        let epoch = self.world.epoch.lock().unwrap().clone();
        let event = BusEvent::Publications { stream: kind().stream(), epoch, publications };
        self.hub.topics.call(|reply| TopicsMessage::Events(vec![event], reply), PATIENCE).await.expect("told");
    }

    pub(super) async fn publish(&self, id: &str) {
        self.world.commit(id);
        let top = self.world.log.lock().unwrap().len() as u64;
        self.tell(top).await;
    }
}

/// Channels of the application.
impl Node {
    /// Publishes on a channel; subscribers here are told.
    pub(super) async fn say(&self, channel: &str, data: &str, tags: &[(&str, &str)]) {
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

    pub(super) async fn hear(&self, event: BusEvent) {
        let told = |reply| TopicsMessage::Events(vec![event], reply);
        self.hub.topics.call(told, PATIENCE).await.expect("topics");
    }
}

pub(super) struct Client(pub(super) WebSocketStream<TcpStream>);

impl Client {
    pub(super) async fn over(socket: TcpStream) -> Self {
        Self(WebSocketStream::from_raw_socket(socket, tungstenite::protocol::Role::Client, None).await)
    }

    pub(super) async fn send(&mut self, command: Value) {
        self.0.send(command.to_string().into()).await.expect("send");
    }

    pub(super) async fn receive(&mut self) -> Value {
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

    pub(super) async fn ask(&mut self, command: Value) -> Value {
        self.send(command).await;
        self.receive().await
    }

    pub(super) async fn connected(mut self, token: &str) -> Self {
        let reply = self.ask(json!({"id": 1, "connect": {"token": token}})).await;
        assert!(reply["connect"]["client"].is_string(), "{reply}");
        self
    }

    pub(super) async fn offsets(&mut self, count: usize) -> Vec<u64> {
        let mut got = Vec::new();
        while got.len() < count {
            let push = self.receive().await;
            got.push(push["push"]["pub"]["offset"].as_u64().unwrap_or_else(|| panic!("a publication: {push}")));
        }
        got
    }
}
