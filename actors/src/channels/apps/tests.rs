//! Whose is which channel and user, and what the set says of all of them.

use std::time::Duration;

use dzvin_protocols::{
    channels::{
        Channel,
        pusher::{Credentials, UserId},
    },
    identity::{ClaimError, ClaimRules, Claims},
};

use super::*;

fn app(id: &str, keys: &[&str]) -> App {
    let keys = keys.iter().map(|key| Credentials::new(key, "a secret of sixteen").expect("key")).collect();
    App::new(id, keys).expect("app")
}

fn name(text: &str) -> Name {
    Name::parse(text).expect("name")
}

#[test]
fn an_application_is_found_by_either_key_until_it_is_replaced() {
    let apps = Apps::default();
    assert!(apps.by_key("").is_none() && apps.by_key("k1").is_none());
    apps.replace(vec![app("a", &["k1", "k2"]), app("b", &["k3"])]).expect("apps");
    for (key, id) in [("k1", Some("a")), ("k2", Some("a")), ("k3", Some("b")), ("k", None), ("k11", None)] {
        assert_eq!(apps.by_key(key).map(|app| app.id.to_string()).as_deref(), id, "{key}");
    }
    for (bad, why) in [
        (vec![app("a", &["k1"]), app("a", &["k2"])], AppsError::SameId),
        (vec![app("a", &["k1"]), app("b", &["k2", "k1"])], AppsError::SameKey),
        (vec![app("a", &["k1", "k1"])], AppsError::SameKey),
    ] {
        assert_eq!(apps.replace(bad), Err(why));
        assert!(apps.by_id("b").is_some_and(|app| app.ring.has("k3")), "all stays");
    }
    apps.replace(vec![]).expect("none");
    assert!(apps.by_id("a").is_none());
}

#[test]
fn ids_and_keys_are_checked_and_secrets_do_not_print() {
    for id in ["", "a/b", "a b", "ї", &"a".repeat(MAX_APP_ID + 1)] {
        assert_eq!(App::new(id, vec![]).map(drop), Err(AppsError::Id), "{id}");
    }
    assert!(App::new("a", vec![]).is_err());
    let mut one = app("a", &["k"]);
    one.webhooks = vec![Webhook { url: "https://hooks.example/?token=hunter2".into(), events: vec![] }];
    let shown = format!("{one:?}");
    assert!(!shown.contains("sixteen") && !shown.contains("hunter2"), "{shown}");
}

#[test]
fn applications_share_one_set_of_channels_unless_they_are_isolated() {
    let (open, mut own, mut other) = (app("a", &["k"]), app("b", &["l"]), app("c", &["m"]));
    (own.isolated, other.isolated) = (true, true);
    for text in ["x", "private-x", "presence-cache-x", "#server-to-user-7/8", "private-encrypted-x"] {
        let all = [&open, &own, &other].map(|app| app.channel(&name(text)).expect("theirs").to_string());
        assert_eq!(all[0], text);
        assert!(all[0] != all[1] && all[1] != all[2], "{all:?}");
        for (inside, app) in all.iter().zip([&open, &own, &other]) {
            assert_eq!((outside(inside), app.name_of(inside)), (text, Some(text)));
            assert_eq!(Channel::of_hub(inside).map(|it| it.to_string()).as_ref(), Ok(inside));
        }
        assert_eq!((own.name_of(&all[0]), own.name_of(&all[2]), open.name_of(&all[1])), (None, None, None));
    }
    let hubs = name("private-entities.procedure");
    assert_eq!(open.channel(&hubs).map(|it| it.to_string()).as_deref(), Some("entities.procedure"));
    assert_eq!(own.channel(&hubs), None);
}

#[test]
fn users_of_an_isolated_application_are_nobody_elses() {
    let (open, mut own, mut other) = (app("a", &["k"]), app("b", &["l"]), app("b-c", &["m"]));
    (own.isolated, other.isolated) = (true, true);
    let user = |id: &str| UserId::new(id).expect("id");
    let seven = own.user(&user("7"));
    assert_eq!(&*open.user(&user("7")), "7");
    // Whatever somebody else is called, of the hub or of an application.
    for id in ["7", "/b/7", "//b/7", "b/7", "b7", "\\u001fb\\u001f7", "%1Fb%1F7", "␟b␟7"] {
        assert_ne!(open.user(&user(id)), seven, "{id}");
        assert_ne!(other.user(&user(id)), seven, "{id}");
        assert_ne!(open.online_channel(&user(id)), own.online_channel(&user("7")), "{id}");
        assert_ne!(open.user_channel(&user(id)), own.user_channel(&user("7")), "{id}");
    }
    // What would be the same is no id, here or in a token.
    assert!(UserId::new(&seven).is_err());
    let claims = Claims { sub: seven.to_string(), ..Claims::default() };
    assert_eq!(claims.check(0, &ClaimRules::default()), Err(ClaimError::Unusable("sub")));
    // Names of two applications do not run into each other either.
    assert_ne!(own.user(&user("-c")), other.user(&user("c")));
}

#[test]
fn a_cache_channel_keeps_its_last_event_for_as_long_as_it_is_shown() {
    let (apps, mut own) = (Apps::default(), app("b", &["l"]));
    own.isolated = true;
    let brief = HistoryLimits { count: 0, bytes: 7, age: Duration::from_secs(1) };
    let long = HistoryLimits { count: 9, bytes: 7, age: Duration::from_secs(86_400) };
    let [brief, long] = [brief, long].map(|keep| ChannelRules { keep, ..ChannelRules::default() });
    assert_eq!(apps.keep("cache-x", &brief), brief.keep, "nobody is ever shown it");
    apps.replace(vec![app("a", &["k"]), own]).expect("apps");
    let shown = HistoryLimits { count: 1, bytes: 7, age: AppRules::default().cache_age };
    for cached in ["cache-x", "private-cache-x", "presence-cache-x", "private-encrypted-cache-x", "/b/cache-x"] {
        assert_eq!((apps.keep(cached, &brief), apps.keep(cached, &long)), (shown, long.keep), "{cached}");
    }
    for other in ["private-x", "cache", "x.cache-x", "/b/x", "/cache-x/x", "#server-to-user-cache-x"] {
        assert_eq!(apps.keep(other, &brief), brief.keep, "{other}");
    }
}

#[test]
fn of_members_hear_those_who_want_to_on_channels_that_have_some() {
    let hook = |events| Webhook { url: "https://hooks.example".into(), events };
    let with = |hook, isolated, enabled| {
        let apps = Apps::default();
        apps.replace(vec![App { webhooks: vec![hook], isolated, enabled, ..app("b", &["k"]) }]).expect("apps");
        apps
    };
    let hear = |apps: &Apps| {
        let names = ["presence-x", "/b/presence-x", "private-x", "/c/presence-x", "x", "#online-@presence-x"];
        names.into_iter().filter(|name| apps.hear_members(name)).collect::<Vec<_>>()
    };
    assert_eq!(hear(&with(hook(vec![]), false, true)), ["presence-x"]);
    assert_eq!(hear(&with(hook(vec!["member_removed"]), true, true)), ["/b/presence-x"]);
    assert_eq!(hear(&with(hook(vec!["channel_occupied", "member_added"]), false, true)), ["presence-x"]);
    assert!(hear(&with(hook(vec!["channel_occupied"]), false, true)).is_empty());
    assert!(hear(&with(hook(vec![]), false, false)).is_empty() && hear(&Apps::default()).is_empty());
}
