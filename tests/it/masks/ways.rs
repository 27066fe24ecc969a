//! What leaves by which way: a table, and the loop that runs it. Every field mask beside every way on which an entity goes out.

use reqwest::Method;
use serde_json::{Value, json};

use super::{Deals, KIND, Raw, pusher, token};
use crate::support::hub::Hub;

/// Of each way and role the fields that are told: `p` the telephone number, `m` the mail address, `o` what stands in `odd.name`.
#[rustfmt::skip]
const TABLE: &str = "
way          boss  no-phone  no-mail  no-odd  desk
one          pmo     -mo      p-o      pm-    ---
list         pmo     -mo      p-o      pm-    ---
filtered     pmo     -mo      p-o      pm-    ---
history      pm-     -m-      p--      pm-    ---
revision     pmo     -mo      p-o      pm-    ---
asked        pmo     -mo      p-o      pm-    ---
asked-again  pmo     -mo      p-o      pm-    ---
entities     pmo     -mo      p-o      pm-    ---
entity       pmo     -mo      p-o      pm-    ---
query        pmo     -mo      p-o      pm-    ---
recovered    pmo     -mo      p-o      pm-    ---
past         pmo     -mo      p-o      pm-    ---
pusher       pmo     -mo      p-o      pm-    ---
cached       pmo     -mo      p-o      pm-    ---
merge        pmo     -mo      p-o      pm-    ---
patch        pmo     -mo      p-o      pm-    ---
replayed     pmo     -mo      p-o      pm-    ---
put          pmo     ---      ---      ---    ---
back         pmo     ---      ---      ---    ---
bulk         ---     ---      ---      ---    ---
trash        pmo     -mo      p-o      pm-    ---
trashed      pmo     -mo      p-o      pm-    ---
restore      pmo     -mo      p-o      pm-    ---
purge        ---     ---      ---      ---    ---
";

const SECRETS: [(char, &str); 3] = [('p', "PH0NE"), ('m', "M4IL"), ('o', "0DD")];

fn secret(n: u64, status: &str) -> Value {
    let mail = format!("M4IL-{n}");
    json!({
        "n": n, "status": status, "owner": "olha", "phone": format!("PH0NE-{n}"), "odd.name": {"deep": "0DD"},
        "contacts": [{"email": mail, "name": "Ольга"}],
    })
}

/// What of the secrets is in a text.
fn letters(text: &str) -> String {
    SECRETS.iter().map(|(letter, secret)| if text.contains(secret) { *letter } else { '-' }).collect()
}

/// Somebody of a role, with a deal of their own.
struct Viewer<'a> {
    hub: &'a Hub,
    token: String,
    id: String,
}

impl Viewer<'_> {
    async fn send(&self, method: Method, path: &str, kind: &str, body: &Value) -> String {
        let key = format!("{method} {kind} {path}");
        let request = reqwest::Client::new().request(method, format!("http://{}{path}", self.hub.addr));
        let request = request.bearer_auth(&self.token).header("content-type", kind);
        // Only the replay has been asked for before.
        let request = request.header("idempotency-key", key);
        let body = if body.is_null() { String::new() } else { body.to_string() };
        request.body(body).send().await.expect("answered").text().await.expect("read")
    }

    async fn get(&self, path: &str) -> String {
        super::get(self.hub, &self.token, path, None).await.2
    }

    fn of(&self, more: &str) -> String {
        format!("/api/v1/entities/{KIND}/{}{more}", self.id)
    }

    /// A connection that has this channel, and the subscription's answer.
    async fn on(&self, channel: &str, since: Value) -> Raw {
        let mut client = Raw::connected(self.hub, &self.token).await;
        let reply = client.subscribe(channel, since).await;
        assert!(reply["subscribe"].is_object(), "{channel}: {reply}");
        client
    }

    /// All that was heard, once something of the third revision has come.
    async fn third(mut client: Raw) -> String {
        loop {
            let heard = String::from_utf8_lossy(&client.heard).into_owned();
            if heard.contains("third") {
                return heard;
            }
            client.hear().await.expect("open");
        }
    }

    /// What leaves by each way of reading and following, with what it is called.
    async fn follows(&self, deals: &mut Deals) -> Vec<(&'static str, String)> {
        let (base, status) = (format!("/api/v1/entities/{KIND}"), format!("{}-status", self.id));
        deals.put(&self.id, &secret(1, &status)).await;
        deals.put(&self.id, &secret(2, &status)).await;
        let listed = self.get(&base).await;
        let position = serde_json::from_str::<Value>(&listed).expect("json")["position"].take();
        let filter = json!({"kind": KIND, "filter": {"status": [status, "third"]}});
        let asked = self.send(Method::POST, "/api/v1/queries", "application/json", &filter).await;
        let query: Value = serde_json::from_str(&asked).expect("json");
        let channel = query["channel"].as_str().expect("a channel");
        let again = self.get(&format!("/api/v1/queries/{}", query["id"].as_str().expect("an id"))).await;
        let entities = self.on(&format!("entities.{KIND}"), json!({})).await;
        let entity = self.on(&format!("entity.{KIND}.{}", self.id), json!({})).await;
        let queried = self.on(channel, json!({})).await;
        let (live, _) = pusher::on(self.hub, &self.token, &format!("private-entity.{KIND}.{}", self.id)).await;
        let mut texts = vec![
            ("one", self.get(&self.of("")).await),
            ("list", listed),
            ("filtered", self.get(&format!("{base}?status={status}")).await),
            ("history", self.get(&self.of("/history")).await),
            ("revision", self.get(&self.of("/history/1")).await),
            ("asked", asked),
            ("asked-again", again),
        ];
        deals.put(&self.id, &secret(3, "third")).await;
        for (way, client) in [("entities", entities), ("entity", entity), ("query", queried), ("pusher", live)] {
            texts.push((way, Self::third(client).await));
        }
        let since = json!({"recover": true, "epoch": position["epoch"], "offset": position["offset"]});
        let mut back = self.on(&format!("entities.{KIND}"), since).await;
        texts.push(("recovered", String::from_utf8_lossy(&std::mem::take(&mut back.heard)).into_owned()));
        back.ask("history", &json!({"channel": format!("entity.{KIND}.{}", self.id), "limit": 9})).await;
        texts.push(("past", String::from_utf8_lossy(&back.heard).into_owned()));
        let channel = format!("private-cache-entity.{KIND}.{}", self.id);
        texts.push(("cached", Self::third(pusher::on(self.hub, &self.token, &channel).await.0).await));
        texts
    }

    /// What is answered to each way of changing it.
    async fn changes(&self) -> Vec<(&'static str, String)> {
        let (json, merge, patch) = ("application/json", "application/merge-patch+json", "application/json-patch+json");
        let (n, none) = (json!({"n": 4}), json!(null));
        let bulk = json!({"atomic": false, "items": [{"op": "merge", "id": self.id, "patch": {"n": 6}}]});
        let (all, add) = (format!("/api/v1/entities/{KIND}/bulk"), json!([{"op": "add", "path": "/n", "value": 5}]));
        vec![
            ("merge", self.send(Method::PATCH, &self.of(""), merge, &n).await),
            ("replayed", self.send(Method::PATCH, &self.of(""), merge, &n).await),
            ("patch", self.send(Method::PATCH, &self.of(""), patch, &add).await),
            ("put", self.send(Method::PUT, &self.of(""), json, &secret(7, "put")).await),
            ("back", self.send(Method::POST, &self.of("/restore?revision=2"), json, &none).await),
            ("bulk", self.send(Method::POST, &all, json, &bulk).await),
            ("trash", self.send(Method::DELETE, &self.of(""), json, &none).await),
            ("trashed", self.get(&self.of("")).await),
            ("restore", self.send(Method::POST, &self.of("/restore"), json, &none).await),
            ("purge", self.send(Method::DELETE, &self.of("?purge=true"), json, &none).await),
        ]
    }
}

#[tokio::test]
async fn what_leaves_by_which_way() {
    let mut deals = Deals::new().await;
    let hub = deals.world.hub_with("a", pusher::APP).await;
    let mut lines =
        TABLE.lines().filter(|line| !line.is_empty()).map(|line| line.split_whitespace().collect::<Vec<_>>());
    let (head, rows) = (lines.next().expect("a head"), lines.collect::<Vec<_>>());
    let mut wrong = Vec::new();
    for (column, role) in head.iter().copied().enumerate().skip(1) {
        let viewer = Viewer { hub: &hub, token: token(role, &[role]), id: format!("of-{role}") };
        let mut texts = Box::pin(viewer.follows(&mut deals)).await;
        texts.extend(viewer.changes().await);
        assert_eq!(texts.len(), rows.len(), "each way has its line");
        for (way, text) in texts {
            let row = rows.iter().find(|row| row[0] == way).unwrap_or_else(|| panic!("no line of {way}"));
            if letters(&text) != row[column] {
                wrong.push(format!("{role} by {way}: {} instead of {}: {text:.900}", letters(&text), row[column]));
            }
        }
        // Else the next of them would see what only this one may.
        assert!(letters(&viewer.get(&viewer.of("")).await) == "---", "it was purged");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
