//! The Mirror's frames as text. A frame is a head, at most one document and a tail, so a large document is never copied into it.

use crate::body::Body;
use crate::config::MirrorKnobs;
use crate::json;
use crate::world::{Document, Ts};
use std::sync::Arc;

/// A frame ready to be sent.
#[derive(Debug, Clone)]
pub(crate) struct Frame {
    /// What it is counted as.
    pub(crate) kind: &'static str,
    /// Its position.
    pub(crate) ts: Option<Ts>,
    head: String,
    doc: Option<Arc<Document>>,
    tail: String,
}

impl Frame {
    /// The length of its text.
    pub(crate) fn len(&self) -> usize {
        self.head.len() + self.doc.as_ref().map_or(0, |doc| doc.body.len()) + self.tail.len()
    }

    /// Its text in pieces.
    pub(crate) fn pieces(&self) -> impl Iterator<Item = &str> {
        let body = self.doc.iter().flat_map(|doc| Body::pieces(&doc.body));
        std::iter::once(self.head.as_str()).chain(body).chain(std::iter::once(self.tail.as_str()))
    }

    /// The same frame, counted as something else.
    pub(crate) fn counted(mut self, kind: &'static str) -> Self {
        self.kind = kind;
        self
    }
}

/// Spells frames in the dialect that the knobs give.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Speller<'a>(pub(crate) &'a MirrorKnobs);

impl Speller<'_> {
    fn head(&self, kind: &str) -> String {
        let Self(MirrorKnobs { envelope, types, .. }) = self;
        let name = types.get(kind).map_or(kind, String::as_str);
        format!("{{{}:{},{}:", json::quote(&envelope.r#type), json::quote(name), json::quote(&envelope.data))
    }

    fn tail(&self, ts: Option<Ts>) -> String {
        let ts = ts.map_or_else(|| self.0.null.json().to_owned(), |ts| ts.to_string());
        format!(",{}:{ts}}}", json::quote(&self.0.envelope.ts))
    }

    fn frame(&self, kind: &'static str, data: &str, ts: Option<Ts>) -> Frame {
        Frame { kind, ts, head: self.head(kind) + data, doc: None, tail: self.tail(ts) }
    }

    pub(crate) fn request(&self, kind: &'static str, ts: Option<Ts>) -> Frame {
        self.frame(kind, self.0.null.json(), ts)
    }

    pub(crate) fn upsert(&self, doc: Arc<Document>, ts: Option<Ts>) -> Frame {
        Frame { kind: "upsert", ts, head: self.head("upsert"), doc: Some(doc), tail: self.tail(ts) }
    }

    pub(crate) fn update(&self, id: &str, set: &str, ts: Ts) -> Frame {
        self.frame("update", &format!("{{\"_id\":{},\"$set\":{set}}}", json::quote(id)), Some(ts))
    }

    pub(crate) fn delete(&self, id: &str, ts: Option<Ts>) -> Frame {
        self.frame("delete", &format!("{{\"_id\":{}}}", json::quote(id)), ts)
    }

    pub(crate) fn noop(&self, ts: Ts) -> Frame {
        self.frame("noop", self.0.null.json(), Some(ts))
    }

    pub(crate) fn unknown(&self, ts: Ts) -> Frame {
        self.frame("resharding-notice", "{\"shards\":3,\"note\":\"невідоме\"}", Some(ts)).counted("unknown")
    }

    /// The length of an upsert's frame without its document.
    pub(crate) fn overhead(&self, ts: Ts) -> usize {
        self.head("upsert").len() + self.tail(Some(ts)).len()
    }

    /// Which request a frame of the client answers, and the raw `data` and `ts` of it.
    pub(crate) fn answer<'a>(&self, text: &'a str) -> Option<(&'static str, &'a str)> {
        let Self(MirrorKnobs { envelope, types, .. }) = self;
        let name = json::get_string(text, &[&envelope.r#type])?;
        let kind = REQUESTS.into_iter().find(|kind| types.get(*kind).map_or(*kind, String::as_str) == name)?;
        Some((kind, json::get(text, &[&envelope.data]).unwrap_or("null")))
    }
}

pub(crate) const PROTOCOL: &str = "protocol-request";
pub(crate) const TIMESTAMP: &str = "timestamp-request";
pub(crate) const INIT_POINT: &str = "init-point-request";
pub(crate) const IDS_SINCE: &str = "ids-since-timestamp-request";
const REQUESTS: [&str; 4] = [PROTOCOL, TIMESTAMP, INIT_POINT, IDS_SINCE];

/// Text that is not JSON, each time another.
pub(crate) fn malformed(n: u64) -> Frame {
    let texts = [
        "{\"type\":\"upsert\",\"data\":{\"_id\":",
        "]",
        "",
        "{\"type\":\"noop\",}",
        "\u{feff}nul",
        "{\"ts\":[1,2]} {}",
    ];
    let text = texts[usize::try_from(n).unwrap_or(0) % texts.len()];
    Frame { kind: "malformed", ts: None, head: text.to_owned(), doc: None, tail: String::new() }
}

/// Any text that somebody wants to be sent.
pub(crate) fn raw(text: &str) -> Frame {
    Frame { kind: "injected", ts: None, head: text.to_owned(), doc: None, tail: String::new() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Envelope, NullSpelling};

    fn text(frame: &Frame) -> String {
        let text: String = frame.pieces().collect();
        assert_eq!(text.len(), frame.len());
        text
    }

    #[test]
    fn the_usual_spelling() {
        let knobs = MirrorKnobs::default();
        let speller = Speller(&knobs);
        let ts = Ts { seconds: 17, increment: 2 };
        assert_eq!(text(&speller.request(PROTOCOL, None)), r#"{"type":"protocol-request","data":null,"ts":null}"#);
        assert_eq!(text(&speller.noop(ts)), r#"{"type":"noop","data":null,"ts":[17,2]}"#);
        assert_eq!(
            text(&speller.update("a", r#"{"b":1.0}"#, ts)),
            r#"{"type":"update","data":{"_id":"a","$set":{"b":1.0}},"ts":[17,2]}"#
        );
        let doc = Document {
            id: "a".into(),
            body: Body::new("{\"_id\":\"a\"}"),
            last_modified: 0,
            date_modified: 0,
            ts: None,
        };
        let frame = speller.upsert(Arc::new(doc), Some(ts));
        assert_eq!(text(&frame), r#"{"type":"upsert","data":{"_id":"a"},"ts":[17,2]}"#);
        assert_eq!(frame.len(), speller.overhead(ts) + 11);
        assert_eq!(speller.answer(r#"{"type":"timestamp-request","data":[1,2]}"#), Some((TIMESTAMP, "[1,2]")));
        assert_eq!(speller.answer(r#"{"type":"upsert","data":{}}"#), None);
    }

    #[test]
    fn a_drifted_spelling() {
        let knobs = MirrorKnobs {
            envelope: Envelope { r#type: "t".to_owned(), data: "d".to_owned(), ts: "oplog_ts".to_owned() },
            types: [("delete".to_owned(), "remove".to_owned()), (TIMESTAMP.to_owned(), "cursor?".to_owned())].into(),
            null: NullSpelling::Empty,
            ..MirrorKnobs::default()
        };
        let speller = Speller(&knobs);
        assert_eq!(text(&speller.delete("a", None)), r#"{"t":"remove","d":{"_id":"a"},"oplog_ts":""}"#);
        assert_eq!(text(&speller.request(TIMESTAMP, None)), r#"{"t":"cursor?","d":"","oplog_ts":""}"#);
        assert_eq!(speller.answer(r#"{"t":"cursor?","d":""}"#), Some((TIMESTAMP, "\"\"")));
    }
}
