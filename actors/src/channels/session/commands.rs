//! What a client asks and what it is answered.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use dzvin_protocols::{
    channels::{
        Channel, Extra, Message, Position, Publication,
        centrifuge::{
            ClientInfo, Command, ConnectRequest, ConnectResult, Disconnect, ErrorCode, Form, HistoryRequest,
            HistoryResult, PingResult, Pub, PublishRequest, PublishResult, RefreshResult, Reply, Request, is_json,
        },
        in_one_line,
    },
    entities::Change,
    platform::StreamName,
};
use time::OffsetDateTime;

use super::{
    Hub, Session,
    clock::{NEVER, millis, now},
};
use crate::{
    channels::{metrics::CommandLabel, shard::ShardMessage},
    platform::ports::{AuthError, Bus, ChangeLog, Identity, LogSlice, ReadLimit, Slice},
};

/// One connection's talk: who it is, and the state that only its own task touches.
pub(super) struct Conversation<B, L> {
    pub(super) hub: Arc<Hub<B, L>>,
    pub(super) session: Arc<Session>,
    pub(super) shard: usize,
    pub(super) closed_by_client: bool,
    /// The client left while a command waited: what it had asked besides is for nobody.
    pub(super) abandoned: bool,
    pub(super) identity: Option<Identity>,
}

/// An answer: the whole reply as it is written, or the error's code.
pub(super) type Answer = Result<Vec<u8>, Refusal>;

/// What a command came to when it was not done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// An error in the reply.
    Error(ErrorCode),
    /// The connection ends.
    Close(Disconnect),
    /// Answered already.
    Done,
}

impl<B: Bus, L: ChangeLog> Conversation<B, L> {
    pub(super) fn new(hub: Arc<Hub<B, L>>, session: Arc<Session>, shard: usize) -> Self {
        Self { hub, session, shard, closed_by_client: false, abandoned: false, identity: None }
    }

    /// Answers the commands of one frame in their order.
    pub(super) async fn frame(&mut self, form: Form, frame: &[u8]) {
        if form != self.session.wire.form() {
            return self.session.close(Disconnect::InappropriateProtocol);
        }
        for command in form.decode(frame) {
            let began = Instant::now();
            match command {
                Ok(command) => self.command(command).await,
                Err(error) => {
                    tracing::debug!(client = %self.session.client, user = self.session.user(), %error, "closing a client that sent no command");
                    self.session.close(Disconnect::BadRequest);
                }
            }
            self.abandoned = began.elapsed() >= self.hub.limits.command / 2 && self.session.left();
            if self.abandoned || self.session.closing().is_some() {
                return;
            }
        }
    }

    async fn command(&mut self, Command { id, request }: Command) {
        let name = name(&request);
        let answer = match request {
            Request::Pong => {
                self.session.pong();
                return;
            }
            Request::Connect(connect) if self.identity.is_none() => self.connect(id, &connect).await,
            _ if self.identity.is_none() => Err(Refusal::Close(Disconnect::BadRequest)),
            Request::Send { .. } => return,
            Request::Connect(_) | Request::Unknown => Err(Refusal::Close(Disconnect::BadRequest)),
            Request::Subscribe(subscribe) => self.subscribe(id, subscribe).await,
            Request::Unsubscribe { channel } => self.unsubscribe(id, &channel).await,
            Request::History(history) => self.history(id, &history).await,
            Request::Refresh { token } => self.refresh(id, &token).await,
            Request::Ping => Ok(self.encode(id, &PingResult)),
            Request::Publish(publish) => self.publish(id, publish).await,
            Request::Presence { .. } | Request::PresenceStats { .. } | Request::Rpc(_) | Request::SubRefresh(_) => {
                Err(Refusal::Error(ErrorCode::NotAvailable))
            }
        };
        let error = match &answer {
            Ok(_) | Err(Refusal::Done) => 0,
            Err(Refusal::Error(error)) => error.code(),
            Err(Refusal::Close(why)) => why.code(),
        };
        self.hub.metrics.commands.get_or_create(&CommandLabel { command: name, error }).inc();
        match answer {
            Ok(reply) => self.session.reply(&reply),
            Err(Refusal::Error(error)) => {
                let mut reply = Vec::new();
                self.session.wire.form().error(&mut reply, id, error);
                self.session.reply(&reply);
            }
            Err(Refusal::Close(why)) => self.session.close(why),
            Err(Refusal::Done) => {}
        }
    }

    pub(super) fn encode(&self, id: u32, result: &impl Reply) -> Vec<u8> {
        let mut out = Vec::new();
        self.session.wire.form().reply(&mut out, id, result);
        out
    }

    async fn connect(&mut self, id: u32, request: &ConnectRequest) -> Answer {
        let identity = match self.hub.auth.authenticate(&request.token).await {
            Ok(identity) => identity,
            Err(AuthError::Expired) => return Err(Refusal::Error(ErrorCode::TokenExpired)),
            Err(AuthError::Invalid) => return Err(Refusal::Close(Disconnect::InvalidToken)),
            Err(AuthError::Unavailable) => return Err(Refusal::Error(ErrorCode::Internal)),
        };
        let ttl = self.keep_until(&identity);
        let client = self.session.client.to_string();
        let result = ConnectResult {
            client: &client,
            version: &self.hub.version,
            expires: ttl.is_some(),
            ttl: ttl.unwrap_or_default(),
            ping: u32::try_from(self.hub.limits.ping.as_secs().max(1)).unwrap_or(u32::MAX),
            pong: true,
            ..ConnectResult::default()
        };
        self.session.signed_in(&identity.user);
        tracing::debug!(client, user = self.session.user(), "session connected");
        let reply = self.encode(id, &result);
        self.identity = Some(identity);
        Ok(reply)
    }

    async fn refresh(&mut self, id: u32, token: &str) -> Answer {
        let identity = match self.hub.auth.authenticate(token).await {
            Ok(identity) if self.identity.as_ref().is_some_and(|known| known.user == identity.user) => identity,
            Err(AuthError::Expired) => return Err(Refusal::Error(ErrorCode::Expired)),
            Err(AuthError::Unavailable) => return Err(Refusal::Error(ErrorCode::Internal)),
            Ok(_) | Err(AuthError::Invalid) => return Err(Refusal::Close(Disconnect::InvalidToken)),
        };
        let ttl = self.keep_until(&identity);
        self.identity = Some(identity);
        self.keep_to_rights().await;
        let result = RefreshResult {
            client: &self.session.client.to_string(),
            version: &self.hub.version,
            expires: ttl.is_some(),
            ttl: ttl.unwrap_or_default(),
        };
        Ok(self.encode(id, &result))
    }

    /// Sets the end of the session after the token's; answers the seconds that the token has left.
    fn keep_until(&mut self, identity: &Identity) -> Option<u32> {
        let left = identity.expires_at.map(|at| (at - OffsetDateTime::now_utc()).whole_seconds().max(1));
        let left = left.map(|seconds| u32::try_from(seconds).unwrap_or(u32::MAX));
        let grace = self.hub.limits.expiry_grace;
        let until = left.map_or(NEVER, |left| now() + millis(Duration::from_secs(u64::from(left)) + grace));
        if let (Some(earlier), Some(shard)) = (self.session.keep_until(until), self.hub.shards.get(self.shard)) {
            // A shard that is away takes this session with it.
            let _ = shard.slot.cast(ShardMessage::Arm(self.session.id, earlier));
        }
        left
    }

    /// Whether the channel exists for this user.
    pub(super) fn permitted(&self, name: &str) -> Result<Channel, Refusal> {
        let channel = Channel::parse(name).map_err(|_| Refusal::Error(ErrorCode::BadRequest))?;
        let allowed = self.identity.as_ref().is_some_and(|identity| match &channel {
            Channel::Entities(kind) | Channel::Entity(kind, _) => identity.permissions.may_read(kind),
            Channel::Query(_) => false,
            Channel::Application(name) => self.hub.namespaces.may_subscribe(name, identity),
        });
        if allowed { Ok(channel) } else { Err(Refusal::Error(ErrorCode::PermissionDenied)) }
    }

    /// Answered when the bus has it.
    async fn publish(&mut self, id: u32, request: PublishRequest) -> Answer {
        let channel = Channel::parse(&request.channel).map_err(|_| Refusal::Error(ErrorCode::BadRequest))?;
        let Channel::Application(name) = channel else { return Err(Refusal::Error(ErrorCode::PermissionDenied)) };
        let Some(identity) = &self.identity else { return Err(Refusal::Close(Disconnect::BadRequest)) };
        if !self.hub.namespaces.may_publish(&name, identity) {
            return Err(Refusal::Error(ErrorCode::PermissionDenied));
        }
        // Subscribers of the JSON form can take nothing else; what came in JSON has been parsed.
        if request.data.is_empty() || (self.session.wire.form() != Form::Json && !is_json(&request.data)) {
            return Err(Refusal::Error(ErrorCode::BadRequest));
        }
        let info = ClientInfo {
            user: Arc::clone(&identity.user),
            client: self.session.client.to_string().into(),
            // In JSON, and in one line, it goes to everybody.
            conn_info: identity.info.clone().filter(|info| is_json(info)).map(in_one_line),
            chan_info: None,
        };
        let extra = Some(Arc::new(Extra { info: Some(info), ..Extra::default() }));
        let message = Message { data: in_one_line(request.data), at: now_micros(), trace: None, extra };
        let (stream, keep) = (StreamName::from_checked(&name), &self.hub.namespaces.of(&name).keep);
        let published = tokio::time::timeout(self.hub.limits.command, self.hub.bus.publish(&stream, message, keep));
        match published.await {
            Ok(Ok(_)) => Ok(self.encode(id, &PublishResult)),
            Ok(Err(error)) => {
                tracing::warn!(client = %self.session.client, %error, "a client's publication was not taken");
                Err(Refusal::Error(ErrorCode::Internal))
            }
            Err(_) => Err(Refusal::Error(ErrorCode::Internal)),
        }
    }

    async fn history(&mut self, id: u32, request: &HistoryRequest) -> Answer {
        let channel = self.permitted(&request.channel)?;
        let limits = self.hub.limits.history;
        let count = usize::try_from(request.limit).map_or(limits.count, |n| n.min(limits.count));
        let top = self.page(&channel, u64::MAX, 1).await?.position;
        if request.since.as_ref().is_some_and(|s| !s.epoch.is_empty() && s.epoch != top.epoch.as_str()) {
            return Err(Refusal::Error(ErrorCode::UnrecoverablePosition));
        }
        let by_revision = matches!(channel, Channel::Entity(..));
        let place = |p: &Publication| if by_revision { p.revision } else { p.offset };
        let page = if count == 0 {
            Vec::new()
        } else if request.reverse {
            let end = request.since.as_ref().map_or(top.offset, |since| since.offset.saturating_sub(1).min(top.offset));
            let newest = self.newest(&channel, end, count, place);
            let newest = tokio::time::timeout(self.hub.limits.command, newest).await;
            newest.map_err(|_| Refusal::Error(ErrorCode::Internal))??
        } else {
            let after = request.since.as_ref().map_or(0, |since| since.offset);
            self.page(&channel, after, count).await?.publications
        };
        let publications = page.iter().map(|p| Pub::new(p, place(p))).collect();
        Ok(self.encode(id, &HistoryResult { publications, epoch: top.epoch.as_str(), offset: top.offset }))
    }

    /// The last publications up to `end`, newest first, as many as the byte limit allows. The past is read forward: what comes
    /// first gives way to what comes later.
    async fn newest(
        &self,
        channel: &Channel,
        end: u64,
        count: usize,
        place: impl Fn(&Publication) -> u64,
    ) -> Result<Vec<Publication>, Refusal> {
        let (mut kept, mut bytes) = (VecDeque::new(), 0);
        let mut at = end.saturating_sub(count as u64);
        while at < end {
            let wanted = usize::try_from(end - at).unwrap_or(count);
            let slice = self.page(channel, at, wanted).await?;
            let Some(last) = slice.publications.last().map(&place) else { break };
            at = last;
            for publication in slice.publications.into_iter().take_while(|publication| place(publication) <= end) {
                bytes += weight(&publication);
                kept.push_front(publication);
                while bytes > self.hub.limits.history.bytes && kept.len() > 1 {
                    bytes -= kept.pop_back().as_ref().map_or(0, weight);
                }
            }
        }
        Ok(kept.into())
    }

    /// A page of the past, on the channel's own counting.
    async fn page(&self, channel: &Channel, after: u64, count: usize) -> Result<Slice, Refusal> {
        let limit = ReadLimit { count, bytes: self.hub.limits.history.bytes };
        let of_log = |slice: LogSlice| Slice {
            position: slice.position,
            publications: slice.changes.iter().map(Change::publication).collect(),
            complete: slice.complete,
        };
        let read = async {
            Ok(match channel {
                Channel::Entities(kind) => self.hub.log.read(kind, after, limit).await?.map(of_log),
                Channel::Entity(kind, key) => self.hub.log.read_entity(kind, key, after, limit).await?.map(of_log),
                Channel::Query(_) => None,
                Channel::Application(name) => self.hub.bus.read(&StreamName::from_checked(name), after, limit).await?,
            })
        };
        let read: Result<Result<_, Box<dyn std::error::Error + Send + Sync>>, _> =
            tokio::time::timeout(self.hub.limits.command, read).await;
        match read {
            Ok(Ok(Some(slice))) => Ok(slice),
            Ok(Ok(None)) => Err(Refusal::Error(ErrorCode::UnknownChannel)),
            Ok(Err(error)) => {
                tracing::warn!(client = %self.session.client, user = self.session.user(), %error, "history could not be read");
                Err(Refusal::Error(ErrorCode::Internal))
            }
            Err(_) => Err(Refusal::Error(ErrorCode::Internal)),
        }
    }

    /// Where an entity's own channel stands.
    pub(super) async fn entity_position(&self, channel: &Channel) -> Result<Position, Refusal> {
        self.page(channel, u64::MAX, 1).await.map(|slice| slice.position)
    }
}

/// What a publication takes of a page: its data, and the JSON around it.
fn weight(publication: &Publication) -> usize {
    const ENVELOPE: usize = 128;
    publication.size() + ENVELOPE
}

/// Now, in microseconds since 1970.
fn now_micros() -> i64 {
    i64::try_from(OffsetDateTime::now_utc().unix_timestamp_nanos() / 1000).unwrap_or_default()
}

const fn name(request: &Request) -> &'static str {
    match request {
        Request::Connect(_) => "connect",
        Request::Subscribe(_) => "subscribe",
        Request::Unsubscribe { .. } => "unsubscribe",
        Request::History(_) => "history",
        Request::Refresh { .. } => "refresh",
        Request::Ping => "ping",
        Request::Pong => "pong",
        Request::Send { .. } => "send",
        Request::Publish { .. } => "publish",
        Request::Rpc(_) => "rpc",
        Request::Presence { .. } => "presence",
        Request::PresenceStats { .. } => "presence_stats",
        Request::SubRefresh(_) => "sub_refresh",
        Request::Unknown => "unknown",
    }
}
