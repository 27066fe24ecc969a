//! From the configuration's words to what the rooms take.

use std::{path::Path, time::Duration};

use dzvin_actors::{
    channels::{
        Access, Apps, ChannelRules, Conflate, HoldRules, Limits, Namespaces, PaceRules, Publisher,
        presence::PresenceLimits,
    },
    platform::ports::{Across, BusEvent, ChannelPace, Crowd, ReadLimit, UserPace},
};
use dzvin_protocols::{
    channels::pusher::http_api::PublishLimits,
    entities::{Declaration, MAX_SCHEMA},
    mirror::Dialect,
    platform::Kind,
};
use serde_json::value::RawValue;
use tokio::{sync::mpsc, time::timeout};

use super::AppError;
use crate::{
    channels::{
        api::ApiLimits,
        bus::{AnyBus, HistoryLimits, MemoryBus, RedisBus, RedisConfig, word_patience},
        presence::PresenceSettings,
        pusher::{self, webhooks::WebhookLimits},
    },
    entities::{KindSpec, Source},
    identity::{ApiKeys, RoleViews},
    platform::{
        config::{
            AccessConfig, AcrossConfig, Channels, Config, ConflateConfig, DEFAULT_NAMESPACE, KindSource, MirrorConfig,
            NamespaceConfig, PublisherConfig, RecoveryConfig,
        },
        db::DbOptions,
    },
};

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
            let schema = declared.schema_file.as_deref().map(|file| schema(&kind, file)).transpose()?;
            let declaration = Declaration { schema, ..declared.declaration() };
            let key = format!("kinds.{kind}.schema_file");
            let spec = KindSpec::new(kind, source, declaration).map_err(|error| AppError::config(key, error))?;
            Ok(KindSpec { mirror, version_paths, ..spec })
        })
        .collect()
}

/// A JSON Schema from its file.
fn schema(kind: &Kind, file: &Path) -> Result<Box<RawValue>, AppError> {
    let wrong =
        |what: String| AppError::config(format!("kinds.{kind}.schema_file"), format!("{}: {what}", file.display()));
    let size = std::fs::metadata(file).map_err(|error| wrong(error.to_string()))?.len();
    if size > MAX_SCHEMA as u64 {
        return Err(wrong(format!("larger than {MAX_SCHEMA} bytes")));
    }
    let text = std::fs::read_to_string(file).map_err(|error| wrong(error.to_string()))?;
    RawValue::from_string(text).map_err(|error| wrong(error.to_string()))
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

/// What only the rooms can judge of the settings by themselves: before anything outside is touched.
///
/// # Errors
/// The first of it.
pub(crate) fn judge(config: &Config) -> Result<(), AppError> {
    kinds(config)?;
    replace_api_keys(&ApiKeys::default(), config)?;
    replace_apps(&Apps::default(), config)
}

/// What a Mirror's dialect is by the configuration.
pub(crate) fn dialect(mirror: &MirrorConfig) -> Result<Dialect, AppError> {
    let key = || format!("mirrors.{}.dialect", mirror.name);
    let dialect: Dialect =
        mirror.dialect.clone().try_into().map_err(|error: toml::de::Error| AppError::config(key(), error.message()))?;
    dialect.check().map_err(|error| AppError::config(key(), error))?;
    Ok(dialect)
}

pub(super) async fn bus(config: &Config, events: mpsc::Sender<BusEvent>) -> Result<AnyBus, AppError> {
    let Some(redis) = redis(config)? else {
        let bus = MemoryBus::new(kept(config), events);
        return Ok(AnyBus::Memory(bus.with_keys(config.channels.idempotency_keys)));
    };
    let bus = RedisBus::new(redis, events);
    // Of a cluster every primary; when one is away for good, the others have to do.
    if timeout(REDIS_AT_START, bus.connected()).await.is_err() && !bus.is_connected() {
        return Err(AppError::Redis);
    }
    Ok(AnyBus::Redis(bus))
}

/// What of a channel is kept where its namespace says nothing else.
fn kept(config: &Config) -> HistoryLimits {
    let Channels { history_count: count, history_bytes: bytes, history_age: age, .. } = config.channels;
    HistoryLimits { count, bytes, age }
}

/// The bus over Redis, where there is one.
fn redis(config: &Config) -> Result<Option<RedisConfig>, AppError> {
    let Some(url) = &config.redis.url else { return Ok(None) };
    let mut redis =
        RedisConfig::new(url.expose(), &config.redis.prefix).map_err(|error| AppError::config("redis.url", error))?;
    redis.limits = kept(config);
    redis.max_keys = config.channels.idempotency_keys;
    redis.command_timeout = config.redis.command_timeout;
    redis.keep_position = config.channels.keep_positions;
    Ok(Some(redis))
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
        depth: channels.recovery_depth,
        expiry_grace: channels.expiry_grace,
        command: channels.command_timeout,
        recovery: ReadLimit { count: channels.recovery_count, bytes: channels.recovery_bytes },
        history: ReadLimit { count: channels.max_history, bytes: channels.max_history_bytes },
        check: channels.position_check,
        presence: channels.max_presence,
        name: channels.max_channel_name,
    }
}

/// How the store of presence judges.
pub(super) fn presence_store(config: &Config) -> PresenceSettings {
    let Channels { presence_lease, crowd_above, crowd_below, .. } = config.channels;
    let crowd = Crowd { above: crowd_above, below: crowd_below };
    PresenceSettings { lease: presence_lease, crowd, ..PresenceSettings::default() }
}

/// How presence keeps time: the store is told that this node lives five times within its lease, so that two words may be lost.
pub(super) fn presence(config: &Config) -> PresenceLimits {
    let Channels { presence_lease, vacated_hold, command_timeout, .. } = config.channels;
    PresenceLimits {
        renew: presence_lease / 5,
        hold: vacated_hold,
        // A store that does not answer must not take the time in which the lease could still be saved.
        command: command_timeout.min(presence_lease / 3),
        // The bus gives a word up by itself; who does so earlier gives up what would have been heard.
        say: word_patience(config.redis.command_timeout),
        ..PresenceLimits::default()
    }
}

/// How webhooks are told.
pub(super) fn webhooks(config: &Config) -> WebhookLimits {
    let config = &config.pusher;
    WebhookLimits { attempt: config.webhook_timeout, patience: config.webhook_patience, ..WebhookLimits::default() }
}

/// What one call of the server API may ask.
pub(super) fn api_limits(config: &Config) -> ApiLimits {
    let Channels { max_api_page, max_api_batch, max_channel_name, idempotency_window, .. } = config.channels;
    ApiLimits { page: max_api_page, batch: max_api_batch, name: max_channel_name, idempotency: idempotency_window }
}

const fn across(over: AcrossConfig) -> Across {
    match over {
        AcrossConfig::Node => Across::Node,
        AcrossConfig::Cluster => Across::Cluster,
    }
}

/// Puts the configuration's keys of servers into force.
pub(super) fn replace_api_keys(keys: &ApiKeys, config: &Config) -> Result<(), AppError> {
    keys.replace(&config.identity.api_keys).map_err(|error| AppError::config("identity.api_keys", error))
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

/// What holds for channels of the application, and what is held back of kinds.
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
    let held = config.kinds.iter().filter(|(_, of)| !of.hold.is_zero()).map(|(kind, of)| {
        let conflate = if of.conflate { Conflate::Entity } else { Conflate::Nothing };
        (kind.clone(), HoldRules { every: of.hold, conflate })
    });
    let named = &config.channels.namespaces;
    let rest = named.get(DEFAULT_NAMESPACE).map_or_else(|| rules(&NamespaceConfig::default()), rules);
    Namespaces::new(rest, named.iter().map(|(name, of)| (name.clone(), rules(of))).collect()).with_kinds(held.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::config::{KindConfig, SecretUrl};

    const fn seconds(of: u64) -> Duration {
        Duration::from_secs(of)
    }

    /// No two values are alike, so a crossed wire is seen; nothing is left out, so a limit without a key is.
    #[test]
    fn every_limit_of_sessions_comes_from_its_key() {
        let channels = Channels {
            queue_bytes: 1,
            max_channels: 2,
            max_message: 3,
            ping: seconds(4),
            pong: seconds(5),
            connect_timeout: seconds(6),
            expiry_grace: seconds(7),
            max_connection_age: seconds(8),
            occupancy: true,
            max_sessions_per_user: 9,
            commands_per_second: 10,
            max_refusals: 11,
            command_timeout: seconds(12),
            recovery_count: 13,
            recovery_bytes: 14,
            max_history: 15,
            max_history_bytes: 16,
            position_check: seconds(17),
            max_presence: 18,
            max_channel_name: 19,
            recovery_depth: 20,
            user_publications_per_second: 21,
            user_publications_across: AcrossConfig::Cluster,
            ..Channels::default()
        };
        let config = Config { channels, ..Config::default() };
        let Limits {
            queue_bytes,
            channels,
            message,
            ping,
            pong,
            connect,
            expiry_grace,
            max_age,
            occupancy,
            of_user,
            user_pace,
            commands_per_second,
            too_many,
            command,
            recovery,
            depth,
            history,
            check,
            presence,
            name,
        } = limits(&config);
        assert_eq!((queue_bytes, channels, message, name, presence), (1, 2, 3, 19, 18));
        assert_eq!((ping, pong, connect, expiry_grace), (seconds(4), seconds(5), seconds(6), seconds(7)));
        assert_eq!((max_age, occupancy, of_user), (Some(seconds(8)), true, Some(9)));
        assert_eq!((commands_per_second, too_many, command), (Some(10), 11, seconds(12)));
        assert_eq!((recovery, depth), (ReadLimit { count: 13, bytes: 14 }, 20));
        assert_eq!(user_pace, Some(UserPace { per_second: 21, across: Across::Cluster }));
        assert_eq!((history, check), (ReadLimit { count: 15, bytes: 16 }, seconds(17)));
        // What is 0 in the file is no limit.
        let none = limits(&Config::default());
        assert_eq!((none.max_age, none.of_user, none.commands_per_second, none.user_pace), (None, None, None, None));
    }

    #[test]
    fn the_defaults_of_the_file_are_those_of_the_rooms() {
        let config = Config::default();
        assert_eq!(format!("{:?}", limits(&config)), format!("{:?}", Limits::default()));
        assert_eq!(format!("{:?}", presence(&config)), format!("{:?}", PresenceLimits::default()));
        assert_eq!(format!("{:?}", presence_store(&config)), format!("{:?}", PresenceSettings::default()));
        assert_eq!(format!("{:?}", webhooks(&config)), format!("{:?}", WebhookLimits::default()));
    }

    #[test]
    fn presence_webhooks_and_servers_have_their_keys() {
        let channels = Channels {
            presence_lease: seconds(50),
            vacated_hold: seconds(2),
            crowd_above: 7,
            crowd_below: 3,
            max_api_page: 4,
            max_api_batch: 5,
            max_channel_name: 60,
            idempotency_window: seconds(8),
            command_timeout: seconds(9),
            ..Channels::default()
        };
        let mut config = Config { channels, ..Config::default() };
        (config.pusher.webhook_timeout, config.pusher.webhook_patience) = (seconds(10), seconds(11));
        let store = presence_store(&config);
        assert_eq!((store.lease, store.crowd), (seconds(50), Crowd { above: 7, below: 3 }));
        let actor = presence(&config);
        assert_eq!((actor.renew, actor.hold, actor.command), (seconds(10), seconds(2), seconds(9)));
        // A store that does not answer must not take the time in which the lease could be saved.
        config.channels.presence_lease = seconds(6);
        config.redis.command_timeout = seconds(3);
        let actor = presence(&config);
        assert_eq!((actor.command, actor.say), (seconds(2), word_patience(seconds(3))));
        let ApiLimits { page, batch, name, idempotency } = api_limits(&config);
        assert_eq!((page, batch, name, idempotency), (4, 5, 60, seconds(8)));
        let WebhookLimits { attempt, patience, .. } = webhooks(&config);
        assert_eq!((attempt, patience), (seconds(10), seconds(11)));
    }

    #[test]
    fn the_bus_has_its_keys() {
        let channels = Channels {
            history_count: 2,
            history_bytes: 3000,
            history_age: seconds(4),
            idempotency_keys: 5000,
            keep_positions: seconds(6),
            ..Channels::default()
        };
        let mut config = Config { channels, ..Config::default() };
        assert!(redis(&config).expect("settings").is_none());
        config.redis.url = Some(SecretUrl::new("redis://127.0.0.1:7000/1"));
        (config.redis.command_timeout, config.redis.prefix) = (seconds(7), "other".to_owned());
        let redis = redis(&config).expect("settings").expect("a redis");
        let HistoryLimits { count, bytes, age } = redis.limits;
        assert_eq!((count, bytes, age), (2, 3000, seconds(4)));
        assert_eq!((redis.max_keys, redis.keep_position), (5000, seconds(6)));
        assert_eq!((redis.command_timeout, &*redis.prefix), (seconds(7), "other"));
    }

    #[test]
    fn kinds_are_held_back_as_they_say() {
        let kind = |name| Kind::new(name).expect("a kind");
        let of = |hold, conflate| KindConfig { hold: seconds(hold), conflate, ..KindConfig::default() };
        let kinds = [(kind("lot"), of(1, true)), (kind("call"), of(2, false)), (kind("deal"), of(0, false))].into();
        let all = namespaces(&Config { kinds, ..Config::default() });
        let held = |name| all.of_kind(&kind(name)).cloned();
        assert_eq!(held("lot"), Some(HoldRules { every: seconds(1), conflate: Conflate::Entity }));
        assert_eq!(held("call"), Some(HoldRules { every: seconds(2), conflate: Conflate::Nothing }));
        assert_eq!((held("deal"), held("other")), (None, None));
    }
}
