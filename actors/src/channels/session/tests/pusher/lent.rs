//! Channels that the hub itself has signed for the bearer of a token: they end with it.

use std::sync::LazyLock;

use dzvin_protocols::channels::{ClientName, pusher::Bearer};

use super::*;
use crate::platform::ports::TokenMark;

/// Users and ids of tokens that are revoked; each test has its own.
static REVOKED: LazyLock<Mutex<HashSet<String>>> = LazyLock::new(Mutex::default);

pub(in super::super) fn is_revoked(user: &str, mark: &TokenMark) -> bool {
    let revoked = REVOKED.lock().unwrap();
    revoked.contains(mark.user.as_deref().unwrap_or(user))
        || mark.jti.as_deref().is_some_and(|jti| revoked.contains(jti))
}

/// What revocations do: first it holds, then those are told whom it may concern.
fn revoke(node: &Node, what: &str, user: Option<&str>) {
    REVOKED.lock().unwrap().insert(what.to_owned());
    let whose = Whose { user: user.map(Into::into), ..Whose::default() };
    node.hub.shards.order(&Arc::new(Control::Recheck { whose }));
}

fn bearer(user: &str, jti: &str, seconds: Option<i64>) -> Bearer {
    let now = OffsetDateTime::now_utc().unix_timestamp();
    Bearer {
        sub: user.to_owned(),
        exp: seconds.map(|seconds| now + seconds),
        iat: Some(now),
        jti: Some(jti.to_owned()),
    }
}

/// What the session has now.
async fn channels(node: &Node, one: &Pusher) -> Vec<String> {
    let whose = Whose { client: ClientName::id(one.socket.as_str()), ..Whose::default() };
    let survey = |reply| crate::channels::ShardMessage::Survey { whose, after: None, limit: 10, reply };
    let (found, _) = node.hub.shards.get(0).expect("shard").slot.call(survey, PATIENCE).await.expect("a survey");
    let mut all: Vec<String> = found[0].channels.iter().map(ToString::to_string).collect();
    all.sort_unstable();
    all
}

/// The end of a subscription, told as an error.
async fn is_ended(one: &mut Pusher, channel: &str) {
    let told = one.client.receive().await;
    assert_eq!(refused(&told, channel), 403, "{told}");
}

async fn opened(one: &mut Pusher, channel: &str, data: Option<&str>) {
    assert_eq!(one.signed(channel, data).await, succeeded(channel));
}

fn soon() -> Limits {
    Limits { expiry_grace: Duration::from_millis(10), ..Limits::default() }
}

#[tokio::test]
async fn a_channel_ends_with_the_token_for_whose_bearer_it_was_signed() {
    let node = node_with(soon()).await;
    for channel in ["private-x", "private-cache-x", "private-encrypted-x"] {
        let (mut one, mut two) = (pusher(&node, "main").await, pusher(&node, "main").await);
        let data = bearer("ends", "ends", Some(2)).written_into(None);
        assert_eq!(one.signed(channel, Some(&data)).await, succeeded(channel));
        if channel == "private-cache-x" {
            assert_eq!(one.client.receive().await["event"], "pusher:cache_miss");
        }
        opened(&mut two, "private-y", None).await;
        // The client begins another connection, and asks for another signature.
        assert_eq!(one.client.receive().await, json!({"close": 4200}), "{channel}");
        // For as long as the socket lives it could show the same again.
        let old = bearer("ends", "ends", Some(0)).written_into(None);
        assert_eq!(refused(&two.signed(channel, Some(&old)).await, channel), 401);
        two.is_well().await;
    }
}

#[tokio::test]
async fn a_channel_ends_when_the_token_is_revoked_or_its_user_is_blocked() {
    let node = node().await;
    // Nobody has signed in; another user of the application has; the user whose token it is.
    for (n, signed_in) in [None, Some("u7"), Some("blocked-2")].into_iter().enumerate() {
        let (user, jti) = (format!("blocked-{n}"), format!("jti-{n}"));
        let mut one = pusher(&node, "main").await;
        if let Some(id) = signed_in {
            assert_eq!(one.sign_in(&format!("{{\"id\":\"{id}\"}}")).await["event"], "pusher:signin_success");
        }
        let mine = |jti: &str| bearer(&user, jti, None).written_into(None);
        opened(&mut one, "private-token", Some(&mine(&jti))).await;
        opened(&mut one, "private-user", Some(&mine("another"))).await;
        opened(&mut one, "private-other", Some(&bearer("somebody", "else", None).written_into(None))).await;
        opened(&mut one, "private-apps", None).await;
        revoke(&node, &jti, None);
        is_ended(&mut one, "private-token").await;
        one.is_well().await;
        revoke(&node, &user, Some(&user));
        is_ended(&mut one, "private-user").await;
        one.is_well().await;
        // What was taken back is not had again by the signature that the client still has.
        for (channel, jti) in [("private-token", &*jti), ("private-user", "another")] {
            assert_eq!(refused(&one.signed(channel, Some(&mine(jti))).await, channel), 401, "{channel}");
        }
        // The rest stands.
        assert_eq!(channels(&node, &one).await, ["private-apps", "private-other"]);
    }
}

#[tokio::test]
async fn the_end_cannot_be_taken_away_from_the_signature() {
    let node = node().await;
    let mut one = pusher(&node, "main").await;
    let (channel, data) = ("private-x", bearer("stays", "stays", Some(60)).written_into(None));
    let auth = signer().channel_token(&one.socket, channel, Some(&data));
    let later = bearer("stays", "stays", Some(600)).written_into(None);
    for other in [None, Some(""), Some("{}"), Some(&*later), Some(&*format!("{data} "))] {
        assert_eq!(refused(&one.subscribe(channel, &auth, other).await, channel), 401, "{other:?}");
    }
    // Signed, and not to be read: not without an end.
    for bad in
        [r#"{"hub_bearer":7}"#, r#"{"hub_bearer":{"exp":"soon"}}"#, r#"{"hub_bearer":{"exp":9223372036854775807}}"#]
    {
        assert_eq!(refused(&one.signed(channel, Some(bad)).await, channel), 400, "{bad}");
    }
    // Data that the application's server has not signed says nothing, and does no harm.
    let bare = signer().channel_token(&one.socket, channel, None);
    assert_eq!(one.subscribe(channel, &bare, Some(r#"{"user_id":"x"}"#)).await, succeeded(channel));
    one.is_well().await;
}

/// Who shows another signature for a channel that it has lives on that.
#[tokio::test]
async fn a_channel_lives_on_the_signature_that_was_shown_last() {
    let node = node_with(soon()).await;
    let mut one = pusher(&node, "main").await;
    let data = |jti: &str, seconds| bearer("renews", jti, seconds).written_into(None);
    opened(&mut one, "private-x", Some(&data("renews-1", Some(2)))).await;
    opened(&mut one, "private-x", Some(&data("renews-2", None))).await;
    opened(&mut one, "private-first", Some(&data("renews-1", None))).await;
    revoke(&node, "renews-1", None);
    is_ended(&mut one, "private-first").await;
    one.is_well().await;
    revoke(&node, "renews-2", None);
    is_ended(&mut one, "private-x").await;
    opened(&mut one, "private-x", Some(&data("renews-3", Some(60)))).await;
    opened(&mut one, "private-x", Some(&data("renews-3", Some(2)))).await;
    assert_eq!(one.client.receive().await, json!({"close": 4200}));
}

/// A channel without a prefix that the rights of the user have opened goes with those rights.
#[tokio::test]
async fn what_rights_have_opened_ends_with_them() {
    let node = node().await;
    let mut one = pusher(&node, "main").await;
    assert_eq!(one.sign_in(r#"{"id":"u1","hub_token":"staff"}"#).await["event"], "pusher:signin_success");
    for channel in ["staff.1", "chat.1", "#server-to-user-u1"] {
        assert_eq!(one.subscribe(channel, "", None).await, succeeded(channel));
    }
    one.client
        .send(json!({"event": "pusher:signin", "data": {
            "auth": signer().user_token(&one.socket, r#"{"id":"u1","hub_token":"reader"}"#),
            "user_data": r#"{"id":"u1","hub_token":"reader"}"#,
        }}))
        .await;
    is_ended(&mut one, "staff.1").await;
    assert_eq!(one.client.receive().await["event"], "pusher:signin_success");
    node.say("chat.1", "{}", &[]).await;
    assert_eq!(one.client.receive().await["channel"], "chat.1");
    one.is_well().await;
}
