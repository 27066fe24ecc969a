//! One message on a stream, and the form in which the bus keeps it.
//!
//! The bus form is `offset \t revision \t at \t id \t trace \n data`: a header that `topics` reads without parsing the JSON of
//! the data. Ids have no control characters, so the separators are safe.

use std::sync::Arc;

use bytes::Bytes;

use crate::platform::EntityId;

/// One publication of a durable stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publication {
    /// The stream's offset.
    pub offset: u64,
    /// The entity, for its own channel `entity.{kind}.{id}`.
    pub id: EntityId,
    /// The entity's revision: the offset on its own channel.
    pub revision: u64,
    /// When it was committed by the database's clock, in microseconds since 1970: how old it is when it is written.
    pub at: i64,
    /// The JSON that clients receive, shared by every subscriber.
    pub data: Bytes,
    /// W3C `traceparent`, carried to the client as a tag.
    pub trace: Option<Arc<str>>,
}

/// Bytes from the bus that are not a publication.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a publication: {0}")]
pub struct PublicationError(&'static str);

impl Publication {
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
        let mut out = Vec::with_capacity(self.data.len() + self.id.as_str().len() + trace.len() + 32);
        out.extend_from_slice(
            format!("{}\t{}\t{}\t{}\t{trace}\n", self.offset, self.revision, self.at, self.id).as_bytes(),
        );
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
        let mut parts = header.splitn(5, '\t');
        let mut next = |what| parts.next().ok_or(PublicationError(what));
        let offset = next("offset")?.parse().map_err(|_| PublicationError("offset"))?;
        let revision = next("revision")?.parse().map_err(|_| PublicationError("revision"))?;
        let at = next("time")?.parse().map_err(|_| PublicationError("time"))?;
        let id = EntityId::new(next("id")?).map_err(|_| PublicationError("id"))?;
        let trace = Some(next("trace")?).filter(|t| !t.is_empty()).map(Arc::from);
        Ok(Self { offset, id, revision, at, data: bytes.slice(end + 1..), trace })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_bus_form_round_trips(offset: u64, revision: u64, at: i64, id in "[^\\p{Cc}]{1,40}", data: Vec<u8>, trace in proptest::option::of("[0-9a-f-]{1,55}")) {
            let it = Publication { offset, revision, at, id: EntityId::new(&id).unwrap(), data: data.into(), trace: trace.map(|t| t.as_str().into()) };
            prop_assert_eq!(Publication::decode(&it.encode()), Ok(it));
        }

        #[test]
        fn hostile_bytes_are_values(bytes: Vec<u8>) {
            let _ = Publication::decode(&bytes.into());
        }
    }
}
