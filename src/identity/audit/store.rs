//! Rows of the audit in the database.

use dzvin_actors::platform::ports::StoreError;
use sqlx::PgConnection;
use time::OffsetDateTime;

use super::{MAX_NAME, MAX_OBJECT, Who, clean, fold::Noted};
use crate::platform::db::{Database, store_error};

/// Removed at a time, so that no statement takes long.
const SWEEP_ROWS: i64 = 10_000;

/// What was done to one thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deed {
    /// As in the table of the docs.
    pub action: &'static str,
    /// What it was done to, such as `deal/42`.
    pub object: String,
    /// What HTTP answers, of this thing alone.
    pub status: u16,
    /// The revision that it came to, where there is one.
    pub revision: Option<i64>,
}

impl Deed {
    /// One that has no revision.
    #[must_use]
    pub fn new(action: &'static str, object: impl Into<String>, status: u16) -> Self {
        Self { action, object: object.into(), status, revision: None }
    }
}

fn number(status: u16) -> i16 {
    i16::try_from(status).unwrap_or(i16::MAX)
}

/// Tells deeds within the transaction that does them: one statement, however many they are.
///
/// # Errors
/// Those of the statement; the transaction is to be rolled back.
pub async fn write(tx: &mut PgConnection, node: &str, who: &Who, deeds: &[Deed]) -> Result<(), sqlx::Error> {
    let all: Vec<_> = deeds.iter().map(|deed| (who, deed)).collect();
    write_of_each(tx, node, &all).await
}

/// The same of several people.
///
/// # Errors
/// Those of the statement; the transaction is to be rolled back.
pub async fn write_of_each(tx: &mut PgConnection, node: &str, all: &[(&Who, &Deed)]) -> Result<(), sqlx::Error> {
    let deeds = || all.iter().map(|(_, deed)| deed);
    let who = || all.iter().map(|(who, _)| who);
    let requests: Vec<Option<&str>> = who().map(|who| who.request.as_deref()).collect();
    let addresses: Vec<Option<String>> = who().map(|who| who.address.map(|address| address.to_string())).collect();
    let users: Vec<String> = who().map(|who| clean(&who.user, MAX_NAME).into_owned()).collect();
    let tokens: Vec<Option<String>> =
        who().map(|who| who.token.as_deref().map(|token| clean(token, MAX_NAME).into_owned())).collect();
    let actions: Vec<String> = deeds().map(|deed| deed.action.to_owned()).collect();
    let objects: Vec<String> = deeds().map(|deed| clean(&deed.object, MAX_OBJECT).into_owned()).collect();
    let statuses: Vec<i16> = deeds().map(|deed| number(deed.status)).collect();
    let revisions: Vec<Option<i64>> = deeds().map(|deed| deed.revision).collect();
    sqlx::query!(
        r#"INSERT INTO audit (node, request, address, "user", token, action, object, outcome, status, revision)
           SELECT $1, d.request, d.address, d."user", d.token, d.action, d.object, 'done', d.status, d.revision
           FROM UNNEST($2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::int2[], $9::int8[])
               AS d (request, address, "user", token, action, object, status, revision)"#,
        node,
        &requests as &[Option<&str>],
        &addresses as &[Option<String>],
        &users,
        &tokens as &[Option<String>],
        &actions,
        &objects,
        &statuses,
        &revisions as &[Option<i64>]
    )
    .execute(tx)
    .await
    .map(drop)
}

/// A row as it is told.
#[derive(Debug, Clone)]
pub(super) struct Row {
    pub(super) at: OffsetDateTime,
    pub(super) id: i64,
    pub(super) node: String,
    pub(super) request: Option<String>,
    pub(super) address: Option<String>,
    pub(super) user: String,
    pub(super) token: Option<String>,
    pub(super) action: String,
    pub(super) object: String,
    pub(super) outcome: String,
    pub(super) status: Option<i16>,
    pub(super) revision: Option<i64>,
    pub(super) times: i64,
}

/// What is looked for.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    pub(super) user: Option<String>,
    pub(super) object: Option<String>,
    pub(super) action: Option<String>,
    pub(super) outcome: Option<String>,
    pub(super) address: Option<String>,
}

/// One way of reading for each filter, so that whichever is given leads into its index; the others are looked at on the way.
macro_rules! page {
    ($tx:expr, $wanted:expr, $since:expr, $below:expr, $limit:expr, $leads:literal) => {
        sqlx::query_as!(
            Row,
            r#"SELECT at, id, node, request, address, "user", token, action, object, outcome, status, revision, times FROM audit WHERE "#
                + $leads
                + r#" AND at >= $6 AND (at, id) < ($7, $8)
                AND ($1::text IS NULL OR "user" = $1) AND ($2::text IS NULL OR object = $2) AND ($3::text IS NULL OR action = $3)
                AND ($4::text IS NULL OR outcome = $4) AND ($5::text IS NULL OR address = $5) ORDER BY at DESC, id DESC LIMIT $9"#,
            $wanted.user,
            $wanted.object,
            $wanted.action,
            $wanted.outcome,
            $wanted.address,
            $since,
            $below.0,
            $below.1,
            $limit
        )
        .fetch_all(&mut *$tx)
        .await
    };
}

/// The audit of the cluster. Cheap to clone.
#[derive(Clone)]
pub struct AuditStore {
    database: Database,
}

impl AuditStore {
    /// That of this database.
    #[must_use]
    pub fn new(database: Database) -> Self {
        Self { database }
    }

    /// The newest rows below a place, from `since` on.
    pub(super) async fn page(
        &self,
        wanted: &Wanted,
        since: OffsetDateTime,
        below: (OffsetDateTime, i64),
        limit: i64,
    ) -> Result<Vec<Row>, StoreError> {
        let doing = "reading the audit";
        let mut lent = self.database.for_readers().lend().await.map_err(store_error(doing))?;
        let mut tx = lent.begin().await.map_err(store_error(doing))?;
        // A plan for whatever values would have to expect that what is not asked for narrows as well: it sorts what it could read in order.
        sqlx::query!("SELECT set_config('plan_cache_mode', 'force_custom_plan', true)")
            .fetch_one(&mut *tx)
            .await
            .map_err(store_error(doing))?;
        // From what names few rows to what names many.
        let rows = match wanted {
            Wanted { object: Some(_), .. } => page!(tx, wanted, since, below, limit, "object = $2"),
            Wanted { user: Some(_), .. } => page!(tx, wanted, since, below, limit, "\"user\" = $1"),
            Wanted { address: Some(_), .. } => page!(tx, wanted, since, below, limit, "address = $5"),
            Wanted { action: Some(_), .. } => page!(tx, wanted, since, below, limit, "action = $3"),
            Wanted { outcome: Some(_), .. } => page!(tx, wanted, since, below, limit, "outcome = $4"),
            _ => page!(tx, wanted, since, below, limit, "true"),
        };
        rows.map_err(store_error(doing))
    }

    /// Writes what was noted, and counts into the rows that are there already.
    pub(super) async fn note(&self, noted: &[Noted]) -> Result<(), StoreError> {
        let text = |of: fn(&Noted) -> String| noted.iter().map(of).collect::<Vec<_>>();
        let maybe = |of: fn(&Noted) -> Option<String>| noted.iter().map(of).collect::<Vec<_>>();
        let at: Vec<OffsetDateTime> = noted.iter().map(|it| it.at).collect();
        let statuses: Vec<Option<i16>> = noted.iter().map(|it| it.status.map(number)).collect();
        let times: Vec<i64> = noted.iter().map(|it| it.times).collect();
        let folds: Vec<i64> = noted.iter().map(|it| it.fold).collect();
        sqlx::query!(
            r#"INSERT INTO audit (node, at, request, address, "user", token, action, object, outcome, status, times, fold)
               SELECT $1, n.* FROM UNNEST($2::timestamptz[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[],
                   $9::text[], $10::int2[], $11::int8[], $12::int8[]) AS n
               ON CONFLICT (fold) WHERE fold IS NOT NULL DO UPDATE SET times = audit.times + excluded.times"#,
            self.database.node(),
            &at,
            &maybe(|it| it.request.as_deref().map(str::to_owned)) as &[Option<String>],
            &maybe(|it| it.address.map(|address| address.to_string())) as &[Option<String>],
            &text(|it| it.user.to_string()),
            &maybe(|it| it.token.as_deref().map(str::to_owned)) as &[Option<String>],
            &text(|it| it.action.to_owned()),
            &text(|it| it.object.to_string()),
            &text(|it| it.outcome.to_string()),
            &statuses as &[Option<i16>],
            &times,
            &folds
        )
        .execute(self.database.pool())
        .await
        .map(drop)
        .map_err(store_error("writing the audit"))
    }

    /// Removes what is older than so many days; answers how much.
    ///
    /// # Errors
    /// The database is away.
    pub async fn sweep(&self, keep_days: u16) -> Result<u64, StoreError> {
        let mut swept = 0;
        loop {
            let done = sqlx::query!(
                "DELETE FROM audit WHERE ctid = ANY(ARRAY(SELECT ctid FROM audit WHERE at < now() - make_interval(days => $1)
                 ORDER BY at LIMIT $2 FOR UPDATE SKIP LOCKED))",
                i32::from(keep_days),
                SWEEP_ROWS
            )
            .execute(self.database.pool())
            .await
            .map_err(store_error("removing what is old from the audit"))?;
            swept += done.rows_affected();
            if done.rows_affected() < SWEEP_ROWS.unsigned_abs() {
                return Ok(swept);
            }
        }
    }
}
