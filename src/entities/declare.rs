//! Kinds declared over the API: what the entities that are there say to it, and how it comes into force on every node.
//!
//! Invariants: what is stored when a declaration comes into force fits it, unless whoever declares insists; nobody writes by an earlier
//! one afterwards: the row that orders the writers of the kind carries the version, and is held from the last look at the entities to the
//! commit. What a configuration declares is the configuration's.
//!
//! Not here: what a schema means (`schema`), and how nodes hear of it (`listener`).

use std::{sync::Arc, time::Duration};

use dzvin_actors::platform::ports::StoreError;
use dzvin_protocols::{
    entities::{Declaration, DeclarationError},
    platform::Kind,
};
use sqlx::{PgConnection, PgExecutor, Postgres, Transaction};
use tokio::time::Instant;

use super::{
    Entities, KindSpec, NOTIFY_CHANNEL, TURN_BYTES, Violation,
    kinds::{KindRow, MAX_KINDS, Origin, Source, derives, json, make_stream},
    log::{bigint, number},
    schema::{Schema, SchemaError},
};
use crate::{
    identity::audit::{self, Deed, Who},
    platform::db::store_error,
};

/// Most entities that are named of those that do not fit.
const MAX_EXAMPLES: usize = 20;
/// Entities that are looked at in one step.
const PAGE_ROWS: i64 = 500;
/// Entities, and bytes of them, that are looked at while all writers of the kind wait: some milliseconds.
const HELD: (i64, i64) = (50, 1024 * 1024);
/// What nodes tell each other when a kind was declared: no node is called so.
pub(super) const DECLARED: &str = "declared ";
const DOING: &str = "declaring a kind";

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Declaring {
    /// Of which kind.
    pub kind: Kind,
    /// What.
    pub declaration: Declaration,
    /// The version that was seen; 0: that there is none. `None`: whatever is there.
    pub expected: Option<u64>,
    /// Whether entities that do not fit may stay as they are.
    pub force: bool,
    /// How long the entities that are there may be looked at.
    pub within: Duration,
}

/// What the entities that are there say to a declaration.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct Examined {
    /// So many were looked at.
    pub checked: u64,
    /// So many of them do not fit.
    pub unfit: u64,
    /// The first of those.
    pub examples: Vec<Unfitting>,
    /// Fields that are derived in the background afterwards; until then nothing is filtered by them.
    pub derives: Vec<String>,
    /// Fields by which lists are sorted when their indexes are made.
    pub indexes: Vec<String>,
}

/// An entity that does not fit.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Unfitting {
    /// Which.
    pub id: String,
    /// Why.
    pub errors: Vec<Violation>,
}

/// What came of it.
#[derive(Debug, Clone)]
pub struct Declared {
    /// The version that is in force now.
    pub version: u64,
    /// Whether it is another one.
    pub changed: bool,
}

/// Why a kind is not declared.
#[derive(Debug, thiserror::Error)]
pub enum DeclareError {
    /// The nodes' configuration declares it, or a Mirror feeds it.
    #[error("the kind is declared in the configuration: change it there")]
    Configured,
    /// Another version is in force.
    #[error("somebody else declared the kind: its version is {0} now")]
    Version(u64),
    /// There are enough.
    #[error("there are {MAX_KINDS} kinds already")]
    TooMany,
    /// It breaks a limit, or does not hold together.
    #[error(transparent)]
    Declaration(#[from] DeclarationError),
    /// Its schema is none.
    #[error("schema: {0}")]
    Schema(#[from] SchemaError),
    /// It does not fit what is there.
    #[error("{} of {} entities do not fit", .0.unfit, .0.checked)]
    Unfit(Box<Examined>),
    /// There are more entities than could be looked at in time.
    #[error("only {0} entities could be looked at in time")]
    Slow(u64),
    /// The database is away, or refuses.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Entities {
    /// What would come of a declaration; nothing is changed.
    ///
    /// # Errors
    /// See [`DeclareError`].
    pub async fn examine(&self, asked: &Declaring) -> Result<Examined, DeclareError> {
        let spec = self.judged(asked).await?;
        let row = self.declared(asked).await?;
        Ok(self.look(&spec, row.as_ref(), Instant::now() + asked.within).await?.0)
    }

    /// Declares a kind, of all nodes.
    ///
    /// # Errors
    /// See [`DeclareError`]. Nothing was declared then.
    pub async fn declare(&self, asked: &Declaring, who: &Who) -> Result<Declared, DeclareError> {
        let spec = self.judged(asked).await?;
        let row = self.declared(asked).await?;
        if let Some(row) = row.as_ref().filter(|row| is_the_same(row, &spec)) {
            return Ok(Declared { version: row.version, changed: false });
        }
        let until = Instant::now() + asked.within;
        let (mut examined, mut top) = self.look(&spec, row.as_ref(), until).await?;
        loop {
            if examined.unfit > 0 && !asked.force {
                return Err(DeclareError::Unfit(Box::new(examined)));
            }
            let mut lent = self.database().lend().await.map_err(store_error(DOING))?;
            let mut tx = lent.begin().await.map_err(store_error(DOING))?;
            hold(&mut tx, &spec.kind).await.map_err(store_error(DOING))?;
            if self.look_behind(&mut tx, &spec, top, &mut examined).await? {
                // More was written than is looked at while all writers wait: once more, without holding them.
                drop(tx);
                if Instant::now() > until {
                    return Err(DeclareError::Slow(examined.checked));
                }
                top = self.catch_up(&spec, top, until, &mut examined).await?;
                continue;
            }
            if examined.unfit > 0 && !asked.force {
                return Err(DeclareError::Unfit(Box::new(examined)));
            }
            let version = self.commit_declaration(tx, &spec, row.as_ref().map_or(0, |row| row.version), who).await?;
            tracing::info!(kind = %spec.kind, version, by = &*who.user, "a kind was declared");
            self.take_kinds(vec![Arc::new(KindSpec { version: Some(bigint(version)), ..spec })]);
            return Ok(Declared { version, changed: true });
        }
    }

    /// The versions of a kind's declaration, newest first, below one.
    ///
    /// # Errors
    /// The database is away.
    pub async fn declarations(&self, kind: &Kind, before: Option<u64>, limit: u16) -> Result<Vec<Version>, StoreError> {
        sqlx::query_as!(
            Version,
            r#"SELECT version, at, by, declaration::text AS "declaration!" FROM declarations
             WHERE kind = $1 AND version < $2 ORDER BY version DESC LIMIT $3"#,
            kind.as_str(),
            before.map_or(i64::MAX, bigint),
            i64::from(limit)
        )
        .fetch_all(self.database().pool())
        .await
        .map_err(store_error("reading declarations"))
    }

    /// The kind as it would be.
    async fn judged(&self, asked: &Declaring) -> Result<KindSpec, DeclareError> {
        let Declaring { kind, declaration, .. } = asked.clone();
        declaration.check()?;
        let unknown = |to: &&Kind| **to != kind && self.spec(to).is_none();
        if let Some(to) = declaration.references.values().find(unknown) {
            let what = format!("there is no kind {to}");
            return Err(DeclarationError { member: "references", what }.into());
        }
        // Patterns are compiled, and a schema may hold many.
        let read = tokio::task::spawn_blocking(move || KindSpec::new(kind, Source::Local, declaration)).await;
        let gone = |error| StoreError::Unfit { doing: DOING, source: Box::new(error) };
        Ok(read.map_err(gone)??)
    }

    /// What is in force, where whoever asks may change it.
    async fn declared(&self, asked: &Declaring) -> Result<Option<KindRow>, DeclareError> {
        if self.spec(&asked.kind).is_some_and(|spec| spec.version.is_none()) {
            return Err(DeclareError::Configured);
        }
        let row = self.kind(&asked.kind).await?;
        // Other nodes may have it, or its Mirror may come back: whoever knows better insists.
        let taken = |row: &KindRow| {
            row.source == Source::Mirrored.as_str() || (row.origin == Origin::Configuration && !asked.force)
        };
        if row.as_ref().is_some_and(taken) {
            return Err(DeclareError::Configured);
        }
        let version = row.as_ref().map_or(0, |row| row.version);
        match asked.expected {
            Some(expected) if expected != version => Err(DeclareError::Version(version)),
            _ => Ok(row),
        }
    }

    /// Looks at all entities of the kind; answers the offset up to which they were seen, too.
    async fn look(
        &self,
        spec: &KindSpec,
        row: Option<&KindRow>,
        until: Instant,
    ) -> Result<(Examined, u64), DeclareError> {
        let (mut examined, top) = (Examined::of(spec, row), self.top(&spec.kind).await?);
        let Some(schema) = spec.schema.as_ref().filter(|_| row.is_some()) else { return Ok((examined, top)) };
        let mut after = String::new();
        loop {
            let rows = sqlx::query!(
                r#"SELECT e.id AS "id!", e.doc AS "doc!" FROM (
                     SELECT id, doc, sum(size::int8) OVER (ORDER BY id ROWS UNBOUNDED PRECEDING) - size AS before FROM (
                         SELECT id, doc, size FROM entities WHERE kind = $1 AND id > $2 AND doc IS NOT NULL ORDER BY id LIMIT $3
                     ) l
                 ) e WHERE e.before < $4 ORDER BY e.id"#,
                spec.kind.as_str(),
                after,
                PAGE_ROWS,
                TURN_BYTES as i64
            );
            let rows = rows.fetch_all(self.for_readers().database().pool()).await.map_err(store_error(DOING))?;
            let Some(last) = rows.last() else { return Ok((examined, top)) };
            after.clone_from(&last.id);
            examined.judge(schema, rows.into_iter().map(|row| (row.id, row.doc)).collect()).await?;
            if Instant::now() > until {
                return Err(DeclareError::Slow(examined.checked));
            }
        }
    }

    async fn top(&self, kind: &Kind) -> Result<u64, StoreError> {
        let stream = kind.stream();
        let top = sqlx::query_scalar!("SELECT top FROM streams WHERE name = $1", stream.as_str());
        let top = top.fetch_optional(self.database().pool()).await.map_err(store_error(DOING))?;
        Ok(top.map_or(0, number))
    }

    /// Looks at what was written since, while nobody writes; answers whether that is too much.
    async fn look_behind(
        &self,
        tx: &mut PgConnection,
        spec: &KindSpec,
        top: u64,
        examined: &mut Examined,
    ) -> Result<bool, DeclareError> {
        let Some(schema) = &spec.schema else { return Ok(false) };
        let rows = written(&mut *tx, &spec.kind, top, HELD).await.map_err(store_error(DOING))?;
        if is_more(&rows, HELD) {
            return Ok(true);
        }
        examined.judge(schema, rows.into_iter().map(|(_, id, doc)| (id, doc)).collect()).await?;
        Ok(false)
    }

    /// The same without holding anybody, until little is left; answers up to where.
    async fn catch_up(
        &self,
        spec: &KindSpec,
        mut top: u64,
        until: Instant,
        examined: &mut Examined,
    ) -> Result<u64, DeclareError> {
        let Some(schema) = &spec.schema else { return Ok(top) };
        loop {
            let page = (PAGE_ROWS, TURN_BYTES as i64);
            let rows = written(self.database().pool(), &spec.kind, top, page).await.map_err(store_error(DOING))?;
            let Some((last, ..)) = rows.last() else { return Ok(top) };
            top = number(*last);
            let few = !is_more(&rows, HELD);
            examined.judge(schema, rows.into_iter().map(|(_, id, doc)| (id, doc)).collect()).await?;
            if few {
                return Ok(top);
            }
            if Instant::now() > until {
                return Err(DeclareError::Slow(examined.checked));
            }
        }
    }

    async fn commit_declaration(
        &self,
        mut tx: Transaction<'_, Postgres>,
        spec: &KindSpec,
        before: u64,
        who: &Who,
    ) -> Result<u64, DeclareError> {
        let version = put(&mut tx, spec, before, &who.user).await.map_err(store_error(DOING))?;
        let Some(version) = version else { return Err(DeclareError::Version(self.version(&spec.kind).await?)) };
        let kinds = sqlx::query_scalar!(r#"SELECT count(*) AS "count!" FROM kinds"#);
        if kinds.fetch_one(&mut *tx).await.map_err(store_error(DOING))? > MAX_KINDS as i64 {
            return Err(DeclareError::TooMany);
        }
        derives(&mut tx, spec).await.map_err(store_error(DOING))?;
        let status = if before == 0 { 201 } else { 200 };
        let deed = Deed { revision: Some(version), ..Deed::new("kinds.declare", spec.kind.as_str(), status) };
        audit::write(&mut tx, self.database().node(), who, &[deed]).await.map_err(store_error(DOING))?;
        let told = format!("{DECLARED}{}", spec.kind);
        let notice = sqlx::query!("SELECT pg_notify($1, $2)::text AS told", NOTIFY_CHANNEL, told);
        notice.fetch_one(&mut *tx).await.map_err(store_error(DOING))?;
        tx.commit().await.map_err(store_error(DOING))?;
        Ok(number(version))
    }

    async fn version(&self, kind: &Kind) -> Result<u64, StoreError> {
        Ok(self.kind(kind).await?.map_or(0, |row| row.version))
    }
}

/// A version of a declaration.
#[derive(Debug, Clone)]
pub struct Version {
    /// Counts from 1.
    pub version: i64,
    /// Since when it is in force.
    pub at: time::OffsetDateTime,
    /// Who declared it.
    pub by: String,
    /// What, as JSON.
    pub declaration: String,
}

impl Examined {
    fn of(spec: &KindSpec, row: Option<&KindRow>) -> Self {
        let Some(row) = row else { return Self::default() };
        let derived = |field: &&String| row.declaration.fields.contains(field) && !row.pending.contains(field);
        let indexed = |field: &&String| row.declaration.sorts.get(*field) == spec.declaration.sorts.get(*field);
        Self {
            derives: spec.fields().iter().filter(|field| !derived(field)).cloned().collect(),
            indexes: spec.declaration.sorts.keys().filter(|field| !indexed(field)).cloned().collect(),
            ..Self::default()
        }
    }

    /// Judges documents off the runtime's thread.
    async fn judge(&mut self, schema: &Arc<Schema>, rows: Vec<(String, String)>) -> Result<(), StoreError> {
        let (schema, checked) = (Arc::clone(schema), rows.len() as u64);
        let judge = move || -> Vec<Unfitting> {
            let judged = rows.into_iter().map(|(id, doc)| Unfitting { id, errors: schema.violations(&doc, None) });
            judged.filter(|it| !it.errors.is_empty()).collect()
        };
        let found = tokio::task::spawn_blocking(judge).await;
        let found = found.map_err(|error| StoreError::Unfit { doing: DOING, source: Box::new(error) })?;
        self.checked += checked;
        self.unfit += found.len() as u64;
        let room = MAX_EXAMPLES.saturating_sub(self.examples.len());
        self.examples.extend(found.into_iter().take(room));
        Ok(())
    }
}

fn is_the_same(row: &KindRow, spec: &KindSpec) -> bool {
    row.origin == Origin::Api && json(&row.declaration) == json(&spec.declaration)
}

/// Makes the kind's stream, if there is none, and holds it: nobody writes the kind from here to the end of the transaction.
async fn hold(tx: &mut PgConnection, kind: &Kind) -> Result<(), sqlx::Error> {
    make_stream(tx, kind).await?;
    let stream = kind.stream();
    let held = sqlx::query!("SELECT top FROM streams WHERE name = $1 FOR UPDATE", stream.as_str());
    held.fetch_one(tx).await.map(drop)
}

type Written = (i64, String, String);

/// What was written behind an offset, in its order: one more than so many, or beyond so many bytes.
async fn written(
    on: impl PgExecutor<'_>,
    kind: &Kind,
    top: u64,
    (count, bytes): (i64, i64),
) -> Result<Vec<Written>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"SELECT e."offset" AS "offset!", e.id AS "id!", e.doc AS "doc!" FROM (
             SELECT "offset", id, doc, sum(size::int8) OVER (ORDER BY "offset" ROWS UNBOUNDED PRECEDING) - size AS before FROM (
                 SELECT "offset", id, doc, size FROM entities WHERE kind = $1 AND "offset" > $2 AND doc IS NOT NULL
                 ORDER BY "offset" LIMIT $3
             ) l
         ) e WHERE e.before <= $4::int8 ORDER BY e."offset""#,
        kind.as_str(),
        bigint(top),
        count + 1,
        bytes
    );
    Ok(rows.fetch_all(on).await?.into_iter().map(|row| (row.offset, row.id, row.doc)).collect())
}

/// Whether there is, or may be, more of it than that.
fn is_more(rows: &[Written], (count, bytes): (i64, i64)) -> bool {
    let size: usize = rows.iter().map(|(.., doc)| doc.len()).sum();
    rows.len() as i64 > count || size as i64 > bytes
}

/// Puts the declaration where every node finds it; `None`: another version than that is in force.
async fn put(tx: &mut PgConnection, spec: &KindSpec, before: u64, by: &str) -> Result<Option<i64>, sqlx::Error> {
    let (stream, declaration) = (spec.kind.stream(), json(&spec.declaration));
    let version = sqlx::query_scalar!(
        "INSERT INTO kinds AS k (name, source, fields, sorts, declaration, version, origin)
         VALUES ($1, 'local', $2, $3::text::json, $4::text::json, 1, 'api')
         ON CONFLICT (name) DO UPDATE SET source = 'local', mirror = NULL, fields = excluded.fields, sorts = excluded.sorts,
             declaration = excluded.declaration, version = k.version + 1, origin = 'api'
         WHERE k.version = $5 RETURNING version",
        spec.kind.as_str(),
        spec.fields(),
        json(&spec.declaration.sorts),
        declaration,
        bigint(before)
    );
    let Some(version) = version.fetch_optional(&mut *tx).await? else { return Ok(None) };
    let kept = sqlx::query!(
        "INSERT INTO declarations (kind, version, declaration, by) VALUES ($1, $2, $3::text::json, $4)",
        spec.kind.as_str(),
        version,
        declaration,
        by
    );
    kept.execute(&mut *tx).await?;
    let said = sqlx::query!("UPDATE streams SET declaration = $2 WHERE name = $1", stream.as_str(), version);
    said.execute(tx).await?;
    Ok(Some(version))
}
