//! What servers publish: events, batches, and what is too much of either.

use dzvin_actors::{
    channels::{ChannelRules, PaceRules},
    platform::ports::{Across, ChannelPace},
};
use dzvin_protocols::channels::pusher::SocketId;

use super::*;

#[tokio::test]
async fn an_event_reaches_each_of_its_channels_as_the_text_that_was_given() {
    let kit = Kit::new();
    for data in [r#"{"a": 1.50}"#, "plain ї text", r#""a string""#, "", "7", "{\n \"pretty\": true\n}", " 1"] {
        let (status, answer) =
            kit.post("/events", value!({"name":"hello","data":data,"channels":["x","private-y","x"]})).await;
        assert_eq!((status, answer), (200, value!({})));
        for stream in ["x", "private-y"] {
            let heard = kit.heard(stream).await;
            assert_eq!(heard.last(), Some(&value!({"event":"hello","channel":"c","data":data})), "{stream}");
        }
    }
    assert_eq!(kit.heard("x").await.len(), 7, "each channel once");
    let (status, _) =
        kit.post("/events", value!({"name":"a","data":"d","channel":"#server-to-user-7","socket_id":"1.2"})).await;
    assert_eq!((status, kit.heard("#server-to-user-7").await.len()), (200, 1));
    let limit = ReadLimit { count: 1, bytes: 1 };
    let slice = kit
        .bus
        .read(&StreamName::from_checked("#server-to-user-7"), 0, limit)
        .await
        .expect("the bus")
        .expect("a stream");
    let except = slice.publications[0].extra.as_ref().and_then(|extra| extra.except.clone());
    assert_eq!(except.as_deref(), SocketId::parse("1.2").as_ref().map(SocketId::as_str));
    // The older form.
    let legacy = |parameters: &'static [(&str, &str)], body: &'static str| {
        kit.signed("1", "POST", "/channels/old/events", parameters, body)
    };
    assert_eq!(legacy(&[("name", "hi"), ("socket_id", "1.2")], r#"{"n":1}"#).await, (200, value!({})));
    assert_eq!(kit.heard("old").await, [value!({"event":"hi","channel":"c","data":"{\"n\":1}"})]);
    assert_eq!(legacy(&[], "{}").await.0, 400, "an event has a name");
}

#[tokio::test]
async fn a_batch_keeps_its_order_and_is_all_or_nothing() {
    let kit = Kit::new();
    let event = |n: usize, channel: &str| value!({"name":format!("e{n}"),"data":n.to_string(),"channel":channel});
    let all: Vec<Value> = (0..10).map(|n| event(n, "x")).collect();
    assert_eq!(kit.post("/batch_events", value!({"batch":all})).await, (200, value!({})));
    let names: Vec<_> =
        kit.heard("x").await.iter().map(|it| it["event"].as_str().expect("a name").to_owned()).collect();
    assert_eq!(names, (0..10).map(|n| format!("e{n}")).collect::<Vec<_>>());
    for bad in [event(1, "a b"), event(1, "private-entities.procedure"), event(1, "entity.procedure.x")] {
        assert_eq!(kit.post("/batch_events", value!({"batch":[event(0, "y"), bad]})).await.0, 400);
    }
    let many: Vec<Value> = (0..11).map(|n| event(n, "y")).collect();
    assert_eq!(kit.post("/batch_events", value!({"batch":many})).await.0, 400);
    assert!(kit.heard("y").await.is_empty());
}

#[tokio::test]
async fn what_is_too_much_is_refused_by_its_status() {
    let kit = Kit::new();
    let event = |data: usize| value!({"name":"a","data":"x".repeat(data),"channel":"x"});
    assert_eq!(kit.post("/events", event(10 * 1024)).await.0, 200);
    let (status, answer) = kit.post("/events", event(10 * 1024 + 1)).await;
    assert_eq!((status, &answer["code"]), (413, &value!("event_too_large")));
    let (status, answer) = kit.post("/events", event(2 << 20)).await;
    assert_eq!((status, &answer["code"]), (413, &value!("body_too_large")));
    let channels = |n: usize| (0..n).map(|n| format!("c{n}")).collect::<Vec<_>>();
    assert_eq!(kit.post("/events", value!({"name":"a","data":"","channels":channels(100)})).await.0, 200);
    assert_eq!(kit.post("/events", value!({"name":"a","data":"","channels":channels(101)})).await.0, 400);
    for bad in ["", "{", "[]", r#"{"name":"a","data":"b"}"#, r#"{"name":"pusher:error","data":"b","channel":"x"}"#] {
        let (status, answer) = kit.signed("1", "POST", "/events", &[], bad).await;
        assert_eq!((status, &answer["code"]), (400, &value!("bad_request")), "{bad}");
        assert!(answer["detail"].as_str().is_some_and(|text| !text.is_empty()));
    }
}

/// A batch that can never pass is said to be one, and nothing of it is published.
#[tokio::test]
async fn a_batch_above_the_pace_of_a_channel_is_refused_for_good() {
    let pace = ChannelPace { per_second: 3, across: Across::Node };
    let slow = ChannelRules { pace: Some(PaceRules { pace, only: None }), ..ChannelRules::default() };
    let kit = Kit::of(Namespaces::new(ChannelRules::default(), [("slow".to_owned(), slow)].into()));
    let batch = |slow: usize| {
        let event = |channel: &str| value!({"name": "n", "channel": channel, "data": "{}"});
        let others = ["slow.2", "other.1", "other.1", "other.1", "other.1"].map(event);
        let events: Vec<Value> = std::iter::repeat_n(event("slow.1"), slow).chain(others).collect();
        value!({ "batch": events })
    };
    for _ in 0..2 {
        let (status, answer) = kit.post("/batch_events", batch(4)).await;
        assert_eq!((status, &answer["code"]), (400, &value!("batch_above_pace")), "{answer}");
        assert!(answer["detail"].as_str().is_some_and(|it| it.contains("slow.1") && it.contains('3')), "{answer}");
    }
    for channel in ["slow.1", "slow.2", "other.1"] {
        assert_eq!(kit.heard(channel).await.len(), 0, "{channel}");
    }
    // As many as the channel may have pass together, and the next time gives them back.
    assert_eq!(kit.post("/batch_events", batch(3)).await, (200, value!({})));
    assert_eq!((kit.heard("slow.1").await.len(), kit.heard("other.1").await.len()), (3, 4));
    let (status, answer) = kit.post("/batch_events", batch(3)).await;
    assert_eq!((status, &answer["code"]), (429, &value!("too_many_publications")), "{answer}");
}
