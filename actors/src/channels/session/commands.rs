//! What a client asks and what it is answered.

use std::{sync::Arc, time::Instant};

use bytes::Bytes;
use dzvin_protocols::{
    channels::{
        Channel, Extra, Happening, Message,
        centrifuge::{
            ClientInfo, Command, Disconnect, ErrorCode, Form, PingResult, PublishRequest, PublishResult, Reply,
            ReplyError, Request, RpcRequest, RpcResult, is_json,
        },
        in_one_line, now_micros,
    },
    platform::StreamName,
};

use super::{Hub, Session, Wire, clock::millis, connect::instead, pace::Pace, presence::shown_info, pusher::Talk};
use crate::{
    channels::{Called, Publisher, metrics::CommandLabel, outside, shard::ShardMessage, users::Counted},
    platform::ports::{Bus, ChangeLog, Conditions, Identity, Offer, Published, Refused},
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
    pub(super) pace: Pace,
    /// Of a client of the Pusher protocol.
    pub(super) talk: Option<Box<Talk>>,
    /// A `connect` was refused: the connection is of no use any more.
    failed: bool,
    /// Recoveries in a row that it was asked to come again for.
    pub(super) postponed: u32,
    /// The connection's place among those of its user.
    pub(super) counted: Option<Counted>,
}

/// An answer: the whole reply as it is written, or the error's code.
pub(super) type Answer = Result<Vec<u8>, Refusal>;

/// What a command came to when it was not done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// An error in the reply.
    Error(ErrorCode),
    /// An error of a method's own in the reply.
    Own(ReplyError<'static>),
    /// The connection ends.
    Close(Disconnect),
    /// Answered already.
    Done,
}

impl<B: Bus, L: ChangeLog> Conversation<B, L> {
    pub(super) fn new(hub: Arc<Hub<B, L>>, session: Arc<Session>, shard: usize) -> Self {
        let pace = Pace::new(hub.limits.commands_per_second);
        Self {
            hub,
            session,
            shard,
            closed_by_client: false,
            abandoned: false,
            identity: None,
            pace,
            talk: None,
            failed: false,
            postponed: 0,
            counted: None,
        }
    }

    /// Answers the commands of one frame in their order.
    pub(super) async fn frame(&mut self, form: Form, frame: &[u8]) {
        if self.session.wire == Wire::Pusher {
            if !self.goes_on().await {
                return;
            }
            let began = Instant::now();
            self.event(form, frame).await;
            self.abandoned = began.elapsed() >= self.hub.limits.command / 2 && self.session.left();
            return;
        }
        if form != self.session.wire.form() {
            return self.session.close(Disconnect::InappropriateProtocol);
        }
        if self.session.wire.is_one_way() {
            return self.only_connect(frame).await;
        }
        for command in form.decode(frame) {
            if !self.goes_on().await {
                return;
            }
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
        let began = Instant::now();
        // Only where somebody wants to know: the request is gone when it has been answered.
        let channel = if self.hub.tracer.is_on() { channel(&request).map(str::to_owned) } else { None };
        let answer = match request {
            // It answers no ping of ours, so it is no answer, and none that nobody asked for.
            Request::Pong if self.session.wire.pings_by_frame() => {
                if !self.pace.admits() && self.pace.refused() > self.hub.limits.too_many {
                    self.session.close(Disconnect::TooManyErrors);
                }
                return;
            }
            Request::Pong => {
                self.session.pong();
                return;
            }
            _ if !self.pace.admits() => self.too_many(),
            Request::Connect(connect) if self.identity.is_none() => {
                let answer = self.connect(id, &connect).await;
                self.failed = matches!(answer, Err(Refusal::Error(_)));
                answer
            }
            _ if self.identity.is_none() => Err(Refusal::Close(Disconnect::BadRequest)),
            Request::Send { .. } => return,
            Request::Connect(_) | Request::Unknown => Err(Refusal::Close(Disconnect::BadRequest)),
            Request::Subscribe(subscribe) => self.subscribe(id, subscribe).await,
            Request::Unsubscribe { channel } => self.unsubscribe(id, &channel).await,
            Request::History(history) => self.history(id, &history).await,
            Request::Refresh { token } => self.refresh(id, &token).await,
            Request::Ping => Ok(self.encode(id, &PingResult)),
            Request::Publish(publish) => self.publish(id, publish).await,
            Request::SubRefresh(refresh) => self.sub_refresh(id, &refresh).await,
            Request::Rpc(rpc) => self.rpc(id, &rpc).await,
            Request::Presence { channel } => self.presence(id, &channel).await,
            Request::PresenceStats { channel } => self.presence_stats(id, &channel).await,
        };
        self.count_answer(name, channel.as_deref(), began, &answer);
        match answer {
            Ok(reply) => self.session.reply(&reply),
            Err(Refusal::Error(error)) => {
                self.reply_error(id, error.into());
                if self.failed {
                    // What was sent in one go with the `connect` is not looked at: without a user it would be an offence.
                    self.session.close(instead(error));
                }
            }
            Err(Refusal::Own(error)) => self.reply_error(id, error),
            Err(Refusal::Close(why)) => self.session.close(why),
            Err(Refusal::Done) => {}
        }
    }

    fn reply_error(&self, id: u32, error: ReplyError<'_>) {
        let mut reply = Vec::new();
        self.session.wire.form().error(&mut reply, id, error);
        self.session.reply(&reply);
    }

    pub(super) fn count_answer(&self, command: &'static str, channel: Option<&str>, began: Instant, answer: &Answer) {
        let error = match answer {
            Ok(_) | Err(Refusal::Done) => 0,
            Err(Refusal::Error(error)) => error.code(),
            Err(Refusal::Own(error)) => error.code,
            Err(Refusal::Close(why)) => why.code(),
        };
        self.hub.metrics.commands.get_or_create(&CommandLabel { command, error }).inc();
        self.session.tell_trace(channel, Happening::Command { command, error, took_ms: millis(began.elapsed()) });
    }

    pub(super) fn encode(&self, id: u32, result: &impl Reply) -> Vec<u8> {
        let mut out = Vec::new();
        self.session.wire.form().reply(&mut out, id, result);
        out
    }

    /// Whether the session's user may publish or call once more, which is counted then. Those without a user are not one.
    pub(super) async fn user_may(&self) -> bool {
        let (Some(pace), Some(user)) = (self.hub.limits.user_pace, self.session.user()) else { return true };
        user.is_empty() || self.hub.bus.pace_user(user, pace).await.is_none()
    }

    /// Refused as one too many; who goes on all the same is closed.
    fn too_many(&self) -> Answer {
        if self.pace.refused() > self.hub.limits.too_many {
            return Err(Refusal::Close(Disconnect::TooManyErrors));
        }
        Err(Refusal::Error(ErrorCode::TooManyRequests))
    }

    /// A call of the application, answered by whoever has registered for it.
    async fn rpc(&self, id: u32, request: &RpcRequest) -> Answer {
        let Some(identity) = &self.identity else { return Err(Refusal::Close(Disconnect::BadRequest)) };
        // A method shows what these rights may see, and they may be over.
        if self.session.is_hushed() {
            return Err(Refusal::Error(ErrorCode::Internal));
        }
        if !self.user_may().await {
            return Err(Refusal::Error(ErrorCode::TooManyRequests));
        }
        let answer = self.hub.handlers.call(&request.method, identity, request.data.clone());
        let answer: Bytes = match tokio::time::timeout(self.hub.limits.command, answer).await {
            Ok(Called::Answered(answer)) => answer,
            Ok(Called::Refused(error)) => return Err(Refusal::Own(error)),
            Ok(Called::Unknown) => return Err(Refusal::Error(ErrorCode::NotAvailable)),
            Ok(Called::Panicked) => {
                self.hub.metrics.panics.inc();
                tracing::error!(client = %self.session.client, user = self.session.user(), method = request.method, "a method panicked");
                return Err(Refusal::Error(ErrorCode::Internal));
            }
            Err(_) => {
                tracing::warn!(client = %self.session.client, user = self.session.user(), method = request.method, "a method did not answer in time");
                return Err(Refusal::Error(ErrorCode::Internal));
            }
        };
        Ok(self.encode(id, &RpcResult { data: &answer }))
    }

    /// Has the shard look at this session earlier than it would.
    pub(super) fn look_by(&self, moment: Option<u64>) {
        if let (Some(earlier), Some(shard)) = (moment, self.hub.shards.get(self.shard)) {
            // A shard that is away takes this session with it.
            let _ = shard.slot.cast(ShardMessage::Arm(self.session.id, earlier));
        }
    }

    /// Tells the audit of a refusal.
    pub(super) fn refused<R>(&self, action: &'static str, object: &str, code: &'static str, refusal: R) -> R {
        let (user, token) = (self.session.user().unwrap_or_default(), self.identity.as_ref());
        let token = token.and_then(|identity| identity.jti.as_deref());
        self.hub.audit.refused(Refused { user, token, address: self.session.address(), action, object, code });
        refusal
    }

    /// The same, where it is one of rights.
    pub(super) fn denied(&self, action: &'static str, object: &str, refusal: Refusal) -> Refusal {
        match refusal {
            Refusal::Error(ErrorCode::PermissionDenied) => self.refused(action, object, "forbidden", refusal),
            other => other,
        }
    }

    /// Whether the channel exists for this user.
    pub(super) fn permitted(&self, name: &str) -> Result<Channel, Refusal> {
        let channel = Channel::parse(name).map_err(|_| Refusal::Error(ErrorCode::BadRequest))?;
        let allowed = self.identity.as_ref().is_some_and(|identity| match &channel {
            Channel::Entities(kind) | Channel::Entity(kind, _) => identity.permissions.may_read(kind),
            // Whose it is was looked up when it was asked for.
            Channel::Query(id) => {
                let query = self.hub.queries.known(id);
                query.is_some_and(|it| identity.permissions.may_read(&it.kind) && self.may_ask(&it))
            }
            Channel::Application(name) => self.hub.namespaces.may_subscribe(name, identity),
            Channel::User(_) | Channel::Online(_) => false,
        });
        if allowed { Ok(channel) } else { Err(Refusal::Error(ErrorCode::PermissionDenied)) }
    }

    /// Whether the application's name is longer than it may be here. Names of the hub's own are as long as they are.
    pub(super) fn is_too_long(&self, channel: &Channel) -> bool {
        matches!(channel, Channel::Application(name) if outside(name).len() > self.hub.limits.name)
    }

    /// Answered when the bus has it.
    async fn publish(&mut self, id: u32, request: PublishRequest) -> Answer {
        // A key's value of a map would be news without its key to all.
        if request.kind != 0 {
            return Err(Refusal::Error(ErrorCode::NotAvailable));
        }
        let channel = Channel::parse(&request.channel).map_err(|_| Refusal::Error(ErrorCode::BadRequest))?;
        if self.is_too_long(&channel) {
            return Err(Refusal::Error(ErrorCode::BadRequest));
        }
        let Some(identity) = &self.identity else { return Err(Refusal::Close(Disconnect::BadRequest)) };
        let name = match channel {
            Channel::Application(name) if self.hub.namespaces.may_publish(&name, identity) => name,
            _ => {
                let refusal = Refusal::Error(ErrorCode::PermissionDenied);
                return Err(self.denied("session.publish", &request.channel, refusal));
            }
        };
        // Subscribers of the JSON form can take nothing else; what came in JSON has been parsed.
        if request.data.is_empty() || (self.session.wire.form() != Form::Json && !is_json(&request.data)) {
            return Err(Refusal::Error(ErrorCode::BadRequest));
        }
        if !self.user_may().await {
            return Err(Refusal::Error(ErrorCode::TooManyRequests));
        }
        let info = ClientInfo {
            user: Arc::clone(&identity.user),
            client: self.session.client.to_string().into(),
            conn_info: shown_info(identity.info.as_ref()),
            chan_info: self.session.info_of(&name),
        };
        let extra = Some(Arc::new(Extra { info: Some(info), ..Extra::default() }));
        let message = Message { data: in_one_line(request.data), at: now_micros(), trace: None, extra };
        let (stream, rules) = (StreamName::from_checked(&name), self.hub.namespaces.of(&name));
        let on = Conditions { pace: rules.pace_of(Publisher::Client), ..Conditions::default() };
        let published = self.hub.bus.put(&stream, Offer::Kept(message, self.hub.apps.keep(&name, rules)), &on);
        match tokio::time::timeout(self.hub.limits.command, published).await {
            Ok(Ok(Published::TooMany { .. })) => Err(Refusal::Error(ErrorCode::TooManyRequests)),
            Ok(Ok(_)) => Ok(self.encode(id, &PublishResult)),
            Ok(Err(error)) => {
                tracing::warn!(client = %self.session.client, %error, "a client's publication was not taken");
                Err(Refusal::Error(ErrorCode::Internal))
            }
            Err(_) => Err(Refusal::Error(ErrorCode::Internal)),
        }
    }
}

/// The channel that a command is about.
fn channel(request: &Request) -> Option<&str> {
    match request {
        Request::Subscribe(it) => Some(&it.channel),
        Request::Unsubscribe { channel } | Request::Presence { channel } | Request::PresenceStats { channel } => {
            Some(channel)
        }
        Request::History(it) => Some(&it.channel),
        Request::Publish(it) => Some(&it.channel),
        Request::SubRefresh(it) => Some(&it.channel),
        Request::Connect(_)
        | Request::Refresh { .. }
        | Request::Ping
        | Request::Pong
        | Request::Send { .. }
        | Request::Rpc(_)
        | Request::Unknown => None,
    }
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
