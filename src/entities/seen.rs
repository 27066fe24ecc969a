//! Reads for those who see only some rows of a kind: a page, one, its history. What is not seen is as if it were not there.
//!
//! Invariants: which rows are seen is decided in the very statement that reads them, so no change comes between; nothing of
//! a filter becomes SQL text; a page looks at a bounded number of rows. While a field of the filter is not derived of every
//! entity yet, nobody can tell what meets it, and nothing is seen.

use dzvin_actors::platform::ports::StoreError;
use dzvin_protocols::{
    channels::{Epoch, IdKey, Position},
    entities::Filter,
    platform::{EntityId, Kind},
};
use sqlx::{FromRow, Postgres, QueryBuilder};
use time::OffsetDateTime;

use super::{
    Entities, EntityRow, HistoryRow, ListPage,
    log::{bigint, number},
    queries::{SCAN_ROWS, anchors, push_condition},
    query::{INLINE, Listing, OneRow, PageRow},
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

/// A row of a page that looks at so many rows and no more.
#[derive(FromRow)]
pub(super) struct ScanRow {
    /// Rows that were looked at, and the oldest of them.
    looked: i64,
    oldest: Option<i64>,
    #[sqlx(flatten)]
    pub(super) row: PageRow,
}

impl ScanRow {
    /// Where the next page begins when this one ended because it had looked at enough.
    pub(super) fn end(&self) -> Option<u64> {
        self.oldest.filter(|_| self.looked >= SCAN_ROWS).map(number)
    }
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

/// A page of a list, and where the next begins when this one ended early.
pub(super) struct SeenPage {
    pub(super) page: ListPage,
    /// Not everything was looked at: there may be more below this offset.
    pub(super) below: Option<u64>,
}

impl From<ListPage> for SeenPage {
    fn from(page: ListPage) -> Self {
        Self { page, below: None }
    }
}

impl Entities {
    /// As [`Entities::list`], of the rows that meet `rows`. A page looks at [`SCAN_ROWS`] rows at most.
    ///
    /// # Errors
    /// The database is away.
    pub(super) async fn list_seen(
        &self,
        kind: &Kind,
        rows: &Filter,
        asked: Listing<'_>,
    ) -> Result<Option<SeenPage>, StoreError> {
        let found = self.seen_rows(kind, rows, asked).await.map_err(store_error("listing entities"))?;
        let Some(first) = found.first() else { return Ok(None) };
        let (below, first) = (first.end(), &first.row);
        let position = Position { epoch: Epoch::new(&first.epoch), offset: number(first.top) };
        let total = first.total;
        let carried = first.derived.as_deref().unwrap_or_default();
        let named = asked.filters.keys().map(String::as_str).chain(rows.fields());
        let pending = named.filter(|field| !carried.iter().any(|it| it == field)).map(str::to_owned).collect();
        let rows = found.into_iter().filter_map(|found| found.row.entity()).collect();
        Ok(Some(SeenPage { page: ListPage { rows, position, total, pending }, below }))
    }

    async fn seen_rows(
        &self,
        kind: &Kind,
        rows: &Filter,
        Listing { filters, below, limit, total }: Listing<'_>,
    ) -> Result<Vec<ScanRow>, sqlx::Error> {
        let (name, filters) = (kind.as_str(), serde_json::to_string(filters).unwrap_or_default());
        let mut sql = QueryBuilder::<Postgres>::new(
            r#"WITH w AS MATERIALIZED (
                 SELECT id, revision, "offset", op, at, by, version, trashed_at, missing_since, size, fields,
                     CASE WHEN doc IS NOT NULL THEN true END AS doc
                 FROM entities WHERE kind = "#,
        );
        sql.push_bind(name.to_owned()).push(r#" AND "offset" < "#).push_bind(below.map_or(i64::MAX, bigint));
        sql.push(" AND fields @> ").push_bind(filters.clone()).push("::text::jsonb");
        push_anchors(&mut sql, rows);
        sql.push(r#" ORDER BY "offset" DESC LIMIT "#).push_bind(SCAN_ROWS).push(") SELECT s.epoch, s.top, ");
        sql.push("(SELECT derived FROM derivations WHERE kind = ").push_bind(name.to_owned()).push(") AS derived, ");
        if total {
            sql.push("(SELECT count(*) FROM entities t WHERE t.kind = ").push_bind(name.to_owned());
            sql.push(" AND t.fields @> ").push_bind(filters).push("::text::jsonb AND ");
            push_seen(&mut sql, "t", kind, rows);
            push_anchors(&mut sql, rows);
            sql.push(") AS total,");
        } else {
            sql.push("NULL::int8 AS total,");
        }
        sql.push(
            r#" l.looked, l.oldest, m.id, m.revision, m."offset", m.op, m.at, m.by, m.version, m.trashed_at,
                 m.missing_since, m.size, CASE WHEN m.size <= "#,
        );
        sql.push_bind(INLINE).push(" THEN (SELECT e.doc FROM entities e WHERE e.kind = ").push_bind(name.to_owned());
        sql.push(
            r#" AND e.id = m.id) END AS doc
             FROM streams s CROSS JOIN (SELECT count(*) AS looked, min("offset") AS oldest FROM w) l
             LEFT JOIN LATERAL (SELECT * FROM w WHERE "#,
        );
        push_seen(&mut sql, "w", kind, rows);
        sql.push(r#" ORDER BY w."offset" DESC LIMIT "#).push_bind(i64::from(limit));
        sql.push(") m ON true WHERE s.name = ").push_bind(kind.stream().to_string());
        sql.push(r#" ORDER BY m."offset" DESC"#);
        let mut lent = self.database.lend().await?;
        let mut tx = lent.begin().await?;
        // Planned with the values, as other lists are.
        sqlx::query!("SELECT set_config('plan_cache_mode', 'force_custom_plan', true)").fetch_one(&mut *tx).await?;
        let found = sql.build_query_as().persistent(false).fetch_all(&mut *tx).await?;
        tx.commit().await?;
        Ok(found)
    }

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
