//! `dzvin check`: the effective configuration with secrets masked, then one line for each of the settings that may be wrong by
//! itself and for each dependency.

use std::{path::Path, time::Duration};

use fred::{
    prelude::{Builder, ClientLike},
    types::{InfoKind, config::Config as RedisClientConfig},
};
use sqlx::postgres::PgListener;
use tokio::{net::TcpStream, time::timeout};

use super::{
    Exit, Failure,
    serve::{connect, pending},
};
use crate::{
    app,
    channels::bus::RedisConfig,
    console,
    identity::{self, login::LoginError},
    platform::{
        config::{AccessConfig, Config, DEFAULT_NAMESPACE, MirrorConfig, SecretUrl},
        descriptors, http, telemetry,
    },
};

/// Longest try of one dependency.
const TRY: Duration = Duration::from_secs(5);
/// The oldest PostgreSQL that is tested, as its server spells it.
const OLDEST_POSTGRES: i32 = 150_000;

/// The oldest Redis, by its major version.
const OLDEST_REDIS: u32 = 7;

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
    let mut all = vec![("console", page())];
    all.extend(postgres(config).await);
    all.extend(redis(config).await.map(|verdict| ("redis", verdict)));
    all.push(("http.listen", port("http.listen", config.http.listen)));
    all.push(("http.internal_listen", port("http.internal_listen", config.http.internal_listen)));
    all.push(("http.tls", certificate(config)));
    all.extend(open_channels(config).map(|verdict| ("pusher", verdict)));
    all.extend(machine(config).map(|verdict| ("machine", verdict)));
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
    for (name, verdict) in settings(config) {
        tell(&name, verdict);
    }
    for (name, verdict) in all {
        tell(name, verdict);
    }
    if let Ok(verifier) = identity::verifier(&config.identity) {
        for (issuer, tried) in verifier.try_issuers().await {
            let verdict = match tried {
                Ok(count) => Verdict::Ok(format!("{count} keys")),
                Err(why) => Verdict::Wrong(Exit::Unavailable, why),
            };
            tell(&format!("issuer {issuer}"), verdict);
        }
    }
    if let Some(verdict) = login(config).await {
        tell("login", verdict);
    }
    for mirror in &config.mirrors {
        let name = format!("mirror {}", mirror.name);
        tell(&name, reach("the Mirror", Some(&mirror.url)).await);
        tell(&name, reach("the API", mirror.api_url.as_ref()).await);
    }
    match wrong {
        None => Ok(()),
        Some((exit, count)) => Err(Failure::new(exit, format!("{count} of the checks above failed"))),
    }
}

/// What `check` finds wrong with the settings by themselves, in one line each: nothing outside is tried.
#[must_use]
pub fn faults(config: &Config) -> Vec<String> {
    let wrong = settings(config).into_iter().filter_map(|(name, verdict)| match verdict {
        Verdict::Wrong(_, text) => Some(format!("{name}: {text}")),
        Verdict::Ok(_) | Verdict::Note(_) => None,
    });
    wrong.collect()
}

fn settings(config: &Config) -> Vec<(String, Verdict)> {
    let mut all = vec![("log".to_owned(), log(config)), ("identity".to_owned(), keys(config))];
    all.extend(bus(config).err().map(|verdict| ("redis".to_owned(), verdict)));
    all.extend(config.mirrors.iter().map(|mirror| (format!("mirror {}", mirror.name), dialect(mirror))));
    // They judge the dialects as well, and say the first of all that is wrong.
    if !all.iter().any(|(_, verdict)| matches!(verdict, Verdict::Wrong(..))) {
        all.push(("settings".to_owned(), rooms(config)));
    }
    all
}

/// What only the rooms can judge.
fn rooms(config: &Config) -> Verdict {
    match app::judge(config) {
        Ok(()) => Verdict::Ok("every room takes them".to_owned()),
        Err(error) => Verdict::Wrong(Exit::Config, http::chain(&error)),
    }
}

/// Where Redis is to be, if anywhere.
fn bus(config: &Config) -> Result<Option<&SecretUrl>, Verdict> {
    let Some(url) = &config.redis.url else { return Ok(None) };
    match RedisConfig::new(url.expose(), &config.redis.prefix) {
        Ok(_) => Ok(Some(url)),
        Err(error) => Err(Verdict::Wrong(Exit::Config, format!("redis.url: {error}"))),
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
        Ok(_) => Verdict::Ok(format!("{} keys of ours", config.identity.keys.len())),
        Err(_) if config.identity.keys.is_empty() && config.identity.issuers.is_empty() => {
            Verdict::Note("no keys: serve needs one, dev makes its own".to_owned())
        }
        Err(error) => Verdict::Wrong(Exit::Config, http::chain(&error)),
    }
}

/// A key of the Pusher protocol stands in a page, and opens every public channel of an unnamed namespace: where clients of the
/// Centrifuge protocol are not let in there, that is worth a word.
fn open_channels(config: &Config) -> Option<Verdict> {
    let rest = config.channels.namespaces.get(DEFAULT_NAMESPACE).cloned().unwrap_or_default();
    let shared = config.pusher.apps.iter().filter(|app| app.enabled && !app.isolated);
    let shared: Vec<_> = shared.map(|app| app.id.as_str()).collect();
    if shared.is_empty() || rest.subscribe == AccessConfig::Anyone {
        return None;
    }
    Some(Verdict::Note(format!(
        "whoever has a key of {} may subscribe to any channel of an unnamed namespace without \"private-\", as this protocol has it, \
         though channels.namespaces.{DEFAULT_NAMESPACE}.subscribe lets in fewer: name the namespaces that are not for everybody",
        shared.join(", ")
    )))
}

/// Whether the console's users could sign in where they are to.
async fn login(config: &Config) -> Option<Verdict> {
    let login = config.identity.login.as_ref()?;
    let insecure = config.identity.issuers.iter().any(|it| it.issuer == login.issuer && it.insecure_http);
    Some(match identity::login::try_login(login, insecure).await {
        Ok(text) => Verdict::Ok(text),
        Err(error @ LoginError::Away(_)) => Verdict::Wrong(Exit::Unavailable, error.to_string()),
        Err(error) => Verdict::Wrong(Exit::Config, error.to_string()),
    })
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

fn certificate(config: &Config) -> Verdict {
    match config.http.tls.as_ref().map(http::Pair::read) {
        None => Verdict::Note("no http.tls: http.listen is plain, for a proxy with TLS before it".to_owned()),
        Some(Ok(_)) => Verdict::Ok("certificate and key belong together".to_owned()),
        Some(Err(error)) => Verdict::Wrong(Exit::Config, http::chain(&error)),
    }
}

/// What the machine allows: only told, for it may be enough.
fn machine(config: &Config) -> [Verdict; 2] {
    let (most, needed) = (descriptors::most(), descriptors::needed(config));
    let files = if most >= needed {
        Verdict::Ok(format!("{most} file descriptors, {needed} may be needed"))
    } else {
        Verdict::Note(format!("{most} file descriptors, but {needed} may be needed; see docs/SYSCTL.md"))
    };
    let queue =
        std::fs::read_to_string("/proc/sys/net/core/somaxconn").ok().and_then(|text| text.trim().parse::<u32>().ok());
    let queue = match queue {
        Some(queue) if queue < http::BACKLOG => {
            Verdict::Note(format!("net.core.somaxconn is {queue}, below {}; see docs/SYSCTL.md", http::BACKLOG))
        }
        Some(queue) => Verdict::Ok(format!("net.core.somaxconn is {queue}")),
        None => Verdict::Note("net.core.somaxconn cannot be read".to_owned()),
    };
    [files, queue]
}

async fn postgres(config: &Config) -> Vec<(&'static str, Verdict)> {
    if config.database.url.is_none() {
        return vec![("database", Verdict::Note("no database.url: serve needs it, dev starts its own".to_owned()))];
    }
    let mut connection = match connect(config).await {
        Ok(connection) => connection,
        Err(failure) => return vec![("database", Verdict::Wrong(failure.exit, failure.to_string()))],
    };
    let settings = sqlx::query_as::<_, (String, String, String)>(
        "SELECT current_setting('server_version_num'), current_setting('server_version'), current_setting('synchronous_commit')",
    );
    let (number, version, synchronous) = match timeout(TRY, settings.fetch_one(&mut connection)).await {
        Ok(Ok(row)) => row,
        Ok(Err(error)) => return vec![("database", Verdict::Wrong(Exit::Unavailable, http::chain(&error)))],
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
    let schema = match pending(&mut connection).await {
        Ok(0) => Verdict::Ok("the schema is up to date".to_owned()),
        Ok(n) => Verdict::Wrong(Exit::Unavailable, format!("the schema is {n} migrations behind; run dzvin migrate")),
        Err(failure) => Verdict::Wrong(failure.exit, failure.to_string()),
    };
    let mut all = vec![("database", version), ("database", commit), ("database", schema)];
    if let Some(url) = &config.database.direct_url {
        all.push(("database.direct_url", direct(url).await));
    }
    all
}

/// LISTEN is what the address is for; a pooler may take the connection and refuse that, or lose what is listened for.
async fn direct(url: &SecretUrl) -> Verdict {
    let heard = async {
        let mut listener = PgListener::connect(url.expose()).await?;
        listener.listen("dzvin_check").await?;
        sqlx::query("SELECT pg_notify('dzvin_check', '')").execute(&mut listener).await?;
        listener.recv().await
    };
    match timeout(TRY, heard).await {
        Ok(Ok(_)) => Verdict::Ok("LISTEN works".to_owned()),
        Ok(Err(error)) => {
            Verdict::Wrong(Exit::Unavailable, format!("PostgreSQL cannot be used: {}", http::chain(&error)))
        }
        Err(_) => Verdict::Wrong(Exit::Unavailable, format!("a notification did not come within {TRY:?}")),
    }
}

/// `None` where the address is none, which was said with the settings.
async fn redis(config: &Config) -> Option<Verdict> {
    match bus(config) {
        Ok(Some(url)) => Some(redis_at(url).await),
        Ok(None) => Some(Verdict::Note("no redis.url: the bus is in memory and this node is alone".to_owned())),
        Err(_) => None,
    }
}

async fn redis_at(url: &SecretUrl) -> Verdict {
    let info = match timeout(TRY, redis_info(url)).await {
        Ok(Ok(info)) => info,
        Ok(Err(error)) => return Verdict::Wrong(Exit::Unavailable, format!("{}: {error}", url.masked())),
        Err(_) => return Verdict::Wrong(Exit::Unavailable, format!("no answer from {} within {TRY:?}", url.masked())),
    };
    // Valkey says 7.2 here for the sake of clients, whatever its own version is.
    let version = info.lines().find_map(|line| line.strip_prefix("redis_version:")).unwrap_or("unknown").trim();
    let major = version.split('.').next().and_then(|major| major.parse::<u32>().ok());
    match major {
        Some(OLDEST_REDIS..) => Verdict::Ok(format!("Redis {version}")),
        _ => Verdict::Wrong(Exit::Unavailable, format!("Redis {version} is too old, {OLDEST_REDIS} is needed")),
    }
}

async fn redis_info(url: &SecretUrl) -> Result<String, fred::error::Error> {
    let config = RedisClientConfig::from_url(url.expose())?;
    let client = Builder::from_config(RedisClientConfig { fail_fast: true, ..config }).build()?;
    client.init().await?;
    let info = client.info(Some(InfoKind::Server)).await?;
    client.quit().await?;
    Ok(info)
}

fn dialect(mirror: &MirrorConfig) -> Verdict {
    match app::dialect(mirror) {
        Ok(_) => Verdict::Ok("the dialect is whole".to_owned()),
        Err(error) => Verdict::Wrong(Exit::Config, http::chain(&error)),
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
