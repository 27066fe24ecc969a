//! Reads for those who see only some rows of a kind: one, its history; of lists (`list`) the condition. What is not seen is as if it
//! were not there.
//!
//! Invariants: which rows are seen is decided in the very statement that reads them, so no change comes between; nothing of
//! a filter becomes SQL text. While a field of the filter is not derived of every
//! entity yet, nobody can tell what meets it, and nothing is seen.

use dzvin_actors::platform::ports::StoreError;
use dzvin_protocols::{
    channels::IdKey,
    entities::Filter,
    platform::{EntityId, Kind},
};
use sqlx::{FromRow, Postgres, QueryBuilder};
use time::OffsetDateTime;

use super::{
    Entities, EntityRow, HistoryRow,
    log::bigint,
    queries::{anchors, push_condition},
    query::OneRow,
};
use crate::platform::db::store_error;

/// Appends the condition that a row is seen. What was purged has nothing left to be seen by.
pub(super) fn push_seen(to: &mut QueryBuilder<Postgres>, row: &'static str, kind: &Kind, rows: &Filter) {
    let fields: Vec<String> = rows.fields().into_iter().map(str::to_owned).collect();
    to.push("(").push(row).push(".doc IS NOT NULL AND ");
    // What names no field waits for none.
    if !fields.is_empty() {
        to.push("COALESCE((SELECT derived FROM derivations WHERE kind = ").push_bind(kind.as_str().to_owned());
        to.push(") @> ").push_bind(fields).push("::text[], false) AND ");
    }
    to.push("(");
    push_condition(to, row, rows);
    to.push("))");
}

/// Appends what the index finds, where the filter names a text outright.
pub(super) fn push_anchors(to: &mut QueryBuilder<Postgres>, filter: &Filter) {
    let Some(anchors) = anchors(filter) else { return };
    to.push(" AND (");
    for (n, object) in anchors.into_iter().enumerate() {
        to.push(if n > 0 { " OR " } else { "" }).push("fields @> ").push_bind(object).push("::text::jsonb");
    }
    to.push(")");
}

#[derive(FromRow)]
struct PastRow {
    revision: i64,
    offset: i64,
    op: String,
    at: OffsetDateTime,
    by: String,
    changed: Vec<String>,
    before: Option<String>,
    kept: bool,
    fields: Option<String>,
}

impl Entities {
    /// As [`Entities::one`], if the row meets `rows`.
    ///
    /// # Errors
    /// The database is away.
    pub(super) async fn one_seen(
        &self,
        kind: &Kind,
        rows: &Filter,
        id: &EntityId,
        known: &[String],
        largest: i32,
    ) -> Result<Option<(EntityRow, String)>, StoreError> {
        let mut sql = QueryBuilder::<Postgres>::new(
            r#"SELECT e.id, e.revision, e."offset", e.op, e.at, e.by, e.version, e.trashed_at, e.missing_since, t.tag, e.size,
                 CASE WHEN t.tag <> ALL ("#,
        );
        sql.push_bind(known.to_vec()).push(") AND e.size <= ").push_bind(largest);
        sql.push(" THEN e.doc END AS doc FROM streams s JOIN entities e ON e.kind = ")
            .push_bind(kind.as_str().to_owned());
        sql.push(" AND e.id = ").push_bind(id.as_str().to_owned());
        sql.push(
            " CROSS JOIN LATERAL (SELECT s.epoch || '.' || e.revision || '.' || left(md5(COALESCE(e.version, '')), 8) AS tag) t
             WHERE s.name = ",
        );
        sql.push_bind(kind.stream().to_string()).push(" AND ");
        push_seen(&mut sql, "e", kind, rows);
        let row = sql.build_query_as::<OneRow>().persistent(false).fetch_optional(self.database.pool()).await;
        Ok(row.map_err(store_error("reading an entity"))?.map(Into::into))
    }

    /// As [`Entities::history`], if the row meets `rows` now; each revision with its declared fields before and after.
    ///
    /// # Errors
    /// The database is away.
    pub(super) async fn history_seen(
        &self,
        kind: &Kind,
        rows: &Filter,
        id: &EntityId,
        before: Option<u64>,
        limit: u16,
    ) -> Result<Vec<(HistoryRow, Option<String>)>, StoreError> {
        let mut sql = QueryBuilder::<Postgres>::new(
            r#"SELECT revision, "offset", op, at, by, changed, before::text AS before,
                 COALESCE(doc, large) IS NOT NULL AS kept, fields
             FROM changes WHERE kind = "#,
        );
        sql.push_bind(kind.as_str().to_owned()).push(" AND id = ").push_bind(id.as_str().to_owned());
        sql.push(" AND revision < ").push_bind(before.map_or(i64::MAX, bigint));
        sql.push(" AND EXISTS (SELECT FROM entities e WHERE e.kind = ").push_bind(kind.as_str().to_owned());
        sql.push(" AND e.id = ").push_bind(id.as_str().to_owned()).push(" AND ");
        push_seen(&mut sql, "e", kind, rows);
        sql.push(") ORDER BY revision DESC LIMIT ").push_bind(i64::from(limit));
        let found = sql.build_query_as::<PastRow>().persistent(false).fetch_all(self.database.pool()).await;
        let row = |row: PastRow| {
            let PastRow { revision, offset, op, at, by, changed, before, kept, fields } = row;
            (HistoryRow { revision, offset, op, at, by, changed, before, kept }, fields)
        };
        Ok(found.map_err(store_error("reading history"))?.into_iter().map(row).collect())
    }

    /// Whether there is an entity of this key that meets `rows`.
    ///
    /// # Errors
    /// The database is away.
    pub(super) async fn is_seen(&self, kind: &Kind, rows: &Filter, key: &IdKey) -> Result<bool, StoreError> {
        let mut sql = QueryBuilder::<Postgres>::new("SELECT EXISTS (SELECT FROM entities e WHERE e.kind = ");
        sql.push_bind(kind.as_str().to_owned());
        match key.id() {
            Some(id) => sql.push(" AND e.id = ").push_bind(id.as_str().to_owned()),
            None => sql.push(" AND e.key = ").push_bind(key.as_str().to_owned()),
        };
        sql.push(" AND ");
        push_seen(&mut sql, "e", kind, rows);
        sql.push(")");
        let seen = sql.build_query_scalar().persistent(false).fetch_one(self.database.pool()).await;
        seen.map_err(store_error("reading an entity"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_without_fields_waits_for_none() {
        let seen = |rows: &str| {
            let mut sql = QueryBuilder::new("");
            let kind = Kind::new("deal").expect("kind");
            push_seen(&mut sql, "e", &kind, &Filter::parse(rows).expect("a filter"));
            sql.sql().as_str().to_owned()
        };
        assert_eq!(seen("{}"), "(e.doc IS NOT NULL AND (true))");
        assert!(seen(r#"{"a":"b"}"#).contains("derivations"));
    }

    /// However many texts a filter names, and in however many places: what the index is asked for is bounded in total.
    #[test]
    fn what_the_index_is_asked_for_is_bounded_in_total() {
        let sql = |filter: &Filter| {
            let mut sql = QueryBuilder::new("");
            push_anchors(&mut sql, filter);
            sql.sql().as_str().to_owned()
        };
        let texts = |n: usize| (0..n).map(|n| format!("t{n}")).collect::<Vec<_>>();
        let parsed = |value: serde_json::Value| Filter::parse(&value.to_string()).expect("a filter");
        for (filter, asked) in [
            (parsed(serde_json::json!({})), 0),
            (parsed(serde_json::json!({"a": "x"})), 1),
            (parsed(serde_json::json!({"a": texts(16)})), 16),
            (parsed(serde_json::json!({"a": texts(17)})), 0),
            (parsed(serde_json::json!({"a": texts(16), "b": texts(3), "c": texts(100)})), 3),
            // Sixty-four tests at most, each with as many as are asked for: one of them is enough.
            (Filter::And((0..64).map(|n| parsed(serde_json::json!({format!("f{n}"): texts(16)}))).collect()), 16),
            (Filter::And((0..64).map(|n| parsed(serde_json::json!({format!("f{n}"): texts(17)}))).collect()), 0),
            // Of several roles: either may show a row, so neither narrows.
            (Filter::Or((0..8).map(|_| parsed(serde_json::json!({"a": texts(16)}))).collect()), 0),
        ] {
            let sql = sql(&filter);
            assert_eq!(sql.matches("fields @>").count(), asked, "{sql}");
            assert_eq!(sql.matches('$').count(), asked, "every text is bound: {sql}");
            assert!(sql.len() <= 16 * 50, "{sql}");
        }
    }
}
