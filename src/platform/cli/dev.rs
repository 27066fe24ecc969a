//! `dzvin dev`: the whole hub on one machine, with the sandbox as the outside world.
//!
//! Start: data directory and database -> schema -> sandbox -> hub. Stop is the reverse; the database stops last, in order.

use std::{path::Path, sync::Arc, time::Duration};

use dzvin_sandbox::SandboxHandle;

use super::{Exit, Failure, Stop, outside, serve, token, until_stopped};
use crate::{
    app::{App, AppError},
    identity::{self, Verifier},
    platform::{config::Config, descriptors, dev::DevRoom, http::listen, lease::PgLeases},
};

/// The printed tokens are for trying things out, and the next start prints others.
const TOKEN_TTL: Duration = Duration::from_secs(30 * 24 * 3600);
/// The role of the link that opens the page, where there is one.
const OPENED_AS: &str = "operator";

pub(super) async fn run(mut config: Config) -> Result<(), Failure> {
    let stop = Stop::with_terminal()?;
    // A taken port is told before a database is started for nothing; the hub itself takes them later.
    for (key, addr) in [("http.listen", config.http.listen), ("http.internal_listen", config.http.internal_listen)] {
        listen(key, addr).map_err(AppError::from)?;
    }
    descriptors::raise(&config);
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
    let database = serve::database(config)?;
    database.migrate().await.map_err(Failure::unavailable)?;
    if room.postgres.is_some() {
        // The directory's lock is ours, so an earlier holder is dead and nobody has to wait for its leases to end.
        PgLeases::end_all(&database).await.map_err(Failure::unavailable)?;
    }
    let sandbox = if config.mirrors.is_empty() { Some(outside::start(config, &database).await?) } else { None };
    drop(database);
    let verifier = Arc::new(identity::verifier(&config.identity).map_err(Failure::config)?);
    let app = App::start(config, Arc::clone(&verifier)).await?;
    greet(config, &app, &verifier, sandbox.as_ref(), &room.data_dir)?;
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

/// What a newcomer needs to see: one link that opens the page, and a token for each role.
fn greet(
    config: &Config,
    app: &App,
    verifier: &Verifier,
    sandbox: Option<&SandboxHandle>,
    data_dir: &Path,
) -> Result<(), Failure> {
    let mut tokens = Vec::new();
    for role in config.identity.roles.keys() {
        tokens.push((role, token::sign(verifier, role, std::slice::from_ref(role), TOKEN_TTL)?));
    }
    let scheme = if config.http.tls.is_some() { "https" } else { "http" };
    let page = format!("{scheme}://{}/console/", app.address);
    match tokens.iter().find(|(role, _)| *role == OPENED_AS).or(tokens.first()) {
        Some((role, token)) => println!("Dzvin runs; the page, signed in as {role}:\n\n  {page}#token={token}\n"),
        None => println!("Dzvin runs; the page: {page}\n"),
    }
    println!("Tokens, valid for 30 days, for its sign-in form or for `Authorization: Bearer`:\n");
    for (role, token) in &tokens {
        println!("  {role:<10} {token}");
    }
    println!("\nhealth and metrics: http://{0}/readyz, http://{0}/metrics", app.internal_address);
    if let Some(sandbox) = sandbox {
        println!("the sandbox, edited and broken over HTTP: {}/", sandbox.control_url());
    }
    println!("Ctrl-C stops everything; the data stays in {}\n", data_dir.display());
    Ok(())
}
