//! A field that is declared when there are entities already: a filter on it finds all or is refused, never something between.

use std::sync::Arc;

use dzvin::entities::Entities;

use super::{Store, kind, raw, rest::Api, spec, upsert, upsert_raw};

/// Above what one page of the derivation takes.
const ROWS: usize = 1_100;

/// The store as a node with these declared fields sees it.
async fn node(store: &Store, fields: &[&str]) -> (Entities, Api) {
    let mut declared = spec(kind());
    Arc::make_mut(&mut declared.declaration).fields = fields.iter().map(ToString::to_string).collect();
    let entities = Entities::open(store.database.clone(), vec![declared]).await.expect("opens");
    let api = Api::over(&entities, store);
    (entities, api)
}

/// How many a filter finds, or the problem's code.
async fn found(api: &Api, filter: &str) -> Result<i64, String> {
    let answer = api.get(&format!("/api/v1/entities/procedure?limit=1&total=true&{filter}")).await;
    let json = answer.json();
    match answer.status {
        200 => Ok(json["total"].as_i64().expect("a total")),
        409 => Err(json["code"].as_str().expect("a code").to_owned()),
        status => panic!("{status} {json}"),
    }
}

fn of_region(id: &str, version: &str, region: &str) -> dzvin_protocols::mirror::MirrorOp {
    let doc = format!(r#"{{"_id":"{id}","status":"s","region":"{region}","dateModified":"{version}"}}"#);
    upsert_raw(id, version, raw(&doc).get())
}

const PENDING: &str = "field_pending";

#[tokio::test]
async fn a_field_declared_later_finds_all_or_is_refused() {
    let store = Store::new().await;
    let rows = (0..ROWS).map(|n| of_region(&format!("e{n}"), "1", if n % 2 == 0 { "lviv" } else { "kyiv" }));
    store.apply(rows.collect()).await;
    let (entities, api) = node(&store, &["status", "region"]).await;
    assert_eq!(found(&api, "region=lviv").await, Err(PENDING.to_owned()));
    assert_eq!(found(&api, "status=s&region=lviv").await, Err(PENDING.to_owned()));
    assert_eq!(found(&api, "status=s").await, Ok(ROWS as i64), "what was declared before is served on");
    let kinds = api.get("/api/v1/kinds").await.json();
    assert_eq!(kinds["items"][0]["pending"], serde_json::json!(["region"]));

    entities.derive_kind(&kind()).await.expect("derived");
    assert_eq!(found(&api, "region=lviv").await, Ok(ROWS as i64 / 2));
    assert_eq!(api.get("/api/v1/kinds").await.json()["items"][0]["pending"], serde_json::json!([]));
    let revisions: i64 = store.scalar("SELECT max(revision) FROM entities").await;
    assert_eq!((revisions, store.log(0).await.position.offset), (1, ROWS as u64), "that is no change of an entity");
}

/// A node stopped half way: the next one goes on behind what is done, and with what was written meanwhile.
#[tokio::test]
async fn what_is_written_while_it_is_derived_is_found() {
    let store = Store::new().await;
    store.apply(vec![of_region("a", "1", "lviv"), of_region("m", "1", "lviv"), of_region("z", "1", "lviv")]).await;
    let (entities, api) = node(&store, &["status", "region"]).await;
    // As a page leaves it: `a` is done, `m` and `z` are not.
    let half = "UPDATE entities SET fields = '{\"status\":\"s\",\"region\":\"lviv\"}' WHERE id = 'a'";
    let mut database = store.db.raw().await;
    sqlx::raw_sql(half).execute(&mut database).await.expect("half");
    let behind = "UPDATE derivations SET pass_after = 'a', pass_strays = 0 WHERE kind = 'procedure'";
    sqlx::raw_sql(behind).execute(&mut database).await.expect("behind");
    // The other node still runs on what was declared before, and writes what the pass has behind it.
    store.apply(vec![of_region("a", "2", "kyiv"), of_region("b", "1", "kyiv")]).await;
    entities.derive_kind(&kind()).await.expect("derived");
    assert_eq!((found(&api, "region=lviv").await, found(&api, "region=kyiv").await), (Ok(2), Ok(2)));

    // And once more when all was done: known at once, mended with the next look.
    store.apply(vec![of_region("c", "1", "kyiv")]).await;
    assert_eq!(found(&api, "region=kyiv").await, Err(PENDING.to_owned()));
    entities.derive_kind(&kind()).await.expect("derived");
    assert_eq!(found(&api, "region=kyiv").await, Ok(3));
}

#[tokio::test]
async fn a_field_that_was_away_is_derived_again() {
    let store = Store::new().await;
    store.apply(vec![upsert("a", "1", "x")]).await;
    let (without, _) = node(&store, &["value.amount"]).await;
    without.derive_kind(&kind()).await.expect("nothing to do");
    let (entities, api) = node(&store, &["status", "value.amount"]).await;
    assert_eq!(found(&api, "status=x").await, Err(PENDING.to_owned()));
    assert_eq!(found(&api, "value.amount=904.240").await, Ok(1));
    entities.derive_kind(&kind()).await.expect("derived");
    assert_eq!(found(&api, "status=x").await, Ok(1));
}
