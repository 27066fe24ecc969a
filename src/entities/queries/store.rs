//! Who made which query: rows of `queries`, and what this node remembers of them.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use dzvin_actors::platform::ports::{Queries, Query, StoreError};
use dzvin_protocols::{
    channels::QueryId,
    entities::{Filter, FilterError},
    platform::Kind,
};
use futures_util::future::BoxFuture;
use prometheus_client::{metrics::gauge::Gauge, registry::Registry};
use sqlx::PgConnection;
use time::OffsetDateTime;

use super::known::{Known, Room};
use crate::{
    entities::{Entities, KindSpec},
    identity::audit::{self, Deed, Who},
    platform::db::store_error,
};

/// Queries of one user at most: a page of the console asks a handful, and each is a row and a channel.
pub const MAX_PER_USER: i64 = 100;
/// A query that nobody has used or listened to for so many days is forgotten: longer than a holiday week, and who comes back later asks anew.
pub const KEPT_DAYS: i32 = 14;
/// Forgotten at a time, beside the making of another.
const FORGOTTEN_AT_ONCE: i64 = 100;

/// Why there is no such query.
#[derive(Debug, thiserror::Error)]
pub enum QueryRefusal {
    /// The user has [`MAX_PER_USER`].
    #[error("a user has at most {MAX_PER_USER} queries")]
    TooMany,
    /// The kind does not exist.
    #[error("there is no such kind")]
    UnknownKind,
    /// The filter is none.
    #[error(transparent)]
    Filter(#[from] FilterError),
    /// The filter names a field that is not declared.
    #[error("{field:.80} is not a declared field of the kind; those are: {declared}")]
    UnknownField {
        /// The field.
        field: String,
        /// What there is.
        declared: String,
    },
    /// The filter names a field that may change without a change being told.
    #[error("{0:.80} is a version: it may change without the entity having changed, so no query can follow it")]
    VersionField(String),
    /// The filter names a field that not every entity carries yet.
    #[error("{0:.80} was declared lately and is being derived from the documents; try again")]
    Pending(String),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A query of a user.
#[derive(Debug, Clone)]
pub struct QueryRow {
    /// Its name.
    pub id: String,
    /// The kind.
    pub kind: String,
    /// Its filter in the one spelling.
    pub filter: String,
    /// When it was made.
    pub created_at: OffsetDateTime,
    /// When it was used last, to the hour.
    pub used_at: OffsetDateTime,
}

/// The queries of the hub. Cheap to clone.
#[derive(Clone)]
pub struct StoredQueries {
    pub(super) entities: Entities,
    known: Arc<Mutex<Known>>,
    size: Gauge,
}

impl StoredQueries {
    /// Those in the database of the entities.
    #[must_use]
    pub fn new(entities: Entities) -> Self {
        Self { entities, known: Arc::new(Mutex::new(Known::new(Room::PER_NODE))), size: Gauge::default() }
    }

    /// Registers what is kept in memory.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("queries_known", "Queries that this node remembers", self.size.clone());
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remember(&self, query: Query, bytes: usize, user: &str) -> Arc<Query> {
        let mut known = self.lock();
        let query = known.remember(query, bytes, user);
        self.count(&known);
        query
    }

    fn forget(&self, id: &QueryId, user: &str) {
        let mut known = self.lock();
        known.forget(id, user);
        self.count(&known);
    }

    fn count(&self, known: &Known) {
        self.size.set(i64::try_from(known.len()).unwrap_or(i64::MAX));
    }

    /// Makes a query, or finds that the user has it already.
    ///
    /// # Errors
    /// [`QueryRefusal`].
    pub async fn make(&self, kind: &Kind, filter: &str, who: &Who) -> Result<Arc<Query>, QueryRefusal> {
        let spec = self.entities.spec(kind).ok_or(QueryRefusal::UnknownKind)?;
        let filter = Filter::parse(filter)?;
        check_fields(&spec, &filter)?;
        // The one spelling is what counts, on every node.
        let spelling = filter.to_string();
        let query = Query { id: QueryId::of(kind, &filter), kind: kind.clone(), filter: Filter::parse(&spelling)? };
        self.insert(&query, &spelling, who).await?;
        Ok(self.remember(query, spelling.len(), &who.user))
    }

    async fn insert(&self, query: &Query, filter: &str, who: &Who) -> Result<(), QueryRefusal> {
        let (doing, user) = ("keeping a query", &*who.user);
        let mut lent = self.entities.database.lend().await.map_err(store_error(doing))?;
        let mut tx = lent.begin().await.map_err(store_error(doing))?;
        // One at a time of each user, or the count means nothing.
        sqlx::query!("SELECT pg_advisory_xact_lock(hashtextextended('queries ' || $1, 0))::text AS held", user)
            .fetch_one(&mut *tx)
            .await
            .map_err(store_error(doing))?;
        sqlx::query!(
            "DELETE FROM queries WHERE ctid = ANY(ARRAY(
                 SELECT ctid FROM queries WHERE used_at < now() - make_interval(days => $1)
                 ORDER BY used_at LIMIT $2 FOR UPDATE SKIP LOCKED))",
            KEPT_DAYS,
            FORGOTTEN_AT_ONCE
        )
        .execute(&mut *tx)
        .await
        .map_err(store_error(doing))?;
        let fields: Vec<String> = query.filter.fields().into_iter().map(str::to_owned).collect();
        let done = sqlx::query!(
            r#"WITH carried AS (SELECT derived FROM derivations WHERE kind = $3), held AS (SELECT count(*) AS n FROM queries WHERE "user" = $2 AND id <> $1), made AS (
                 INSERT INTO queries (id, "user", kind, filter) SELECT $1, $2, $3, $4 FROM held, carried WHERE n < $5 AND derived @> $6::text[]
                 ON CONFLICT (id, "user") DO UPDATE SET used_at = now() RETURNING xmax = 0 AS fresh
             )
             SELECT EXISTS (SELECT FROM made) AS "made!", EXISTS (SELECT FROM made WHERE fresh) AS "fresh!",
                 ARRAY(SELECT unnest($6::text[]) EXCEPT SELECT unnest(derived) FROM carried ORDER BY 1) AS "pending!""#,
            query.id.as_str(),
            user,
            query.kind.as_str(),
            filter,
            MAX_PER_USER,
            &fields
        )
        .fetch_one(&mut *tx)
        .await
        .map_err(store_error(doing))?;
        // Pages ask for the same again and again.
        if done.fresh {
            self.tell(&mut tx, who, Deed::new("queries.create", query.id.as_str(), 201)).await?;
        }
        tx.commit().await.map_err(store_error(doing))?;
        match done.pending.into_iter().next() {
            Some(field) => Err(QueryRefusal::Pending(field)),
            None if done.made => Ok(()),
            None => Err(QueryRefusal::TooMany),
        }
    }

    /// The query of this name, if this user made it and it can be followed.
    ///
    /// # Errors
    /// The database is away, and it was not said before.
    pub async fn of_user(&self, id: &QueryId, user: &str) -> Result<Option<Arc<Query>>, StoreError> {
        let row = match self.read(id, user).await {
            Ok(row) => row,
            // Recovery goes on from the bus while the database is away.
            Err(error) => return self.lock().of_user(id, user).map(Some).ok_or(error),
        };
        let query = row.and_then(|(kind, filter, derived)| {
            let (kind, bytes, filter) = (Kind::new(&kind).ok()?, filter.len(), Filter::parse(&filter).ok()?);
            check_fields(&*self.entities.spec(&kind)?, &filter).ok()?;
            let carried = filter.fields().into_iter().all(|field| derived.iter().any(|it| it == field));
            carried.then(|| (Query { id: id.clone(), kind, filter }, bytes))
        });
        let Some((query, bytes)) = query else {
            self.forget(id, user);
            return Ok(None);
        };
        Ok(Some(self.remember(query, bytes, user)))
    }

    /// Reads a query and notes its use, once an hour.
    async fn read(&self, id: &QueryId, user: &str) -> Result<Option<(String, String, Vec<String>)>, StoreError> {
        let row = sqlx::query!(
            r#"WITH used AS (
                 UPDATE queries SET used_at = now()
                 WHERE id = $1 AND "user" = $2 AND used_at < now() - interval '1 hour'
                     AND used_at >= now() - make_interval(days => $3)
             )
             SELECT q.kind, q.filter, COALESCE(d.derived, '{}') AS "derived!" FROM queries q
             LEFT JOIN derivations d ON d.kind = q.kind
             WHERE q.id = $1 AND q."user" = $2 AND q.used_at >= now() - make_interval(days => $3)"#,
            id.as_str(),
            user,
            KEPT_DAYS
        )
        .fetch_optional(self.entities.database.pool())
        .await
        .map_err(store_error("reading a query"))?;
        Ok(row.map(|row| (row.kind, row.filter, row.derived)))
    }

    /// The queries of a user, oldest first.
    ///
    /// # Errors
    /// The database is away.
    pub async fn list(&self, user: &str) -> Result<Vec<QueryRow>, StoreError> {
        let rows = sqlx::query_as!(
            QueryRow,
            r#"SELECT id, kind, filter, created_at, used_at FROM queries
             WHERE "user" = $1 AND used_at >= now() - make_interval(days => $2) ORDER BY created_at, id LIMIT $3"#,
            user,
            KEPT_DAYS,
            MAX_PER_USER
        );
        rows.fetch_all(self.entities.database.pool()).await.map_err(store_error("reading queries"))
    }

    /// Forgets a query of a user. False when there was none.
    ///
    /// # Errors
    /// The database is away.
    pub async fn drop_of_user(&self, id: &QueryId, who: &Who) -> Result<bool, StoreError> {
        let (doing, user) = ("forgetting a query", &*who.user);
        let mut lent = self.entities.database.lend().await.map_err(store_error(doing))?;
        let mut tx = lent.begin().await.map_err(store_error(doing))?;
        let done = sqlx::query!(r#"DELETE FROM queries WHERE id = $1 AND "user" = $2"#, id.as_str(), user)
            .execute(&mut *tx)
            .await
            .map_err(store_error(doing))?;
        let was = done.rows_affected() > 0;
        if was {
            self.tell(&mut tx, who, Deed::new("queries.delete", id.as_str(), 204)).await?;
            tx.commit().await.map_err(store_error(doing))?;
        }
        self.forget(id, user);
        Ok(was)
    }

    async fn tell(&self, tx: &mut PgConnection, who: &Who, deed: Deed) -> Result<(), StoreError> {
        audit::write(tx, self.entities.database.node(), who, &[deed]).await.map_err(store_error("telling the audit"))
    }
}

/// Whether a query of the kind may speak of these fields.
fn check_fields(spec: &KindSpec, filter: &Filter) -> Result<(), QueryRefusal> {
    let declared: BTreeSet<&str> = spec.fields().iter().map(String::as_str).collect();
    for field in filter.fields() {
        if !declared.contains(field) {
            let declared = spec.fields().join(", ");
            return Err(QueryRefusal::UnknownField { field: field.to_owned(), declared });
        }
        // An upstream may move a version without a change: rows would come into a query that nobody is told of.
        let under = |path: &String| {
            field.strip_prefix(path.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        if spec.version_paths.iter().any(under) {
            return Err(QueryRefusal::VersionField(field.to_owned()));
        }
    }
    Ok(())
}

impl Queries for StoredQueries {
    fn find<'a>(&'a self, id: &'a QueryId, user: &'a str) -> BoxFuture<'a, Result<Option<Arc<Query>>, StoreError>> {
        Box::pin(self.of_user(id, user))
    }

    fn known(&self, id: &QueryId) -> Option<Arc<Query>> {
        self.lock().get(id)
    }
}
