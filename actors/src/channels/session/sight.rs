//! What the user of a session sees of the hub's own channels.

use std::sync::Arc;

use dzvin_protocols::{
    channels::{
        Channel,
        centrifuge::{ErrorCode, Unsubscribe},
    },
    entities::Sight,
};

use super::{
    Seat, Session,
    commands::{Conversation, Refusal},
};
use crate::{
    channels::viewer::Viewer,
    platform::ports::{Bus, ChangeLog, Query},
};

impl<B: Bus, L: ChangeLog> Conversation<B, L> {
    /// What the user sees on a channel; `None`: everything.
    ///
    /// # Errors
    /// Refused where nobody can say: who is not known sees nothing.
    pub(super) fn viewer(&self, channel: &Channel) -> Result<Option<Viewer>, Refusal> {
        let unknown = || Refusal::Error(ErrorCode::PermissionDenied);
        let of_query;
        let kind = match channel {
            Channel::Entities(kind) | Channel::Entity(kind, _) => kind,
            Channel::Query(id) => {
                of_query = self.hub.queries.known(id).ok_or_else(unknown)?;
                &of_query.kind
            }
            Channel::Application(_) | Channel::User(_) | Channel::Online(_) => return Ok(None),
        };
        let identity = self.identity.as_ref().ok_or_else(unknown)?;
        let sight = identity.permissions.sight(kind, &identity.user);
        Ok(sight.map(|sight| Viewer { sight: Arc::new(sight), rewritten: self.hub.metrics.rewritten.clone() }))
    }

    /// Whether a query asks for nothing that is hidden from the user: its answers would tell.
    pub(super) fn may_ask(&self, query: &Query) -> bool {
        let Some(identity) = &self.identity else { return false };
        let sight = identity.permissions.sight(&query.kind, &identity.user);
        sight.is_none_or(|sight| query.filter.fields().into_iter().all(|field| !sight.hides(field)))
    }

    /// Who sees only some rows has the channels of those alone; of any other entity it is not even told that there is one.
    pub(super) async fn sees(&self, channel: &Channel, sight: Option<&Sight>) -> Result<(), Refusal> {
        let (Channel::Entity(kind, key), Some(rows)) = (channel, sight.and_then(Sight::rows)) else { return Ok(()) };
        match tokio::time::timeout(self.hub.limits.command, self.hub.log.shows(kind, key, rows)).await {
            Ok(Ok(true)) => Ok(()),
            Ok(Ok(false)) => Err(Refusal::Error(ErrorCode::UnknownChannel)),
            Ok(Err(error)) => {
                tracing::warn!(client = %self.session.client, user = self.session.user(), %error, "an entity could not be looked up");
                Err(Refusal::Error(ErrorCode::Internal))
            }
            Err(_) => Err(Refusal::Error(ErrorCode::Internal)),
        }
    }
}

impl Session {
    /// Whether a subscription shows what this viewer sees.
    pub(super) fn shows(&self, channel: &str, viewer: Option<&Viewer>) -> bool {
        let inner = self.lock();
        let Some(at) = inner.find(channel) else { return true };
        let shown = inner.subscriptions[at].terms.viewer.as_ref().map(|viewer| &viewer.sight);
        shown == viewer.map(|viewer| &viewer.sight)
    }

    /// Ends a subscription of which the user now sees something else: the client subscribes again, and its position is worth
    /// nothing any more. Answers its seat.
    pub(super) fn look_again(&self, channel: &Arc<str>) -> Option<Seat> {
        let mut inner = self.lock();
        let seat = inner.find(channel).and_then(|at| inner.subscriptions[at].seat);
        self.unsubscribe_locked(&mut inner, channel, Unsubscribe::InsufficientState);
        seat
    }
}
