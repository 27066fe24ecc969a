//! `dzvin dev`: the whole hub on one machine, with the sandbox as the outside world.
//!
//! Start: data directory and database -> schema -> sandbox -> hub. Stop is the reverse; the database stops last, in order.

use std::{sync::Arc, time::Duration};

use dzvin_sandbox::{DEFAULT_TOKEN, Generate, Play, Sandbox, SandboxConfig, SandboxHandle, fixtures};

use super::{Exit, Failure, Stop, serve, token, until_stopped};
use crate::{
    app::App,
    identity::{self, Verifier},
    platform::{
        config::{Config, MirrorConfig, Reconcile, Secret, SecretUrl},
        dev::DevRoom,
    },
};

/// The printed tokens are for trying things out, and the next start prints others.
const TOKEN_TTL: Duration = Duration::from_secs(30 * 24 * 3600);
/// Generated objects in each collection, beside the real ones.
const GENERATED: usize = 50;
/// Edits a second: something to look at.
const EDITS_PER_S: f64 = 2.0;

pub(super) async fn run(mut config: Config) -> Result<(), Failure> {
    let stop = Stop::new()?;
    let mut room = DevRoom::open(&mut config).await?;
    let ended = until_stopped(stop, |stopped| hub(&mut config, &mut room, stopped)).await;
    let closed = room.close().await;
    ended?;
    Ok(closed?)
}

async fn hub(
    config: &mut Config,
    room: &mut DevRoom,
    stopped: tokio::sync::oneshot::Receiver<()>,
) -> Result<(), Failure> {
    serve::database(config)?.migrate().await.map_err(Failure::unavailable)?;
    let sandbox = if config.mirrors.is_empty() { Some(outside(config).await?) } else { None };
    let verifier = Arc::new(identity::verifier(&config.identity).map_err(Failure::config)?);
    let app = App::start(config, Arc::clone(&verifier)).await?;
    greet(config, &app, &verifier, sandbox.as_ref())?;
    let mut lost = None;
    let stop = async {
        let database_ended = async {
            match &mut room.postgres {
                Some(postgres) => postgres.ended().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = stopped => {}
            words = database_ended => lost = Some(words),
        }
    };
    let ran = app.run(stop).await;
    if let Some(sandbox) = sandbox {
        sandbox.stop().await;
    }
    match lost {
        Some(words) => Err(Failure::new(Exit::Unavailable, format!("the private PostgreSQL ended: {words}"))),
        None => Ok(ran?),
    }
}

/// The seam to the outside world: a sandbox in this process, and the mirrors that lead to it.
async fn outside(config: &mut Config) -> Result<SandboxHandle, Failure> {
    let failed = |error: &dyn std::error::Error| Failure::new(Exit::Internal, format!("the sandbox: {error}"));
    let mut setup = SandboxConfig::default();
    let seed = tokio::task::spawn_blocking(fixtures::real).await.map_err(Failure::internal)?;
    if let Some(first) = setup.collections.first_mut() {
        first.seed = seed.map_err(|error| failed(&error))?;
    }
    let paths: Vec<(String, String)> = setup.collections.iter().map(|c| (c.name.clone(), c.path.clone())).collect();
    let handle = Sandbox::start(setup).await.map_err(|error| failed(&error))?;
    let control = handle.control();
    for (seed, (name, path)) in (0_u64..).zip(paths) {
        let order = Generate { collection: name.clone(), count: GENERATED, seed, ..Generate::default() };
        control.generate(&order).map_err(|error| failed(&error))?;
        config.mirrors.push(mirror(&handle, &name, &path)?);
    }
    control.play(&Play { rate_per_s: EDITS_PER_S, ..Play::default() }).map_err(|error| failed(&error))?;
    Ok(handle)
}

fn mirror(sandbox: &SandboxHandle, name: &str, path: &str) -> Result<MirrorConfig, Failure> {
    let kind = dzvin_protocols::platform::Kind::new(name).map_err(Failure::internal)?;
    let mut http = toml::Table::new();
    http.insert("object".into(), format!("/api/{path}/{{id}}").into());
    http.insert("feed".into(), format!("/api/{path}/search/byDateModified/{{since}}?limit={{limit}}").into());
    let dialect = toml::Table::from_iter([("http".to_owned(), toml::Value::Table(http))]);
    Ok(MirrorConfig {
        name: kind.clone(),
        kind,
        url: SecretUrl::new(sandbox.mirror_url(name)),
        token: Some(Secret::new(DEFAULT_TOKEN)),
        token_file: None,
        dialect,
        api_url: Some(SecretUrl::new(format!("http://{}", sandbox.address()))),
        platform_version: Some("1.0".to_owned()),
        reconcile: Reconcile::default(),
        tap: None,
    })
}

/// What a newcomer needs to see.
fn greet(config: &Config, app: &App, verifier: &Verifier, sandbox: Option<&SandboxHandle>) -> Result<(), Failure> {
    println!("page      http://{}/console", app.address);
    println!("internal  http://{}/readyz", app.internal_address);
    if let Some(sandbox) = sandbox {
        println!("sandbox   {}", sandbox.control_url());
    }
    for role in config.identity.roles.keys() {
        let token = token::sign(verifier, role, std::slice::from_ref(role), &[], TOKEN_TTL)?;
        println!("{role:<9} {token}");
    }
    Ok(())
}
