//! Replies and pushes in both forms.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;

use super::{
    super::*,
    hex,
    reader::{self, read},
};
use crate::{
    channels::{Epoch, Publication, fossil},
    platform::EntityId,
};

const BOTH: [Form; 2] = [Form::Json, Form::Protobuf];

fn publication() -> Publication {
    let data = Bytes::from_static("{\"doc\":{\"title\":\"<b>Лот</b>\",\"v\":1.50}}".as_bytes());
    let id = EntityId::new("a").expect("id");
    Publication { offset: 7, id, revision: 2, at: 0, data, trace: Some("00-aa-bb-01".into()), extra: None }
}

fn info() -> ClientInfo {
    let (conn_info, chan_info) = (Some(Bytes::from_static(b"{\"n\":1}")), Some(Bytes::from_static(b"[]")));
    ClientInfo { user: "olha".into(), client: "c1".into(), conn_info, chan_info }
}

fn tags() -> Tags {
    let all = [("lot", "UA-1"), ("traceparent", "theirs")].map(|(k, v)| (k.to_owned(), v.to_owned()));
    BTreeMap::from(all).try_into().expect("tags")
}

/// The wire form is a contract: the files under `tests/fixtures/centrifuge` stay as they are for ever.
#[test]
fn texts_equal_their_golden_file() {
    let epoch = Epoch::new("e1");
    let it = publication();
    let connect = ConnectResult {
        client: "c1",
        version: "dzvin 0.1.0",
        expires: true,
        ttl: 60,
        ping: 25,
        pong: true,
        ..ConnectResult::default()
    };
    let recovered = SubscribeResult {
        recoverable: true,
        positioned: true,
        epoch: epoch.as_str(),
        offset: 6,
        publications: vec![Pub::new(&it, 7)],
        recovered: true,
        was_recovering: true,
        ..SubscribeResult::default()
    };
    let history = HistoryResult { publications: vec![], epoch: epoch.as_str(), offset: 0 };
    let got = [
        encode_ok(1, "connect", &connect),
        encode_ok(2, "subscribe", &recovered),
        encode_ok(3, "history", &history),
        encode_error(4, ErrorCode::PermissionDenied),
        encode_error(5, ErrorCode::Internal),
        String::from_utf8(encode_push("entities.procedure", &it, 7)).expect("text"),
        encode_unsubscribe_push("entities.procedure", Unsubscribe::InsufficientState),
    ]
    .join("\n");
    assert_eq!(got, include_str!("../../../../../tests/fixtures/centrifuge/replies.v2.jsonl").trim_end());
}

/// Every reply and push with every field, each by itself.
fn every(form: Form) -> Vec<Vec<u8>> {
    let (info, tags) = (info(), tags());
    let before = "{\"title\":\"Лот перший\",\"price\":100}".repeat(4);
    let after = before.replacen("100", "101", 1);
    let patch = fossil::shorter(before.as_bytes(), after.as_bytes()).expect("shorter");
    let whole = Pub {
        offset: 7,
        info: Some(&info),
        tags: Some(&tags),
        trace: Some("00-aa-bb-01"),
        time: 1_700_000_000_123,
        ..Pub::of(Payload::Raw(b"{\n\"a\":\r\n1.50}"))
    };
    let (full, delta) = (Pub::of(Payload::Full(before.as_bytes())), Pub::of(Payload::Patch(&patch)));
    let subscribe = SubscribeResult {
        expires: true,
        ttl: 9,
        recoverable: true,
        positioned: true,
        epoch: "e1",
        offset: u64::MAX,
        publications: vec![Pub { offset: 5, ..full }, Pub { offset: 6, ..delta }],
        recovered: true,
        was_recovering: true,
        data: b"{\"d\":1}",
        delta: true,
        id: 300,
    };
    let connect = ConnectResult {
        client: "c1",
        version: "dzvin 0.1.0",
        expires: true,
        ttl: 60,
        data: b"{\"hello\":\"\xd0\xb4\"}",
        subs: vec![("inbox.olha", subscribe.clone()), ("news", SubscribeResult::default())],
        ping: 25,
        pong: true,
        session: "s1",
        node: "n1",
        time: 1_700_000_000_123,
    };
    let nobody = ClientInfo { user: "".into(), client: "c2".into(), conn_info: None, chan_info: None };
    let news = About::Channel("news");
    let mut all = Vec::new();
    let mut add = |write: &dyn Fn(&mut Vec<u8>)| {
        let mut out = Vec::new();
        write(&mut out);
        all.push(out);
    };
    add(&|out| form.ping(out));
    add(&|out| form.reply(out, 1, &connect));
    add(&|out| form.reply(out, 2, &subscribe));
    add(&|out| form.reply(out, 3, &SubscribeResult::default()));
    add(&|out| form.reply(out, 4, &UnsubscribeResult));
    add(&|out| form.reply(out, 5, &PublishResult));
    add(&|out| form.reply(out, 6, &PresenceResult { clients: vec![&info, &nobody] }));
    add(&|out| form.reply(out, 7, &PresenceResult::default()));
    add(&|out| form.reply(out, 8, &PresenceStatsResult { num_clients: 2, num_users: 1 }));
    add(&|out| form.reply(out, 9, &PresenceStatsResult::default()));
    add(&|out| form.reply(out, 10, &HistoryResult { publications: vec![whole], epoch: "e1", offset: 7 }));
    add(&|out| form.reply(out, 11, &HistoryResult::default()));
    add(&|out| form.reply(out, 12, &PingResult));
    add(&|out| form.reply(out, 13, &RpcResult { data: b"{\"ok\":true}" }));
    add(&|out| form.reply(out, 14, &RpcResult::default()));
    add(&|out| form.reply(out, 15, &RefreshResult { client: "c1", version: "v", expires: true, ttl: 3600 }));
    add(&|out| form.reply(out, 16, &SubRefreshResult { expires: true, ttl: 3600 }));
    add(&|out| form.error(out, 17, ErrorCode::PermissionDenied));
    add(&|out| form.error(out, u32::MAX, ErrorCode::TooManyRequests));
    add(&|out| form.error(out, 18, ReplyError { code: 404, message: "немає «такого\"", temporary: false }));
    add(&|out| form.push(out, news, &whole));
    add(&|out| form.push(out, About::Number(300), &full));
    add(&|out| form.push(out, news, &Pub { offset: 8, ..delta }));
    add(&|out| form.push(out, news, &Join { info: &info }));
    add(&|out| form.push(out, news, &Leave { info: &nobody }));
    add(&|out| form.push(out, news, &UnsubscribePush::from(Unsubscribe::Expired)));
    add(&|out| form.push(out, About::Connection, &Message { data: b"[1,2]" }));
    let pushed = SubscribePush { recoverable: true, epoch: "e1", offset: 3, positioned: true, data: b"1" };
    add(&|out| form.push(out, news, &pushed));
    add(&|out| form.push(out, About::Connection, &ConnectPush(&connect)));
    add(&|out| form.push(out, About::Connection, &DisconnectPush::from(Disconnect::Shutdown)));
    add(&|out| form.push(out, About::Connection, &RefreshPush { expires: true, ttl: 60 }));
    all
}

/// The wire form is a contract: the files under `tests/fixtures/centrifuge` stay as they are for ever.
#[test]
fn every_message_equals_its_golden_line() {
    let json: Vec<_> = every(Form::Json).into_iter().map(|line| String::from_utf8(line).expect("text")).collect();
    let protobuf: Vec<_> = every(Form::Protobuf).iter().map(|message| hex(message)).collect();
    assert_eq!(json.join("\n") + "\n", include_str!("../../../../../tests/fixtures/centrifuge/messages.v2.jsonl"));
    assert_eq!(
        protobuf.join("\n") + "\n",
        include_str!("../../../../../tests/fixtures/centrifuge/messages.v2.protobuf.hex")
    );
}

/// All publications of a message.
fn publications(message: &mut reader::Reply) -> Vec<&mut reader::Publication> {
    let push = message.push.as_mut().map(|push| (push.r#pub.as_mut(), push.connect.as_mut()));
    let (pushed, connected) = push.unwrap_or_default();
    let subs = message.connect.iter_mut().flat_map(|it| it.subs.values_mut());
    let subs = subs.chain(connected.into_iter().flat_map(|it| it.subs.values_mut()));
    let subscribes = subs.chain(message.subscribe.iter_mut());
    let history = message.history.iter_mut().flat_map(|it| it.publications.iter_mut());
    subscribes.flat_map(|it| it.publications.iter_mut()).chain(pushed).chain(history).collect()
}

#[test]
fn both_forms_say_the_same() {
    for (json, protobuf) in every(Form::Json).into_iter().zip(every(Form::Protobuf)) {
        let (mut json, mut protobuf) = (read(Form::Json, &json), read(Form::Protobuf, &protobuf));
        assert_eq!((json.len(), protobuf.len()), (1, 1));
        for publication in publications(&mut json[0]) {
            // On a subscription with deltas the payload's text is a string of JSON.
            if let Ok(text) = serde_json::from_slice::<String>(&publication.data) {
                publication.data = text.into();
            }
        }
        for publication in publications(&mut protobuf[0]).into_iter().filter(|it| it.info.is_some()) {
            // JSON messages have no newline inside.
            publication.data = String::from_utf8_lossy(&publication.data).replace(['\n', '\r'], " ").into();
        }
        assert_eq!(json, protobuf);
    }
}

#[test]
fn several_messages_are_one_frame() {
    for form in BOTH {
        let (mut apart, mut together) = (Vec::new(), Vec::new());
        for message in every(form) {
            form.join(&mut apart, &message);
        }
        form.ping(&mut together);
        form.reply(&mut together, 4, &UnsubscribeResult);
        form.push(&mut together, About::Channel("c"), &Pub::of(Payload::Raw(b"1")));
        assert_eq!(read(form, &apart).len(), every(form).len());
        let got = read(form, &together);
        assert_eq!((got.len(), &got[0], got[1].id), (3, &reader::Reply::default(), 4));
        assert_eq!(got[2].push.as_ref().expect("push").channel, "c");
    }
}

#[test]
fn what_is_not_json_goes_out_as_null() {
    let (mut out, broken) = (Vec::new(), Pub::of(Payload::Raw(b"{")));
    Form::Json.reply(&mut out, 1, &HistoryResult { publications: vec![broken], epoch: "e", offset: 1 });
    assert_eq!(read(Form::Json, &out)[0].history.as_ref().expect("history").publications[0].data, "null");
    assert!(is_json(b" {\"a\":1} ") && !is_json(b"{") && !is_json(b"\"\xff\"") && !is_json(b"") && !is_json(b"1 2"));
}

#[test]
fn lengths_of_every_size_stand_before_their_messages() {
    for size in [0, 1, 100, 126, 127, 128, 16_370, 16_383, 16_384, 2_097_151, 2_097_152] {
        let (data, mut out) = (vec![b'1'; size], Vec::new());
        Form::Protobuf.push(&mut out, About::Channel("c"), &Pub { offset: 1, ..Pub::of(Payload::Raw(&data)) });
        let got = read(Form::Protobuf, &out).remove(0).push.and_then(|push| push.r#pub).expect("a publication");
        assert!(got.data == data && got.offset == 1, "{size}");
    }
}

proptest! {
    #[test]
    fn publications_read_back(
        channel in "\\PC{0,20}", offset: u64, time in 0u64..1 << 60, data: Vec<u8>, text in "\\PC{0,300}",
        all in proptest::collection::btree_map("\\PC{1,8}", "\\PC{0,8}", 0..4), user in "\\PC{0,8}", how in 0u8..3,
    ) {
        let tags = Tags::try_from(all.clone()).expect("tags");
        let info = ClientInfo { user: user.as_str().into(), client: "c".into(), conn_info: None, chan_info: None };
        for form in BOTH {
            let quoted = serde_json::to_string(&text).expect("text");
            let bytes = if form == Form::Protobuf { &data[..] } else if how == 0 { quoted.as_bytes() } else { text.as_bytes() };
            let payload = [Payload::Raw(bytes), Payload::Full(bytes), Payload::Patch(bytes)][usize::from(how)];
            let it = Pub { offset, time, info: Some(&info), tags: Some(&tags), ..Pub::of(payload) };
            let mut out = Vec::new();
            form.push(&mut out, About::Channel(&channel), &it);
            form.reply(&mut out, 9, &SubscribeResult { publications: vec![it], ..SubscribeResult::default() });
            let got = read(form, &out);
            prop_assert_eq!(got.len(), 2);
            let push = got[0].push.clone().expect("push");
            prop_assert_eq!(&push.channel, &channel);
            let got = [push.r#pub.expect("pub"), got[1].subscribe.clone().expect("subscribe").publications.remove(0)];
            let expected = reader::Publication {
                data: if form == Form::Protobuf { data.clone().into() } else { quoted.into() },
                info: Some(reader::Info { user: user.clone(), client: "c".into(), ..Default::default() }),
                offset,
                tags: all.clone(),
                delta: how == 2,
                time: i64::try_from(time).expect("in range"),
            };
            prop_assert_eq!(&got, &[expected.clone(), expected]);
        }
    }
}
