//! Connections as servers and operators name and end them, on whichever node they are.

use futures_util::SinkExt;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::{
    server::{ask as call, publish, with_every_right},
    talk::{pushed, receive, subscribe},
};
use crate::support::{
    eventually::{eventually, patience},
    hub::{Hub, World},
    session::Client,
};

/// What servers have connections do, by all that names one, on the node where it is not asked.
#[tokio::test]
async fn servers_reach_one_connection_on_another_node() {
    let world = World::new(0, true).await;
    let more = format!(
        "{}[channels]\nexpiry_grace = \"0s\"\n[channels.namespaces.room]\npresence = true\n",
        with_every_right()
    );
    let (a, b) = tokio::join!(world.hub_with("a", &more), world.hub_with("b", &more));

    // Each node as it is, whoever is asked.
    let mut olha = Client::connected(&b, "viewer").await;
    let mut other = Client::connected(&b, "viewer").await;
    let _ivan = Client::connected(&a, "operator").await;
    assert!(subscribe(&mut olha, "entities.procedure", json!({})).await["subscribe"].is_object());
    for hub in [&a, &b] {
        let info = call(hub, "info", &json!({})).await["result"].take();
        let nodes = info["nodes"].as_array().expect("nodes").clone();
        assert_eq!((nodes.len(), &info["missing"]), (2, &json!([])), "{info}");
        let named = |hub: &Hub| {
            let end = format!("_{}", hub.addr.port());
            nodes
                .iter()
                .find(|it| it["name"].as_str().is_some_and(|name| name.ends_with(&end)))
                .expect("a node")
                .clone()
        };
        let count =
            |node: &Value| ["num_clients", "num_users", "num_subs", "num_channels"].map(|key| node[key].clone());
        assert_eq!(count(&named(&a)), [json!(1), json!(1), json!(0), json!(0)], "{info}");
        assert_eq!(count(&named(&b)), [json!(2), json!(1), json!(1), json!(1)], "{info}");
        assert_ne!(named(&a)["uid"], named(&b)["uid"]);
        assert!(
            named(&a)["version"].as_str().is_some_and(|it| it.starts_with("dzvin ")) && named(&b)["uptime"].is_u64()
        );
    }
    let url = format!("http://{}/api/info", a.addr);
    let refused = reqwest::Client::new().post(url).bearer_auth(World::token("viewer")).body("{}").send().await;
    let refused: Value = refused.expect("an answer").json().await.expect("json");
    assert_eq!(refused["error"]["code"], 103, "not for everybody");

    // `refresh` moves the end of all connections of a user, or of one.
    let names = |connection: &Value| connection["client"].as_str().expect("a client").to_owned();
    let seen = a.api("admin", "/api/v1/connections?user=viewer-1").await;
    let items = seen["items"].as_array().expect("items").clone();
    let busy = names(items.iter().find(|it| it["channels"] != json!([])).expect("olha's"));
    let later = time::OffsetDateTime::now_utc().unix_timestamp() + 100;
    assert_eq!(call(&a, "refresh", &json!({"user": "viewer-1", "expire_at": later})).await, json!({"result": {}}));
    for client in [&mut olha, &mut other] {
        let told = pushed(client, "refresh").await;
        assert!(told["expires"] == true && told["ttl"].as_u64().is_some_and(|ttl| (80..=100).contains(&ttl)), "{told}");
    }

    // `subscribe` with all that it may say; what was missed comes first.
    for n in 1..=3 {
        publish(&a, "room.1", &json!(n)).await;
    }
    let epoch = publish(&a, "room.1", &json!(4)).await["epoch"].clone();
    let order = json!({"client": busy, "channel": "room.1", "info": {"role": "clerk"}, "data": {"hello": 1},
        "recover_since": {"offset": 2, "epoch": epoch}, "override": {"join_leave": {"value": false}}});
    assert_eq!(call(&a, "subscribe", &order).await, json!({"result": {}}));
    let told = pushed(&mut olha, "subscribe").await;
    assert_eq!((&told["offset"], &told["data"]), (&json!(2), &json!({"hello": 1})), "{told}");
    for n in [3, 4] {
        assert_eq!(pushed(&mut olha, "pub").await["data"], n);
    }
    let present = eventually("she is there", async || {
        let present = call(&a, "presence", &json!({"channel": "room.1"})).await;
        present["result"]["presence"].get(&busy).cloned()
    });
    assert_eq!(present.await["chan_info"], json!({"role": "clerk"}));
    for (more, code) in [
        (json!({"b64info": "no base64"}), 107),
        (json!({"b64data": "AP8="}), 107),
        (json!({"info": "x".repeat(10_000)}), 107),
        (json!({"expire_at": 1}), 110),
        (json!({"session": "s"}), 107),
        (json!({"channel": "entities.procedure"}), 103),
    ] {
        let mut body = json!({"client": busy, "channel": "room.2"});
        body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        assert_eq!(call(&a, "subscribe", &body).await["error"]["code"], code, "{more}");
    }

    // A subscription that the server lets end takes its connection with it.
    let soon = time::OffsetDateTime::now_utc().unix_timestamp() + 3;
    call(&a, "subscribe", &json!({"client": busy, "channel": "room.3", "expire_at": soon})).await;
    pushed(&mut olha, "subscribe").await;
    assert_eq!(receive(&mut olha).await["close"], 3006);

    // `disconnect` spares who is named, and finds one by its session alone.
    let mut again = Client::connected(&b, "viewer").await;
    let seen = a.api("admin", "/api/v1/connections?user=viewer-1").await;
    let newest = seen["items"].as_array().expect("items").iter().min_by_key(|it| it["age_seconds"].as_u64());
    let spared = names(newest.expect("two"));
    call(&a, "disconnect", &json!({"user": "viewer-1", "whitelist": [spared]})).await;
    let (mut gone, mut stays) = (0, 0);
    for client in [&mut other, &mut again] {
        let answer = match client.0.send(json!({"id": 77, "ping": {}}).to_string().into()).await {
            Ok(()) => receive(client).await,
            Err(_) => json!({"close": 3503}),
        };
        gone += usize::from(answer["close"] == 3503);
        stays += usize::from(answer["id"] == 77);
    }
    // A ping that was on its way may have been answered before the end.
    assert!(gone <= 1 && stays >= 1, "{gone} are gone");
    eventually("the other is gone", async || {
        let seen = a.api("admin", "/api/v1/connections?user=viewer-1").await;
        seen["items"].as_array().expect("items").iter().map(names).eq([spared.clone()])
    })
    .await;
    let body = json!({"id": 1, "connect": {"token": World::token("viewer")}}).to_string();
    let url = format!("http://{}/connection/http_stream", b.addr);
    let mut stream = reqwest::Client::new().post(url).body(body).send().await.expect("a stream");
    let mut line = Vec::new();
    while !line.contains(&b'\n') {
        line.extend_from_slice(&stream.chunk().await.expect("read").expect("open"));
    }
    let hello: Value = serde_json::from_slice(line.split(|b| *b == b'\n').next().expect("a line")).expect("json");
    let session = hello["connect"]["session"].as_str().expect("a session").to_owned();
    let both = json!({"session": session, "client": "c"});
    assert_eq!(call(&a, "disconnect", &both).await["error"]["code"], 107, "one of the two says who it is");
    for wrong in ["", "s", &session[1..]] {
        call(&a, "disconnect", &json!({"session": wrong})).await;
    }
    // In an address, which is logged, it is no name, and neither is it where a client's id is asked for.
    let (named, http) = (format!("session:{session}"), reqwest::Client::new());
    let connections = format!("http://{}/api/v1/connections", a.addr);
    for request in [http.delete(format!("{connections}/{named}")), http.get(format!("{connections}?client={named}"))] {
        let answer = request.bearer_auth(World::token("admin")).send().await.expect("an answer");
        let (status, problem): (_, Value) = (answer.status(), answer.json().await.expect("json"));
        assert_eq!((status.as_u16(), &problem["code"]), (400, &json!("bad_request")), "{problem}");
        assert!(!problem.to_string().contains(&session), "{problem}");
    }
    assert_eq!(call(&a, "disconnect", &json!({"client": named})).await["error"]["code"], 107);
    // None of them was meant: it is still here, and found by its own.
    call(&a, "subscribe", &json!({"session": session, "channel": "room.5"})).await;
    let mut rest = Vec::new();
    while !String::from_utf8_lossy(&rest).contains("room.5") {
        rest.extend_from_slice(
            &timeout(patience(), stream.chunk()).await.expect("in time").expect("read").expect("open"),
        );
    }
    assert_eq!(call(&a, "disconnect", &json!({"session": session})).await, json!({"result": {}}));
    while let Ok(Some(chunk)) = timeout(patience(), stream.chunk()).await.expect("in time") {
        rest.extend_from_slice(&chunk);
    }
    let told = String::from_utf8(rest).expect("text");
    assert!(told.contains("\"disconnect\":{\"code\":3503"), "{told}");
    // `expired` ends what is left.
    let mut last = Client::connected(&b, "manager").await;
    call(&a, "refresh", &json!({"user": "manager-1", "expired": true})).await;
    assert_eq!(receive(&mut last).await["close"], 3005);
}
