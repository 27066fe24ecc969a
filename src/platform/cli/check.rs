//! `dzvin check`: the effective configuration with secrets masked, then one line for each dependency.

use std::{path::Path, time::Duration};

use dzvin_protocols::mirror::Dialect;
use tokio::{net::TcpStream, sync::mpsc, time::timeout};

use super::{
    Exit, Failure,
    serve::{cause, database, pending},
};
use crate::{
    channels::bus::{RedisBus, RedisConfig},
    console, identity,
    platform::{
        config::{Config, MirrorConfig, SecretUrl},
        http, telemetry,
    },
};

/// Longest try of one dependency.
const TRY: Duration = Duration::from_secs(5);
/// The oldest PostgreSQL that is tested, as its server spells it.
const OLDEST_POSTGRES: i32 = 150_000;

/// What a try came to: well, wrong, or only worth a word.
enum Verdict {
    Ok(String),
    Note(String),
    Wrong(Exit, String),
}

/// # Errors
/// The worst of what was found: the configuration before the dependencies.
pub(super) async fn run(config: &Config, file: Option<&Path>) -> Result<(), Failure> {
    match file {
        Some(path) => println!("# from {} and the environment", path.display()),
        None => println!("# from the environment and defaults"),
    }
    println!("{}", toml::to_string(config).map_err(Failure::internal)?);
    let mut all = vec![("log", log(config)), ("identity", keys(config)), ("console", page())];
    all.extend(postgres(config).await);
    all.push(("redis", redis(config).await));
    all.push(("http.listen", port("http.listen", config.http.listen)));
    all.push(("http.internal_listen", port("http.internal_listen", config.http.internal_listen)));
    let mut wrong: Option<(Exit, usize)> = None;
    let mut tell = |name: &str, verdict: Verdict| match verdict {
        Verdict::Ok(text) => println!("ok     {name}: {text}"),
        Verdict::Note(text) => println!("note   {name}: {text}"),
        Verdict::Wrong(exit, text) => {
            println!("WRONG  {name}: {text}");
            let (worst, count) = wrong.unwrap_or((exit, 0));
            wrong = Some((if exit == Exit::Config { exit } else { worst }, count + 1));
        }
    };
    for (name, verdict) in all {
        tell(name, verdict);
    }
    for mirror in &config.mirrors {
        let name = format!("mirror {}", mirror.name);
        tell(&name, dialect(mirror));
        tell(&name, reach("the Mirror", Some(&mirror.url)).await);
        tell(&name, reach("the API", mirror.api_url.as_ref()).await);
    }
    match wrong {
        None => Ok(()),
        Some((exit, count)) => Err(Failure::new(exit, format!("{count} of the checks above failed"))),
    }
}

fn log(config: &Config) -> Verdict {
    match telemetry::filter(&config.log.level) {
        Ok(_) => Verdict::Ok(config.log.level.clone()),
        Err(error) => Verdict::Wrong(Exit::Config, error.to_string()),
    }
}

fn keys(config: &Config) -> Verdict {
    match identity::verifier(&config.identity) {
        Ok(_) => Verdict::Ok(format!("{} keys", config.identity.keys.len())),
        Err(_) if config.identity.keys.is_empty() => {
            Verdict::Note("no keys: serve needs one, dev makes its own".to_owned())
        }
        Err(error) => Verdict::Wrong(Exit::Config, http::chain(&error)),
    }
}

fn page() -> Verdict {
    if console::is_built() {
        Verdict::Ok("built in".to_owned())
    } else {
        Verdict::Note("not built into this binary".to_owned())
    }
}

fn port(key: &'static str, addr: std::net::SocketAddr) -> Verdict {
    match http::listen(key, addr) {
        Ok(_) => Verdict::Ok(format!("{addr} is free")),
        // Checking beside a running node is usual.
        Err(error @ http::ListenError::Taken { .. }) => Verdict::Note(error.to_string()),
        Err(error) => Verdict::Wrong(Exit::Machine, http::chain(&error)),
    }
}

async fn postgres(config: &Config) -> Vec<(&'static str, Verdict)> {
    if config.database.url.is_none() {
        return vec![("database", Verdict::Note("no database.url: serve needs it, dev starts its own".to_owned()))];
    }
    let database = match database(config) {
        Ok(database) => database,
        Err(failure) => return vec![("database", Verdict::Wrong(failure.exit, failure.to_string()))],
    };
    let settings = sqlx::query_as::<_, (String, String, String)>(
        "SELECT current_setting('server_version_num'), current_setting('server_version'), current_setting('synchronous_commit')",
    );
    let (number, version, synchronous) = match timeout(TRY, settings.fetch_one(database.pool())).await {
        Ok(Ok(row)) => row,
        Ok(Err(error)) => return vec![("database", Verdict::Wrong(Exit::Unavailable, cause(&error)))],
        Err(_) => return vec![("database", Verdict::Wrong(Exit::Unavailable, format!("no answer within {TRY:?}")))],
    };
    let new = number.parse::<i32>().is_ok_and(|number| number >= OLDEST_POSTGRES);
    let version = if new {
        Verdict::Ok(format!("PostgreSQL {version}"))
    } else {
        Verdict::Wrong(Exit::Unavailable, format!("PostgreSQL {version} is too old, 15 is needed"))
    };
    let commit = match &*synchronous {
        "off" => {
            Verdict::Wrong(Exit::Unavailable, "synchronous_commit is off: a committed change could be lost".to_owned())
        }
        other => Verdict::Ok(format!("synchronous_commit is {other}")),
    };
    let schema = match pending(&database).await {
        Ok(0) => Verdict::Ok("the schema is up to date".to_owned()),
        Ok(n) => Verdict::Wrong(Exit::Unavailable, format!("the schema is {n} migrations behind; run dzvin migrate")),
        Err(failure) => Verdict::Wrong(failure.exit, failure.to_string()),
    };
    vec![("database", version), ("database", commit), ("database", schema)]
}

async fn redis(config: &Config) -> Verdict {
    let Some(url) = &config.redis.url else {
        return Verdict::Note("no redis.url: the bus is in memory and this node is alone".to_owned());
    };
    let settings = match RedisConfig::new(url.expose(), &config.redis.prefix) {
        Ok(settings) => settings,
        Err(error) => return Verdict::Wrong(Exit::Config, format!("redis.url: {error}")),
    };
    // The bus itself checks what it needs of the server when it connects.
    let (events, _) = mpsc::channel(1);
    let bus = RedisBus::new(settings, events);
    match timeout(TRY, bus.connected()).await {
        Ok(()) => Verdict::Ok(format!("answers at {}", url.masked())),
        Err(_) => Verdict::Wrong(Exit::Unavailable, format!("no answer from {} within {TRY:?}", url.masked())),
    }
}

fn dialect(mirror: &MirrorConfig) -> Verdict {
    let dialect: Result<Dialect, _> = mirror.dialect.clone().try_into();
    match dialect.map_err(|error: toml::de::Error| error.message().to_owned()) {
        Ok(dialect) => match dialect.check() {
            Ok(()) => Verdict::Ok("the dialect is whole".to_owned()),
            Err(error) => Verdict::Wrong(Exit::Config, format!("dialect: {error}")),
        },
        Err(error) => Verdict::Wrong(Exit::Config, format!("dialect: {error}")),
    }
}

/// Only whether the port answers: a connection with the token would take one of the upstream's few.
async fn reach(what: &str, url: Option<&SecretUrl>) -> Verdict {
    let Some(url) = url else { return Verdict::Note(format!("{what} has no address")) };
    let Ok(parsed) = reqwest::Url::parse(url.expose()) else {
        return Verdict::Wrong(Exit::Config, format!("{what}: {url} is no address"));
    };
    let host = parsed.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let port = parsed.port_or_known_default().unwrap_or_default();
    match timeout(TRY, TcpStream::connect((host.as_str(), port))).await {
        Ok(Ok(_)) => Verdict::Ok(format!("{what} answers at {host}:{port}")),
        Ok(Err(error)) => {
            Verdict::Wrong(Exit::Unavailable, format!("{what} does not answer at {host}:{port}: {error}"))
        }
        Err(_) => Verdict::Wrong(Exit::Unavailable, format!("{what} does not answer at {host}:{port} within {TRY:?}")),
    }
}
