//! One edit as a transaction: conditions, change and answer belong to the same moment.

use std::{sync::Arc, time::Duration};

use dzvin_actors::platform::ports::StoreError;
use dzvin_protocols::{
    channels::{Epoch, Position},
    platform::Kind,
};
use sqlx::PgConnection;
use tokio::time::timeout;

use super::{
    Author, Entities, EntityRow, Refusal, WriteError,
    edit::{Edit, EditAction, Expect, Refused},
    fold::EntityOp,
    log::number,
    query::{INLINE, read_one},
    write::{MAX_RACES, write_error},
};

/// Longest wait of an edit for its turn: whoever asked has given up by then.
const TURN: Duration = Duration::from_secs(5);

/// Why an edit was not done.
#[derive(Debug, thiserror::Error)]
pub enum EditError {
    /// It does not meet its conditions, or does not fit.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The database is away, or refuses.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// An entity after an edit.
#[derive(Debug, Clone)]
pub struct Edited {
    /// The entity, as it stood when the edit was committed; without a document of more than
    /// [`INLINE_DOC_LIMIT`](dzvin_protocols::entities::INLINE_DOC_LIMIT) bytes.
    pub row: EntityRow,
    /// Its tag.
    pub tag: String,
    /// The position of its last change.
    pub position: Position,
    /// Whether it was not there before.
    pub created: bool,
}

impl Entities {
    /// Does an edit, in a transaction of its own, and wakes those who wait.
    ///
    /// # Errors
    /// See [`EditError`]. Nothing was changed then, but where the database went away in the middle of the commit: then nobody knows.
    pub async fn edit(&self, kind: &Kind, author: Author<'_>, edit: Edit) -> Result<Edited, EditError> {
        let doing = "editing an entity";
        let unavailable = |source| StoreError::Unavailable { doing, source };
        let turn = timeout(TURN, self.edits.acquire()).await;
        let _turn =
            turn.map_err(|late| unavailable(Box::new(late)))?.map_err(|closed| unavailable(Box::new(closed)))?;
        for _ in 0..MAX_RACES {
            match self.try_edit(kind, author, &edit).await {
                Ok(edited) => return Ok(edited),
                Err(WriteError::Raced) => drop(self.database.metrics().raced.inc()),
                Err(WriteError::Edit(refused)) => return Err(refused.into()),
                Err(WriteError::Data(error)) => return Err(StoreError::Unfit { doing, source: Box::new(error) }.into()),
                Err(WriteError::Store(error)) => return Err(error.into()),
            }
        }
        Err(unavailable(Box::new(WriteError::Raced)).into())
    }

    async fn try_edit(&self, kind: &Kind, author: Author<'_>, edit: &Edit) -> Result<Edited, WriteError> {
        let mut lent = self.database.lend().await.map_err(write_error)?;
        let mut tx = lent.begin().await.map_err(write_error)?;
        let edit = in_epoch(&mut tx, kind, edit).await?;
        let (id, expected, purges) = (edit.id.clone(), edit.expected.clone(), matches!(edit.action, EditAction::Purge));
        let ops = [EntityOp::Edit(Arc::new(edit))];
        let mut written = self.write(&mut tx, kind, author, &ops, Refusal::Fails).await?;
        let found = read_one(&mut *tx, kind, &id, &[], INLINE).await.map_err(write_error)?;
        let (row, tag): (EntityRow, String) = found.map(Into::into).ok_or(Refused::Absent)?;
        let epoch = Epoch::new(tag.split('.').next().unwrap_or_default());
        if !expected.is_of(&epoch) {
            // The epoch was renewed since we asked for it: asked again, it tells.
            return Err(WriteError::Raced);
        }
        if written.applied.changed > 0 {
            self.notify(&mut tx).await?;
            let committing = self.committing();
            tx.commit().await.map_err(write_error)?;
            committing.done(kind, std::mem::take(&mut written.logged));
        } else {
            tx.rollback().await.map_err(write_error)?;
        }
        if purges {
            tracing::info!(%kind, by = author.by, "an entity was purged");
        }
        let position = Position { epoch, offset: number(row.offset) };
        Ok(Edited { row, tag, position, created: written.created > 0 })
    }
}

/// The edit without the revisions that were seen in another epoch: the same number may be another content.
async fn in_epoch(tx: &mut PgConnection, kind: &Kind, edit: &Edit) -> Result<Edit, WriteError> {
    let mut edit = edit.clone();
    let Expect::OneOf(expected) = &mut edit.expected else { return Ok(edit) };
    if expected.iter().all(|it| it.epoch.is_none()) {
        return Ok(edit);
    }
    let stream = kind.stream();
    let epoch = sqlx::query_scalar!("SELECT epoch FROM streams WHERE name = $1", stream.as_str())
        .fetch_optional(tx)
        .await
        .map_err(write_error)?;
    let epoch = epoch.as_deref().map(Epoch::new);
    expected.retain(|it| it.epoch.is_none() || it.epoch == epoch);
    Ok(edit)
}
