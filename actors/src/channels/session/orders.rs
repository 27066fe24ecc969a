//! What the node, or another one, has a session do. Some of it the session does at once; what needs to be read or asked
//! waits for its task.

use std::sync::Arc;

use bytes::Bytes;
use dzvin_protocols::channels::{
    Channel, ClientName, ConnectionInfo, Control, Subscribing, Whose,
    centrifuge::{About, Disconnect, RefreshPush, SubscribePush, SubscribeRequest, UnsubscribePush},
};
use time::OffsetDateTime;

use super::{
    Seat, Session, Wire,
    clock::{NEVER, millis, now},
    commands::Conversation,
    live::Terms,
};
use crate::platform::ports::{Bus, ChangeLog, SubscriptionGrant};

/// Orders that may wait for one session's task: they are given by people and servers, a few in a session's life. One more and
/// the session is closed, to begin anew.
const MAX_ORDERS: usize = 64;

/// What the task of a session has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Order {
    /// Subscribe to this channel in the server's name.
    Subscribe(Arc<str>, Option<Box<Subscribing>>),
    /// Look again at what the user may have, and whether the token is still good.
    Recheck,
}

impl<B: Bus, L: ChangeLog> Conversation<B, L> {
    pub(super) async fn obey(&mut self, order: Order) {
        match order {
            Order::Recheck if self.identity.as_ref().is_some_and(|it| self.hub.auth.revoked(it)) => {
                self.session.close_unsaid(Disconnect::InvalidToken);
            }
            Order::Recheck => {
                self.keep_to_tokens().await;
                self.keep_to_rights().await;
            }
            // That protocol has no word for it.
            Order::Subscribe(..) if self.session.wire == Wire::Pusher => {}
            Order::Subscribe(channel, terms) => {
                self.subscribed_by_server(&channel, terms.map(|it| *it).unwrap_or_default()).await;
            }
        }
    }

    /// Before each command: whether the user may still have what it has does not wait for the last of them. Then, whether the session goes
    /// on.
    pub(super) async fn goes_on(&mut self) -> bool {
        if self.session.is_in_doubt()
            && let Some(order) = self.session.next_order()
        {
            self.obey(order).await;
        }
        self.session.closing().is_none()
    }

    /// What cannot be had is not had: whoever gave the order may look who is there.
    async fn subscribed_by_server(&mut self, name: &str, given: Subscribing) {
        let Ok(channel @ Channel::Application(_)) = Channel::parse(name) else { return };
        let Subscribing { info, data, expire_at, since, overrides } = given;
        let ends = expire_at.map(OffsetDateTime::from_unix_timestamp).transpose();
        // An end that is no moment is no end that could be kept.
        let Ok(expires_at) = ends else { return };
        let mut request = SubscribeRequest { channel: name.to_owned(), ..SubscribeRequest::default() };
        if let Some(since) = since {
            (request.recover, request.offset, request.epoch) = (true, since.offset, since.epoch);
        }
        let join_leave = overrides.force_push_join_leave.unwrap_or(self.hub.namespaces.of(name).join_leave);
        let terms = Terms { of_server: true, granted: true, join_leave, ..Terms::default() };
        let grant = SubscriptionGrant { expires_at, info: info.map(Bytes::from), overrides, mark: None };
        let Ok(prepared) = self.prepare(request, channel, terms, grant, data.map(Bytes::from)).await else {
            return;
        };
        self.count_recovery(&prepared.request, &prepared.start);
        let result = prepared.result();
        let push = SubscribePush {
            recoverable: result.recoverable,
            epoch: result.epoch,
            offset: result.offset,
            positioned: true,
            data: result.data,
        };
        // The push has no room for what was missed: it follows, each as if it came now, from where the client stood.
        let mut pushes = vec![self.session.wire.message(About::Channel(name), &push)];
        pushes.extend(result.publications.iter().map(|it| self.session.wire.message(About::Channel(name), it)));
        let pushes: Vec<&[u8]> = pushes.iter().map(Vec::as_slice).collect();
        self.settle_all(vec![prepared.going()], &pushes).await;
    }
}

impl Session {
    /// Whether an order is about this session.
    pub(in crate::channels) fn is_meant(&self, whose: &Whose) -> bool {
        let user = match self.user.get() {
            Some(user) => &**user,
            // On this wire nobody has to say who they are.
            None if self.wire == super::Wire::Pusher => "",
            None => return false,
        };
        if whose.user.as_ref().is_some_and(|meant| **meant != *user) {
            return false;
        }
        if whose.client.is_none() && whose.except.is_empty() {
            return true;
        }
        let client = self.client_name();
        let is_ours = |secret: &str| self.mailbox.as_ref().is_some_and(|mailbox| mailbox.is_of(secret));
        let named = |meant: &ClientName| meant.is(&client, is_ours);
        whose.client.as_ref().is_none_or(named) && !whose.except.iter().any(|spared| **spared == *client)
    }

    /// The same of an order as a whole. To look again concerns also whom a subscription is lent by the user's token, whoever the
    /// connection's own user is.
    pub(in crate::channels) fn is_concerned(&self, order: &Control) -> bool {
        let Some(whose) = order.whose() else { return false };
        let lent = || {
            // Only there a token may be another user's than the connection's.
            self.wire == Wire::Pusher
                && whose.client.is_none()
                && whose.user.is_some()
                && !self.marked(|mark| mark.user == whose.user).is_empty()
        };
        self.is_meant(whose) || (matches!(order, Control::Recheck { .. }) && lent())
    }

    /// The session as operators see it.
    pub(in crate::channels) fn describe(&self) -> ConnectionInfo {
        let inner = self.lock();
        ConnectionInfo {
            client: self.client_name().into(),
            user: self.user().unwrap_or_default().into(),
            wire: self.wire.name().into(),
            age_seconds: now().saturating_sub(self.began) / 1000,
            queue_bytes: inner.outbox.bytes() as u64,
            channels: inner.channels().collect(),
            more_channels: 0,
        }
    }

    /// The client as its protocol spells it.
    pub(super) fn client_name(&self) -> String {
        if self.wire == Wire::Pusher { self.client.socket().as_str().to_owned() } else { self.client.to_string() }
    }

    /// Does what it can at once, and leaves the rest to the task. Answers the seats that are free.
    pub(in crate::channels) fn obey(&self, order: &Control) -> Vec<Seat> {
        match order {
            Control::Disconnect { code, reason, .. } => {
                let known = Disconnect::ALL.iter().find(|why| why.code() == *code);
                match known {
                    Some(why) => self.close(*why),
                    // No code of the application's own makes this client come back, or stay away.
                    None if self.wire == Wire::Pusher => self.close(match code {
                        4500.. => Disconnect::ForceDisconnect,
                        _ => Disconnect::ForceReconnect,
                    }),
                    None => self.close_with(*code, reason),
                }
                Vec::new()
            }
            Control::Unsubscribe { channel, code, reason, .. } => {
                let channels = match channel {
                    Some(channel) => vec![Arc::clone(channel)],
                    None => self.channels(),
                };
                let told = |channel| self.revoke(&channel, UnsubscribePush { code: *code, reason });
                channels.into_iter().filter_map(told).collect()
            }
            Control::Subscribe { channel, terms, .. } => {
                self.order(Order::Subscribe(Arc::clone(channel), terms.clone()));
                Vec::new()
            }
            Control::Recheck { .. } => {
                self.order(Order::Recheck);
                Vec::new()
            }
            Control::Refresh { expire_at, .. } => {
                self.prolong_connection(*expire_at);
                Vec::new()
            }
            // Between nodes.
            Control::Emulate { .. }
            | Control::Stray { .. }
            | Control::Survey { .. }
            | Control::Answer { .. }
            | Control::Count { .. }
            | Control::Counted { .. }
            | Control::Trace { .. }
            | Control::Traced { .. }
            | Control::Untrace { .. } => Vec::new(),
        }
    }

    fn order(&self, order: Order) {
        let mut inner = self.lock();
        if inner.orders.contains(&order) {
            return;
        }
        if inner.orders.len() >= MAX_ORDERS {
            return self.close_locked(&mut inner, Disconnect::ForceReconnect);
        }
        inner.orders.push(order);
        self.wake.set();
    }

    /// Whether it has to be looked at what its user may have.
    pub(super) fn is_in_doubt(&self) -> bool {
        self.lock().orders.contains(&Order::Recheck)
    }

    /// What the task does next: what the others are refused or allowed by comes first.
    pub(super) fn next_order(&self) -> Option<Order> {
        let orders = &mut self.lock().orders;
        let at = orders.iter().position(|order| *order == Order::Recheck).unwrap_or(0);
        (at < orders.len()).then(|| orders.remove(at))
    }

    /// The server has moved the end of the connection; absent: it ends now. The client is told that end, and has the usual grace after
    /// it to fetch another token.
    fn prolong_connection(&self, expire_at: Option<i64>) {
        let Some(at) = expire_at else { return self.close(Disconnect::Expired) };
        let left = u64::try_from(at.saturating_sub(OffsetDateTime::now_utc().unix_timestamp())).unwrap_or(0);
        let ttl = u32::try_from(left).unwrap_or(u32::MAX);
        let ends = now().saturating_add(millis(std::time::Duration::from_secs(left))).saturating_add(self.grace);
        let mut inner = self.lock();
        inner.clock.expires_at = if at == 0 { NEVER } else { ends };
        if self.wire == Wire::Pusher || inner.closing.is_some() {
            return;
        }
        let push = self.wire.push(About::Connection, &RefreshPush { expires: at != 0, ttl });
        if inner.outbox.push(push, self.queue_bytes).is_err() {
            self.close_locked(&mut inner, Disconnect::Slow);
        }
    }
}
