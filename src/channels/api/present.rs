//! Methods that say who is there.

use std::sync::Arc;

use dzvin_actors::platform::ports::Presence;
use dzvin_protocols::channels::centrifuge::{ErrorCode, Form, PresenceResult, PresenceStatsResult, or_default};
use serde::Deserialize;

use super::{
    Refusal, json,
    methods::{Call, away, parse},
};

#[derive(Deserialize)]
struct OfChannel {
    channel: String,
    /// Where the last page ended.
    #[serde(default, deserialize_with = "or_default")]
    cursor: u64,
    limit: Option<usize>,
}

#[derive(Deserialize)]
struct Named {
    /// The beginning of the names; `*` at its end is understood, and alone means all.
    #[serde(default, deserialize_with = "or_default")]
    pattern: String,
    /// The last name of the page before.
    after: Option<String>,
    limit: Option<usize>,
}

impl Call<'_> {
    /// Who is on a channel. A large one comes in pages: `cursor` of one answer is asked for with the next.
    pub(super) async fn presence(&self, body: &[u8]) -> Result<String, Refusal> {
        let OfChannel { channel, cursor, limit } = parse(body)?;
        let stream = self.shown(&channel)?;
        let limit = self.page(limit);
        let page = self.api.presence.members(&stream, cursor, limit).await.map_err(away)?;
        let clients = page.members.iter().filter(|member| member.shown).map(|member| &member.info).collect();
        let mut out = Vec::new();
        Form::Json.result(&mut out, &PresenceResult { clients });
        let mut result = String::from_utf8(out).map_err(|_| ErrorCode::Internal)?;
        if let Some(next) = page.next {
            result.truncate(result.len().saturating_sub(1));
            result.push_str(&format!(",\"cursor\":{next}}}"));
        }
        Ok(result)
    }

    /// How much of what was asked for one answer holds; the next page goes on behind it.
    fn page(&self, limit: Option<usize>) -> usize {
        limit.unwrap_or(self.api.limits.page).clamp(1, self.api.limits.page)
    }

    /// How many are on a channel.
    pub(super) async fn presence_stats(&self, body: &[u8]) -> Result<String, Refusal> {
        let OfChannel { channel, .. } = parse(body)?;
        let counts = self.api.presence.counts(&self.shown(&channel)?).await.map_err(away)?;
        let number = |n| u32::try_from(n).unwrap_or(u32::MAX);
        let result = PresenceStatsResult { num_clients: number(counts.clients), num_users: number(counts.users) };
        let mut out = Vec::new();
        Form::Json.result(&mut out, &result);
        String::from_utf8(out).map_err(|_| ErrorCode::Internal.into())
    }

    fn shown(&self, channel: &str) -> Result<dzvin_protocols::platform::StreamName, Refusal> {
        let stream = self.stream("presence", channel)?;
        match self.api.namespaces.of(channel).presence {
            Some(_) => Ok(stream),
            None => Err(ErrorCode::NotAvailable.into()),
        }
    }

    /// Channels that have subscribers, in the order of their names.
    pub(super) async fn channels(&self, body: &[u8]) -> Result<String, Refusal> {
        let Named { pattern, after, limit } = parse(body)?;
        if !self.api.occupancy {
            return Err(ErrorCode::NotAvailable.into());
        }
        let prefix = pattern.strip_suffix('*').unwrap_or(&pattern);
        if prefix.contains('*') {
            return Err(ErrorCode::BadRequest.into());
        }
        if !self.caller.permissions.allow("channels", "list", prefix) {
            return Err(ErrorCode::PermissionDenied.into());
        }
        let limit = self.page(limit);
        let page = self.api.presence.channels(prefix, after.as_deref(), limit).await.map_err(away)?;
        let one = |(name, count): &(Arc<str>, u64)| format!("{}:{{\"num_clients\":{count}}}", json(name));
        let channels: Vec<String> = page.iter().map(one).collect();
        Ok(format!("{{\"channels\":{{{}}}}}", channels.join(",")))
    }
}
