//! What clients call by name.

use serde_json::{Value, json};

use super::talk::ask;
use crate::support::{
    eventually::eventually,
    hub::{World, small_object},
    session::Client,
};

/// Methods that the hub has registered: what a client is answered is what REST answers, with all that is hidden.
#[tokio::test]
async fn entities_are_told_by_call_as_over_rest() {
    let world = World::new(2, false).await;
    let closed = small_object(9).replace("active_tendering", "closed");
    world.sandbox.control().put("procedure", &closed).expect("an object");
    let views = "[identity.roles]\nadmin = [\"*\"]\nviewer = [\"entities:read:*\"]\nclerk = [\"entities:read:procedure\"]\nnobody = []\n\
                 [identity.views.clerk.procedure]\nmask = [\"value\"]\nrows = '{\"status\": \"active_tendering\"}'\n";
    let hub = world.hub_with("a", views).await;
    let id = |n: usize| format!("{n:024x}");
    for n in [0, 9] {
        let path = format!("/api/v1/entities/procedure/{}", id(n));
        let asked =
            || reqwest::Client::new().get(format!("http://{}{path}", hub.addr)).bearer_auth(World::token("admin"));
        eventually("mirrored", async || asked().send().await.is_ok_and(|answer| answer.status() == 200)).await;
    }
    for (role, n, seen) in [("viewer", 0, true), ("viewer", 9, true), ("clerk", 0, true), ("clerk", 9, false)] {
        let mut client = Client::connected(&hub, role).await;
        let call = json!({"rpc": {"method": "entities.get", "data": {"kind": "procedure", "id": id(n)}}});
        let reply = ask(&mut client, call, 2).await;
        if !seen {
            assert_eq!(reply["error"]["code"], 404, "{role}: {reply}");
            continue;
        }
        let rest = hub.api(role, &format!("/api/v1/entities/procedure/{}", id(n))).await;
        assert_eq!(reply["rpc"]["data"], rest, "{role}");
        assert_eq!(rest["doc"]["value"].is_null(), role == "clerk", "{rest}");
        let kinds = ask(&mut client, json!({"rpc": {"method": "entities.kinds"}}), 3).await;
        assert_eq!(kinds["rpc"]["data"], hub.api(role, "/api/v1/kinds").await, "{role}");
    }
    let mut nobody = Client::connected(&hub, "nobody").await;
    for (method, data, code) in [
        ("entities.get", json!({"kind": "procedure", "id": id(0)}), 103),
        ("entities.get", json!({"kind": "no such kind", "id": "x"}), 107),
        ("entities.get", json!({"kind": "procedure"}), 107),
        ("entities.get", json!([1]), 107),
        ("entities.get", Value::Null, 107),
        ("entities.put", json!({}), 108),
    ] {
        let reply = ask(&mut nobody, json!({"rpc": {"method": method, "data": data}}), 4).await;
        assert_eq!(reply["error"]["code"], code, "{method} {data}: {reply}");
    }
    let none = ask(&mut nobody, json!({"rpc": {"method": "entities.kinds"}}), 5).await;
    assert_eq!(none["rpc"]["data"], json!({"items": []}));
}
