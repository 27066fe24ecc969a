//! Webhooks: a receiver that is away comes back, checked by the library of servers; nothing is logged that should not be.

use std::time::Duration;

use dzvin::channels::pusher::webhooks::{WebhookArgs, WebhookLimits};
use dzvin_actors::{
    channels::{App, Apps, Notices, Webhook},
    supervise::{Backoff, Settings, Supervisor, SupervisorMetrics},
};
use dzvin_protocols::channels::pusher::{Credentials, WebhookEvent};
use prometheus_client::registry::Registry;
use serde_json::json;

use super::{
    SECRET as PAGES,
    http::{KEY, SECRET, library},
    sockets::Socket,
};
use crate::support::{
    eventually::eventually,
    hub::World,
    proxy::{Proxy, Upstream},
};

/// The key of pages.
const PAGE: &str = "page-key";

#[tokio::test]
async fn a_receiver_that_was_away_hears_everything_in_order_and_each_batch_is_valid() {
    let mut receiver = library().await;
    let hook = receiver.ask(json!({"ask": "hook"}), "hook").await;
    let url = hook["url"].as_str().expect("an address");
    let address = url.trim_start_matches("http://").split('/').next().expect("a host").parse().expect("an address");
    let proxy = Proxy::start(Upstream::Tcp(address)).await;
    let apps = Apps::default();
    let mut app = App::new("main", vec![Credentials::new(KEY, SECRET).expect("key")]).expect("app");
    app.webhooks = vec![Webhook { url: format!("http://{}/hooks", proxy.addr).into(), events: vec![] }];
    apps.replace(vec![app]).expect("apps");
    let (notices, told) = Notices::new();
    let backoff = Backoff { base: Duration::from_millis(5), cap: Duration::from_millis(50) };
    let limits = WebhookLimits { gather: Duration::from_millis(20), backoff, ..WebhookLimits::default() };
    let args = WebhookArgs::new(apps, (notices.clone(), told), limits).expect("args");
    let mut registry = Registry::default();
    args.register(&mut registry);
    let settings = Settings { name: "root".into(), grace: Duration::from_secs(5) };
    let root = Supervisor::root(settings, SupervisorMetrics::default()).await.expect("root");
    root.start(args.child()).await.expect("started");
    eventually("the sender listens", async || notices.are_heard()).await;
    let tell = |all: std::ops::Range<usize>| {
        for n in all {
            notices.tell(WebhookEvent::ChannelOccupied { channel: format!("c{n}") });
        }
    };
    tell(0..100);
    eventually("the first are told", async || {
        let hooks = receiver.ask(json!({"ask": "hooks"}), "hooks").await;
        hooks["events"].as_array().is_some_and(|events| !events.is_empty())
    })
    .await;
    proxy.refuse(true);
    proxy.cut();
    tell(100..200);
    eventually("the receiver is missed", async || {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).expect("text");
        text.lines().any(|line| line.starts_with("webhook_attempts_total") && line.contains("unreachable"))
    })
    .await;
    tell(200..300);
    proxy.refuse(false);
    let hooks = eventually("all is told", async || {
        let hooks = receiver.ask(json!({"ask": "hooks"}), "hooks").await;
        (hooks["events"].as_array().map(Vec::len) >= Some(300)).then_some(hooks)
    })
    .await;
    let channels: Vec<_> = hooks["events"].as_array().expect("events").iter().map(|it| it["channel"].clone()).collect();
    // A batch whose answer was cut off is told twice.
    let once = channels.into_iter().fold(Vec::new(), |mut all, it| {
        if !all.contains(&it) {
            all.push(it);
        }
        all
    });
    assert_eq!(once, (0..300).map(|n| json!(format!("c{n}"))).collect::<Vec<_>>());
    assert_eq!(hooks["invalid"], 0);
    root.stop().await;
}

/// A webhook that is configured while the node runs hears who is there already; and of a page that is loaded anew it hears nothing.
#[tokio::test]
async fn members_are_told_of_by_who_comes_and_who_stays_away() {
    let mut receiver = library().await;
    let hook = receiver.ask(json!({"ask": "hook"}), "hook").await;
    let world = World::new(1, false).await;
    // The first key signs webhooks, as the library knows it; clients come with the second.
    let keys =
        format!("keys = [{{ key = \"{KEY}\", secret = \"{SECRET}\" }}, {{ key = \"{PAGE}\", secret = \"{PAGES}\" }}]");
    let main = "[[pusher.apps]]\nid = \"main\"\n";
    let mut hub = world.hub_with("a", &format!("[channels]\nvacated_hold = \"5s\"\n{main}{keys}\n")).await;
    let member = |id: &str| json!({"user_id": id}).to_string();
    let (mut desk, _) = Socket::on(&hub, PAGE, "presence-room", Some(&member("desk"))).await;
    let (page, _) = Socket::on(&hub, PAGE, "presence-room", Some(&member("page"))).await;
    hub.reload(|text| text.replace(main, &format!("{main}webhooks = [{{ url = {} }}]\n", hook["url"])));
    let mut told = async |user: &str, last: &str| {
        eventually("members are told", async || {
            let hooks = receiver.ask(json!({"ask": "hooks"}), "hooks").await;
            let events = hooks["events"].as_array().cloned().unwrap_or_default();
            let of_user = events.iter().filter(|event| event["user_id"] == user);
            let names: Vec<_> = of_user.map(|event| event["name"].as_str().expect("a name").to_owned()).collect();
            (names.last().map(String::as_str) == Some(last)).then_some(names)
        })
        .await
    };
    assert_eq!(told("desk", "member_added").await, ["member_added"]);
    assert_eq!(told("page", "member_added").await, ["member_added"]);
    let mut hears = async |event: &str| while desk.hear().await["event"] != event {};
    hears("pusher_internal:member_added").await;
    drop(page);
    hears("pusher_internal:member_removed").await;
    let (page, _) = Socket::on(&hub, PAGE, "presence-room", Some(&member("page"))).await;
    hears("pusher_internal:member_added").await;
    drop(page);
    hears("pusher_internal:member_removed").await;
    assert_eq!(told("page", "member_removed").await, ["member_added", "member_removed"]);
    assert_eq!(told("desk", "member_added").await, ["member_added"]);
    // Nobody comes after this node who would tell of whom it had.
    hub.stop().await;
    assert_eq!(told("desk", "member_removed").await, ["member_added", "member_removed"]);
}
