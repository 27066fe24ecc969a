//! What a client asks and what it is answered.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use dzvin_protocols::{
    channels::{
        Channel, Position, Publication,
        centrifuge::{
            Command, ConnectRequest, ConnectResult, Disconnect, ErrorCode, HistoryRequest, HistoryResult, Pub,
            RefreshResult, Request, commands, encode_error, encode_ok,
        },
    },
    entities::Change,
};
use time::OffsetDateTime;

use super::{Hub, Session, task::Clock};
use crate::{
    channels::metrics::CommandLabel,
    platform::ports::{AuthError, Bus, ChangeLog, Identity, LogSlice, ReadLimit},
};

/// One connection's talk: who it is, and the state that only its own task touches.
pub(super) struct Conversation<B, L> {
    pub(super) hub: Arc<Hub<B, L>>,
    pub(super) session: Arc<Session>,
    pub(super) shard: usize,
    pub(super) clock: Clock,
    pub(super) closed_by_client: bool,
    /// The client left while a command waited: what it had asked besides is for nobody.
    pub(super) abandoned: bool,
    pub(super) identity: Option<Identity>,
}

/// An answer: the result as text, or the error's code.
pub(super) type Answer = Result<String, Refusal>;

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
    pub(super) fn new(hub: Arc<Hub<B, L>>, session: Arc<Session>, shard: usize, clock: Clock) -> Self {
        Self { hub, session, shard, clock, closed_by_client: false, abandoned: false, identity: None }
    }

    /// Answers the commands of one frame in their order.
    pub(super) async fn frame(&mut self, text: &str) {
        for command in commands(text) {
            let began = Instant::now();
            match command {
                Ok(command) => self.command(command).await,
                Err(error) => {
                    tracing::debug!(client = self.session.client, user = self.session.user(), %error, "closing a client that sent no command");
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
            Request::Pong => return self.pong(),
            Request::Connect(connect) if self.identity.is_none() => self.connect(id, &connect),
            _ if self.identity.is_none() => Err(Refusal::Close(Disconnect::BadRequest)),
            Request::Send => return,
            Request::Connect(_) | Request::Unknown => Err(Refusal::Close(Disconnect::BadRequest)),
            Request::Subscribe(subscribe) => self.subscribe(id, subscribe).await,
            Request::Unsubscribe { channel } => self.unsubscribe(id, &channel).await,
            Request::History(history) => self.history(id, &history).await,
            Request::Refresh { token } => self.refresh(id, &token).await,
            Request::Ping => Ok(format!("{{\"id\":{id},\"ping\":{{}}}}")),
            Request::Publish { .. } => Err(Refusal::Error(ErrorCode::PermissionDenied)),
            Request::Presence | Request::Rpc | Request::SubRefresh => Err(Refusal::Error(ErrorCode::NotAvailable)),
        };
        let error = match &answer {
            Ok(_) | Err(Refusal::Done) => 0,
            Err(Refusal::Error(error)) => error.code(),
            Err(Refusal::Close(why)) => why.code(),
        };
        self.hub.metrics.commands.get_or_create(&CommandLabel { command: name, error }).inc();
        match answer {
            Ok(reply) => self.session.send(&reply),
            Err(Refusal::Error(error)) => self.session.send(&encode_error(id, error)),
            Err(Refusal::Close(why)) => self.session.close(why),
            Err(Refusal::Done) => {}
        }
    }

    fn pong(&mut self) {
        if self.clock.pong_by.take().is_none() {
            // Nobody asked for it.
            self.session.close(Disconnect::BadRequest);
        }
    }

    fn connect(&mut self, id: u32, request: &ConnectRequest) -> Answer {
        let identity = match self.hub.auth.authenticate(&request.token) {
            Ok(identity) => identity,
            Err(AuthError::Expired) => return Err(Refusal::Error(ErrorCode::TokenExpired)),
            Err(AuthError::Invalid) => return Err(Refusal::Close(Disconnect::InvalidToken)),
        };
        self.clock.connect_by = None;
        let ttl = self.keep_until(&identity);
        let result = ConnectResult {
            client: &self.session.client,
            version: &self.hub.version,
            expires: ttl.is_some(),
            ttl: ttl.unwrap_or_default(),
            ping: u32::try_from(self.hub.limits.ping.as_secs().max(1)).unwrap_or(u32::MAX),
            pong: true,
        };
        self.session.signed_in(&identity.user);
        tracing::debug!(client = self.session.client, user = self.session.user(), "session connected");
        self.identity = Some(identity);
        Ok(encode_ok(id, "connect", &result))
    }

    async fn refresh(&mut self, id: u32, token: &str) -> Answer {
        let identity = match self.hub.auth.authenticate(token) {
            Ok(identity) if self.identity.as_ref().is_some_and(|known| known.user == identity.user) => identity,
            Err(AuthError::Expired) => return Err(Refusal::Error(ErrorCode::Expired)),
            Ok(_) | Err(AuthError::Invalid) => return Err(Refusal::Close(Disconnect::InvalidToken)),
        };
        let ttl = self.keep_until(&identity);
        self.identity = Some(identity);
        self.keep_to_rights().await;
        let result = RefreshResult {
            client: &self.session.client,
            version: &self.hub.version,
            expires: ttl.is_some(),
            ttl: ttl.unwrap_or_default(),
        };
        Ok(encode_ok(id, "refresh", &result))
    }

    /// Sets the end of the session after the token's; answers the seconds that the token has left.
    fn keep_until(&mut self, identity: &Identity) -> Option<u32> {
        let left = identity.expires_at.map(|at| (at - OffsetDateTime::now_utc()).whole_seconds().max(1));
        let left = left.map(|seconds| u32::try_from(seconds).unwrap_or(u32::MAX));
        let grace = self.hub.limits.expiry_grace;
        self.clock.expires_at = left.map(|s| Instant::now() + Duration::from_secs(u64::from(s)) + grace);
        left
    }

    /// Whether the channel exists for this user.
    pub(super) fn permitted(&self, name: &str) -> Result<Channel, Refusal> {
        let channel = Channel::parse(name).map_err(|_| Refusal::Error(ErrorCode::BadRequest))?;
        let allowed = match &channel {
            Channel::Entities(kind) | Channel::Entity(kind, _) => {
                self.identity.as_ref().is_some_and(|identity| identity.permissions.may_read(kind))
            }
            // Channels of the application come with its publish API.
            Channel::Application(_) => return Err(Refusal::Error(ErrorCode::UnknownChannel)),
        };
        if allowed { Ok(channel) } else { Err(Refusal::Error(ErrorCode::PermissionDenied)) }
    }

    async fn history(&mut self, id: u32, request: &HistoryRequest) -> Answer {
        let channel = self.permitted(&request.channel)?;
        let limits = self.hub.limits.history;
        let count = usize::try_from(request.limit).map_or(limits.count, |n| n.min(limits.count));
        let top = self.page(&channel, u64::MAX, 1).await?.position;
        if request.since.as_ref().is_some_and(|s| !s.epoch.as_str().is_empty() && s.epoch != top.epoch) {
            return Err(Refusal::Error(ErrorCode::UnrecoverablePosition));
        }
        let by_revision = matches!(channel, Channel::Entity(..));
        let place = |change: &Change| if by_revision { change.revision } else { change.offset };
        let changes = if count == 0 {
            Vec::new()
        } else if request.reverse {
            let end = request.since.as_ref().map_or(top.offset, |since| since.offset.saturating_sub(1).min(top.offset));
            let newest = self.newest(&channel, end, count, place);
            let newest = tokio::time::timeout(self.hub.limits.command, newest).await;
            newest.map_err(|_| Refusal::Error(ErrorCode::Internal))??
        } else {
            let after = request.since.as_ref().map_or(0, |since| since.offset);
            self.page(&channel, after, count).await?.changes
        };
        let pages: Vec<(u64, Publication)> = changes.iter().map(|c| (place(c), c.publication())).collect();
        let publications = pages.iter().map(|(offset, p)| Pub::new(p, *offset)).collect();
        Ok(encode_ok(id, "history", &HistoryResult { publications, epoch: &top.epoch, offset: top.offset }))
    }

    /// The last changes up to `end`, newest first, as many as the byte limit allows. The log reads forward: what comes first
    /// gives way to what comes later.
    async fn newest(
        &self,
        channel: &Channel,
        end: u64,
        count: usize,
        place: impl Fn(&Change) -> u64,
    ) -> Result<Vec<Change>, Refusal> {
        let (mut kept, mut bytes) = (VecDeque::new(), 0);
        let mut at = end.saturating_sub(count as u64);
        while at < end {
            let wanted = usize::try_from(end - at).unwrap_or(count);
            let slice = self.page(channel, at, wanted).await?;
            let Some(last) = slice.changes.last().map(&place) else { break };
            at = last;
            for change in slice.changes.into_iter().take_while(|change| place(change) <= end) {
                bytes += weight(&change);
                kept.push_front(change);
                while bytes > self.hub.limits.history.bytes && kept.len() > 1 {
                    bytes -= kept.pop_back().as_ref().map_or(0, weight);
                }
            }
        }
        Ok(kept.into())
    }

    /// A page of the log, on the channel's own counting.
    async fn page(&self, channel: &Channel, after: u64, count: usize) -> Result<LogSlice, Refusal> {
        let limit = ReadLimit { count, bytes: self.hub.limits.history.bytes };
        let read = async {
            match channel {
                Channel::Entities(kind) => self.hub.log.read(kind, after, limit).await,
                Channel::Entity(kind, key) => self.hub.log.read_entity(kind, key, after, limit).await,
                Channel::Application(_) => Ok(None),
            }
        };
        match tokio::time::timeout(self.hub.limits.command, read).await {
            Ok(Ok(Some(slice))) => Ok(slice),
            Ok(Ok(None)) => Err(Refusal::Error(ErrorCode::UnknownChannel)),
            Ok(Err(error)) => {
                tracing::warn!(client = self.session.client, user = self.session.user(), %error, "history could not be read");
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

/// What a change takes of a page: its document, and the JSON around it.
fn weight(change: &Change) -> usize {
    const ENVELOPE: usize = 512;
    change.doc.as_ref().map_or(0, |doc| doc.get().len()) + ENVELOPE
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
        Request::Send => "send",
        Request::Publish { .. } => "publish",
        Request::Rpc => "rpc",
        Request::Presence => "presence",
        Request::SubRefresh => "sub_refresh",
        Request::Unknown => "unknown",
    }
}
