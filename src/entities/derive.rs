//! Fields that were declared after there were entities: they are derived from the documents in bounded pages, and filters on
//! them are refused until that is done.
//!
//! Invariants: `derived` names only what every committed row carries. Nodes that declare something else (a rolling restart
//! with another configuration) mark what they write by a stray, in the statements that write it (`rows`); a pass that saw
//! strays is made again. One node works at a time, and another goes on where it stopped.

use std::{future::Future, sync::Arc, time::Duration};

use dzvin_actors::platform::ports::StoreError;
use dzvin_protocols::{entities::filterable, platform::Kind};
use serde_json::value::RawValue;
use sqlx::PgConnection;

use super::{Entities, KindSpec, TURN_BYTES};
use crate::platform::db::store_error;

/// Rows of a page at most: they are locked while it lasts.
const PAGE_ROWS: i64 = 500;
/// Before the first look: what was written by what was declared before is committed by then.
const FIRST_LOOK: Duration = Duration::from_secs(1);
/// Between two looks: nodes with another configuration may come and go.
const EVERY: Duration = Duration::from_secs(30);
/// Between two pages, so that writers of the kind get their turn.
const REST: Duration = Duration::from_millis(10);

/// What a page came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Page {
    /// There is nothing to be done, or another node does it.
    Idle,
    /// Rows were looked at; there may be more.
    More,
    /// Every row carries what is declared.
    Done,
}

impl Entities {
    /// Derives what was declared later, now and whenever there is something, until `stop` is done.
    pub async fn keep_derived(self, stop: impl Future<Output = ()>) {
        let work = async {
            let mut redeclared = self.redeclared();
            tokio::time::sleep(FIRST_LOOK).await;
            loop {
                for spec in self.specs() {
                    if let Err(error) = self.derive(&spec).await {
                        tracing::warn!(kind = %spec.kind, %error, "declared fields are not derived; tried again");
                    }
                }
                redeclared.within(EVERY).await;
            }
        };
        tokio::select! {
            () = stop => {}
            () = work => {}
        }
    }

    /// Derives what is declared of a kind, if it is not.
    ///
    /// # Errors
    /// The database is away; what was done stays done.
    pub async fn derive_kind(&self, kind: &Kind) -> Result<(), StoreError> {
        let Some(spec) = self.spec(kind) else { return Ok(()) };
        self.derive(&spec).await
    }

    async fn derive(&self, spec: &Arc<KindSpec>) -> Result<(), StoreError> {
        loop {
            match self.derive_page(spec).await.map_err(store_error("deriving fields"))? {
                Page::Idle => return Ok(()),
                Page::Done => tracing::info!(kind = %spec.kind, fields = ?spec.fields(), "declared fields are derived"),
                Page::More => tokio::time::sleep(REST).await,
            }
        }
    }

    /// Rows first, then the row that says how far it is: in the order of those who write.
    async fn derive_page(&self, spec: &Arc<KindSpec>) -> Result<Page, sqlx::Error> {
        let mut lent = self.database.lend().await?;
        let mut tx = lent.begin().await?;
        let state = sqlx::query!(
            r#"SELECT strays, pass_after, pass_strays FROM derivations
             WHERE kind = $1 AND declared = $2 AND NOT derived @> declared
                 AND pg_try_advisory_xact_lock(hashtext('derivations ' || kind))"#,
            spec.kind.as_str(),
            &*spec.derives()
        );
        let Some(state) = state.fetch_optional(&mut *tx).await? else { return Ok(Page::Idle) };
        let (after, strays) = match state.pass_strays {
            Some(strays) => (state.pass_after.unwrap_or_default(), strays),
            None => (String::new(), state.strays),
        };
        let reached = derive_rows(&mut tx, spec, &after).await?;
        // At the end, but with new strays: from the beginning, for somewhere there is what they wrote.
        let done = sqlx::query_scalar!(
            r#"UPDATE derivations SET derived = CASE WHEN $3::text IS NULL AND strays = $4 THEN declared ELSE derived END,
                 pass_after = $3, pass_strays = CASE WHEN $3::text IS NOT NULL THEN $4::int8 END
             WHERE kind = $1 AND declared = $2 RETURNING derived @> declared AS "done!""#,
            spec.kind.as_str(),
            &*spec.derives(),
            reached.as_deref(),
            strays
        )
        .fetch_optional(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(match done {
            None => Page::Idle,
            Some(true) => Page::Done,
            Some(false) => Page::More,
        })
    }
}

/// A page of rows behind an id; answers the last of them, or `None` when there was none.
async fn derive_rows(tx: &mut PgConnection, spec: &Arc<KindSpec>, after: &str) -> Result<Option<String>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"SELECT e.id, e.doc FROM (
             SELECT id, doc, sum(size::int8) OVER (ORDER BY id ROWS UNBOUNDED PRECEDING) - size AS before FROM (
                 SELECT id, doc, size FROM entities WHERE kind = $1 AND id > $2 ORDER BY id LIMIT $3 FOR UPDATE
             ) l
         ) e WHERE e.before < $4 ORDER BY e.id"#,
        spec.kind.as_str(),
        after,
        PAGE_ROWS,
        TURN_BYTES as i64
    )
    .fetch_all(&mut *tx)
    .await?;
    let Some(last) = rows.last().map(|row| row.id.clone()) else { return Ok(None) };
    let ours = Arc::clone(spec);
    let derive = move || -> Vec<_> {
        let derived = rows.into_iter().filter_map(|row| {
            let doc = RawValue::from_string(row.doc?).ok()?;
            Some((row.id, filterable(&doc, ours.fields()), ours.vector(doc.get())))
        });
        derived.collect()
    };
    // Megabytes of JSON are not for a thread that serves others.
    let derived = tokio::task::spawn_blocking(derive).await;
    let derived = derived.map_err(|error| sqlx::Error::Io(std::io::Error::other(error)))?;
    let (ids, values, words): (Vec<_>, Vec<_>, Vec<_>) = derived.into_iter().collect();
    sqlx::query!(
        "UPDATE entities e SET fields = i.fields::jsonb, words = i.words::tsvector
         FROM UNNEST($2::text[], $3::text[], $4::text[]) AS i (id, fields, words) WHERE e.kind = $1 AND e.id = i.id
             AND (e.fields <> i.fields::jsonb OR e.words IS DISTINCT FROM i.words::tsvector)",
        spec.kind.as_str(),
        &ids,
        &values,
        &words as &[Option<String>]
    )
    .execute(tx)
    .await?;
    Ok(Some(last))
}
