//! Queries: what is skipped is no gap, what is lost is one, and recovery brings what was told.

use std::sync::LazyLock;

use dzvin_protocols::{
    channels::QueryId,
    entities::{FieldChange, Filter, Values},
};
use futures_util::future::BoxFuture;

use super::*;
use crate::platform::ports::{Queries, Query};

/// The only query that there is: of the user of these tests.
pub(super) struct OneQuery;

static ACTIVE: LazyLock<Arc<Query>> = LazyLock::new(|| {
    let filter = Filter::parse(r#"{"status":"active"}"#).expect("a filter");
    Arc::new(Query { id: QueryId::of(&kind(), &filter), kind: kind(), filter })
});

impl Queries for OneQuery {
    fn find<'a>(&'a self, id: &'a QueryId, user: &'a str) -> BoxFuture<'a, Result<Option<Arc<Query>>, StoreError>> {
        Box::pin(async move { Ok(self.known(id).filter(|_| user == "u1")) })
    }

    fn known(&self, id: &QueryId) -> Option<Arc<Query>> {
        (*id == ACTIVE.id).then(|| Arc::clone(&ACTIVE))
    }
}

impl World {
    /// A change of an entity's status; `None` where it is not there.
    pub(super) fn commit_status(&self, id: &str, was: Option<&str>, is: Option<&str>) {
        self.commit_sized(id, 1000);
        let declared = ["status".to_owned()];
        let docs = [was, is].map(|status| status.map(|status| format!(r#"{{"status":"{status}"}}"#)));
        let [was, is] = docs.each_ref().map(|doc| doc.as_deref().map(|doc| Values::of_stored(doc, &declared)));
        let fields = FieldChange::new(was, is).encode();
        self.log.lock().unwrap().last_mut().unwrap().fields = Some(fields.into());
    }

    fn top(&self) -> u64 {
        self.log.lock().unwrap().len() as u64
    }
}

pub(super) fn channel() -> String {
    format!("query.{}", ACTIVE.id)
}

fn since(offset: u64) -> Value {
    json!({"id": 2, "subscribe": {"channel": channel(), "recover": true, "epoch": "e1", "offset": offset}})
}

/// What was brought as a reference is nothing that a patch could follow.
#[tokio::test]
async fn no_patch_follows_a_reference_of_a_query() {
    let node = Node::start(Limits { recovery: ReadLimit { count: 100, bytes: 512 }, ..Limits::default() }).await;
    let mut there = node.client().await.connected("reader").await;
    there.ask(json!({"id": 2, "subscribe": {"channel": channel(), "delta": "fossil"}})).await;
    node.world.commit_status("a", None, Some("active"));
    node.tell(1).await;
    let mut back = node.client().await.connected("reader").await;
    let mut from = since(0);
    from["subscribe"]["delta"] = json!("fossil");
    let reply = back.ask(from).await["subscribe"].take();
    let reference = reply["publications"][0]["data"].as_str().expect("a text").to_owned();
    assert!(reference.contains("\"ref\":true") && reply["delta"] == true, "{reply}");
    node.world.commit_status("a", Some("active"), Some("active"));
    node.tell(2).await;
    let push = back.receive().await["push"]["pub"].take();
    assert_eq!((&push["offset"], &push["delta"]), (&json!(2), &Value::Null), "{push}");
    there.receive().await;
    assert_eq!(there.receive().await["push"]["pub"]["delta"], true, "who has the document has a patch");
}

/// Offsets and words of what came.
fn told(publications: &Value) -> Vec<(u64, String)> {
    let one = |it: &Value| (it["offset"].as_u64().unwrap(), it["data"]["query"].as_str().unwrap().to_owned());
    publications.as_array().map(|all| all.iter().map(one).collect()).unwrap_or_default()
}

fn words(all: &[(u64, &str)]) -> Vec<(u64, String)> {
    all.iter().map(|(offset, word)| (*offset, (*word).to_owned())).collect()
}

impl Client {
    async fn told(&mut self) -> (u64, String) {
        let push = self.receive().await;
        told(&json!([push["push"]["pub"]])).remove(0)
    }

    async fn is_sent_to_recover(&mut self) {
        let push = self.receive().await;
        assert_eq!(push["push"]["unsubscribe"]["code"], 2500, "{push}");
    }
}

/// Four changes: of no concern, enter, of no concern, leave.
pub(super) async fn four(node: &Node) {
    let from = node.world.top();
    node.world.commit_status("a", None, Some("draft"));
    node.world.commit_status("b", Some("draft"), Some("active"));
    node.world.commit_status("a", Some("draft"), Some("draft"));
    node.world.commit_status("b", Some("active"), None);
    node.tell_run(from + 1, from + 4).await;
}

async fn check(node: &Node) {
    node.topics.cast(TopicsMessage::Check).expect("topics");
    // Answered behind it.
    node.hub.topics.call(|reply| TopicsMessage::Events(Vec::new(), reply), PATIENCE).await.expect("checked");
}

#[tokio::test]
async fn what_is_skipped_is_no_gap() {
    let node = Node::start(Limits::default()).await;
    let mut client = node.client().await.connected("reader").await;
    let reply = client.ask(subscribe(&channel())).await;
    assert_eq!((&reply["subscribe"]["positioned"], &reply["subscribe"]["offset"]), (&json!(true), &Value::Null));
    four(&node).await;
    assert_eq!((client.told().await, client.told().await), ((2, "enter".into()), (4, "leave".into())));
    // Only of no concern; the check moves the subscriber on, and one who comes now begins further on than the first.
    for _ in 0..3 {
        node.world.commit_status("a", Some("draft"), Some("draft"));
    }
    node.tell_run(5, 7).await;
    let mut late = node.client().await.connected("reader").await;
    assert_eq!(late.ask(subscribe(&channel())).await["subscribe"]["offset"], 7);
    check(&node).await;
    four(&node).await;
    for client in [&mut client, &mut late] {
        assert_eq!((client.told().await, client.told().await), ((9, "enter".into()), (11, "leave".into())));
    }
    let other = format!("query.{}", "x".repeat(43));
    assert_eq!(client.ask(subscribe(&other)).await["error"]["code"], 102);
    let history = json!({"id": 3, "history": {"channel": channel(), "limit": 5}});
    assert_eq!(client.ask(history).await["error"]["code"], 108);
    let mut nobody = node.client().await.connected("nobody").await;
    assert_eq!(nobody.ask(subscribe(&channel())).await["error"]["code"], 103, "the kind may not be read");
}

#[tokio::test]
async fn what_is_lost_is_a_gap() {
    let node = Node::start(Limits::default()).await;
    let mut client = node.client().await.connected("reader").await;
    client.ask(subscribe(&channel())).await;
    let loses = &node.hub.shards.get(0).expect("a shard").loses;
    loses.store(true, Ordering::SeqCst);
    four(&node).await;
    loses.store(false, Ordering::SeqCst);
    check(&node).await;
    client.is_sent_to_recover().await;
    let reply = client.ask(since(0)).await;
    assert_eq!(reply["subscribe"]["recovered"], true);
    assert_eq!(told(&reply["subscribe"]["publications"]), words(&[(2, "enter"), (4, "leave")]));
    // The next thing that concerns it shows the same, without a check.
    loses.store(true, Ordering::SeqCst);
    four(&node).await;
    loses.store(false, Ordering::SeqCst);
    four(&node).await;
    client.is_sent_to_recover().await;
}

#[tokio::test]
async fn a_change_that_tells_no_fields_sends_to_recover_and_is_not_recovered_over() {
    let node = Node::start(Limits::default()).await;
    let mut client = node.client().await.connected("reader").await;
    client.ask(subscribe(&channel())).await;
    node.publish("a").await;
    client.is_sent_to_recover().await;
    let reply = client.ask(since(0)).await;
    assert_eq!((&reply["subscribe"]["recovered"], &reply["subscribe"]["offset"]), (&Value::Null, &json!(1)));
    four(&node).await;
    assert_eq!(client.told().await, (3, "enter".into()));
}

#[tokio::test]
async fn recovery_brings_what_was_told_within_its_limits() {
    let recovery = ReadLimit { count: 12, bytes: 1500 };
    let node = Node::start(Limits { recovery, depth: 12, ..Limits::default() }).await;
    four(&node).await;
    four(&node).await;
    four(&node).await;
    let all = [(2, "enter"), (4, "leave"), (6, "enter"), (8, "leave"), (10, "enter"), (12, "leave")];
    for down in [false, true] {
        *node.world.bus_down.lock().unwrap() = down;
        let mut client = node.client().await.connected("reader").await;
        let reply = client.ask(since(0)).await;
        let publications = &reply["subscribe"]["publications"];
        assert_eq!((&reply["subscribe"]["recovered"], told(publications)), (&json!(true), words(&all)), "{reply}");
        let refers = |n: usize| publications[n]["data"]["ref"] == json!(true);
        assert!(refers(0) && refers(2) && publications[1]["data"]["doc"].is_null(), "documents give way: {reply}");
    }
    *node.world.bus_down.lock().unwrap() = false;
    // Nothing that concerns it: it stands where the stream does.
    let mut client = node.client().await.connected("reader").await;
    let reply = client.ask(since(12)).await;
    assert_eq!((&reply["subscribe"]["recovered"], &reply["subscribe"]["offset"]), (&json!(true), &json!(12)));
    for _ in 0..3 {
        node.world.commit_status("a", Some("draft"), Some("draft"));
    }
    node.tell_run(13, 15).await;
    let mut client = node.client().await.connected("reader").await;
    let reply = client.ask(since(12)).await["subscribe"].take();
    assert_eq!(
        (&reply["recovered"], &reply["offset"], &reply["publications"]),
        (&json!(true), &json!(15), &Value::Null)
    );
    // More was said than is looked through, whatever it was.
    let mut client = node.client().await.connected("reader").await;
    let reply = client.ask(since(2)).await;
    assert_eq!((&reply["subscribe"]["recovered"], &reply["subscribe"]["offset"]), (&Value::Null, &json!(15)));
}

/// What others see is looked through, and not counted among what may be brought.
#[tokio::test]
async fn what_is_of_no_concern_makes_nobody_load_anew() {
    let recovery = ReadLimit { count: 3, bytes: 100_000 };
    let node = Node::start(Limits { recovery, depth: 1_500, ..Limits::default() }).await;
    let quiet = |times| (0..times).for_each(|_| node.world.commit_status("a", Some("draft"), Some("draft")));
    quiet(700);
    node.world.commit_status("b", Some("draft"), Some("active"));
    quiet(699);
    node.world.commit_status("b", Some("active"), None);
    quiet(99);
    node.tell_run(1_401, 1_500).await;
    let shown = words(&[(701, "enter"), (1_401, "leave")]);
    for down in [false, true] {
        *node.world.bus_down.lock().unwrap() = down;
        let mut client = node.client().await.connected("reader").await;
        let reply = client.ask(since(0)).await["subscribe"].take();
        assert_eq!((&reply["recovered"], told(&reply["publications"])), (&json!(true), shown.clone()), "{reply}");
        // Who sees only such rows of the kind itself, and nothing of them but this.
        let mut viewer = node.client().await.connected("active").await;
        let epoch = viewer.ask(subscribe("entities.procedure")).await["subscribe"]["epoch"].clone();
        viewer.ask(json!({"id": 3, "unsubscribe": {"channel": "entities.procedure"}})).await;
        let reply = viewer.ask(recover(epoch.as_str().expect("a text"), 0)).await["subscribe"].take();
        let offsets: Vec<_> = reply["publications"].as_array().expect("two").iter().map(|it| &it["offset"]).collect();
        assert_eq!((&reply["recovered"], offsets), (&json!(true), vec![&json!(701), &json!(1_401)]), "{reply}");
        // What concerns everybody counts as ever, and so does what is further back than is looked.
        let mut reader = node.client().await.connected("reader").await;
        assert_eq!(reader.ask(recover("e1", 0)).await["subscribe"]["recovered"], Value::Null);
    }
    *node.world.bus_down.lock().unwrap() = false;
    quiet(1);
    node.tell(1_501).await;
    let mut client = node.client().await.connected("reader").await;
    assert_eq!(client.ask(since(0)).await["subscribe"]["recovered"], Value::Null);
    // Too many of those that do concern it.
    let mut client = node.client().await.connected("reader").await;
    four(&node).await;
    assert_eq!(client.ask(since(700)).await["subscribe"]["recovered"], Value::Null);
}

#[tokio::test]
async fn topics_that_begin_again_send_to_recover() {
    let node = Node::start(Limits::default()).await;
    let mut client = node.client().await.connected("reader").await;
    client.ask(subscribe(&channel())).await;
    four(&node).await;
    assert_eq!((client.told().await, client.told().await), ((2, "enter".into()), (4, "leave".into())));
    node.topics_again().await;
    client.is_sent_to_recover().await;
    assert_eq!(client.ask(since(4)).await["subscribe"]["recovered"], true);
    four(&node).await;
    assert_eq!(client.told().await, (6, "enter".into()));
}
