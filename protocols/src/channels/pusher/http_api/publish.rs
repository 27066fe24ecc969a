//! `POST /apps/{id}/events` and `/batch_events`: what is published, and the answers.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{ApiError, Attribute, ChannelInfo, Info, channels::ByName};
use crate::channels::pusher::{Guard, MAX_DATA, MAX_EVENT, Name, SocketId, json, text_of};

/// How much may be published by one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublishLimits {
    /// Bytes of the data of one event.
    pub data: usize,
    /// Channels of one event.
    pub channels: usize,
    /// Events of one batch.
    pub batch: usize,
}

impl Default for PublishLimits {
    /// Those of the hosted service.
    fn default() -> Self {
        Self { data: MAX_DATA, channels: 100, batch: 10 }
    }
}

/// One event to be published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publish {
    /// The event's name.
    pub name: String,
    /// What subscribers receive, as text.
    pub data: String,
    /// Where, each once, in the order of the request.
    pub channels: Vec<Name>,
    /// The connection that is left out: whose action this was.
    pub socket_id: Option<SocketId>,
    /// What the answer tells of each channel that has it.
    pub info: Info,
}

#[derive(Deserialize)]
struct Wire<'a> {
    name: String,
    // The libraries send text; a value is passed on as it is written.
    #[serde(borrow)]
    data: &'a RawValue,
    #[serde(default)]
    channel: Option<String>,
    #[serde(default)]
    channels: Option<Vec<String>>,
    #[serde(default)]
    socket_id: Option<String>,
    #[serde(default)]
    info: Option<String>,
}

/// Reads the body of `events`.
///
/// # Errors
/// [`ApiError`] with the answer's status.
pub fn parse_events(body: &[u8], limits: &PublishLimits) -> Result<Publish, ApiError> {
    read::<Wire>(body)?.check(limits)
}

/// Reads the body of `batch_events`. One bad event refuses the batch, before anything is published.
///
/// # Errors
/// [`ApiError`] with the answer's status.
pub fn parse_batch(body: &[u8], limits: &PublishLimits) -> Result<Vec<Publish>, ApiError> {
    #[derive(Deserialize)]
    struct Batch<'a> {
        #[serde(borrow)]
        batch: Vec<&'a RawValue>,
    }
    let Batch { batch } = read(body)?;
    if !(1..=limits.batch).contains(&batch.len()) {
        return Err(ApiError::Batch(limits.batch));
    }
    let one = |event: &RawValue| {
        let event: Wire = read(event.get().as_bytes())?;
        if event.channels.is_some() { Err(ApiError::Channels(1)) } else { event.check(limits) }
    };
    batch.into_iter().map(one).collect()
}

fn read<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, ApiError> {
    // serde would read a struct from an array too; a request is an object.
    if body.trim_ascii_start().first() != Some(&b'{') {
        return Err(ApiError::Body("not an object".to_owned()));
    }
    serde_json::from_slice(body).map_err(|error| ApiError::Body(error.to_string()))
}

impl Wire<'_> {
    fn check(self, limits: &PublishLimits) -> Result<Publish, ApiError> {
        let names = match (self.channel, self.channels) {
            (Some(one), None) => vec![one],
            (None, Some(many)) => many,
            _ => return Err(ApiError::Channels(limits.channels)),
        };
        if !(1..=limits.channels).contains(&names.len()) {
            return Err(ApiError::Channels(limits.channels));
        }
        let mut channels: Vec<Name> = Vec::with_capacity(names.len());
        for name in names {
            let channel = match Name::parse(&name) {
                Ok(channel) if channel.is_reserved() => return Err(ApiError::Hubs(name)),
                Ok(channel) => channel,
                Err(error) => return Err(ApiError::Name { name, error }),
            };
            if !channels.contains(&channel) {
                channels.push(channel);
            }
        }
        if channels.len() > 1 && channels.iter().any(|channel| channel.kind().guard == Guard::Encrypted) {
            return Err(ApiError::Encrypted);
        }
        // A secret is not enough to speak as the protocol itself.
        if self.name.is_empty() || self.name.len() > MAX_EVENT || is_protocols(&self.name) {
            return Err(ApiError::EventName);
        }
        let data = text_of(self.data);
        if data.len() > limits.data {
            return Err(ApiError::LargeData(limits.data));
        }
        let info = Info::parse(self.info.as_deref().unwrap_or_default())?;
        if info.has(Attribute::Cache) {
            return Err(ApiError::Attribute(Attribute::Cache.as_str()));
        }
        Ok(Publish {
            data: data.into_owned(),
            channels,
            socket_id: match self.socket_id.filter(|id| !id.is_empty()) {
                Some(id) => Some(SocketId::parse(&id).ok_or(ApiError::SocketId)?),
                None => None,
            },
            info,
            name: self.name,
        })
    }
}

fn is_protocols(event: &str) -> bool {
    event.starts_with("pusher:") || event.starts_with("pusher_internal:")
}

/// The answer to `events`: `{}`, or what was asked about each channel.
#[must_use]
pub fn encode_published(infos: &[(&Name, ChannelInfo<'_>)]) -> String {
    #[derive(Serialize)]
    struct Answer<'a> {
        #[serde(skip_serializing_if = "Option::is_none")]
        channels: Option<ByName<'a>>,
    }
    json(&Answer { channels: (!infos.is_empty()).then_some(ByName(infos)) })
}

/// The answer to `batch_events`: `{}`, or what was asked about the channel of each event, in the order of the request; an
/// event that asked nothing has an empty object.
#[must_use]
pub fn encode_batch(infos: &[ChannelInfo<'_>]) -> String {
    #[derive(Serialize)]
    struct Answer<'a> {
        #[serde(skip_serializing_if = "<[_]>::is_empty")]
        batch: &'a [ChannelInfo<'a>],
    }
    json(&Answer { batch: infos })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::channels::pusher::NameError;

    fn small() -> PublishLimits {
        PublishLimits { data: 20, ..PublishLimits::default() }
    }

    fn events(body: &str) -> Result<Publish, ApiError> {
        parse_events(body.as_bytes(), &small())
    }

    fn names(publish: &Publish) -> Vec<&str> {
        publish.channels.iter().map(Name::as_str).collect()
    }

    #[test]
    fn an_event_is_read() {
        let body = r#"{"name":"foo","channels":["a","private-b","a"],"data":"{\"some\":1.50}","socket_id":"1.2","info":"user_count,subscription_count"}"#;
        let it = events(body).expect("an event");
        assert_eq!((&*it.name, &*it.data, names(&it)), ("foo", r#"{"some":1.50}"#, vec!["a", "private-b"]));
        assert_eq!(it.socket_id, SocketId::parse("1.2"));
        assert!(it.info.has(Attribute::UserCount) && !it.info.has(Attribute::Cache));
        let it =
            events(r##" {"name":"foo","channel":"#server-to-user-7","data":{"n": 1.50},"socket_id":null,"new":1}"##)
                .expect("an event");
        assert_eq!((&*it.data, names(&it)), (r#"{"n": 1.50}"#, vec!["#server-to-user-7"]));
    }

    #[test]
    fn what_is_wrong_has_a_status() {
        let with =
            |members: &str| events(&format!("{{\"name\":\"foo\",\"data\":\"x\",{members}}}")).expect_err(members);
        let many = |n: usize| format!("\"channels\":[{}]", vec!["\"a\""; n].join(","));
        assert!(events(&format!("{{\"name\":\"foo\",\"data\":\"x\",{}}}", many(100))).is_ok());
        assert_eq!(with(&many(101)), ApiError::Channels(100));
        assert_eq!(with(&many(0)), ApiError::Channels(100));
        assert_eq!(with(r#""info":"""#), ApiError::Channels(100));
        assert_eq!(with(r#""channel":"a","channels":["a"]"#), ApiError::Channels(100));
        assert_eq!(with(r#""channel":"a b""#), ApiError::Name { name: "a b".into(), error: NameError::Malformed });
        assert_eq!(
            with(r#""channel":"private-entities.procedure""#),
            ApiError::Hubs("private-entities.procedure".into())
        );
        assert_eq!(
            with(r#""channel":"entities.procedure""#),
            ApiError::Name { name: "entities.procedure".into(), error: NameError::Reserved }
        );
        assert_eq!(with(r#""channels":["private-encrypted-a","b"]"#), ApiError::Encrypted);
        assert_eq!(with(r#""channel":"a","socket_id":"x""#), ApiError::SocketId);
        assert_eq!(with(r#""channel":"a","info":"nothing""#), ApiError::UnknownAttribute("nothing".into()));
        assert_eq!(with(r#""channel":"cache-a","info":"cache""#), ApiError::Attribute("cache"));
        for name in ["", "pusher:error", "pusher_internal:x", &"x".repeat(201)] {
            let body = format!("{{\"name\":\"{name}\",\"data\":\"x\",\"channel\":\"a\"}}");
            assert_eq!(events(&body), Err(ApiError::EventName), "{name}");
        }
        let large = events(&format!("{{\"name\":\"a\",\"channel\":\"a\",\"data\":\"{}\"}}", "x".repeat(21)));
        assert_eq!(large.map_err(|error| error.status()), Err(413));
        for body in ["", "[]", "{}", "null", r#"{"name":"a","channel":"a"}"#, r#"{"name":1,"channel":"a","data":""}"#] {
            assert_eq!(events(body).map_err(|error| error.status()), Err(400), "{body}");
        }
        assert!(parse_events(b"{\"name\":\"\xff\",\"channel\":\"a\",\"data\":\"\"}", &small()).is_err());
    }

    #[test]
    fn a_batch_is_all_or_nothing() {
        let event = r#"{"name":"a","channel":"x","data":"d"}"#;
        let batch = |n: usize, last: &str| {
            let mut all = vec![event; n];
            all.push(last);
            parse_batch(format!("{{\"batch\":[{}]}}", all.join(",")).as_bytes(), &small())
        };
        assert_eq!(batch(9, event).map(|all| all.len()), Ok(10));
        assert_eq!(batch(10, event), Err(ApiError::Batch(10)));
        assert_eq!(parse_batch(br#"{"batch":[]}"#, &small()), Err(ApiError::Batch(10)));
        assert_eq!(batch(1, r#"{"name":"a","channel":"a b","data":"d"}"#).map_err(|e| e.status()), Err(400));
        assert_eq!(batch(1, r#"{"name":"a","channels":["x"],"data":"d"}"#), Err(ApiError::Channels(1)));
        assert!(matches!(batch(1, "5"), Err(ApiError::Body(_))));
    }

    #[test]
    fn answers_are_empty_unless_asked() {
        assert_eq!(encode_published(&[]), "{}");
        assert_eq!(encode_batch(&[]), "{}");
        let name = Name::parse("presence-x").expect("a name");
        let info = ChannelInfo { user_count: Some(2), ..ChannelInfo::default() };
        assert_eq!(encode_published(&[(&name, info)]), r#"{"channels":{"presence-x":{"user_count":2}}}"#);
        assert_eq!(encode_batch(&[info, ChannelInfo::default()]), r#"{"batch":[{"user_count":2},{}]}"#);
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_value(bytes: Vec<u8>, text in "[{}\\[\\]\":,a-e1 ]{0,60}") {
            let _ = (parse_events(&bytes, &small()), parse_batch(&bytes, &small()), events(&text), parse_batch(text.as_bytes(), &small()));
        }

        #[test]
        fn data_stays_as_it_was(data: String) {
            let body = format!("{{\"name\":\"a\",\"channel\":\"a\",\"data\":{}}}", json(&data));
            let limits = PublishLimits { data: data.len(), ..small() };
            prop_assert_eq!(parse_events(body.as_bytes(), &limits).unwrap().data, data);
        }
    }
}
