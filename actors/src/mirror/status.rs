//! What a link is doing, for operators, metrics and the store.

use std::sync::{Mutex, PoisonError};

use dzvin_protocols::platform::time::rfc3339_millis;
use time::OffsetDateTime;
use tokio::sync::watch;

use super::metrics::LinkMetrics;
use crate::platform::ports::MirrorStatus;

/// The states of a link. The text of each is the same in logs, metrics and the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LinkState {
    /// Another node has the lease.
    Standby,
    /// Dialling.
    Connecting,
    /// Connected; the server asks its questions.
    Handshaking,
    /// Rows without a cursor arrive.
    Snapshot,
    /// Changes arrive as they happen.
    Live,
    /// History was lost and the full reconcile has not started.
    Gap,
    /// The full reconcile runs.
    Reconciling,
    /// Waiting before the next connection.
    Backoff,
    /// The upstream refused us: waits for a person or a new token.
    Forbidden,
    /// A message was above what we can read: waits, with HTTP filling in.
    OverLimit,
    /// Ended in order.
    Stopped,
}

impl LinkState {
    /// All of them, for metrics.
    pub const ALL: [Self; 11] = [
        Self::Standby,
        Self::Connecting,
        Self::Handshaking,
        Self::Snapshot,
        Self::Live,
        Self::Gap,
        Self::Reconciling,
        Self::Backoff,
        Self::Forbidden,
        Self::OverLimit,
        Self::Stopped,
    ];

    /// The spelling.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Standby => "standby",
            Self::Connecting => "connecting",
            Self::Handshaking => "handshaking",
            Self::Snapshot => "snapshot",
            Self::Live => "live",
            Self::Gap => "gap",
            Self::Reconciling => "reconciling",
            Self::Backoff => "backoff",
            Self::Forbidden => "forbidden",
            Self::OverLimit => "over_limit",
            Self::Stopped => "stopped",
        }
    }
}

/// Where the stream stands, and over it what is owed: a stream that is live but has a gap says so.
#[derive(Debug)]
struct Inner {
    stream: LinkState,
    owed: Option<LinkState>,
    shown: LinkState,
}

/// The status of a link; readers watch it.
#[derive(Debug)]
pub(super) struct StatusBoard {
    inner: Mutex<Inner>,
    public: watch::Sender<MirrorStatus>,
}

impl StatusBoard {
    pub(super) fn new(max_message_bytes: usize) -> Self {
        let state = LinkState::Stopped;
        let status = MirrorStatus {
            state: state.as_str().into(),
            max_message_bytes: max_message_bytes as u64,
            ..MirrorStatus::default()
        };
        Self {
            inner: Mutex::new(Inner { stream: state, owed: None, shown: state }),
            public: watch::Sender::new(status),
        }
    }

    /// Moves the stream to a state.
    pub(super) fn stream(&self, metrics: &LinkMetrics, state: LinkState, reason: Option<String>) {
        self.change(metrics, reason, |inner| inner.stream = state);
    }

    /// Says what is owed: `gap`, `reconciling`, or nothing.
    pub(super) fn owed(&self, metrics: &LinkMetrics, owed: Option<LinkState>) {
        self.change(metrics, None, |inner| inner.owed = owed);
    }

    /// Where the stream itself stands.
    pub(super) fn of_stream(&self) -> LinkState {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).stream
    }

    /// Changes the numbers.
    pub(super) fn update(&self, change: impl FnOnce(&mut MirrorStatus)) {
        self.public.send_modify(change);
    }

    pub(super) fn watch(&self) -> watch::Receiver<MirrorStatus> {
        self.public.subscribe()
    }

    fn change(&self, metrics: &LinkMetrics, reason: Option<String>, change: impl FnOnce(&mut Inner)) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut inner);
        let flows = matches!(inner.stream, LinkState::Snapshot | LinkState::Live);
        let shown = inner.owed.filter(|_| flows).unwrap_or(inner.stream);
        let moved = shown != std::mem::replace(&mut inner.shown, shown);
        drop(inner);
        if moved {
            metrics.state(shown);
            tracing::info!(mirror = %metrics.mirror, state = shown.as_str(), reason = reason.as_deref(), "the link's state changed");
        }
        self.public.send_if_modified(|status| {
            let news = moved || (reason.is_some() && status.reason != reason);
            if moved {
                status.state = shown.as_str().into();
                status.since = Some(rfc3339_millis(OffsetDateTime::now_utc()));
            }
            if news {
                if let Some(reason) = &reason {
                    status.last_error = Some(reason.clone());
                }
                status.reason = reason;
            }
            news
        });
    }
}
