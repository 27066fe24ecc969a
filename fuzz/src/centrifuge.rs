//! Commands of the Centrifuge protocol in both forms, and what they carry.

use dzvin_protocols::channels::centrifuge::{
    About, Command, Form, MAX_FILTER_NODES, Payload, Pub, Request, TagFilter, is_json,
};
use serde_json::value::RawValue;

use super::text;

/// A text frame of commands: each line by itself reads as in the frame, and there are as many as lines that say something.
pub fn commands(data: &[u8]) {
    let frame = text(data);
    let decode = |text| Form::Json.decode(str::as_bytes(text));
    let together: Vec<Option<Command>> = decode(&frame).map(Result::ok).collect();
    let apart: Vec<Option<Command>> = frame.split('\n').flat_map(decode).map(Result::ok).collect();
    assert_eq!(together, apart, "a line does not depend on its neighbours");
    let lines = frame.split('\n').filter(|line| !line.trim_ascii().is_empty());
    assert_eq!(lines.clone().count(), together.len());
    for (line, command) in lines.zip(together) {
        let object = serde_json::from_str::<&RawValue>(line).is_ok_and(|value| value.get().starts_with('{'));
        assert!(object || command.is_none(), "only an object is a command: {line}");
        command.into_iter().for_each(|command| carried(&command, true));
    }
    // Bytes that are no text end as errors too.
    Form::Json.decode(data).for_each(drop);
}

/// A binary frame of commands: as many as lengths that fit, the same whatever follows; only the last may be cut.
pub fn protobuf(data: &[u8]) {
    let all: Vec<Result<Command, String>> = decode(data);
    assert!(all.len() <= data.len());
    let mut longer = data.to_vec();
    longer.extend_from_slice(b"\x00\x02\x08\x07");
    let more = decode(&longer);
    let whole = all.iter().take_while(|command| command.is_ok()).count();
    assert_eq!(all[..whole], more[..whole], "a command does not depend on what follows");
    if whole == all.len() {
        assert_eq!(more[whole..], decode(&longer[data.len()..]));
    }
    all.iter().flatten().for_each(|command| carried(command, false));
}

fn decode(frame: &[u8]) -> Vec<Result<Command, String>> {
    Form::Protobuf.decode(frame).map(|command| command.map_err(|error| error.to_string())).collect()
}

/// Payloads in JSON are JSON, and go out again in one line; filters are within their limits or refused.
fn carried(command: &Command, json: bool) {
    let data = match &command.request {
        Request::Connect(it) => &it.data,
        Request::Subscribe(it) => &it.data,
        Request::Publish(it) => &it.data,
        Request::Send { data } => data,
        Request::Rpc(it) => &it.data,
        _ => return,
    };
    assert!(!json || data.is_empty() || is_json(data));
    for (form, payload) in
        [(Form::Json, Payload::Raw(data)), (Form::Json, Payload::Full(data)), (Form::Protobuf, Payload::Patch(data))]
    {
        let mut out = Vec::new();
        form.push(&mut out, About::Channel("c"), &Pub::of(payload));
        if form == Form::Json && (is_json(data) || payload == Payload::Full(data)) {
            assert!(is_json(&out) && !out.contains(&b'\n'), "{}", out.escape_ascii());
        }
    }
    if let Request::Subscribe(subscribe) = &command.request
        && let Some(node) = &subscribe.tf
    {
        let nodes = format!("{node:?}").matches("FilterNode").count();
        match TagFilter::new((**node).clone()) {
            Ok(filter) => {
                assert!(nodes <= MAX_FILTER_NODES);
                for tag in [None, Some(""), Some("1.50"), Some("-0.0"), Some("UA")] {
                    filter.matches(|_| tag);
                }
            }
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
}
