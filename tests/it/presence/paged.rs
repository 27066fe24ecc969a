//! Who is on a large channel, in pages, as a server of the application asks over HTTP: from the first to the last, everybody once.

use std::{collections::BTreeMap, sync::Arc};

use dzvin_actors::platform::ports::{Member, MemberChange, Presence};
use serde_json::{Value, json};

use super::kit::{LONG, beside_hubs, change, member, settings};
use crate::{
    hub::server::{ask, call, with_key},
    support::hub::{Hub, World},
};

/// More than a hash of Redis holds in one piece, of which it would tell all at once whatever it is asked.
const MEMBERS: usize = 600;
/// Of a page: few enough for many pages, and more than a hash table's buckets give by chance.
const LIMIT: usize = 50;

fn rules() -> String {
    with_key("[channels.namespaces.room]\nsubscribe = \"signed_in\"\npresence = true\nsee_presence = \"signed_in\"\n")
}

/// The members of a page, and where the next one begins.
async fn page(hub: &Hub, cursor: Option<&Value>, limit: usize) -> (Vec<(String, Value)>, Option<Value>) {
    let mut body = json!({"channel": "room.1", "limit": limit});
    if let Some(cursor) = cursor {
        body["cursor"] = cursor.clone();
    }
    let (status, _, mut answer) = call(hub, "presence", &body).await;
    assert_eq!(status, 200, "{answer}");
    let members = answer["result"]["presence"].as_object().expect("members");
    let members = members.iter().map(|(client, info)| (client.clone(), info.clone())).collect();
    let next = answer["result"].get_mut("cursor").map(Value::take);
    assert!(next.as_ref().is_none_or(|next| next.as_u64().is_some_and(|next| next > 0)), "{answer}");
    (members, next)
}

#[tokio::test]
async fn pages_of_members_show_everybody_once() {
    let world = World::new(0, true).await;
    let hub = world.hub_with("a", &rules()).await;
    // Another node, with as many clients: some of them nobody is shown.
    let (node, _bus) = beside_hubs(world.redis.as_ref().expect("a Redis"), settings(LONG)).await;
    node.renew().await.expect("renewed");
    let name = |n: usize| format!("client-{n}\"ї");
    let everyone: Vec<MemberChange> = (0..MEMBERS)
        .map(|n| {
            let seen = member(&name(n), &format!("user-{}", n / 2));
            MemberChange::Enter(Arc::new(Member { shown: n % 10 > 0, ..(*seen).clone() }))
        })
        .collect();
    for some in everyone.chunks(60) {
        change(&node, "room.1", some).await;
    }
    let shown = (0..MEMBERS).filter(|n| n % 10 > 0);
    let shown: BTreeMap<String, Value> =
        shown.map(|n| (name(n), json!({"client": name(n), "user": format!("user-{}", n / 2)}))).collect();
    let stats = ask(&hub, "presence_stats", &json!({"channel": "room.1"})).await;
    assert_eq!(stats["result"], json!({"num_clients": MEMBERS, "num_users": MEMBERS / 2}), "{stats}");

    let (mut seen, mut pages, mut cursor) = (BTreeMap::new(), 0, None);
    loop {
        let (members, next) = page(&hub, cursor.as_ref(), LIMIT).await;
        assert!(members.len() < 3 * LIMIT, "about as many as were asked for: {}", members.len());
        for (client, info) in members {
            assert_eq!(seen.insert(client.clone(), info), None, "{client} twice");
        }
        pages += 1;
        assert!(pages <= MEMBERS, "it has an end");
        match next {
            Some(next) => cursor = Some(next),
            None => break,
        }
    }
    assert_eq!(seen, shown);
    assert!(pages >= MEMBERS / LIMIT / 3, "{pages} pages");
    // Without a limit it is the hub's own, and more than that is not given.
    let (members, next) = page(&hub, None, usize::MAX).await;
    let unasked = ask(&hub, "presence", &json!({"channel": "room.1"})).await;
    assert_eq!(unasked["result"]["presence"].as_object().map(serde_json::Map::len), Some(members.len()));
    assert_eq!(unasked["result"].get("cursor"), next.as_ref());
    assert!(members.len() < MEMBERS, "{}", members.len());
    // A limit of nothing is one of one, so that who goes on comes to an end.
    assert!(page(&hub, None, 0).await.1.is_some());
    // What is no place at all ends, or goes on, as any other; what is no number is refused.
    let (_, next) = page(&hub, Some(&json!(u64::MAX)), LIMIT).await;
    assert_ne!(next, Some(json!(u64::MAX)));
    for cursor in [json!(-1), json!("1"), json!(1.5), json!([]), json!(1e30)] {
        let answer = ask(&hub, "presence", &json!({"channel": "room.1", "cursor": cursor})).await;
        assert_eq!(answer["status"], 400, "{cursor}: {answer}");
    }
    let nobody = ask(&hub, "presence", &json!({"channel": "room.2"})).await;
    assert_eq!(nobody["result"], json!({"presence": {}}));
}
