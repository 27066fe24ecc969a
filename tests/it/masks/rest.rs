//! Over REST.

use serde_json::json;

use super::{Deals, KIND, SECRET, ask_query, deal, get, read, seen, token};

#[tokio::test]
async fn hidden_fields_do_not_leave_over_rest() {
    let mut deals = Deals::new().await;
    for n in 0..3 {
        deals.put("d1", &deal(n, "open", "olha")).await;
    }
    let mut large = deal(9, "open", "ihor");
    large["pad"] = json!("x".repeat(40 * 1024));
    deals.put("large", &large).await;
    let hub = deals.world.hub("a").await;
    let (boss, desk) = (token("b", &["boss"]), token("d", &["desk"]));
    let base = format!("/api/v1/entities/{KIND}");

    let mut found = 0;
    // Those of small documents stand in `ways`.
    for path in [format!("{base}?status=open&total=true"), format!("{base}/large"), format!("{base}/large/history/1")] {
        let (status, _, text) = get(&hub, &desk, &path, None).await;
        assert_eq!(status, 200, "{path}: {text}");
        assert!(!text.contains(SECRET) && !text.contains("hone"), "{path}: {text}");
        found += get(&hub, &boss, &path, None).await.2.matches(SECRET).count();
    }
    assert!(found > 10, "who sees everything is told all: {found}");
    assert_eq!(read(&hub, &desk, &format!("{base}/d1")).await["doc"], seen(2, "open", "olha"));
    assert_eq!(read(&hub, &desk, &format!("{base}/large")).await["doc"]["pad"], large["pad"]);
    assert_eq!(read(&hub, &boss, &format!("{base}/d1")).await["doc"], deal(2, "open", "olha"));
    // What changed besides stays.
    let history = read(&hub, &desk, &format!("{base}/d1/history")).await;
    assert_eq!(history["items"][0]["changed"], json!(["contacts", "n"]), "{history}");

    let fields = |kinds: serde_json::Value| {
        let all = kinds["items"].as_array().expect("a list").clone();
        all.into_iter().find(|it| it["kind"] == KIND).expect("the kind")["fields"].clone()
    };
    assert_eq!(fields(read(&hub, &desk, "/api/v1/kinds").await), json!(["status", "owner"]));
    assert_eq!(fields(read(&hub, &boss, "/api/v1/kinds").await).as_array().map(Vec::len), Some(4));

    // Nothing can be asked of what is hidden.
    for filter in [format!("phone={SECRET}-2"), format!("contacts.0.email={SECRET}-2%40example.com")] {
        let (status, _, text) = get(&hub, &desk, &format!("{base}?{filter}"), None).await;
        assert!(status == 403 && text.contains("\"code\":\"hidden_field\""), "{filter}: {status} {text}");
        let found = read(&hub, &boss, &format!("{base}?{filter}")).await;
        assert_eq!(found["items"].as_array().map(Vec::len), Some(1), "{filter}");
    }
    for filter in [
        json!({"phone": {"prefix": SECRET}}),
        json!({"not": {"contacts.0.email": null}}),
        json!({"or": [{"status": "open"}, {"and": [{"phone": {"ne": "1"}}]}]}),
    ] {
        let (status, answer, _) = ask_query(&hub, &desk, &filter).await;
        assert_eq!((status, &answer["code"]), (403, &json!("hidden_field")), "{filter}");
        assert_eq!(ask_query(&hub, &boss, &filter).await.0, 201, "{filter}");
    }
}

#[tokio::test]
async fn tags_and_positions_are_of_one_view() {
    let mut deals = Deals::new().await;
    deals.put("d1", &deal(1, "open", "olha")).await;
    let hub = deals.world.hub("a").await;
    let (boss, desk) = (token("b", &["boss"]), token("d", &["desk"]));
    let path = format!("/api/v1/entities/{KIND}/d1");
    let (_, whole, _) = get(&hub, &boss, &path, None).await;
    let (_, part, _) = get(&hub, &desk, &path, None).await;
    let (whole, part) = (whole.expect("a tag"), part.expect("a tag"));
    assert_ne!(whole, part);
    for (who, tag, status) in [(&boss, &whole, 304), (&desk, &part, 304), (&boss, &part, 200), (&desk, &whole, 200)] {
        let (got, _, text) = get(&hub, who, &path, Some(tag)).await;
        assert_eq!(got, status, "{tag}");
        assert!(who == &boss || !text.contains(SECRET));
    }
    let list = format!("/api/v1/entities/{KIND}?limit=1");
    let epoch = async |who: &str| read(&hub, who, &list).await["position"]["epoch"].as_str().expect("text").to_owned();
    let (whole, part) = (epoch(&boss).await, epoch(&desk).await);
    assert!(part.starts_with(&whole) && part != whole);
    assert_eq!(epoch(&token("other", &["desk"])).await, part, "who sees the same is told the same");
    assert_eq!(epoch(&token("d", &["desk", "boss"])).await, whole, "of several roles one sees everything");
    assert_eq!(epoch(&token("d", &["desk", "clerk"])).await, part, "one sees every row, and both hide the same");
}
