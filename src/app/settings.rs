//! From the configuration's words to what the rooms take.

use std::time::Duration;

use dzvin_actors::{
    channels::{Access, Apps, ChannelRules, Conflate, HoldRules, Limits, Namespaces, PaceRules, Publisher},
    platform::ports::{Across, BusEvent, ChannelPace, ReadLimit, UserPace},
};
use dzvin_protocols::{channels::pusher::http_api::PublishLimits, mirror::Dialect, platform::Kind};
use tokio::{sync::mpsc, time::timeout};

use super::AppError;
use crate::{
    channels::{
        bus::{AnyBus, HistoryLimits, MemoryBus, RedisBus, RedisConfig},
        pusher,
    },
    entities::{KindSpec, Source},
    identity::RoleViews,
    platform::{
        config::{
            AccessConfig, AcrossConfig, Config, ConflateConfig, KindSource, MirrorConfig, NamespaceConfig,
            PublisherConfig, RecoveryConfig,
        },
        db::DbOptions,
    },
};

/// The rules of channels that no namespace names.
const DEFAULT_NAMESPACE: &str = "default";
/// A node that starts must find Redis; later it may go and come back.
const REDIS_AT_START: Duration = Duration::from_secs(10);

pub(crate) fn database_options(config: &Config) -> Result<DbOptions, AppError> {
    let url = config.database.url.as_ref();
    let url = url.ok_or_else(|| AppError::config("database.url", "missing; give the address of PostgreSQL"))?;
    let bad = |key: &'static str| move |_| AppError::config(key, "not a PostgreSQL address (postgres://...)");
    let mut options = DbOptions::new(url.expose()).map_err(bad("database.url"))?;
    if let Some(direct) = &config.database.direct_url {
        options.listen = Some(DbOptions::new(direct.expose()).map_err(bad("database.direct_url"))?.connect);
    }
    options.notify = config.redis.url.is_some();
    options.max_connections = config.database.max_connections;
    options.acquire_timeout = config.database.acquire_timeout;
    options.statement_timeout = config.database.statement_timeout;
    Ok(options)
}

/// The kinds of the configuration; a Mirror's kind that is not declared is declared without fields.
pub(super) fn kinds(config: &Config) -> Result<Vec<KindSpec>, AppError> {
    let mut kinds = config.kinds.clone();
    for mirror in &config.mirrors {
        kinds.entry(mirror.kind.clone()).or_default();
    }
    kinds
        .into_iter()
        .map(|(kind, declared)| {
            let mirror = config.mirrors.iter().find(|mirror| mirror.kind == kind);
            let version_paths = mirror.map(dialect).transpose()?.unwrap_or_default().paths.versions;
            versions_show_no_rows(config, &kind, &version_paths)?;
            let source = match declared.source {
                KindSource::Mirrored => Source::Mirrored,
                KindSource::Local => Source::Local,
            };
            let mirror = mirror.map(|mirror| mirror.name.to_string());
            Ok(KindSpec { kind, source, mirror, fields: declared.fields, version_paths })
        })
        .collect()
}

/// A version may move without a change being told, and with it a row would come into sight or go out of it unheard.
fn versions_show_no_rows(config: &Config, kind: &Kind, version_paths: &[String]) -> Result<(), AppError> {
    let views = RoleViews::read(&config.identity.views).map_err(|error| AppError::config("identity.views", error))?;
    for (role, _, fields) in views.rows().filter(|(_, of, _)| *of == kind) {
        let under = |field: &str, path: &String| {
            field.strip_prefix(path.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        if let Some(field) = fields.into_iter().find(|field| version_paths.iter().any(|path| under(field, path))) {
            let key = format!("identity.views.{role}.{kind}.rows");
            return Err(AppError::config(key, format!("{field} is a version: it may change without being told")));
        }
    }
    Ok(())
}

pub(super) fn dialect(mirror: &MirrorConfig) -> Result<Dialect, AppError> {
    let key = || format!("mirrors.{}.dialect", mirror.name);
    let dialect: Dialect =
        mirror.dialect.clone().try_into().map_err(|error: toml::de::Error| AppError::config(key(), error.message()))?;
    dialect.check().map_err(|error| AppError::config(key(), error))?;
    Ok(dialect)
}

pub(super) async fn bus(config: &Config, events: mpsc::Sender<BusEvent>) -> Result<AnyBus, AppError> {
    let channels = &config.channels;
    let limits =
        HistoryLimits { count: channels.history_count, bytes: channels.history_bytes, age: channels.history_age };
    let keys = channels.idempotency_keys;
    let Some(url) = &config.redis.url else {
        return Ok(AnyBus::Memory(MemoryBus::new(limits, events).with_keys(keys)));
    };
    let mut redis =
        RedisConfig::new(url.expose(), &config.redis.prefix).map_err(|error| AppError::config("redis.url", error))?;
    redis.limits = limits;
    redis.max_keys = keys;
    redis.command_timeout = config.redis.command_timeout;
    let bus = RedisBus::new(redis, events);
    // Of a cluster every primary; when one is away for good, the others have to do.
    if timeout(REDIS_AT_START, bus.connected()).await.is_err() && !bus.is_connected() {
        return Err(AppError::Redis);
    }
    Ok(AnyBus::Redis(bus))
}

pub(super) fn limits(config: &Config) -> Limits {
    let channels = &config.channels;
    Limits {
        queue_bytes: channels.queue_bytes,
        channels: channels.max_channels,
        message: channels.max_message,
        ping: channels.ping,
        pong: channels.pong,
        connect: channels.connect_timeout,
        max_age: Some(channels.max_connection_age).filter(|age| !age.is_zero()),
        commands_per_second: Some(channels.commands_per_second).filter(|pace| *pace > 0),
        too_many: channels.max_refusals,
        occupancy: channels.occupancy,
        of_user: Some(channels.max_sessions_per_user).filter(|most| *most > 0),
        user_pace: (channels.user_publications_per_second > 0).then_some(UserPace {
            per_second: channels.user_publications_per_second,
            across: across(channels.user_publications_across),
        }),
        recovery: ReadLimit { count: channels.recovery_count, bytes: channels.recovery_bytes },
        depth: channels.recovery_depth,
        ..Limits::default()
    }
}

const fn across(over: AcrossConfig) -> Across {
    match over {
        AcrossConfig::Node => Across::Node,
        AcrossConfig::Cluster => Across::Cluster,
    }
}

/// Puts the configuration's applications of the Pusher protocol into force.
pub(super) fn replace_apps(apps: &Apps, config: &Config) -> Result<(), AppError> {
    let all = pusher::apps(&config.pusher).map_err(|(key, error)| AppError::config(key, error))?;
    apps.replace(all).map_err(|error| AppError::config("pusher.apps", error))
}

/// What one request of the Pusher protocol's HTTP API may publish.
pub(super) fn publish_limits(config: &Config) -> PublishLimits {
    let pusher = &config.pusher;
    PublishLimits { data: pusher.max_event, channels: pusher.max_event_channels, batch: pusher.max_batch }
}

/// What holds for channels of the application.
pub(super) fn namespaces(config: &Config) -> Namespaces {
    let access = |access| match access {
        AccessConfig::Granted => Access::Granted,
        AccessConfig::SignedIn => Access::SignedIn,
        AccessConfig::Anyone => Access::Anyone,
    };
    let rules = |of: &NamespaceConfig| ChannelRules {
        keep: HistoryLimits { count: of.history_count, bytes: of.history_bytes, age: of.history_age },
        subscribe: access(of.subscribe),
        publish: access(of.publish),
        presence: of.presence.then(|| access(of.see_presence)),
        join_leave: of.join_leave,
        deltas: of.deltas,
        latest_only: of.recovery == RecoveryConfig::Latest,
        pace: (of.publications_per_second > 0).then_some(PaceRules {
            pace: ChannelPace { per_second: of.publications_per_second, across: across(of.publications_across) },
            only: match of.publications_of {
                PublisherConfig::Everybody => None,
                PublisherConfig::Clients => Some(Publisher::Client),
                PublisherConfig::Servers => Some(Publisher::Server),
            },
        }),
        hold: (!of.hold.is_zero()).then(|| HoldRules {
            every: of.hold,
            conflate: match of.conflate {
                ConflateConfig::Nothing => Conflate::Nothing,
                ConflateConfig::Channel => Conflate::Channel,
                ConflateConfig::Tag => Conflate::Tag(of.conflate_tag.as_str().into()),
            },
        }),
    };
    let named = &config.channels.namespaces;
    let rest = named.get(DEFAULT_NAMESPACE).map_or_else(|| rules(&NamespaceConfig::default()), rules);
    Namespaces::new(rest, named.iter().map(|(name, of)| (name.clone(), rules(of))).collect())
}
