//! Kinds: what types of entities there are, who owns them, how their documents look and by which fields they are filtered.
//!
//! Invariants: a kind of the configuration is as this node's configuration says; any other is as it was declared over the API, the same on
//! every node: who writes it by another version is refused by the database and looks again. Kinds never go away.
//!
//! Not here: how a kind is declared over the API (`declare`).

use std::{borrow::Cow, collections::HashMap, future::Future, sync::Arc, time::Duration};

use dzvin_actors::platform::ports::StoreError;
use dzvin_protocols::{
    entities::{Declaration, vector},
    platform::Kind,
};
use sqlx::PgConnection;
use tokio::{
    sync::{Semaphore, watch},
    time::{sleep, timeout},
};

use super::{
    Entities,
    cursor::Cursors,
    log::number,
    schema::{Schema, SchemaError},
};
use crate::platform::db::{Database, store_error};

/// Most kinds: each is a stream, a metric label and a subscription.
pub const MAX_KINDS: usize = 256;

/// Between two looks at what was declared where nobody says so.
const EVERY: Duration = Duration::from_secs(5);

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
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Mirrored => "mirrored",
            Self::Local => "local",
        }
    }
}

/// Who has the say over a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// The configuration of the nodes.
    Configuration,
    /// Whoever may declare over the API.
    Api,
}

/// A kind as this node goes by it.
#[derive(Debug, Clone)]
pub struct KindSpec {
    /// The kind.
    pub kind: Kind,
    /// Who owns it.
    pub source: Source,
    /// The Mirror that feeds it.
    pub mirror: Option<String>,
    /// What is declared of it.
    pub declaration: Arc<Declaration>,
    /// By what documents are judged.
    pub schema: Option<Arc<Schema>>,
    /// Dotted paths of versions: what may differ without being a change.
    pub version_paths: Vec<String>,
    /// Of one that is declared over the API: by which version.
    pub version: Option<i64>,
}

/// Before the texts of which words are kept, where it stands among the fields that are derived: no path has a control character.
const WORDS_OF: &str = "\u{1f}";

impl KindSpec {
    /// A kind as it is declared; the schema is made ready.
    ///
    /// # Errors
    /// The schema is none.
    pub fn new(kind: Kind, source: Source, declaration: Declaration) -> Result<Self, SchemaError> {
        let schema = declaration.schema.as_deref().map(Schema::read).transpose()?.map(Arc::new);
        let declaration = Arc::new(declaration);
        Ok(Self { kind, source, mirror: None, declaration, schema, version_paths: Vec::new(), version: None })
    }

    /// What is derived from documents and kept beside them, or said to be missing: the declared fields, and the words of the declared texts by
    /// a name of their own.
    pub(super) fn derives(&self) -> Cow<'_, [String]> {
        match self.words() {
            None => self.fields().into(),
            Some(words) => self.fields().iter().cloned().chain([words]).collect::<Vec<_>>().into(),
        }
    }

    /// By which name the words of its texts are derived, where there are any.
    pub(super) fn words(&self) -> Option<String> {
        let texts = &self.declaration.text;
        (!texts.is_empty()).then(|| texts.iter().flat_map(|text| [WORDS_OF, text]).collect())
    }

    /// The words of a document, as they are stored.
    pub(super) fn vector(&self, doc: &str) -> Option<String> {
        let texts = &self.declaration.text;
        (!texts.is_empty()).then(|| vector(&self.kind, doc, texts))
    }

    /// The declared fields.
    #[must_use]
    pub fn fields(&self) -> &[String] {
        &self.declaration.fields
    }
}

/// Waits for declarations.
#[derive(Debug)]
pub struct Redeclared(watch::Receiver<Arc<Kinds>>);

impl Redeclared {
    /// Until a kind is declared anew; `false` when none will be any more.
    pub async fn changed(&mut self) -> bool {
        self.0.changed().await.is_ok()
    }

    /// Until one is, and no longer than that.
    pub(super) async fn within(&mut self, longest: Duration) {
        if let Ok(false) = timeout(longest, self.changed()).await {
            sleep(longest).await;
        }
    }
}

pub(super) type Kinds = HashMap<Kind, Arc<KindSpec>>;

/// A kind as it is stored.
#[derive(Debug, Clone)]
pub struct KindRow {
    /// The kind.
    pub kind: Kind,
    /// `mirrored` or `local`.
    pub source: String,
    /// The Mirror that feeds it.
    pub mirror: Option<String>,
    /// Who has the say.
    pub origin: Origin,
    /// What is declared of it.
    pub declaration: Declaration,
    /// Counts its declarations, from 1.
    pub version: u64,
    /// Declared fields that are not derived for every entity yet: no filters.
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
        for spec in &specs {
            configure(&mut tx, spec).await.map_err(store_error(doing))?;
        }
        let secret = sqlx::query_scalar!("SELECT secret FROM cluster_secrets WHERE name = 'cursors'");
        let secret = secret.fetch_optional(&mut *tx).await.map_err(store_error(doing))?.unwrap_or_default();
        tx.commit().await.map_err(store_error(doing))?;
        drop(lent);
        let configured: Kinds = specs.into_iter().map(|spec| (spec.kind.clone(), Arc::new(spec))).collect();
        let turns = database.pool().options().get_max_connections() as usize / 2;
        let edits = Arc::new(Semaphore::new(turns.max(1)));
        let entities = Self {
            database,
            kinds: Arc::new(watch::Sender::new(Arc::new(configured))),
            told_of_kinds: Arc::default(),
            days: Arc::default(),
            recent: Arc::default(),
            edits,
            combined: Arc::default(),
            cursors: Arc::new(Cursors::new(&secret)),
        };
        entities.refresh_kinds().await?;
        Ok(entities)
    }

    /// What was declared of a kind.
    #[must_use]
    pub fn spec(&self, kind: &Kind) -> Option<Arc<KindSpec>> {
        self.kinds.borrow().get(kind).cloned()
    }

    /// Every kind of this node.
    #[must_use]
    pub fn specs(&self) -> Vec<Arc<KindSpec>> {
        self.kinds.borrow().values().cloned().collect()
    }

    /// Told whenever a kind is another one.
    #[must_use]
    pub fn redeclared(&self) -> Redeclared {
        Redeclared(self.kinds.subscribe())
    }

    /// Looks what was declared over the API, whenever somebody says so, and every few seconds, until `stop` is done.
    pub async fn keep_kinds(self, stop: impl Future<Output = ()>) {
        let work = async {
            loop {
                // Told or not: a notification may be lost.
                let _ = timeout(EVERY, self.told_of_kinds.notified()).await;
                if let Err(error) = self.refresh_kinds().await {
                    tracing::warn!(%error, "declared kinds are not looked at; tried again");
                }
            }
        };
        tokio::select! {
            () = stop => {}
            () = work => {}
        }
    }

    /// Looks what was declared over the API.
    ///
    /// # Errors
    /// The database is away.
    pub async fn refresh_kinds(&self) -> Result<(), StoreError> {
        let doing = "reading kinds";
        let rows = sqlx::query!(r#"SELECT name, version, origin = 'api' AS "ours!" FROM kinds ORDER BY name"#);
        let rows = rows.fetch_all(self.database.pool()).await.map_err(store_error(doing))?;
        let known = Arc::clone(&self.kinds.borrow());
        let mut fresh = Vec::new();
        for row in rows {
            let Ok(kind) = Kind::new(&row.name) else { continue };
            let spec = known.get(&kind);
            if !row.ours {
                // Other nodes have it in their configuration now: until this one has, it goes by what it knows.
                let before = spec.filter(|spec| spec.version.is_some());
                fresh.extend(before.map(|spec| Arc::new(KindSpec { version: None, ..KindSpec::clone(spec) })));
                continue;
            }
            // Of the configuration, or as it is known. A database that went back in time has an earlier one, and has the say.
            if spec.is_some_and(|spec| spec.version.is_none_or(|version| version == row.version)) {
                continue;
            }
            let declared = sqlx::query!(
                r#"SELECT version, declaration::text AS "declaration!" FROM kinds WHERE name = $1"#,
                kind.as_str()
            );
            let declared = declared.fetch_one(self.database.pool()).await.map_err(store_error(doing))?;
            fresh.extend(ready(kind, declared.declaration, declared.version).await.map(Arc::new));
        }
        self.take_kinds(fresh);
        Ok(())
    }

    /// Takes over what is another than what is known. Should it be known better meanwhile, the next write, or look, says so.
    pub(super) fn take_kinds(&self, fresh: Vec<Arc<KindSpec>>) {
        self.kinds.send_if_modified(|kinds| {
            let other = |spec: &Arc<KindSpec>| match kinds.get(&spec.kind) {
                Some(known) => known.version.is_some() && known.version != spec.version,
                None => true,
            };
            let other: Vec<_> = fresh.into_iter().filter(other).collect();
            let any = !other.is_empty();
            for spec in other {
                tracing::info!(kind = %spec.kind, version = spec.version, "a kind is as it was declared");
                Arc::make_mut(kinds).insert(spec.kind.clone(), spec);
            }
            any
        });
    }

    /// Every kind, by name.
    ///
    /// # Errors
    /// The database is away.
    pub async fn kinds(&self) -> Result<Vec<KindRow>, StoreError> {
        self.kind_rows(None).await
    }

    /// A kind as it is stored.
    ///
    /// # Errors
    /// The database is away.
    pub async fn kind(&self, kind: &Kind) -> Result<Option<KindRow>, StoreError> {
        Ok(self.kind_rows(Some(kind)).await?.pop())
    }

    async fn kind_rows(&self, only: Option<&Kind>) -> Result<Vec<KindRow>, StoreError> {
        let rows = sqlx::query!(
            r#"SELECT k.name, k.source, k.mirror, k.fields, k.sorts::text AS "sorts!", k.origin, k.version,
                 k.declaration::text AS "declaration!",
                 ARRAY(SELECT unnest(k.fields) EXCEPT SELECT unnest(d.derived) ORDER BY 1) AS "pending!"
             FROM kinds k LEFT JOIN derivations d ON d.kind = k.name WHERE $1::text IS NULL OR k.name = $1 ORDER BY k.name"#,
            only.map(Kind::as_str)
        );
        let rows = rows.fetch_all(self.database.pool()).await.map_err(store_error("reading kinds"))?;
        Ok(rows
            .into_iter()
            .filter_map(|row| {
                // What a later version knows of is not told here, but for what older ones go by as well.
                let declared = serde_json::from_str(&row.declaration).unwrap_or_default();
                let sorts = serde_json::from_str(&row.sorts).unwrap_or_default();
                Some(KindRow {
                    kind: Kind::new(&row.name).ok()?,
                    source: row.source,
                    mirror: row.mirror,
                    origin: if row.origin == "api" { Origin::Api } else { Origin::Configuration },
                    declaration: Declaration { fields: row.fields, sorts, ..declared },
                    version: number(row.version),
                    pending: row.pending,
                })
            })
            .collect())
    }
}

/// A kind as it was declared over the API; `None` where this node cannot read it, perhaps for a later version of this program wrote it.
async fn ready(kind: Kind, declaration: String, version: i64) -> Option<KindSpec> {
    let named = kind.clone();
    let read = move || -> Result<KindSpec, String> {
        let declaration: Declaration = serde_json::from_str(&declaration).map_err(|error| error.to_string())?;
        let spec = KindSpec::new(kind, Source::Local, declaration).map_err(|error| error.to_string())?;
        Ok(KindSpec { version: Some(version), ..spec })
    };
    // A schema takes its time to be made ready.
    let read = tokio::task::spawn_blocking(read).await.unwrap_or_else(|error| Err(error.to_string()));
    read.inspect_err(|error| tracing::warn!(kind = %named, version, error, "a declared kind cannot be read here")).ok()
}

/// Declares a kind of the configuration, whoever had the say before.
async fn configure(tx: &mut PgConnection, spec: &KindSpec) -> Result<(), sqlx::Error> {
    // The stream first, as with those who write; and held only where there is something to be changed.
    make_stream(tx, &spec.kind).await?;
    let stream = spec.kind.stream();
    sqlx::query!("UPDATE streams SET declaration = NULL WHERE name = $1 AND declaration IS NOT NULL", stream.as_str())
        .execute(&mut *tx)
        .await?;
    let declaration = json(&spec.declaration);
    sqlx::query!(
        "WITH declared AS (
             INSERT INTO kinds AS k (name, source, mirror, fields, sorts, declaration, version)
             VALUES ($1, $2, $3, $4, $5::text::json, $6::text::json, 1)
             ON CONFLICT (name) DO UPDATE SET source = excluded.source, mirror = excluded.mirror, fields = excluded.fields,
                 sorts = excluded.sorts, declaration = excluded.declaration, origin = 'configuration',
                 version = k.version + (k.declaration::text <> excluded.declaration::text)::int
             WHERE (k.source, k.mirror, k.fields, k.sorts::text, k.declaration::text, k.origin)
                 IS DISTINCT FROM (excluded.source, excluded.mirror, excluded.fields, excluded.sorts::text,
                     excluded.declaration::text, 'configuration')
             RETURNING name, version, declaration
         )
         INSERT INTO declarations (kind, version, declaration, by)
         SELECT name, version, declaration, 'configuration' FROM declared ON CONFLICT DO NOTHING",
        spec.kind.as_str(),
        spec.source.as_str(),
        spec.mirror.as_deref(),
        spec.fields(),
        json(&spec.declaration.sorts),
        declaration
    )
    .execute(&mut *tx)
    .await?;
    derives(tx, spec).await
}

/// Makes the kind's stream, if there is none.
pub(super) async fn make_stream(tx: &mut PgConnection, kind: &Kind) -> Result<(), sqlx::Error> {
    let stream = kind.stream();
    let made = sqlx::query!("INSERT INTO streams (name) VALUES ($1) ON CONFLICT DO NOTHING", stream.as_str());
    made.execute(tx).await.map(drop)
}

/// Says which fields are declared. Of a kind without rows all of them are derived; of another only what was.
pub(super) async fn derives(tx: &mut PgConnection, spec: &KindSpec) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "INSERT INTO derivations AS d (kind, declared, derived) VALUES ($1, $2, $2)
         ON CONFLICT (kind) DO UPDATE SET declared = excluded.declared, pass_after = NULL, pass_strays = NULL,
             derived = ARRAY(SELECT unnest(d.derived) INTERSECT SELECT unnest(excluded.declared))
         WHERE d.declared <> excluded.declared",
        spec.kind.as_str(),
        &*spec.derives()
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// Names, flags and a schema that was read before: this cannot fail.
pub(super) fn json<T: serde::Serialize>(value: &T) -> String {
    serde_json::to_string(value).unwrap_or_default()
}
