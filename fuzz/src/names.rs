//! The bus form of publications, names of channels, cursors of lists.

use bytes::Bytes;
use dzvin_protocols::{
    channels::{Channel, IdKey, MAX_CHANNEL, Publication, RESERVED, centrifuge::encode_push},
    entities::{MAX_CURSOR, PageCursor},
    platform::{EntityId, Kind},
};

use super::{options, text};

/// What decodes encodes and decodes to the same; its push is well-formed when its data is.
pub fn bus_form(data: &[u8]) {
    let Ok(publication) = Publication::decode(&Bytes::copy_from_slice(data)) else { return };
    let again = Publication::decode(&publication.encode());
    assert_eq!(again.as_ref(), Ok(&publication));
    if serde_json::from_slice::<&serde_json::value::RawValue>(&publication.data).is_ok() {
        let push = encode_push("entities.procedure", &publication, publication.revision);
        assert!(serde_json::from_slice::<&serde_json::value::RawValue>(&push).is_ok(), "a push is JSON");
    }
}

/// Byte one chooses the kind; the rest is a channel's name, and an entity's id.
pub fn channels(data: &[u8]) {
    let ([kind], rest) = options::<1>(data);
    let text = text(rest);
    if let Ok(channel) = Channel::parse(&text) {
        assert_eq!(channel.to_string(), *text, "a name reads back");
        assert!(text.len() <= MAX_CHANNEL);
        let first = text.split('.').next().unwrap_or_default();
        let others = matches!(channel, Channel::Application(_) | Channel::User(_));
        assert_eq!(others, !RESERVED.contains(&first), "reserved is ours");
    }
    let name = ["procedure", "a", "registry-object", "k0123456789-0123456789-0123456789-01234567"];
    let (Ok(kind), Ok(id)) = (Kind::new(name[usize::from(kind) % name.len()]), EntityId::new(&text)) else { return };
    let key = IdKey::of(&id);
    assert_eq!(IdKey::parse(key.as_str()).as_ref(), Some(&key));
    assert!(key.id().is_none_or(|plain| plain == id), "a key that is an id is this id");
    assert_eq!(key.is_hashed(), key.id().is_none());
    let channel = Channel::of_entity(&kind, &id);
    assert_eq!(Channel::parse(&channel.to_string()), Ok(channel), "every entity has a channel");
}

/// A cursor that is read is written back to the same text, and can stand in a JSON answer as it is.
pub fn cursors(data: &[u8]) {
    let text = text(data);
    let Some(cursor) = PageCursor::parse(&text) else { return };
    assert_eq!(cursor.to_string(), *text);
    assert!(text.len() <= MAX_CURSOR && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'.'), "{text}");
}
