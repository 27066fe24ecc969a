//! Nodes of different versions over one Redis: while nodes are restarted one after the other, versions run side by side. What they say
//! is in golden files, which also tell what may change (`tests/fixtures/bus`).

use bytes::Bytes;
use dzvin::channels::bus::RedisBus;
use dzvin_actors::platform::ports::{Appended, Bus, BusEvent};
use dzvin_protocols::channels::{ClientName, Control, Publication, Whose, Word, centrifuge::ClientInfo, now_micros};
use fred::{
    clients::Client,
    interfaces::{ClientLike, EventInterface, PubsubInterface},
    types::{Builder, config::Config},
};
use serde::Deserialize;
use tokio::{sync::mpsc, time::timeout};

use super::kit::{ALL, World, append, at, publication, started, stream};
use crate::support::{eventually::patience, redis::Redis};

const BEFORE: &str = include_str!("../../fixtures/bus/before.jsonl");
const TODAY: &str = include_str!("../../fixtures/bus/today.jsonl");
const NEXT: &str = include_str!("../../fixtures/bus/next.jsonl");

/// One message.
#[derive(Debug, PartialEq, Eq, Deserialize)]
struct Said {
    channel: String,
    message: String,
}

impl Said {
    /// The publication of an event of one.
    fn publication(&self) -> &str {
        let (_epoch, framed) = self.message.split_once('\n').expect("an epoch");
        framed.split_at(size_of::<u32>()).1
    }
}

fn all(lines: &str) -> Vec<Said> {
    lines.lines().map(|line| serde_json::from_str(line).expect("a message")).collect()
}

/// A client of Redis that is no node of ours.
async fn client(server: &Redis) -> Client {
    let client = Builder::from_config(Config::from_url(&server.url()).expect("a url")).build().expect("a client");
    client.init().await.expect("connected");
    client
}

/// A node of today that listens, and a Redis.
async fn today() -> (RedisBus, mpsc::Receiver<BusEvent>, Redis) {
    let World { bus, mut events, server } = started::<super::kit::InRedis>().await;
    bus.subscribe(&stream()).await.expect("subscribed");
    assert!(matches!(next(&mut events).await, BusEvent::Lost), "it has just connected");
    (bus, events, server.expect("a server"))
}

async fn next(events: &mut mpsc::Receiver<BusEvent>) -> BusEvent {
    timeout(patience(), events.recv()).await.expect("an event").expect("a living bus")
}

/// Does what a node of another version does that says this: what it publishes it keeps as well.
async fn says(server: &Redis, said: &[Said]) {
    let entry = format!("{} later\n{}", now_micros() / 1_000, said[0].publication());
    let (history, position) = ("{dz:entities.tender}:history", "{dz:entities.tender}:position");
    server.command(&["RPUSH", history, &entry]).await.expect("kept");
    server
        .command(&["HSET", position, "top", "1", "bytes", &entry.len().to_string(), "later", "x"])
        .await
        .expect("kept");
    let client = client(server).await;
    for Said { channel, message } in said {
        client.publish::<i64, _, _>(channel, message.as_str()).await.expect("said");
    }
}

/// It has come and is kept, and the node goes on from there.
async fn is_followed(bus: &RedisBus, events: &mut mpsc::Receiver<BusEvent>, server: &Redis, first: &Publication) {
    let slice = bus.read(&stream(), 0, ALL).await.expect("read").expect("known");
    assert!(slice.complete && slice.publications == [first.clone()], "{slice:?}");
    assert_eq!(append(bus, "e1", &[publication(2)]).await, Appended::Accepted { top: 2 });
    assert!(
        matches!(next(events).await, BusEvent::Publications { publications, .. } if publications == [publication(2)])
    );
    assert_eq!(bus.read(&stream(), 0, ALL).await.expect("read").expect("known").publications.len(), 2);
    let later = server.command(&["HGET", "{dz:entities.tender}:position", "later"]).await.expect("asked");
    assert_eq!(later, "$1\r\nx\r\n", "what it does not know it leaves as it is");
}

async fn publication_of(events: &mut mpsc::Receiver<BusEvent>) -> Publication {
    match next(events).await {
        BusEvent::Publications { mut publications, epoch, .. } if epoch.as_str() == "e1" && publications.len() == 1 => {
            publications.remove(0)
        }
        other => panic!("{other:?}"),
    }
}

async fn word(events: &mut mpsc::Receiver<BusEvent>) -> Bytes {
    match next(events).await {
        BusEvent::Word { stream: of, word } if of == stream() => word,
        other => panic!("{other:?}"),
    }
}

async fn order(events: &mut mpsc::Receiver<BusEvent>) -> Bytes {
    match next(events).await {
        BusEvent::Told(word) => word,
        other => panic!("{other:?}"),
    }
}

fn disconnect() -> Control {
    let whose = Whose { user: Some("u".into()), ..Whose::default() };
    Control::Disconnect { whose, code: 3503, reason: "r".into() }
}

#[tokio::test]
async fn what_a_node_says_is_as_in_the_golden_file() {
    let (bus, _events, server) = today().await;
    let ear = client(&server).await;
    let mut heard = ear.message_rx();
    ear.psubscribe("*").await.expect("subscribed");
    let golden = all(TODAY);
    let publication = Publication::decode(&Bytes::from(golden[0].publication().to_owned())).expect("a publication");
    append(&bus, "e1", &[publication]).await;
    let info = ClientInfo { user: "u".into(), client: "c".into(), conn_info: None, chan_info: None };
    bus.whisper(&stream(), Word::Join { info, first: true }.encode()).await.expect("said");
    let whose = Whose { user: Some("u".into()), client: ClientName::id("c"), except: vec!["d".into()] };
    let order = Control::Disconnect { whose, code: 3503, reason: "r".into() };
    bus.tell(None, order.encode()).await.expect("told");
    bus.reset(&stream(), &at("e2", 0)).await.expect("reset");
    for said in golden {
        let message = timeout(patience(), heard.recv()).await.expect("a message").expect("connected");
        let (channel, message) = (message.channel.to_string(), message.value.into_string().expect("text"));
        assert_eq!(Said { channel, message }, said);
    }
}

#[tokio::test]
async fn a_node_of_the_version_before_is_understood() {
    let (bus, mut events, server) = today().await;
    says(&server, &all(BEFORE)).await;
    let first = publication_of(&mut events).await;
    assert_eq!(first, Publication { data: "{\"n\":1}".into(), ..publication(1) });
    let join = Word::decode(&word(&mut events).await).expect("known");
    assert!(matches!(join, Word::Join { info, first: false } if &*info.user == "u"));
    assert_eq!(Control::decode(&order(&mut events).await), Ok(disconnect()));
    is_followed(&bus, &mut events, &server, &first).await;
    assert_eq!((bus.metrics().malformed.get(), bus.metrics().lost.get()), (0, 1));
}

#[tokio::test]
async fn beside_a_node_of_the_next_version_nothing_is_lost() {
    let (bus, mut events, server) = today().await;
    says(&server, &all(NEXT)).await;
    let first = publication_of(&mut events).await;
    let extra = first.extra.as_deref().expect("what is known of it");
    assert_eq!((first.offset, extra.tags.get("a"), extra.info.as_ref().map(|it| &*it.user)), (1, Some("ї"), Some("u")));
    let join = Word::decode(&word(&mut events).await).expect("known");
    assert!(matches!(join, Word::Join { info, first: true } if &*info.user == "u"));
    assert_eq!(Control::decode(&order(&mut events).await), Ok(disconnect()));
    // What has another name is passed over, and so is an order to it is not known whom.
    assert!(Word::decode(&word(&mut events).await).is_err());
    for _ in 0..2 {
        assert!(Control::decode(&order(&mut events).await).is_err());
    }
    // Of another kind: the stream is looked at, that one alone, and what is for nodes is passed over.
    assert!(matches!(next(&mut events).await, BusEvent::Begun { stream: of } if of == stream()));
    is_followed(&bus, &mut events, &server, &first).await;
    assert_eq!((bus.metrics().malformed.get(), bus.metrics().lost.get()), (2, 1));
}
