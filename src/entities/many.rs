//! Entities of a kind by their ids, with the position of the same snapshot: what others refer to.

use std::collections::BTreeSet;

use dzvin_actors::platform::ports::StoreError;
use dzvin_protocols::{
    channels::{Epoch, Position},
    entities::Filter,
    platform::Kind,
};
use sqlx::{FromRow, Postgres, QueryBuilder};

use super::{
    Entities, EntityRow,
    log::number,
    query::{Found, INLINE},
    seen::push_seen,
};
use crate::platform::db::store_error;

/// One of them, with what holds for all.
#[derive(FromRow)]
struct ManyRow {
    epoch: String,
    top: i64,
    #[sqlx(flatten)]
    found: Found,
}

impl Entities {
    /// Those of the ids that there are, as far as they meet `rows`, the trash included; without documents of more than
    /// [`INLINE_DOC_LIMIT`](dzvin_protocols::entities::INLINE_DOC_LIMIT) bytes. `None` of an unknown kind.
    ///
    /// # Errors
    /// The database is away.
    pub(super) async fn many(
        &self,
        kind: &Kind,
        ids: &BTreeSet<String>,
        rows: Option<&Filter>,
    ) -> Result<Option<(Vec<EntityRow>, Position)>, StoreError> {
        let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
        let mut sql = QueryBuilder::<Postgres>::new(
            r#"SELECT s.epoch, s.top, e.id, e.revision, e."offset", e.op, e.at, e.by, e.version, e.trashed_at, e.missing_since, e.size,
                 CASE WHEN e.size <= "#,
        );
        sql.push_bind(INLINE).push(" THEN e.doc END AS doc FROM streams s LEFT JOIN entities e ON e.kind = ");
        sql.push_bind(kind.as_str()).push(" AND e.id = ANY (").push_bind(ids).push(") AND e.doc IS NOT NULL");
        if let Some(rows) = rows {
            sql.push(" AND ");
            push_seen(&mut sql, "e", kind, rows);
        }
        sql.push(" WHERE s.name = ").push_bind(kind.stream().to_string());
        let found: Result<Vec<ManyRow>, _> =
            sql.build_query_as().persistent(rows.is_none()).fetch_all(self.database.pool()).await;
        let found = found.map_err(store_error("reading what is referred to"))?;
        let position = found.first().map(|row| Position { epoch: Epoch::new(&row.epoch), offset: number(row.top) });
        Ok(position.map(|position| (found.into_iter().filter_map(|row| row.found.entity()).collect(), position)))
    }
}
