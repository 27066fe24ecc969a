//! The rows that meet a query, in pages, each with the position of the same snapshot.

use dzvin_actors::platform::ports::{Query, StoreError};
use dzvin_protocols::{
    channels::{Epoch, Position},
    entities::Filter,
};
use sqlx::{Postgres, QueryBuilder};

use super::{StoredQueries, condition::push_condition};
use crate::{
    entities::{
        EntityRow,
        log::{bigint, number},
        query::INLINE,
        seen::{ScanRow, push_anchors, push_seen},
    },
    platform::db::store_error,
};

/// Rows that one page looks at: about ten milliseconds of the database. A page of a filter that hardly anything meets may be
/// empty and still not be the last.
pub const SCAN_ROWS: i64 = 10_000;

/// A page of a query's rows.
#[derive(Debug, Clone)]
pub struct QueryPage {
    /// Newest change first.
    pub rows: Vec<EntityRow>,
    /// The stream's position in the snapshot of this page.
    pub position: Position,
    /// The next page has offsets below this one; `None` when this was the last.
    pub below: Option<u64>,
}

impl StoredQueries {
    /// Entities below an offset that meet the query, newest first; `None` when the kind has gone. Without what is in the
    /// trash, missing or purged.
    ///
    /// # Errors
    /// The database is away.
    pub async fn page(&self, query: &Query, below: Option<u64>, limit: u16) -> Result<Option<QueryPage>, StoreError> {
        self.page_seen(query, None, below, limit).await
    }

    /// The same, of the rows that meet `rows` as well: those that the caller sees.
    ///
    /// # Errors
    /// The database is away.
    pub async fn page_seen(
        &self,
        query: &Query,
        rows: Option<&Filter>,
        below: Option<u64>,
        limit: u16,
    ) -> Result<Option<QueryPage>, StoreError> {
        let rows = self.page_rows(query, rows, below, limit).await.map_err(store_error("reading a query's rows"))?;
        let Some(first) = rows.first() else { return Ok(None) };
        let (end, first) = (first.end(), &first.row);
        let position = Position { epoch: Epoch::new(&first.epoch), offset: number(first.top) };
        let mut rows: Vec<EntityRow> = rows.into_iter().filter_map(|found| found.row.entity()).collect();
        let more = rows.len() > usize::from(limit);
        rows.truncate(usize::from(limit));
        let last = rows.last().filter(|_| more).map(|row| number(row.offset));
        Ok(Some(QueryPage { rows, position, below: last.or(end) }))
    }

    async fn page_rows(
        &self,
        query: &Query,
        rows: Option<&Filter>,
        below: Option<u64>,
        limit: u16,
    ) -> Result<Vec<ScanRow>, sqlx::Error> {
        let mut sql = QueryBuilder::<Postgres>::new(
            r#"WITH w AS MATERIALIZED (
                 SELECT id, revision, "offset", op, at, by, version, size, fields, CASE WHEN doc IS NOT NULL THEN true END AS doc, doc IS NULL OR trashed_at IS NOT NULL
                     OR missing_since IS NOT NULL AS gone
                 FROM entities WHERE kind = "#,
        );
        sql.push_bind(query.kind.as_str()).push(r#" AND "offset" < "#).push_bind(below.map_or(i64::MAX, bigint));
        let anchor = [Some(&query.filter), rows].into_iter().flatten().find(|filter| filter.anchor().is_some());
        if let Some(filter) = anchor {
            push_anchors(&mut sql, filter);
        }
        sql.push(r#" ORDER BY "offset" DESC LIMIT "#).push_bind(SCAN_ROWS);
        sql.push(
            r#")
             SELECT s.epoch, s.top, l.looked, l.oldest, m.id, m.revision, m."offset", m.op, m.at, m.by, m.version, m.size,
                 CASE WHEN m.size <= "#,
        );
        sql.push_bind(INLINE).push(r#" THEN (SELECT doc FROM entities e WHERE e.kind = "#);
        sql.push_bind(query.kind.as_str()).push(
            r#" AND e.id = m.id) END AS doc
             FROM streams s CROSS JOIN (SELECT count(*) AS looked, min("offset") AS oldest FROM w) l
             LEFT JOIN LATERAL (SELECT * FROM w WHERE NOT w.gone AND ("#,
        );
        push_condition(&mut sql, "w", &query.filter);
        if let Some(rows) = rows {
            sql.push(") AND (");
            push_seen(&mut sql, "w", &query.kind, rows);
        }
        sql.push(r#") ORDER BY w."offset" DESC LIMIT "#).push_bind(i64::from(limit) + 1);
        sql.push(") m ON true WHERE s.name = ").push_bind(query.kind.stream().to_string());
        sql.push(r#" ORDER BY m."offset" DESC"#);
        let mut lent = self.entities.database.lend().await?;
        let mut tx = lent.begin().await?;
        // Planned with the values, as lists are.
        sqlx::query!("SELECT set_config('plan_cache_mode', 'force_custom_plan', true)").fetch_one(&mut *tx).await?;
        let rows = sql.build_query_as().persistent(false).fetch_all(&mut *tx).await?;
        tx.commit().await?;
        Ok(rows)
    }
}
