//! Contradictions: settings that are fine alone and wrong together.

use std::{collections::BTreeSet, time::Duration};

use dzvin_protocols::{channels::MAX_CHANNEL, identity::Family};

use super::{
    Cdb, Channels, Config, IdentityConfig, IssuerConfig, KeyConfig, KindSource, LoginToken, Pusher, SecretUrl,
};
use crate::{
    entities::MAX_KINDS,
    identity::{self, MAX_KEYS, MIN_KEY, RoleViews},
    platform::http::is_origin,
};

/// Most mirrors of one hub: each takes a connection of the upstream's few.
const MAX_MIRRORS: usize = 32;
/// Most keys of servers: each call is compared with all.
const MAX_API_KEYS: usize = 64;
/// Longest window and wait of the guard: whoever has mended a client does not want to wait for longer.
const MAX_GUARD: Duration = Duration::from_secs(3600);
/// Most issuers beside us: tokens are compared with each, and each is asked for its keys.
const MAX_ISSUERS: usize = 16;
/// Most keys of an issuer in the configuration: two while one is rotated, of a few algorithms.
const MAX_ISSUER_KEYS: usize = 16;
/// Most origins beside the issuer's own at which the console may ask for tokens: one, and one that it moves to.
const MAX_LOGIN_ORIGINS: usize = 4;
/// Longest `client_id` and `scope`: they stand in the address to which a browser is sent.
const MAX_LOGIN_WORDS: usize = 1024;
/// Most namespaces: whoever needs more wants another word for their channels.
const MAX_NAMESPACES: usize = 256;
/// Most networks of proxies: each request is compared with all.
const MAX_PROXIES: usize = 64;
/// Most applications of the Pusher protocol: each connection's key is compared with all.
const MAX_APPS: usize = 64;
/// Most webhooks of one: each event goes to all.
const MAX_WEBHOOKS: usize = 8;
/// A secret of less can be guessed.
const MIN_APP_SECRET: usize = 16;
/// One that signs and one that is on its way out.
const MAX_APP_KEYS: usize = 2;
/// Most bytes of `user_info`: presence channels carry those of all members in one frame.
const MAX_USER_INFO: usize = 16 * 1024;
/// Most members of a presence channel as Pusher clients have it: each is told of all.
const MAX_MEMBERS: usize = 1_000;
/// Largest data of one event: as of the server API, far below a session's queue.
const MAX_EVENT_DATA: usize = 64 * 1024;
/// Most channels of one event, and events of one batch: a request of a megabyte is not to become a hundred.
const MAX_EVENT_CHANNELS: usize = 1_000;
const MAX_BATCH: usize = 100;
/// The hosted service's limit; clients are told seconds.
const MAX_CACHE_AGE: u64 = 1800;
/// A whole answer of the server API is built in memory, and Redis reads one page in one step.
const MAX_API_PAGE: usize = 5_000;
/// What is committed is seen within it: found by the check at the latest, and then held back.
const SEEN_WITHIN: Duration = Duration::from_secs(5);
/// A body of a megabyte holds no more small commands.
const MAX_API_BATCH: usize = 10_000;
/// Publications of one page of history: each is looked at, and read, in one step.
const MAX_HISTORY: usize = 10_000;
/// What a Pusher client is told of one by one; a channel of more would be a storm of words.
const MAX_CROWD: u64 = 100_000;
/// Shortest limit of a name: less would not hold a word and an id.
const MIN_NAME: usize = 16;
/// Longest memory of a publisher's key: whoever tries again after a day does not know any more what it has done.
const MAX_WINDOW: u64 = 24 * 3600;

/// The first contradiction, in one line that names the keys.
pub(super) fn check(config: &Config) -> Result<(), String> {
    http(config)?;
    database(config)?;
    identity(config)?;
    kinds(config)?;
    mirrors(config)?;
    cdb(config)?;
    pusher(config)?;
    channels(config)
}

fn ensure(holds: bool, why: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(why()) }
}

fn scheme(key: &str, url: Option<&SecretUrl>, allowed: &[&str]) -> Result<(), String> {
    let Some(url) = url else { return Ok(()) };
    let fits = url.scheme().is_some_and(|scheme| allowed.contains(&scheme));
    ensure(fits, || format!("{key}: expected an address that starts with {}://", allowed.join(":// or ")))
}

fn http(config: &Config) -> Result<(), String> {
    let http = &config.http;
    let same = http.listen == http.internal_listen && http.listen.port() != 0;
    ensure(!same, || "http.listen and http.internal_listen are the same address".to_owned())?;
    ensure(http.max_connections > 0, || "http.max_connections: must be above 0".to_owned())?;
    // A page of a list, or the greatest object of the upstream, twice: less would serve one client at a time.
    ensure(http.answer_bytes >= 16 * 1024 * 1024, || "http.answer_bytes: must be at least 16MiB".to_owned())?;
    for (key, value) in [
        ("request_timeout", http.request_timeout),
        ("header_timeout", http.header_timeout),
        ("write_timeout", http.write_timeout),
        ("peer_timeout", http.peer_timeout),
    ] {
        ensure(!value.is_zero(), || format!("http.{key}: must be above 0s"))?;
    }
    for origin in &http.allowed_origins {
        ensure(is_origin(origin), || {
            format!("http.allowed_origins: {origin:?} is no origin (expected https://host, https://*.host, or *)")
        })?;
    }
    let proxies = http.trusted_proxies.len();
    ensure(proxies <= MAX_PROXIES, || format!("http.trusted_proxies: at most {MAX_PROXIES}"))?;
    // A connection reserves as much when it must; below 8 KiB a token does not fit.
    let head = (8 * 1024..=1024 * 1024).contains(&http.max_head);
    ensure(head, || "http.max_head: must be from 8KiB to 1MiB".to_owned())?;
    if let Some(tls) = &http.tls {
        let (handshake, looks) = (tls.handshake_timeout, tls.reload_interval.as_millis());
        ensure(!handshake.is_zero(), || "http.tls.handshake_timeout: must be above 0s".to_owned())?;
        ensure(looks == 0 || looks >= 100, || "http.tls.reload_interval: must be 0s or at least 100ms".to_owned())?;
    }
    Ok(())
}

fn database(config: &Config) -> Result<(), String> {
    let schemes = ["postgres", "postgresql"];
    scheme("database.url", config.database.url.as_ref(), &schemes)?;
    scheme("database.direct_url", config.database.direct_url.as_ref(), &schemes)?;
    let redis =
        ["redis", "rediss", "redis+unix", "redis-sentinel", "rediss-sentinel", "redis-cluster", "rediss-cluster"];
    scheme("redis.url", config.redis.url.as_ref(), &redis)?;
    // One each for LISTEN, the relay and a Mirror, and one to serve with.
    ensure(config.database.max_connections >= 4, || "database.max_connections: must be at least 4".to_owned())?;
    for (key, value) in [
        ("database.statement_timeout", config.database.statement_timeout),
        ("database.acquire_timeout", config.database.acquire_timeout),
        ("redis.command_timeout", config.redis.command_timeout),
    ] {
        ensure(!value.is_zero(), || format!("{key}: must be above 0s"))?;
    }
    let prefix = &config.redis.prefix;
    let plain = !prefix.is_empty()
        && prefix.len() <= 32
        && prefix.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_' || b == b'.');
    ensure(plain, || "redis.prefix: expected 1 to 32 letters, digits, hyphens, underscores or dots".to_owned())
}

fn identity(config: &Config) -> Result<(), String> {
    secrets("keys", &config.identity.keys)?;
    secrets("subscription_keys", &config.identity.subscription_keys)?;
    issuers(&config.identity.issuers)?;
    login(&config.identity)?;
    views(config)?;
    if let Some(role) = &config.identity.anonymous_role {
        let known = config.identity.roles.contains_key(role);
        ensure(known, || format!("identity.anonymous_role: there is no role {role:?} in identity.roles"))?;
    }
    ensure(config.identity.audit.keep_days > 0, || "identity.audit.keep_days: at least 1".to_owned())?;
    let guard = &config.identity.guard;
    for (key, value) in [("window", guard.window), ("longest_wait", guard.longest_wait)] {
        let sane = (Duration::from_secs(1)..=MAX_GUARD).contains(&value);
        ensure(sane, || format!("identity.guard.{key}: 1s to 1h"))?;
    }
    let keys = &config.identity.api_keys;
    ensure(keys.len() <= MAX_API_KEYS, || format!("identity.api_keys: at most {MAX_API_KEYS}"))?;
    for (i, key) in keys.iter().enumerate() {
        let length = key.secret.as_ref().map(|secret| secret.expose().len());
        ensure(length.is_some(), || format!("identity.api_keys.{i}: secret or secret_file is missing"))?;
        ensure(length >= Some(MIN_KEY), || format!("identity.api_keys.{i}.secret: shorter than {MIN_KEY} bytes"))?;
    }
    Ok(())
}

/// What roles see is of kinds that there are, by fields that changes tell of.
fn views(config: &Config) -> Result<(), String> {
    for (role, kinds) in &config.identity.views {
        let known = config.identity.roles.contains_key(role);
        ensure(known, || format!("identity.views.{role}: there is no such role in identity.roles"))?;
        for (kind, view) in kinds {
            // One that is declared over the API may be masked; by which fields its rows are seen nobody could promise here.
            let known = config.kinds.contains_key(kind) || config.mirrors.iter().any(|mirror| mirror.kind == *kind);
            ensure(known || view.rows.is_none(), || {
                format!("identity.views.{role}.{kind}.rows: there is no such kind in kinds or mirrors")
            })?;
        }
    }
    let views = RoleViews::read(&config.identity.views).map_err(|error| error.to_string())?;
    for (role, kind, fields) in views.rows() {
        let declared = config.kinds.get(kind).map_or(&[][..], |kind| &kind.fields);
        for field in fields {
            ensure(declared.iter().any(|it| it == field), || {
                format!("identity.views.{role}.{kind}.rows: {field:?} is not in kinds.{kind}.fields")
            })?;
        }
    }
    Ok(())
}

fn secrets(list: &str, keys: &[KeyConfig]) -> Result<(), String> {
    ensure(keys.len() <= MAX_KEYS, || format!("identity.{list}: at most {MAX_KEYS}"))?;
    for (i, key) in keys.iter().enumerate() {
        let (length, least) = (key.secret.as_ref().map(|secret| secret.expose().len()), key.algorithm.min_secret());
        let symmetric = key.algorithm.family() == Family::Hmac;
        ensure(symmetric, || format!("identity.{list}.{i}.algorithm: a secret is for HS256, HS384 or HS512"))?;
        ensure(length.is_some(), || format!("identity.{list}.{i}: secret or secret_file is missing"))?;
        ensure(length >= Some(least), || format!("identity.{list}.{i}.secret: shorter than {least} bytes"))?;
    }
    let ids: BTreeSet<&str> = keys.iter().map(|key| key.id.as_str()).collect();
    ensure(ids.len() == keys.len(), || format!("identity.{list}: two keys have one id"))
}

fn issuers(issuers: &[IssuerConfig]) -> Result<(), String> {
    ensure(issuers.len() <= MAX_ISSUERS, || format!("identity.issuers: at most {MAX_ISSUERS}"))?;
    let mut names = BTreeSet::new();
    for (i, it) in issuers.iter().enumerate() {
        let at = |what: &str| format!("identity.issuers.{i}{what}");
        ensure(!it.issuer.is_empty() && !it.audience.is_empty(), || at(": issuer and audience must not be empty"))?;
        ensure(names.insert(&it.issuer), || at(&format!(".issuer: {} is used twice", it.issuer)))?;
        let sources = [it.jwks_url.is_some(), it.jwks_file.is_some(), it.discovery, !it.keys.is_empty()];
        let one = sources.into_iter().filter(|given| *given).count() == 1;
        ensure(one, || at(": exactly one of jwks_url, jwks_file, discovery and keys is needed"))?;
        let (url, discovered) = (it.jwks_url.as_ref().map(SecretUrl::expose), it.discovery.then_some(&*it.issuer));
        for (key, url) in [(".jwks_url", url), (".issuer", discovered)] {
            let allowed = url.is_none_or(|url| identity::may_be_fetched(url, it.insecure_http));
            ensure(allowed, || at(key) + ": expected https://, or http:// on this machine, or insecure_http = true")?;
        }
        let public = !it.algorithms.is_empty() && it.algorithms.iter().all(|one| one.family() != Family::Hmac);
        ensure(public, || at(".algorithms: expected some, and no secrets: those belong to identity.keys"))?;
        ensure(it.connections || it.subscriptions, || at(": neither connections nor subscriptions"))?;
        ensure(it.keys.len() <= MAX_ISSUER_KEYS, || at(&format!(".keys: at most {MAX_ISSUER_KEYS}")))?;
        for (k, key) in it.keys.iter().enumerate() {
            ensure(key.pem.is_some(), || at(&format!(".keys.{k}: pem or pem_file is missing")))?;
            let allowed = it.algorithms.contains(&key.algorithm);
            ensure(allowed, || at(&format!(".keys.{k}.algorithm: {} is not in algorithms", key.algorithm)))?;
        }
    }
    Ok(())
}

/// What the console says to an issuer, and where: a browser is sent there, so it must be an address, of an issuer that is known.
fn login(config: &IdentityConfig) -> Result<(), String> {
    let Some(login) = &config.login else { return Ok(()) };
    let at = |what: &str| format!("identity.login.{what}");
    let issuer = config.issuers.iter().find(|it| it.issuer == login.issuer);
    let issuer = issuer.ok_or_else(|| at(&format!("issuer: there is no {:?} in identity.issuers", login.issuer)))?;
    ensure(issuer.connections, || at("issuer: its tokens connect nobody (connections = false)"))?;
    let allowed = identity::may_be_fetched(&login.issuer, issuer.insecure_http);
    let named = identity::login::origin(&login.issuer).is_some();
    ensure(allowed && named, || at("issuer: expected https://, or http:// on this machine, or insecure_http = true"))?;
    let words = |text: &str| !text.is_empty() && text.len() <= MAX_LOGIN_WORDS && !text.contains(char::is_control);
    ensure(words(&login.client_id), || at("client_id: expected what the issuer calls the console"))?;
    let openid = words(&login.scope) && login.scope.split(' ').any(|word| word == "openid");
    ensure(openid, || at("scope: expected words with spaces between, openid among them"))?;
    // RFC 8707: an absolute URI without a fragment.
    let uri = |text: &str| reqwest::Url::parse(text).is_ok_and(|url| url.fragment().is_none());
    let resource = login.resource.as_deref().is_none_or(|text| text.len() <= MAX_LOGIN_WORDS && uri(text));
    ensure(resource, || at("resource: expected an absolute URI without a fragment"))?;
    ensure(login.origins.len() <= MAX_LOGIN_ORIGINS, || at(&format!("origins: at most {MAX_LOGIN_ORIGINS}")))?;
    for origin in &login.origins {
        let exact = is_origin(origin) && identity::login::origin(origin).as_ref() == Some(origin);
        let allowed = exact && identity::may_be_fetched(origin, issuer.insecure_http);
        ensure(allowed, || at(&format!("origins: {origin:?} is no origin (expected https://host, without a path)")))?;
    }
    let own = login.token != LoginToken::Id || issuer.audience == login.client_id;
    ensure(own, || at("token: an ID token is for the client, so the issuer's audience has to be client_id"))
}

fn kinds(config: &Config) -> Result<(), String> {
    ensure(config.kinds.len() <= MAX_KINDS, || format!("kinds: at most {MAX_KINDS}"))?;
    for (name, kind) in &config.kinds {
        let seen = kind.hold + config.channels.position_check <= SEEN_WITHIN;
        ensure(seen, || format!("kinds.{name}.hold: with channels.position_check it must be at most {SEEN_WITHIN:?}"))?;
        let local = kind.source == KindSource::Local || kind.trash_retention.is_zero();
        ensure(local, || format!("kinds.{name}.trash_retention: what is mirrored is its upstream's to delete"))?;
        let ours = kind.source == KindSource::Local || kind.schema_file.is_none();
        ensure(ours, || format!("kinds.{name}.schema_file: what is mirrored is as its upstream writes it"))?;
        let held = !kind.conflate || !kind.hold.is_zero();
        ensure(held, || format!("kinds.{name}.conflate: nothing is held back, hold is missing"))?;
        kind.declaration().check().map_err(|error| format!("kinds.{name}.{error}"))?;
    }
    Ok(())
}

fn mirrors(config: &Config) -> Result<(), String> {
    ensure(config.mirrors.len() <= MAX_MIRRORS, || format!("mirrors: at most {MAX_MIRRORS}"))?;
    let (mut names, mut taken) = (BTreeSet::new(), BTreeSet::new());
    for (i, mirror) in config.mirrors.iter().enumerate() {
        ensure(names.insert(&mirror.name), || format!("mirrors.{i}.name: {} is used twice", mirror.name))?;
        ensure(taken.insert(&mirror.kind), || format!("mirrors.{i}.kind: {} has a mirror already", mirror.kind))?;
        scheme(&format!("mirrors.{i}.url"), Some(&mirror.url), &["ws", "wss"])?;
        scheme(&format!("mirrors.{i}.api_url"), mirror.api_url.as_ref(), &["http", "https"])?;
        let local = config.kinds.get(&mirror.kind).is_some_and(|kind| kind.source == KindSource::Local);
        ensure(!local, || format!("mirrors.{i}.kind: {} is local in kinds.{}.source", mirror.kind, mirror.kind))?;
        let page = mirror.reconcile.page;
        ensure((1..=100).contains(&page), || format!("mirrors.{i}.reconcile.page: expected 1 to 100"))?;
    }
    Ok(())
}

fn cdb(config: &Config) -> Result<(), String> {
    let Cdb { per_second, per_minute, burst, .. } = config.cdb;
    for (key, value) in [("per_second", per_second), ("per_minute", per_minute), ("burst", burst)] {
        ensure(value > 0, || format!("cdb.{key}: must be above 0"))?;
    }
    Ok(())
}

fn pusher(config: &Config) -> Result<(), String> {
    let Pusher { apps, activity_timeout, client_events_per_second, max_client_event, max_user_info, cache_age, .. } =
        &config.pusher;
    ensure(apps.len() <= MAX_APPS, || format!("pusher.apps: at most {MAX_APPS}"))?;
    let seconds = activity_timeout.as_secs();
    ensure((1..=3600).contains(&seconds), || "pusher.activity_timeout: must be from 1s to 1h".to_owned())?;
    ensure(*client_events_per_second > 0, || "pusher.client_events_per_second: must be above 0".to_owned())?;
    let below = (1..config.channels.max_message).contains(max_client_event);
    ensure(below, || "pusher.max_client_event: must be above 0 and below channels.max_message".to_owned())?;
    ensure(*max_user_info <= MAX_USER_INFO, || "pusher.max_user_info: at most 16KiB".to_owned())?;
    let kept = (1..=MAX_CACHE_AGE).contains(&cache_age.as_secs());
    ensure(kept, || "pusher.cache_age: must be from 1s to 30m".to_owned())?;
    let Pusher { max_event, max_event_channels, max_batch, .. } = &config.pusher;
    ensure((1..=MAX_EVENT_DATA).contains(max_event), || "pusher.max_event: must be from 1 to 64KiB".to_owned())?;
    let once = (1..=MAX_EVENT_CHANNELS).contains(max_event_channels);
    ensure(once, || format!("pusher.max_event_channels: must be from 1 to {MAX_EVENT_CHANNELS}"))?;
    ensure((1..=MAX_BATCH).contains(max_batch), || format!("pusher.max_batch: must be from 1 to {MAX_BATCH}"))?;
    let Pusher { webhook_timeout, webhook_patience, .. } = &config.pusher;
    let attempt = (100..=60_000).contains(&webhook_timeout.as_millis());
    ensure(attempt, || "pusher.webhook_timeout: must be from 100ms to 1m".to_owned())?;
    let tried = (1_000..=3_600_000).contains(&webhook_patience.as_millis());
    ensure(tried, || "pusher.webhook_patience: must be from 1s to 1h".to_owned())?;
    for (i, app) in apps.iter().enumerate() {
        let at = |key: &str| format!("pusher.apps.{i}.{key}");
        ensure((1..=MAX_APP_KEYS).contains(&app.keys.len()), || format!("{}: one or two", at("keys")))?;
        for (k, key) in app.keys.iter().enumerate() {
            let length = key.secret.as_ref().map(|secret| secret.expose().len());
            ensure(length.is_some(), || format!("{}.{k}: secret or secret_file is missing", at("keys")))?;
            let long = length >= Some(MIN_APP_SECRET);
            ensure(long, || format!("{}.{k}.secret: shorter than {MIN_APP_SECRET} bytes", at("keys")))?;
        }
        let members = (1..=MAX_MEMBERS).contains(&app.max_members);
        ensure(members, || format!("{}: must be from 1 to {MAX_MEMBERS}", at("max_members")))?;
        ensure(app.webhooks.len() <= MAX_WEBHOOKS, || format!("{}: at most {MAX_WEBHOOKS}", at("webhooks")))?;
        for (w, webhook) in app.webhooks.iter().enumerate() {
            scheme(&format!("{}.{w}.url", at("webhooks")), Some(&webhook.url), &["http", "https"])?;
            let host = reqwest::Url::parse(webhook.url.expose()).is_ok_and(|url| url.has_host());
            ensure(host, || format!("{}.{w}.url: not an address", at("webhooks")))?;
        }
    }
    // Ids and keys that two applications share, or that are spelled wrong.
    crate::channels::pusher::apps(&config.pusher).map(drop).map_err(|(key, error)| format!("{key}: {error}"))
}

/// What has a least and a most.
fn within(c: &Channels) -> Result<(), String> {
    let (second, minute, hour) = (1_000, 60_000, 3_600_000);
    for (key, value, least, most, range) in [
        ("expiry_grace", c.expiry_grace, 0, hour, "at most 1h"),
        ("command_timeout", c.command_timeout, 100, minute, "from 100ms to 1m"),
        ("position_check", c.position_check, 100, SEEN_WITHIN.as_millis(), "from 100ms to 5s"),
        // It is renewed five times in its length, and must outlive a restart of Redis.
        ("presence_lease", c.presence_lease, 5 * second, 5 * minute, "from 5s to 5m"),
        ("vacated_hold", c.vacated_hold, 0, minute, "at most 1m"),
        ("keep_positions", c.keep_positions, minute, 366 * 24 * hour, "from 1m to 366d"),
    ] {
        ensure((least..=most).contains(&value.as_millis()), || format!("channels.{key}: must be {range}"))?;
    }
    for (key, value, least, most) in [
        ("max_history", c.max_history, 1, MAX_HISTORY),
        ("max_presence", c.max_presence, 1, MAX_API_PAGE),
        ("max_api_page", c.max_api_page, 1, MAX_API_PAGE),
        ("max_api_batch", c.max_api_batch, 1, MAX_API_BATCH),
        ("max_channel_name", c.max_channel_name, MIN_NAME, MAX_CHANNEL),
    ] {
        ensure((least..=most).contains(&value), || format!("channels.{key}: must be from {least} to {most}"))?;
    }
    let crowd = (1..=c.crowd_above).contains(&c.crowd_below) && c.crowd_above <= MAX_CROWD;
    ensure(crowd, || {
        format!("channels.crowd_below: must be above 0 and not above crowd_above, which is at most {MAX_CROWD}")
    })?;
    ensure(c.max_history_bytes > 0, || "channels.max_history_bytes: must be above 0".to_owned())?;
    // Whoever forgets where a stream stood while it has a past would number it anew.
    let ages = c.namespaces.values().map(|of| of.history_age).chain([c.history_age]);
    let outlives = ages.max().is_none_or(|longest| longest <= c.keep_positions);
    ensure(outlives, || "channels.keep_positions must not be below history_age, of any namespace".to_owned())
}

fn channels(config: &Config) -> Result<(), String> {
    let c = &config.channels;
    let below = |small: (&str, u128), large: (&str, u128)| {
        ensure(small.1 < large.1, || format!("channels.{} must be below channels.{}", small.0, large.0))
    };
    below(("recovery_bytes", c.recovery_bytes as u128), ("queue_bytes", c.queue_bytes as u128))?;
    below(("max_history_bytes", c.max_history_bytes as u128), ("queue_bytes", c.queue_bytes as u128))?;
    below(("max_message", c.max_message as u128), ("queue_bytes", c.queue_bytes as u128))?;
    below(("pong", c.pong.as_millis()), ("ping", c.ping.as_millis()))?;
    // A larger publication goes out as a reference; the queue must hold at least one that does not.
    ensure(c.queue_bytes >= 128 * 1024, || "channels.queue_bytes: must be at least 128KiB".to_owned())?;
    for (key, value) in [
        ("max_channels", c.max_channels),
        ("history_count", c.history_count),
        ("history_bytes", c.history_bytes),
        ("recovery_count", c.recovery_count),
        ("max_sessions", c.max_sessions),
        ("idempotency_keys", c.idempotency_keys),
    ] {
        ensure(value > 0, || format!("channels.{key}: must be above 0"))?;
    }
    within(c)?;
    let window = (1..=MAX_WINDOW).contains(&c.idempotency_window.as_secs());
    ensure(window, || "channels.idempotency_window: must be from 1s to 24h".to_owned())?;
    ensure(c.namespaces.len() <= MAX_NAMESPACES, || format!("channels.namespaces: at most {MAX_NAMESPACES}"))?;
    for (name, of) in &c.namespaces {
        let word = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-=@,;".contains(&b));
        let ours = dzvin_protocols::channels::RESERVED.contains(&name.as_str());
        ensure(word && !ours, || format!("channels.namespaces.{name}: no first word of the application's channels"))?;
        let kept = of.history_count > 0 && of.history_bytes > 0;
        ensure(kept, || format!("channels.namespaces.{name}: history_count and history_bytes must be above 0"))?;
    }
    ensure(!c.connect_timeout.is_zero(), || "channels.connect_timeout: must be above 0s".to_owned())?;
    let (sessions, connections) = (c.max_sessions, config.http.max_connections);
    ensure(sessions <= connections, || "channels.max_sessions must not be above http.max_connections".to_owned())?;
    let ttl = config.leases.ttl.as_millis();
    ensure((500..=60_000).contains(&ttl), || "leases.ttl: must be from 500ms to 1m".to_owned())?;
    ensure(config.changes.retention_days > 0, || "changes.retention_days: must be above 0".to_owned())?;
    ensure(!config.shutdown.grace.is_zero(), || "shutdown.grace: must be above 0s".to_owned())
}
