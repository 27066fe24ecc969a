//! What servers are told of channels and members, whom they may send away, and that isolated applications are alone.

use std::{sync::atomic::Ordering::Relaxed, time::Duration};

use dzvin_actors::channels::AppRules;
use dzvin_protocols::channels::Control;

use super::*;

#[tokio::test]
async fn channels_are_described() {
    let kit = Kit::new();
    kit.census.set("x", 3, &[]).await;
    kit.census.set("xx", 1, &[]).await;
    kit.census.set("presence-x", 3, &["10", "оля", "10"]).await;
    kit.census.set("entities.procedure", 9, &[]).await;
    kit.census.set("#server-to-user-7", 1, &[]).await;
    kit.census.set("/2/x", 5, &[]).await;
    kit.census.set("/2/presence-y", 2, &["8"]).await;
    for (parameters, want) in [
        (&[][..], value!({"channels":{"presence-x":{},"x":{},"xx":{}}})),
        (&[("filter_by_prefix", "x")], value!({"channels":{"x":{},"xx":{}}})),
        (&[("filter_by_prefix", "none")], value!({"channels":{}})),
        (
            &[("filter_by_prefix", "presence-"), ("info", "user_count,subscription_count")],
            value!({"channels":{"presence-x":{"user_count":2,"subscription_count":3}}}),
        ),
    ] {
        assert_eq!(kit.get("/channels", parameters).await, (200, want), "{parameters:?}");
    }
    assert_eq!(kit.get("/channels", &[("info", "user_count")]).await.0, 400);
    for (path, info, want) in [
        ("/channels/x", "", value!({"occupied":true})),
        ("/channels/nobody", "subscription_count", value!({"occupied":false,"subscription_count":0})),
        ("/channels/xx", "subscription_count", value!({"occupied":true,"subscription_count":1})),
        (
            "/channels/presence-x",
            "user_count,subscription_count",
            value!({"occupied":true,"user_count":2,"subscription_count":3}),
        ),
    ] {
        assert_eq!(kit.get(path, &[("info", info)]).await, (200, want), "{path}");
    }
    for (path, info) in [
        ("/channels/x", "user_count"),
        ("/channels/x", "cache"),
        ("/channels/x", "nonsense"),
        ("/channels/a%20b", ""),
        ("/channels/entities.procedure", ""),
        ("/channels/private-entities.procedure", "subscription_count"),
        ("/channels/x/users", ""),
        ("/channels/%2F2%2Fx", ""),
    ] {
        assert_eq!(kit.get(path, &[("info", info)]).await.0, 400, "{path} {info}");
    }
    assert_eq!(kit.get("/channels/presence-x/users", &[]).await, (200, value!({"users":[{"id":"10"},{"id":"оля"}]})));
    assert_eq!(kit.get("/channels/presence-nobody/users", &[]).await, (200, value!({"users":[]})));
    let own = |path: &'static str| kit.signed("2", "GET", path, &[], "");
    assert_eq!(own("/channels").await, (200, value!({"channels":{"presence-y":{},"x":{}}})));
    assert_eq!(own("/channels/presence-y/users").await, (200, value!({"users":[{"id":"8"}]})));
    assert_eq!(own("/channels/xx").await, (200, value!({"occupied":false})));
    assert_eq!(own("/channels/private-entities.procedure").await.0, 400, "the hub's own are not in its set");

    let asked = value!({"name":"a","data":"d","channels":["presence-x","x"],"info":"user_count,subscription_count"});
    let told = value!({"channels":{"presence-x":{"user_count":2,"subscription_count":3},"x":{"subscription_count":3}}});
    assert_eq!(kit.post("/events", asked.clone()).await, (200, told));
    let batch = value!({"batch":[{"name":"a","data":"d","channel":"x"},{"name":"a","data":"d","channel":"presence-x","info":"user_count"}]});
    assert_eq!(kit.post("/batch_events", batch).await, (200, value!({"batch":[{},{"user_count":2}]})));
    // What is published stays so when nobody can say who hears it; questions are refused.
    kit.census.away.store(true, Relaxed);
    assert_eq!(kit.post("/events", asked).await, (200, value!({"channels":{"presence-x":{},"x":{}}})));
    assert_eq!(kit.heard("x").await.len(), 3);
    for path in ["/channels", "/channels/x", "/channels/presence-x/users"] {
        let (status, answer) = kit.get(path, &[]).await;
        assert_eq!((status, &answer["code"]), (503, &value!("bus_unavailable")), "{path}");
    }
}

#[tokio::test]
async fn a_cache_channel_shows_its_last_event() {
    let kit = Kit::new();
    let ask = || kit.get("/channels/cache-x", &[("info", "cache")]);
    assert_eq!(ask().await, (200, value!({"occupied":false,"cache":null})));
    for data in ["first", r#"{"a":1.50}"#] {
        kit.post("/events", value!({"name":"a","data":data,"channel":"cache-x"})).await;
    }
    let (_, answer) = ask().await;
    assert_eq!(answer["cache"]["data"], r#"{"a":1.50}"#);
    assert!((1790..=1800).contains(&answer["cache"]["ttl"].as_u64().expect("seconds")), "{answer}");
    let mut app = App::new("1", vec![credentials("1")]).expect("app");
    app.rules = AppRules { cache_age: Duration::ZERO, ..AppRules::default() };
    kit.apps.replace(vec![app]).expect("apps");
    assert_eq!(ask().await, (200, value!({"occupied":false,"cache":null})), "what is too old is not shown");
}

#[tokio::test]
async fn a_user_is_sent_away_on_every_node() {
    let kit = Kit::new();
    // Libraries sign the path as they are given it, and send it escaped.
    for (app, plain, escaped, user) in [
        ("1", "7", "7", "7"),
        ("1", "оля", "%D0%BE%D0%BB%D1%8F", "оля"),
        ("1", "a b", "a%20b", "a b"),
        ("2", "7", "7", "\u{1f}2\u{1f}7"),
    ] {
        let path = |user| format!("/apps/{app}/users/{user}/terminate_connections");
        let query = sign_query("POST", &path(plain), &[], b"{}", &credentials(app), NOW());
        assert_eq!(kit.send("POST", &format!("{}?{query}", path(escaped)), "{}").await, (200, value!({})));
        let told = kit.events.lock().unwrap().try_recv().expect("told");
        let BusEvent::Told(word) = told else { panic!("{told:?}") };
        let Ok(Control::Disconnect { whose, code, .. }) = Control::decode(&word) else { panic!("{word:?}") };
        assert_eq!((whose.user.as_deref(), code), (Some(user), 3503));
        assert!(whose.client.is_none() && whose.except.is_empty());
    }
    let long = format!("/users/{}/terminate_connections", "x".repeat(129));
    assert_eq!(kit.signed("1", "POST", &long, &[], "{}").await.0, 400);
    assert!(kit.events.lock().unwrap().try_recv().is_err(), "nobody else");
}

#[tokio::test]
async fn isolated_applications_have_channels_of_their_own() {
    let kit = Kit::new();
    let event = value!({"name":"a","data":"d","channels":["x","#server-to-user-7"]}).to_string();
    assert_eq!(kit.signed("2", "POST", "/events", &[], &event).await.0, 200);
    assert_eq!(kit.heard("/2/x").await.len(), 1);
    assert_eq!(kit.heard("/2/#server-to-user-7").await.len(), 1);
    assert!(kit.heard("x").await.is_empty() && kit.heard("#server-to-user-7").await.is_empty());
}

/// Ids of users are the application's own, and have none of its prefix inside the hub.
#[tokio::test]
async fn users_of_an_isolated_application_are_listed_as_they_are_called() {
    let kit = Kit::new();
    kit.census.set("/2/presence-x", 3, &["/2/7", "7", "8"]).await;
    let listed = kit.signed("2", "GET", "/channels/presence-x/users", &[], "").await;
    assert_eq!(listed, (200, value!({"users": [{"id": "/2/7"}, {"id": "7"}, {"id": "8"}]})));
}
