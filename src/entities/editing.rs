//! Edits as transactions: conditions, changes and answer belong to the same moment.

use std::{sync::Arc, time::Duration};

use dzvin_actors::platform::ports::StoreError;
use dzvin_protocols::{
    channels::{Epoch, Position},
    entities::{Change, Op},
    platform::Kind,
};
use sqlx::PgConnection;
use tokio::time::{Instant, sleep, timeout};

use super::{
    Author, Entities, EntityRow, Refusal, WriteError,
    edit::{Edit, Expect, Outcome, Refused, Signature},
    idempotency::{Answer, Claim, IdempotencyKey, Told, claim, remember},
    log::{bigint, number},
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
/// Most edits of several people in one transaction: the last of them waits for all.
pub(super) const MAX_TOGETHER: usize = 64;

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

/// What is done in one transaction.
pub(super) struct Run<'a> {
    pub(super) kind: &'a Kind,
    pub(super) author: Author<'a>,
    pub(super) edits: &'a [Edit],
    /// Who asks for each; where there is one, for all of them.
    pub(super) who: &'a [Who],
    pub(super) atomic: bool,
    pub(super) key: Option<&'a IdempotencyKey>,
    /// Whether somebody wants to see the entities as they are then; up to [`MAX_TOGETHER`].
    pub(super) shows: bool,
}

/// What came of a run.
pub(super) struct Ran {
    pub(super) answer: Answer,
    /// Of each edit, the refusal in full, where it is one.
    pub(super) came: Vec<Result<Outcome, Refused>>,
    /// Of each edit that was done, where somebody wants to see it, the entity as it is then, with its tag.
    pub(super) rows: Vec<Option<(EntityRow, String)>>,
    pub(super) replayed: bool,
}

impl Ran {
    fn replayed(answer: Answer) -> Self {
        Self { answer, came: Vec::new(), rows: Vec::new(), replayed: true }
    }
}

impl Entities {
    /// Does edits, all in one transaction, and wakes those who wait. One by itself may share the transaction with those of others.
    ///
    /// # Errors
    /// See [`EditError`]. Nothing was changed then, but where the database went away in the middle of the commit, or did not come to its end in
    /// time: then nobody knows, and whoever has a key may ask.
    pub async fn edit(&self, kind: &Kind, author: Author<'_>, edits: &Edits) -> Result<Edited, EditError> {
        if let (None, [edit], true) = (&edits.key, &*edits.edits, edits.atomic) {
            let by = Signature { by: author.by.into(), trace: author.trace.map(Into::into) };
            return self.edit_together(kind, Edit { by: Some(by), ..edit.clone() }, edits.who.clone()).await;
        }
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
        let Edits { edits, atomic, key, who } = edits;
        let (key, who) = (key.as_ref(), std::slice::from_ref(who));
        let (atomic, shows) = (*atomic, edits.len() == 1);
        let ran = self.run_in_turn(&Run { kind, author, edits, who, atomic, key, shows }).await?;
        Ok(Edited { answer: ran.answer, row: ran.rows.into_iter().next().flatten(), replayed: ran.replayed })
    }

    /// Runs edits when it is their turn, and again where somebody came between.
    pub(super) async fn run_in_turn(&self, run: &Run<'_>) -> Result<Ran, EditError> {
        let doing = "editing entities";
        let unavailable = |source| StoreError::Unavailable { doing, source };
        let turn = timeout(TURN, self.edits.acquire()).await;
        let _turn =
            turn.map_err(|late| unavailable(Box::new(late)))?.map_err(|closed| unavailable(Box::new(closed)))?;
        for _ in 0..MAX_RACES {
            match self.try_run(run).await {
                Ok(ran) => return ran,
                Err(WriteError::Raced) => drop(self.database.metrics().raced.inc()),
                Err(WriteError::Redeclared) => self.refresh_kinds().await?,
                Err(WriteError::Data(error)) => return Err(StoreError::Unfit { doing, source: Box::new(error) }.into()),
                Err(WriteError::Store(error)) => return Err(error.into()),
            }
        }
        Err(unavailable(Box::new(WriteError::Raced)).into())
    }

    async fn try_run(&self, run: &Run<'_>) -> Result<Result<Ran, EditError>, WriteError> {
        let Run { kind, author, edits, who, atomic, key, shows } = run;
        let mut lent = self.database.lend().await.map_err(write_error)?;
        let mut tx = lent.begin().await.map_err(write_error)?;
        if let Some(key) = key {
            match claim(&mut tx, author.by, key).await? {
                Claim::Ours => {}
                Claim::Answered(answer) => return Ok(Ok(Ran::replayed(answer))),
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
        let told = std::mem::take(&mut written.rows);
        let rows = if *shows { rows(&mut tx, kind, &edits, &came, told).await? } else { Vec::new() };
        let items = edits.iter().zip(&came).map(|(edit, came)| Told::of(&edit.id, came)).collect();
        let answer = Answer { items, position };
        let key = key.filter(|_| came.iter().any(Result::is_ok));
        if let Some(key) = key {
            remember(&mut tx, author.by, key, &answer).await?;
        }
        if written.applied.changed > 0 {
            self.tell(&mut tx, kind, &edits, &came, who).await?;
        }
        // What has changed nothing, and need not be remembered, costs no flush.
        if written.applied.changed > 0 || key.is_some() {
            self.seal(tx, kind, &mut written).await?;
        }
        let purged = edits.iter().zip(&came).filter(|(edit, came)| came.is_ok() && edit.action.is_purge()).count();
        if purged > 0 {
            tracing::info!(%kind, by = who.first().map(|who| &*who.user), purged, "entities were purged");
        }
        Ok(Ok(Ran { answer, came, rows, replayed: false }))
    }

    /// Tells the audit what was done, by whom.
    async fn tell(
        &self,
        tx: &mut PgConnection,
        kind: &Kind,
        edits: &[Edit],
        came: &[Result<Outcome, Refused>],
        who: &[Who],
    ) -> Result<(), WriteError> {
        let asked = |n: usize| who.get(n).or(who.last());
        let done = edits.iter().zip(came).enumerate();
        let done: Vec<_> = done.filter_map(|(n, (edit, came))| Some((asked(n)?, deed(kind, edit, came)?))).collect();
        let all: Vec<_> = done.iter().map(|(who, deed)| (*who, deed)).collect();
        audit::write_of_each(tx, self.database.node(), &all).await.map_err(write_error)
    }
}

/// The entities as they are after edits: those that are not told by their change alone are read.
async fn rows(
    tx: &mut PgConnection,
    kind: &Kind,
    edits: &[Edit],
    came: &[Result<Outcome, Refused>],
    mut rows: Vec<Option<(EntityRow, String)>>,
) -> Result<Vec<Option<(EntityRow, String)>>, WriteError> {
    for ((edit, came), row) in edits.iter().zip(came).zip(&mut rows) {
        if let (Ok(done), None) = (came, &row) {
            let found = read_one(&mut *tx, kind, &edit.id, &[], INLINE).await.map_err(write_error)?;
            // Behind it another's edit may have come, whose outcome is not for this writer's eyes.
            *row = found.map(Into::into).filter(|(row, _): &(EntityRow, String)| row.revision == done.revision);
        }
    }
    Ok(rows)
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

/// Of each edit that has changed something the entity as a reader would find it then, where nothing has to be looked up for that: a statement
/// less while the writers of the kind wait.
pub(super) fn as_they_are(
    epoch: &Epoch,
    came: &[Result<Outcome, Refused>],
    changes: &[Change],
    sizes: &[Option<usize>],
) -> Vec<Option<(EntityRow, String)>> {
    // Each has made one, in their order.
    let mut made = changes.iter().zip(sizes);
    let row = |came: &Result<Outcome, Refused>| {
        came.as_ref().ok().filter(|done| done.changed)?;
        let (change, size) = made.next()?;
        as_it_is(epoch, change, (*size)?)
    };
    came.iter().map(row).collect()
}

fn as_it_is(epoch: &Epoch, change: &Change, size: usize) -> Option<(EntityRow, String)> {
    let (revision, offset) = (bigint(change.revision), bigint(change.offset));
    let row = EntityRow {
        id: change.id.to_string(),
        revision,
        offset,
        op: change.op.as_str().to_owned(),
        at: change.at,
        by: change.by.to_string(),
        version: None,
        trashed_at: (change.op == Op::Trash).then_some(change.at),
        missing_since: None,
        purged: change.op == Op::Purge,
        size: i32::try_from(size).ok()?,
        doc: change.doc.as_ref().map(|doc| doc.get().to_owned()),
    };
    Some((row, format!("{epoch}.{revision}.{NO_VERSION}")))
}

/// What stands in a tag for a version that is not there: the beginning of an MD5 of nothing, as the database makes it of one.
const NO_VERSION: &str = "d41d8cd9";

async fn position_of(tx: &mut PgConnection, kind: &Kind) -> Result<Position, WriteError> {
    let stream = kind.stream();
    let row = sqlx::query!("SELECT epoch, top FROM streams WHERE name = $1", stream.as_str());
    let row = row.fetch_one(tx).await.map_err(write_error)?;
    Ok(Position { epoch: Epoch::new(&row.epoch), offset: number(row.top) })
}
