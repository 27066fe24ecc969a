//! `[kinds]` and `[[mirrors]]`: what is held, and where it comes from.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use dzvin_protocols::{
    entities::{Declaration, SortAs},
    platform::{Kind, units::duration},
};
use serde::{Deserialize, Serialize};

use super::super::values::{Secret, SecretUrl};

/// `[kinds.NAME]`
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct KindConfig {
    /// Who owns its entities.
    pub source: KindSource,
    /// What people call it, by language.
    pub title: BTreeMap<String, String>,
    /// A file with a JSON Schema of its documents. Of a local kind only.
    pub schema_file: Option<PathBuf>,
    /// Declared fields as dotted paths: filters may name them, and changes keep their earlier values.
    pub fields: Vec<String>,
    /// Those of them by which lists are sorted, and as what they are read. Each is an index.
    pub sorts: BTreeMap<String, SortAs>,
    /// Dotted paths of texts by whose words entities are found.
    pub text: Vec<String>,
    /// What stands for an entity where there is little room: the first is its name.
    pub display: Vec<String>,
    /// Which fields hold the id of an entity of another kind.
    pub references: BTreeMap<String, Kind>,
    /// Whoever changes an entity must name the revision that they have seen (`If-Match`); else 428.
    pub require_if_match: bool,
    /// Of a local kind: what has been in the trash for so long is purged; 0: it stays.
    #[serde(with = "duration")]
    pub trash_retention: Duration,
    /// On its channels something goes out at most so often; 0: at once.
    #[serde(with = "duration")]
    pub hold: Duration,
    /// Changes of one entity go out as one then.
    pub conflate: bool,
}

impl KindConfig {
    /// What is declared of the kind, but for its schema.
    #[must_use]
    pub fn declaration(&self) -> Declaration {
        let Self { title, fields, sorts, text, display, references, require_if_match, trash_retention, .. } =
            self.clone();
        // What roles may do is said with the roles.
        let (schema, grants) = (None, BTreeMap::new());
        Declaration {
            title,
            schema,
            fields,
            sorts,
            text,
            display,
            references,
            grants,
            require_if_match,
            trash_retention,
        }
    }
}

/// Who owns the entities of a kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum KindSource {
    /// A Mirror; read-only here.
    #[default]
    Mirrored,
    /// The organisation itself.
    Local,
}

/// `[[mirrors]]`
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct MirrorConfig {
    /// `[a-z][a-z0-9-]{0,40}`, unique.
    pub name: Kind,
    /// The kind of its entities; one Mirror for a kind.
    pub kind: Kind,
    /// `ws://` or `wss://`.
    pub url: SecretUrl,
    /// What the upstream knows us by.
    pub token: Option<Secret>,
    /// A file that holds `token`; read again when the Mirror is resumed, so a new token needs no restart.
    pub token_file: Option<PathBuf>,
    /// How this upstream spells the protocol; see the dialect's own page.
    #[serde(default)]
    pub dialect: toml::Table,
    /// The same collection over HTTP, for reconciling and for objects above the message limit. The dialect's paths follow it;
    /// they begin with `/api` themselves, and an address that ends with it means the same.
    pub api_url: Option<SecretUrl>,
    /// The `Platform-Version` header.
    pub platform_version: Option<String>,
    /// The comparison with the upstream over HTTP.
    #[serde(default)]
    pub reconcile: Reconcile,
    /// Writes the first frames of the connection to a file, secrets masked.
    pub tap: Option<Tap>,
}

/// `[mirrors.reconcile]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Reconcile {
    /// From the end of one pass to the start of the next; `0s`: only after a gap.
    #[serde(with = "duration")]
    pub interval: Duration,
    /// Rest between two pages, so that a pass never eats the request budget.
    #[serde(with = "duration")]
    pub pause: Duration,
    /// Objects in a page; the upstream gives at most 100.
    pub page: usize,
}

impl Default for Reconcile {
    fn default() -> Self {
        Self { interval: Duration::from_secs(6 * 3600), pause: Duration::from_millis(500), page: 100 }
    }
}

/// `[mirrors.tap]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Tap {
    /// Where to.
    pub path: PathBuf,
    /// How many frames.
    #[serde(default = "Tap::default_frames")]
    pub frames: usize,
}

impl Tap {
    fn default_frames() -> usize {
        200
    }
}
