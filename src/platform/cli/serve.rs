//! `dzvin serve` and `dzvin migrate`.

use std::sync::Arc;

use super::{Exit, Failure, Stop, until_stopped};
use crate::{
    app::App,
    identity,
    platform::{
        config::Config,
        db::{Database, DbOptions, MIGRATIONS},
    },
};

pub(super) async fn run(config: &Config) -> Result<(), Failure> {
    let stop = Stop::new()?;
    if config.identity.keys.is_empty() {
        return Err(Failure::new(Exit::Config, "identity.keys: at least one key is needed"));
    }
    let verifier = Arc::new(identity::verifier(&config.identity).map_err(Failure::config)?);
    let pending = pending(&database(config)?).await?;
    if pending > 0 {
        let text = format!("the schema of the database is {pending} migrations behind; run dzvin migrate");
        return Err(Failure::new(Exit::Unavailable, text));
    }
    until_stopped(stop, |stopped| async {
        let app = App::start(config, verifier).await?;
        tracing::info!(address = %app.address, internal = %app.internal_address, "serving");
        Ok(app.run(async { drop(stopped.await) }).await?)
    })
    .await
}

pub(super) async fn migrate(config: &Config) -> Result<(), Failure> {
    let database = database(config)?;
    let before = pending(&database).await?;
    database.migrate().await.map_err(Failure::unavailable)?;
    println!("the schema is up to date; {before} migrations were applied");
    Ok(())
}

pub(super) fn database(config: &Config) -> Result<Database, Failure> {
    let url = config.database.url.as_ref();
    let url =
        url.ok_or_else(|| Failure::new(Exit::Config, "database.url is missing; give the address of PostgreSQL"))?;
    let bad =
        |_| Failure::new(Exit::Config, "database.url is no address of PostgreSQL (postgres://user@host/database)");
    let mut options = DbOptions::new(url.expose()).map_err(bad)?;
    options.acquire_timeout = config.database.acquire_timeout;
    Ok(Database::new(options))
}

/// How many migrations of this program the database lacks.
pub(super) async fn pending(database: &Database) -> Result<usize, Failure> {
    let unusable =
        |error: sqlx::Error| Failure::new(Exit::Unavailable, format!("PostgreSQL cannot be used: {}", cause(&error)));
    let table: bool = sqlx::query_scalar("SELECT to_regclass('_sqlx_migrations') IS NOT NULL")
        .fetch_one(database.pool())
        .await
        .map_err(unusable)?;
    let applied: Vec<i64> = if table {
        let all = sqlx::query_scalar("SELECT version FROM _sqlx_migrations WHERE success").fetch_all(database.pool());
        all.await.map_err(unusable)?
    } else {
        Vec::new()
    };
    let ours = MIGRATIONS.iter().filter(|migration| migration.migration_type.is_up_migration());
    Ok(ours.filter(|migration| !applied.contains(&migration.version)).count())
}

/// What helps: the pool's own timeout only says that it waited.
pub(super) fn cause(error: &sqlx::Error) -> String {
    match error {
        sqlx::Error::PoolTimedOut => "it does not answer in time".to_owned(),
        error => crate::platform::http::chain(error),
    }
}
