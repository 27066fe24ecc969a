//! On channels of the Centrifuge protocol, in both of its forms.

use dzvin_protocols::channels::fossil;
use futures_util::SinkExt;
use serde_json::{Value, json};

use super::{Deals, KIND, Raw, SECRET, deal, read, seen, token};
use crate::support::{
    eventually::eventually,
    protobuf::{counted, field},
};

#[tokio::test]
async fn hidden_fields_do_not_leave_on_channels() {
    let mut deals = Deals::new().await;
    deals.put("d1", &deal(1, "open", "olha")).await;
    let hub = deals.world.hub("a").await;
    let (whole, one) = (format!("entities.{KIND}"), format!("entity.{KIND}.d1"));
    let (desk, boss) = (token("d", &["desk"]), token("b", &["boss"]));
    let mut clients = [Raw::connected(&hub, &desk).await, Raw::connected(&hub, &boss).await];
    let mut epochs = Vec::new();
    for client in &mut clients {
        epochs.push(client.subscribe(&whole, json!({})).await["subscribe"]["epoch"].clone());
        assert!(client.subscribe(&one, json!({})).await["subscribe"].is_object());
    }
    for n in 2..5 {
        deals.put("d1", &deal(n, "open", "olha")).await;
    }
    // Nothing but what is hidden.
    let mut called = deal(4, "open", "olha");
    called["phone"] = json!(format!("{SECRET}-other"));
    deals.put("d1", &called).await;
    deals.put("d1", &deal(6, "open", "olha")).await;

    let [desk_client, boss_client] = &mut clients;
    let of_desk = [(2, 2), (3, 3), (4, 4), (6, 6)];
    let mut told = Vec::new();
    for _ in 0..of_desk.len() * 2 {
        let (channel, offset, data) = desk_client.publication().await;
        assert_eq!(data["doc"], seen(data["doc"]["n"].as_u64().expect("n"), "open", "olha"));
        assert!(!data["changed"].to_string().contains("phone"), "{data}");
        told.push((channel, offset, data["doc"]["n"].as_u64().expect("n")));
    }
    for channel in [&whole, &one] {
        let of_channel: Vec<_> = told.iter().filter(|it| it.0 == *channel).map(|it| (it.1, it.2)).collect();
        assert_eq!(of_channel, of_desk, "{channel}");
    }
    for _ in 0..5 * 2 {
        assert!(boss_client.publication().await.2["doc"]["phone"].is_string());
    }
    assert_eq!(desk_client.secrets(), 0);
    assert!(boss_client.secrets() > 20);

    // Cut, and back.
    drop(clients);
    for n in 7..10 {
        deals.put("d1", &deal(n, "open", "olha")).await;
    }
    eventually("the bus has them", async || {
        read(&hub, &boss, &format!("/api/v1/entities/{KIND}")).await["position"]["offset"] == 9
    })
    .await;
    for (token, epoch, masked) in [(&desk, &epochs[0], true), (&boss, &epochs[1], false)] {
        let mut client = Raw::connected(&hub, token).await;
        for (channel, delta) in [(&whole, ""), (&one, "fossil")] {
            let since = json!({"recover": true, "epoch": epoch, "offset": 4, "delta": delta});
            let reply = client.subscribe(channel, since).await["subscribe"].take();
            assert_eq!(reply["recovered"], true, "{reply}");
            let offsets: Vec<_> =
                reply["publications"].as_array().expect("some").iter().map(|it| it["offset"].as_u64()).collect();
            let expected = if masked { &[6, 7, 8, 9][..] } else { &[5, 6, 7, 8, 9][..] };
            assert_eq!(offsets, expected.iter().map(|offset| Some(*offset)).collect::<Vec<_>>(), "{channel}");
        }
        for more in [json!({"limit": 20}), json!({"limit": 20, "reverse": true})] {
            let mut request = more;
            request["channel"] = json!(whole);
            let page = client.ask("history", &request).await["history"].take();
            assert_eq!(page["publications"].as_array().map(Vec::len), Some(if masked { 8 } else { 9 }), "{page}");
            assert_eq!(&page["epoch"], epoch);
        }
        assert_eq!(client.secrets() == 0, masked);
    }
    assert!(hub.metric("dzvin_masked_publications_total").await >= 4.0);
    assert!(hub.metric("dzvin_identity_masks").await >= 1.0);
}

#[tokio::test]
async fn a_patch_is_of_what_was_shown() {
    let mut deals = Deals::new().await;
    deals.put("d1", &deal(1, "open", "olha")).await;
    let hub = deals.world.hub("a").await;
    let channel = format!("entity.{KIND}.d1");
    let mut clients = [("d", "desk"), ("b", "boss"), ("olha", "clerk")].map(|(user, role)| token(user, &[role]));
    let mut sockets = Vec::new();
    for token in &mut clients {
        let mut client = Raw::connected(&hub, token).await;
        assert_eq!(client.subscribe(&channel, json!({"delta": "fossil"})).await["subscribe"]["delta"], true);
        sockets.push(client);
    }
    // Between them a change that two of three are not told, and one by which the row comes back into sight.
    let mut called = deal(3, "open", "olha");
    called["phone"] = json!(SECRET);
    let owners = ["olha", "olha", "olha", "ihor", "ihor", "olha", "olha", "olha"];
    for (n, owner) in (2..).zip(owners) {
        deals.put("d1", &if n == 4 { called.clone() } else { deal(n, "open", owner) }).await;
    }
    for (client, revisions, masked) in [
        (0, vec![2, 3, 5, 6, 7, 8, 9], true),
        (1, vec![2, 3, 4, 5, 6, 7, 8, 9], false),
        (2, vec![2, 3, 5, 7, 8, 9], true),
    ] {
        let client = &mut sockets[client];
        let (mut base, mut patches) = (String::new(), 0);
        for revision in revisions {
            let push = client.push().await;
            let it = &push["push"]["pub"];
            assert_eq!(it["offset"], revision, "{push}");
            let data = it["data"].as_str().unwrap_or_else(|| panic!("a text: {push}"));
            base = if it["delta"] == true {
                patches += 1;
                let whole = fossil::apply(base.as_bytes(), data.as_bytes(), 1 << 20).expect("a patch of what it has");
                String::from_utf8(whole).expect("text")
            } else {
                data.to_owned()
            };
            let told: Value = serde_json::from_str(&base).expect("json");
            assert_eq!(told["revision"], revision);
            assert_eq!(base.contains(SECRET), !masked && told["doc"].is_object(), "{base}");
        }
        assert!(patches > 1, "some come as patches");
        assert_eq!(client.secrets() == 0, masked);
    }
}

#[tokio::test]
async fn the_binary_form_hides_the_same() {
    let mut deals = Deals::new().await;
    deals.put("d1", &deal(1, "open", "olha")).await;
    let hub = deals.world.hub("a").await;
    let channel = format!("entities.{KIND}");
    let mut sockets = Vec::new();
    for role in ["desk", "boss"] {
        let mut client = Raw::open(&hub, "/connection/websocket?format=protobuf").await;
        let connect = field(4, &field(1, token("u", &[role]).as_bytes()));
        let subscribe = field(5, &field(1, channel.as_bytes()));
        for (id, request) in [(1, connect), (2, subscribe)] {
            let frame = counted(&[&[8, id], &request[..]].concat());
            client.socket.send(frame.into()).await.expect("sent");
            client.hear().await.expect("a reply");
        }
        sockets.push(client);
    }
    for n in 2..6 {
        deals.put("d1", &deal(n, if n == 5 { "the-last" } else { "open" }, "olha")).await;
    }
    for client in &mut sockets {
        while !String::from_utf8_lossy(&client.heard).contains("the-last") {
            client.hear().await.expect("more");
        }
    }
    assert_eq!(sockets[0].secrets(), 0);
    assert_eq!(String::from_utf8_lossy(&sockets[0].heard).matches("\"doc\":").count(), 4);
    assert!(sockets[1].secrets() >= 16);
}

/// Who sees more or less than before begins anew, wherever the change came from.
#[tokio::test]
async fn other_rights_begin_anew() {
    let mut deals = Deals::new().await;
    deals.put("d1", &deal(1, "open", "olha")).await;
    let hub = deals.world.hub("a").await;
    let channel = format!("entities.{KIND}");
    let mut client = Raw::connected(&hub, &token("olha", &["desk"])).await;
    let epoch = client.subscribe(&channel, json!({})).await["subscribe"]["epoch"].clone();
    // The same rights by another token: nobody is bothered.
    assert!(client.ask("refresh", &json!({"token": token("olha", &["desk", "nothing"])})).await["refresh"].is_object());
    assert!(client.ask("ping", &json!({})).await["close"].is_null() && client.pushes.is_empty());
    for (roles, more) in [(&["boss"][..], true), (&["clerk"], false)] {
        client.ask("refresh", &json!({"token": token("olha", roles)})).await;
        let push = client.push().await;
        assert_eq!(push["push"]["unsubscribe"]["code"], 2502, "{roles:?}: {push}");
        let since = json!({"recover": true, "epoch": epoch, "offset": 0});
        let reply = client.subscribe(&channel, since).await["subscribe"].take();
        assert_ne!(reply["recovered"], true, "{roles:?}: {reply}");
        assert_ne!(reply["epoch"], epoch);
        deals.put("d1", &deal(2 + u64::from(more), "open", "olha")).await;
        let (_, _, data) = client.publication().await;
        assert_eq!(data["doc"]["phone"].is_string(), more, "{roles:?}: {data}");
    }

    // The configuration takes something away.
    let mut boss = Raw::connected(&hub, &token("b", &["boss"])).await;
    let epoch = boss.subscribe(&channel, json!({})).await["subscribe"]["epoch"].clone();
    let of = |role: &str| format!("[identity.views.{role}.deal]\nmask = [\"phone\"]\n");
    hub.reload(|text| text.replace("[leases]", &format!("{}[leases]", of("boss"))));
    assert_eq!(boss.push().await, json!({"close": 3011}));
    let mut boss = Raw::connected(&hub, &token("b", &["boss"])).await;
    let since = json!({"recover": true, "epoch": epoch, "offset": 1});
    let reply = boss.subscribe(&channel, since).await["subscribe"].take();
    assert_ne!(reply["recovered"], true, "{reply}");
    deals.put("d1", &deal(9, "open", "olha")).await;
    let (_, _, data) = boss.publication().await;
    assert!(data["doc"].get("phone").is_none() && data["doc"]["odd.name"].is_object(), "{data}");
    // What is wrong is not taken over.
    hub.reload(|text| text.replace("[identity.views.boss.deal]", "[identity.views.nobody.deal]"));
    eventually("the refusal in the log", async || hub.log().contains("the configuration was not taken over")).await;
}
