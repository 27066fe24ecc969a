//! Frames of a Mirror, in several dialects, up to the publication that clients get.

use std::sync::OnceLock;

use dzvin_protocols::{
    channels::centrifuge::encode_push,
    entities::{Change, Op, content_hash, merge_set},
    mirror::{Asked, Cursor, Dialect, Frame, MirrorOp, mask_secrets, percent_encode},
    platform::Kind,
};
use serde_json::value::RawValue;

use super::{options, text};

/// The known protocol, and what an operator may have had to configure.
const DIALECTS: [&str; 6] = [
    "{}",
    r#"{"protocol":"full","cursor":{"kind":"u64","null":"empty"},"paths":{"version_kind":"number"}}"#,
    r#"{"envelope":{"type":"event","data":"body","cursor":"seq","set":"fields"},"types":{"put":"upsert"},"cursor":{"kind":"rfc3339"}}"#,
    r#"{"payload":"id_only","cursor":{"kind":"opaque"}}"#,
    r#"{"payload":"merge","paths":{"id":["key","doc.key"],"versions":["rev","doc.rev"],"version_kind":"text"}}"#,
    r#"{"envelope":{"type":"\"\\","data":"дані","cursor":"ts","set":"$set"}}"#,
];

pub(super) fn dialects() -> &'static [Dialect] {
    static ALL: OnceLock<Vec<Dialect>> = OnceLock::new();
    ALL.get_or_init(|| {
        let all: Vec<_> = DIALECTS.iter().filter_map(|json| serde_json::from_str(json).ok()).collect();
        assert_eq!(all.len(), DIALECTS.len(), "the dialects are right");
        all
    })
}

/// Byte one chooses the dialect; the rest is the frame. It is a fault, or an operation that storage takes; an answer is
/// well-formed and keeps what it does not replace; masking keeps JSON JSON.
pub fn mirror(data: &[u8]) {
    let ([choice], rest) = options::<1>(data);
    let (text, dialects) = (text(rest), dialects());
    let dialect = &dialects[usize::from(choice) % dialects.len()];
    let masked = mask_secrets(&text);
    assert!(percent_encode(&text).is_ascii());
    let Ok(frame) = dialect.decode(&text) else { return };
    assert!(raw(&masked).is_some(), "masked JSON is JSON: {text} {masked}");
    if let Cursor::At(cursor) = frame.cursor {
        assert!(raw(cursor.get()).is_some());
        let _ = dialect.cursor.kind.moment(cursor);
    }
    for answer in ["null", "\"\"", "[1,\"\\u0000\"]", "{\"a\":{}}"] {
        answered(dialect, &frame, &text, answer);
    }
    match dialect.asked(&frame) {
        Ok(Asked::Op(op)) => operation(dialect, &op),
        Ok(Asked::Fetch(sought)) => assert_eq!(dialect.sought(&frame), Some(sought)),
        Ok(Asked::Nothing) => {}
        Err(fault) => assert!(!fault.reason.is_empty()),
    }
}

fn raw(text: &str) -> Option<&RawValue> {
    serde_json::from_str(text).ok()
}

fn answered(dialect: &Dialect, frame: &Frame<'_>, text: &str, data: &str) {
    let answer = dialect.answer(frame, data);
    let Ok(again) = dialect.decode(&answer) else { unreachable!("an answer is a frame: {text} {answer}") };
    assert_eq!(again.kind, frame.kind, "{answer}");
    // The names of the envelope may be one and the same; then the data stands where the cursor stood.
    assert_eq!(again.data.map(RawValue::get), Some(data), "{answer}");
    let at = |frame: &Frame<'_>| match frame.cursor {
        Cursor::At(raw) | Cursor::Unreadable(raw) => Some(raw.get().to_owned()),
        Cursor::None => None,
    };
    assert_eq!(at(&again), at(frame), "{answer}");
}

/// What is asked can be done: a document hashes and is published in one line, a set merges or is refused.
fn operation(dialect: &Dialect, op: &MirrorOp) {
    match op {
        MirrorOp::Upsert(it) => {
            assert!(!it.version.is_empty() && !it.version.contains('\0'));
            let hash = content_hash(&it.doc, &dialect.paths.versions);
            assert_eq!(hash, content_hash(&it.doc, &dialect.paths.versions));
            published(it.id.clone(), &it.doc);
        }
        MirrorOp::Set { id, set, .. } => {
            let stored =
                raw(r#"{"_id":"a","items":[{"id":"1","quantity":1.50}],"value":{"amount":904.240},"bids":null}"#);
            if let Some(Ok(merged)) = stored.map(|stored| merge_set(stored, set)) {
                published(id.clone(), &merged);
            }
        }
        MirrorOp::Delete { .. } => {}
    }
}

/// Clients split what they get at newlines, so whatever white space an upstream writes, a push is one line of JSON.
fn published(id: dzvin_protocols::platform::EntityId, doc: &RawValue) {
    let Ok(kind) = Kind::new("procedure") else { return };
    let change = Change {
        kind,
        id,
        revision: 2,
        offset: 7,
        op: Op::Update,
        at: time::OffsetDateTime::UNIX_EPOCH,
        by: "mirror:procedure".into(),
        changed: vec!["title".into()],
        doc: Some(doc.to_owned().into()),
        trace: None,
        fields: None,
    };
    let push = encode_push("entities.procedure", &change.publication(), 7);
    let push = String::from_utf8_lossy(&push);
    assert!(raw(&push).is_some() && !push.contains('\n'), "a push is one line of JSON: {push}");
}
