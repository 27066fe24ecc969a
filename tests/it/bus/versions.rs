//! Nodes of different versions over one Redis: while nodes are restarted one after the other, versions run side by side. What they say
//! is in golden files, which also tell what may change (`tests/fixtures/bus`).

use std::collections::BTreeSet;

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
use serde_json::Value;
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

    /// What a word or an order says.
    fn spoken_text(&self) -> &str {
        self.message.strip_prefix('\u{1}').expect("a word or an order")
    }

    fn spoken(&self) -> Spoken {
        let text = self.spoken_text().as_bytes();
        if self.channel == "{dz:nodes}:all" {
            Spoken::Order(Control::decode(text).unwrap_or_else(|error| panic!("{error}: {self:?}")))
        } else {
            Spoken::Word(Word::decode(text).unwrap_or_else(|error| panic!("{error}: {self:?}")))
        }
    }
}

enum Spoken {
    Word(Word),
    Order(Control),
}

/// What one of them is called, and all that there are: with one that is not listed this does not compile.
macro_rules! named {
    ($kind:ident, $name:ident, $all:ident: $($variant:ident),* $(,)?) => {
        const $all: &[&str] = &[$(stringify!($variant)),*];

        fn $name(it: &$kind) -> &'static str {
            match it {
                $($kind::$variant { .. } => stringify!($variant),)*
            }
        }
    };
}

named!(Word, word_name, WORDS: Join, Leave, Event, Publication, Count, Anew);
named!(
    Control, order_name, ORDERS: Disconnect, Unsubscribe, Subscribe, Refresh, Recheck, Emulate, Stray, Survey, Answer, Count, Counted,
    Trace, Traced, Untrace,
);

/// None is missing in a golden file.
fn are_all<'a>(said: impl Iterator<Item = &'a Said>) {
    let (mut words, mut orders) = (BTreeSet::new(), BTreeSet::new());
    for said in said {
        match said.spoken() {
            Spoken::Word(word) => words.insert(word_name(&word)),
            Spoken::Order(order) => orders.insert(order_name(&order)),
        };
    }
    let listed = |names: &[&'static str]| names.iter().copied().collect::<BTreeSet<_>>();
    assert_eq!((words, orders), (listed(WORDS), listed(ORDERS)));
}

/// Whether everything that one value has the other has as well.
fn holds(whole: &Value, part: &Value) -> bool {
    match (whole, part) {
        (Value::Object(whole), Value::Object(part)) => {
            part.iter().all(|(name, value)| whole.get(name).is_some_and(|it| holds(it, value)))
        }
        (Value::Array(whole), Value::Array(part)) => {
            whole.len() == part.len() && whole.iter().zip(part).all(|(whole, part)| holds(whole, part))
        }
        _ => whole == part,
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
    let mut hears = async |said: &Said| {
        let message = timeout(patience(), heard.recv()).await.expect("a message").expect("connected");
        let (channel, message) = (message.channel.to_string(), message.value.into_string().expect("text"));
        assert_eq!(Said { channel, message }, *said);
    };
    let golden = all(TODAY);
    let publication = Publication::decode(&Bytes::from(golden[0].publication().to_owned())).expect("a publication");
    append(&bus, "e1", &[publication]).await;
    let info = ClientInfo { user: "u".into(), client: "c".into(), conn_info: None, chan_info: None };
    bus.whisper(&stream(), Word::Join { info, first: true }.encode()).await.expect("said");
    let whose = Whose { user: Some("u".into()), client: ClientName::id("c"), except: vec!["d".into()] };
    let order = Control::Disconnect { whose, code: 3503, reason: "r".into() };
    bus.tell(None, order.encode()).await.expect("told");
    bus.reset(&stream(), &at("e2", 0)).await.expect("reset");
    for said in &golden[..4] {
        hears(said).await;
    }
    // The others as they are read: what is read and said otherwise, or lost on the way, is not what stands there.
    for said in &golden[4..] {
        match said.spoken() {
            Spoken::Word(word) => bus.whisper(&stream(), word.encode()).await.expect("said"),
            Spoken::Order(order) => drop(bus.tell(None, order.encode()).await.expect("told")),
        }
        hears(said).await;
    }
    are_all(golden[1..3].iter().chain(&golden[4..]));
}

#[tokio::test]
async fn a_node_of_the_version_before_is_understood() {
    let (bus, mut events, server) = today().await;
    let before = all(BEFORE);
    says(&server, &before).await;
    let first = publication_of(&mut events).await;
    assert_eq!(first, Publication { data: "{\"n\":1}".into(), ..publication(1) });
    let join = Word::decode(&word(&mut events).await).expect("known");
    assert!(matches!(join, Word::Join { info, first: false } if &*info.user == "u"));
    assert_eq!(Control::decode(&order(&mut events).await), Ok(disconnect()));
    for said in &before[3..] {
        let known = said.spoken();
        let (heard, known) = match &known {
            Spoken::Word(known) => (word(&mut events).await, known.encode()),
            Spoken::Order(known) => (order(&mut events).await, known.encode()),
        };
        assert_eq!(heard, said.spoken_text(), "it comes as it was said");
        let [whole, known] = [&heard, &known].map(|it| serde_json::from_slice(it).expect("json"));
        assert!(holds(&known, &whole), "{whole} is understood as {known}");
    }
    are_all(before[1..].iter());
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
