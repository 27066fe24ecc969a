//! The outside world of `dzvin dev`: a sandbox in this process, and the mirrors that lead to it.
//!
//! The sandbox forgets with its process and the database does not. So each start goes on from what the database holds: the
//! same documents, and an oplog that begins at the committed cursor. Nothing is taken for lost, however the last run ended.

use std::error::Error;

use dzvin_actors::platform::ports::StoreError;
use dzvin_protocols::platform::Kind;
use dzvin_sandbox::{DEFAULT_TOKEN, Generate, Play, Sandbox, SandboxConfig, SandboxHandle, Ts, fixtures};

use super::{Exit, Failure};
use crate::{
    entities::Entities,
    mirror::Mirrors,
    platform::{
        config::{Config, KindConfig, KindSource, MirrorConfig, Reconcile, Secret, SecretUrl},
        db::Database,
    },
};

/// Generated objects in each collection, beside the real ones.
const GENERATED: usize = 50;
/// Edits a second: something to look at.
const EDITS_PER_S: f64 = 2.0;

/// A collection as an earlier run left it.
struct Earlier {
    cursor: Ts,
    documents: Vec<(String, String)>,
}

/// Starts the sandbox and adds its mirrors to the configuration. The schema must be up to date.
pub(super) async fn start(config: &mut Config, database: &Database) -> Result<SandboxHandle, Failure> {
    let mut setup = SandboxConfig::default();
    let entities = Entities::open(database.clone(), Vec::new()).await.map_err(Failure::unavailable)?;
    let mirrors = Mirrors::new(entities.clone());
    let mut collections = Vec::new();
    for (n, collection) in setup.collections.iter_mut().enumerate() {
        let kind = Kind::new(&collection.name).map_err(Failure::internal)?;
        let earlier = earlier(&mirrors, &entities, &kind).await.map_err(Failure::unavailable)?;
        if n == 0 && earlier.is_none() {
            let real = tokio::task::spawn_blocking(fixtures::real).await.map_err(Failure::internal)?;
            collection.seed = real.map_err(|error| failed(&error))?;
        }
        collections.push((kind, collection.path.clone(), earlier));
    }
    let handle = Sandbox::start(setup).await.map_err(|error| failed(&error))?;
    let control = handle.control();
    for (seed, (name, path, earlier)) in (0_u64..).zip(collections) {
        let filled = match earlier {
            Some(earlier) => control.restore(name.as_str(), earlier.cursor, &earlier.documents),
            None => {
                let order = Generate { collection: name.to_string(), count: GENERATED, seed, ..Generate::default() };
                control.generate(&order).map(drop)
            }
        };
        filled.map_err(|error| failed(&error))?;
        // What people filter by, unless the configuration has its own words on the kind.
        let fields = || KindConfig { fields: vec!["status".to_owned()], ..KindConfig::default() };
        config.kinds.entry(name.clone()).or_insert_with(fields);
        config.mirrors.push(mirror(&handle, &name, &path));
    }
    // One of the organisation's own, so that writing can be tried.
    let own = Kind::new("deal").map_err(Failure::internal)?;
    let fields = vec!["status".to_owned(), "owner".to_owned()];
    let local = KindConfig { source: KindSource::Local, fields, ..KindConfig::default() };
    config.kinds.entry(own).or_insert(local);
    control.play(&Play { rate_per_s: EDITS_PER_S, ..Play::default() }).map_err(|error| failed(&error))?;
    Ok(handle)
}

fn failed(error: &dyn Error) -> Failure {
    Failure::new(Exit::Internal, format!("the sandbox: {error}"))
}

/// What the database holds of a collection, once it has had all of it.
async fn earlier(mirrors: &Mirrors, entities: &Entities, name: &Kind) -> Result<Option<Earlier>, StoreError> {
    let cursor = mirrors.whole_until(name.as_str()).await?;
    // A cursor of another spelling is of another upstream.
    let Some(cursor) = cursor.and_then(|cursor| serde_json::from_str(&cursor).ok()) else { return Ok(None) };
    Ok(Some(Earlier { cursor, documents: entities.documents(name).await? }))
}

fn mirror(sandbox: &SandboxHandle, name: &Kind, path: &str) -> MirrorConfig {
    let mut http = toml::Table::new();
    http.insert("object".into(), format!("/api/{path}/{{id}}").into());
    http.insert("feed".into(), format!("/api/{path}/search/byDateModified/{{since}}?limit={{limit}}").into());
    let dialect = toml::Table::from_iter([("http".to_owned(), toml::Value::Table(http))]);
    MirrorConfig {
        name: name.clone(),
        kind: name.clone(),
        url: SecretUrl::new(sandbox.mirror_url(name.as_str())),
        token: Some(Secret::new(DEFAULT_TOKEN)),
        token_file: None,
        dialect,
        api_url: Some(SecretUrl::new(format!("http://{}", sandbox.address()))),
        platform_version: Some("1.0".to_owned()),
        reconcile: Reconcile::default(),
        tap: None,
    }
}
