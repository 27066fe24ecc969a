//! What the hub's own publications and words are on this wire.

use std::{borrow::Cow, collections::BTreeMap};

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    Member, UserId,
    data::text_of_data,
    events::{
        MAX_EVENT, encode_channel_event, encode_client_event, encode_member_added, encode_member_removed,
        encode_subscription_count, encode_watchlist_events,
    },
};
use crate::channels::{Publication, Word, centrifuge::ClientInfo};

/// The tag of a publication that names its event.
pub const EVENT_TAG: &str = "event";
/// The event of a publication that names none: one of an application that speaks the other protocol.
pub const DEFAULT_EVENT: &str = "message";
/// The event of a changed entity.
pub const CHANGE_EVENT: &str = "change";
/// Longest data of an event on this wire, in bytes: what hosted Pusher takes, and its clients expect.
pub const MAX_DATA: usize = 10 * 1024;

/// A publication of the application as an event: its data is the text that it was published as.
#[must_use]
pub fn encode_publication(channel: &str, publication: &Publication) -> Vec<u8> {
    let extra = publication.extra.as_deref();
    // Servers of the other protocol may tag what they like; nobody but the hub speaks as the protocol itself.
    let ours = |name: &&str| ["pusher:", "pusher_internal:"].iter().any(|of| name.starts_with(of));
    let named = extra.and_then(|extra| extra.tags.get(EVENT_TAG));
    let event =
        named.filter(|name| !name.is_empty() && name.len() <= MAX_EVENT && !ours(name)).unwrap_or(DEFAULT_EVENT);
    encode_channel_event(event, channel, &text_of_data(&publication.data), None)
}

/// A change of an entity as an event. What is larger than this wire takes goes as a reference: without its document.
#[must_use]
pub fn encode_change(channel: &str, publication: &Publication) -> Vec<u8> {
    let data = std::str::from_utf8(&publication.data).unwrap_or_default();
    if data.len() <= MAX_DATA {
        return encode_channel_event(CHANGE_EVENT, channel, data, None);
    }
    encode_channel_event(CHANGE_EVENT, channel, &by_reference(data).unwrap_or_default(), None)
}

/// The same change without its document.
fn by_reference(data: &str) -> Option<String> {
    let mut members: BTreeMap<Cow<'_, str>, &RawValue> = serde_json::from_str(data).ok()?;
    let yes = serde_json::from_str("true").ok()?;
    members.remove("doc");
    members.insert("ref".into(), yes);
    serde_json::to_string(&members).ok()
}

/// A word on a channel, where this protocol has it: members come and go by user, not by client.
#[must_use]
pub fn encode_word(channel: &str, word: &Word) -> Option<Vec<u8>> {
    match word {
        Word::Join { info, first: true } => Some(encode_member_added(channel, &member(info)?).into_bytes()),
        Word::Leave { info, last: true } => {
            Some(encode_member_removed(channel, &UserId::new(&info.user).ok()?).into_bytes())
        }
        Word::Join { .. } | Word::Leave { .. } => None,
        Word::Event { event, data, user, .. } => {
            Some(encode_client_event(event, channel, data.as_deref(), user.as_deref()))
        }
        Word::Count { subscribers } => Some(encode_subscription_count(channel, *subscribers).into_bytes()),
        // Every node writes it as the publication that it is, and ends the connections of whoever is to begin anew.
        Word::Publication { .. } | Word::Anew { .. } => None,
    }
}

/// Whether a word of [`Channel::Online`](crate::channels::Channel::Online) says that the user has come (`true`) or gone; `None` when others of the
/// user's connections are there all the same.
#[must_use]
pub const fn is_online(word: &Word) -> Option<bool> {
    match word {
        Word::Join { first: true, .. } => Some(true),
        Word::Leave { last: true, .. } => Some(false),
        _ => None,
    }
}

/// The same as whoever watches the user is told it.
#[must_use]
pub fn encode_online(id: &str, word: &Word) -> Option<Vec<u8>> {
    let id = [UserId::new(id).ok()?];
    let (online, offline): (&[UserId], &[UserId]) = if is_online(word)? { (&id, &[]) } else { (&[], &id) };
    Some(encode_watchlist_events(online, offline).into_bytes())
}

/// A client of either protocol as a member of a presence channel.
#[must_use]
pub fn member(info: &ClientInfo) -> Option<Member> {
    let raw = info.chan_info.as_ref().or(info.conn_info.as_ref());
    let info_text = raw.and_then(|raw| std::str::from_utf8(raw).ok());
    let of_user =
        info_text.and_then(|text| Box::<RawValue>::deserialize(&mut serde_json::Deserializer::from_str(text)).ok());
    Some(Member { id: UserId::new(&info.user).ok()?, info: of_user })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use serde_json::{Value, json};

    use super::*;
    use crate::{channels::Extra, platform::EntityId};

    fn publication(data: &str, event: Option<&str>) -> Publication {
        let tags = event.map(|event| std::collections::BTreeMap::from([(EVENT_TAG.to_owned(), event.to_owned())]));
        let extra = tags.map(|tags| Arc::new(Extra { tags: tags.try_into().expect("tags"), ..Extra::default() }));
        let (id, data) = (EntityId::new("x").expect("id"), Bytes::copy_from_slice(data.as_bytes()));
        Publication { offset: 1, id, revision: 1, at: 0, data, trace: None, extra }
    }

    #[allow(clippy::needless_pass_by_value, reason = "a frame is read once, where it is made")]
    fn read(frame: Vec<u8>) -> Value {
        serde_json::from_slice(&frame).expect("json")
    }

    #[test]
    fn a_publication_is_the_text_that_it_was_published_as() {
        for (data, event, want) in [
            (r#"{"a": 1.50}"#, Some("hello"), json!({"event":"hello","channel":"c","data":"{\"a\": 1.50}"})),
            (r#""plain \"text\"""#, Some("hello"), json!({"event":"hello","channel":"c","data":"plain \"text\""})),
            ("7", None, json!({"event":"message","channel":"c","data":"7"})),
            // Of a server that whispers with its clients.
            ("7", Some("client-typing"), json!({"event":"client-typing","channel":"c","data":"7"})),
            ("7", Some("pusher:error"), json!({"event":"message","channel":"c","data":"7"})),
            ("7", Some("pusher_internal:member_added"), json!({"event":"message","channel":"c","data":"7"})),
        ] {
            assert_eq!(read(encode_publication("c", &publication(data, event))), want);
        }
    }

    #[test]
    fn a_large_change_goes_by_reference() {
        let small = r#"{"kind":"k","id":"x","doc":{"v":1.50}}"#;
        assert_eq!(read(encode_change("c", &publication(small, None)))["data"], small);
        let large = format!(r#"{{"kind":"k","id":"x","revision":3,"doc":{{"v":"{}"}}}}"#, "ї".repeat(MAX_DATA));
        let frame = read(encode_change("c", &publication(&large, None)));
        let data: Value = serde_json::from_str(frame["data"].as_str().expect("text")).expect("json");
        assert_eq!(data, json!({"kind":"k","id":"x","revision":3,"ref":true}));
    }

    #[test]
    fn members_come_and_go_by_user() {
        let info = |user: &str| ClientInfo {
            user: user.into(),
            client: "c1".into(),
            conn_info: None,
            chan_info: Some(Bytes::from_static(br#"{"name":"O"}"#)),
        };
        let word = |word| encode_word("presence-x", &word).map(read);
        let added = word(Word::Join { info: info("7"), first: true }).expect("told");
        assert_eq!(added["event"], "pusher_internal:member_added");
        assert_eq!(added["data"], r#"{"user_id":"7","user_info":{"name":"O"}}"#);
        assert!(word(Word::Join { info: info("7"), first: false }).is_none());
        assert!(word(Word::Leave { info: info("7"), last: false }).is_none());
        assert_eq!(
            word(Word::Leave { info: info("7"), last: true }).expect("told")["event"],
            "pusher_internal:member_removed"
        );
        assert!(word(Word::Join { info: info(""), first: true }).is_none(), "nobody is no member");
        let online = |word| encode_online("7", &word).map(read);
        for (said, told) in [
            (Word::Join { info: info("own/7"), first: true }, "online"),
            (Word::Leave { info: info("own/7"), last: true }, "offline"),
        ] {
            let frame = online(said).expect("told");
            assert_eq!(frame["event"], "pusher_internal:watchlist_events");
            assert_eq!(frame["data"], format!("{{\"events\":[{{\"name\":\"{told}\",\"user_ids\":[\"7\"]}}]}}"));
        }
        assert!(online(Word::Join { info: info("7"), first: false }).is_none());
        assert!(online(Word::Leave { info: info("7"), last: false }).is_none());
        assert_eq!(word(Word::Count { subscribers: 3 }).expect("told")["event"], "pusher_internal:subscription_count");
    }
}
