//! Where Redis is and how long to wait for it.

use std::{fmt, time::Duration};

use dzvin_protocols::platform::StreamName;
use fred::types::{
    Builder, RespVersion,
    config::{Config, Server, ServerConfig, TcpConfig},
};

use super::{
    super::{HistoryLimits, MAX_KEYS, paces::Person},
    cluster,
};

/// Messages that the client buffers for a reader that lags, before `Lost` replaces them. Its own default of 32 is gone
/// in one burst.
const EVENT_BUFFER: usize = 256;
/// Commands that may wait for the socket; above it they fail at once.
const COMMAND_BUFFER: usize = 4096;

/// How often a connection without traffic is tried: one that is lost is missed within a second.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// What Redis is.
#[derive(Debug, Clone)]
pub(super) enum Deployment {
    /// One server.
    One(ServerConfig),
    /// One server, and those who say which.
    Watched(Sentinels),
    /// Many, of which these are asked for the others.
    Cluster(Vec<(String, u16)>),
}

/// Who says where the primary is.
#[derive(Clone)]
pub(super) struct Sentinels {
    pub(super) hosts: Vec<(String, u16)>,
    /// The name by which they know it.
    pub(super) service: String,
    username: Option<String>,
    password: Option<String>,
}

impl fmt::Debug for Sentinels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sentinels").field("hosts", &self.hosts).field("service", &self.service).finish_non_exhaustive()
    }
}

/// How to reach Redis and what to keep there.
#[derive(Clone)]
pub struct RedisConfig {
    redis: Config,
    pub(super) deployment: Deployment,
    /// Before every key and channel: several hubs may share one Redis.
    pub prefix: String,
    /// What is kept of each stream.
    pub limits: HistoryLimits,
    /// Publishers' keys that this node has remembered at once.
    pub max_keys: usize,
    /// How long the position of an idle stream is remembered. It outlives its history, so that a subscriber of a quiet
    /// stream is not told to reload: 30 days, as the protocol's reference does.
    pub keep_position: Duration,
    /// Longest wait for one command.
    pub command_timeout: Duration,
    /// Longest wait for a connection to be ready, TLS and greeting included.
    pub connect_timeout: Duration,
    /// How often a connection without traffic is tried; it is given up when `command_timeout` passes without an answer.
    pub heartbeat: Duration,
    /// How long a node counts as alive after it has last said so: it does three times in a lease and more, so that two may be
    /// lost. Ten seconds: a restart of Redis or of a switch buries nobody.
    pub lease: Duration,
    /// Longest pause between two attempts to connect. Two seconds leave room within the five in which a subscriber has
    /// to know what it lost.
    pub max_backoff: Duration,
}

/// A Redis address that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RedisConfigError {
    /// Not an address; the text may hold a password and is not repeated.
    #[error("the redis url is not valid")]
    Url(#[source] fred::error::Error),
    /// It would be ignored, and two hubs would meet where they were meant to be apart.
    #[error("a redis cluster has no databases to choose from: leave the number out, and use redis.prefix")]
    Database,
}

impl RedisConfig {
    /// One server: `redis://user:password@host:6379/0`, `rediss://...` with TLS, `redis+unix:///path`. Behind Sentinel:
    /// `redis-sentinel://user:password@host:26379/0?sentinelServiceName=name&node=host:26379&sentinelUsername=...&sentinelPassword=...`,
    /// where user and password are for Redis. A cluster: `redis-cluster://user:password@host:6379?node=host:6379`. Both with
    /// TLS as `rediss-...`.
    ///
    /// # Errors
    /// [`RedisConfigError`] when the address is not one of these.
    pub fn new(url: &str, prefix: &str) -> Result<Self, RedisConfigError> {
        let mut redis = Config::from_url(url).map_err(RedisConfigError::Url)?;
        let addresses = |hosts: Vec<Server>| hosts.into_iter().map(|s| (s.host.to_string(), s.port)).collect();
        let deployment = match redis.server.clone() {
            ServerConfig::Clustered { hosts, .. } => {
                let read_as_one = Config::from_url_centralized(url).map_err(RedisConfigError::Url)?;
                if read_as_one.database.is_some_and(|number| number != 0) {
                    return Err(RedisConfigError::Database);
                }
                Deployment::Cluster(addresses(hosts))
            }
            ServerConfig::Sentinel { hosts, service_name, username, password } => {
                Deployment::Watched(Sentinels { hosts: addresses(hosts), service: service_name, username, password })
            }
            one => Deployment::One(one),
        };
        // Other commands are allowed on a subscribed connection only in RESP3: the heartbeat needs that.
        redis.version = RespVersion::RESP3;
        redis.fail_fast = true;
        Ok(Self {
            redis,
            deployment,
            prefix: prefix.to_owned(),
            limits: HistoryLimits::default(),
            max_keys: MAX_KEYS,
            keep_position: Duration::from_secs(30 * 24 * 3600),
            command_timeout: Duration::from_secs(2),
            connect_timeout: Duration::from_secs(3),
            heartbeat: HEARTBEAT,
            lease: Duration::from_secs(10),
            max_backoff: Duration::from_secs(2),
        })
    }

    /// Longest that what nothing keeps takes until it is said, or refused: [`word_patience`], of this configuration.
    pub(super) const fn word_patience(&self) -> Duration {
        patience(self.heartbeat, self.command_timeout)
    }

    /// The common part of a stream's keys, which is their hash tag.
    pub(in crate::channels) fn tag(&self, stream: &StreamName) -> String {
        format!("{{{}:{stream}}}", self.prefix)
    }

    /// The common part of the keys that are about nodes. They are named apart from those of a stream of that name.
    pub(in crate::channels) fn nodes_tag(&self) -> String {
        format!("{{{}:nodes}}", self.prefix)
    }

    /// What a user may still do. No stream's name has a colon, and so no stream is near it.
    pub(super) fn person(&self, person: &Person) -> String {
        format!("{{{}:user:{:032x}}}:pace", self.prefix, u128::from_be_bytes(*person))
    }

    /// Where words to one node are said, or to all.
    pub(super) fn node_channel(&self, node: Option<&str>) -> String {
        let tag = self.nodes_tag();
        node.map_or_else(|| format!("{tag}:all"), |node| format!("{tag}:to:{node}"))
    }

    pub(super) fn channel(&self, stream: &StreamName) -> String {
        format!("{}:events", self.tag(stream))
    }

    /// The stream of a channel of ours.
    pub(super) fn stream(&self, channel: &str) -> Option<StreamName> {
        let rest = channel.strip_prefix('{')?.strip_prefix(self.prefix.as_str())?;
        rest.strip_prefix(':')?.strip_suffix("}:events").map(StreamName::from_checked)
    }

    pub(super) fn uses_tls(&self) -> bool {
        self.redis.tls.is_some()
    }

    /// A client of one server that never reconnects by itself: the link does that, with our rules.
    pub(super) fn builder(&self, server: ServerConfig) -> Builder {
        self.build(Config { server, ..self.redis.clone() })
    }

    /// A client of a sentinel.
    pub(super) fn sentinel_builder(&self, sentinels: &Sentinels, host: &str, port: u16) -> Builder {
        let Sentinels { username, password, .. } = sentinels.clone();
        let server = ServerConfig::new_centralized(host, port);
        // Without a database, and in the protocol that sentinels of every age speak.
        let version = RespVersion::RESP2;
        self.build(Config { server, username, password, database: None, version, ..self.redis.clone() })
    }

    fn build(&self, redis: Config) -> Builder {
        let mut builder = Builder::from_config(redis);
        builder
            .with_connection_config(|c| {
                c.connection_timeout = self.connect_timeout;
                c.internal_command_timeout = self.command_timeout;
                c.max_command_attempts = 1;
                c.max_command_buffer_len = COMMAND_BUFFER;
                c.tcp = TcpConfig { nodelay: Some(true), ..TcpConfig::default() };
            })
            .with_performance_config(|p| {
                p.default_command_timeout = self.command_timeout;
                p.broadcast_channel_capacity = EVENT_BUFFER;
            });
        builder
    }
}

/// Longest that what nothing keeps takes until it is said, or refused, where a command may take so long. Whoever has less patience
/// would give it up while all nodes come to listen where its slot of a cluster has gone to.
#[must_use]
pub const fn word_patience(command_timeout: Duration) -> Duration {
    patience(HEARTBEAT, command_timeout)
}

/// First it waits for the nodes; then it takes a command to find who has the slot, and one to say it.
const fn patience(heartbeat: Duration, command_timeout: Duration) -> Duration {
    cluster::longest_settling(heartbeat).saturating_add(command_timeout.saturating_mul(2))
}

impl fmt::Debug for RedisConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The client's own form holds the password.
        f.debug_struct("RedisConfig")
            .field("deployment", &self.deployment)
            .field("prefix", &self.prefix)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_channel_names_its_stream_and_shares_its_tag() {
        let config = RedisConfig::new("redis://u:secret@h:1/2", "dz").expect("url");
        for name in ["entities.tender", "a}b", "{x}", "ї"] {
            let stream = StreamName::from_checked(name);
            assert_eq!(config.stream(&config.channel(&stream)), Some(stream));
        }
        assert_eq!(config.stream("{other:a}:events"), None);
        assert!(!format!("{config:?}").contains("secret"));
    }

    #[test]
    fn what_redis_is_stands_in_its_address() {
        let of = |url| RedisConfig::new(url, "dz").map(|config| (config.deployment.clone(), format!("{config:?}")));
        for one in ["redis+unix:///run/redis.sock", "redis://h", "rediss://u:secret@h:1/2"] {
            assert!(matches!(of(one), Ok((Deployment::One(_), _))), "{one}");
        }
        let url = "rediss-sentinel://u:secret@a:1/2?sentinelServiceName=m&node=b:2&sentinelPassword=secret";
        let (deployment, printed) = of(url).expect("sentinels");
        let Deployment::Watched(sentinels) = deployment else { panic!("{printed}") };
        let mut hosts = sentinels.hosts.clone();
        hosts.sort_unstable();
        assert_eq!(hosts, [("a".to_owned(), 1), ("b".to_owned(), 2)]);
        assert_eq!(
            (sentinels.service.as_str(), sentinels.username, sentinels.password.as_deref()),
            ("m", None, Some("secret"))
        );
        assert!(!printed.contains("secret"), "{printed}");
        let (deployment, printed) = of("redis-cluster://u:secret@a:1?node=b:2&node=c:3").expect("a cluster");
        assert!(matches!(deployment, Deployment::Cluster(hosts) if hosts.len() == 3) && !printed.contains("secret"));
        assert!(of("redis-cluster://a:1/0").is_ok());
        assert!(matches!(of("redis-cluster://a:1/3"), Err(RedisConfigError::Database)));
        for bad in ["not an address", "redis-sentinel://a:1", "redis-cluster://a:1?node=b"] {
            assert!(matches!(of(bad), Err(RedisConfigError::Url(_))), "{bad}");
        }
    }
}
