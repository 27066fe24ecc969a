//! Whole lists as a download.

use futures_util::StreamExt;

use super::{lists::*, *};
use crate::support::eventually::eventually;

impl Writer<'_> {
    async fn download(&self, query: &str) -> (HeaderMap, String) {
        let request = self.http.get(format!("http://{}{TASKS}?{query}", self.hub.addr)).bearer_auth(&self.token);
        let answer = request.send().await.expect("answered");
        assert_eq!(answer.status(), 200);
        (answer.headers().clone(), answer.text().await.expect("to its end"))
    }
}

async fn fill(world: &World, rows: u32, bytes: u32) {
    let fill = format!(
        "INSERT INTO entities (kind, id, revision, \"offset\", op, at, by, doc, size, fields, created_at, updated_at)
            SELECT 'task', 'f' || lpad(n::text, 6, '0'), 1, n, 'create', now(), 'x', d.doc, octet_length(d.doc),
                jsonb_build_object('title', 't' || n), now(), now()
            FROM generate_series(1, {rows}) n CROSS JOIN LATERAL (
                SELECT json_build_object('title', 't' || n, 'text', repeat('я', {bytes} / 2))::text AS doc) d;
        UPDATE streams SET top = {rows} WHERE name = 'entities.task'; ANALYZE entities"
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(fill)).execute(&mut world.db.raw().await).await.expect("filled");
}

#[tokio::test]
async fn a_list_is_downloaded_whole() {
    let world = world(false).await;
    let hub = world.hub("a").await;
    let (boss, desk) = (Writer::new(&hub, "olha", "boss"), Writer::new(&hub, "oleh", "desk"));
    fill(&world, 170, 100).await;
    let large = "щ".repeat(40_000);
    let kind = [("content-type", "application/json")];
    for (id, doc) in [
        ("g1", json!({"title": "=1+1", "sum": -5, "secret": "s3cret", "owner": "a;\"b\",\nc", "tags": ["x", "y"]})),
        ("g2", json!({"title": large, "sum": 1.50})),
        ("g3", json!({"title": "gone"})),
    ] {
        boss.send(Method::PUT, &format!("{TASKS}/{id}"), &kind, doc.to_string()).await.is(201);
    }
    boss.send(Method::DELETE, &format!("{TASKS}/g3"), &[], String::new()).await.is(200);

    let (headers, text) = boss.download("format=ndjson").await;
    assert_eq!(
        (&headers["content-type"], &headers["content-disposition"]),
        (
            &"application/x-ndjson".parse().expect("value"),
            &"attachment; filename=\"task.ndjson\"".parse().expect("value")
        )
    );
    let list = boss.get(&format!("{TASKS}?limit=1")).await.body["position"].clone();
    let position = format!("{}.{}", list["epoch"].as_str().expect("epoch"), list["offset"]);
    assert_eq!(headers["dzvin-position"], position.as_str(), "a subscriber goes on from there");
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("json")).collect();
    assert_eq!(lines.len(), 172, "all that is there, over several pages");
    assert!(lines.windows(2).all(|two| two[0]["id"].as_str() < two[1]["id"].as_str()), "by id, each once");
    assert_eq!(lines[171]["doc"]["title"].as_str(), Some(&*large), "large documents stand in it whole");

    let (headers, text) = desk
        .download("format=csv&fields=title,sum,secret,owner,tags&filter=%7B%22owner%22:%7B%22null%22:false%7D%7D")
        .await;
    assert!(headers["content-type"].to_str().expect("text").starts_with("text/csv"));
    let row = text.strip_prefix("id,revision,at,by,title,sum,secret,owner,tags\r\n").expect(&text);
    let row = row.strip_suffix(",olha,=1+1,-5,,\"a;\"\"b\"\",\nc\",\"[\"\"x\"\",\"\"y\"\"]\"\r\n").expect(row);
    assert!(row.starts_with("g1,1,20"), "{row}");
    let (_, text) = boss.download("format=csv-excel&trash=only").await;
    let row = text.strip_prefix("\u{feff}id;revision;at;by;title;sum;due;owner;secret\r\n").expect(&text);
    assert!(row.starts_with("g3;2;20") && row.ends_with(";olha;gone;;;;\r\n"), "{row}");
    let (_, text) = boss.download("format=csv-excel&title=%3D1%2B1").await;
    assert!(text.contains(";'=1+1;-5;;\"a;\"\"b\"\",\nc\";s3cret\r\n"), "no formula: {text}");
    desk.get(&format!("{TASKS}?format=csv&sort=secret")).await.refused(403, "hidden_field");
}

#[tokio::test]
async fn downloads_have_their_places_and_end_with_the_right() {
    let world = world(false).await;
    let hub = world.hub("a").await;
    let boss = Writer::new(&hub, "olha", "boss");
    // More than sockets hold.
    fill(&world, 2_000, 20_000).await;
    let begin = async |who: &Writer<'_>| {
        let request = who.http.get(format!("http://{}{TASKS}?format=ndjson", hub.addr)).bearer_auth(&who.token);
        request.send().await.expect("answered")
    };
    let mut under_way = Vec::new();
    for n in 0..4 {
        let answer = begin(&Writer::new(&hub, &format!("user{n}"), "reader")).await;
        assert_eq!(answer.status(), 200);
        under_way.push(answer);
    }
    let refused = boss.get(&format!("{TASKS}?format=csv")).await;
    assert!(refused.refused(503, "too_many_exports").headers.contains_key("retry-after"));
    boss.get(TASKS).await.is(200);

    // The first one's user is blocked in the middle: it does not get the rest, and is told so by an end that is none.
    let admin = Writer::with(&hub, token("root", &["*"], &[]));
    let block = json!({"user": "user0", "block": true}).to_string();
    admin.send(Method::POST, "/api/v1/revocations", &[("content-type", "application/json")], block).await.is(201);
    let (mut bytes, mut broken) = (0, false);
    let mut pieces = under_way.remove(0).bytes_stream();
    while let Some(piece) = pieces.next().await {
        match piece {
            Ok(piece) => bytes += piece.len(),
            Err(_) => broken = true,
        }
    }
    assert!(broken && bytes < 30_000_000, "{bytes}");
    drop(under_way);
    eventually("there is place again", async || {
        boss.get(&format!("{TASKS}?format=ndjson&limit=1")).await.status == 200
    })
    .await;
}
