//! A crowd that comes and goes, as a client's list of members sees it.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{KEY, rules, sockets::Socket};
use crate::support::{eventually::eventually, hub::World};

const ROOM: &str = "presence-room";

/// The list that a subscription begins with.
fn list(answer: &Value) -> BTreeSet<String> {
    let data: Value = serde_json::from_str(answer["data"].as_str().expect("text")).expect("json");
    serde_json::from_value(data["presence"]["ids"].clone()).expect("a list")
}

/// Hears until this event has come, and keeps the list as clients keep it.
async fn hear(socket: &mut Socket, list: &mut BTreeSet<String>, until: impl Fn(&Value) -> bool) {
    loop {
        let event = socket.hear().await;
        let data: Value = event["data"].as_str().and_then(|data| serde_json::from_str(data).ok()).unwrap_or_default();
        let user = || data["user_id"].as_str().expect("a user").to_owned();
        match event["event"].as_str() {
            Some("pusher_internal:member_added") => drop(list.insert(user())),
            Some("pusher_internal:member_removed") => drop(list.remove(&user())),
            _ => {}
        }
        if until(&event) {
            return;
        }
        assert!(event["close"].is_null(), "{event} before what was awaited");
    }
}

#[tokio::test]
async fn whoever_stayed_through_a_crowd_has_no_ghosts_on_its_list() {
    let world = World::new(1, true).await;
    let rules = format!("[channels]\ncrowd_above = 4\ncrowd_below = 4\n{}", rules());
    let (a, b) = (world.hub_with("a", &rules).await, world.hub_with("b", &rules).await);
    let member = |id: &str| json!({"user_id": id}).to_string();
    let (mut desk, answer) = Socket::on(&a, KEY, ROOM, Some(&member("desk"))).await;
    let mut desk_has = list(&answer);
    let (mut far, answer) = Socket::on(&b, KEY, ROOM, Some(&member("far"))).await;
    let mut far_has = list(&answer);
    // Whom the node has with the store: its desk and the pages.
    let entered = async |clients: f64| {
        eventually("the store knows", async || a.metric("dzvin_presence_clients").await == clients).await;
    };
    let mut pages = Vec::new();
    for (n, clients) in [(1, 2.0), (2, 3.0), (3, 4.0), (4, 5.0)] {
        pages.push(Socket::on(&a, KEY, ROOM, Some(&member(&format!("page {n}")))).await.0);
        entered(clients).await;
    }
    // Of six nobody is told any more; the third that leaves ends that.
    for clients in [4.0, 3.0] {
        drop(pages.remove(0));
        entered(clients).await;
    }
    // From now on each has its turn.
    drop(pages.remove(0));
    let closed = |event: &Value| event["close"] == 4200;
    hear(&mut desk, &mut desk_has, closed).await;
    hear(&mut far, &mut far_has, closed).await;
    let ghosts = |list: &BTreeSet<String>| list.iter().filter(|it| it.starts_with("page")).count();
    assert!(ghosts(&desk_has) > 0 && ghosts(&far_has) > 0, "without a new beginning: {desk_has:?}, {far_has:?}");
    let (mut desk, answer) = Socket::on(&b, KEY, ROOM, Some(&member("desk"))).await;
    assert!(list(&answer).contains("desk"));
    let (_far, answer) = Socket::on(&a, KEY, ROOM, Some(&member("far"))).await;
    let mut here = list(&answer);
    // The last page has its own turn, before or after.
    here.remove("page 4");
    assert_eq!(here, BTreeSet::from(["desk".to_owned(), "far".to_owned()]));
    desk.say(&json!({"event": "pusher:ping", "data": {}})).await;
    hear(&mut desk, &mut here, |event| event["event"] == "pusher:pong").await;
}
