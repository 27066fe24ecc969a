//! The trash is emptied of what has been there for longer than its kind keeps it: purged, as by hand.
//!
//! Invariants: nothing is purged that was restored meanwhile, for each purge names the revision that was seen in the trash; nodes that
//! do it at once do it once. A few at a time, so writers of the kind get their turn.

use std::{sync::Arc, time::Duration};

use dzvin_actors::platform::ports::StoreError;
use dzvin_protocols::platform::{EntityId, Kind};
use time::OffsetDateTime;

use super::{Author, Edit, EditAction, EditError, Edits, Entities, Expect, Expected, KindSpec, Sees, Source};
use crate::platform::db::store_error;

/// Who purges, in histories.
pub const RETENTION: &str = "system:retention";
/// Purged in one transaction.
const AT_ONCE: i64 = 100;
/// Between two transactions.
const REST: Duration = Duration::from_millis(50);

impl Entities {
    /// Purges what has been in the trash for longer than its kind keeps it, as of `now`; answers how many that were.
    ///
    /// # Errors
    /// The database is away; what was done stays done.
    pub async fn empty_trash(&self, now: OffsetDateTime) -> Result<usize, StoreError> {
        let mut purged = 0;
        for (kind, kept) in self.specs().iter().filter_map(|spec| Some((&spec.kind, kept(spec)?))) {
            loop {
                let found = self.trashed_before(kind, now - kept).await?;
                let full = found.len() as i64 == AT_ONCE;
                let done = if found.is_empty() { 0 } else { self.purge(kind, found).await? };
                purged += done;
                // Where nothing could be done the next look may find the same.
                if !full || done == 0 {
                    break;
                }
                tokio::time::sleep(REST).await;
            }
        }
        Ok(purged)
    }

    async fn trashed_before(&self, kind: &Kind, before: OffsetDateTime) -> Result<Vec<(EntityId, i64)>, StoreError> {
        let rows = sqlx::query!(
            r#"SELECT id, revision FROM entities
             WHERE kind = $1 AND trashed_at IS NOT NULL AND trashed_at < $2 AND doc IS NOT NULL ORDER BY "offset" LIMIT $3"#,
            kind.as_str(),
            before,
            AT_ONCE
        );
        let rows = rows.fetch_all(self.database.pool()).await.map_err(store_error("looking into the trash"))?;
        Ok(rows.into_iter().filter_map(|row| Some((EntityId::new(&row.id).ok()?, row.revision))).collect())
    }

    async fn purge(&self, kind: &Kind, found: Vec<(EntityId, i64)>) -> Result<usize, StoreError> {
        let sees = Arc::new(Sees::default());
        let edit = |(id, revision)| {
            let expected = Expect::OneOf(vec![Expected { revision, epoch: None }]);
            Edit { id, action: EditAction::Purge, expected, sees: Arc::clone(&sees), by: None }
        };
        let edits =
            Edits { edits: found.into_iter().map(edit).collect(), atomic: false, key: None, who: RETENTION.into() };
        match self.edit(kind, Author { by: RETENTION, trace: None }, &edits).await {
            Ok(edited) => Ok(edited.answer.items.iter().filter(|told| told.refused.is_none()).count()),
            Err(EditError::Store(error)) => Err(error),
            // Each by itself and without a key: nothing refuses all of them.
            Err(EditError::Refused { .. } | EditError::KeyReused | EditError::KeyBusy) => Ok(0),
        }
    }
}

/// How long a kind keeps its trash; `None`: for good.
fn kept(spec: &KindSpec) -> Option<Duration> {
    let kept = spec.declaration.trash_retention;
    (spec.source == Source::Local && !kept.is_zero()).then_some(kept)
}
