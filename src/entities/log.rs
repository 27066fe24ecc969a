//! The change log as the relay and recovery read it.
//!
//! A slice and the position beside it come from one statement, so from one snapshot. A run ends before the first hole:
//! what retention cut is told by `complete`, never papered over.

use dzvin_actors::platform::ports::{ChangeLog, LogSlice, ReadLimit, StoreError};
use dzvin_protocols::{
    channels::{Epoch, IdKey, Position},
    entities::{Change, Filter, Op},
    platform::{EntityId, Kind},
};
use serde_json::value::RawValue;
use sqlx::types::time::OffsetDateTime;
use time::Date;

use super::Entities;
use crate::platform::db::store_error;

/// What a change costs besides its document: the JSON around it.
const OVERHEAD_BYTES: i64 = 512;

/// One row of a slice: the stream's position, and a change if there is one.
struct SliceRow {
    epoch: String,
    top: i64,
    offset: Option<i64>,
    day: Option<Date>,
    id: Option<String>,
    revision: Option<i64>,
    op: Option<String>,
    at: Option<OffsetDateTime>,
    by: Option<String>,
    changed: Option<Vec<String>>,
    doc: Option<String>,
    trace: Option<String>,
    fields: Option<String>,
}

impl SliceRow {
    fn position(&self) -> Position {
        Position { epoch: Epoch::new(&self.epoch), offset: number(self.top) }
    }

    fn change(self, kind: &Kind) -> Option<Change> {
        Some(Change {
            kind: kind.clone(),
            id: EntityId::new(&self.id?).ok()?,
            revision: number(self.revision?),
            offset: number(self.offset?),
            op: Op::parse(&self.op?)?,
            at: self.at?,
            by: self.by?.into(),
            changed: self.changed?,
            doc: self.doc.and_then(|doc| RawValue::from_string(doc).ok()).map(Into::into),
            trace: self.trace.map(Into::into),
            fields: self.fields.map(Into::into),
        })
    }
}

/// Offsets and revisions are never negative in the database.
pub(super) fn number(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

pub(super) fn bigint(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn limits(limit: ReadLimit) -> (i64, i64) {
    (bigint(limit.count.max(1) as u64), bigint(limit.bytes as u64))
}

/// The run that follows `after` without a hole, by `place` (offset or revision).
fn slice(rows: Vec<SliceRow>, kind: &Kind, after: u64, place: impl Fn(&Change) -> u64) -> Option<LogSlice> {
    let position = rows.first()?.position();
    let mut changes = Vec::with_capacity(rows.len());
    let mut complete = after <= position.offset;
    for change in rows.into_iter().filter_map(|row| row.change(kind)) {
        let expected = changes.last().map_or(after, &place) + 1;
        if place(&change) != expected {
            if changes.is_empty() {
                // The past is cut: what is left begins here.
                complete = false;
            } else {
                break;
            }
        }
        changes.push(change);
    }
    complete &= !changes.is_empty() || after == position.offset;
    Some(LogSlice { position, changes, complete })
}

impl Entities {
    /// The day in or after which changes above the offset lie, as far as this process knows.
    fn day_of(&self, kind: &Kind, after: u64) -> Date {
        let days = self.days.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        days.get(kind).filter(|(_, offset, _)| *offset <= after).map_or(FIRST_DAY, |(_, _, day)| *day)
    }

    fn note_day(&self, kind: &Kind, row: &SliceRow) {
        let (Some(offset), Some(day)) = (row.offset, row.day) else { return };
        let mut days = self.days.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        days.insert(kind.clone(), (Epoch::new(&row.epoch), number(offset), day));
    }

    /// Drops the day of a kind that was noted in another epoch: the database went back, perhaps to an earlier clock. True
    /// when there was one, and what was read with its help may lack something.
    fn forget_day(&self, kind: &Kind, epoch: &str) -> bool {
        let mut days = self.days.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let other = days.get(kind).is_some_and(|(noted, _, _)| noted.as_str() != epoch);
        other && days.remove(kind).is_some()
    }

    async fn rows_after(&self, kind: &Kind, after: u64, limit: ReadLimit) -> Result<Vec<SliceRow>, StoreError> {
        let (count, bytes) = limits(limit);
        let stream = kind.stream();
        sqlx::query_as!(
            SliceRow,
            r#"SELECT s.epoch, s.top, c."offset" AS "offset?", c.day AS "day?", c.id AS "id?", c.revision AS "revision?",
                 c.op AS "op?", c.at AS "at?", c.by AS "by?", c.changed AS "changed?", c.doc, c.trace, c.fields
             FROM streams s LEFT JOIN LATERAL (
                 SELECT w.*, (sum(w.size + COALESCE(octet_length(w.fields), 0) + $6::int8) OVER (ORDER BY w."offset"))::int8 AS run FROM (
                     SELECT * FROM changes WHERE kind = $2 AND "offset" > $3 AND day >= $4 ORDER BY "offset" LIMIT $5
                 ) w
             ) c ON c.run <= $7 OR c.run = c.size + COALESCE(octet_length(c.fields), 0) + $6
             WHERE s.name = $1 ORDER BY c."offset""#,
            stream.as_str(),
            kind.as_str(),
            bigint(after),
            self.day_of(kind, after),
            count,
            OVERHEAD_BYTES,
            bytes
        )
        .fetch_all(self.database.pool())
        .await
        .map_err(store_error("reading the change log"))
    }

    /// The entity that a channel's key names; `None` when there is none.
    ///
    /// # Errors
    /// The database is away.
    pub async fn resolve(&self, kind: &Kind, key: &IdKey) -> Result<Option<EntityId>, StoreError> {
        if let Some(id) = key.id() {
            return Ok(Some(id));
        }
        let id =
            sqlx::query_scalar!("SELECT id FROM entities WHERE kind = $1 AND key = $2", kind.as_str(), key.as_str())
                .fetch_optional(self.database.pool())
                .await
                .map_err(store_error("looking up a key"))?;
        Ok(id.and_then(|id| EntityId::new(&id).ok()))
    }
}

/// Before any change of ours.
const FIRST_DAY: Date = time::macros::date!(2000 - 01 - 01);

impl ChangeLog for Entities {
    async fn shows(&self, kind: &Kind, key: &IdKey, rows: &Filter) -> Result<bool, StoreError> {
        self.is_seen(kind, rows, key).await
    }

    async fn positions(&self) -> Result<Vec<(Kind, Position)>, StoreError> {
        let rows = sqlx::query!("SELECT name, epoch, top FROM streams WHERE name LIKE 'entities.%' ORDER BY name")
            .fetch_all(self.database.pool())
            .await
            .map_err(store_error("reading positions"))?;
        let position = |epoch: &str, top| Position { epoch: Epoch::new(epoch), offset: number(top) };
        let kind = |name: &str| Kind::new(name.strip_prefix("entities.")?).ok();
        Ok(rows.into_iter().filter_map(|row| Some((kind(&row.name)?, position(&row.epoch, row.top)))).collect())
    }

    async fn position(&self, kind: &Kind) -> Result<Option<Position>, StoreError> {
        let stream = kind.stream();
        let row = sqlx::query!("SELECT epoch, top FROM streams WHERE name = $1", stream.as_str())
            .fetch_optional(self.database.pool())
            .await
            .map_err(store_error("reading a position"))?;
        Ok(row.map(|row| Position { epoch: Epoch::new(&row.epoch), offset: number(row.top) }))
    }

    async fn read(&self, kind: &Kind, after: u64, limit: ReadLimit) -> Result<Option<LogSlice>, StoreError> {
        let mut rows = self.rows_after(kind, after, limit).await?;
        if rows.first().is_some_and(|row| self.forget_day(kind, &row.epoch)) {
            rows = self.rows_after(kind, after, limit).await?;
        }
        if let Some(last) = rows.last() {
            self.note_day(kind, last);
        }
        Ok(slice(rows, kind, after, |change| change.offset))
    }

    async fn read_entity(
        &self,
        kind: &Kind,
        key: &IdKey,
        after: u64,
        limit: ReadLimit,
    ) -> Result<Option<LogSlice>, StoreError> {
        let Some(id) = self.resolve(kind, key).await? else {
            // No such entity yet: its channel is empty, and its first revision will be told.
            let position = self.position(kind).await?.map(|position| Position { offset: 0, ..position });
            return Ok(position.map(|position| LogSlice { position, changes: Vec::new(), complete: true }));
        };
        let (count, bytes) = limits(limit);
        let stream = kind.stream();
        let rows = sqlx::query_as!(
            SliceRow,
            r#"SELECT s.epoch, COALESCE(e.revision, 0) AS "top!", c."offset" AS "offset?", c.day AS "day?", c.id AS "id?",
                 c.revision AS "revision?", c.op AS "op?", c.at AS "at?", c.by AS "by?", c.changed AS "changed?", c.doc, c.trace, c.fields
             FROM streams s LEFT JOIN entities e ON e.kind = $2 AND e.id = $3 LEFT JOIN LATERAL (
                 SELECT w.*, (sum(w.size + COALESCE(octet_length(w.fields), 0) + $6::int8) OVER (ORDER BY w.revision))::int8 AS run FROM (
                     SELECT * FROM changes WHERE kind = $2 AND id = $3 AND revision > $4 ORDER BY revision LIMIT $5
                 ) w
             ) c ON c.run <= $7 OR c.run = c.size + COALESCE(octet_length(c.fields), 0) + $6
             WHERE s.name = $1 ORDER BY c.revision"#,
            stream.as_str(),
            kind.as_str(),
            id.as_str(),
            bigint(after),
            count,
            OVERHEAD_BYTES,
            bytes
        )
        .fetch_all(self.database.pool())
        .await
        .map_err(store_error("reading an entity's changes"))?;
        Ok(slice(rows, kind, after, |change| change.revision))
    }

    fn fresh(&self) -> Option<Vec<Kind>> {
        self.recent.fresh()
    }

    fn recent(&self, kind: &Kind, after: &Position, limit: ReadLimit) -> Option<LogSlice> {
        self.recent.after(kind, after, limit)
    }

    async fn renew_epoch(&self, kind: &Kind, old: &Epoch) -> Result<Option<Position>, StoreError> {
        let stream = kind.stream();
        sqlx::query!(
            "UPDATE streams SET epoch = new_epoch() WHERE name = $1 AND epoch = $2",
            stream.as_str(),
            old.as_str()
        )
        .execute(self.database.pool())
        .await
        .map_err(store_error("renewing an epoch"))?;
        self.position(kind).await
    }
}
