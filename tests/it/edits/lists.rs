//! Lists: what is asked for, in which order, page by page, and nothing that is not seen.

use std::collections::BTreeSet;

use super::*;
use crate::support::eventually::eventually;

pub const TASKS: &str = "/api/v1/entities/task";

/// Names in the order of the alphabet; the case of letters does not count, nor what kind of apostrophe there is.
const TITLES: [&str; 12] =
    ["apple", "Zebra", "гараж", "Ґанок", "Дім", "єнот", "ЖЕК", "Іва", "Їжак", "Йод", "м’ята", "ялинка"];

/// The rows of a list, from its first page to its last.
pub async fn all_pages(who: &Writer<'_>, query: &str) -> Vec<Value> {
    let (mut rows, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = who.get(&format!("{TASKS}?limit=5{query}{cursor}")).await;
        rows.extend(page.is(200).body["items"].as_array().expect("items").iter().cloned());
        match page.body["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return rows,
        }
    }
}

fn ids(rows: &[Value]) -> Vec<String> {
    rows.iter().map(|row| row["id"].as_str().expect("an id").to_owned()).collect()
}

/// Done when lists can be sorted by what the kind declares.
pub async fn sorted(who: &Writer<'_>) {
    for field in ["title", "sum", "due", "secret"] {
        let path = format!("{TASKS}?sort={field}");
        eventually("its index is there", async || who.get(&path).await.status == 200).await;
    }
}

async fn make(who: &Writer<'_>, id: &str, doc: &Value) {
    let kind = [("content-type", "application/json")];
    who.send(Method::PUT, &format!("{TASKS}/{id}"), &kind, doc.to_string()).await.is(201);
}

#[tokio::test]
async fn a_list_stands_in_the_order_that_is_asked_for() {
    let world = world(false).await;
    let hub = world.hub("a").await;
    let boss = Writer::new(&hub, "olha", "boss");
    sorted(&boss).await;
    // Against the order, and two without a title.
    for (n, title) in TITLES.iter().enumerate().rev() {
        make(&boss, &format!("t{n:02}"), &json!({ "title": title })).await;
    }
    make(&boss, "u1", &json!({"title": null})).await;
    make(&boss, "u2", &json!({"title": ["apple"]})).await;
    let mut expected: Vec<String> = (0..TITLES.len()).map(|n| format!("t{n:02}")).collect();
    let rest = ["u1".to_owned(), "u2".to_owned()];
    assert_eq!(ids(&all_pages(&boss, "&sort=title").await), [&expected[..], &rest].concat());
    expected.reverse();
    assert_eq!(
        ids(&all_pages(&boss, "&sort=-title").await),
        [&expected[..], &["u2".to_owned(), "u1".to_owned()]].concat()
    );

    // Numbers as numbers, and moments as moments; what is none stands behind all that are.
    let numbers = ["-1", "9", "9.5", "1e1", "10.01", "123456789012345678901234567890", "\"x\""];
    let moments =
        ["2026-11-28T09:59:59Z", "2026-11-28T12:00:00+02:00", "2026-11-28T10:00:00.5Z", "2026-11-28T11:00:00Z"];
    let docs = numbers.iter().map(|sum| format!("{{\"sum\":{sum}}}"));
    let docs = docs.chain(moments.iter().map(|due| format!("{{\"due\":\"{due}\"}}")));
    for (n, doc) in docs.enumerate() {
        let doc = serde_json::value::RawValue::from_string(doc).expect("json");
        let kind = [("content-type", "application/json")];
        boss.send(Method::PUT, &format!("{TASKS}/n{n:02}"), &kind, doc.get().to_owned()).await.is(201);
    }
    let by_sum = ids(&all_pages(&boss, "&sort=sum").await);
    assert_eq!(by_sum[..6], ["n00", "n01", "n02", "n03", "n04", "n05"]);
    assert_eq!(ids(&all_pages(&boss, "&sort=-sum").await)[..6], ["n05", "n04", "n03", "n02", "n01", "n00"]);
    assert_eq!(ids(&all_pages(&boss, "&sort=due").await)[..4], ["n07", "n08", "n09", "n10"]);
    let all: BTreeSet<String> = by_sum.iter().cloned().collect();
    assert_eq!((all.len(), by_sum.len()), (25, 25), "each once");
    for sort in ["offset", "-offset", "id", "-id", "-due", "secret"] {
        let rows = ids(&all_pages(&boss, &format!("&sort={sort}")).await);
        assert_eq!((rows.len(), rows.iter().cloned().collect::<BTreeSet<_>>()), (25, all.clone()), "{sort}");
    }
    let newest = ids(&all_pages(&boss, "").await);
    assert_eq!(
        (&newest[0], newest.iter().rev().cloned().collect()),
        (&"n10".to_owned(), ids(&all_pages(&boss, "&sort=offset").await))
    );

    boss.get(&format!("{TASKS}?sort=owner")).await.refused(400, "unknown_sort");
    boss.get(&format!("{TASKS}?sort=-")).await.refused(400, "unknown_sort");
}

#[tokio::test]
async fn pages_stay_right_while_rows_change() {
    let world = world(false).await;
    let hub = world.hub("a").await;
    let boss = Writer::new(&hub, "olha", "boss");
    sorted(&boss).await;
    for n in 0..30 {
        make(&boss, &format!("e{n:02}"), &json!({"title": format!("n{n:02}"), "sum": n % 3})).await;
    }
    for sort in ["title", "-title", "sum", "-sum", "id", "offset"] {
        let (mut seen, mut cursor, mut turn) = (Vec::new(), String::new(), 0);
        loop {
            let page = boss.get(&format!("{TASKS}?limit=4&sort={sort}{cursor}")).await;
            seen.extend(ids(page.is(200).body["items"].as_array().expect("items")));
            let Some(next) = page.body["next"].as_str() else { break };
            cursor = format!("&cursor={next}");
            // Behind the reader, before the reader and under the reader's feet: the last of the page goes.
            let last = seen.last().expect("one").clone();
            let kind = [("content-type", "application/merge-patch+json")];
            let patch = json!({"title": format!("z{turn}"), "sum": 7 + turn}).to_string();
            if last.as_str() >= "e20" {
                boss.send(Method::PATCH, &format!("{TASKS}/{last}"), &kind, patch).await.is(200);
            }
            turn += 1;
        }
        for n in 0..20 {
            let id = format!("e{n:02}");
            assert_eq!(seen.iter().filter(|it| **it == id).count(), 1, "{sort}: {id} did not change");
        }
    }
}

#[tokio::test]
async fn the_trash_is_shown_to_who_asks() {
    let world = world(false).await;
    let hub = world.hub("a").await;
    let boss = Writer::new(&hub, "olha", "boss");
    for id in ["a", "b", "c", "bulk"] {
        make(&boss, id, &json!({"title": id})).await;
    }
    let delete = async |path: &str| boss.send(Method::DELETE, &format!("{TASKS}/{path}"), &[], String::new()).await;
    delete("b").await.is(200);
    delete("c?purge=true").await.is(200);
    let listed = async |query: &str| {
        let answer = boss.get(&format!("{TASKS}?total=true&sort=id{query}")).await;
        (ids(answer.is(200).body["items"].as_array().expect("items")), answer.body["total"].as_u64().expect("total"))
    };
    let own = |all: &[&str]| all.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(listed("").await, (own(&["a", "bulk"]), 2));
    assert_eq!(listed("&trash=exclude&title=b").await, (own(&[]), 0));
    assert_eq!(listed("&trash=only").await, (own(&["b"]), 1));
    assert_eq!(listed("&trash=include").await, (own(&["a", "b", "bulk", "c"]), 4));
    boss.get(&format!("{TASKS}?trash=yes")).await.refused(400, "bad_parameter");
    // One that is called as an address is.
    boss.get(&format!("{TASKS}/bulk")).await.is(200);
    let posted =
        boss.send(Method::POST, &format!("{TASKS}/a"), &[("content-type", "application/json")], "{}".into()).await;
    posted.refused(405, "method_not_allowed");
    assert_eq!(posted.headers["allow"], "GET, HEAD, PUT, PATCH, DELETE");
}

/// Looked at when a node starts, and every hour.
#[tokio::test]
async fn the_trash_is_emptied_in_time() {
    let world = world(false).await;
    let mut hub = world.hub("a").await;
    let notes = "/api/v1/entities/note";
    let kind = [("content-type", "application/json")];
    {
        let boss = Writer::new(&hub, "olha", "boss");
        for n in 0..150 {
            boss.send(Method::PUT, &format!("{notes}/old{n}"), &kind, "{\"a\":1}".into()).await.is(201);
        }
        boss.send(Method::PUT, &format!("{notes}/new"), &kind, "{}".into()).await.is(201);
        boss.send(Method::PUT, &format!("{notes}/kept"), &kind, "{}".into()).await.is(201);
        let items: Vec<Value> = (0..150)
            .map(|n| json!({"op": "trash", "id": format!("old{n}")}))
            .chain([json!({"op": "trash", "id": "new"})])
            .collect();
        boss.send(Method::POST, &format!("{notes}/bulk"), &kind, json!({ "items": items }).to_string()).await.is(200);
    }
    let mut raw = world.db.raw().await;
    let long_ago =
        "UPDATE entities SET trashed_at = now() - interval '30 days 1 minute' WHERE kind = 'note' AND id LIKE 'old%'";
    sqlx::query(long_ago).execute(&mut raw).await.expect("aged");
    hub.stop().await;
    hub.start().await;
    let boss = Writer::new(&hub, "olha", "boss");
    let left = async || {
        let rows = boss.get(&format!("{notes}?trash=only&total=true&limit=1")).await;
        (rows.status, rows.body["total"].as_u64())
    };
    eventually("what was there for long is purged", async || left().await == (200, Some(1))).await;
    assert_eq!(boss.get(&format!("{notes}/new")).await.is(200).body["op"], "trash");
    assert_eq!(boss.get(&format!("{notes}/kept")).await.is(200).body["op"], "create");
    let purged = boss.get(&format!("{notes}/old149")).await;
    assert_eq!(
        (&purged.is(200).body["doc"], &purged.body["by"], &purged.body["op"]),
        (&Value::Null, &json!("system:retention"), &json!("purge"))
    );
}

#[tokio::test]
async fn filters_and_fields_are_what_is_asked_and_no_more() {
    let world = world(false).await;
    let hub = world.hub("a").await;
    let (boss, desk) = (Writer::new(&hub, "olha", "boss"), Writer::new(&hub, "oleh", "desk"));
    sorted(&boss).await;
    for n in 0..12 {
        let doc = json!({"title": format!("n{n:02}"), "sum": n, "owner": if n % 2 == 0 { "olha" } else { "oleh" }, "secret": format!("s{n}"),
            "lines": [{"price": 1.5, "name": "x"}, {"price": 2}]});
        make(&boss, &format!("e{n:02}"), &doc).await;
    }
    let found = async |who: &Writer<'_>, filter: &str, more: &str| {
        let address = reqwest::Url::parse_with_params("http://x", [("filter", filter)]).expect("an address");
        ids(&all_pages(who, &format!("&{}{more}", address.query().expect("a query"))).await)
    };
    let expected = |all: &[u32]| all.iter().map(|n| format!("e{n:02}")).collect::<Vec<_>>();
    let between = r#"{"sum":{"gte":3,"lt":9}}"#;
    assert_eq!(found(&boss, between, "&sort=sum").await, expected(&[3, 4, 5, 6, 7, 8]));
    assert_eq!(found(&boss, between, "&sort=-sum").await, expected(&[8, 7, 6, 5, 4, 3]));
    assert_eq!(found(&boss, between, "&sort=title&owner=olha").await, expected(&[4, 6, 8]));
    assert_eq!(
        found(&boss, r#"{"or":[{"title":{"prefix":"n1"}},{"sum":{"in":[0,1]}}],"not":{"owner":"oleh"}}"#, "").await,
        expected(&[10, 0])
    );
    assert_eq!(found(&boss, r#"{"sum":null}"#, "&sort=sum").await, expected(&[]));

    for (query, status, code) in [
        ("filter=%7B%22nothing%22:1%7D", 400, "unknown_field"),
        ("filter=%7B", 400, "bad_filter"),
        ("fields=a..b", 400, "bad_parameter"),
        ("format=xlsx", 400, "bad_parameter"),
    ] {
        boss.get(&format!("{TASKS}?{query}")).await.refused(status, code);
    }
    // Whatever would tell what is hidden, in which way it is asked ever.
    for query in ["secret=s1", "sort=secret", "filter=%7B%22secret%22:%7B%22gt%22:%22s%22%7D%7D"] {
        desk.get(&format!("{TASKS}?{query}")).await.refused(403, "hidden_field");
    }
    let shown = desk.get(&format!("{TASKS}?limit=1&sort=id&fields=sum,lines.price,secret")).await;
    assert_eq!(shown.is(200).body["items"][0]["doc"], json!({"sum": 0, "lines": [{"price": 1.5}, {"price": 2}]}));
    let none = boss.get(&format!("{TASKS}?limit=1&fields=")).await;
    assert_eq!(none.is(200).body["items"][0]["doc"], json!({}));
    let kinds = desk.get("/api/v1/kinds").await;
    let task = kinds.body["items"].as_array().expect("items").iter().find(|kind| kind["kind"] == "task").expect("task");
    assert_eq!(
        task["sorts"],
        json!({"title": "text", "sum": "number", "due": "time"}),
        "what is hidden is not told of"
    );
}

/// A page that ends because it has looked at enough ends at somebody else's row: its place tells nothing of it.
#[tokio::test]
async fn a_place_tells_nothing_of_rows_that_are_not_seen() {
    let world = world(false).await;
    let hub = world.hub("a").await;
    let (boss, clerk) = (Writer::new(&hub, "olha", "boss"), Writer::new(&hub, "ivan", "guest"));
    sorted(&boss).await;
    let fill =
        "INSERT INTO entities (kind, id, revision, \"offset\", op, at, by, doc, size, fields, created_at, updated_at)
            SELECT 'task', 'hidden' || n, 1, n, 'create', now(), 'x', '{}', 2,
                jsonb_build_object('title', 'Таємниця ' || lpad(n::text, 6, '0'), 'owner', 'olha'), now(), now()
            FROM generate_series(1, 21000) n;
        UPDATE streams SET top = 21000 WHERE name = 'entities.task'; ANALYZE entities";
    sqlx::raw_sql(fill).execute(&mut world.db.raw().await).await.expect("filled");
    make(&boss, "mine", &json!({"title": "Яблуко", "owner": "ivan"})).await;
    for sort in ["title", "id"] {
        let (mut pages, mut cursor, mut found) = (0, String::new(), Vec::new());
        loop {
            let page = clerk.get(&format!("{TASKS}?sort={sort}{cursor}")).await;
            found.extend(ids(page.is(200).body["items"].as_array().expect("items")));
            pages += 1;
            let Some(next) = page.body["next"].as_str() else { break };
            assert!(next.starts_with('~') && !next.contains("hidden"), "{next}");
            clerk.get(&format!("{TASKS}?sort=-{sort}&cursor={next}")).await.refused(400, "bad_parameter");
            clerk.get(&format!("{TASKS}?cursor={next}")).await.refused(400, "bad_parameter");
            cursor = format!("&cursor={next}");
        }
        assert_eq!((found, pages), (vec!["mine".to_owned()], 3), "by {sort}");
    }
    // Where an index finds what is seen, nothing else is looked at.
    let clerk = Writer::new(&hub, "ivan", "clerk");
    let page = clerk.get(&format!("{TASKS}?sort=title&filter=%7B%22title%22:%7B%22prefix%22:%22%D0%AF%22%7D%7D")).await;
    assert_eq!(
        (ids(page.is(200).body["items"].as_array().expect("items")), &page.body["next"]),
        (vec!["mine".to_owned()], &Value::Null)
    );
}
