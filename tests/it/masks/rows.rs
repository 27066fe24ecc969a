//! Rows that a role does not see: they are as if they were not there.

use serde_json::{Value, json};

use super::{Deals, KIND, Raw, SECRET, deal, get, read, seen, token};

#[tokio::test]
async fn rows_of_others_are_not_there_over_rest() {
    let mut deals = Deals::new().await;
    for n in 0..7 {
        let owner = if n % 2 == 0 { "olha" } else { "ihor" };
        deals.put(&format!("d{n}"), &deal(n, if n < 5 { "open" } else { "closed" }, owner)).await;
    }
    // Given away, and come by.
    deals.put("d0", &deal(10, "open", "ihor")).await;
    deals.put("d1", &deal(11, "open", "olha")).await;
    deals.put("d1", &deal(12, "closed", "olha")).await;
    let hub = deals.world.hub("a").await;
    let (olha, ihor) = (token("olha", &["clerk"]), token("ihor", &["clerk"]));
    let base = format!("/api/v1/entities/{KIND}");
    let ids = |page: &Value| -> Vec<String> {
        page["items"].as_array().expect("a list").iter().map(|it| it["id"].as_str().expect("id").to_owned()).collect()
    };

    let page = read(&hub, &olha, &format!("{base}?total=true")).await;
    assert_eq!((ids(&page), &page["total"]), (["d1", "d6", "d4", "d2"].map(str::to_owned).to_vec(), &json!(4)));
    assert_eq!(page["items"][0]["doc"], seen(12, "closed", "olha"));
    let page = read(&hub, &olha, &format!("{base}?total=true&status=open")).await;
    assert_eq!((ids(&page), &page["total"]), (["d4", "d2"].map(str::to_owned).to_vec(), &json!(2)));
    let (mut all, mut path) = (Vec::new(), format!("{base}?limit=3"));
    loop {
        let page = read(&hub, &ihor, &path).await;
        all.extend(ids(&page));
        let Some(next) = page["next"].as_str() else { break };
        path = format!("{base}?limit=3&cursor={next}");
    }
    assert_eq!(all, ["d0", "d5", "d3"]);
    assert_eq!(ids(&read(&hub, &token("", &["clerk"]), &base).await).len(), 0, "nobody owns nothing");
    assert_eq!(ids(&read(&hub, &token("b", &["boss"]), &base).await).len(), 7);

    for (who, id, status) in [(&olha, "d1", 200), (&olha, "d0", 404), (&ihor, "d0", 200), (&ihor, "none", 404)] {
        for path in [format!("{base}/{id}"), format!("{base}/{id}/history")] {
            let (got, _, text) = get(&hub, who, &path, None).await;
            assert_eq!(got, status, "{path} {text}");
            assert!(!text.contains(SECRET));
        }
    }
    let hidden = get(&hub, &olha, &format!("{base}/d0"), None).await.2.replace("d0", "");
    let nowhere = get(&hub, &olha, &format!("{base}/none"), None).await.2.replace("none", "");
    let problem = |text: &str| {
        let mut problem: Value = serde_json::from_str(text).expect("json");
        problem.as_object_mut().expect("an object").retain(|name, _| !name.contains("id"));
        problem
    };
    assert_eq!(problem(&hidden), problem(&nowhere), "nobody can tell whether it exists");

    // Of the revisions those that were seen, and nothing of what it was before.
    let history = read(&hub, &olha, &format!("{base}/d1/history")).await;
    let items = history["items"].as_array().expect("a list");
    assert_eq!(items.iter().map(|it| it["revision"].as_u64()).collect::<Vec<_>>(), [Some(3), Some(2)], "{history}");
    assert_eq!((&items[0]["before"], &items[1]["before"]), (&json!({"status": "open"}), &Value::Null));
}

#[tokio::test]
async fn rows_of_others_are_passed_over_on_channels() {
    let mut deals = Deals::new().await;
    deals.put("mine", &deal(1, "open", "olha")).await;
    deals.put("theirs", &deal(2, "open", "ihor")).await;
    let hub = deals.world.hub("a").await;
    let olha = token("olha", &["clerk"]);
    let (mut client, mut boss) =
        (Raw::connected(&hub, &olha).await, Raw::connected(&hub, &token("b", &["boss"])).await);
    let whole = format!("entities.{KIND}");
    boss.subscribe(&whole, json!({})).await;
    let start = client.subscribe(&whole, json!({})).await["subscribe"].take();
    for hidden in ["theirs", "nowhere"] {
        let refused = client.subscribe(&format!("entity.{KIND}.{hidden}"), json!({})).await;
        assert_eq!(refused["error"]["code"], 102, "{hidden}: {refused}");
        let refused = client.ask("history", &json!({"channel": format!("entity.{KIND}.{hidden}"), "limit": 1})).await;
        assert_eq!(refused["error"]["code"], 102, "{hidden}: {refused}");
    }
    assert!(client.subscribe(&format!("entity.{KIND}.mine"), json!({})).await["subscribe"].is_object());

    // Of the others nothing comes, and nothing is missed.
    for n in 3..6 {
        deals.put("theirs", &deal(n, "open", "ihor")).await;
    }
    deals.put("mine", &deal(6, "open", "olha")).await;
    let mut of_mine = Vec::new();
    for _ in 0..2 {
        let (channel, offset, data) = client.publication().await;
        assert_eq!(data["doc"], seen(6, "open", "olha"));
        of_mine.push((channel, offset));
    }
    of_mine.sort();
    assert_eq!(of_mine, [(whole.clone(), 6), (format!("entity.{KIND}.mine"), 2)]);

    // It comes, and goes.
    deals.put("theirs", &deal(7, "open", "olha")).await;
    let (_, offset, data) = client.publication().await;
    assert_eq!((offset, &data["doc"]), (7, &seen(7, "open", "olha")));
    deals.put("mine", &deal(8, "open", "ihor")).await;
    for _ in 0..2 {
        let (_, _, data) = client.publication().await;
        assert_eq!((&data["id"], &data["hidden"]), (&json!("mine"), &json!(true)));
        assert!(data.get("doc").is_none() && data.get("changed").is_none(), "{data}");
    }
    deals.put("mine", &deal(9, "closed", "ihor")).await;
    deals.trash("theirs").await;
    let (_, offset, data) = client.publication().await;
    assert_eq!((offset, &data["op"], &data["id"]), (10, &json!("trash"), &json!("theirs")));
    assert!(client.pushes.is_empty() && client.secrets() == 0);
    for n in 3..=10 {
        assert_eq!(boss.publication().await.1, n);
    }

    // Away while nothing that is seen happens: it stands where the stream does.
    for n in 11..14 {
        deals.put("mine", &deal(n, "open", "ihor")).await;
        boss.publication().await;
    }
    drop(client);
    let mut again = Raw::connected(&hub, &olha).await;
    let since = json!({"recover": true, "epoch": start["epoch"], "offset": 10});
    let reply = again.subscribe(&whole, since).await["subscribe"].take();
    assert_eq!((&reply["recovered"], &reply["offset"]), (&json!(true), &json!(13)), "{reply}");
    assert!(reply.get("publications").is_none_or(|all| all.as_array().is_some_and(Vec::is_empty)));
    // From the very beginning: what was seen of it then, and nothing else.
    let mut again = Raw::connected(&hub, &olha).await;
    let since = json!({"recover": true, "epoch": start["epoch"], "offset": 0});
    let reply = again.subscribe(&whole, since).await["subscribe"].take();
    let told: Vec<u64> = reply["publications"]
        .as_array()
        .expect("some")
        .iter()
        .map(|it| it["offset"].as_u64().expect("offset"))
        .collect();
    assert_eq!(told, [1, 6, 7, 8, 10], "{reply}");
    let history = json!({"channel": whole, "limit": 3});
    let page = again.ask("history", &history).await["history"].take();
    let offsets = |page: &Value| -> Vec<u64> {
        page["publications"].as_array().expect("some").iter().filter_map(|it| it["offset"].as_u64()).collect()
    };
    assert_eq!(offsets(&page), [1, 6, 7]);
    let history = json!({"channel": whole, "limit": 3, "reverse": true});
    assert_eq!(offsets(&again.ask("history", &history).await["history"]), [10, 8, 7]);
    assert_eq!(again.secrets(), 0);
    assert!(boss.secrets() > 10);
}
