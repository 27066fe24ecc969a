//! `dzvin serve` and `dzvin migrate`.

use std::{path::PathBuf, sync::Arc};

use sqlx::{Connection, PgConnection};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::timeout,
};

use super::{Exit, Failure, Stop, until_stopped};
use crate::{
    app::{self, App, Reloader},
    identity,
    platform::{
        config::{self, Config},
        db::{Database, MIGRATIONS},
        descriptors,
        http::chain,
    },
};

pub(super) async fn run(config: &Config, file: Option<PathBuf>, migrate: bool) -> Result<(), Failure> {
    let mut stop = Stop::new()?;
    let hangup = signal(SignalKind::hangup()).map_err(Failure::internal)?;
    if config.identity.keys.is_empty() && config.identity.issuers.is_empty() {
        return Err(Failure::new(
            Exit::Config,
            "identity.keys: at least one key is needed, or one of identity.issuers",
        ));
    }
    let verifier = Arc::new(identity::verifier(&config.identity).map_err(Failure::config)?);
    let database = database(config)?;
    descriptors::raise(config);
    let pending = pending(&mut connect(config).await?).await?;
    if pending > 0 && !migrate {
        let text =
            format!("the schema of the database is {pending} migrations behind; run dzvin migrate, or serve --migrate");
        return Err(Failure::new(Exit::Unavailable, text));
    }
    // Only where something is missing: a node of the version before, back amid an upgrade, finds more than it knows.
    if pending > 0 {
        tracing::info!(pending, "the schema is brought up to date");
        tokio::select! {
            // Of nodes that start together the others wait for the first.
            done = database.migrate() => done.map_err(Failure::unavailable)?,
            // What is not committed the database gives up.
            () = stop.asked() => return Ok(()),
        }
    }
    until_stopped(stop, |stopped| async {
        let app = App::start(config, verifier).await?;
        tracing::info!(address = %app.address, internal = %app.internal_address, "serving");
        let reloading = reload_at(hangup, file, app.reloader());
        let stop = async {
            tokio::select! {
                _ = stopped => {}
                () = reloading => {}
            }
        };
        Ok(app.run(stop).await?)
    })
    .await
}

/// SIGHUP reads the configuration again and puts into force what can change while running. A wrong one changes nothing.
async fn reload_at(mut hangup: Signal, file: Option<PathBuf>, reloader: Reloader) {
    while hangup.recv().await.is_some() {
        let path = file.clone();
        let loaded = tokio::task::spawn_blocking(move || config::load(path.as_deref()));
        let result = match loaded.await {
            Ok(Ok(config)) => reloader.reload(&config).map_err(|error| chain(&error)),
            Ok(Err(error)) => Err(chain(&error)),
            Err(error) => Err(error.to_string()),
        };
        match result {
            Ok(()) => tracing::info!("the configuration was read again"),
            Err(error) => tracing::error!(error, "the configuration was not taken over"),
        }
    }
    // Signals that come no more are no reason to stop.
    std::future::pending::<()>().await;
}

pub(super) async fn migrate(config: &Config) -> Result<(), Failure> {
    let database = database(config)?;
    let before = pending(&mut connect(config).await?).await?;
    database.migrate().await.map_err(Failure::unavailable)?;
    println!("the schema is up to date; {before} migrations were applied");
    Ok(())
}

pub(super) fn database(config: &Config) -> Result<Database, Failure> {
    Ok(Database::new(app::database_options(config)?))
}

/// One connection, without the pool's patience: a refusal is told at once and as it is.
pub(super) async fn connect(config: &Config) -> Result<PgConnection, Failure> {
    let url = config.database.url.as_ref().map_or("", |url| url.expose());
    match timeout(config.database.acquire_timeout, PgConnection::connect(url)).await {
        Ok(Ok(connection)) => Ok(connection),
        Ok(Err(error)) => Err(unusable(&error)),
        Err(_) => Err(Failure::new(Exit::Unavailable, "PostgreSQL does not answer in time")),
    }
}

fn unusable(error: &sqlx::Error) -> Failure {
    Failure::new(Exit::Unavailable, format!("PostgreSQL cannot be used: {}", chain(error)))
}

/// How many migrations of this program the database lacks.
pub(super) async fn pending(connection: &mut PgConnection) -> Result<usize, Failure> {
    let table: bool = sqlx::query_scalar("SELECT to_regclass('_sqlx_migrations') IS NOT NULL")
        .fetch_one(&mut *connection)
        .await
        .map_err(|error| unusable(&error))?;
    let applied: Vec<i64> = if table {
        let all = sqlx::query_scalar("SELECT version FROM _sqlx_migrations WHERE success").fetch_all(connection);
        all.await.map_err(|error| unusable(&error))?
    } else {
        Vec::new()
    };
    let ours = MIGRATIONS.iter().filter(|migration| migration.migration_type.is_up_migration());
    Ok(ours.filter(|migration| !applied.contains(&migration.version)).count())
}
