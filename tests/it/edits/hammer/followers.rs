//! Subscribers of the hammer: each takes its list over REST, follows its channel from there, and comes back by recovery. It loads anew
//! only when it is told that what it missed is lost.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use futures_util::SinkExt;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::ledger::{Fault, Follows, Ledger, Rows, number};
use crate::{
    edits::DEALS,
    support::{hub::World, session::Client},
};

/// Publications after which those who come and go leave once more.
const STAY: u64 = 150;
/// A page of the list: several are read while it moves.
const PAGE: usize = 60;

/// What one has been through.
#[derive(Debug)]
pub(super) struct Story {
    pub(super) ledger: Ledger,
    /// Lists taken because what was missed was lost.
    pub(super) reloads: u64,
    /// Recoveries.
    pub(super) returns: u64,
    /// Ends of a connection or a subscription by the hub.
    pub(super) ended: BTreeMap<u64, u64>,
}

/// One of them; it ends with this value.
pub(super) struct Follower {
    pub(super) name: String,
    pub(super) story: Arc<Mutex<Story>>,
    task: JoinHandle<()>,
}

impl Follower {
    /// One at a node; `leaves`: it cuts its own connection now and then.
    pub(super) fn start(name: String, addr: SocketAddr, follows: Follows, leaves: bool) -> Self {
        let ledger = Ledger::new(follows.clone());
        let story = Story { ledger, reloads: 0, returns: 0, ended: BTreeMap::new() };
        let story = Arc::new(Mutex::new(story));
        let place = Place { addr, token: World::token("boss"), http: reqwest::Client::new(), follows, leaves };
        Self { name, task: tokio::spawn(follow(place, Arc::clone(&story))), story }
    }

    /// What is wrong with it as it is now.
    pub(super) fn faults(&self, rows: &Rows) -> Vec<Fault> {
        assert!(!self.task.is_finished(), "{} has ended", self.name);
        self.story.lock().expect("a story").ledger.faults(rows)
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Place {
    addr: SocketAddr,
    token: String,
    http: reqwest::Client,
    follows: Follows,
    leaves: bool,
}

/// Where a list says that one is to go on.
struct Start {
    channel: String,
    epoch: Value,
    at: u64,
    items: Vec<Value>,
}

async fn follow(place: Place, story: Arc<Mutex<Story>>) {
    let told = |tell: &mut dyn FnMut(&mut Story)| tell(&mut story.lock().expect("a story"));
    'anew: loop {
        let Start { channel, mut epoch, at, items } = place.list().await;
        told(&mut |it| it.ledger.begin(at, &items));
        loop {
            let mut client = place.connected().await;
            let at = story.lock().expect("a story").ledger.at;
            let since = json!({"channel": channel, "recover": true, "epoch": epoch, "offset": at});
            let mut reply = client.ask(&json!({"id": 2, "subscribe": since}).to_string()).await;
            assert!(reply["subscribe"].is_object(), "{reply}");
            let mut reply = reply["subscribe"].take();
            if reply["recovered"] != true {
                told(&mut |it| it.reloads += 1);
                continue 'anew;
            }
            epoch = reply["epoch"].take();
            let missed = reply["publications"].take();
            told(&mut |it| {
                it.returns += 1;
                missed.as_array().into_iter().flatten().for_each(|publication| it.ledger.take(publication));
            });
            place.listen(&mut client, &story).await;
        }
    }
}

impl Place {
    async fn connected(&self) -> Client {
        let mut client = Client::at(self.addr).await;
        let reply = client.ask(&json!({"id": 1, "connect": {"token": self.token}}).to_string()).await;
        assert!(reply["connect"]["client"].is_string(), "{reply}");
        client
    }

    /// Takes what comes until the connection or the subscription is over.
    async fn listen(&self, client: &mut Client, story: &Mutex<Story>) {
        let mut here = 0;
        while !self.leaves || here < STAY {
            let message = client.next().await;
            if message == json!({}) {
                // A ping, which wants an answer.
                client.0.send("{}".into()).await.expect("sent");
                continue;
            }
            let push = &message["push"];
            let mut story = story.lock().expect("a story");
            if push["pub"].is_object() {
                story.ledger.take(&push["pub"]);
                here += 1;
                continue;
            }
            let code = if push.is_null() { &message["close"] } else { &push["unsubscribe"]["code"] };
            *story.ended.entry(code.as_u64().unwrap_or_else(|| panic!("{message}"))).or_default() += 1;
            return;
        }
    }

    async fn ask(&self, request: reqwest::RequestBuilder) -> Value {
        let answer = request.bearer_auth(&self.token).send().await.expect("answered");
        let (status, text) = (answer.status(), answer.text().await.expect("read"));
        assert!(status.is_success(), "{status} {text}");
        serde_json::from_str(&text).expect("json")
    }

    async fn get(&self, path: &str) -> Value {
        self.ask(self.http.get(format!("http://{}{path}", self.addr))).await
    }

    async fn list(&self) -> Start {
        match &self.follows {
            Follows::Kind => self.pages(self.get(&format!("{DEALS}?limit={PAGE}")).await, DEALS).await,
            Follows::Query(status) => {
                let asked = json!({"kind": "deal", "filter": {"status": status}, "limit": PAGE});
                let post = self.http.post(format!("http://{}/api/v1/queries", self.addr));
                let first = self.ask(post.body(asked.to_string())).await;
                let more = format!("/api/v1/queries/{}", first["id"].as_str().expect("an id"));
                self.pages(first, &more).await
            }
            Follows::Entity(id) => {
                let mut position = self.get(&format!("{DEALS}?limit=1")).await["position"].take();
                let item = self.get(&format!("{DEALS}/{id}")).await;
                let channel = item["channel"].as_str().expect("a channel").to_owned();
                Start { channel, epoch: position["epoch"].take(), at: number(&item["revision"]), items: vec![item] }
            }
        }
    }

    /// All pages from the first on, whose position counts.
    async fn pages(&self, mut page: Value, more: &str) -> Start {
        let (channel, position) = (page["channel"].as_str().expect("a channel").to_owned(), page["position"].take());
        let mut items = Vec::new();
        loop {
            items.append(page["items"].as_array_mut().expect("items"));
            let Some(next) = page["next"].as_str() else { break };
            page = self.get(&format!("{more}?limit={PAGE}&cursor={next}")).await;
        }
        Start { channel, epoch: position["epoch"].clone(), at: number(&position["offset"]), items }
    }
}
