//! Methods that have all nodes do something with the connections of a user, or with one of them.

use std::sync::Arc;

use bytes::Bytes;
use dzvin_actors::platform::ports::Bus;
use dzvin_protocols::{
    channels::{
        Channel, ClientName, Control, SessionSecret, Since, Subscribing, Whose,
        centrifuge::{Disconnect, ErrorCode, Unsubscribe, is_custom_close, is_json, or_default},
        in_one_line,
    },
    identity::{Overrides, SubscriptionOptions},
};
use serde::Deserialize;
use serde_json::value::RawValue;
use time::OffsetDateTime;

use super::{
    Refusal,
    methods::{Call, away, parse},
};
use crate::channels::bus::MAX_WORD;

/// Most clients that a disconnect may spare.
const MAX_SPARED: usize = 1000;

/// Who is meant: the connections of a user, or one of them by its client or by its session. What is empty is not given.
#[derive(Deserialize)]
struct Named {
    #[serde(default, deserialize_with = "or_default")]
    user: Arc<str>,
    client: Option<Arc<str>>,
    session: Option<SessionSecret>,
}

#[derive(Deserialize)]
struct Ended {
    #[serde(flatten)]
    named: Named,
    #[serde(default, deserialize_with = "or_default")]
    whitelist: Vec<Arc<str>>,
    disconnect: Option<Custom>,
}

#[derive(Deserialize)]
struct Custom {
    code: u16,
    #[serde(default, deserialize_with = "or_default")]
    reason: Arc<str>,
}

#[derive(Deserialize)]
struct OfChannel {
    #[serde(flatten)]
    named: Named,
    #[serde(default, deserialize_with = "or_default")]
    channel: Arc<str>,
}

#[derive(Deserialize)]
struct Subscribed {
    #[serde(flatten)]
    named: Named,
    #[serde(default, deserialize_with = "or_default")]
    channel: Arc<str>,
    info: Option<Box<RawValue>>,
    b64info: Option<String>,
    data: Option<Box<RawValue>>,
    b64data: Option<String>,
    expire_at: Option<i64>,
    recover_since: Option<Since>,
    #[serde(rename = "override")]
    overrides: Option<Overrides>,
}

#[derive(Deserialize)]
struct Refreshed {
    #[serde(flatten)]
    named: Named,
    #[serde(default, deserialize_with = "or_default")]
    expired: bool,
    expire_at: Option<i64>,
}

impl Call<'_> {
    /// Closes the connections of a user, with a code of the application's own if one is given.
    pub(super) async fn disconnect(&self, body: &[u8]) -> Result<String, Refusal> {
        let Ended { named, whitelist, disconnect } = parse(body)?;
        if whitelist.len() > MAX_SPARED {
            return Err(ErrorCode::LimitExceeded.into());
        }
        let whose = Whose { except: whitelist, ..self.of(&named, "disconnect")? };
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
        let OfChannel { named, channel } = parse(body)?;
        let whose = self.of(&named, "unsubscribe")?;
        let channel = self.channel("unsubscribe", &channel)?;
        let why = Unsubscribe::Server;
        let order =
            Control::Unsubscribe { whose, channel: Some(channel), code: why.code(), reason: why.reason().into() };
        self.have(order).await
    }

    /// Subscribes the connections of a user to a channel.
    pub(super) async fn subscribe(&self, body: &[u8]) -> Result<String, Refusal> {
        let asked: Subscribed = parse(body)?;
        let whose = self.of(&asked.named, "subscribe")?;
        let channel = self.channel("subscribe", &asked.channel)?;
        let terms = Some(asked.terms()?).filter(|terms| *terms != Subscribing::default()).map(Box::new);
        self.have(Control::Subscribe { whose, channel, terms }).await
    }

    /// Moves the end of the connections of a user.
    pub(super) async fn refresh(&self, body: &[u8]) -> Result<String, Refusal> {
        let Refreshed { named, expired, expire_at } = parse(body)?;
        let whose = self.of(&named, "refresh")?;
        let expire_at = if expired { None } else { Some(expire_at.unwrap_or(0)) };
        self.have(Control::Refresh { whose, expire_at }).await
    }

    /// Connections of nobody are all of one user: an order to them names one of them.
    fn of(&self, named: &Named, action: &str) -> Result<Whose, Refusal> {
        let user = Some(&named.user).filter(|user| !user.is_empty()).cloned();
        let client = named.client.as_deref().filter(|client| !client.is_empty());
        let session = named.session.as_ref().filter(|session| !session.expose().is_empty());
        let client = match (client, session) {
            // One of them says which connection it is; what the other says could only be wrong.
            (Some(_), Some(_)) => return Err(ErrorCode::BadRequest.into()),
            (Some(client), None) => Some(ClientName::id(client).ok_or(ErrorCode::BadRequest)?),
            (None, session) => session.map(ClientName::of_session),
        };
        if user.is_none() && client.is_none() {
            return Err(ErrorCode::BadRequest.into());
        }
        if !self.caller.permissions.allow("connections", action, "*") {
            return Err(ErrorCode::PermissionDenied.into());
        }
        Ok(Whose { user, client, except: Vec::new() })
    }

    fn channel(&self, action: &str, channel: &str) -> Result<Arc<str>, Refusal> {
        match Channel::parse(channel) {
            Ok(Channel::Application(name)) if name.len() > self.api.limits.name => Err(ErrorCode::BadRequest.into()),
            Ok(Channel::Application(name)) if self.caller.permissions.allow("channels", action, &name) => Ok(name),
            Ok(_) => Err(ErrorCode::PermissionDenied.into()),
            Err(_) => Err(ErrorCode::BadRequest.into()),
        }
    }

    async fn have(&self, order: Control) -> Result<String, Refusal> {
        let order = order.encode();
        if order.len() > MAX_WORD {
            return Err(ErrorCode::LimitExceeded.into());
        }
        self.api.bus.tell(None, order).await.map_err(away)?;
        Ok("{}".to_owned())
    }
}

impl Subscribed {
    /// What the subscription is to be. Subscribers of the JSON form can take nothing but JSON, and nobody knows who there will be.
    fn terms(self) -> Result<Subscribing, Refusal> {
        let Self { info, b64info, data, b64data, expire_at, recover_since, overrides, .. } = self;
        let overrides = overrides.unwrap_or_default();
        let options = SubscriptionOptions { info, b64info, data, b64data, overrides };
        options.check().map_err(|_| ErrorCode::BadRequest)?;
        let expire_at = expire_at.filter(|at| *at != 0);
        if expire_at.is_some_and(|at| at <= OffsetDateTime::now_utc().unix_timestamp()) {
            return Err(ErrorCode::Expired.into());
        }
        let (info, data) = (shown(options.info_bytes())?, shown(options.data_bytes())?);
        Ok(Subscribing { info, data, expire_at, since: recover_since, overrides })
    }
}

fn shown(bytes: Option<Bytes>) -> Result<Option<String>, Refusal> {
    let Some(bytes) = bytes.filter(|bytes| *bytes != "null") else { return Ok(None) };
    if !is_json(&bytes) {
        return Err(ErrorCode::BadRequest.into());
    }
    String::from_utf8(in_one_line(bytes).into()).map(Some).map_err(|_| ErrorCode::BadRequest.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Names that many bodies have are read by way of a copy; beside them everything stays as it was written.
    #[test]
    fn one_is_named_in_every_body_and_the_rest_stays_as_it_was_written() {
        let body = r#"{"later":[1],"info":{"n":1.50},"user":"u","data":[1e400],"session":"s3cret","channel":"c","expire_at":7}"#;
        let Subscribed { named, channel, info, data, expire_at, .. } = serde_json::from_str(body).expect("a body");
        assert_eq!((&*named.user, named.client, &*channel, expire_at), ("u", None, "c", Some(7)));
        assert_eq!(named.session.as_ref().map(SessionSecret::expose), Some("s3cret"));
        let text = |raw: Option<Box<RawValue>>| raw.map(|raw| raw.get().to_owned());
        assert_eq!((text(info).as_deref(), text(data).as_deref()), (Some(r#"{"n":1.50}"#), Some("[1e400]")));
        let Refreshed { named, expired, .. } = serde_json::from_str(r#"{"client":"a1"}"#).expect("a body");
        assert_eq!((&*named.user, named.client.as_deref(), named.session, expired), ("", Some("a1"), None, false));
        for wrong in [r#"{"user":1}"#, r#"{"user":"a","user":"b"}"#, r#"{"client":["a"]}"#, r#"{"session":{}}"#] {
            assert!(serde_json::from_str::<OfChannel>(wrong).is_err(), "{wrong}");
        }
    }
}
