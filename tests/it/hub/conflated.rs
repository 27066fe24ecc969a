//! A kind that changes often, conflated: the latest of each entity in its turn, on every node, and everything to who comes back.

use std::{collections::BTreeMap, time::Duration};

use dzvin::entities::EntityOp;
use dzvin_protocols::platform::EntityId;
use serde_json::{Value, json, value::RawValue};
use tokio::time::Instant;

use super::queries::Writer;
use crate::support::{
    hub::{Hub, World},
    session::Client,
};

/// Far longer than a round takes on a busy machine.
const HOLD: Duration = Duration::from_secs(1);
const ENTITIES: u64 = 3;
const ROUNDS: u64 = 100;

async fn round(writer: &Writer, n: u64) {
    for entity in 0..ENTITIES {
        let doc = RawValue::from_string(json!({"n": n, "status": format!("s{}", n % 2)}).to_string()).expect("json");
        let id = EntityId::new(&format!("d{entity}")).expect("id");
        let version = format!("{n:08}");
        writer.commit(EntityOp::Upsert { id, version, doc: doc.into(), derived: None, beside: false }).await;
    }
}

/// What one client has heard of each entity.
#[derive(Default)]
struct Heard {
    last: u64,
    times: BTreeMap<String, u64>,
    known: BTreeMap<String, (u64, Value)>,
}

impl Heard {
    fn take(&mut self, publication: &Value) {
        // Where changes before it are told later it has none.
        if let Some(offset) = publication["offset"].as_u64() {
            assert!(offset > self.last, "in their order, each once: {publication}");
            self.last = offset;
        }
        let data = &publication["data"];
        let (id, revision) = (data["id"].as_str().expect("an id"), data["revision"].as_u64().expect("a revision"));
        *self.times.entry(id.to_owned()).or_default() += 1;
        self.known.insert(id.to_owned(), (revision, data["doc"].clone()));
    }

    fn is_done(&self) -> bool {
        self.known.len() as u64 == ENTITIES && self.known.values().all(|(revision, _)| *revision == ROUNDS)
    }
}

async fn listening(hub: &Hub) -> Client {
    let mut client = Client::connected(hub, "viewer").await;
    let reply = client.ask(&json!({"id": 2, "subscribe": {"channel": "entities.deal"}}).to_string()).await;
    assert_eq!(reply["subscribe"]["positioned"], true, "{reply}");
    client
}

/// The next message, if it is a publication; nobody is sent away.
async fn told(client: &mut Client) -> Option<Value> {
    let mut message = client.receive().await;
    assert!(message["push"]["unsubscribe"].is_null() && message["close"].is_null(), "{message}");
    Some(message["push"]["pub"].take()).filter(|it| !it.is_null())
}

async fn hear_all(mut client: Client, began: Instant) -> (Client, Heard, Duration) {
    let mut heard = Heard::default();
    while !heard.is_done() {
        if let Some(publication) = told(&mut client).await {
            heard.take(&publication);
        }
    }
    (client, heard, began.elapsed())
}

#[tokio::test]
async fn the_latest_of_each_entity_comes_in_its_turn_on_every_node() {
    let mut world = World::new(0, true).await;
    let writer = Writer::new(&mut world).await;
    world.mirrors.push_str(&format!("hold = \"{}ms\"\nconflate = true\n", HOLD.as_millis()));
    let (a, b) = (world.hub("a").await, world.hub("b").await);
    let began = Instant::now();
    let (at_a, at_b) = (listening(&a).await, listening(&b).await);
    let write = async {
        for n in 1..=ROUNDS {
            round(&writer, n).await;
        }
    };
    let ((), at_a, at_b) = tokio::join!(write, hear_all(at_a, began), hear_all(at_b, began));
    let (mut clients, mut last) = (Vec::new(), BTreeMap::new());
    for (client, heard, took) in [at_a, at_b] {
        let most = took.as_millis() / HOLD.as_millis() + 2;
        println!("{:?} of {ROUNDS} within {took:?}", heard.times);
        for (id, times) in &heard.times {
            assert!(u128::from(*times) <= most && *times < ROUNDS, "{id} came {times} times in {took:?}");
        }
        assert_eq!(heard.last, ENTITIES * ROUNDS);
        clients.push(client);
        last = heard.known;
    }
    for hub in [&a, &b] {
        assert!(hub.metric("dzvin_conflated_publications_total").await > 0.0);
        for (id, (revision, doc)) in &last {
            let row = hub.api("viewer", &format!("/api/v1/entities/deal/{id}")).await;
            assert_eq!((&row["revision"], &row["doc"]), (&json!(revision), doc), "{row}");
        }
    }

    // Who was away has everything, one after the other, wherever they had come to.
    for (hub, after) in [(&a, 0), (&b, 100), (&a, 299)] {
        let mut client = Client::connected(hub, "viewer").await;
        let epoch = hub.api("viewer", "/api/v1/entities/deal?limit=1").await["position"]["epoch"].clone();
        let since = json!({"channel": "entities.deal", "recover": true, "epoch": epoch, "offset": after});
        let reply = client.ask(&json!({"id": 2, "subscribe": since}).to_string()).await["subscribe"].take();
        let all = reply["publications"].as_array().expect("publications");
        let offsets: Vec<u64> = all.iter().filter_map(|it| it["offset"].as_u64()).collect();
        assert_eq!((&reply["recovered"], offsets), (&json!(true), (after + 1..=ENTITIES * ROUNDS).collect()));
        clients.push(client);
    }
    // And hears on.
    round(&writer, ROUNDS + 1).await;
    for client in &mut clients {
        let mut offset = 0;
        while offset < ENTITIES * (ROUNDS + 1) {
            offset = told(client).await.and_then(|it| it["offset"].as_u64()).unwrap_or(offset);
        }
    }
}
