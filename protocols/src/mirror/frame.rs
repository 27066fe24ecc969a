//! One text frame of a Mirror: read without copying, answered by echoing it.
//!
//! Invariants: a frame's JSON is checked once and its document stays a span of the frame; a frame that cannot be used still
//! gives its cursor, so that the line behind it moves on.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, MapAccess, Visitor},
};
use serde_json::value::RawValue;

use super::{
    batch::{MirrorOp, VersionedDoc},
    cursor::Cursor,
    dialect::{Dialect, Envelope, FrameKind, Payload},
};
use crate::{
    entities::{
        Fields, check,
        raw::{is_key, member, members, unquote},
    },
    platform::EntityId,
};

/// A frame.
#[derive(Debug, Clone, Copy)]
pub struct Frame<'a> {
    /// What it is; `None` for a `type` that the dialect does not know.
    pub kind: Option<FrameKind>,
    /// Where the stream stands after it.
    pub cursor: Cursor<'a>,
    /// What it carries.
    pub data: Option<&'a RawValue>,
    text: &'a str,
}

/// A frame that cannot be used. The stream goes on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}: {detail}")]
pub struct FrameFault {
    /// The quarantine reason, a stable code.
    pub reason: &'static str,
    /// For people.
    pub detail: String,
    /// The entity, where it could be read.
    pub id: Option<EntityId>,
}

fn fault(reason: &'static str, detail: impl Into<String>, id: Option<EntityId>) -> FrameFault {
    FrameFault { reason, detail: detail.into(), id }
}

/// An object that a frame announces and does not bring.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sought {
    /// The entity.
    pub id: EntityId,
    /// The version of the frame, where it names one: what is fetched must not be older.
    pub version: Option<String>,
}

/// What a data frame asks of the store.
#[derive(Debug, Clone)]
pub enum Asked {
    /// One operation.
    Op(MirrorOp),
    /// The object must be fetched over HTTP: the frame carries its id alone, or more than `$set`.
    Fetch(Sought),
    /// Nothing: a heartbeat, an answer, an ignored type.
    Nothing,
}

/// Reads the envelope in one pass: what is inside is only checked to be JSON, and stays a span of the frame.
struct EnvelopeSeed<'e>(&'e Envelope);

#[derive(Default)]
struct Parts<'a> {
    kind: Option<&'a RawValue>,
    data: Option<&'a RawValue>,
    cursor: Option<&'a RawValue>,
}

/// A key, borrowed unless it is spelled with escapes.
#[derive(Deserialize)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'de> DeserializeSeed<'de> for EnvelopeSeed<'_> {
    type Value = Parts<'de>;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Self::Value, D::Error> {
        from.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for EnvelopeSeed<'_> {
    type Value = Parts<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a frame's object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut parts = Parts::default();
        while let Some(Key(key)) = map.next_key()? {
            let value = Some(map.next_value::<&RawValue>()?);
            if key == self.0.kind {
                parts.kind = value;
            } else if key == self.0.data {
                parts.data = value;
            } else if key == self.0.cursor {
                parts.cursor = value;
            }
        }
        Ok(parts)
    }
}

impl Dialect {
    /// Reads a frame.
    ///
    /// # Errors
    /// `malformed` when it is not a JSON object with a text type.
    pub fn decode<'a>(&self, text: &'a str) -> Result<Frame<'a>, FrameFault> {
        let malformed = |error: serde_json::Error| fault("malformed", error.to_string(), None);
        let mut json = serde_json::Deserializer::from_str(text);
        let Parts { kind, data, cursor } = EnvelopeSeed(&self.envelope).deserialize(&mut json).map_err(malformed)?;
        json.end().map_err(malformed)?;
        let kind = kind.and_then(|kind| unquote(kind.get()));
        let kind = kind.ok_or_else(|| fault("malformed", format!("no text in {:?}", self.envelope.kind), None))?;
        Ok(Frame { kind: self.types.get(&kind), cursor: self.cursor.kind.read(cursor), data, text })
    }

    /// What a data frame asks of the store.
    ///
    /// # Errors
    /// Why it cannot be used, with the id where that could be read.
    pub fn asked(&self, frame: &Frame<'_>) -> Result<Asked, FrameFault> {
        match frame.kind {
            Some(FrameKind::Upsert) => {
                let (id, data, fields) = self.subject(frame)?;
                match self.payload {
                    Payload::Full => self.checked(id, data, &fields).map(MirrorOp::Upsert).map(Asked::Op),
                    Payload::Merge => self.set(id, data),
                    Payload::IdOnly => Ok(Asked::Fetch(Sought { id, version: self.paths.version_of(&fields) })),
                }
            }
            Some(FrameKind::Update) => {
                let (id, data, _) = self.subject(frame)?;
                let set = member(data.get(), &self.envelope.set).and_then(as_raw);
                let more = members(data.get()).into_iter().flatten();
                let more =
                    more.filter_map(|(key, _)| unquote(key)).any(|k| k.starts_with('$') && k != self.envelope.set);
                match set {
                    Some(set) if !more => self.set(id, set),
                    _ => Ok(Asked::Fetch(Sought { id, version: set.and_then(|set| self.paths.version_of_set(set)) })),
                }
            }
            Some(FrameKind::Delete) => self.subject(frame).map(|(id, ..)| Asked::Op(MirrorOp::Delete { id })),
            None => Err(fault(
                "unknown_type",
                self.type_text(frame.text),
                frame.data.and_then(|d| self.paths.id_of(&Fields::of(d.get()))),
            )),
            Some(FrameKind::Error) => {
                let said: String = frame.data.map(|d| d.get().chars().take(200).collect()).unwrap_or_default();
                Err(fault("upstream_error", said, None))
            }
            _ => Ok(Asked::Nothing),
        }
    }

    /// A document that came by whatever way, checked, with its version and without its secrets.
    ///
    /// # Errors
    /// Why storage or we cannot use it.
    pub fn document(&self, id: EntityId, doc: &RawValue) -> Result<VersionedDoc, FrameFault> {
        self.checked(id, doc, &Fields::of(doc.get()))
    }

    fn checked(&self, id: EntityId, doc: &RawValue, fields: &Fields<'_>) -> Result<VersionedDoc, FrameFault> {
        if let Err(unfit) = check(doc) {
            return Err(fault(unfit.code(), unfit.to_string(), Some(id)));
        }
        match self.paths.version_of(fields) {
            Some(version) => Ok(VersionedDoc::new(id, version, self.without_secrets(doc))),
            None => Err(fault("no_version", "no version in any of the paths", Some(id))),
        }
    }

    /// Id and version in a data frame, without looking at the rest: what is needed of a message that is over the limit.
    #[must_use]
    pub fn sought(&self, frame: &Frame<'_>) -> Option<Sought> {
        let (id, data, fields) = self.subject(frame).ok()?;
        let version = match frame.kind {
            Some(FrameKind::Update) => {
                member(data.get(), &self.envelope.set).and_then(as_raw).and_then(|set| self.paths.version_of_set(set))
            }
            _ => self.paths.version_of(&fields),
        };
        Some(Sought { id, version })
    }

    /// The frame with its data replaced and everything else, unknown fields included, as it came.
    #[must_use]
    pub fn answer(&self, frame: &Frame<'_>, data: &str) -> String {
        let mut out = String::with_capacity(frame.text.len() + data.len());
        let mut replaced = false;
        out.push('{');
        for (key, value) in members(frame.text).into_iter().flatten() {
            let ours = is_key(key, &self.envelope.data);
            replaced |= ours;
            push_member(&mut out, key, if ours { data } else { value });
        }
        if !replaced {
            push_member(&mut out, &serde_json::Value::from(self.envelope.data.as_str()).to_string(), data);
        }
        out.push('}');
        out
    }

    /// The entity, what is said of it, and the fields of that.
    fn subject<'a>(&self, frame: &Frame<'a>) -> Result<(EntityId, &'a RawValue, Fields<'a>), FrameFault> {
        let data = frame.data.ok_or_else(|| fault("no_id", "no data", None))?;
        // Ids alone come as text, and so do some upstreams' deletes.
        let bare = unquote(data.get()).and_then(|id| EntityId::new(&id).ok());
        let fields = Fields::of(data.get());
        let id = bare.or_else(|| self.paths.id_of(&fields));
        Ok((id.ok_or_else(|| fault("no_id", "no id in data", None))?, data, fields))
    }

    fn set(&self, id: EntityId, set: &RawValue) -> Result<Asked, FrameFault> {
        if let Err(unfit) = check(set) {
            return Err(fault(unfit.code(), unfit.to_string(), Some(id)));
        }
        Ok(Asked::Op(MirrorOp::Set {
            id,
            version: self.paths.version_of_set(set),
            set: self.without_secrets(set).into(),
        }))
    }

    fn type_text(&self, text: &str) -> String {
        member(text, &self.envelope.kind).map(|kind| kind.chars().take(80).collect()).unwrap_or_default()
    }
}

fn push_member(out: &mut String, key: &str, value: &str) {
    if out.len() > 1 {
        out.push(',');
    }
    out.push_str(key);
    out.push(':');
    out.push_str(value);
}

/// The span as a raw value. The text has passed the parser, so this is a second look at the span and never fails.
fn as_raw(text: &str) -> Option<&RawValue> {
    serde_json::from_str(text).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A golden file: a frame, the dialect's differences, and what must come of it.
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Golden {
        #[serde(default)]
        dialect: Dialect,
        frame: Box<RawValue>,
        kind: Option<FrameKind>,
        cursor: Option<Box<RawValue>>,
        /// `upsert ID VERSION`, `set ID VERSION SET`, `delete ID`, `fetch ID`, `nothing` or `fault REASON ID`.
        asked: String,
        answer: Option<(Box<RawValue>, String)>,
    }

    fn told(asked: Result<Asked, FrameFault>) -> String {
        match asked {
            Ok(Asked::Op(MirrorOp::Upsert(doc))) => format!("upsert {} {}", doc.id, doc.version),
            Ok(Asked::Op(MirrorOp::Set { id, set, version })) => {
                format!("set {id} {} {set}", version.unwrap_or("-".into()))
            }
            Ok(Asked::Op(MirrorOp::Delete { id })) => format!("delete {id}"),
            Ok(Asked::Fetch(sought)) => format!("fetch {}", sought.id),
            Ok(Asked::Nothing) => "nothing".into(),
            Err(fault) => format!("fault {} {}", fault.reason, fault.id.map_or("-".into(), |id| id.to_string())),
        }
    }

    #[test]
    fn golden_frames() {
        let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/mirror");
        let mut seen = 0;
        for file in std::fs::read_dir(dir).expect(dir) {
            let path = file.expect("an entry").path();
            let text = std::fs::read_to_string(&path).expect("a text");
            let all: Vec<Golden> = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            for golden in all {
                let what = format!("{} {}", path.display(), golden.frame);
                let frame = golden.dialect.decode(golden.frame.get()).expect(&what);
                assert_eq!(frame.kind, golden.kind, "{what}");
                let cursor = match frame.cursor {
                    Cursor::At(raw) => Some(raw.get()),
                    _ => None,
                };
                assert_eq!(cursor, golden.cursor.as_deref().map(RawValue::get), "{what}");
                assert_eq!(told(golden.dialect.asked(&frame)), golden.asked, "{what}");
                if let Some((data, expected)) = golden.answer {
                    assert_eq!(golden.dialect.answer(&frame, data.get()), expected, "{what}");
                }
                seen += 1;
            }
        }
        assert!(seen >= 20, "the golden files are there");
    }

    #[test]
    fn what_is_no_frame_is_malformed() {
        for text in ["", "{", "[]", "7", "{}", r#"{"type":1}"#, r#"{"type":"upsert""#, "{\"type\":\"a\u{0}\"}"] {
            assert_eq!(Dialect::default().decode(text).map(|_| ()).map_err(|f| f.reason), Err("malformed"), "{text}");
        }
    }

    #[test]
    fn a_deep_document_is_put_aside_and_the_cursor_goes_on() {
        let text = format!(
            r#"{{"type":"upsert","ts":[1,2],"data":{{"_id":"a","x":{}{}}}}}"#,
            "[".repeat(500_000),
            "]".repeat(500_000)
        );
        let dialect = Dialect::default();
        let frame = dialect.decode(&text).expect("a frame");
        assert!(matches!(frame.cursor, Cursor::At(_)));
        assert_eq!(told(dialect.asked(&frame)), "fault too_deep a");
        assert_eq!(dialect.sought(&frame).expect("an id").id.as_str(), "a");
    }

    proptest! {
        #[test]
        fn hostile_text_is_a_value(text in "\\PC{0,80}", near in r#"\{("(type|data|ts|_id|x)":("upsert"|"delete"|"update"|null|\[1,2\]|\{"_id":"?[a1]"?\}|\{\}),?){0,5}\}"#) {
            let dialect = Dialect::default();
            for text in [&text, &near] {
                if let Ok(frame) = dialect.decode(text) {
                    let _ = dialect.asked(&frame);
                    let answer = dialect.answer(&frame, "[1]");
                    prop_assert_eq!(member(&answer, "data"), Some("[1]"));
                }
            }
        }

        #[test]
        fn an_answer_keeps_what_it_does_not_know(extra in "[a-z]{5,9}", value: u64, data: u64) {
            let text = format!(r#"{{"{extra}":{value},"type":"timestamp-request","data":null}}"#);
            let dialect = Dialect::default();
            let answer = dialect.answer(&dialect.decode(&text).unwrap(), &data.to_string());
            prop_assert_eq!(answer, format!(r#"{{"{extra}":{value},"type":"timestamp-request","data":{data}}}"#));
        }
    }
}
