//! Who is on a channel, as a client asks it, and what others see of this one.

use std::{collections::HashSet, sync::Arc};

use bytes::Bytes;
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

/// Members that are asked for at once: what the store reads in one step without making others wait.
const PAGE: usize = 512;

/// What a grant lets others see, where it is something that can be shown: in JSON, and in one line, for it goes to everybody.
pub(super) fn shown_info(info: Option<&Bytes>) -> Option<Bytes> {
    info.filter(|info| is_json(info)).cloned().map(in_one_line)
}

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
        let info = ClientInfo {
            user: identity.map_or_else(|| "".into(), |identity| Arc::clone(&identity.user)),
            client: self.session.client_name().into(),
            conn_info: shown_info(identity.and_then(|identity| identity.info.as_ref())),
            chan_info: shown_info(grant.info.as_ref()),
        };
        Some(Arc::new(Member { info, told, shown }))
    }

    pub(super) async fn presence(&self, id: u32, channel: &str) -> Answer {
        let channel = self.may_see(channel)?;
        let all = tokio::time::timeout(self.hub.limits.command, self.all_members(channel)).await;
        let all = all.map_err(|_| Refusal::Error(ErrorCode::Internal))??;
        let clients = all.iter().filter(|member| member.shown).map(|member| &member.info).collect();
        Ok(self.encode(id, &PresenceResult { clients }))
    }

    /// Everybody on a channel. The protocol has no second page: a part of them would be taken for all, so where there are more
    /// than one answer may hold, nobody is told.
    async fn all_members(&self, channel: Arc<str>) -> Result<Vec<Arc<Member>>, Refusal> {
        let most = self.hub.limits.presence;
        let (mut seen, mut all, mut from) = (HashSet::new(), Vec::new(), 0);
        loop {
            let channel = Arc::clone(&channel);
            let ask = |reply| PresenceMessage::Members { channel, from, limit: most.min(PAGE), reply };
            let page = self.asked(self.hub.presence.call(ask, self.hub.limits.command).await)?;
            // One may stand in two pages.
            all.extend(page.members.into_iter().filter(|member| seen.insert(Arc::clone(&member.info.client))));
            if page.counts.clients > most as u64 || all.len() > most {
                return Err(Refusal::Error(ErrorCode::LimitExceeded));
            }
            match page.next {
                Some(next) => from = next,
                None => return Ok(all),
            }
        }
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
        let Some(identity) = &self.identity else { return Err(Refusal::Error(ErrorCode::PermissionDenied)) };
        match self.hub.namespaces.may_see(&name, identity, self.session.has(&name)) {
            None => Err(Refusal::Error(ErrorCode::NotAvailable)),
            Some(false) => Err(Refusal::Error(ErrorCode::PermissionDenied)),
            Some(true) => Ok(name),
        }
    }

    fn asked<T, E, F>(&self, answer: Result<Result<T, E>, F>) -> Result<T, Refusal> {
        match answer {
            Ok(Ok(answer)) => Ok(answer),
            _ => Err(Refusal::Error(ErrorCode::Internal)),
        }
    }
}
