//! Subscribing: first listen, then read the past, then answer, then go live. In that order nothing falls between.

use std::{sync::Arc, time::Duration};

use dzvin_protocols::{
    channels::{
        Channel, Epoch, Position, Publication,
        centrifuge::{ErrorCode, Pub, SubscribeRequest, SubscribeResult, UnsubscribeResult},
    },
    platform::StreamName,
};

use super::commands::{Answer, Conversation, Refusal};
use crate::{
    channels::{
        metrics::RecoveryLabel,
        session::Seat,
        shard::{Left, ShardMessage},
        topics::{AttachError, TopicsMessage},
    },
    entities::gap::{HistoryError, Recovered, entity_since, since},
    platform::ports::{Bus, ChangeLog},
};

/// Between two looks whether a reply has left.
const LOOK: Duration = Duration::from_millis(10);

/// What the reply tells.
struct Start {
    position: Position,
    publications: Vec<Publication>,
    recovered: bool,
}

impl<B: Bus, L: ChangeLog> Conversation<B, L> {
    pub(super) async fn subscribe(&mut self, id: u32, request: SubscribeRequest) -> Answer {
        let channel = self.permitted(&request.channel)?;
        if self.session.subscription_count() >= self.hub.limits.channels {
            return Err(Refusal::Error(ErrorCode::LimitExceeded));
        }
        let name: Arc<str> = request.channel.as_str().into();
        if !self.session.begin(&name) {
            return Err(Refusal::Error(ErrorCode::AlreadySubscribed));
        }
        let result = self.listen_and_recover(id, &request, &channel, &name).await;
        if result.is_err() && result != Err(Refusal::Done) {
            let seat = self.session.end(&name);
            self.leave(&name, seat).await;
        }
        result
    }

    async fn listen_and_recover(
        &mut self,
        id: u32,
        request: &SubscribeRequest,
        channel: &Channel,
        name: &Arc<str>,
    ) -> Answer {
        let top = self.listen(channel, name).await?;
        let mut start = self.start(request, channel, top).await?;
        let mut reply = self.encode(id, &result(request, channel, &start));
        if start.recovered && !self.room_for(reply.len()).await {
            // To close the client as slow would bring it back to the same recovery.
            start = Start { position: start.position, publications: Vec::new(), recovered: false };
            reply = self.encode(id, &result(request, channel, &start));
        }
        if request.recover {
            let result = if start.recovered { "recovered" } else { "unrecovered" };
            self.hub.metrics.recoveries.get_or_create(&RecoveryLabel { result }).inc();
            if !start.recovered && request.rejects_unrecovered() {
                return Err(Refusal::Error(ErrorCode::UnrecoverablePosition));
            }
        }
        let settled = self.session.settle(name, &start.position.epoch, start.position.offset, &reply);
        self.session.flush();
        if let Err(seat) = settled {
            if self.session.closing().is_none() {
                self.hub.metrics.insufficient.inc();
            }
            self.leave(name, seat).await;
        }
        Err(Refusal::Done)
    }

    /// Whether the reply may be queued. A client that recovers several busy channels at once is not slow because the reply
    /// before this one is still on its way: as long as a usual line takes for a queue's worth, that is waited for.
    async fn room_for(&self, bytes: usize) -> bool {
        let waiting = async {
            while !self.session.has_room(bytes) {
                tokio::time::sleep(LOOK).await;
            }
        };
        tokio::time::timeout(self.hub.limits.command / 5, waiting).await.is_ok()
    }

    /// Registers with the shard, then with the topics: from then on every publication reaches the session.
    async fn listen(&self, channel: &Channel, name: &Arc<str>) -> Result<Position, Refusal> {
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
            reply,
        };
        match self.hub.topics.call(attach, within).await {
            Ok(Ok(position)) => Ok(position),
            Ok(Err(AttachError::Unknown)) => Err(Refusal::Error(ErrorCode::UnknownChannel)),
            Ok(Err(AttachError::Unavailable)) | Err(_) => Err(retry),
        }
    }

    async fn start(&self, request: &SubscribeRequest, channel: &Channel, top: Position) -> Result<Start, Refusal> {
        let fresh = |position| Start { position, publications: Vec::new(), recovered: false };
        if !request.recover {
            let one = matches!(channel, Channel::Entity(..));
            return Ok(fresh(if one { self.entity_position(channel).await? } else { top }));
        }
        // An empty epoch stands for whichever is current.
        let epoch = if request.epoch.is_empty() { top.epoch } else { Epoch::new(&request.epoch) };
        let after = Position { epoch, offset: request.offset };
        let (bus, log, limit) = (self.hub.bus.as_ref(), self.hub.log.as_ref(), self.hub.limits.recovery);
        let reading = async {
            match channel {
                Channel::Entities(kind) => since(bus, log, &kind.stream(), &after, limit).await,
                Channel::Entity(kind, key) => entity_since(log, kind, key, &after, limit).await,
                Channel::Query(_) => Err(HistoryError::Unknown),
                Channel::Application(name) => since(bus, log, &StreamName::from_checked(name), &after, limit).await,
            }
        };
        match tokio::time::timeout(self.hub.limits.command, reading).await {
            Ok(Ok(Recovered::Complete { position, publications })) => {
                Ok(Start { position, publications, recovered: true })
            }
            Ok(Ok(Recovered::Unrecoverable { position, cause })) => {
                let (client, cause) = (&self.session.client, cause.as_str());
                tracing::debug!(
                    %client,
                    channel = request.channel,
                    offset = request.offset,
                    cause,
                    "position not recovered"
                );
                Ok(fresh(position))
            }
            Ok(Err(HistoryError::Unknown)) => Err(Refusal::Error(ErrorCode::UnknownChannel)),
            Ok(Err(error)) => {
                tracing::warn!(client = %self.session.client, user = self.session.user(), channel = request.channel, %error, "recovery could not be read");
                Err(Refusal::Error(ErrorCode::Internal))
            }
            Err(_) => Err(Refusal::Error(ErrorCode::Internal)),
        }
    }

    /// Ends the subscriptions that the user's rights no longer allow.
    pub(super) async fn keep_to_rights(&self) {
        for channel in self.session.channels() {
            if self.permitted(&channel).is_err() {
                let seat = self.session.revoke(&channel);
                self.leave(&channel, seat).await;
            }
        }
        self.session.flush();
    }

    pub(super) async fn unsubscribe(&mut self, id: u32, channel: &str) -> Answer {
        let name: Arc<str> = channel.into();
        let seat = self.session.end(&name);
        self.leave(&name, seat).await;
        Ok(self.encode(id, &UnsubscribeResult))
    }

    /// The shard must have forgotten the session before the same channel may be joined again.
    async fn leave(&self, name: &Arc<str>, seat: Option<Seat>) {
        let (Some(seat), Some(shard)) = (seat, self.hub.shards.get(self.shard)) else { return };
        let leave = |reply| ShardMessage::Leave(Left { session: self.session.id, seat }, reply);
        if shard.slot.call(leave, self.hub.limits.command).await.is_err() {
            // The shard is stuck or gone; its own end closes this session.
            tracing::warn!(client = %self.session.client, user = self.session.user(), channel = %name, "shard did not confirm the end of a subscription");
        }
    }
}

fn result<'a>(request: &SubscribeRequest, channel: &Channel, start: &'a Start) -> SubscribeResult<'a> {
    let by_revision = matches!(channel, Channel::Entity(..));
    let offset_of = |p: &Publication| if by_revision { p.revision } else { p.offset };
    // A recovered client walks forward from its own offset by the publications.
    let offset = if start.recovered { request.offset } else { start.position.offset };
    SubscribeResult {
        recoverable: true,
        positioned: true,
        epoch: start.position.epoch.as_str(),
        offset,
        publications: start.publications.iter().map(|p| Pub::new(p, offset_of(p))).collect(),
        recovered: start.recovered,
        was_recovering: request.recover,
        ..SubscribeResult::default()
    }
}
