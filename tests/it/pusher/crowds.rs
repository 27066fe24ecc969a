//! A crowd that comes and goes, as a client's list of members sees it.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{KEY, rules, sockets::Socket};
use crate::support::hub::World;

const ROOM: &str = "presence-room";

/// The list that a subscription begins with.
fn list(answer: &Value) -> BTreeSet<String> {
    let data: Value = serde_json::from_str(answer["data"].as_str().expect("text")).expect("json");
    serde_json::from_value(data["presence"]["ids"].clone()).expect("a list")
}

/// Hears until this event has come, and keeps the list as clients keep it.
async fn hear(socket: &mut Socket, list: &mut BTreeSet<String>, until: impl Fn(&Value, &Value) -> bool) {
    loop {
        let event = socket.hear().await;
        let data: Value = event["data"].as_str().and_then(|data| serde_json::from_str(data).ok()).unwrap_or_default();
        let user = || data["user_id"].as_str().expect("a user").to_owned();
        match event["event"].as_str() {
            Some("pusher_internal:member_added") => drop(list.insert(user())),
            Some("pusher_internal:member_removed") => drop(list.remove(&user())),
            _ => {}
        }
        if until(&event, &data) {
            return;
        }
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
    let counted = |count: u64| {
        move |event: &Value, data: &Value| {
            event["event"] == "pusher_internal:subscription_count" && data["subscription_count"] == json!(count)
        }
    };
    let mut pages = Vec::new();
    for (n, count) in (1..5).zip(3..) {
        pages.push(Socket::on(&a, KEY, ROOM, Some(&member(&format!("page {n}")))).await.0);
        hear(&mut desk, &mut desk_has, counted(count)).await;
        hear(&mut far, &mut far_has, counted(count)).await;
    }
    // While there are so many nobody is told who leaves; the third ends that.
    for count in [5, 4, 3] {
        drop(pages.remove(0));
        hear(&mut desk, &mut desk_has, counted(count)).await;
    }
    let closed = |event: &Value, _: &Value| event["close"] == 4200;
    hear(&mut desk, &mut desk_has, closed).await;
    hear(&mut far, &mut far_has, closed).await;
    let ghosts = |list: &BTreeSet<String>| list.iter().filter(|it| it.starts_with("page")).count();
    assert!(ghosts(&desk_has) > 1 && ghosts(&far_has) > 1, "without a new beginning: {desk_has:?}, {far_has:?}");
    let (mut desk, answer) = Socket::on(&b, KEY, ROOM, Some(&member("desk"))).await;
    assert!(list(&answer).contains("desk"));
    let (_far, answer) = Socket::on(&a, KEY, ROOM, Some(&member("far"))).await;
    let mut here = list(&answer);
    // The last page has its own turn, before or after.
    here.remove("page 4");
    assert_eq!(here, BTreeSet::from(["desk".to_owned(), "far".to_owned()]));
    desk.say(&json!({"event": "pusher:ping", "data": {}})).await;
    hear(&mut desk, &mut here, |event, _| event["event"] == "pusher:pong").await;
}
