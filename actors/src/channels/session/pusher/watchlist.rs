//! Watchlists: which of the users that a client watches are online, on whichever node, when it signs in and from then on.
//!
//! That a user is online is presence on a channel of the hub's own; whoever watches listens there, first, and then asks how it stands. So
//! nothing falls between, and what is said twice is told once. Invariants: a client watches at most [`MAX_WATCHLIST`] users; these
//! subscriptions are neither counted nor shown as the client's own, and no order ends them. Whoever cannot be heard of or asked about
//! now is watched all the same: topics ask again.

use std::{collections::HashSet, sync::Arc};

use dzvin_protocols::channels::{
    Epoch,
    centrifuge::ClientInfo,
    pusher::{MAX_WATCHLIST, UserId, encode_error, encode_watchlist_events},
};
use futures_util::future::join_all;

use super::Conversation;
use crate::{
    channels::{
        App,
        presence::PresenceMessage,
        session::{Online, live::Terms, subscriptions::Going},
        shard::ShardMessage,
    },
    platform::ports::{Bus, ChangeLog, Member},
};

impl<B: Bus, L: ChangeLog> Conversation<B, L> {
    /// Says that the user of this connection is online, and tells it who else is.
    pub(super) async fn watch(&mut self, app: &App, watchlist: &[UserId]) {
        self.go_online(app).await;
        let mut seen = HashSet::new();
        let room = MAX_WATCHLIST.saturating_sub(self.session.watched());
        let fresh = watchlist.iter().filter_map(|id| {
            let channel: Arc<str> = app.online_channel(id).to_string().into();
            (seen.insert(id) && !self.session.has(&channel)).then_some((id, channel))
        });
        let fresh: Vec<_> = fresh.take(room).collect();
        if fresh.is_empty() {
            return;
        }
        let asked = join_all(fresh.iter().map(|(id, channel)| self.listen_to(app, id, channel))).await;
        let (mut online, mut offline, mut going) = (Vec::new(), Vec::new(), Vec::new());
        let whole = asked.iter().all(Option::is_some);
        for ((id, _), found) in fresh.into_iter().zip(asked) {
            let Some(found) = found else { continue };
            match found.online {
                Some(true) => online.push(id.clone()),
                Some(false) => offline.push(id.clone()),
                None => {}
            }
            going.push(found);
        }
        if !going.is_empty() {
            let told = encode_watchlist_events(&online, &offline);
            let told: &[&[u8]] = &[told.as_bytes()];
            let known = !(online.is_empty() && offline.is_empty());
            self.settle_all(going, if known { told } else { &[] }).await;
        }
        if !whole {
            let text = "not everybody of the watchlist can be watched now; sign in again for the rest";
            self.tell(encode_error(None, text).as_bytes());
        }
    }

    /// Listens to what is said of a user, and then asks whether it is there. `None` when the shard does not take it in.
    async fn listen_to(&self, app: &App, id: &UserId, channel: &Arc<str>) -> Option<Going> {
        let terms = Terms { watching: true, granted: true, join_leave: true, ..Terms::default() };
        if !self.session.begin(channel, terms) {
            return None;
        }
        let attached = self.listen(&app.online_channel(id), channel, false, None).await;
        if !self.session.is_seated(channel) {
            self.undo(channel).await;
            return None;
        }
        let mut going = Going { channel: Arc::clone(channel), epoch: Epoch::new(""), from: 0, seen: 0, online: None };
        // While it is not heard, whatever is answered may be over before the client is told.
        if attached.is_ok() {
            let about = Arc::clone(channel);
            let ask = |reply| PresenceMessage::Stats { channel: about, reply };
            let counts = self.hub.presence.call(ask, self.hub.limits.command).await;
            going.online = counts.ok().and_then(Result::ok).map(|counts| counts.clients > 0);
        }
        Some(going)
    }

    /// From now on, and until this connection ends, its user is online. Said again it changes nothing.
    async fn go_online(&self, app: &App) {
        let Some(user) = self.talk.as_ref().and_then(|talk| talk.user.as_ref()) else { return };
        if self.session.online().is_some() {
            return;
        }
        let info = ClientInfo {
            user: app.user(&user.member.id),
            client: self.session.client_name().into(),
            conn_info: None,
            chan_info: None,
        };
        let member = Arc::new(Member { info, told: true, shown: true });
        self.session.goes_online(Online { channel: app.online_channel(&user.member.id).to_string().into(), member });
        let Some(shard) = self.hub.shards.get(self.shard) else { return };
        let say = |reply| ShardMessage::Online(Arc::clone(&self.session).into(), reply);
        if shard.slot.call(say, self.hub.limits.command).await.is_err() {
            tracing::warn!(client = %self.socket(), user = self.session.user(), "shard did not note that a user is online");
        }
    }
}
