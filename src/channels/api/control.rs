//! Methods that have all nodes do something with the connections of a user.

use std::sync::Arc;

use dzvin_actors::platform::ports::Bus;
use dzvin_protocols::channels::{
    Channel, Control, Whose,
    centrifuge::{Disconnect, ErrorCode, Unsubscribe, is_custom_close},
};
use serde::Deserialize;

use super::{
    Refusal,
    methods::{Call, away, parse},
};

/// Most clients that a disconnect may spare.
const MAX_SPARED: usize = 1000;

#[derive(Deserialize)]
struct Ended {
    #[serde(default)]
    user: Arc<str>,
    client: Option<Arc<str>>,
    #[serde(default)]
    whitelist: Vec<Arc<str>>,
    disconnect: Option<Custom>,
}

#[derive(Deserialize)]
struct Custom {
    code: u16,
    #[serde(default)]
    reason: Arc<str>,
}

#[derive(Deserialize)]
struct OfChannel {
    #[serde(default)]
    user: Arc<str>,
    client: Option<Arc<str>>,
    #[serde(default)]
    channel: Arc<str>,
}

#[derive(Deserialize)]
struct Refreshed {
    #[serde(default)]
    user: Arc<str>,
    client: Option<Arc<str>>,
    #[serde(default)]
    expired: bool,
    expire_at: Option<i64>,
}

impl Call<'_> {
    /// Closes the connections of a user, with a code of the application's own if one is given.
    pub(super) async fn disconnect(&self, body: &[u8]) -> Result<String, Refusal> {
        let Ended { user, client, whitelist, disconnect } = parse(body)?;
        if whitelist.len() > MAX_SPARED {
            return Err(ErrorCode::LimitExceeded.into());
        }
        let whose = Whose { except: whitelist, ..self.of(user, client, "disconnect")? };
        let (code, reason) = match disconnect {
            None => (Disconnect::ForceDisconnect.code(), Disconnect::ForceDisconnect.reason().into()),
            Some(Custom { code, .. }) if code == Disconnect::ConnectionClosed.code() => {
                // What a connection is counted under that nobody closed: it is never written.
                return Err(ErrorCode::BadRequest.into());
            }
            Some(Custom { code, reason }) => match Disconnect::ALL.iter().find(|why| why.code() == code) {
                Some(why) => (code, why.reason().into()),
                None if is_custom_close(code, &reason) => (code, reason),
                None => return Err(ErrorCode::BadRequest.into()),
            },
        };
        self.have(Control::Disconnect { whose, code, reason }).await
    }

    /// Ends the subscriptions of a user to a channel.
    pub(super) async fn unsubscribe(&self, body: &[u8]) -> Result<String, Refusal> {
        let OfChannel { user, client, channel } = parse(body)?;
        let whose = self.of(user, client, "unsubscribe")?;
        let channel = self.channel("unsubscribe", &channel)?;
        let why = Unsubscribe::Server;
        let order =
            Control::Unsubscribe { whose, channel: Some(channel), code: why.code(), reason: why.reason().into() };
        self.have(order).await
    }

    /// Subscribes the connections of a user to a channel.
    pub(super) async fn subscribe(&self, body: &[u8]) -> Result<String, Refusal> {
        let OfChannel { user, client, channel } = parse(body)?;
        let whose = self.of(user, client, "subscribe")?;
        let channel = self.channel("subscribe", &channel)?;
        self.have(Control::Subscribe { whose, channel }).await
    }

    /// Moves the end of the connections of a user.
    pub(super) async fn refresh(&self, body: &[u8]) -> Result<String, Refusal> {
        let Refreshed { user, client, expired, expire_at } = parse(body)?;
        let whose = self.of(user, client, "refresh")?;
        let expire_at = if expired { None } else { Some(expire_at.unwrap_or(0)) };
        self.have(Control::Refresh { whose, expire_at }).await
    }

    /// Connections of nobody are all of one user: an order to them names a client.
    fn of(&self, user: Arc<str>, client: Option<Arc<str>>, action: &str) -> Result<Whose, Refusal> {
        if user.is_empty() && client.is_none() {
            return Err(ErrorCode::BadRequest.into());
        }
        if !self.caller.permissions.allow("connections", action, "*") {
            return Err(ErrorCode::PermissionDenied.into());
        }
        let user = Some(user).filter(|user| !user.is_empty());
        Ok(Whose { user, client, except: Vec::new() })
    }

    fn channel(&self, action: &str, channel: &str) -> Result<Arc<str>, Refusal> {
        match Channel::parse(channel) {
            Ok(Channel::Application(name)) if self.caller.permissions.allow("channels", action, &name) => Ok(name),
            Ok(_) => Err(ErrorCode::PermissionDenied.into()),
            Err(_) => Err(ErrorCode::BadRequest.into()),
        }
    }

    async fn have(&self, order: Control) -> Result<String, Refusal> {
        self.api.bus.tell(None, order.encode()).await.map_err(away)?;
        Ok("{}".to_owned())
    }
}
