//! One committed change, and the publication that tells it.

use std::sync::Arc;

use ::time::OffsetDateTime;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{
    channels::{Extra, Held, Publication},
    platform::{EntityId, Kind, time::rfc3339_millis},
};

use super::{Concern, raw::members};

/// A document above this many bytes is left out of the publication and `ref: true` stands in its place: a
/// subscriber's queue holds a megabyte, and a 7.5 MB object must never close anybody.
pub const INLINE_DOC_LIMIT: usize = 32 * 1024;

/// Most names in `changed`, so that a publication stays small whatever the document.
pub const MAX_CHANGED: usize = 100;

/// What surrounds a document in its publication, usually: room that need not be found later.
const ENVELOPE_BYTES: usize = 512;

/// What was done to the entity. Spelled in lower case on every floor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Op {
    /// The first revision, or the first after a purge.
    Create,
    /// A changed document.
    Update,
    /// Moved to the trash.
    Trash,
    /// Taken out of the trash.
    Restore,
    /// The document was destroyed; the revision goes on counting.
    Purge,
}

impl Op {
    /// The spelling in JSON, database and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Update => "update",
            Self::Trash => "trash",
            Self::Restore => "restore",
            Self::Purge => "purge",
        }
    }

    /// Reads the spelling back.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Create, Self::Update, Self::Trash, Self::Restore, Self::Purge].into_iter().find(|op| op.as_str() == text)
    }
}

/// One committed revision of one entity: a row of the change log.
#[derive(Debug, Clone)]
pub struct Change {
    /// The kind of the entity.
    pub kind: Kind,
    /// The entity.
    pub id: EntityId,
    /// The entity's revision after this change, from 1, without gaps.
    pub revision: u64,
    /// The kind's offset of this change, from 1, without gaps.
    pub offset: u64,
    /// What was done.
    pub op: Op,
    /// When it was committed, by the database's clock.
    pub at: OffsetDateTime,
    /// Who: `mirror:{name}` for a Mirror, else the user.
    pub by: Arc<str>,
    /// Top-level fields that differ from the revision before, sorted.
    pub changed: Vec<String>,
    /// The document after the change; `None` when it is above [`INLINE_DOC_LIMIT`] or purged.
    pub doc: Option<Arc<RawValue>>,
    /// W3C `traceparent` of the request or batch that made the change.
    pub trace: Option<Arc<str>>,
    /// The declared fields before and after, a [`FieldChange`](super::FieldChange) as text; `None` of a change that was
    /// written before there were queries.
    pub fields: Option<Arc<str>>,
}

/// The publication of an entity as a query tells it: with `query`, and without the document when the entity leaves. The
/// declared fields stay beside it, for those who see only some rows.
#[must_use]
pub fn told_by_query(publication: &Publication, concern: Concern) -> Publication {
    let text = std::str::from_utf8(&publication.data).unwrap_or_default();
    let mut data = Vec::with_capacity(publication.data.len() + 20);
    data.extend_from_slice(br#"{"query":""#);
    data.extend_from_slice(concern.as_str().as_bytes());
    data.push(b'"');
    match members(text) {
        Some(all) if concern == Concern::Leave => {
            for (name, value) in all.filter(|(name, _)| !matches!(*name, r#""doc""# | r#""ref""#)) {
                [",", name, ":", value].iter().for_each(|part| data.extend_from_slice(part.as_bytes()));
            }
            data.push(b'}');
        }
        // Ours, and never empty.
        _ => {
            data.push(b',');
            data.extend_from_slice(publication.data.get(1..).unwrap_or_default());
        }
    }
    Publication { data: data.into(), ..publication.clone() }
}

/// What a query tells of several changes as one, with where it held: who sees only some rows is told of what was in the query and in
/// sight at one time, not of what was in the one first and in the other later.
#[must_use]
pub fn held_by_query(told: Publication, held: Held) -> Publication {
    let extra = Extra { held: Some(held), ..told.extra.as_deref().cloned().unwrap_or_default() };
    Publication { extra: Some(Arc::new(extra)), ..told }
}

/// The leanest form of a publication of an entity: as [`Change::reference`] makes it, for what was made already.
#[must_use]
pub fn lean(publication: &Publication) -> Publication {
    let text = std::str::from_utf8(&publication.data).unwrap_or_default();
    let mut data = Vec::with_capacity(ENVELOPE_BYTES);
    let mut refers = false;
    for (name, value) in members(text).into_iter().flatten() {
        match name {
            r#""doc""# | r#""ref""# => refers = true,
            r#""changed""# => {}
            _ => {
                data.push(if data.is_empty() { b'{' } else { b',' });
                [name, ":", value].iter().for_each(|part| data.extend_from_slice(part.as_bytes()));
            }
        }
    }
    data.extend_from_slice(if refers { br#","ref":true}"# } else { b"}" });
    Publication { data: data.into(), trace: None, ..publication.clone() }
}

#[derive(Serialize)]
struct Wire<'a> {
    kind: &'a Kind,
    id: &'a EntityId,
    revision: u64,
    offset: u64,
    op: Op,
    at: String,
    by: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    changed: Option<&'a [String]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    doc: Option<&'a RawValue>,
    #[serde(rename = "ref", skip_serializing_if = "std::ops::Not::not")]
    reference: bool,
}

impl Change {
    /// The publication as the design writes it: `{kind, id, revision, offset, op, at, by, changed, doc | ref}`.
    #[must_use]
    pub fn publication(&self) -> Publication {
        self.publication_with(self.doc.as_deref(), Some(&self.changed))
    }

    /// The leanest form, for a recovery that would not fit its byte limit otherwise: no document, no names of what changed,
    /// no trace. Whoever gets it fetches the entity.
    #[must_use]
    pub fn reference(&self) -> Publication {
        Publication { trace: None, ..self.publication_with(None, None) }
    }

    fn publication_with(&self, doc: Option<&RawValue>, changed: Option<&[String]>) -> Publication {
        let doc = doc.filter(|doc| doc.get().len() <= INLINE_DOC_LIMIT);
        let wire = Wire {
            kind: &self.kind,
            id: &self.id,
            revision: self.revision,
            offset: self.offset,
            op: self.op,
            at: rfc3339_millis(self.at),
            by: &self.by,
            changed,
            doc,
            reference: doc.is_none() && self.op != Op::Purge,
        };
        let mut data = Vec::with_capacity(doc.map_or(0, |doc| doc.get().len()) + ENVELOPE_BYTES);
        // Serialising plain strings and numbers into memory cannot fail.
        let _ = serde_json::to_writer(&mut data, &wire);
        // Clients split frames at newlines, and a document may be indented. In JSON they are only white space: inside a
        // string they would be escaped.
        data.iter_mut().filter(|byte| **byte == b'\n').for_each(|byte| *byte = b' ');
        Publication {
            offset: self.offset,
            id: self.id.clone(),
            revision: self.revision,
            at: i64::try_from(self.at.unix_timestamp_nanos() / 1000).unwrap_or_default(),
            data: Bytes::from(data),
            trace: self.trace.clone(),
            extra: self.fields.clone().map(|fields| Arc::new(Extra { fields: Some(fields), ..Extra::default() })),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(doc: &str) -> Change {
        Change {
            kind: Kind::new("procedure").expect("kind"),
            id: EntityId::new("a1").expect("id"),
            revision: 2,
            offset: 7,
            op: Op::Update,
            at: OffsetDateTime::UNIX_EPOCH,
            by: "mirror:procedure".into(),
            changed: vec!["title".into()],
            doc: Some(RawValue::from_string(doc.to_owned()).expect("json").into()),
            trace: None,
            fields: None,
        }
    }

    #[test]
    fn a_publication_is_the_designs_object() {
        assert_eq!(
            &change(r#"{"v":904.240}"#).publication().data[..],
            br#"{"kind":"procedure","id":"a1","revision":2,"offset":7,"op":"update","at":"1970-01-01T00:00:00.000Z","by":"mirror:procedure","changed":["title"],"doc":{"v":904.240}}"#
        );
    }

    #[test]
    fn a_large_document_becomes_a_reference() {
        let big = format!("\"{}\"", "x".repeat(INLINE_DOC_LIMIT));
        let data = change(&big).publication().data;
        assert!(data.ends_with(br#""ref":true}"#) && data.len() < 300);
    }

    #[test]
    fn a_reference_of_a_recovery_is_lean() {
        let change = Change { trace: Some("00-aa-bb-01".into()), ..change("{}") };
        let lean = change.reference();
        assert_eq!(
            &lean.data[..],
            br#"{"kind":"procedure","id":"a1","revision":2,"offset":7,"op":"update","at":"1970-01-01T00:00:00.000Z","by":"mirror:procedure","ref":true}"#
        );
        assert_eq!(lean.trace, None);
        assert_eq!(super::lean(&change.publication()), lean, "what was made already becomes the same");
        assert!(change.publication().weight() > lean.weight());
    }

    #[test]
    fn an_indented_document_goes_out_in_one_line() {
        let data = change("{\n\t\"v\": 904.240,\r\n\"t\":\"a\\nb\"}").publication().data;
        assert!(data.ends_with(b"\"doc\":{ \t\"v\": 904.240,\r \"t\":\"a\\nb\"}}"));
    }

    #[test]
    fn a_query_says_what_the_change_is_to_it() {
        let fields = r#"{"is":{"status":"b"},"was":{"status":"a"}}"#;
        let whole = Change { fields: Some(fields.into()), ..change(r#"{"doc":1,"ref":2}"#) }.publication();
        let read = Publication::decode(&whole.encode()).expect("the bus form");
        assert_eq!(read.extra.as_ref().and_then(|extra| extra.fields.as_deref()), Some(fields));
        let told = |concern| told_by_query(&read, concern);
        let (enter, leave) = (told(Concern::Enter), told(Concern::Leave));
        assert!(enter.data.starts_with(br#"{"query":"enter","kind":"procedure","id":"a1","#));
        assert!(enter.data.ends_with(br#","doc":{"doc":1,"ref":2}}"#) && enter.extra == read.extra);
        assert_eq!(
            &leave.data[..],
            br#"{"query":"leave","kind":"procedure","id":"a1","revision":2,"offset":7,"op":"update","at":"1970-01-01T00:00:00.000Z","by":"mirror:procedure","changed":["title"]}"#
        );
        let big = change(&format!("\"{}\"", "x".repeat(INLINE_DOC_LIMIT))).publication();
        assert!(told_by_query(&big, Concern::Change).data.ends_with(br#""ref":true}"#));
        assert!(!told_by_query(&big, Concern::Leave).data.ends_with(br#""ref":true}"#));
    }

    #[test]
    fn ops_read_back() {
        for op in [Op::Create, Op::Update, Op::Trash, Op::Restore, Op::Purge] {
            assert_eq!(Op::parse(op.as_str()), Some(op));
        }
        assert_eq!(Op::parse("Update"), None);
    }
}
