//! Subscribing: first listen, then read the past, then answer, then go live. In that order nothing falls between.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use dzvin_protocols::channels::{
    Channel, Happening,
    centrifuge::{
        Disconnect, ErrorCode, Form, SubRefreshRequest, SubRefreshResult, SubscribeRequest, TagFilter,
        UnsubscribeResult,
    },
};

use super::{
    clock::{millis, now},
    commands::{Answer, Conversation, Refusal},
    connect::seconds_left,
    live::Terms,
    presence::shown_info,
    start::Prepared,
    subscriptions::{Going, Over},
};
use crate::{
    channels::{
        session::Seat,
        shard::{Left, ShardMessage},
        topics::{AttachError, Attached, TopicsMessage},
    },
    platform::ports::{AuthError, Bus, ChangeLog, Member, Query, ServerSubscription, SubscriptionGrant, TokenMark},
};

/// The only kind of deltas.
const FOSSIL: &str = "fossil";

impl<B: Bus, L: ChangeLog> Conversation<B, L> {
    pub(super) async fn subscribe(&mut self, id: u32, request: SubscribeRequest) -> Answer {
        if request.kind != 0 {
            return Err(Refusal::Error(ErrorCode::NotAvailable));
        }
        let tell = |refusal| self.denied("session.subscribe", &request.channel, refusal);
        let grant = self.grant(&request).await.map_err(tell)?;
        // Held until it is listened to.
        let _query = self.look_up(&request.channel).await?;
        let channel = match &grant {
            Some(_) => Channel::parse(&request.channel).map_err(|_| Refusal::Error(ErrorCode::BadRequest))?,
            None => self.permitted(&request.channel).map_err(tell)?,
        };
        let terms = Terms { granted: grant.is_some(), ..self.terms(&request, &channel)? };
        let prepared = self.prepare(request, channel, terms, grant.unwrap_or_default(), None).await?;
        self.count_recovery(&prepared.request, &prepared.start);
        let reply = self.encode(id, &prepared.result());
        self.go_live(vec![prepared], &reply).await
    }

    /// What the subscription's own token grants. It opens channels of the application; the hub's own are opened by the
    /// permissions of the user alone.
    async fn grant(&self, request: &SubscribeRequest) -> Result<Option<SubscriptionGrant>, Refusal> {
        let ours = !matches!(Channel::parse(&request.channel), Ok(Channel::Application(_)));
        if request.token.is_empty() || ours {
            return Ok(None);
        }
        self.verified(&request.token, &request.channel, ErrorCode::TokenExpired).await.map(Some)
    }

    /// The query that the channel is, if this user made it.
    pub(super) async fn look_up(&self, channel: &str) -> Result<Option<Arc<Query>>, Refusal> {
        let Ok(Channel::Query(id)) = Channel::parse(channel) else { return Ok(None) };
        let user = self.identity.as_ref().map_or("", |identity| &identity.user);
        match tokio::time::timeout(self.hub.limits.command, self.hub.queries.find(&id, user)).await {
            Ok(Ok(Some(query))) => Ok(Some(query)),
            Ok(Ok(None)) => Err(Refusal::Error(ErrorCode::UnknownChannel)),
            Ok(Err(error)) => {
                tracing::warn!(client = %self.session.client, user = self.session.user(), %error, "a query could not be looked up");
                Err(Refusal::Error(ErrorCode::Internal))
            }
            Err(_) => Err(Refusal::Error(ErrorCode::Internal)),
        }
    }

    async fn verified(&self, token: &str, channel: &str, expired: ErrorCode) -> Result<SubscriptionGrant, Refusal> {
        let user = self.identity.as_ref().map_or("", |identity| &identity.user);
        self.hub.auth.subscription(token, user, channel).await.map_err(|error| {
            Refusal::Error(match error {
                AuthError::Expired => expired,
                AuthError::Invalid => ErrorCode::PermissionDenied,
                AuthError::Unavailable => ErrorCode::Internal,
                AuthError::TooMany(_) => ErrorCode::TooManyRequests,
            })
        })
    }

    fn terms(&self, request: &SubscribeRequest, channel: &Channel) -> Result<Terms, Refusal> {
        if !request.delta.is_empty() && request.delta != FOSSIL {
            return Err(Refusal::Close(Disconnect::BadRequest));
        }
        let filter = request.tf.clone().map(|node| TagFilter::new(*node).map(Box::new)).transpose();
        let filter = filter.map_err(|_| Refusal::Error(ErrorCode::BadRequest))?;
        let asks = request.delta == FOSSIL;
        if asks && filter.is_some() {
            return Err(Refusal::Error(ErrorCode::BadRequest));
        }
        let (deltas, join_leave) = match channel {
            Channel::Application(name) => {
                let rules = self.hub.namespaces.of(name);
                (rules.deltas && rules.keep.count > 0, rules.join_leave)
            }
            _ => (true, false),
        };
        Ok(Terms {
            delta: asks && deltas,
            // In Protobuf the JavaScript client reads a number as an object, and finds no channel by it: it would hear nothing.
            numbered: request.takes_numbers() && self.session.wire.form() == Form::Json,
            join_leave: request.join_leave && join_leave,
            filter,
            ..Terms::default()
        })
    }

    /// The subscriptions that the connection's token makes, each from where the client says it stands.
    pub(super) async fn prepare_all(
        &mut self,
        made: &[ServerSubscription],
        stand: &BTreeMap<String, SubscribeRequest>,
    ) -> Result<Vec<Prepared>, Refusal> {
        let mut all: Vec<Prepared> = Vec::with_capacity(made.len());
        for subscription in made {
            let request = stand.get(&*subscription.channel).cloned().unwrap_or_default();
            let request = SubscribeRequest { channel: subscription.channel.to_string(), ..request };
            let prepared = match Channel::parse(&request.channel) {
                Ok(channel @ Channel::Application(_)) => {
                    let rules = self.hub.namespaces.of(&request.channel);
                    let pushed = subscription.overrides.force_push_join_leave.unwrap_or(rules.join_leave);
                    let terms =
                        Terms { of_server: true, granted: true, claimed: true, join_leave: pushed, ..Terms::default() };
                    let grant = SubscriptionGrant {
                        info: subscription.info.clone(),
                        overrides: subscription.overrides,
                        ..SubscriptionGrant::default()
                    };
                    self.prepare(request, channel, terms, grant, subscription.data.clone()).await
                }
                // A query is its maker's, whatever a token says.
                Ok(Channel::Query(_)) => continue,
                // The hub's own are opened by permissions; what the token says beside them is no reason to refuse it.
                Ok(_) => match self.permitted(&request.channel) {
                    Ok(channel) => {
                        let terms = Terms { of_server: true, ..Terms::default() };
                        self.prepare(request, channel, terms, SubscriptionGrant::default(), subscription.data.clone())
                            .await
                    }
                    Err(_) => continue,
                },
                Err(_) => continue,
            };
            match prepared {
                // All of them leave in one reply, so the limit of one recovery is that of all.
                Ok(mut prepared) => {
                    let before: usize = all.iter().map(|it| it.start.size()).sum();
                    if prepared.start.recovered && before + prepared.start.size() > self.hub.limits.recovery.bytes {
                        prepared.lose();
                    }
                    self.count_recovery(&prepared.request, &prepared.start);
                    all.push(prepared);
                }
                // What does not exist is no reason to refuse the rest.
                Err(Refusal::Error(ErrorCode::UnknownChannel)) => {}
                Err(refusal) => {
                    for undone in all {
                        let Prepared { name, .. } = undone;
                        self.undo(&name).await;
                    }
                    return Err(refusal);
                }
            }
        }
        Ok(all)
    }

    /// Listens and reads the past: what is left is to answer and to go live.
    pub(super) async fn prepare(
        &mut self,
        request: SubscribeRequest,
        channel: Channel,
        terms: Terms,
        grant: SubscriptionGrant,
        data: Option<Bytes>,
    ) -> Result<Prepared, Refusal> {
        if self.is_too_long(&channel) {
            return Err(Refusal::Error(ErrorCode::BadRequest));
        }
        if self.session.subscription_count() >= self.hub.limits.channels {
            return Err(Refusal::Error(ErrorCode::LimitExceeded));
        }
        let name: Arc<str> = request.channel.as_str().into();
        let (ttl, ends) = self.lasting(&grant);
        let (delta, numbered, filtered) = (terms.delta, terms.numbered, terms.filter.is_some());
        let of_server = terms.of_server;
        let mark = grant.mark.clone().map(Box::new);
        let info = shown_info(grant.info.as_ref()).map(Box::new);
        let viewer = self.viewer(&channel)?;
        let sight = viewer.as_ref().map(|viewer| Arc::clone(&viewer.sight));
        if !self.session.begin(&name, Terms { expires_at: ends, mark, info, viewer: viewer.map(Box::new), ..terms }) {
            return Err(Refusal::Error(ErrorCode::AlreadySubscribed));
        }
        let member = self.member(&channel, &grant);
        let prepared = match self.sees(&channel, sight.as_deref()).await {
            Ok(()) => self.listen_and_recover(&request, &channel, &name, (delta, sight.as_deref()), member).await,
            Err(refusal) => Err(refusal),
        };
        let prepared = match prepared {
            Ok((attached, mut start)) => {
                if filtered {
                    start.publications = self.session.admitted(&name, start.publications);
                }
                self.in_time(&request, start, of_server).await.map(|start| (attached, start))
            }
            Err(refusal) => Err(refusal),
        };
        let (attached, start) = match prepared {
            Ok(prepared) => prepared,
            Err(refusal) => {
                self.undo(&name).await;
                return Err(refusal);
            }
        };
        if let Some(ends) = ends {
            self.look_by(self.session.ends_at(ends));
        }
        let recoverable = match &channel {
            Channel::Application(name) => self.hub.namespaces.of(name).keep.count > 0,
            _ => true,
        };
        let number = if numbered { self.session.number(&name, attached.number) } else { 0 };
        let mut prepared = Prepared::new(name, &channel, request, start, data);
        (prepared.delta, prepared.number, prepared.ttl, prepared.recoverable) = (delta, number, ttl, recoverable);
        if let Some(sight) = &sight {
            prepared.seen_as(sight);
        }
        prepared.skips |= filtered;
        Ok(prepared.with_patches())
    }

    /// Answers, and goes live.
    pub(super) async fn go_live(&self, prepared: Vec<Prepared>, reply: &[u8]) -> Answer {
        let going = prepared.iter().map(Prepared::going).collect();
        if self.settle(going, reply).await || self.session.closing().is_some() {
            return Err(Refusal::Done);
        }
        // It was ended while it was prepared: the client tries again, and is told why it may not.
        Err(Refusal::Error(ErrorCode::Internal))
    }

    /// Whether the reply was queued.
    pub(super) async fn settle(&self, going: Vec<Going>, reply: &[u8]) -> bool {
        self.settle_all(going, &[reply]).await
    }

    /// The same with several replies, of which each is a message.
    pub(super) async fn settle_all(&self, going: Vec<Going>, replies: &[&[u8]]) -> bool {
        let (answered, over) = self.session.settle(going, replies);
        self.session.flush();
        for (name, seat) in over {
            if self.session.closing().is_none() {
                self.hub.metrics.insufficient.inc();
            }
            self.leave(&name, seat).await;
        }
        answered
    }

    /// Registers with the shard, then with the topics: from then on every publication reaches the session. Then it may be seen.
    pub(super) async fn listen(
        &self,
        channel: &Channel,
        name: &Arc<str>,
        delta: bool,
        member: Option<Arc<Member>>,
    ) -> Result<Attached, Refusal> {
        let within = self.hub.limits.command;
        let retry = Refusal::Error(ErrorCode::Internal);
        let shard = self.hub.shards.get(self.shard).ok_or(retry)?;
        let join =
            |reply| ShardMessage::Join { channel: Arc::clone(name), session: Arc::clone(&self.session).into(), reply };
        shard.slot.call(join, within).await.map_err(|_| retry)?;
        let attach = |reply| TopicsMessage::Attach {
            channel: Arc::clone(name),
            parsed: channel.clone(),
            shard: self.shard,
            delta,
            reply,
        };
        let attached = match self.hub.topics.call(attach, within).await {
            Ok(Ok(attached)) => attached,
            Ok(Err(AttachError::Unknown)) => return Err(Refusal::Error(ErrorCode::UnknownChannel)),
            Ok(Err(AttachError::Unavailable)) | Err(_) => return Err(retry),
        };
        if let Some(member) = member {
            // Not before: the word that it has come would be said while this node does not listen yet.
            let enter = |reply| ShardMessage::Enter {
                channel: Arc::clone(name),
                session: Arc::clone(&self.session).into(),
                member,
                reply,
            };
            shard.slot.call(enter, within).await.map_err(|_| retry)?;
        }
        Ok(attached)
    }

    /// A new token for a subscription that ends.
    pub(super) async fn sub_refresh(&mut self, id: u32, request: &SubRefreshRequest) -> Answer {
        if request.kind != 0 {
            return Err(Refusal::Error(ErrorCode::NotAvailable));
        }
        let grant = self.verified(&request.token, &request.channel, ErrorCode::Expired).await?;
        let ttl = self.prolong(&request.channel, grant).ok_or(Refusal::Error(ErrorCode::PermissionDenied))?;
        Ok(self.encode(id, &SubRefreshResult { expires: ttl.is_some(), ttl: ttl.unwrap_or_default() }))
    }

    /// Has a subscription live on another grant from now on; answers the seconds that it has left, if it ends. `None`: there is no
    /// such subscription.
    pub(super) fn prolong(&self, channel: &str, grant: SubscriptionGrant) -> Option<Option<u32>> {
        let (ttl, ends) = self.lasting(&grant);
        if !self.session.prolong(channel, ends, grant.mark) {
            return None;
        }
        if let Some(ends) = ends {
            self.look_by(self.session.ends_at(ends));
        }
        Some(ttl)
    }

    /// How long the client is told that a grant lasts, in seconds, and when the subscription ends by the session's clock: the grace
    /// is for those who fetch another token.
    fn lasting(&self, grant: &SubscriptionGrant) -> (Option<u32>, Option<u64>) {
        let ttl = seconds_left(grant.expires_at);
        let ends = |ttl: u32| now() + millis(Duration::from_secs(ttl.into()) + self.hub.limits.expiry_grace);
        (ttl, ttl.map(ends))
    }

    /// Ends the subscriptions whose own token has been revoked.
    pub(super) async fn keep_to_tokens(&self) {
        let over = self.session.keep_to_tokens(|mark| self.is_revoked(mark));
        self.leave_all(over).await;
    }

    /// Whether the token that opened a subscription of this connection is no longer good.
    pub(super) fn is_revoked(&self, mark: &TokenMark) -> bool {
        let user = self.identity.as_ref().map_or("", |identity| &identity.user);
        self.hub.auth.revoked_for(user, mark)
    }

    /// Ends the subscriptions that the user's rights no longer allow, or of which they now show something else. A token of its
    /// own opened what has an end of its own; what the connection's token made, its next one has to name again.
    pub(super) async fn keep_to_rights(&self) {
        let named = self.identity.as_ref().map_or(&[][..], |identity| &identity.subscriptions);
        let ungranted = self.session.channels().into_iter().filter(|channel| !self.session.is_granted(channel, named));
        let judged = ungranted.map(|channel| {
            let allowed = self.permitted(&channel).and_then(|parsed| self.viewer(&parsed));
            (channel, allowed.ok())
        });
        // First all, then the shard is told: that takes its time, and nothing may be shown meanwhile.
        let over = self.session.keep_to(judged.collect());
        self.leave_all(over).await;
    }

    async fn leave_all(&self, over: Over) {
        self.session.flush();
        for (channel, seat) in over {
            self.leave(&channel, seat).await;
        }
    }

    pub(super) async fn unsubscribe(&mut self, id: u32, channel: &str) -> Answer {
        self.given_up(&channel.into()).await;
        Ok(self.encode(id, &UnsubscribeResult))
    }

    /// The client wants a subscription no longer.
    pub(super) async fn given_up(&self, name: &Arc<str>) {
        if self.session.has(name) {
            self.session.tell_trace(Some(name), Happening::Unsubscribe { code: 0 });
        }
        self.undo(name).await;
    }

    pub(super) async fn undo(&self, name: &Arc<str>) {
        let seat = self.session.end(name);
        self.leave(name, seat).await;
    }

    /// The shard must have forgotten the session before the same channel may be joined again.
    pub(super) async fn leave(&self, name: &Arc<str>, seat: Option<Seat>) {
        let (Some(seat), Some(shard)) = (seat, self.hub.shards.get(self.shard)) else { return };
        let leave = |reply| ShardMessage::Leave(Left { session: self.session.id, seat }, reply);
        if shard.slot.call(leave, self.hub.limits.command).await.is_err() {
            // The shard is stuck or gone; its own end closes this session.
            tracing::warn!(client = %self.session.client, user = self.session.user(), channel = %name, "shard did not confirm the end of a subscription");
        }
    }
}
