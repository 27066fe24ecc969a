//! Recovering: what a subscription begins with, which is the stream as it stands or all that the client has missed.
//!
//! Invariants: the channel is listened to before its past is read, so that nothing falls between. What is brought fits the queue; a
//! client that does not read what waits for it is asked to come again, and is neither closed nor told that anything is lost.
//!
//! Not here: what can be brought (`entities::gap`, `entities::concerns`), how it is told (`start`), going live (`subscribe`).

use std::{sync::Arc, time::Duration};

use dzvin_protocols::{
    channels::{
        Channel, Epoch, Position, Publication,
        centrifuge::{ErrorCode, SubscribeRequest},
    },
    entities::Sight,
    platform::StreamName,
};

use super::{
    commands::{Conversation, Refusal},
    start::Start,
};
use crate::{
    channels::{metrics::RecoveryLabel, topics::Attached},
    entities::{
        concerns::{query_since, seen_since},
        gap::{HistoryError, Recovered, entity_since_seen, since},
    },
    platform::ports::{Bus, ChangeLog, Member},
};

/// Between two looks whether a reply has left.
const LOOK: Duration = Duration::from_millis(10);
/// How often in a row a connection is asked to come again with a recovery. With the pauses of the client library, which grow to twenty
/// seconds, that is a minute: whoever has not read a queue's worth in it does not follow.
const POSTPONEMENTS: u32 = 8;

impl<B: Bus, L: ChangeLog> Conversation<B, L> {
    pub(super) async fn listen_and_recover(
        &mut self,
        request: &SubscribeRequest,
        channel: &Channel,
        name: &Arc<str>,
        (delta, sight): (bool, Option<&Sight>),
        member: Option<Arc<Member>>,
    ) -> Result<(Attached, Start), Refusal> {
        let attached = self.listen(channel, name, delta, member).await?;
        let start = self.start(request, channel, attached.position.clone(), sight).await?;
        Ok((attached, start))
    }

    /// What is recovered, unless the client reads so slowly that there is no room for it. To close it would bring it back to the
    /// same recovery, so whoever asked is to ask again: nothing of this channel is queued meanwhile, and most often the queue is read soon.
    /// What the server has asked for it would not ask again, and who is never ready would ask for ever: they are told to load their state.
    pub(super) async fn in_time(
        &mut self,
        request: &SubscribeRequest,
        start: Start,
        of_server: bool,
    ) -> Result<Start, Refusal> {
        let start = if !start.recovered || self.room_for(start.size()).await {
            self.postponed = 0;
            start
        } else if of_server || self.postponed >= POSTPONEMENTS {
            self.postponed = 0;
            Start::lost(start.position, "slow")
        } else {
            self.postponed += 1;
            return Err(self.postpone(request, &start));
        };
        if request.recover && !start.recovered && request.rejects_unrecovered() {
            self.count_recovery(request, &start);
            return Err(Refusal::Error(ErrorCode::UnrecoverablePosition));
        }
        Ok(start)
    }

    fn postpone(&self, request: &SubscribeRequest, start: &Start) -> Refusal {
        let label = RecoveryLabel { result: "postponed", cause: "slow" };
        self.hub.metrics.recoveries.get_or_create(&label).inc();
        tracing::debug!(client = %self.session.client, channel = request.channel, bytes = start.size(), "recovery postponed");
        Refusal::Error(ErrorCode::TooManyRequests)
    }

    /// Counts how a recovery ended, if there was to be one.
    pub(super) fn count_recovery(&self, request: &SubscribeRequest, start: &Start) {
        if request.recover {
            let result = if start.recovered { "recovered" } else { "unrecovered" };
            self.hub.metrics.recoveries.get_or_create(&RecoveryLabel { result, cause: start.cause }).inc();
        }
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

    async fn start(
        &self,
        request: &SubscribeRequest,
        channel: &Channel,
        top: Position,
        sight: Option<&Sight>,
    ) -> Result<Start, Refusal> {
        let named = match sight {
            Some(sight) if !request.epoch.is_empty() => sight.told(&request.epoch),
            _ => Some(request.epoch.as_str()),
        };
        // A position of another sight says nothing of what this one has missed.
        let Some(epoch) = named.filter(|_| request.recover) else {
            let one = matches!(channel, Channel::Entity(..));
            let position = if one { self.entity_position(channel).await? } else { top };
            return Ok(if request.recover { Start::lost(position, "sight") } else { Start::fresh(position) });
        };
        if let Channel::Application(name) = channel
            && self.hub.namespaces.of(name).latest_only
        {
            return self.latest(request, channel, top).await;
        }
        // An empty epoch stands for whichever is current.
        let epoch = if epoch.is_empty() { top.epoch } else { Epoch::new(epoch) };
        let after = Position { epoch, offset: request.offset };
        let (bus, log, limits) = (self.hub.bus.as_ref(), self.hub.log.as_ref(), &self.hub.limits);
        let (limit, reach) = (limits.recovery, limits.reach());
        let reading = async {
            match (channel, sight) {
                (Channel::Entities(kind), Some(sight)) => seen_since(bus, log, kind, &after, reach, sight).await,
                (Channel::Entity(kind, key), _) => entity_since_seen(log, kind, key, &after, limit, sight).await,
                (Channel::Query(id), _) => match self.hub.queries.known(id) {
                    Some(query) => query_since(bus, log, &query, &after, reach, sight).await,
                    None => Err(HistoryError::Unknown),
                },
                _ => since(bus, log, &StreamName::from_checked(&channel.to_string()), &after, limit).await,
            }
        };
        match tokio::time::timeout(self.hub.limits.command, reading).await {
            Ok(Ok(Recovered::Complete { position, publications })) => Ok(Start::recovered(position, publications)),
            Ok(Ok(Recovered::Unrecoverable { position, cause })) => {
                let (client, cause) = (&self.session.client, cause.as_str());
                tracing::debug!(
                    %client,
                    channel = request.channel,
                    offset = request.offset,
                    cause,
                    "position not recovered"
                );
                Ok(Start::lost(position, cause))
            }
            Ok(Err(HistoryError::Unknown)) => Err(forgotten(channel)),
            Ok(Err(error)) => {
                tracing::warn!(client = %self.session.client, user = self.session.user(), channel = request.channel, %error, "recovery could not be read");
                Err(Refusal::Error(ErrorCode::Internal))
            }
            Err(_) => Err(Refusal::Error(ErrorCode::Internal)),
        }
    }

    /// Where only the latest publication matters: that one, unless the client has it.
    pub(super) async fn latest(
        &self,
        request: &SubscribeRequest,
        channel: &Channel,
        top: Position,
    ) -> Result<Start, Refusal> {
        let here = request.epoch == top.epoch.as_str() && request.offset == top.offset;
        if here || top.offset == 0 {
            return Ok(if here { Start::recovered(top, Vec::new()) } else { Start::lost(top, "empty") });
        }
        let slice = self.page(channel, top.offset - 1, 1).await.map_err(|refusal| match refusal {
            Refusal::Error(ErrorCode::UnknownChannel) => forgotten(channel),
            other => other,
        })?;
        // What came since is read again live, and dropped there.
        let publications: Vec<Publication> = slice.publications.into_iter().take(1).collect();
        let position = Position { offset: publications.last().map_or(top.offset, |it| it.offset), ..slice.position };
        Ok(if publications.is_empty() {
            Start::lost(position, "empty")
        } else {
            Start::recovered(position, publications)
        })
    }
}

/// What is answered when a stream is gone that had just been attached to. The application's was forgotten by the bus in between,
/// which may happen to any of them: the next attempt opens it anew, so the client must not be sent away for good.
const fn forgotten(channel: &Channel) -> Refusal {
    match channel {
        Channel::Application(_) | Channel::User(_) | Channel::Online(_) => Refusal::Error(ErrorCode::Internal),
        Channel::Entities(_) | Channel::Entity(..) | Channel::Query(_) => Refusal::Error(ErrorCode::UnknownChannel),
    }
}
