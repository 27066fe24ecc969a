//! What one link needs to know, and its limits.

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use dzvin_protocols::{mirror::Dialect, platform::Kind};

/// A token that never prints itself.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(Arc<str>);

impl Token {
    /// Hides a text.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self(text.into())
    }

    /// The text, for the one header that needs it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// One Mirror.
#[derive(Clone)]
pub struct LinkConfig {
    /// Its name; the lease is `mirror.{name}`, changes are by `mirror:{name}`.
    pub name: Arc<str>,
    /// The kind of its entities.
    pub kind: Kind,
    /// `ws://` or `wss://`. May hold a secret: never printed.
    pub url: String,
    /// The `Platform-Version` header.
    pub platform_version: Option<String>,
    /// How the upstream spells the protocol.
    pub dialect: Arc<Dialect>,
    /// The kind's declared fields, as dotted paths: their values are derived from every document.
    pub fields: Arc<[String]>,
    /// The comparison over HTTP.
    pub reconcile: ReconcileRules,
    /// The recorder.
    pub tap: Option<TapRules>,
    /// Limits and times.
    pub limits: LinkLimits,
}

impl fmt::Debug for LinkConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LinkConfig").field("name", &self.name).field("kind", &self.kind).finish_non_exhaustive()
    }
}

/// How the comparison over HTTP is paced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReconcileRules {
    /// From the end of one pass to the start of the next; zero: only after a gap. The simple protocol announces no deletes,
    /// so there it is how vanished objects are found; in the full one it finds what the stream left out.
    pub interval: Duration,
    /// Rest between two pages.
    pub pause: Duration,
    /// Objects in a page.
    pub page: usize,
}

impl Default for ReconcileRules {
    fn default() -> Self {
        Self { interval: Duration::from_secs(6 * 3600), pause: Duration::from_millis(500), page: 100 }
    }
}

/// The recorder of the first frames.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TapRules {
    /// Where to; begun anew with every connection.
    pub path: PathBuf,
    /// How many frames.
    pub frames: usize,
}

/// Limits and times of a link, each with its reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkLimits {
    /// The lease's length: with `standby_poll` it bounds a takeover to 15 s.
    pub lease_ttl: Duration,
    /// How often a node without the lease asks for it.
    pub standby_poll: Duration,
    /// Connecting and the HTTP upgrade.
    pub connect: Duration,
    /// One write on the socket: a peer that does not read for so long is gone.
    pub write: Duration,
    /// One call of the store; longer counts as unavailable.
    pub store: Duration,
    /// One HTTP call with its waiting.
    pub http: Duration,
    /// Fetching one object of a batch, repeats included: the stream stands meanwhile. Longer: the batch is stored without it
    /// and a full reconcile is owed.
    pub fetch: Duration,
    /// Frames in one transaction: beyond a few hundred rows a transaction gains nothing and only delays its readers.
    pub batch_frames: usize,
    /// Bytes in one transaction.
    pub batch_bytes: usize,
    /// Bytes of frames between the socket and the commit: three of the largest promised messages. Full: reading stops.
    pub budget_bytes: usize,
    /// Ids in one answer about what changed since a moment: beyond, a snapshot costs the upstream less than naming them.
    pub answer_ids: usize,
    /// Objects that one pass of the comparison asks for one by one, because the feed did not show them.
    pub checks: usize,
    /// A quiet stream that knows its cursor counts as live after this.
    pub settle: Duration,
    /// A connection that lasted so long lets the back-off begin anew; shorter ones make it grow.
    pub steady: Duration,
    /// First ceiling of the back-off.
    pub backoff_base: Duration,
    /// Last ceiling of the back-off.
    pub backoff_cap: Duration,
    /// Closing and leaving in order.
    pub stop: Duration,
}

impl Default for LinkLimits {
    fn default() -> Self {
        Self {
            lease_ttl: Duration::from_secs(10),
            standby_poll: Duration::from_secs(2),
            connect: Duration::from_secs(15),
            write: Duration::from_secs(20),
            store: Duration::from_secs(30),
            http: Duration::from_secs(150),
            fetch: Duration::from_secs(30),
            batch_frames: 256,
            batch_bytes: 4 * 1024 * 1024,
            budget_bytes: 24 * 1024 * 1024,
            answer_ids: 100_000,
            checks: 10_000,
            settle: Duration::from_secs(3),
            steady: Duration::from_secs(30),
            backoff_base: Duration::from_millis(500),
            backoff_cap: Duration::from_secs(60),
            stop: Duration::from_secs(3),
        }
    }
}

/// How far above the message limit a message is still read, to learn its id and cursor. Beyond, the connection is cut.
pub(super) const CEILING_FACTOR: usize = 4;
/// Highest ceiling whatever the limit is: what one message may cost in memory.
pub(super) const MAX_CEILING: usize = 256 * 1024 * 1024;
