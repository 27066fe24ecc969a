//! Where Redis is and how long to wait for it.

use std::{fmt, time::Duration};

use dzvin_protocols::platform::StreamName;
use fred::types::{
    Builder, RespVersion,
    config::{Config, ServerConfig, TcpConfig},
};

use super::super::HistoryLimits;

/// Messages that the client buffers for a reader that lags, before `Lost` replaces them. Its own default of 32 is gone
/// in one burst.
const EVENT_BUFFER: usize = 256;
/// Commands that may wait for the socket; above it they fail at once.
const COMMAND_BUFFER: usize = 4096;

/// How to reach Redis and what to keep there.
#[derive(Clone)]
pub struct RedisConfig {
    redis: Config,
    /// Before every key and channel: several hubs may share one Redis.
    pub prefix: String,
    /// What is kept of each stream.
    pub limits: HistoryLimits,
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
    /// Sentinel and Cluster are not served yet.
    #[error("the redis url must name one server: redis://, rediss:// or redis+unix://")]
    NotStandalone,
}

impl RedisConfig {
    /// Defaults for one server: `redis://user:password@host:6379/0`, `rediss://...` with TLS, `redis+unix:///path`.
    ///
    /// # Errors
    /// [`RedisConfigError`] when the address is not one of these.
    pub fn new(url: &str, prefix: &str) -> Result<Self, RedisConfigError> {
        let mut redis = Config::from_url(url).map_err(RedisConfigError::Url)?;
        if !matches!(redis.server, ServerConfig::Centralized { .. } | ServerConfig::Unix { .. }) {
            return Err(RedisConfigError::NotStandalone);
        }
        // Other commands are allowed on a subscribed connection only in RESP3: the heartbeat needs that.
        redis.version = RespVersion::RESP3;
        redis.fail_fast = true;
        Ok(Self {
            redis,
            prefix: prefix.to_owned(),
            limits: HistoryLimits::default(),
            keep_position: Duration::from_secs(30 * 24 * 3600),
            command_timeout: Duration::from_secs(2),
            connect_timeout: Duration::from_secs(3),
            heartbeat: Duration::from_secs(1),
            lease: Duration::from_secs(10),
            max_backoff: Duration::from_secs(2),
        })
    }

    /// The common part of a stream's keys, which is their hash tag.
    pub(in crate::channels) fn tag(&self, stream: &StreamName) -> String {
        format!("{{{}:{stream}}}", self.prefix)
    }

    /// The common part of the keys that are about nodes. They are named apart from those of a stream of that name.
    pub(in crate::channels) fn nodes_tag(&self) -> String {
        format!("{{{}:nodes}}", self.prefix)
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

    /// A client that never reconnects by itself: the link does that, with our rules.
    pub(super) fn builder(&self) -> Builder {
        let mut builder = Builder::from_config(self.redis.clone());
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

impl fmt::Debug for RedisConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The client's own form holds the password.
        f.debug_struct("RedisConfig")
            .field("server", &self.redis.server)
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
    fn only_one_server_is_served() {
        assert!(RedisConfig::new("redis+unix:///run/redis.sock", "dz").is_ok());
        for bad in ["redis-cluster://h:1?node=i:2", "redis-sentinel://h:1?sentinelServiceName=m"] {
            assert!(matches!(RedisConfig::new(bad, "dz"), Err(RedisConfigError::NotStandalone)), "{bad}");
        }
        assert!(matches!(RedisConfig::new("not an address", "dz"), Err(RedisConfigError::Url(_))));
    }
}
