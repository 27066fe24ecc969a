//! The list that is asked for most: everything that is there, newest change first. One statement that is planned once, for its plan is the
//! same whatever is asked; any other list is planned with its values (`list`).
//!
//! Invariants: it answers what `list` would, or nothing: a page that is not full is left to `list`, which knows whether it was the last.

use dzvin_actors::platform::ports::StoreError;
use dzvin_protocols::{
    channels::{Epoch, Position},
    entities::{Order, Place},
    platform::Kind,
};
use sqlx::{FromRow, Postgres, QueryBuilder};

use super::{
    Entities, EntityRow, ListPage, Listing, Trash,
    list::SCAN_PRESENT,
    log::{bigint, number},
    query::{Found, INLINE},
};
use crate::platform::db::store_error;

#[derive(FromRow)]
struct Row {
    epoch: String,
    top: i64,
    #[sqlx(flatten)]
    found: Found,
}

impl Listing<'_> {
    /// Whether it is this one.
    pub(super) fn is_newest(&self) -> bool {
        self.filters.is_empty()
            && !self.is_narrowed()
            && self.trash == Trash::Exclude
            && !self.total
            && *self.order == Order::NEWEST
    }
}

impl Entities {
    /// A full page of it; `None` where it is not full, or the kind is unknown.
    pub(super) async fn newest(&self, kind: &Kind, asked: &Listing<'_>) -> Result<Option<ListPage>, StoreError> {
        let after = match asked.after {
            Some(Place::Offset(offset)) => bigint(*offset),
            _ => i64::MAX,
        };
        let wanted = usize::from(asked.limit) + 1;
        // Numbers of ours stand in the text: a limit that is not known would be planned for a tenth of the kind. There are as many texts as
        // pages have sizes.
        let mut sql = QueryBuilder::<Postgres>::new(
            r#"SELECT s.epoch, s.top, e.id, e.revision, e."offset", e.op, e.at, e.by, e.version, e.size,
                 CASE WHEN e.size <= "#,
        );
        sql.push(INLINE).push(
            r#" THEN e.doc END AS doc FROM streams s CROSS JOIN LATERAL (SELECT * FROM (
                 SELECT e.id, e.revision, e."offset", e.op, e.at, e.by, e.version, e.size, e.doc, e.trashed_at, e.missing_since
                 FROM entities e WHERE e.kind = "#,
        );
        sql.push_bind(kind.as_str()).push(r#" AND e."offset" < "#).push_bind(after);
        sql.push(r#" ORDER BY e."offset" DESC LIMIT "#).push(SCAN_PRESENT);
        sql.push(") w WHERE w.doc IS NOT NULL AND w.trashed_at IS NULL AND w.missing_since IS NULL LIMIT ");
        sql.push(wanted as u64).push(") e WHERE s.name = ").push_bind(kind.stream().to_string());
        let rows: Result<Vec<Row>, _> = sql.build_query_as().fetch_all(self.database().pool()).await;
        let rows = rows.map_err(store_error("listing entities"))?;
        if rows.len() < wanted {
            return Ok(None);
        }
        let position = rows.first().map(|row| Position { epoch: Epoch::new(&row.epoch), offset: number(row.top) });
        let mut rows: Vec<EntityRow> = rows.into_iter().filter_map(|row| row.found.entity()).collect();
        // They come in this order, though nothing promises it.
        rows.sort_by_key(|row| std::cmp::Reverse(row.offset));
        rows.truncate(wanted - 1);
        let next = rows.last().map(|row| Place::Offset(number(row.offset)));
        Ok(position.map(|position| ListPage { rows, position, total: None, pending: Vec::new(), next }))
    }
}
