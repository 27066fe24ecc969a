//! The limit of file descriptors: each connection takes one, and the usual soft limit of 1024 is for programs that use
//! `select`, of which this is none.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::config::Config;

/// What is asked for where the hard limit is none: the kernel's own ceiling, `fs.nr_open`, unless somebody changed it.
const CEILING: u64 = 1 << 20;
/// Descriptors beside those of connections: pools of the database and of Redis, links, files, the listeners.
const OTHERS: u64 = 256;
/// A session behind TLS of our own has its socket and both ends of a pipe.
const BEHIND_TLS: u64 = 3;

/// Raises the soft limit to the hard one, and tells what is in force.
pub fn raise(config: &Config) {
    let before = getrlimit(Resource::Nofile);
    let wanted = before.maximum.unwrap_or(CEILING);
    if before.current.is_some_and(|current| current < wanted) {
        let raised = Rlimit { current: Some(wanted), ..before };
        if let Err(error) = setrlimit(Resource::Nofile, raised) {
            tracing::warn!(%error, wanted, "the limit of file descriptors could not be raised");
        }
    }
    let (limit, needed, before) = (current(), needed(config), before.current.unwrap_or(u64::MAX));
    if limit < needed {
        tracing::warn!(
            limit,
            needed,
            before,
            "fewer file descriptors than the connections may need; see docs/SYSCTL.md"
        );
    } else {
        tracing::info!(limit, needed, before, "file descriptors");
    }
}

/// The limit that is in force.
#[must_use]
pub fn current() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// What the process may raise it to.
#[must_use]
pub fn most() -> u64 {
    getrlimit(Resource::Nofile).maximum.unwrap_or(CEILING)
}

/// What the configuration may need at most: all sessions it allows, and as many requests beside them as are served at once.
#[must_use]
pub fn needed(config: &Config) -> u64 {
    let each = if config.http.tls.is_some() { BEHIND_TLS } else { 1 };
    let sessions = (config.channels.max_sessions as u64).saturating_mul(each);
    sessions.max(config.http.max_connections as u64).saturating_add(u64::from(config.database.max_connections) + OTHERS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::config::Tls;

    #[test]
    fn the_soft_limit_becomes_the_hard_one() {
        let before = getrlimit(Resource::Nofile);
        // Little enough less that nobody beside this test notices.
        let lower = before.maximum.unwrap_or(CEILING) - 1;
        setrlimit(Resource::Nofile, Rlimit { current: Some(lower), ..before }).expect("lowered");
        raise(&Config::default());
        let limit = getrlimit(Resource::Nofile);
        assert_eq!(limit.current, Some(lower + 1), "{limit:?}");
    }

    #[test]
    fn what_is_needed_follows_the_configuration() {
        let mut config = Config::default();
        let plain = needed(&config);
        assert!((50_000..60_000).contains(&plain), "{plain}");
        config.http.tls = Some(Tls {
            certificate: "a".into(),
            key: "b".into(),
            handshake_timeout: std::time::Duration::from_secs(1),
            reload_interval: std::time::Duration::from_secs(1),
        });
        assert!(needed(&config) > 120_000);
    }
}
