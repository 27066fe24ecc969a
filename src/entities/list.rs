//! Lists of entities in pages: what of a kind meets what is asked and is seen, in one of several orders, with the position of the
//! same snapshot (rule 4).
//!
//! Invariants: of what indexes find a page looks at a bounded number of rows, so it may be short, or empty, and still not be the last; nothing of a
//! filter, an order or a place becomes SQL text; what is seen is decided in the very statement that reads. Rows that change
//! while somebody turns pages may stand on two of them, or on none, if what they are sorted by changes: the position tells of it.
//!
//! Not here: what a filter means (`dzvin_protocols::entities`), and how a place is told to clients (`cursor`).

use dzvin_actors::platform::ports::StoreError;
use dzvin_protocols::{
    channels::{Epoch, Position},
    entities::{By, Filter, Order, Place, SortAs, Words},
    platform::Kind,
};
use sqlx::{FromRow, PgConnection, Postgres, QueryBuilder};

use super::{
    Entities, EntityRow, KindSpec,
    log::{bigint, number},
    queries::{anchors, push_condition, push_ranges},
    query::{Found, INLINE},
    seen::{push_anchors, push_seen},
    sorts::WORDS_INDEX,
};
use crate::platform::db::store_error;

/// Equality filters: declared path -> text. Empty means all.
pub type Filters = serde_json::Map<String, serde_json::Value>;

/// Rows that one page looks at: about ten milliseconds of the database. A page of a filter that hardly anything meets may be
/// empty and still not be the last.
pub const SCAN_ROWS: i64 = 10_000;
/// The same of a list that leaves out no more than the trash: the statement is planned for so many, and most of them are wanted.
pub(super) const SCAN_PRESENT: i64 = 1_000;

/// Whether a list shows what is in the trash.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Trash {
    /// Only what is there: nothing that is in the trash, purged, or no longer shown by the upstream.
    #[default]
    Exclude,
    /// All of it.
    Include,
    /// Only what is in the trash and can be restored.
    Only,
}

/// Words that are looked for in the texts of a kind.
#[derive(Debug, Clone)]
pub struct Search {
    /// A `tsquery`.
    query: String,
    /// By which name words are derived.
    derived: String,
}

impl Search {
    /// `None` where the kind has no texts.
    pub(super) fn of(spec: &KindSpec, words: &Words) -> Option<Self> {
        Some(Self { query: words.query(&spec.kind), derived: spec.words()? })
    }
}

/// What is asked of a list.
#[derive(Debug, Clone, Copy)]
pub struct Listing<'a> {
    /// Only those that are equal in these.
    pub filters: &'a Filters,
    /// Only those that meet it.
    pub filter: Option<&'a Filter>,
    /// Only those that meet it as well: what the caller sees.
    pub rows: Option<&'a Filter>,
    /// Only those that have these words.
    pub search: Option<&'a Search>,
    /// Whether the trash is shown.
    pub trash: Trash,
    /// In which order. A field must be one that the kind is [sorted](super::KindSpec::sorts) by.
    pub order: &'a Order,
    /// Only those behind this place, which is of the same order.
    pub after: Option<&'a Place>,
    /// At most so many.
    pub limit: u16,
    /// Whether it is counted how many there are of all.
    pub total: bool,
}

impl Listing<'_> {
    /// Everything that is there, newest change first.
    #[must_use]
    pub fn newest(filters: &Filters, limit: u16) -> Listing<'_> {
        let (trash, order) = (Trash::Exclude, &Order::NEWEST);
        Listing { filters, filter: None, rows: None, search: None, trash, order, after: None, limit, total: false }
    }

    /// Whether more of it is asked for than equality: filters and words, of which there are as many as people think of.
    pub(super) fn is_narrowed(&self) -> bool {
        self.filter.is_some() || self.rows.is_some() || self.search.is_some()
    }

    fn scan(&self) -> i64 {
        if self.is_narrowed() { SCAN_ROWS } else { SCAN_PRESENT }
    }

    /// The filter of which the index of declared fields finds something. What is seen comes first: it is not the asker's to choose.
    fn anchored(&self) -> Option<&Filter> {
        [self.rows, self.filter].into_iter().flatten().find(|filter| anchors(filter).is_some())
    }

    /// Declared fields that must be derived of every entity, or rows would be missing.
    fn fields(&self) -> impl Iterator<Item = &str> {
        let filters = [self.filter, self.rows].into_iter().flatten().flat_map(Filter::fields);
        let words = self.search.map(|search| search.derived.as_str());
        self.filters.keys().map(String::as_str).chain(filters).chain(self.order.field()).chain(words)
    }
}

/// A page of a list.
#[derive(Debug, Clone)]
pub struct ListPage {
    /// In the order that was asked for.
    pub rows: Vec<EntityRow>,
    /// The stream's position in the snapshot of this page.
    pub position: Position,
    /// Entities that match, when asked for.
    pub total: Option<i64>,
    /// Fields that are asked for and not derived of every entity yet, or not sorted by yet: the page may lack rows.
    pub pending: Vec<String>,
    /// Behind which place there may be more; `None`: this was the last.
    pub next: Option<Place>,
}

/// A row of a page, with what holds for the whole page: one of them without an entity where there is none.
#[derive(FromRow)]
struct PageRow {
    epoch: String,
    top: i64,
    derived: Option<Vec<String>>,
    total: Option<i64>,
    #[sqlx(flatten)]
    found: Found,
    /// By what it is sorted, as text.
    sort_key: Option<String>,
    /// The last row that was looked at, where the page ended because it had looked at enough.
    end_id: Option<String>,
    end_key: Option<String>,
}

fn place(by: &By, key: Option<String>, id: String) -> Place {
    match by {
        By::Offset => Place::Offset(key.and_then(|key| key.parse().ok()).unwrap_or_default()),
        By::Id => Place::Id(id),
        By::Field(..) => Place::Field(key, id),
    }
}

impl Entities {
    /// A page of the entities of a kind; `None` for an unknown one.
    ///
    /// # Errors
    /// The database is away.
    pub async fn list(&self, kind: &Kind, asked: Listing<'_>) -> Result<Option<ListPage>, StoreError> {
        if asked.is_newest()
            && let Some(page) = self.newest(kind, &asked).await?
        {
            return Ok(Some(page));
        }
        let doing = "listing entities";
        let mut lent = self.database.lend().await.map_err(store_error(doing))?;
        let mut tx = lent.begin().await.map_err(store_error(doing))?;
        if let Some(without) = not_indexed(&mut tx, kind, &asked).await.map_err(store_error(doing))? {
            // Without the index each page would sort, or search, the whole kind.
            let pending = vec![without];
            let position = Position { epoch: Epoch::new(""), offset: 0 };
            return Ok(Some(ListPage { rows: Vec::new(), position, total: None, pending, next: None }));
        }
        plan_for(&mut tx, &asked).await.map_err(store_error(doing))?;
        let mut sql = QueryBuilder::new("");
        push_list(&mut sql, kind, &asked);
        // Of filters there are as many texts as people think of.
        let persistent = !asked.is_narrowed();
        let rows: Vec<PageRow> =
            sql.build_query_as().persistent(persistent).fetch_all(&mut *tx).await.map_err(store_error(doing))?;
        tx.commit().await.map_err(store_error(doing))?;
        Ok(page(rows, &asked))
    }

    /// How the database would read such a page: for tests, and for whoever asks why a list is slow.
    ///
    /// # Errors
    /// The database is away.
    pub async fn explain(&self, kind: &Kind, asked: Listing<'_>) -> Result<String, StoreError> {
        let doing = "explaining a list";
        let mut lent = self.database.lend().await.map_err(store_error(doing))?;
        let mut tx = lent.begin().await.map_err(store_error(doing))?;
        plan_for(&mut tx, &asked).await.map_err(store_error(doing))?;
        let mut sql = QueryBuilder::new("EXPLAIN ");
        push_list(&mut sql, kind, &asked);
        let lines: Result<Vec<String>, _> = sql.build_query_scalar().persistent(false).fetch_all(&mut *tx).await;
        Ok(lines.map_err(store_error(doing))?.join("\n"))
    }
}

/// Has the transaction's lists planned with their values: the one plan for all values that would be kept walks through the kind from the
/// newest on, whatever is asked for, and for a rare value that is to the end. By a field, where no other index could find less, they
/// are walks along the field's index and never sorts: the planner takes those without the field for a few, whatever they are. What it
/// then thinks of the last sort, that of the page, would have it compile the statement, which takes longer than to do it.
async fn plan_for(on: &mut PgConnection, asked: &Listing<'_>) -> Result<(), sqlx::Error> {
    let found = asked.anchored().is_some() || asked.search.is_some();
    let others = !asked.filters.is_empty() || asked.trash == Trash::Only || found;
    let sorts = if asked.order.field().is_some() && !others { "off" } else { "on" };
    sqlx::query!(
        "SELECT set_config('plan_cache_mode', 'force_custom_plan', true) AS plans, set_config('enable_sort', $1, true) AS sort,
             set_config('enable_bitmapscan', $1, true) AS bitmaps, set_config('jit', 'off', true) AS jit",
        sorts
    )
    .fetch_one(on)
    .await
    .map(drop)
}

/// What the page would need an index for that is not there yet.
async fn not_indexed(on: &mut PgConnection, kind: &Kind, asked: &Listing<'_>) -> Result<Option<String>, sqlx::Error> {
    if let By::Field(field, sort) = &asked.order.by {
        let name =
            sqlx::query_scalar!(r#"SELECT sort_index($1, $2, $3) AS "name!""#, kind.as_str(), field, sort.as_str());
        let name = name.fetch_one(&mut *on).await?;
        if !is_whole(on, &name).await? {
            return Ok(Some(field.clone()));
        }
    }
    match asked.search {
        Some(search) if !is_whole(on, WORDS_INDEX).await? => Ok(Some(search.derived.clone())),
        _ => Ok(None),
    }
}

async fn is_whole(on: &mut PgConnection, index: &str) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM pg_index WHERE indexrelid = to_regclass($1) AND indisvalid) AS "is!""#,
        index
    )
    .fetch_one(on)
    .await
}

fn page(rows: Vec<PageRow>, asked: &Listing<'_>) -> Option<ListPage> {
    let first = rows.first()?;
    let position = Position { epoch: Epoch::new(&first.epoch), offset: number(first.top) };
    let carried = first.derived.as_deref().unwrap_or_default();
    let pending = asked.fields().filter(|field| !carried.iter().any(|it| it == field)).map(str::to_owned).collect();
    let total = first.total;
    let (by, limit) = (&asked.order.by, usize::from(asked.limit));
    // One more than was asked for tells that there is more.
    let next = if rows.len() > limit {
        let last = limit.checked_sub(1).and_then(|last| rows.get(last));
        last.and_then(|last| Some(place(by, last.sort_key.clone(), last.found.id.clone()?)))
    } else {
        first.end_id.clone().map(|id| place(by, first.end_key.clone(), id))
    };
    let rows = rows.into_iter().filter_map(|row| row.found.entity()).take(limit).collect();
    Some(ListPage { rows, position, total, pending, next })
}

type Sql = QueryBuilder<Postgres>;

/// Appends the statement. `w` are the rows that are looked at, in order and no further than they are asked for; `m` those of them
/// that are wanted, one more than the page has; `z` the last of `w`, where the page is short and `w` was cut off.
fn push_list(to: &mut Sql, kind: &Kind, asked: &Listing<'_>) {
    let wanted = i64::from(asked.limit) + 1;
    to.push("WITH ");
    push_looked_at(to, kind, asked);
    to.push(", m AS MATERIALIZED (SELECT w.*, ");
    push_key(to, "w", &asked.order.by);
    to.push(" AS sort_key FROM w WHERE ");
    push_wanted(to, "w", kind, asked);
    to.push(" LIMIT ").push_bind(wanted).push("), z AS (SELECT w.id AS end_id, (");
    push_key(to, "w", &asked.order.by);
    to.push(")::text AS end_key FROM w WHERE (SELECT count(*) FROM m) < ").push_bind(wanted);
    to.push(" OFFSET ").push_bind(asked.scan() - 1).push(" LIMIT 1) SELECT s.epoch, s.top, ");
    to.push("(SELECT derived FROM derivations WHERE kind = ")
        .push_bind(kind.as_str().to_owned())
        .push(") AS derived, ");
    push_total(to, kind, asked);
    to.push(
        r#", m.id, m.revision, m."offset", m.op, m.at, m.by, m.version, m.trashed_at, m.missing_since, m.doc IS NULL AS purged,
         m.size, m.sort_key::text AS sort_key, z.end_id, z.end_key, CASE WHEN m.size <= "#,
    );
    to.push_bind(INLINE).push(" THEN (SELECT e.doc FROM entities e WHERE e.kind = ");
    to.push_bind(kind.as_str().to_owned())
        .push(" AND e.id = m.id) END AS doc FROM streams s LEFT JOIN m ON true LEFT JOIN z ON true WHERE s.name = ");
    let way = if asked.order.descending { " DESC" } else { "" };
    to.push_bind(kind.stream().to_string()).push(" ORDER BY m.sort_key").push(way).push(" NULLS LAST, m.id").push(way);
}

fn push_total(to: &mut Sql, kind: &Kind, asked: &Listing<'_>) {
    if !asked.total {
        to.push("NULL::int8 AS total");
        return;
    }
    to.push("(SELECT count(*) FROM entities e WHERE ");
    push_found(to, kind, asked);
    to.push(" AND ");
    push_wanted(to, "e", kind, asked);
    to.push(") AS total");
}

/// Appends `w`. By a field it is two pieces, first those that have it and then those that do not: each is a walk along the index, no
/// further than it is asked for, and the second is begun when the first has come to its end.
fn push_looked_at(to: &mut Sql, kind: &Kind, asked: &Listing<'_>) {
    let one = match (&asked.order.by, asked.after) {
        (By::Offset | By::Id, _) => Some(None),
        // Behind one that does not have the field are none that do.
        (By::Field(..), Some(Place::Field(None, _))) => Some(Some(false)),
        (By::Field(..), _) => None,
    };
    if let Some(having) = one {
        to.push("w AS MATERIALIZED (");
        push_walk(to, kind, asked, having);
        to.push(" LIMIT ").push_bind(asked.scan()).push(")");
        return;
    }
    to.push("a AS MATERIALIZED (");
    push_walk(to, kind, asked, Some(true));
    to.push(" LIMIT ").push_bind(asked.scan()).push("), b AS MATERIALIZED (");
    push_walk(to, kind, asked, Some(false));
    to.push(" LIMIT ").push_bind(asked.scan()).push("), w AS MATERIALIZED (");
    to.push("SELECT * FROM (SELECT * FROM a UNION ALL SELECT * FROM b) u LIMIT ").push_bind(asked.scan()).push(")");
}

/// Appends rows in order, behind the place; of a field those that have it, or those that do not.
fn push_walk(to: &mut Sql, kind: &Kind, asked: &Listing<'_>, having: Option<bool>) {
    to.push(
        r#"SELECT e.id, e.revision, e."offset", e.op, e.at, e.by, e.version, e.trashed_at, e.missing_since, e.size, e.fields,
             CASE WHEN e.doc IS NOT NULL THEN true END AS doc FROM entities e WHERE "#,
    );
    let Order { by, descending } = asked.order;
    push_found(to, kind, asked);
    let behind = if *descending { " < " } else { " > " };
    match having {
        Some(having) => push_behind_field(to, by, having, asked.after, behind),
        None => push_behind(to, by, asked.after, behind),
    }
    let way = if *descending { " DESC" } else { "" };
    to.push(" ORDER BY ");
    push_key(to, "e", by);
    to.push(way);
    if having.is_some() {
        to.push(", e.id").push(way);
    }
}

fn push_behind(to: &mut Sql, by: &By, after: Option<&Place>, behind: &'static str) {
    let Some(after) = after else { return };
    to.push(" AND ");
    push_key(to, "e", by);
    to.push(behind);
    match after {
        Place::Offset(offset) => to.push_bind(bigint(*offset)),
        Place::Id(id) | Place::Field(_, id) => to.push_bind(id.clone()),
    };
}

fn push_behind_field(to: &mut Sql, by: &By, having: bool, after: Option<&Place>, behind: &'static str) {
    to.push(" AND ");
    push_key(to, "e", by);
    to.push(if having { " IS NOT NULL" } else { " IS NULL" });
    let Some(Place::Field(key, id)) = after else { return };
    match (key, having) {
        (Some(key), true) => {
            to.push(" AND (");
            push_key(to, "e", by);
            to.push(", e.id)").push(behind).push("(").push_bind(key.clone()).push("::text");
            let numeric = matches!(by, By::Field(_, SortAs::Number | SortAs::Time));
            to.push(if numeric { "::numeric" } else { "" }).push(", ").push_bind(id.clone()).push(")");
        }
        // Behind it are all of those that do not have the field.
        (Some(_), false) | (None, true) => {}
        (None, false) => {
            to.push(" AND e.id").push(behind).push_bind(id.clone());
        }
    }
}

/// Appends by what rows stand: for fields to the letter what their index is of (`sorts`).
fn push_key(to: &mut Sql, row: &'static str, by: &By) {
    let mut read = |with: &'static str, field: &String, end: &'static str| {
        to.push(with).push("(").push(row).push(".fields ->> ").push_bind(field.clone()).push("::text)").push(end);
    };
    match by {
        By::Offset => {
            to.push(row).push(r#"."offset""#);
        }
        By::Id => {
            to.push(row).push(".id");
        }
        By::Field(field, SortAs::Text) => read("sort_text", field, r#" COLLATE "C""#),
        By::Field(field, SortAs::Number) => read("filter_number", field, ""),
        By::Field(field, SortAs::Time) => read("filter_time", field, ""),
    }
}

/// Appends what indexes find.
fn push_found(to: &mut Sql, kind: &Kind, asked: &Listing<'_>) {
    to.push("e.kind = ").push_bind(kind.as_str().to_owned());
    if !asked.filters.is_empty() {
        let filters = serde_json::to_string(asked.filters).unwrap_or_default();
        to.push(" AND e.fields @> ").push_bind(filters).push("::text::jsonb");
    }
    if asked.trash == Trash::Only {
        to.push(" AND e.trashed_at IS NOT NULL");
    }
    if let Some(search) = asked.search {
        to.push(" AND e.words @@ ").push_bind(search.query.clone()).push("::text::tsquery");
    }
    if let Some(filter) = asked.anchored() {
        push_anchors(to, filter);
    }
    if let By::Field(field, sort) = &asked.order.by {
        // The walk is along the index of this field, so it may begin and end there.
        let both = [asked.filter, asked.rows].into_iter().flatten();
        both.for_each(|filter| push_ranges(to, "e", filter, field, *sort));
    }
}

/// Appends what is wanted of the rows that are looked at.
fn push_wanted(to: &mut Sql, row: &'static str, kind: &Kind, asked: &Listing<'_>) {
    match asked.trash {
        Trash::Include => to.push("true"),
        Trash::Only => to.push(row).push(".doc IS NOT NULL"),
        Trash::Exclude => {
            to.push(row).push(".doc IS NOT NULL AND ").push(row).push(".trashed_at IS NULL AND ").push(row);
            to.push(".missing_since IS NULL")
        }
    };
    if let Some(filter) = asked.filter {
        to.push(" AND (");
        push_condition(to, row, filter);
        to.push(")");
    }
    if let Some(rows) = asked.rows {
        to.push(" AND ");
        push_seen(to, row, kind, rows);
    }
}
