//! Channels of single entities, to an unmodified `centrifuge`: cut, asked for history, left, and on tokens that end.

use serde_json::{Value, json};

use crate::{
    spine::caught_up,
    support::{
        eventually::eventually,
        front::Front,
        hub::{World, small_object},
        node::Script,
    },
};

/// An id that is a name in channels as it is.
const PLAIN: &str = "000000000000000000000007";
/// One that is not: its channel carries a hash.
const DOTTED: &str = "UA-2026.11.26-000001.b";

/// Changes each entity so many times.
fn edit(world: &World, ids: &[&str], times: usize, mark: usize) {
    for n in 0..times {
        for id in ids {
            let set = format!("{{\"value.amount\":{}}}", mark * 100 + n);
            world.sandbox.control().patch("procedure", id, &set).expect("edited");
        }
    }
}

async fn state(client: &mut Script) -> Value {
    client.ask(json!({"ask": "state"}), "state").await
}

async fn reaches(client: &mut Script, id: &str, revision: u64) {
    eventually(&format!("{id} at {revision}"), async || state(client).await["entities"][id]["last"] == revision).await;
}

#[tokio::test]
async fn a_real_client_follows_single_entities() {
    let world = World::new(20, false).await;
    let dotted = small_object(0).replace(&format!("{:024x}", 0), DOTTED);
    world.sandbox.control().put("procedure", &dotted).expect("an object");
    let hub = world.hub("a").await;
    caught_up(&world, &hub).await;
    let front = Front::start(vec![hub.addr]).await;
    let tokens = format!("{},{}", World::token_for("viewer", 3), World::token("viewer"));
    let (url, ids) = (format!("http://{}", front.addr), format!("{PLAIN},{DOTTED}"));
    let args = ["--url", &url, "--tokens", &tokens, "--ids", &ids];
    let mut client = Script::start("entity.mjs", &args, None).await;
    let channels = state(&mut client).await["entities"].clone();
    assert_eq!(channels[PLAIN]["channel"], format!("entity.procedure.{PLAIN}"));
    assert!(
        channels[DOTTED]["channel"].as_str().is_some_and(|name| name.starts_with("entity.procedure.h_")),
        "{channels}"
    );

    edit(&world, &[PLAIN, DOTTED], 3, 1);
    for id in [PLAIN, DOTTED] {
        reaches(&mut client, id, 4).await;
    }

    // The first token ends, and the session does not.
    let refreshed = "dzvin_commands_total{command=\"refresh\",error=\"0\"}";
    eventually("refreshed", async || hub.metric(refreshed).await == 1.0).await;
    assert_eq!(state(&mut client).await["asked"], 1);

    // Away while both change; and a third that nobody here follows.
    front.lead_to(Vec::new());
    front.cut();
    edit(&world, &[PLAIN, DOTTED, &format!("{:024x}", 3)], 5, 2);
    caught_up(&world, &hub).await;
    front.lead_to(vec![hub.addr]);
    for id in [PLAIN, DOTTED] {
        reaches(&mut client, id, 9).await;
    }

    let history = client.ask(json!({"ask": "history", "id": DOTTED, "limit": 3, "reverse": true}), "history").await;
    assert_eq!(history["offsets"], json!([9, 8, 7]), "{history}");
    assert_eq!((&history["offset"], &history["ids"]), (&json!(9), &json!([DOTTED])));

    client.ask(json!({"ask": "unsubscribe", "id": DOTTED}), "unsubscribed").await;
    assert_eq!(hub.metric("dzvin_subscriptions").await, 1.0, "the hub has forgotten it");
    edit(&world, &[DOTTED, PLAIN], 2, 3);
    reaches(&mut client, PLAIN, 11).await;
    let end = state(&mut client).await;
    assert_eq!(end["entities"][DOTTED]["last"], 9, "left: {end}");
    for id in [PLAIN, DOTTED] {
        let it = &end["entities"][id];
        for key in ["lost", "doubled", "others", "unrecovered"] {
            assert_eq!(it[key], 0, "{key} of {id} in {end}");
        }
        assert_eq!(it["recovered"], 2, "at first from what REST showed, then after the cut: {end}");
    }
    assert_eq!(end["closes"], json!({"0": 1, "1": 1}), "one cut, nothing else: {end}");
}
