//! Views at real hubs: what a role does not see never reaches it, by whatever way out, and who sees everything gets all.

mod channels;
mod pusher;
mod queries;
mod rest;
mod rows;
mod ways;

use std::collections::VecDeque;

use dzvin::{
    entities::{Author, Entities, EntityOp},
    identity::{SigningKey, TokenRules, Verifier},
    platform::db::{Database, DbOptions},
};
use dzvin_protocols::{
    identity::Claims,
    platform::{EntityId, Kind},
};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json, value::RawValue};
use time::OffsetDateTime;
use tokio::{net::TcpStream, time::timeout};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async, tungstenite::Message};

use crate::support::{
    eventually::patience,
    hub::{Hub, KEY, World},
    kinds,
};

const KIND: &str = "deal";
/// Stands in hidden fields and nowhere else.
const SECRET: &str = "S3CRET";

/// Roles: `boss` sees everything, `desk` no telephone numbers and addresses, `clerk` neither them nor the deals of others; of the rest each
/// lacks one thing of what `desk` does.
const VIEWS: &str = r#"
[kinds.deal]
source = "local"
fields = ["status", "owner", "phone", "contacts.0.email"]
[identity.roles]
boss = ["entities:*:*"]
desk = ["entities:*:*"]
clerk = ["entities:*:*"]
no-phone = ["entities:*:*"]
no-mail = ["entities:*:*"]
no-odd = ["entities:*:*"]
[identity.views.desk.deal]
mask = ["phone", "contacts.email", "/odd.name"]
[identity.views.clerk.deal]
mask = ["phone", "contacts.email", "/odd.name"]
rows = '{"owner": "$user"}'
[identity.views.no-phone.deal]
mask = ["phone"]
[identity.views.no-mail.deal]
mask = ["contacts.email"]
[identity.views.no-odd.deal]
mask = ["/odd.name"]
"#;

/// Changes deals, as another node would.
struct Deals {
    world: World,
    entities: Entities,
    kind: Kind,
    version: u64,
}

impl Deals {
    async fn new() -> Self {
        let mut world = World::new(0, false).await;
        world.mirrors.push_str(VIEWS);
        let kind = Kind::new(KIND).expect("kind");
        let spec = kinds::local(&kind, &["status", "owner", "phone", "contacts.0.email"]);
        let options = DbOptions::new(&world.db.url()).expect("options");
        let entities = Entities::open(Database::new(options), vec![spec]).await.expect("opens");
        Self { world, entities, kind, version: 0 }
    }

    async fn commit(&self, op: EntityOp) {
        let author = Author { by: "olha", trace: None };
        self.entities.commit(&self.kind, author, &[op]).await.expect("committed");
    }

    async fn put(&mut self, id: &str, doc: &Value) {
        self.version += 1;
        // Spelled so that the name of a hidden field does not stand there as such.
        let doc = doc.to_string().replace("\"phone\"", "\"\\u0070hone\"");
        let doc = RawValue::from_string(doc).expect("json").into();
        let (id, version) = (EntityId::new(id).expect("id"), format!("{:08}", self.version));
        self.commit(EntityOp::Upsert { id, version, doc, derived: None, beside: false }).await;
    }

    async fn trash(&self, id: &str) {
        self.commit(EntityOp::Trash(EntityId::new(id).expect("id"))).await;
    }
}

/// A deal with secrets that are others each time.
fn deal(n: u64, status: &str, owner: &str) -> Value {
    json!({
        "n": n, "status": status, "owner": owner, "phone": format!("{SECRET}-{n}"), "odd.name": {"deep": SECRET},
        "contacts": [{"email": format!("{SECRET}-{n}@example.com"), "name": "Ольга"}, [{"email": SECRET, "age": 30}]],
        "pad": "the same text each time, so that a patch is shorter than the whole, and then some more of it".repeat(3),
    })
}

/// The same as those see it who do not see everything.
fn seen(n: u64, status: &str, owner: &str) -> Value {
    let mut deal = deal(n, status, owner);
    let all = deal.as_object_mut().expect("an object");
    all.remove("phone");
    all.remove("odd.name");
    all["contacts"] = json!([{"name": "Ольга"}, [{"age": 30}]]);
    deal
}

fn token(user: &str, roles: &[&str]) -> String {
    let key = SigningKey::new("test", KEY.as_bytes()).expect("key");
    let verifier = Verifier::new(vec![key], TokenRules::default()).expect("verifier");
    let (exp, roles) =
        (Some(OffsetDateTime::now_utc().unix_timestamp() + 3600), roles.iter().map(ToString::to_string).collect());
    verifier.sign(&Claims { sub: user.into(), exp, roles, ..Claims::default() }).expect("signed")
}

/// Asks the API; answers the status, the entity tag and the text.
async fn get(hub: &Hub, token: &str, path: &str, tag: Option<&str>) -> (u16, Option<String>, String) {
    let mut request = reqwest::Client::new().get(format!("http://{}{path}", hub.addr)).bearer_auth(token);
    if let Some(tag) = tag {
        request = request.header("if-none-match", tag);
    }
    let answer = request.send().await.expect("answered");
    let tag = answer.headers().get("etag").map(|tag| tag.to_str().expect("text").to_owned());
    (answer.status().as_u16(), tag, answer.text().await.expect("read"))
}

async fn read(hub: &Hub, token: &str, path: &str) -> Value {
    let (status, _, text) = get(hub, token, path, None).await;
    assert_eq!(status, 200, "{path}: {text}");
    serde_json::from_str(&text).expect("json")
}

async fn ask_query(hub: &Hub, token: &str, filter: &Value) -> (u16, Value, String) {
    let request = reqwest::Client::new().post(format!("http://{}/api/v1/queries", hub.addr)).bearer_auth(token);
    let answer = request.body(json!({"kind": KIND, "filter": filter}).to_string()).send().await.expect("answered");
    let (status, text) = (answer.status().as_u16(), answer.text().await.expect("read"));
    (status, serde_json::from_str(&text).expect("json"), text)
}

/// A client of the Centrifuge protocol that keeps every byte that it was sent.
struct Raw {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    waiting: VecDeque<Value>,
    pushes: VecDeque<Value>,
    heard: Vec<u8>,
    id: u32,
}

impl Raw {
    async fn open(hub: &Hub, path: &str) -> Self {
        let socket = connect_async(format!("ws://{}{path}", hub.addr)).await.expect("a connection").0;
        Self { socket, waiting: VecDeque::new(), pushes: VecDeque::new(), heard: Vec::new(), id: 0 }
    }

    async fn connected(hub: &Hub, token: &str) -> Self {
        let mut it = Self::open(hub, "/connection/websocket").await;
        let reply = it.ask("connect", &json!({"token": token})).await;
        assert!(reply["connect"]["client"].is_string(), "{reply}");
        it
    }

    /// The bytes of the next message.
    async fn hear(&mut self) -> Option<Vec<u8>> {
        loop {
            let message = timeout(patience(), self.socket.next()).await.expect("in time");
            let bytes = match message.expect("open").expect("well formed") {
                Message::Text(text) => text.as_bytes().to_vec(),
                Message::Binary(bytes) => bytes.to_vec(),
                Message::Close(frame) => {
                    let code = u16::from(frame.expect("a code").code);
                    self.waiting.push_back(json!({ "close": code }));
                    return None;
                }
                _ => continue,
            };
            self.heard.extend_from_slice(&bytes);
            return Some(bytes);
        }
    }

    async fn next(&mut self) -> Value {
        loop {
            if let Some(value) = self.waiting.pop_front() {
                return value;
            }
            if let Some(bytes) = self.hear().await {
                let text = String::from_utf8(bytes).expect("text");
                self.waiting.extend(text.lines().map(|line| serde_json::from_str::<Value>(line).expect("json")));
            }
        }
    }

    /// The reply; pushes that come before it wait.
    async fn ask(&mut self, command: &str, request: &Value) -> Value {
        self.id += 1;
        self.socket.send(json!({"id": self.id, command: request}).to_string().into()).await.expect("sent");
        loop {
            let value = self.next().await;
            if value["id"] == self.id || !value["close"].is_null() {
                return value;
            }
            if !value["push"].is_null() {
                self.pushes.push_back(value);
            }
        }
    }

    async fn subscribe(&mut self, channel: &str, more: Value) -> Value {
        let mut request = json!({ "channel": channel });
        request.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        self.ask("subscribe", &request).await
    }

    /// The next push, or the close.
    async fn push(&mut self) -> Value {
        if let Some(push) = self.pushes.pop_front() {
            return push;
        }
        loop {
            let value = self.next().await;
            if value != json!({}) {
                return value;
            }
        }
    }

    /// The next publication: its channel, offset and data.
    async fn publication(&mut self) -> (String, u64, Value) {
        let push = self.push().await;
        let (channel, it) = (&push["push"]["channel"], &push["push"]["pub"]);
        assert!(it.is_object(), "{push}");
        (channel.as_str().expect("a name").to_owned(), it["offset"].as_u64().expect("an offset"), it["data"].clone())
    }

    fn secrets(&self) -> usize {
        String::from_utf8_lossy(&self.heard).matches(SECRET).count()
    }
}
