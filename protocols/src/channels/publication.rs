//! One message on a stream, and the form in which the bus keeps it.
//!
//! The bus form is `offset \t revision \t at \t id \t trace [\t extra] \n data`: a header that `topics` reads without parsing the
//! JSON of the data. Ids have no control characters, so the separators are safe. `extra` is a JSON object, there only when
//! there is something to say; a reader ignores members that it does not know.

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::centrifuge::{ClientInfo, Tags};
use crate::platform::EntityId;

/// Whether something held before and after each of several changes, from the first.
pub type Held = Arc<[[bool; 2]]>;

/// What a publication carries beside its data.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Extra {
    /// Labels that clients see and may filter by.
    #[serde(skip_serializing_if = "Tags::is_empty")]
    pub tags: Tags,
    /// The client that published.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub info: Option<ClientInfo>,
    /// Of an entity: its declared fields before and after, a `FieldChange` as text. For the nodes alone: clients never see it.
    #[serde(skip_serializing_if = "Option::is_none", with = "raw")]
    pub fields: Option<Arc<str>>,
    /// Of several changes of an entity that are told as one, to a query: whether it held before and after each of them. Where all are not
    /// told as one, or it always held, nothing. It leaves no node.
    #[serde(skip)]
    pub held: Option<Held>,
    /// The socket, of the Pusher protocol, that does not get it: the one whose user caused it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub except: Option<Arc<str>>,
}

/// JSON within JSON, as it is.
mod raw {
    use std::sync::Arc;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use serde_json::value::RawValue;

    pub(super) fn serialize<S: Serializer>(text: &Option<Arc<str>>, to: S) -> Result<S::Ok, S::Error> {
        text.as_deref().and_then(|text| serde_json::from_str::<&RawValue>(text).ok()).serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Arc<str>>, D::Error> {
        Ok(Option::<Box<RawValue>>::deserialize(from)?.map(|raw| Box::<str>::from(raw).into()))
    }
}

impl Extra {
    fn size(&self) -> usize {
        let tags: usize = self.tags.iter().map(|(name, value)| name.len() + value.len() + 6).sum();
        let raw = |info: &Option<Bytes>| info.as_ref().map_or(0, Bytes::len);
        tags + self
            .info
            .as_ref()
            .map_or(0, |it| it.user.len() + it.client.len() + raw(&it.conn_info) + raw(&it.chan_info))
    }

    /// Whether there is anything to carry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tags.is_empty() && self.info.is_none() && self.except.is_none() && self.fields.is_none()
    }
}

/// What somebody gives to be published on an application's stream; the bus makes a [`Publication`] of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// The JSON that clients receive.
    pub data: Bytes,
    /// When it was given, in microseconds since 1970.
    pub at: i64,
    /// W3C `traceparent`, carried to the client as a tag.
    pub trace: Option<Arc<str>>,
    /// What goes with the data.
    pub extra: Option<Arc<Extra>>,
}

impl Message {
    /// The publication at this offset of the channel's own stream. The channel itself is the thing that changed.
    #[must_use]
    pub fn publication(self, channel: EntityId, offset: u64) -> Publication {
        let Self { data, at, trace, extra } = self;
        Publication { offset, id: channel, revision: offset, at, data, trace, extra }
    }
}

/// Now, as messages say when they were given: in microseconds since 1970.
#[must_use]
pub fn now_micros() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

/// JSON without newlines, at which clients split frames: between the parts of JSON they are only white space, and inside a
/// string they are escaped.
#[must_use]
pub fn in_one_line(json: Bytes) -> Bytes {
    if memchr::memchr2(b'\n', b'\r', &json).is_none() {
        return json;
    }
    json.iter().map(|byte| if matches!(byte, b'\n' | b'\r') { b' ' } else { *byte }).collect()
}

/// One publication of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publication {
    /// The stream's offset.
    pub offset: u64,
    /// The entity, for its own channel `entity.{kind}.{id}`; of an application's stream the channel.
    pub id: EntityId,
    /// The entity's revision: the offset on its own channel.
    pub revision: u64,
    /// When it was committed by the database's clock, or given to the hub, in microseconds since 1970: how old it is when it
    /// is written.
    pub at: i64,
    /// The JSON that clients receive, shared by every subscriber.
    pub data: Bytes,
    /// W3C `traceparent`, carried to the client as a tag.
    pub trace: Option<Arc<str>>,
    /// What an application gave with it.
    pub extra: Option<Arc<Extra>>,
}

/// Bytes from the bus that are not a publication.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a publication: {0}")]
pub struct PublicationError(&'static str);

impl Publication {
    /// Bytes that clients receive, roughly: data, tags and who published.
    #[must_use]
    pub fn size(&self) -> usize {
        let extra = self.extra.as_ref().map_or(0, |extra| extra.size());
        self.data.len() + self.trace.as_ref().map_or(0, |trace| trace.len()) + extra
    }

    /// Bytes that it takes of a reply: its data and what stands around it.
    #[must_use]
    pub fn weight(&self) -> usize {
        // {"data":,"offset":1234567890123},  and  "tags":{"traceparent":""},
        const ENVELOPE: usize = 34;
        const TAGS: usize = 27;
        self.data.len() + ENVELOPE + self.trace.as_ref().map_or(0, |trace| TAGS + trace.len())
    }

    /// The bus form.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let trace = self.trace.as_deref().unwrap_or_default();
        let mut out = Vec::with_capacity(self.data.len() + self.id.as_str().len() + trace.len() + 48);
        out.extend_from_slice(
            format!("{}\t{}\t{}\t{}\t{trace}", self.offset, self.revision, self.at, self.id).as_bytes(),
        );
        if let Some(extra) = &self.extra {
            out.push(b'\t');
            // Strings only, control characters escaped: this cannot fail and holds no separator.
            let _ = serde_json::to_writer(&mut out, extra);
        }
        out.push(b'\n');
        out.extend_from_slice(&self.data);
        out.into()
    }

    /// Reads the bus form; the data shares the given bytes.
    ///
    /// # Errors
    /// [`PublicationError`] names the part that is wrong.
    pub fn decode(bytes: &Bytes) -> Result<Self, PublicationError> {
        let end = bytes.iter().position(|b| *b == b'\n').ok_or(PublicationError("no header"))?;
        let header = std::str::from_utf8(&bytes[..end]).map_err(|_| PublicationError("header is not text"))?;
        let mut parts = header.splitn(6, '\t');
        let mut next = |what| parts.next().ok_or(PublicationError(what));
        let offset = next("offset")?.parse().map_err(|_| PublicationError("offset"))?;
        let revision = next("revision")?.parse().map_err(|_| PublicationError("revision"))?;
        let at = next("time")?.parse().map_err(|_| PublicationError("time"))?;
        let id = EntityId::new(next("id")?).map_err(|_| PublicationError("id"))?;
        let trace = Some(next("trace")?).filter(|t| !t.is_empty()).map(Arc::from);
        let extra = match parts.next().unwrap_or_default() {
            "" => None,
            json => Some(serde_json::from_str(json).map_err(|_| PublicationError("extra"))?),
        };
        Ok(Self { offset, id, revision, at, data: bytes.slice(end + 1..), trace, extra })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// Two versions of a node run side by side: what an older one wrote is read, what we write stays as it is.
    #[test]
    fn the_bus_form_is_that_of_every_version() {
        let first = Bytes::from_static(b"7\t2\t100\tx-1\t00-aa-bb-01\n{}");
        let old = Publication::decode(&first).expect("the form before extras");
        assert_eq!((old.offset, old.trace.as_deref(), &old.extra), (7, Some("00-aa-bb-01"), &None));
        let tags = BTreeMap::from([("a".to_owned(), "ї\t\n".to_owned())]).try_into().expect("tags");
        let info = ClientInfo { user: "u".into(), client: "c".into(), conn_info: None, chan_info: None };
        let extra = Extra { tags, info: Some(info), ..Extra::default() };
        let it = Publication { extra: Some(Arc::new(extra)), ..old };
        let form = "7\t2\t100\tx-1\t00-aa-bb-01\t{\"tags\":{\"a\":\"ї\\t\\n\"},\"info\":{\"user\":\"u\",\"client\":\"c\"}}\n{}";
        assert_eq!(it.encode(), form.as_bytes());
        assert_eq!(Publication::decode(&form.replace("{\"tags", "{\"later\":[1],\"tags").into()), Ok(it));
    }

    proptest! {
        #[test]
        fn the_bus_form_round_trips(offset: u64, revision: u64, at: i64, id in "[^\\p{Cc}]{1,40}", data: Vec<u8>, trace in proptest::option::of("[0-9a-f-]{1,55}"), tags in proptest::option::of(proptest::collection::btree_map(".{1,8}", ".{0,8}", 0..4))) {
            let extra = tags.map(|tags| Arc::new(Extra { tags: tags.try_into().unwrap(), ..Extra::default() }));
            let it = Publication { offset, revision, at, id: EntityId::new(&id).unwrap(), data: data.into(), trace: trace.map(|t| t.as_str().into()), extra };
            prop_assert_eq!(Publication::decode(&it.encode()), Ok(it));
        }

        #[test]
        fn hostile_bytes_are_values(bytes: Vec<u8>) {
            let _ = Publication::decode(&bytes.into());
        }
    }
}
