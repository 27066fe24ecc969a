//! Kinds: what types of entities there are, who owns them and by which fields they are filtered.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use dzvin_actors::platform::ports::StoreError;
use dzvin_protocols::{entities::SortAs, platform::Kind};
use tokio::sync::Semaphore;

use super::{Entities, cursor::Cursors};
use crate::platform::db::{Database, store_error};

/// Most declared fields of a kind: each costs an index entry per entity.
pub const MAX_FIELDS: usize = 64;

/// Who owns the entities of a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// A Mirror; read-only here.
    Mirrored,
    /// This hub.
    Local,
}

impl Source {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Mirrored => "mirrored",
            Self::Local => "local",
        }
    }
}

/// What is declared of a kind, from configuration.
#[derive(Debug, Clone)]
pub struct KindSpec {
    /// The kind.
    pub kind: Kind,
    /// Who owns it.
    pub source: Source,
    /// The Mirror that feeds it.
    pub mirror: Option<String>,
    /// Dotted paths: what may be filtered by, and whose earlier values the log keeps. At most [`MAX_FIELDS`].
    pub fields: Vec<String>,
    /// Declared fields by which lists are sorted, and as what they are read. At most [`MAX_SORTS`](super::MAX_SORTS).
    pub sorts: BTreeMap<String, SortAs>,
    /// Dotted paths of versions: what may differ without being a change.
    pub version_paths: Vec<String>,
    /// Whoever changes an entity must say which revision they have seen.
    pub require_if_match: bool,
    /// What has been in the trash for so long is purged; zero: it stays. Of local kinds only.
    pub trash_retention: Duration,
}

/// A kind as it is stored.
#[derive(Debug, Clone)]
pub struct KindRow {
    /// The kind.
    pub kind: Kind,
    /// `mirrored` or `local`.
    pub source: String,
    /// The Mirror that feeds it.
    pub mirror: Option<String>,
    /// Declared fields.
    pub fields: Vec<String>,
    /// Those of them by which lists are sorted, and as what they are read.
    pub sorts: BTreeMap<String, SortAs>,
    /// Those of them that are not derived for every entity yet: no filters.
    pub pending: Vec<String>,
}

impl Entities {
    /// Declares the kinds of the configuration and makes their streams. Kinds declared earlier stay.
    ///
    /// # Errors
    /// The database is away, or refuses a declaration.
    pub async fn open(database: Database, mut specs: Vec<KindSpec>) -> Result<Self, StoreError> {
        let doing = "declaring kinds";
        let mut lent = database.lend().await.map_err(store_error(doing))?;
        let mut tx = lent.begin().await.map_err(store_error(doing))?;
        // In one order on every node: two that start together must not wait for each other crosswise.
        specs.sort_by(|a, b| a.kind.cmp(&b.kind));
        for spec in &mut specs {
            spec.fields.truncate(MAX_FIELDS);
            sqlx::query!(
                "INSERT INTO kinds AS k (name, source, mirror, fields, sorts) VALUES ($1, $2, $3, $4, $5::text::json)
                 ON CONFLICT (name) DO UPDATE SET source = excluded.source, mirror = excluded.mirror, fields = excluded.fields,
                     sorts = excluded.sorts
                 WHERE (k.source, k.mirror, k.fields, k.sorts::text)
                     IS DISTINCT FROM (excluded.source, excluded.mirror, excluded.fields, excluded.sorts::text)",
                spec.kind.as_str(),
                spec.source.as_str(),
                spec.mirror.as_deref(),
                &spec.fields,
                serde_json::to_string(&spec.sorts).unwrap_or_default()
            )
            .execute(&mut *tx)
            .await
            .map_err(store_error(doing))?;
            // What is declared of a kind without rows is derived; of another only what was.
            sqlx::query!(
                "INSERT INTO derivations AS d (kind, declared, derived) VALUES ($1, $2, $2)
                 ON CONFLICT (kind) DO UPDATE SET declared = excluded.declared, pass_after = NULL, pass_strays = NULL,
                     derived = ARRAY(SELECT unnest(d.derived) INTERSECT SELECT unnest(excluded.declared))
                 WHERE d.declared <> excluded.declared",
                spec.kind.as_str(),
                &spec.fields
            )
            .execute(&mut *tx)
            .await
            .map_err(store_error(doing))?;
            let stream = spec.kind.stream();
            sqlx::query!("INSERT INTO streams (name) VALUES ($1) ON CONFLICT DO NOTHING", stream.as_str())
                .execute(&mut *tx)
                .await
                .map_err(store_error(doing))?;
        }
        let secret = sqlx::query_scalar!("SELECT secret FROM cluster_secrets WHERE name = 'cursors'");
        let secret = secret.fetch_optional(&mut *tx).await.map_err(store_error(doing))?.unwrap_or_default();
        tx.commit().await.map_err(store_error(doing))?;
        let kinds = specs.into_iter().map(|spec| (spec.kind.clone(), Arc::new(spec))).collect::<HashMap<_, _>>();
        let turns = database.pool().options().get_max_connections() as usize / 2;
        let edits = Arc::new(Semaphore::new(turns.max(1)));
        let cursors = Arc::new(Cursors::new(&secret));
        Ok(Self { database, kinds: Arc::new(kinds), days: Arc::default(), recent: Arc::default(), edits, cursors })
    }

    /// Every kind, by name.
    ///
    /// # Errors
    /// The database is away.
    pub async fn kinds(&self) -> Result<Vec<KindRow>, StoreError> {
        let rows = sqlx::query!(
            r#"SELECT k.name, k.source, k.mirror, k.fields, k.sorts::text AS "sorts!",
                 ARRAY(SELECT unnest(k.fields) EXCEPT SELECT unnest(d.derived) ORDER BY 1) AS "pending!"
             FROM kinds k LEFT JOIN derivations d ON d.kind = k.name ORDER BY k.name"#
        );
        let rows = rows.fetch_all(self.database.pool()).await.map_err(store_error("reading kinds"))?;
        let known = |row: &str| Kind::new(row).ok();
        Ok(rows
            .into_iter()
            .filter_map(|row| {
                Some(KindRow {
                    kind: known(&row.name)?,
                    source: row.source,
                    mirror: row.mirror,
                    fields: row.fields,
                    // What a later version knows of is not sorted by here.
                    sorts: serde_json::from_str(&row.sorts).unwrap_or_default(),
                    pending: row.pending,
                })
            })
            .collect())
    }
}
