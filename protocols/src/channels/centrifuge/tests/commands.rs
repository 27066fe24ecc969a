//! Commands in both forms.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;
use prost::Message as _;

use super::{
    super::{
        command::Wire,
        requests::{OfChannel, OfData, OfNothing, OfToken},
        *,
    },
    unhex,
};

fn one(frame: &str) -> Request {
    Form::Json.decode(frame.as_bytes()).next().expect("a command").expect("well formed").request
}

#[test]
fn a_frame_holds_several_commands() {
    let frame = "{\"id\":1,\"connect\":{\"token\":\"t\",\"x\":[]}}\n\n{}\n{\"id\":2,\"subscribe\":{\"channel\":\"c\",\"recover\":true,\"epoch\":\"e\",\"offset\":18446744073709551615,\"flag\":3}}\n";
    let got: Vec<Command> = commands(frame).map(|c| c.expect("well formed")).collect();
    assert_eq!(got.len(), 3);
    assert!(matches!(&got[0], Command { id: 1, request: Request::Connect(c) } if c.token == "t"));
    assert_eq!(got[1].request, Request::Pong);
    let Request::Subscribe(subscribe) = &got[2].request else { panic!("{got:?}") };
    assert!(subscribe.recover && subscribe.rejects_unrecovered() && subscribe.takes_numbers());
    assert_eq!(subscribe.offset, u64::MAX);
}

#[test]
fn the_first_that_is_present_wins() {
    assert_eq!(
        one(r#"{"id":1,"connect":null,"unsubscribe":{"channel":"c"}}"#),
        Request::Unsubscribe { channel: "c".into() }
    );
    assert_eq!(one(r#"{"send":{"data":1}}"#), Request::Send { data: Bytes::from_static(b"1") });
    assert_eq!(one(r#"{"id":9,"future":{}}"#), Request::Unknown);
    assert_eq!(one(r#"{"id":0}"#), Request::Pong);
    assert_eq!(one(r#"{"id":1,"ping":{"x":1}}"#), Request::Ping);
}

#[test]
fn null_is_nothing_given() {
    let connect = r#"{"id":1,"connect":{"token":null,"data":1,"subs":null,"name":null,"version":null,"headers":null,"flag":null}}"#;
    assert_eq!(one(connect), one(r#"{"id":1,"connect":{"data":1}}"#));
    let node = r#"{"op":null,"key":"lot","cmp":"ex","val":null,"vals":null,"nodes":null}"#;
    let subscribe = |rest: &str| one(&format!(r#"{{"id":2,"subscribe":{{"channel":"c"{rest}}}}}"#));
    let given = format!(
        r#","token":null,"recover":null,"epoch":null,"offset":null,"delta":null,"flag":null,"type":null,"tf":{node}"#
    );
    assert_eq!(subscribe(&given), subscribe(r#","tf":{"key":"lot","cmp":"ex"}"#));
    let history = r#"{"id":3,"history":{"channel":"c","limit":null,"reverse":null,"since":{"offset":2,"epoch":null}}}"#;
    assert_eq!(one(history), one(r#"{"id":3,"history":{"channel":"c","since":{"offset":2}}}"#));
    assert_eq!(one(r#"{"id":null}"#), Request::Pong);
}

#[test]
fn payloads_stay_as_they_are_written() {
    let Request::Publish(publish) = one(r#"{"id":1,"publish":{"channel":"c","data":{ "v": 1.50e0 }}}"#) else {
        panic!("a publish")
    };
    assert_eq!(publish.data, r#"{ "v": 1.50e0 }"#);
    let Request::Rpc(rpc) = one(r#"{"id":1,"rpc":{"method":"m"}}"#) else { panic!("an rpc") };
    assert!(rpc.data.is_empty());
}

#[test]
fn hostile_frames_are_errors() {
    let deep = format!("{{\"id\":1,\"rpc\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    let nested = format!("{{\"id\":1,\"subscribe\":{{\"tf\":{}{}}}}}", "{\"nodes\":[".repeat(1000), "]}".repeat(1000));
    for bad in [
        "x",
        "[]",
        "{\"id\":-1}",
        "{\"id\":4294967296}",
        "{\"id\":1,\"subscribe\":{\"offset\":-1}}",
        "{\"id\":\"1\"}",
        "{\"id\":1e300}",
        "{\"id\":1,\"publish\":{\"data\":}}",
        &nested,
    ] {
        assert!(commands(bad).next().expect("a line").is_err(), "{bad}");
    }
    let _ = commands(&deep).next().expect("a line");
    assert!(Form::Json.decode(b"{\"id\":1,\"rpc\":{\"method\":\"\xff\"}}").next().expect("a line").is_err());
    for (bad, rest) in [
        (&b"\x05\x08\x01"[..], 0),
        (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 0),
        (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\x08", 0),
        (b"\x80", 0),
        (b"\x02\x0a\x05\x00", 1),
        (b"\x04\x08\x01\x22\x7f\x00", 1),
        (b"\x05\x08\x01\x22\x02\x0a\xff\x00", 1),
    ] {
        let mut all = Form::Protobuf.decode(bad);
        assert!(all.next().expect("a message").is_err(), "{}", bad.escape_ascii());
        assert_eq!(all.count(), rest, "{}", bad.escape_ascii());
    }
    // A tree of filters deeper than the reader goes.
    let mut node = Vec::new();
    for _ in 0..1000 {
        let mut outer = vec![0x32];
        prost::encoding::encode_varint(node.len() as u64, &mut outer);
        outer.append(&mut node);
        node = outer;
    }
    assert!(FilterNode::decode(&node[..]).is_err());
}

/// Every command with every field, as another implementation (npm `protobufjs` with the published schema) encodes them.
#[test]
fn both_forms_of_the_golden_commands_are_equal() {
    let json = include_str!("../../../../../tests/fixtures/centrifuge/commands.v2.jsonl");
    let protobuf = include_str!("../../../../../tests/fixtures/centrifuge/commands.v2.protobuf.hex");
    assert_eq!(json.lines().count(), protobuf.lines().count());
    let mut frame = Vec::new();
    for (json, protobuf) in json.lines().zip(protobuf.lines()) {
        let bytes = unhex(protobuf);
        let got = Form::Protobuf.decode(&bytes).next().expect("a message").expect(json);
        assert_eq!(got, commands(json).next().expect("a line").expect(json), "{json}");
        assert_ne!(got.request, Request::Unknown);
        frame.extend(bytes);
    }
    let whole: Vec<Command> = commands(json).map(|c| c.expect("well formed")).collect();
    assert_eq!(Form::Protobuf.decode(&frame).map(|c| c.expect("well formed")).collect::<Vec<_>>(), whole);
}

fn text() -> impl Strategy<Value = String> {
    "[a-zд😀]{0,12}"
}

fn data() -> impl Strategy<Value = Bytes> {
    proptest::collection::vec(any::<u8>(), 0..40).prop_map(Bytes::from)
}

fn subscribe() -> impl Strategy<Value = SubscribeRequest> {
    let texts = (text(), text(), text(), text(), data());
    let node = (text(), text(), proptest::collection::vec(text(), 0..3), any::<bool>());
    let node = node.prop_map(|(key, val, vals, deep)| {
        let leaf = FilterNode { key, val, vals, cmp: "eq".into(), ..FilterNode::default() };
        if deep { FilterNode { op: "not".into(), nodes: vec![leaf], ..FilterNode::default() } } else { leaf }
    });
    (texts, any::<[bool; 4]>(), any::<(u64, i64, i32)>(), proptest::option::of(node)).prop_map(
        |(
            (channel, token, epoch, delta, data),
            [recover, positioned, recoverable, join_leave],
            (offset, flag, kind),
            tf,
        )| {
            let tf = tf.map(Box::new);
            SubscribeRequest {
                channel,
                token,
                recover,
                epoch,
                offset,
                data,
                positioned,
                recoverable,
                join_leave,
                delta,
                tf,
                flag,
                kind,
            }
        },
    )
}

fn wire() -> impl Strategy<Value = Wire> {
    let map = |all: Vec<(String, SubscribeRequest)>| all.into_iter().collect::<BTreeMap<_, _>>();
    let subs = proptest::collection::vec((text(), subscribe()), 0..3).prop_map(map);
    let headers = proptest::collection::btree_map(text(), text(), 0..3);
    let connect = (text(), data(), subs, text(), text(), headers, any::<i64>()).prop_map(
        |(token, data, subs, name, version, headers, flag)| ConnectRequest {
            token,
            data,
            subs,
            name,
            version,
            headers,
            flag,
        },
    );
    let none = Wire::default;
    prop_oneof![
        Just(none()),
        connect.prop_map(move |it| Wire { connect: Some(it), ..none() }),
        subscribe().prop_map(move |it| Wire { subscribe: Some(it), ..none() }),
        text().prop_map(move |channel| Wire { unsubscribe: Some(OfChannel { channel }), ..none() }),
        (text(), data(), any::<i32>()).prop_map(move |(channel, data, kind)| Wire {
            publish: Some(PublishRequest { channel, data, kind }),
            ..none()
        }),
        text().prop_map(move |channel| Wire { presence: Some(OfChannel { channel }), ..none() }),
        text().prop_map(move |channel| Wire { presence_stats: Some(OfChannel { channel }), ..none() }),
        (text(), any::<i64>(), proptest::option::of((any::<u64>(), text())), any::<bool>()).prop_map(
            move |(channel, limit, since, reverse)| {
                let since = since.map(|(offset, epoch)| Since { offset, epoch });
                Wire { history: Some(HistoryRequest { channel, limit, since, reverse }), ..none() }
            }
        ),
        Just(Wire { ping: Some(OfNothing {}), ..none() }),
        data().prop_map(move |data| Wire { send: Some(OfData { data }), ..none() }),
        (data(), text()).prop_map(move |(data, method)| Wire { rpc: Some(RpcRequest { data, method }), ..none() }),
        text().prop_map(move |token| Wire { refresh: Some(OfToken { token }), ..none() }),
        (text(), text(), any::<i32>()).prop_map(move |(channel, token, kind)| Wire {
            sub_refresh: Some(SubRefreshRequest { channel, token, kind }),
            ..none()
        }),
    ]
}

proptest! {
    #[test]
    fn any_text_is_a_value(text in "\\PC{0,300}") {
        for command in commands(&text) { let _ = command; }
    }

    #[test]
    fn any_bytes_are_values(bytes: Vec<u8>, cut in 0usize..200, flip in any::<(prop::sample::Index, u8)>(), all in proptest::collection::vec(wire(), 1..4)) {
        for form in [Form::Json, Form::Protobuf] {
            prop_assert!(form.decode(&bytes).count() <= bytes.len());
        }
        let mut frame: Vec<u8> = all.iter().flat_map(Wire::encode_length_delimited_to_vec).collect();
        let at = flip.0.index(frame.len());
        frame[at] ^= flip.1;
        for command in Form::Protobuf.decode(&frame[..cut.min(frame.len())]) { let _ = command; }
    }

    #[test]
    fn commands_in_protobuf_read_back(all in proptest::collection::vec((any::<u32>(), wire()), 0..4)) {
        let all: Vec<Wire> = all.into_iter().map(|(id, wire)| Wire { id, ..wire }).collect();
        let frame: Vec<u8> = all.iter().flat_map(Wire::encode_length_delimited_to_vec).collect();
        let got: Vec<Command> = Form::Protobuf.decode(&frame).map(|c| c.expect("well formed")).collect();
        prop_assert_eq!(got, all.into_iter().map(Command::from).collect::<Vec<_>>());
    }
}
