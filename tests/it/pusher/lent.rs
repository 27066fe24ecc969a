//! What the hub itself has signed for the bearer of a token ends with that token, whichever node was asked for the signature.

use dzvin::identity::{SigningKey, TokenRules, Verifier};
use dzvin_protocols::{
    channels::pusher::{Credentials, SocketId},
    identity::Claims,
};
use serde_json::{Value, json};
use time::OffsetDateTime;

use super::{KEY, SECRET, assert_discreet, rules, sockets::Socket};
use crate::support::{
    eventually::eventually,
    hub::{Hub, KEY as TOKEN_KEY, World},
};

fn token(user: &str, jti: &str) -> String {
    let key = SigningKey::new("test", TOKEN_KEY.as_bytes()).expect("key");
    let now = OffsetDateTime::now_utc().unix_timestamp();
    let claims = Claims {
        sub: user.to_owned(),
        jti: Some(jti.to_owned()),
        iat: Some(now),
        exp: Some(now + 3600),
        permissions: ["private-*", "presence-*", "private-encrypted-*"]
            .map(|it| format!("channels:subscribe:{it}"))
            .into(),
        ..Claims::default()
    };
    Verifier::new(vec![key], TokenRules::default()).expect("verifier").sign(&claims).expect("signed")
}

/// Asks for a signature; the status, and what the client shows then.
async fn ask(hub: &Hub, bearer: &str, socket: &SocketId, channel: &str) -> (u16, Value) {
    let request = reqwest::Client::new().post(format!("http://{}/pusher/auth", hub.addr)).bearer_auth(bearer);
    let answer =
        request.json(&json!({"socket_id": socket.as_str(), "channel_name": channel})).send().await.expect("answered");
    let status = answer.status().as_u16();
    let mut signed: Value = answer.json().await.expect("json");
    assert!(!signed.to_string().contains(bearer), "the token goes nowhere: {signed}");
    signed["channel"] = json!(channel);
    (status, signed)
}

async fn show(socket: &mut Socket, signed: &Value) -> Value {
    socket.say(&json!({"event": "pusher:subscribe", "data": signed})).await;
    of_channel(socket, &signed["channel"]).await
}

/// The next word on a channel, but for the number of its subscribers.
async fn of_channel(socket: &mut Socket, channel: &Value) -> Value {
    loop {
        let heard = socket.hear().await;
        if heard["channel"] == *channel && heard["event"] != "pusher_internal:subscription_count" {
            return heard;
        }
        assert_eq!(heard.get("close"), None, "{heard}");
    }
}

async fn revoke(hub: &Hub, body: Value) {
    let request = reqwest::Client::new().post(format!("http://{}/api/v1/revocations", hub.addr));
    let answer = request.bearer_auth(World::token("admin")).json(&body).send().await.expect("answered");
    assert_eq!(answer.status(), 201);
}

#[tokio::test]
async fn what_the_hub_has_signed_ends_with_the_token() {
    let world = World::new(1, true).await;
    let rules = rules();
    let (a, b) = tokio::join!(world.hub_with("a", &rules), world.hub_with("b", &rules));
    // Somebody whom the application's server has let in, and who stays.
    let (mut other, socket) = Socket::of(&a, KEY).await;
    let server = Credentials::new(KEY, SECRET).expect("key");
    let member = r#"{"user_id":"other"}"#;
    let by_server = json!({
        "channel": "presence-room", "channel_data": member,
        "auth": server.channel_token(&socket, "presence-room", Some(member)),
    });
    assert_eq!(show(&mut other, &by_server).await["event"], "pusher_internal:subscription_succeeded");

    for (n, body) in [json!({"token": "t-0"}), json!({"user": "olha-1"}), json!({"user": "olha-2", "block": true})]
        .into_iter()
        .enumerate()
    {
        let (user, mine) = (format!("olha-{n}"), token(&format!("olha-{n}"), &format!("t-{n}")));
        // Asked on one node, shown to the other; nobody signs in.
        let (mut one, socket) = Socket::of(&b, KEY).await;
        let mut shown = Vec::new();
        for channel in ["private-x", "presence-room", "private-encrypted-x"] {
            let (status, signed) = ask(&a, &mine, &socket, channel).await;
            assert_eq!(status, 200, "{signed}");
            assert_eq!(show(&mut one, &signed).await["event"], "pusher_internal:subscription_succeeded");
            shown.push(signed);
        }
        // Else what another is lent would keep this one among the members.
        let (_, anothers) = ask(&a, &token("another", "t-another"), &socket, "presence-room").await;
        let refused = show(&mut one, &anothers).await;
        assert_eq!((&refused["event"], &refused["data"]["status"]), (&json!("pusher:subscription_error"), &json!(400)));
        let bare = json!({"channel": "private-bare", "auth": server.channel_token(&socket, "private-bare", None)});
        assert_eq!(show(&mut one, &bare).await["event"], "pusher_internal:subscription_succeeded");
        let room = json!("presence-room");
        assert_eq!(of_channel(&mut other, &room).await["event"], "pusher_internal:member_added");

        revoke(&a, body).await;
        let mut ended: Vec<String> = Vec::new();
        while ended.len() < shown.len() {
            let told = one.hear().await;
            match told["event"].as_str() {
                Some("pusher:subscription_error") => {
                    ended.push(told["channel"].as_str().expect("a channel").to_owned());
                }
                _ => assert_eq!(told["event"], "pusher_internal:subscription_count", "{told}"),
            }
        }
        ended.sort_unstable();
        assert_eq!(ended, ["presence-room", "private-encrypted-x", "private-x"]);
        let left = of_channel(&mut other, &room).await;
        assert_eq!(
            (&left["event"], &left["data"]),
            (&json!("pusher_internal:member_removed"), &json!(format!("{{\"user_id\":\"{user}\"}}")))
        );
        // Neither by what the client still has, nor by anything new.
        for signed in &shown {
            let refused = show(&mut one, signed).await;
            assert_eq!(
                (&refused["event"], &refused["data"]["status"]),
                (&json!("pusher:subscription_error"), &json!(401))
            );
        }
        eventually("the token is refused", async || ask(&b, &mine, &socket, "private-x").await.0 == 401).await;
        // What the application's server has signed is its own affair.
        assert_eq!(show(&mut one, &bare).await["event"], "pusher_internal:subscription_succeeded");
    }
    assert_discreet(&a);
    assert_discreet(&b);
}
