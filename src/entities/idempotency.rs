//! Requests that are repeated: under an `Idempotency-Key` a change is made once, and told again to whoever asks again.
//!
//! Invariants: key and change are committed together; of two requests under one key one waits for the other; where everything was refused
//! nothing is remembered, so the repetition is judged anew. Of documents nothing is kept: whoever repeats sees the entity as it is now.

use std::time::Duration;

use dzvin_actors::platform::ports::StoreError;
use dzvin_protocols::{channels::Position, platform::EntityId};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;

use super::{
    Entities, Violation,
    edit::{Outcome, Refused},
    write::{WriteError, write_error},
};
use crate::platform::db::store_error;

/// Longest key: a UUID has 36 characters, some hash what they send.
pub const MAX_IDEMPOTENCY_KEY: usize = 255;
/// How long an answer is remembered: whoever repeats after a day has lost more than an answer.
const REMEMBERED: Duration = Duration::from_secs(24 * 3600);
/// Forgotten at a time, so that no statement takes long.
const SWEEP_ROWS: i64 = 10_000;

/// Under what a change is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdempotencyKey {
    /// The client's word; of its user alone.
    pub key: String,
    /// SHA-256 of the request.
    pub fingerprint: [u8; 32],
}

/// What a request came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// One for each edit, in their order.
    pub items: Vec<Told>,
    /// The stream's position behind them.
    pub position: Position,
}

/// What one edit came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// The entity.
    pub id: EntityId,
    /// Its revision: behind the edit, or, where that is why it was refused, the one that is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<u64>,
    /// Whether it was not there before.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub created: bool,
    /// Why it was not done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<ToldRefusal>,
}

/// Why an edit was not done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToldRefusal {
    /// As [`Refused::code`].
    pub code: String,
    /// For people. It may name members of the document, so it is not remembered.
    #[serde(skip)]
    pub detail: String,
    /// What breaks the schema. Not remembered either.
    #[serde(skip)]
    pub errors: Vec<Violation>,
}

impl Told {
    /// What an edit of this entity came to.
    #[must_use]
    pub fn of(id: &EntityId, came: &Result<Outcome, Refused>) -> Self {
        let id = id.clone();
        match came {
            Ok(done) => Self { id, revision: Some(done.revision.unsigned_abs()), created: done.created, refused: None },
            Err(refused) => {
                let errors = refused.violations().to_vec();
                let told = ToldRefusal { code: refused.code().to_owned(), detail: refused.to_string(), errors };
                Self { id, revision: refused.revision(), created: false, refused: Some(told) }
            }
        }
    }
}

/// Whose turn a request under a key is.
pub(super) enum Claim {
    /// Nobody asked before.
    Ours,
    /// The same was asked, and answered.
    Answered(Answer),
    /// Something else was asked under this key.
    Reused,
    /// Another transaction has it.
    Busy,
}

/// Takes the key for this transaction.
pub(super) async fn claim(tx: &mut PgConnection, user: &str, key: &IdempotencyKey) -> Result<Claim, WriteError> {
    // A row that another transaction inserts would be waited for, on a connection.
    let free = sqlx::query_scalar!(
        r#"SELECT pg_try_advisory_xact_lock(hashtextextended($1, hashtextextended($2, 0))) AS "free!""#,
        user,
        key.key
    );
    if !free.fetch_one(&mut *tx).await.map_err(write_error)? {
        return Ok(Claim::Busy);
    }
    let taken = sqlx::query!(
        r#"INSERT INTO idempotency_keys ("user", key, fingerprint) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING"#,
        user,
        key.key,
        &key.fingerprint[..]
    );
    if taken.execute(&mut *tx).await.map_err(write_error)?.rows_affected() == 1 {
        return Ok(Claim::Ours);
    }
    let known = sqlx::query!(
        r#"SELECT fingerprint, answer FROM idempotency_keys WHERE "user" = $1 AND key = $2"#,
        user,
        key.key
    );
    let Some(known) = known.fetch_optional(tx).await.map_err(write_error)? else {
        // Forgotten in this moment.
        return Err(WriteError::Raced);
    };
    if known.fingerprint != key.fingerprint {
        return Ok(Claim::Reused);
    }
    let answer = known.answer.as_deref().and_then(|answer| serde_json::from_str(answer).ok());
    answer.map(Claim::Answered).ok_or_else(|| {
        let source = "an answer under an idempotency key cannot be read".into();
        StoreError::Refused { doing: "repeating an answer", source }.into()
    })
}

/// Keeps the answer, to be committed with what it tells.
pub(super) async fn remember(
    tx: &mut PgConnection,
    user: &str,
    key: &IdempotencyKey,
    answer: &Answer,
) -> Result<(), WriteError> {
    // Ids, numbers and texts: this cannot fail.
    let answer = serde_json::to_string(answer).unwrap_or_default();
    sqlx::query!(r#"UPDATE idempotency_keys SET answer = $3 WHERE "user" = $1 AND key = $2"#, user, key.key, answer)
        .execute(tx)
        .await
        .map_err(write_error)?;
    Ok(())
}

impl Entities {
    /// Forgets answers that nobody asks for again; answers how many.
    ///
    /// # Errors
    /// The database is away.
    pub async fn forget_answers(&self) -> Result<u64, StoreError> {
        let mut forgotten = 0;
        loop {
            let done = sqlx::query!(
                r#"DELETE FROM idempotency_keys WHERE ("user", key) IN (
                     SELECT "user", key FROM idempotency_keys WHERE at < now() - make_interval(secs => $1) ORDER BY at LIMIT $2)"#,
                REMEMBERED.as_secs_f64(),
                SWEEP_ROWS
            )
            .execute(self.database.pool())
            .await
            .map_err(store_error("forgetting answers"))?;
            forgotten += done.rows_affected();
            if done.rows_affected() < SWEEP_ROWS.unsigned_abs() {
                return Ok(forgotten);
            }
        }
    }
}
