//! The database beside the upstream's truth.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::value::RawValue;
use sqlx::{PgPool, Row};

use super::arena::Site;

/// What tells versions of the same content apart.
const VERSIONS: [&str; 3] = ["_lastModified", "dateModified", "_meta"];

/// How deleted objects must stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gone {
    /// The stream said it.
    Trashed,
    /// Nobody said it, the comparison found it.
    Missing,
    /// History was lost on the way: either.
    Either,
}

/// What was found equal.
#[derive(Debug, Default)]
pub struct Agreed {
    pub objects: usize,
    pub gone: usize,
    pub changes: i64,
}

/// JSON with members in order and numbers as they were written.
pub fn canonical(text: &str, without: &[&str]) -> String {
    if text.trim_start().starts_with('{') {
        let members: BTreeMap<String, Box<RawValue>> = serde_json::from_str(text).expect("an object");
        let kept = members.iter().filter(|(key, _)| !without.contains(&key.as_str()));
        let kept = kept.map(|(key, value)| format!("{key:?}:{}", canonical(value.get(), &[])));
        return format!("{{{}}}", kept.collect::<Vec<_>>().join(","));
    }
    text.trim().to_owned()
}

/// The first difference, if there is one.
pub async fn compare(site: &Site, gone: Gone) -> Result<Agreed, String> {
    let (top, _) = site.control.top(site.name).expect("the collection");
    let pool = &site.arena.pool;
    let row = sqlx::query("SELECT cursor, gap FROM mirrors WHERE name = $1").bind(site.name).fetch_one(pool).await;
    let row = row.map_err(|error| error.to_string())?;
    let cursor: Option<String> = row.get(0);
    if cursor.as_deref().and_then(|text| serde_json::from_str::<(u32, u32)>(text).ok()) != Some(top.into()) {
        return Err(format!("the cursor is {cursor:?}, the newest position {top:?}"));
    }
    if row.get::<bool, _>(1) {
        return Err("a full reconcile is owed".to_owned());
    }
    let truth = site.control.truth(site.name).expect("the collection");
    let rows =
        sqlx::query("SELECT id, doc, trashed_at IS NOT NULL, missing_since IS NOT NULL FROM entities WHERE kind = $1");
    let rows = rows.bind(site.name).fetch_all(pool).await.map_err(|error| error.to_string())?;
    let mut stored: BTreeMap<String, (String, bool, bool)> =
        rows.into_iter().map(|row| (row.get(0), (row.get(1), row.get(2), row.get(3)))).collect();
    let mut agreed = Agreed { objects: truth.len(), ..Agreed::default() };
    for row in truth {
        let (doc, trashed, missing) = stored.remove(&row.id).ok_or_else(|| format!("{} is not stored", row.id))?;
        if trashed || missing {
            return Err(format!("{} is there, and stored as trashed {trashed}, missing {missing}", row.id));
        }
        // A merged document has its members in another order; a whole one is what was sent, to the byte.
        let same = doc == row.raw || (site.full && canonical(&doc, &[]) == canonical(&row.raw, &[]));
        if !same {
            return Err(format!("{} is\n{:.500}\nand should be\n{:.500}", row.id, doc, row.raw));
        }
    }
    for (id, (_, trashed, missing)) in &stored {
        let right = match gone {
            Gone::Trashed => *trashed && !missing,
            Gone::Missing => *missing && !trashed,
            Gone::Either => *trashed || *missing,
        };
        if !right {
            return Err(format!("{id} is gone, and stored as trashed {trashed}, missing {missing}; wanted {gone:?}"));
        }
    }
    agreed.gone = stored.len();
    agreed.changes = changes(pool, site.name).await?;
    Ok(agreed)
}

/// Counts the changes; each has content that the one before it has not, and revisions have no holes.
async fn changes(pool: &PgPool, kind: &str) -> Result<i64, String> {
    let rows = sqlx::query(r#"SELECT id, revision, op, doc FROM changes WHERE kind = $1 ORDER BY id, revision"#);
    let rows = rows.bind(kind).fetch_all(pool).await.map_err(|error| error.to_string())?;
    let count = rows.len() as i64;
    let mut last: BTreeMap<String, (i64, Option<String>)> = BTreeMap::new();
    let mut ids = BTreeSet::new();
    for row in rows {
        let (id, revision, op, doc): (String, i64, String, Option<String>) =
            (row.get(0), row.get(1), row.get(2), row.get(3));
        let content = doc.map(|doc| canonical(&doc, &VERSIONS));
        let (before, old) = last.get(&id).cloned().unwrap_or_default();
        assert_eq!(revision, before + 1, "{kind}: revisions of {id}");
        assert!(op != "update" || content.is_none() || content != old, "{kind}: {id} fanned out what did not change");
        ids.insert(id.clone());
        last.insert(id, (revision, content.or(old)));
    }
    let top: i64 = sqlx::query_scalar("SELECT top FROM streams WHERE name = 'entities.' || $1")
        .bind(kind)
        .fetch_one(pool)
        .await
        .map_err(|error| error.to_string())?;
    assert_eq!(top, count, "{kind}: offsets have no holes");
    Ok(count)
}
