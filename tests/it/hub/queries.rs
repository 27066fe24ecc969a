//! Query subscriptions at real hubs: what clients have of their queries is what REST shows, whatever happens to the hubs, and
//! nobody listens to what somebody else asked.

use dzvin::{
    entities::{Author, Entities, EntityOp},
    platform::db::{Database, DbOptions},
};
use dzvin_protocols::platform::{EntityId, Kind};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json, value::RawValue};
use tokio::{net::TcpStream, time::timeout};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use crate::support::{
    eventually::{eventually, patience},
    front::Front,
    hub::{Hub, World},
    kinds,
    node::Script,
    session::Client,
};

const KIND: &str = "deal";

/// Changes entities of a kind of the organisation's own, as another node would, whatever the hubs can do.
pub(super) struct Writer {
    entities: Entities,
    kind: Kind,
    random: u64,
    version: u64,
}

impl Writer {
    pub(super) async fn new(world: &mut World) -> Self {
        world
            .mirrors
            .push_str("[kinds.deal]\nsource = \"local\"\nfields = [\"status\", \"amount\", \"ends\", \"owner\"]\n");
        let kind = Kind::new(KIND).expect("kind");
        let spec = kinds::local(&kind, &["status", "amount", "ends", "owner"]);
        let options = DbOptions::new(&world.db.url()).expect("options");
        let entities = Entities::open(Database::new(options), vec![spec]).await.expect("opens");
        Self { entities, kind, random: 0x9e37_79b9_7f4a_7c15, version: 0 }
    }

    /// The same numbers in each run.
    fn random(&mut self, below: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % below
    }

    async fn write(&mut self, changes: usize) {
        for _ in 0..changes {
            let id = EntityId::new(&format!("d{}", self.random(25))).expect("id");
            let op = match self.random(12) {
                0 => EntityOp::Trash(id),
                1 => EntityOp::Purge(id),
                _ => {
                    self.version += 1;
                    let doc = self.document();
                    let doc = RawValue::from_string(doc).expect("json").into();
                    EntityOp::Upsert { id, version: format!("{:08}", self.version), doc, derived: None, beside: false }
                }
            };
            self.commit(op).await;
        }
    }

    fn document(&mut self) -> String {
        let status = ["active", "draft", "closed"][self.random(3) as usize];
        let amount = ["999.99", "1000", "1000.00", "1e3", "25000.5", "null"][self.random(6) as usize];
        let ends = ["2026-11-26T10:00:00+02:00", "2026-11-26T08:00:00.001Z", "soon"][self.random(3) as usize];
        let owner = if self.random(2) == 0 { String::new() } else { format!(r#","owner":"o{}""#, self.random(3)) };
        // Above what a publication carries, now and then.
        let pad = if self.random(10) == 0 { "x".repeat(33 * 1024) } else { String::new() };
        let n = self.version;
        format!(r#"{{"n":{n},"status":"{status}","amount":{amount},"ends":"{ends}"{owner},"pad":"{pad}"}}"#)
    }

    pub(super) async fn commit(&self, op: EntityOp) {
        let author = Author { by: "olha", trace: None };
        self.entities.commit(&self.kind, author, &[op]).await.expect("committed");
    }
}

fn filters() -> Value {
    json!([
        {"status": "active"},
        {},
        {"amount": {"gte": 1000}, "status": ["active", "draft"]},
        {"not": {"status": "closed"}, "owner": null},
        {"ends": {"lte": {"time": "2026-11-26T08:00:00Z"}}},
        {"or": [{"owner": {"prefix": "o1"}}, {"amount": 1000}]},
        // Nothing ever meets it: its clients are only ever passed by.
        {"status": "unheard of"},
    ])
}

async fn followers(front: &Front, more: &[&str]) -> Script {
    let (url, token, filters) = (format!("http://{}", front.addr), World::token("viewer"), filters().to_string());
    let args = [&["--url", &url, "--token", &token, "--kind", KIND, "--filters", &filters], more].concat();
    Script::start("queries.mjs", &args, None).await
}

async fn report(script: &mut Script, ask: &str) -> Value {
    let report = script.ask(json!({"ask": ask, "patience_ms": patience().as_millis() as u64}), "report").await;
    println!("{report:#}");
    report
}

fn assert_whole(report: &Value) {
    for key in ["differences", "doubled", "wrong"] {
        assert_eq!(report[key], 0, "{key} in {report}");
    }
}

#[tokio::test]
async fn clients_have_what_rest_shows_across_cuts_and_restarts() {
    let report = across_cuts_and_restarts("").await;
    assert_eq!(report["unplaced"], 0, "{report}");
}

/// Where changes of an entity go out as one.
#[tokio::test]
async fn clients_have_what_rest_shows_of_a_conflated_kind() {
    across_cuts_and_restarts("hold = \"100ms\"\nconflate = true\n").await;
}

/// Answers what they came to.
async fn across_cuts_and_restarts(of_kind: &str) -> Value {
    let mut world = World::new(0, true).await;
    let mut writer = Writer::new(&mut world).await;
    world.mirrors.push_str(of_kind);
    writer.write(60).await;
    let mut hubs = [world.hub("a").await, world.hub("b").await];
    let addresses: Vec<_> = hubs.iter().map(|hub| hub.addr).collect();
    let front = Front::start(addresses.clone()).await;
    let mut script = followers(&front, &[]).await;
    writer.write(150).await;
    assert_whole(&report(&mut script, "progress").await);

    // Away while things change.
    front.lead_to(Vec::new());
    front.cut();
    writer.write(80).await;
    front.lead_to(addresses.clone());
    writer.write(40).await;
    assert_whole(&report(&mut script, "progress").await);

    // The queries of a hub that dies are known to the others, and to itself when it comes back.
    for hub in &mut hubs {
        hub.kill().await;
        writer.write(60).await;
        hub.start().await;
        writer.write(40).await;
        front.cut();
    }
    let report = report(&mut script, "finish").await;
    assert_whole(&report);
    assert_eq!(report["unrecovered"], 0, "inside the log's retention everybody recovers: {report}");
    let each = report["each"].as_array().expect("each");
    let told = |it: &Value, word: &str| it[word].as_u64().expect("a number");
    for one in &each[..6] {
        assert!(["enter", "change", "leave"].iter().all(|word| told(one, word) > 0), "{one}");
        assert!(told(one, "recovered") >= 3, "{one}");
    }
    let silent = &each[6];
    assert_eq!((told(silent, "enter"), told(silent, "change"), told(silent, "leave")), (0, 0, 0), "{silent}");
    let everything = told(&each[1], "enter") + told(&each[1], "change") + told(&each[1], "leave");
    assert!(told(&each[0], "enter") + told(&each[0], "leave") + told(&each[0], "change") < everything, "{report}");
    report
}

/// The checker can fail.
#[tokio::test]
async fn a_leave_that_is_swallowed_is_found() {
    let mut world = World::new(0, true).await;
    let mut writer = Writer::new(&mut world).await;
    let hub = world.hub("a").await;
    let front = Front::start(vec![hub.addr]).await;
    let mut script = followers(&front, &["--swallow", "leave"]).await;
    for n in 0..10 {
        let active = |status: &str, version: &str| EntityOp::Upsert {
            id: EntityId::new(&format!("d{n}")).expect("id"),
            version: version.to_owned(),
            doc: RawValue::from_string(format!(r#"{{"status":"{status}"}}"#)).expect("json").into(),
            derived: None,
            beside: false,
        };
        writer.commit(active("active", "1")).await;
        writer.commit(active("draft", "2")).await;
    }
    writer.version = 2;
    let ask = json!({"ask": "finish", "patience_ms": 500});
    let report = script.ask(ask, "report").await;
    assert_eq!(report["differences"], 10, "{report}");
}

async fn post(hub: &Hub, role: &str, body: Value) -> Value {
    let client =
        reqwest::Client::new().post(format!("http://{}/api/v1/queries", hub.addr)).bearer_auth(World::token(role));
    let answer = client.body(body.to_string()).send().await.expect("answered");
    serde_json::from_str(&answer.text().await.expect("read")).expect("json")
}

#[tokio::test]
async fn a_query_is_its_makers_and_an_offset_that_does_not_concern_it_is_passed() {
    let mut world = World::new(0, true).await;
    let mut writer = Writer::new(&mut world).await;
    writer.write(10).await;
    let hub = world.hub("a").await;
    let made = post(&hub, "viewer", json!({"kind": KIND, "filter": {"status": "rare"}})).await;
    let (channel, position) = (made["channel"].as_str().expect("a channel"), &made["position"]);
    let subscribe = |id: u32, offset: &Value| {
        let mut subscribe = json!({"channel": channel});
        if !offset.is_null() {
            subscribe = json!({"channel": channel, "recover": true, "epoch": position["epoch"], "offset": offset});
        }
        json!({"id": id, "subscribe": subscribe}).to_string()
    };

    // Somebody else knows the name, and may read the kind.
    let mut other = Client::connected(&hub, "admin").await;
    let refused = other.ask(&subscribe(2, &Value::Null)).await;
    assert_eq!(refused["error"]["code"], 102, "{refused}");
    let history = json!({"id": 3, "history": {"channel": channel}}).to_string();
    assert!(other.ask(&history).await["error"]["code"].is_u64());
    post(&hub, "admin", json!({"kind": KIND, "filter": {"status": {"eq": "rare"}}})).await;
    assert_eq!(
        other.ask(&subscribe(4, &Value::Null)).await["subscribe"]["positioned"],
        true,
        "now it is theirs as well"
    );

    let mut client = Client::connected(&hub, "viewer").await;
    assert_eq!(
        client.ask(&json!({"id": 2, "publish": {"channel": channel, "data": {}}}).to_string()).await["error"]["code"],
        103
    );
    let reply = client.ask(&subscribe(3, &position["offset"])).await;
    assert_eq!((&reply["subscribe"]["recovered"], &reply["subscribe"]["offset"]), (&json!(true), &position["offset"]));

    // Nothing of this concerns the query; what comes then does, and is no gap.
    writer.write(30).await;
    writer.commit(rare("1")).await;
    let told = client.receive().await;
    let data = &told["push"]["pub"]["data"];
    assert_eq!((&data["query"], &data["id"], &data["doc"]["status"]), (&json!("enter"), &json!("r"), &json!("rare")));
    let offset = told["push"]["pub"]["offset"].as_u64().expect("an offset");
    assert!(offset > position["offset"].as_u64().expect("an offset") + 20, "{told}");
    assert_eq!(other.receive().await["push"]["pub"], told["push"]["pub"]);

    // Who comes back after a time in which nothing concerned it stands where the stream does.
    writer.write(30).await;
    let top = eventually("all is committed", async || {
        let list = hub.api("viewer", "/api/v1/entities/deal?limit=1").await;
        list["position"]["offset"].as_u64().filter(|top| *top > offset)
    })
    .await;
    let mut again = Client::connected(&hub, "viewer").await;
    let reply = again.ask(&subscribe(2, &json!(offset))).await;
    let result = &reply["subscribe"];
    assert_eq!((&result["recovered"], result["publications"].as_array()), (&json!(true), None), "{reply}");
    assert_eq!(result["offset"], json!(top), "{reply}");
    // And who was passed by, live, takes the next that concerns it.
    writer.commit(EntityOp::Trash(EntityId::new("r").expect("id"))).await;
    for client in [&mut client, &mut again, &mut other] {
        let told = client.receive().await;
        let data = &told["push"]["pub"]["data"];
        assert_eq!(
            (&data["query"], &data["op"], &data["doc"]),
            (&json!("leave"), &json!("trash"), &Value::Null),
            "{told}"
        );
    }

    // Forgotten is forgotten, for whoever comes anew.
    assert_eq!(delete(&hub, "viewer", &made).await, 204);
    let mut late = Client::connected(&hub, "viewer").await;
    assert_eq!(late.ask(&subscribe(2, &Value::Null)).await["error"]["code"], 102);
}

const APP: &str =
    "[[pusher.apps]]\nid = \"main\"\nkeys = [{ key = \"app-key\", secret = \"an app secret of many bytes\" }]\n";

async fn delete(hub: &Hub, role: &str, query: &Value) -> u16 {
    let path = format!("http://{}/api/v1/queries/{}", hub.addr, query["id"].as_str().expect("id"));
    let gone = reqwest::Client::new().delete(path).bearer_auth(World::token(role)).send().await.expect("answered");
    gone.status().as_u16()
}

fn rare(version: &str) -> EntityOp {
    EntityOp::Upsert {
        id: EntityId::new("r").expect("id"),
        version: version.to_owned(),
        doc: RawValue::from_string(r#"{"status":"rare"}"#.to_owned()).expect("json").into(),
        derived: None,
        beside: false,
    }
}

/// A client of the Pusher protocol.
struct Pusher(WebSocketStream<MaybeTlsStream<TcpStream>>);

impl Pusher {
    /// One that has the channel as the bearer of a role's token.
    async fn on(hub: &Hub, role: &str, channel: &str) -> Self {
        let socket = connect_async(format!("ws://{}/app/app-key?protocol=7", hub.addr)).await.expect("a 101").0;
        let mut it = Self(socket);
        let hello = it.hear().await;
        let data: Value = serde_json::from_str(hello["data"].as_str().expect("text")).expect("json");
        let form = format!("socket_id={}&channel_name={channel}", data["socket_id"].as_str().expect("an id"));
        let request = reqwest::Client::new().post(format!("http://{}/pusher/auth", hub.addr));
        let request = request.bearer_auth(World::token(role));
        let request = request.header("content-type", "application/x-www-form-urlencoded").body(form);
        let mut ask: Value = request.send().await.expect("answered").json().await.expect("json");
        ask["channel"] = json!(channel);
        it.0.send(json!({"event": "pusher:subscribe", "data": ask}).to_string().into()).await.expect("sent");
        let answer = it.hear().await;
        assert_eq!(answer["event"], "pusher_internal:subscription_succeeded", "{answer}");
        it
    }

    async fn hear(&mut self) -> Value {
        let heard = timeout(patience(), self.0.next()).await.expect("in time").expect("open").expect("well formed");
        serde_json::from_str(heard.to_text().expect("text")).expect("json")
    }
}

async fn listening(hub: &Hub, role: &str, channel: &Value) -> Client {
    let mut client = Client::connected(hub, role).await;
    let reply = client.ask(&json!({"id": 2, "subscribe": {"channel": channel}}).to_string()).await;
    assert_eq!(reply["subscribe"]["positioned"], true, "{reply}");
    client
}

#[tokio::test]
async fn a_query_that_is_deleted_ends_for_its_user_on_every_node() {
    let mut world = World::new(0, true).await;
    let writer = Writer::new(&mut world).await;
    let (a, b) = tokio::join!(world.hub_with("a", APP), world.hub_with("b", APP));
    let ask = json!({"kind": KIND, "filter": {"status": "rare"}});
    let made = post(&a, "viewer", ask.clone()).await;
    post(&b, "admin", ask).await;
    let channel = &made["channel"];
    let mut mine = [listening(&a, "viewer", channel).await, listening(&b, "viewer", channel).await];
    let private = format!("private-{}", channel.as_str().expect("a channel"));
    let mut pusher = Pusher::on(&b, "viewer", &private).await;
    let mut theirs = listening(&b, "admin", channel).await;
    writer.commit(rare("1")).await;
    for client in mine.iter_mut().chain([&mut theirs]) {
        assert_eq!(client.receive().await["push"]["pub"]["data"]["query"], "enter");
    }
    assert_eq!(pusher.hear().await["event"], "change");

    assert_eq!(delete(&a, "viewer", &made).await, 204);
    for client in &mut mine {
        let told = client.receive().await;
        let ended = json!({"code": 2000, "reason": "server unsubscribe"});
        assert_eq!((&told["push"]["channel"], &told["push"]["unsubscribe"]), (channel, &ended), "{told}");
    }
    let told = pusher.hear().await;
    assert_eq!((&told["event"], &told["channel"]), (&json!("pusher:subscription_error"), &json!(private)), "{told}");

    // Who made the same query goes on; whose it was hears nothing more, and does not get it again.
    writer.commit(EntityOp::Trash(EntityId::new("r").expect("id"))).await;
    assert_eq!(theirs.receive().await["push"]["pub"]["data"]["query"], "leave");
    for client in &mut mine {
        let again = client.ask(&json!({"id": 3, "subscribe": {"channel": channel}}).to_string()).await;
        assert_eq!((&again["id"], &again["error"]["code"]), (&json!(3), &json!(102)), "{again}");
    }
    assert_eq!(delete(&b, "viewer", &made).await, 404);
}

#[tokio::test]
async fn a_query_is_deleted_while_the_bus_is_away() {
    let mut world = World::new(0, true).await;
    let _writer = Writer::new(&mut world).await;
    let hub = world.hub("a").await;
    let made = post(&hub, "viewer", json!({"kind": KIND, "filter": {"status": "rare"}})).await;
    let mut mine = listening(&hub, "viewer", &made["channel"]).await;
    world.redis.as_mut().expect("redis").kill();
    eventually("it is known to be away", async || hub.metric("dzvin_bus_connected").await == 0.0).await;
    assert_eq!(delete(&hub, "viewer", &made).await, 204);
    let told = mine.receive().await;
    assert_eq!(told["push"]["unsubscribe"]["code"], 2000, "{told}");
    let again = mine.ask(&json!({"id": 3, "subscribe": {"channel": made["channel"]}}).to_string()).await;
    assert_eq!(again["error"]["code"], 102, "{again}");
}
