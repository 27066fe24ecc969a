//! Who is on a channel, as a client asks it, and what others see of this one.

use std::sync::Arc;

use dzvin_protocols::channels::{
    Channel,
    centrifuge::{ClientInfo, ErrorCode, PresenceResult, PresenceStatsResult, is_json},
    in_one_line,
};

use super::commands::{Answer, Conversation, Refusal};
use crate::{
    channels::presence::PresenceMessage,
    platform::ports::{Bus, ChangeLog, Member, SubscriptionGrant},
};

/// Clients of one answer: above it a channel is crowded, and its members are counted, not listed.
const MAX_LISTED: usize = 1_000;

impl<B: Bus, L: ChangeLog> Conversation<B, L> {
    /// What others see of this client on a channel, where they see who is there.
    pub(super) fn member(&self, channel: &Channel, grant: &SubscriptionGrant) -> Option<Arc<Member>> {
        if let Some(talk) = &self.talk {
            return talk.entering();
        }
        let Channel::Application(name) = channel else { return None };
        let rules = self.hub.namespaces.of(name);
        let shown = grant.overrides.presence.unwrap_or(rules.presence.is_some());
        let told = grant.overrides.join_leave.unwrap_or(rules.join_leave);
        if !shown && !told {
            return None;
        }
        let identity = self.identity.as_ref();
        // In JSON, and in one line, it goes to everybody.
        let usable = |info: &bytes::Bytes| is_json(info);
        let info = ClientInfo {
            user: identity.map_or_else(|| "".into(), |identity| Arc::clone(&identity.user)),
            client: self.session.client_name().into(),
            conn_info: identity.and_then(|identity| identity.info.clone()).filter(usable).map(in_one_line),
            chan_info: grant.info.clone().filter(usable).map(in_one_line),
        };
        Some(Arc::new(Member { info, told, shown }))
    }

    pub(super) async fn presence(&self, id: u32, channel: &str) -> Answer {
        let channel = self.may_see(channel)?;
        let ask = |reply| PresenceMessage::Members { channel, from: 0, limit: MAX_LISTED, reply };
        let page = self.asked(self.hub.presence.call(ask, self.hub.limits.command).await)?;
        let shown = page.members.iter().filter(|member| member.shown);
        let clients = shown.take(MAX_LISTED).map(|member| &member.info).collect();
        Ok(self.encode(id, &PresenceResult { clients }))
    }

    pub(super) async fn presence_stats(&self, id: u32, channel: &str) -> Answer {
        let channel = self.may_see(channel)?;
        let ask = |reply| PresenceMessage::Stats { channel, reply };
        let counts = self.asked(self.hub.presence.call(ask, self.hub.limits.command).await)?;
        let number = |n| u32::try_from(n).unwrap_or(u32::MAX);
        let result = PresenceStatsResult { num_clients: number(counts.clients), num_users: number(counts.users) };
        Ok(self.encode(id, &result))
    }

    /// The channel, when this client may see who is there.
    fn may_see(&self, channel: &str) -> Result<Arc<str>, Refusal> {
        let Ok(Channel::Application(name)) = Channel::parse(channel) else {
            return Err(Refusal::Error(ErrorCode::NotAvailable));
        };
        let Some(access) = self.hub.namespaces.of(&name).presence else {
            return Err(Refusal::Error(ErrorCode::NotAvailable));
        };
        let allowed = self.identity.as_ref().is_some_and(|identity| {
            access.admits(identity) || identity.permissions.allow("channels", "presence", &name)
        });
        if allowed { Ok(name) } else { Err(Refusal::Error(ErrorCode::PermissionDenied)) }
    }

    fn asked<T, E, F>(&self, answer: Result<Result<T, E>, F>) -> Result<T, Refusal> {
        match answer {
            Ok(Ok(answer)) => Ok(answer),
            _ => Err(Refusal::Error(ErrorCode::Internal)),
        }
    }
}
