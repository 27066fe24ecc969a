//! The server API to the end: what is published once, only when newer, without being kept, and not too often; on two nodes.

use base64::{Engine, engine::general_purpose::STANDARD};
use futures_util::{SinkExt, future::join_all};
use serde_json::{Value, json};

use super::server::{call, with_key};
use crate::support::{
    eventually::eventually,
    hub::{Hub, World},
    session::Client,
};

fn rules() -> String {
    with_key(
        "[channels.namespaces.chat]\nsubscribe = \"signed_in\"\n\
         [channels.namespaces.deep]\nhistory_count = 20\n\
         [channels.namespaces.slow]\nsubscribe = \"signed_in\"\npublish = \"signed_in\"\n\
         publications_per_second = 2\npublications_across = \"cluster\"\npublications_of = \"everybody\"\n\
         [channels.namespaces.quiet]\nsubscribe = \"signed_in\"\npublish = \"signed_in\"\n\
         publications_per_second = 1\n",
    )
}

async fn done(hub: &Hub, method: &str, body: &Value) -> Value {
    let (status, _, answer) = call(hub, method, body).await;
    assert!(status == 200 && answer["result"].is_object(), "{method} {body}: {status} {answer}");
    answer["result"].clone()
}

/// The next publication.
async fn heard(client: &mut Client) -> Value {
    loop {
        let mut message = client.receive().await;
        if message == json!({}) {
            client.0.send("{}".into()).await.expect("sent");
        }
        let publication = message["push"]["pub"].take();
        if !publication.is_null() {
            return publication;
        }
    }
}

async fn subscribed(hub: &Hub, more: &Value) -> (Client, Value) {
    let mut client = Client::connected(hub, "viewer").await;
    let mut ask = json!({"id": 2, "subscribe": {"channel": "chat.1"}});
    for (key, value) in more.as_object().expect("more") {
        ask["subscribe"][key] = value.clone();
    }
    let reply = client.ask(&ask.to_string()).await;
    assert!(reply["subscribe"].is_object(), "{reply}");
    (client, reply["subscribe"].clone())
}

async fn on_two_nodes(redis: bool) {
    let world = World::new(1, redis).await;
    let a = world.hub_with("a", &rules()).await;
    let second = if redis { Some(world.hub_with("b", &rules()).await) } else { None };
    let b = second.as_ref().unwrap_or(&a);
    let (mut plain, _) = subscribed(&a, &json!({})).await;
    let (mut patched, _) = subscribed(b, &json!({"delta": "fossil"})).await;
    let (mut filtered, _) = subscribed(b, &json!({"tf": {"op": "", "cmp": "eq", "key": "for", "val": "all"}})).await;
    let long = "x".repeat(200);

    // Once, whoever is asked, and however many ask at once.
    let body = json!({"channel": "chat.1", "data": {"n": 1, "text": long}, "idempotency_key": "order 7", "tags": {"for": "all"}});
    let first = done(&a, "publish", &body).await;
    assert_eq!(first["offset"], 1, "{first}");
    let again = join_all((0..10).map(|n| done(if n % 2 == 0 { &a } else { b }, "publish", &body))).await;
    assert!(again.iter().all(|it| *it == first), "{again:?}");
    let other = json!({"channels": ["chat.1", "chat.2", "a b"], "data": 0, "idempotency_key": "order 7"});
    let broadcast = done(b, "broadcast", &other).await;
    assert_eq!(broadcast["responses"][0]["result"], first, "on this channel it was published");
    assert_eq!(broadcast["responses"][1]["result"]["offset"], 1);
    assert_eq!(broadcast["responses"][2]["error"]["code"], 107);
    assert_eq!(done(b, "broadcast", &other).await, broadcast);
    assert!(a.metric("dzvin_bus_publications_repeated_total").await >= 5.0);
    assert!(a.metric("dzvin_bus_idempotency_keys").await >= 1.0);

    // What nothing keeps has no offset, reaches everybody whom it concerns, and what follows it comes whole.
    let passing = json!({"channel": "chat.1", "data": {"n": "passing"}, "skip_history": true, "delta": true, "idempotency_key": "p"});
    assert_eq!(done(b, "publish", &passing).await, json!({}));
    assert_eq!(done(&a, "publish", &passing).await, json!({}));
    let text = STANDARD.encode(format!("{{\"n\":\n2,\"text\":\"{long}\"}}"));
    let second =
        done(&a, "publish", &json!({"channel": "chat.1", "b64data": text, "data": 5, "tags": {"for": "all"}})).await;
    assert_eq!(second["offset"], 2);
    let third = json!({"channel": "chat.1", "data": {"n": 3, "text": long}, "tags": {"for": "all"}});
    assert_eq!(done(b, "publish", &third).await["offset"], 3);
    let seen: Vec<Value> =
        [heard(&mut plain).await, heard(&mut plain).await, heard(&mut plain).await, heard(&mut plain).await].into();
    assert_eq!(
        seen.iter().map(|it| it["data"]["n"].clone()).collect::<Vec<_>>(),
        [json!(1), json!("passing"), json!(2), json!(3)]
    );
    assert_eq!(
        seen.iter().map(|it| it["offset"].clone()).collect::<Vec<_>>(),
        [json!(1), Value::Null, json!(2), json!(3)]
    );
    assert_eq!(seen[0]["tags"], json!({"for": "all"}));
    let mut whole = Vec::new();
    for _ in 0..4 {
        let it = heard(&mut patched).await;
        let text = it["data"].as_str().expect("a text, where patches were asked for").to_owned();
        whole.push((it["delta"] == true, serde_json::from_str::<Value>(&text).ok().map(|data| data["n"].clone())));
    }
    assert_eq!(whole[..3], [(false, Some(json!(1))), (false, Some(json!("passing"))), (false, Some(json!(2)))]);
    assert!(whole[3].0, "and the next is a patch again: {whole:?}");
    for n in [1, 2, 3] {
        assert_eq!(heard(&mut filtered).await["data"]["n"], n, "what has no such tag is not for it");
    }

    // Only what is newer.
    let versioned = |version: u64, epoch: &str| json!({"channel": "chat.1", "data": {"v": version}, "version": version, "version_epoch": epoch});
    assert_eq!(done(&a, "publish", &versioned(1_764_000_000_000_000_001, "db")).await["offset"], 4);
    for version in [7, 1_764_000_000_000_000_000, 1_764_000_000_000_000_001] {
        assert_eq!(done(b, "publish", &versioned(version, "db")).await["offset"], 4, "left out: {version}");
    }
    assert_eq!(done(b, "publish", &versioned(1, "another")).await["offset"], 5);
    let history = done(&a, "history", &json!({"channel": "chat.1", "limit": 100})).await;
    assert_eq!(history["publications"].as_array().expect("publications").len(), 5);

    // The past goes, and nobody who has everything is disturbed.
    let (mut late, stands) = subscribed(b, &json!({})).await;
    assert_eq!(stands["offset"], 5);
    assert_eq!(done(b, "history_remove", &json!({"channel": "chat.1"})).await, json!({}));
    let history = done(&a, "history", &json!({"channel": "chat.1", "limit": 100})).await;
    assert_eq!((&history["publications"], &history["offset"]), (&json!([]), &json!(5)));
    let back = |offset: u64| json!({"recover": true, "offset": offset, "epoch": stands["epoch"]});
    let (_, recovered) = subscribed(&a, &back(5)).await;
    assert_eq!(recovered["recovered"], true, "{recovered}");
    let (_, lost) = subscribed(&a, &back(3)).await;
    assert!(lost["was_recovering"] == true && lost["recovered"] != true, "who comes back from before is told: {lost}");
    assert_eq!(done(&a, "publish", &json!({"channel": "chat.1", "data": {"n": 6}})).await["offset"], 6);
    assert_eq!(heard(&mut late).await["offset"], 6, "told nothing in between");
    let (_, recovered) = subscribed(b, &back(5)).await;
    assert_eq!((&recovered["recovered"], recovered["publications"].as_array().map(Vec::len)), (&json!(true), Some(1)));
}

#[tokio::test]
async fn publications_keep_to_their_conditions_in_memory() {
    Box::pin(on_two_nodes(false)).await;
}

#[tokio::test]
async fn publications_keep_to_their_conditions_on_two_nodes() {
    Box::pin(on_two_nodes(true)).await;
}

/// Whoever goes back through a past of which the beginning is gone has nothing twice, and comes to its end.
async fn the_past_backwards(redis: bool) {
    let world = World::new(1, redis).await;
    let hub = world.hub_with("a", &rules()).await;
    let channels = vec!["deep.1"; 100];
    let published = done(&hub, "broadcast", &json!({"channels": channels, "data": "x"})).await;
    let epoch = &published["responses"][0]["result"]["epoch"];
    let page = async |since: u64, limit: i32| {
        let since = json!({"offset": since, "epoch": epoch});
        let body = json!({"channel": "deep.1", "limit": limit, "reverse": true, "since": since});
        let page = done(&hub, "history", &body).await;
        assert_eq!((&page["offset"], &page["epoch"]), (&json!(100), epoch));
        let offsets = page["publications"].as_array().expect("publications").iter().map(|it| it["offset"].as_u64());
        offsets.collect::<Option<Vec<_>>>().expect("offsets")
    };
    assert_eq!(page(101, 3).await, [100, 99, 98]);
    for limit in [10, 1000, -1] {
        assert_eq!(page(85, limit).await, [84, 83, 82, 81], "{limit}");
    }
    assert_eq!(page(u64::MAX, -1).await, (81..=100).rev().collect::<Vec<_>>());
    assert_eq!(page(81, 10).await, [0; 0]);
    assert_eq!(page(0, 10).await, [0; 0]);
}

#[tokio::test]
async fn the_past_is_read_backwards_in_memory() {
    the_past_backwards(false).await;
}

#[tokio::test]
async fn the_past_is_read_backwards_over_redis() {
    the_past_backwards(true).await;
}

#[tokio::test]
async fn conditions_that_are_none_are_refused() {
    let world = World::new(1, false).await;
    let hub = world.hub_with("a", &rules()).await;
    let with = |more: Value| {
        let mut body = json!({"channel": "chat.1", "data": 1});
        for (key, value) in more.as_object().expect("more") {
            body[key] = value.clone();
        }
        body
    };
    let large = STANDARD.encode(vec![b'1'; 64 * 1024 + 1]);
    for (body, code) in [
        (with(json!({"idempotency_key": "k".repeat(256)})), 107),
        (with(json!({"version": 1, "version_epoch": "e".repeat(256)})), 107),
        (with(json!({"version_epoch": "e"})), 107),
        (with(json!({"version": 1, "skip_history": true})), 107),
        (with(json!({"b64data": "no base64"})), 107),
        (with(json!({"b64data": STANDARD.encode("no json")})), 107),
        (with(json!({"b64data": STANDARD.encode([0xff, 0xfe])})), 107),
        (with(json!({"b64data": STANDARD.encode("{} {}")})), 107),
        (with(json!({"b64data": large})), 106),
        (with(json!({"data": "x".repeat(64 * 1024 - 10), "skip_history": true})), 106),
        (json!({"data": 1}), 107),
    ] {
        let (status, _, answer) = call(&hub, "publish", &body).await;
        let start: String = body.to_string().chars().take(80).collect();
        assert_eq!((status, &answer["error"]["code"]), (200, &json!(code)), "{start} {answer}");
    }
    for body in [
        with(json!({"version": -1})),
        with(json!({"version": 1.5})),
        with(json!({"skip_history": "yes"})),
        json!({"channel": "chat.1"}),
    ] {
        assert_eq!(call(&hub, "publish", &body).await.0, 400, "{body}");
    }
    for data in [json!(null), json!({"n": null})] {
        assert!(done(&hub, "publish", &with(json!({"data": data, "version": 0}))).await["epoch"].is_string());
    }
    let (_, _, refused) = call(&hub, "history_remove", &json!({"channel": "entities.procedure"})).await;
    assert_eq!(refused["error"]["code"], 103, "the hub's own past is not to be removed");
}

/// The same command so many times in one frame; the answers, pings aside.
async fn pipelined(client: &mut Client, command: &str, count: usize) -> Vec<Value> {
    client.0.send(vec![command; count].join("\n").into()).await.expect("sent");
    let mut replies = Vec::new();
    while replies.len() < count {
        let reply = client.receive().await;
        if !reply["id"].is_null() {
            replies.push(reply);
        }
    }
    replies
}

#[tokio::test]
async fn a_channel_has_its_pace_on_all_nodes_together() {
    let world = World::new(1, true).await;
    let rules = rules();
    let (a, b) = tokio::join!(world.hub_with("a", &rules), world.hub_with("b", &rules));
    let body = json!({"channel": "slow.1", "data": 1});
    let (mut taken, mut refused) = (0, 0);
    let begun = std::time::Instant::now();
    // All at once, so that a slow machine does not give the pace back between them.
    for (status, after, answer) in
        join_all((0..30).map(|n| call(if n % 2 == 0 { &a } else { &b }, "publish", &body))).await
    {
        match status {
            200 => taken += 1,
            429 => {
                refused += 1;
                assert_eq!((after.as_deref(), &answer["code"]), (Some("1"), &json!("too_many_publications")));
            }
            _ => panic!("{status} {answer}"),
        }
    }
    let most = 2 + begun.elapsed().as_millis() / 500 + 1;
    assert!(taken >= 2 && taken <= most && refused > 0, "{taken} taken, {refused} refused");
    // Of many in one call each has its own answer.
    let batch = json!({"commands": (0..30).map(|_| json!({"publish": body})).collect::<Vec<_>>()});
    let (_, _, replies) = call(&a, "batch", &batch).await;
    assert!(replies["replies"].as_array().expect("replies").iter().any(|it| it["error"]["code"] == 111), "{replies:?}");
    // Clients share it, and try again.
    let mut client = Client::connected(&b, "viewer").await;
    let publish = json!({"id": 5, "publish": {"channel": "slow.1", "data": {}}}).to_string();
    let replies = pipelined(&mut client, &publish, 20).await;
    let refused = replies.iter().find(|it| it["error"]["code"] == 111).expect("one too many");
    assert_eq!(refused["error"]["temporary"], true, "{refused}");
    eventually("time gives it back", async || client.ask(&publish).await["publish"].is_object()).await;
    // Another channel has a pace of its own, and one that is for clients does not concern servers.
    done(&a, "publish", &json!({"channel": "slow.2", "data": 1})).await;
    let quiet = json!({"id": 6, "publish": {"channel": "quiet.1", "data": {}}}).to_string();
    let replies = pipelined(&mut client, &quiet, 20).await;
    assert!(replies[0]["publish"].is_object() && replies.iter().any(|it| it["error"]["code"] == 111), "{replies:?}");
    for _ in 0..5 {
        done(&b, "publish", &json!({"channel": "quiet.1", "data": 1})).await;
    }
    assert!(b.metric("dzvin_bus_paced_channels").await >= 1.0);
}

/// So many of one user's commands at once on each of two nodes; how many were let through, and how many were refused.
async fn at_once(clients: &mut [Client], command: &str, count: usize) -> (usize, usize) {
    let replies = join_all(clients.iter_mut().map(|client| pipelined(client, command, count))).await;
    let refused = replies.iter().flatten().filter(|it| it["error"]["code"] == 111).count();
    (count * clients.len() - refused, refused)
}

#[tokio::test]
async fn a_user_has_a_pace_on_all_nodes_together_and_on_each_while_redis_is_away() {
    let mut world = World::new(1, true).await;
    let rules = "[channels]\nuser_publications_per_second = 5\nuser_publications_across = \"cluster\"\n\
                 [channels.namespaces.chat]\nsubscribe = \"signed_in\"\npublish = \"signed_in\"\n";
    let (a, b) = tokio::join!(world.hub_with("a", rules), world.hub_with("b", rules));
    let mut clients = [Client::connected(&a, "viewer").await, Client::connected(&b, "viewer").await];
    let publish = |n: usize| json!({"id": 5, "publish": {"channel": format!("chat.{n}"), "data": {}}}).to_string();
    let call = json!({"id": 6, "rpc": {"method": "nobody's"}}).to_string();
    let begun = std::time::Instant::now();
    let (mut taken, mut refused) = (0, 0);
    for command in [publish(1), call.clone(), publish(2)] {
        let (more, less) = at_once(&mut clients, &command, 20).await;
        (taken, refused) = (taken + more, refused + less);
    }
    let most = 5 + usize::try_from(begun.elapsed().as_millis() * 5 / 1000).expect("small") + 1;
    assert!((5..=most).contains(&taken) && refused > 0, "{taken} taken, {refused} refused");
    eventually("time gives it back", async || clients[0].ask(&publish(3)).await["publish"].is_object()).await;
    assert_eq!(
        a.metric("dzvin_bus_users_paced_alone_total").await + b.metric("dzvin_bus_users_paced_alone_total").await,
        0.0
    );
    // Redis is away: nobody is locked out, and nobody goes uncounted.
    world.redis.as_mut().expect("redis").kill();
    for hub in [&a, &b] {
        eventually("it is known to be away", async || hub.metric("dzvin_bus_connected").await == 0.0).await;
    }
    for (hub, client) in [&a, &b].into_iter().zip(&mut clients) {
        eventually("the user may call", async || client.ask(&call).await["error"]["code"] == 108).await;
        let begun = std::time::Instant::now();
        let (taken, refused) = at_once(std::slice::from_mut(client), &call, 30).await;
        let most = 5 + usize::try_from(begun.elapsed().as_millis() * 5 / 1000).expect("small") + 1;
        assert!(taken <= most && refused > 0, "{taken} taken, {refused} refused");
        assert!(hub.metric("dzvin_bus_users_paced_alone_total").await >= 1.0, "and that is seen");
    }
}

/// Whoever publishes: whoever comes to a cache channel later is shown the last event, for as long as that is told of.
#[tokio::test]
async fn a_cache_channel_keeps_its_last_publication_whoever_published_it() {
    let world = World::new(1, false).await;
    let brief = |word: &str| {
        format!(
            "[channels.namespaces.{word}]\nhistory_count = 3\nhistory_age = \"1s\"\n\
             publish = \"signed_in\"\nsubscribe = \"signed_in\"\n"
        )
    };
    let namespaces = ["cache-brief", "brief"].map(brief).concat();
    let app =
        "[[pusher.apps]]\nid = \"main\"\nkeys = [{ key = \"app-key\", secret = \"an app secret of many bytes\" }]\n";
    let hub = world.hub_with("a", &with_key(&format!("{namespaces}{app}"))).await;
    let mut client = Client::connected(&hub, "viewer").await;
    done(&hub, "publish", &json!({"channel": "cache-brief.1", "data": 1})).await;
    done(&hub, "broadcast", &json!({"channels": ["cache-brief.2"], "data": 2})).await;
    let said = client.ask(r#"{"id":2,"publish":{"channel":"cache-brief.3","data":3}}"#).await;
    assert!(said["publish"].is_object(), "{said}");
    // What came after them has had its time.
    done(&hub, "publish", &json!({"channel": "brief.1", "data": 4})).await;
    let kept = async |channel: &str| {
        let history = done(&hub, "history", &json!({"channel": channel, "limit": 10})).await;
        history["publications"].as_array().map_or(0, Vec::len)
    };
    eventually("history_age", async || kept("brief.1").await == 0).await;
    for n in 1..=3 {
        assert_eq!(kept(&format!("cache-brief.{n}")).await, 1, "{n}");
    }
}
