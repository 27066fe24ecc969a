//! The Pusher protocol: events of clients, and signed calls of the HTTP API.

use dzvin_protocols::channels::{
    Channel,
    pusher::{
        Credentials, Event, Grant, Keyring, MAX_EVENT, MAX_NAME, MAX_USER_ID, MAX_WATCHLIST, Member, Name, SocketId,
        Target, User, decode, encode_client_event,
        http_api::{Publish, PublishLimits, Query, SignatureError, parse_batch, parse_events, sign_query},
    },
};
use serde_json::value::RawValue;

use super::{options, text};

/// Byte one, by eight, is the limit of a client event's data and of a user's info; the rest is a frame.
///
/// Only an object is an event; a client event is within its limits and reads back from what is relayed; each refusal has an
/// answer that is JSON; names and people that are read are within theirs.
pub fn pusher_events(data: &[u8]) {
    let ([limit], rest) = options::<1>(data);
    let (limit, frame) = (usize::from(limit) * 8, text(rest));
    let event = match decode(&frame, limit) {
        Ok(event) => event,
        Err(error) => return assert!(is_object(&error.frame()), "{error}"),
    };
    assert!(is_object(&frame), "only an object is an event: {frame}");
    match event {
        Event::Subscribe(subscribe) => {
            name(&subscribe.channel);
            people(&subscribe.channel_data.unwrap_or_default(), limit);
        }
        Event::Unsubscribe { channel } => name(&channel),
        Event::SignIn { user_data, .. } => people(&user_data, limit),
        Event::Client { event, channel, data } => {
            name(&channel);
            assert!(event.starts_with("client-") && event.len() <= MAX_EVENT);
            assert!(data.is_none_or(|data| data.get().len() <= limit));
            let relayed = encode_client_event(&event, &channel, data, Some("u"));
            let relayed = text(&relayed);
            let Ok(Event::Client { event: e, channel: c, data: d }) = decode(&relayed, limit) else {
                panic!("a relayed event reads back: {relayed}")
            };
            assert_eq!((e, c, d.map(RawValue::get)), (event, channel, data.map(RawValue::get)));
        }
        Event::Ping | Event::Pong | Event::Unknown => {}
    }
}

fn is_object(text: &str) -> bool {
    serde_json::from_str::<&RawValue>(text).is_ok_and(|value| value.get().starts_with('{'))
}

fn name(text: &str) {
    let Ok(name) = Name::parse(text) else { return };
    assert_eq!(name.as_str(), text);
    match name.target() {
        Target::User(id) => assert!(id.as_str().len() <= MAX_USER_ID && name.grant() == Grant::SignIn),
        Target::Channel(Channel::Application(whole)) => assert!(**whole == *text && text.len() <= MAX_NAME),
        Target::Channel(hubs) => {
            assert!(text.ends_with(&hubs.to_string()) && text.starts_with("private-"), "an alias: {text}");
            assert!(name.grant() == Grant::SignIn && !name.carries_client_events(), "never by a signature: {text}");
        }
    }
}

fn people(text: &str, limit: usize) {
    if let Ok(member) = Member::parse(text, limit) {
        assert!(member.info.as_ref().is_none_or(|info| info.get().len() <= limit));
        let again = Member::parse(&member.channel_data(), limit).map(|again| again.id);
        assert_eq!(again, Ok(member.id), "a member reads back");
    }
    if let Ok(user) = User::parse(text, limit) {
        assert!(user.watchlist.len() <= MAX_WATCHLIST && user.member.id.as_str().len() <= MAX_USER_ID);
    }
}

/// Three lines: the path, the query string, the body. What is missing is empty.
///
/// Nothing is accepted without our secret: a call is good only as we would sign it ourselves. A body that is read is within
/// its limits and publishes on no channel of the hub.
pub fn pusher_http(data: &[u8]) {
    const NOW: i64 = 1_353_088_179;
    let mut lines = data.splitn(3, |byte| *byte == b'\n');
    let [path, raw, body] = [(); 3].map(|()| lines.next().unwrap_or_default());
    let (path, raw) = (text(path), text(raw));
    let Ok(credentials) = Credentials::new("278d425bdf160c739803", "7ad3773142a6692b25b8") else { return };
    let keys = Keyring::new(credentials.clone(), Vec::new());
    if let Ok(query) = Query::parse(&raw) {
        let verdict = query.verify("POST", &path, body, &keys, NOW);
        let stranger = Credentials::new("278d425bdf160c739803", "another").map(|other| Keyring::new(other, Vec::new()));
        assert!(stranger.is_ok_and(|keys| query.verify("POST", &path, body, &keys, NOW).is_err()));
        if verdict.is_ok() {
            let again = query.verify("GET", &path, body, &keys, NOW);
            assert_eq!(again, Err(SignatureError::Signature), "the method is signed");
            assert!(query.verify("POST", &path, &[body, b" "].concat(), &keys, NOW).is_err(), "the body is signed");
        }
        let filter = query.get("filter_by_prefix").unwrap_or_default();
        let signed = sign_query("POST", &path, &[("filter_by_prefix", filter)], body, &credentials, NOW);
        // Escapes may make a filter longer than what is read.
        if let Ok(signed) = Query::parse(&signed) {
            assert_eq!(signed.get("filter_by_prefix"), Some(filter));
            assert_eq!(signed.verify("POST", &path, body, &keys, NOW), Ok(()), "what is signed is accepted");
        }
    }
    let limits = PublishLimits { data: 64, ..PublishLimits::default() };
    if let Ok(publish) = parse_events(body, &limits) {
        within(&publish, &limits);
    }
    if let Ok(batch) = parse_batch(body, &limits) {
        assert!((1..=limits.batch).contains(&batch.len()));
        batch.iter().for_each(|publish| within(publish, &limits));
    }
}

fn within(publish: &Publish, limits: &PublishLimits) {
    assert!(publish.data.len() <= limits.data && (1..=MAX_EVENT).contains(&publish.name.len()));
    assert!((1..=limits.channels).contains(&publish.channels.len()));
    assert!(publish.channels.iter().all(|channel| !channel.is_reserved()), "the hub alone publishes there");
    let id = publish.socket_id.as_ref();
    assert!(id.is_none_or(|id| SocketId::parse(id.as_str()).as_ref() == Some(id)));
}
