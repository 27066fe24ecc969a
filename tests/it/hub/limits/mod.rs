//! The limits that the configuration names, from their key in the file to what a client or a server is told: a wire that is
//! crossed between the two is red here. What a limit does in every corner is tested where it lives. Of those that only time or the
//! store of positions would show (`keep_positions`, `position_check`, `recovery_depth`, those of webhooks) `app::settings` tests the wire.

mod pusher;

use std::time::Duration;

use futures_util::{SinkExt, future::join_all};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::{
    server::{ask as call, publish, with_every_right},
    talk::{ask, receive, subscribe},
};
use crate::support::{
    eventually::eventually,
    hub::{Hub, World},
    session::Client,
};

/// What the hub still has of a channel.
async fn kept(hub: &Hub, channel: &str) -> usize {
    let answer = call(hub, "history", &json!({"channel": channel, "limit": 1000})).await;
    answer["result"]["publications"].as_array().map_or(0, Vec::len)
}

#[tokio::test]
async fn what_a_channel_keeps_and_gives_is_what_the_file_says() {
    let world = World::new(1, false).await;
    let more = format!(
        "{}[channels]\nmax_channels = 3\nmax_message = \"16KiB\"\nmax_channel_name = 20\nmax_history = 2\nrecovery_count = 2\n\
         max_presence = 1\nexpiry_grace = \"0s\"\nidempotency_window = \"1s\"\nmax_api_page = 4\nmax_api_batch = 2\n\
         [channels.namespaces.deep]\nsubscribe = \"signed_in\"\nhistory_count = 3\n\
         [channels.namespaces.brief]\nhistory_age = \"1s\"\n\
         [channels.namespaces.small]\nhistory_bytes = \"1KiB\"\n\
         [channels.namespaces.latest]\nsubscribe = \"signed_in\"\nrecovery = \"latest\"\n\
         [channels.namespaces.plain]\nsubscribe = \"signed_in\"\ndeltas = false\n\
         [channels.namespaces.room]\nsubscribe = \"signed_in\"\npresence = true\nsee_presence = \"signed_in\"\n",
        with_every_right()
    );
    let hub = world.hub_with("a", &more).await;

    // history_count, history_bytes, history_age; max_api_page is above none of them.
    for n in 1..=5 {
        publish(&hub, "deep.1", &json!(n)).await;
        publish(&hub, "small.1", &json!("x".repeat(300))).await;
        publish(&hub, "brief.1", &json!(n)).await;
        publish(&hub, "many.1", &json!(n)).await;
    }
    assert_eq!(kept(&hub, "deep.1").await, 3, "history_count");
    let small = kept(&hub, "small.1").await;
    assert!((1..=3).contains(&small), "history_bytes: {small}");
    eventually("history_age", async || kept(&hub, "brief.1").await == 0).await;
    assert_eq!(kept(&hub, "many.1").await, 4, "max_api_page");
    let batch = |n: usize| json!({"commands": vec![json!({"history": {"channel": "deep.1"}}); n]});
    assert!(call(&hub, "batch", &batch(2)).await["replies"].is_array());
    assert_eq!(call(&hub, "batch", &batch(3)).await["error"]["code"], 106, "max_api_batch");
    let channels = |n: usize| json!({"channels": vec!["deep.2"; n], "data": 1});
    assert!(call(&hub, "broadcast", &channels(2)).await["result"]["responses"].is_array());
    assert_eq!(call(&hub, "broadcast", &channels(3)).await["error"]["code"], 106, "max_api_batch");
    let long = format!("deep.{}", "x".repeat(16));
    let refused = call(&hub, "publish", &json!({"channel": long, "data": 1})).await;
    assert_eq!(refused["error"]["code"], 107, "max_channel_name");

    // idempotency_window: said again at once it is the same, later it is another.
    let once = json!({"channel": "many.2", "data": 1, "idempotency_key": "k"});
    eventually("the same", async || {
        let [first, again] = [call(&hub, "publish", &once).await, call(&hub, "publish", &once).await];
        first["result"]["offset"].is_u64() && first == again
    })
    .await;
    let first = call(&hub, "publish", &once).await;
    eventually("idempotency_window", async || call(&hub, "publish", &once).await != first).await;

    // recovery_count, max_history.
    let mut client = Client::connected(&hub, "viewer").await;
    let back = |offset: u64| json!({"recover": true, "epoch": "", "offset": offset});
    let whole = subscribe(&mut client, "deep.1", back(3)).await["subscribe"].take();
    assert_eq!((&whole["recovered"], whole["publications"].as_array().map(Vec::len)), (&json!(true), Some(2)));
    let page = ask(&mut client, json!({"history": {"channel": "deep.1", "limit": -1}}), 101).await;
    assert_eq!(page["history"]["publications"].as_array().map(Vec::len), Some(2), "max_history: {page}");
    assert!(ask(&mut client, json!({"unsubscribe": {"channel": "deep.1"}}), 102).await["unsubscribe"].is_object());
    let lost = subscribe(&mut client, "deep.1", back(2)).await["subscribe"].take();
    assert!(lost["was_recovering"] == true && lost["recovered"] != true, "recovery_count: {lost}");

    // recovery = "latest", deltas = false, max_channels.
    for n in 1..=3 {
        publish(&hub, "latest.1", &json!(n)).await;
    }
    // Whoever has dropped its position, as the libraries do it, has the latest all the same.
    let dropped = json!({"recover": true, "epoch": "_", "offset": 0});
    let latest = subscribe(&mut client, "latest.1", dropped).await["subscribe"].take();
    assert_eq!(latest["recovered"], true, "{latest}");
    let data: Vec<&Value> = latest["publications"].as_array().expect("one").iter().map(|it| &it["data"]).collect();
    assert_eq!(data, [&json!(3)], "{latest}");
    let plain = subscribe(&mut client, "plain.1", json!({"delta": "fossil"})).await["subscribe"].take();
    assert_ne!(plain["delta"], true, "deltas: {plain}");
    assert_eq!(subscribe(&mut client, "deep.3", json!({})).await["error"]["code"], 106, "max_channels");

    // max_presence: one is told, of two nobody.
    let (mut one, mut two) = (Client::connected(&hub, "viewer").await, Client::connected(&hub, "operator").await);
    let who = json!({"presence": {"channel": "room.1"}});
    subscribe(&mut one, "room.1", json!({})).await;
    let told = ask(&mut one, who.clone(), 103).await;
    assert_eq!(told["presence"]["presence"].as_object().map(serde_json::Map::len), Some(1), "{told}");
    subscribe(&mut two, "room.1", json!({})).await;
    assert_eq!(ask(&mut one, who, 104).await["error"]["code"], 106, "max_presence");

    // expiry_grace: with that of the defaults it would be another 25 s.
    let mut short = Client::new(&hub).await;
    let token = World::token_for("viewer", 2);
    let reply = ask(&mut short, json!({"connect": {"token": token}}), 1).await;
    assert!(reply["connect"]["client"].is_string(), "{reply}");
    let ended = timeout(Duration::from_secs(15), receive(&mut short)).await.expect("expiry_grace");
    assert_eq!(ended["close"], 3005);

    // max_message.
    let large = json!({"publish": {"channel": "deep.1", "data": "x".repeat(17 * 1024)}});
    assert_eq!(ask(&mut two, large, 105).await["close"], 1009, "max_message");
}

#[tokio::test]
async fn what_a_client_may_do_is_what_the_file_says() {
    let world = World::new(1, false).await;
    let more = "[channels]\nmax_sessions_per_user = 2\ncommands_per_second = 5\nmax_refusals = 4\n";
    let hub = world.hub_with("a", more).await;
    let mut client = Client::connected(&hub, "viewer").await;
    let _second = Client::connected(&hub, "viewer").await;
    let mut third = Client::new(&hub).await;
    let refused = third.ask(&json!({"id": 1, "connect": {"token": World::token("viewer")}}).to_string()).await;
    assert_eq!(refused["close"], 3504, "max_sessions_per_user");
    // All in one frame, so that time gives nothing back meanwhile.
    let many: Vec<String> = (2..40).map(|id| json!({"id": id, "ping": {}}).to_string()).collect();
    client.0.send(many.join("\n").into()).await.expect("sent");
    let (mut done, mut refused) = (0, 0);
    let code = loop {
        let heard = receive(&mut client).await;
        match &heard["error"]["code"] {
            _ if !heard["close"].is_null() => break heard["close"].clone(),
            Value::Null => done += 1,
            code => {
                assert_eq!(*code, 111, "{heard}");
                refused += 1;
            }
        }
    };
    assert!(code == 3509 && (4..30).contains(&refused), "max_refusals: {code} after {refused}");
    assert!((1..=8).contains(&done), "commands_per_second: {done} were done");
}

#[tokio::test]
async fn silence_is_borne_as_long_as_the_file_says() {
    let world = World::new(1, false).await;
    let more = "[channels]\nping = \"1s\"\npong = \"500ms\"\nconnect_timeout = \"1s\"\n";
    let hub = world.hub_with("a", more).await;
    let mut silent = Client::new(&hub).await;
    assert_eq!(silent.receive().await["close"], 3502, "connect_timeout");
    let mut deaf = Client::connected(&hub, "operator").await;
    assert_eq!(timeout(Duration::from_secs(10), deaf.receive()).await.expect("a ping"), json!({}), "ping");
    assert_eq!(timeout(Duration::from_secs(7), deaf.receive()).await.expect("an end")["close"], 3012, "pong");
}

/// Age ends connections, and not all of one moment in one moment.
#[tokio::test]
async fn connections_grow_as_old_as_the_file_says() {
    let world = World::new(1, false).await;
    let hub = world.hub_with("a", "[channels]\nmax_connection_age = \"3s\"\n").await;
    let lives = join_all((0..40).map(|_| async {
        let mut client = Client::connected(&hub, "viewer").await;
        let began = std::time::Instant::now();
        assert_eq!(receive(&mut client).await["close"], 3011);
        began.elapsed()
    }));
    let mut lives = lives.await;
    lives.sort_unstable();
    let (first, last) = (lives[0], lives[lives.len() - 1]);
    assert!(first >= Duration::from_millis(500) && last <= Duration::from_secs(15), "{first:?} to {last:?}");
    assert!(last - first >= Duration::from_millis(400), "spread over 1.2 s: {first:?} to {last:?}");
}

/// Held and conflated over Redis, each node for those who listen there.
#[tokio::test]
async fn what_is_held_goes_out_as_the_file_says_on_two_nodes() {
    let world = World::new(1, true).await;
    let held = "subscribe = \"signed_in\"\nhold = \"1s\"\n";
    let more = format!(
        "{}[channels.namespaces.ticker]\n{held}conflate = \"channel\"\n\
         [channels.namespaces.board]\n{held}conflate = \"tag\"\nconflate_tag = \"seat\"\n\
         [channels.namespaces.slow]\n{held}",
        with_every_right()
    );
    let (a, b) = tokio::join!(world.hub_with("a", &more), world.hub_with("b", &more));
    let mut clients = [Client::connected(&a, "viewer").await, Client::connected(&b, "operator").await];
    for client in &mut clients {
        for channel in ["ticker.1", "ticker.2", "ticker.3", "board.1", "board.2", "slow.1", "slow.2"] {
            assert!(subscribe(client, channel, json!({})).await["subscribe"].is_object(), "{channel}");
        }
    }
    // The first goes out at once, and what comes within the second after it is held. One call, so that all of it does.
    let say =
        |channel: &str, n: u64, seat: &str| json!({"publish": {"channel": channel, "data": n, "tags": {"seat": seat}}});
    let mut commands: Vec<Value> = (1..=9).map(|n| say("ticker.1", n, "x")).collect();
    commands.extend((1..=9).map(|n| say("board.1", n, if n % 2 == 0 { "even" } else { "odd" })));
    commands.extend((1..=9).map(|n| say("slow.1", n, "x")));
    let pass = |n: u64| json!({"publish": {"channel": "ticker.2", "data": n, "skip_history": true}});
    commands.extend((1..=9).map(pass));
    // Both sorts on one channel: the latest of both comes last.
    let either = |n: u64| json!({"publish": {"channel": "ticker.3", "data": n, "skip_history": n % 2 == 1}});
    commands.extend((1..=10).map(either));
    call(&a, "batch", &json!({"commands": commands})).await;
    // Where nothing is left out both sorts keep the order in which they were taken, and so does what has no tag.
    for n in 1..=9 {
        for channel in ["slow.2", "board.2"] {
            call(&a, "publish", &json!({"channel": channel, "data": n, "skip_history": n % 3 == 1})).await;
        }
    }
    type Heard = std::collections::BTreeMap<String, Vec<u64>>;
    let mut all = [Heard::new(), Heard::new()];
    for (client, heard) in clients.iter_mut().zip(&mut all) {
        let ended = |all: &Heard| {
            let has = |channel: &str, n: u64| all.get(channel).is_some_and(|told| told.contains(&n));
            has("ticker.1", 9)
                && has("ticker.2", 9)
                && has("ticker.3", 10)
                && has("board.1", 9)
                && has("board.1", 8)
                && ["board.2", "slow.1", "slow.2"].iter().all(|channel| has(channel, 9))
        };
        while !ended(heard) {
            let push = receive(client).await["push"].take();
            let channel = push["channel"].as_str().expect("a push").to_owned();
            heard.entry(channel).or_default().push(push["pub"]["data"].as_u64().expect("a number"));
        }
        for ticker in ["ticker.1", "ticker.2"] {
            assert!(heard[ticker].len() < 9, "hold, conflate = channel: {heard:?}");
        }
        let board = &heard["board.1"];
        assert!(board.len() < 9 && board.is_sorted(), "conflate = tag: {heard:?}");
        for whole in ["slow.1", "slow.2", "board.2"] {
            assert_eq!(heard[whole], (1..=9).collect::<Vec<_>>(), "nothing is left out of {whole}: {heard:?}");
        }
    }
    call(&a, "publish", &json!({"channel": "ticker.3", "data": 11})).await;
    for (client, heard) in clients.iter_mut().zip(&all) {
        let mut told = heard["ticker.3"].clone();
        while told.last() != Some(&11) {
            told.extend(receive(client).await["push"]["pub"]["data"].as_u64());
        }
        assert!(told.len() < 11 && told.is_sorted(), "the latest of both sorts came last: {told:?}");
    }
}
