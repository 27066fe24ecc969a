//! What comes in by the side: commands by requests of their own, what a client of the Pusher protocol says in its address, and for whom
//! the hub has signed.

use bytes::Bytes;
use dzvin_protocols::{
    channels::{
        centrifuge::{EmulationRequest, Form, pack_commands, unpack_commands},
        pusher::{
            Bearer, NEWEST_PROTOCOL, OLDEST_PROTOCOL, SocketId, UserId, check_handshake, data_of_text, text_of_data,
        },
    },
    platform::trace_id,
};
use serde_json::value::RawValue;

use super::text;

/// The input is a body of commands in both forms, the query of an address, a socket's id, a user's id, and the data of an event.
pub fn edges(data: &[u8]) {
    for form in [Form::Json, Form::Protobuf] {
        let Ok(request) = EmulationRequest::parse(form, Bytes::copy_from_slice(data)) else { continue };
        let shown = format!("{request:?}");
        let secret = request.session.len() > 8 && !request.node.contains(&request.session);
        assert!(!secret || !shown.contains(&request.session), "the session's name is nobody's: {shown}");
        for form in [Form::Json, Form::Protobuf] {
            let Some(packed) = pack_commands(form, request.data.clone()) else { continue };
            assert_eq!(unpack_commands(form, &packed), Some(request.data.clone()), "what is packed is unpacked");
        }
    }
    let text = text(data);
    drop(unpack_commands(Form::Protobuf, &text));
    if let Ok(protocol) = check_handshake(&text) {
        assert!((OLDEST_PROTOCOL..=NEWEST_PROTOCOL).contains(&protocol));
    }
    if let Some(id) = SocketId::parse(&text) {
        assert_eq!(id.as_str(), text);
        assert!(text.bytes().all(|b| b.is_ascii_digit() || b == b'.'));
    }
    if let Ok(id) = UserId::new(&text) {
        assert!(id.as_str() == text && !text.chars().any(char::is_control));
    }
    if let Ok(bearer) = Bearer::read(&text) {
        // An object of the protocol's stays readable with a bearer in it, whoever else is named there.
        let it = bearer.unwrap_or_default();
        assert_eq!(Bearer::read(&it.written_into(None)), Ok(Some(it)), "a bearer reads back");
    }
    assert!(trace_id(&text).is_none_or(|id| id.len() == 32));
    let stored = data_of_text(&text);
    assert!(serde_json::from_str::<&RawValue>(&stored).is_ok(), "an event's data is kept as JSON: {stored}");
    assert_eq!(text_of_data(stored.as_bytes()), text, "and told as it was said");
}
