//! Edits as transactions: conditions, changes and answer belong to the same moment.

use std::{sync::Arc, time::Duration};

use dzvin_actors::platform::ports::StoreError;
use dzvin_protocols::{
    channels::{Epoch, Position},
    platform::Kind,
};
use sqlx::PgConnection;
use tokio::time::{Instant, sleep, timeout};

use super::{
    Author, Entities, EntityRow, Refusal, WriteError,
    edit::{Edit, Expect, Outcome, Refused},
    idempotency::{Answer, Claim, IdempotencyKey, Told, claim, remember},
    log::number,
    op::EntityOp,
    query::{INLINE, read_one},
    write::{MAX_RACES, write_error},
};
use crate::identity::audit::{self, Deed, Who};

/// Longest wait of an edit for its turn: whoever asked has given up by then.
const TURN: Duration = Duration::from_secs(5);
/// From one look to the next whether another request under the same key is done: most take a few milliseconds.
const BUSY: Duration = Duration::from_millis(50);
/// Most edits in one request: small ones are one statement.
pub const MAX_EDITS: usize = 1_000;

/// Why an edit was not done.
#[derive(Debug, thiserror::Error)]
pub enum EditError {
    /// It does not meet its conditions, or does not fit.
    #[error("edit {index} is refused: {refused}")]
    Refused {
        /// Its place among those that were asked for, from 0.
        index: usize,
        /// Why.
        refused: Refused,
    },
    /// Something else was asked for under this key.
    #[error("the idempotency key belongs to another request")]
    KeyReused,
    /// Another request under this key is under way, and takes long.
    #[error("a request under this idempotency key is under way")]
    KeyBusy,
    /// The database is away, or refuses.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Edits {
    /// In their order; the caller sees to it that they are at most [`MAX_EDITS`].
    pub edits: Vec<Edit>,
    /// Whether all are given up with the first that is refused.
    pub atomic: bool,
    /// Under what it may be repeated.
    pub key: Option<IdempotencyKey>,
    /// Who asks, for the audit.
    pub who: Who,
}

/// What came of it.
#[derive(Debug, Clone)]
pub struct Edited {
    /// What each edit came to.
    pub answer: Answer,
    /// Of a single edit that was done, the entity as it stood when it was committed, with its tag; without a document of more than
    /// [`INLINE_DOC_LIMIT`](dzvin_protocols::entities::INLINE_DOC_LIMIT) bytes.
    pub row: Option<(EntityRow, String)>,
    /// Whether this was answered before, and nothing was done now.
    pub replayed: bool,
}

/// Who asks for what.
struct Asked<'a> {
    kind: &'a Kind,
    author: Author<'a>,
    edits: &'a Edits,
}

impl Entities {
    /// Does edits, all in one transaction, and wakes those who wait.
    ///
    /// # Errors
    /// See [`EditError`]. Nothing was changed then, but where the database went away in the middle of the commit: then nobody knows, and
    /// whoever has a key may ask.
    pub async fn edit(&self, kind: &Kind, author: Author<'_>, edits: &Edits) -> Result<Edited, EditError> {
        let until = Instant::now() + TURN;
        loop {
            match self.edit_in_turn(kind, author, edits).await {
                // It holds neither turn nor connection while it waits: those who repeat a slow request must not keep all others waiting.
                Err(EditError::KeyBusy) if Instant::now() < until => sleep(BUSY).await,
                done => return done,
            }
        }
    }

    async fn edit_in_turn(&self, kind: &Kind, author: Author<'_>, edits: &Edits) -> Result<Edited, EditError> {
        let doing = "editing entities";
        let unavailable = |source| StoreError::Unavailable { doing, source };
        let turn = timeout(TURN, self.edits.acquire()).await;
        let _turn =
            turn.map_err(|late| unavailable(Box::new(late)))?.map_err(|closed| unavailable(Box::new(closed)))?;
        let asked = Asked { kind, author, edits };
        for _ in 0..MAX_RACES {
            match self.try_edit(&asked).await {
                Ok(edited) => return edited,
                Err(WriteError::Raced) => drop(self.database.metrics().raced.inc()),
                Err(WriteError::Data(error)) => return Err(StoreError::Unfit { doing, source: Box::new(error) }.into()),
                Err(WriteError::Store(error)) => return Err(error.into()),
            }
        }
        Err(unavailable(Box::new(WriteError::Raced)).into())
    }

    async fn try_edit(&self, asked: &Asked<'_>) -> Result<Result<Edited, EditError>, WriteError> {
        let Asked { kind, author, edits: Edits { edits, atomic, key, who } } = asked;
        let mut lent = self.database.lend().await.map_err(write_error)?;
        let mut tx = lent.begin().await.map_err(write_error)?;
        if let Some(key) = key {
            match claim(&mut tx, author.by, key).await? {
                Claim::Ours => {}
                Claim::Answered(answer) => return Ok(Ok(Edited { answer, row: None, replayed: true })),
                Claim::Reused => return Ok(Err(EditError::KeyReused)),
                Claim::Busy => return Ok(Err(EditError::KeyBusy)),
            }
        }
        let edits = in_epoch(&mut tx, kind, edits).await?;
        let ops: Vec<_> = edits.iter().cloned().map(|edit| EntityOp::Edit(Arc::new(edit))).collect();
        let refusal = if *atomic { Refusal::Stops } else { Refusal::Fails };
        let mut written = self.write(&mut tx, kind, *author, &ops, refusal).await?;
        let came = std::mem::take(&mut written.edits);
        if let Some((index, refused)) = ended_by(&came, edits.len(), *atomic) {
            return Ok(Err(EditError::Refused { index, refused }));
        }
        let position = match written.position.take() {
            Some(position) => position,
            None => position_of(&mut tx, kind).await?,
        };
        // Should the epoch have been renewed since we asked for it: asked again, it tells.
        let of_another =
            |(edit, came): (&Edit, &Result<Outcome, Refused>)| came.is_ok() && !edit.expected.is_of(&position.epoch);
        if edits.iter().zip(&came).any(of_another) {
            return Err(WriteError::Raced);
        }
        let row = match &*edits {
            [only] if came.iter().all(Result::is_ok) => {
                read_one(&mut *tx, kind, &only.id, &[], INLINE).await.map_err(write_error)?.map(Into::into)
            }
            _ => None,
        };
        let items = edits.iter().zip(&came).map(|(edit, came)| Told::of(&edit.id, came)).collect();
        let answer = Answer { items, position };
        let key = key.as_ref().filter(|_| came.iter().any(Result::is_ok));
        if let Some(key) = key {
            remember(&mut tx, author.by, key, &answer).await?;
        }
        if written.applied.changed > 0 {
            let deeds: Vec<Deed> = edits.iter().zip(&came).filter_map(|(edit, came)| deed(kind, edit, came)).collect();
            audit::write(&mut tx, self.database.node(), who, &deeds).await.map_err(write_error)?;
        }
        // What has changed nothing, and need not be remembered, costs no flush.
        if written.applied.changed > 0 || key.is_some() {
            self.seal(tx, kind, &mut written).await?;
        }
        let purged = edits.iter().zip(&came).filter(|(edit, came)| came.is_ok() && edit.action.is_purge()).count();
        if purged > 0 {
            tracing::info!(%kind, by = author.by, purged, "entities were purged");
        }
        Ok(Ok(Edited { answer, row, replayed: false }))
    }
}

/// What is told of an edit that has changed something.
fn deed(kind: &Kind, edit: &Edit, came: &Result<Outcome, Refused>) -> Option<Deed> {
    let done = came.as_ref().ok().filter(|done| done.changed)?;
    let action = edit.action.told(done.created);
    let (object, status) = (format!("{kind}/{}", edit.id), if done.created { 201 } else { 200 });
    Some(Deed { action, object, status, revision: Some(done.revision) })
}

/// Where, and why, nothing is to be done at all.
fn ended_by(came: &[Result<Outcome, Refused>], asked: usize, atomic: bool) -> Option<(usize, Refused)> {
    let refused = came.iter().enumerate().find_map(|(index, came)| Some((index, came.as_ref().err()?.clone())));
    let unread = || (came.len() < asked).then_some((came.len(), Refused::TooMuch));
    refused.filter(|_| atomic).or_else(unread)
}

/// The edits without the revisions that were seen in another epoch: the same number may be another content.
async fn in_epoch(tx: &mut PgConnection, kind: &Kind, edits: &[Edit]) -> Result<Vec<Edit>, WriteError> {
    let mut edits = edits.to_vec();
    let named = |edit: &Edit| matches!(&edit.expected, Expect::OneOf(all) if all.iter().any(|it| it.epoch.is_some()));
    if !edits.iter().any(named) {
        return Ok(edits);
    }
    let epoch = position_of(tx, kind).await?.epoch;
    for edit in &mut edits {
        if let Expect::OneOf(expected) = &mut edit.expected {
            expected.retain(|it| it.epoch.as_ref().is_none_or(|it| *it == epoch));
        }
    }
    Ok(edits)
}

async fn position_of(tx: &mut PgConnection, kind: &Kind) -> Result<Position, WriteError> {
    let stream = kind.stream();
    let row = sqlx::query!("SELECT epoch, top FROM streams WHERE name = $1", stream.as_str());
    let row = row.fetch_one(tx).await.map_err(write_error)?;
    Ok(Position { epoch: Epoch::new(&row.epoch), offset: number(row.top) })
}
