//! Edits of many people at once: they are written together, and each is answered as if it had been alone.

use std::collections::BTreeSet;

use tokio::task::JoinSet;

use super::*;

/// People, each of whom changes an entity of their own, and one that is everybody's.
const PEOPLE: usize = 48;

#[tokio::test]
async fn edits_that_come_together_are_each_their_own() {
    let world = world(false).await;
    let hub = world.hub("a").await;
    let olha = Writer::with(&hub, token("olha", &["entities:*:*", "audit:read:*"], &[]));
    olha.put("shared", &json!({"n": 0}), None).await.is(201);
    let mut people = JoinSet::new();
    for n in 0..PEOPLE {
        let (addr, token) = (hub.addr, token(&format!("u{n}"), &["entities:*:*"], &[]));
        people.spawn(async move {
            let http = reqwest::Client::new();
            let put = async |id: &str, more: Option<(&str, &str)>, body: String| {
                let request = http.put(format!("http://{addr}{DEALS}/{id}")).bearer_auth(&token);
                let request = request.header("content-type", "application/json");
                let request = more.into_iter().fold(request, |request, (name, value)| request.header(name, value));
                let answer = request.body(body).send().await.expect("answered");
                let status = answer.status().as_u16();
                (status, answer.json::<Value>().await.expect("json"))
            };
            let mut seen = Vec::new();
            for round in 0..5 {
                let mine =
                    put(&format!("own{n}"), None, json!({"round": round, "text": "x".repeat(n * 100)}).to_string())
                        .await;
                assert_eq!((mine.0, &mine.1["by"]), (if round == 0 { 201 } else { 200 }, &json!(format!("u{n}"))));
                assert_eq!((&mine.1["revision"], &mine.1["doc"]["round"]), (&json!(round + 1), &json!(round)));
                seen.push((
                    mine.1["offset"].as_u64().expect("an offset"),
                    mine.1["position"]["offset"].as_u64().expect("a position"),
                ));
                // What the database would refuse, and what is refused by us, are of no concern to others.
                let unfit = put(&format!("own{n}"), None, r#"{"a":"\ud800"}"#.to_owned()).await;
                assert_eq!((unfit.0, &unfit.1["code"]), (422, &json!("unfit_document")));
                let late = put("shared", Some(("if-match", "1")), json!({"n": n + 1}).to_string()).await;
                assert!(late.0 == 200 || (late.0 == 412 && late.1["revision"] == 2), "{late:?}");
                seen.extend((late.0 == 200).then_some((0, 0)));
            }
            seen
        });
    }
    let seen: Vec<_> = people.join_all().await.into_iter().flatten().collect();
    let won = seen.iter().filter(|it| it.0 == 0).count();
    assert_eq!(won, 1, "of those who saw the same revision one is not refused");
    let offsets: BTreeSet<u64> = seen.iter().map(|it| it.0).filter(|offset| *offset > 0).collect();
    assert_eq!(offsets.len(), PEOPLE * 5, "each has an offset of its own");
    assert!(seen.iter().all(|(offset, position)| offset <= position), "and a position that has it");
    let history = olha.get(&format!("{DEALS}/own7/history")).await;
    let by: BTreeSet<_> =
        history.body["items"].as_array().expect("a list").iter().map(|it| it["by"].to_string()).collect();
    assert_eq!(by, BTreeSet::from(["\"u7\"".to_owned()]));
    let audit = olha.get("/api/v1/audit?object=deal/own7&outcome=done&limit=50").await;
    let by: Vec<_> =
        audit.is(200).body["items"].as_array().expect("a list").iter().map(|it| it["user"].clone()).collect();
    assert_eq!(by, vec![json!("u7"); 5]);
    let sql = "SELECT count(DISTINCT at) FROM changes WHERE kind = 'deal'";
    let times: i64 = sqlx::query_scalar(sql).fetch_one(&mut world.db.raw().await).await.expect("counted");
    assert!(times < (PEOPLE * 5) as i64 / 2, "{times} transactions: they did not come together");
}

/// Whoever goes away before the answer takes nothing of others with them.
#[tokio::test]
async fn who_goes_away_leaves_the_others_alone() {
    let world = world(false).await;
    let hub = world.hub("a").await;
    let olha = Writer::with(&hub, token("olha", &["entities:*:*"], &[]));
    let mut people = JoinSet::new();
    for n in 0..200_usize {
        let (addr, token) = (hub.addr, olha.token.clone());
        people.spawn(async move {
            let request = reqwest::Client::new().put(format!("http://{addr}{DEALS}/e{n}")).bearer_auth(&token);
            let sent = request.header("content-type", "application/json").body("{}").send();
            let patience = if n % 2 == 0 {
                std::time::Duration::from_millis(n as u64 % 7)
            } else {
                crate::support::eventually::patience()
            };
            tokio::time::timeout(patience, sent).await.ok().map(|answer| answer.expect("answered").status().as_u16())
        });
    }
    let answers = people.join_all().await;
    assert!(answers.iter().flatten().all(|status| *status == 201), "{answers:?}");
    assert!(answers.iter().flatten().count() >= 100);
    olha.put("last", &json!({}), None).await.is(201);
}
