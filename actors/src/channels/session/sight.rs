//! What the user of a session sees of the hub's own channels.

use std::sync::Arc;

use dzvin_protocols::{
    channels::{
        Channel,
        centrifuge::{Disconnect, ErrorCode, Unsubscribe},
    },
    entities::Sight,
};

use super::{
    Inner, Seat, Session, Subscribed,
    commands::{Conversation, Refusal},
    subscriptions::Over,
};
use crate::{
    channels::viewer::Viewer,
    platform::ports::{Bus, ChangeLog, Query, TokenMark},
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
        if self.session.is_hushed() {
            // The client is about to come back anyway.
            return Err(Refusal::Error(ErrorCode::Internal));
        }
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

/// A subscription that was looked at again: what its user now sees there, `None` where they may not have it any more.
pub(super) type Judged = (Arc<str>, Option<Option<Viewer>>);

impl Session {
    /// Ends the subscriptions that the user may no longer have, or of which they now see something else: then the client
    /// subscribes again, and its position is worth nothing any more. All under one lock, so that nothing is shown between. Answers what
    /// the shard must forget.
    pub(super) fn keep_to(&self, judged: Vec<Judged>) -> Over {
        let mut inner = self.lock();
        let inner = &mut *inner;
        let mut over = Vec::new();
        for (channel, allowed) in judged {
            let Some(at) = inner.find(&channel) else { continue };
            let Subscribed { seat, terms, .. } = &inner.subscriptions[at];
            let shown = terms.viewer.as_ref().map(|viewer| &viewer.sight);
            let why = match &allowed {
                Some(viewer) if shown == viewer.as_ref().map(|viewer| &viewer.sight) => continue,
                Some(_) => Unsubscribe::StateInvalidated,
                None => Unsubscribe::Server,
            };
            over.push((channel, *seat, why));
        }
        self.take_away(inner, over)
    }

    /// Ends the subscriptions whose own token is such, in the same way. As with the connection's, nobody is to try again with it.
    pub(super) fn keep_to_tokens(&self, is_revoked: impl Fn(&TokenMark) -> bool) -> Over {
        let mut inner = self.lock();
        let marked = inner.subscriptions.iter().filter(|it| it.terms.mark.as_deref().is_some_and(&is_revoked));
        let over = marked.map(|it| (Arc::clone(&it.channel), it.seat, Unsubscribe::Server)).collect();
        self.take_away(&mut inner, over)
    }

    /// Nothing leaves that was queued by the rights that were: where something waits, nobody can tell what it is, and the connection
    /// ends with it.
    fn take_away(&self, inner: &mut Inner, over: Vec<(Arc<str>, Option<Seat>, Unsubscribe)>) -> Over {
        let waits = !(inner.outbox.is_empty() && inner.replies.is_empty());
        if waits && !over.is_empty() {
            self.close_unsaid_locked(inner, Disconnect::ForceReconnect);
        }
        for (channel, _, why) in &over {
            self.unsubscribe_locked(inner, channel, *why);
        }
        over.into_iter().map(|(channel, seat, _)| (channel, seat)).collect()
    }

    /// What the user sees may have changed, and the session is to be closed a little later: until then it is shown nothing
    /// of the hub's own channels, nor what waits of them, nor an answer that is being made. Its place in them is told nobody, so
    /// the client comes back to where it was. Answers the seats that are free.
    pub(in crate::channels) fn hush(&self) -> Vec<Seat> {
        let mut inner = self.lock();
        let inner = &mut *inner;
        inner.hushed = true;
        if inner.clock.is_busy() || !(inner.outbox.is_empty() && inner.replies.is_empty()) {
            // It cannot be told what of that is of the hub's own channels.
            self.close_unsaid_locked(inner, Disconnect::ForceReconnect);
        }
        let ours = inner.subscriptions.extract_if(.., |it| shows_entities(&it.channel));
        ours.filter_map(|it| it.seat).collect()
    }

    pub(super) fn is_hushed(&self) -> bool {
        self.lock().hushed
    }
}

/// Whether a channel shows what roles may see in part.
fn shows_entities(channel: &str) -> bool {
    matches!(Channel::of_hub(channel), Ok(Channel::Entities(_) | Channel::Entity(..) | Channel::Query(_)))
}
