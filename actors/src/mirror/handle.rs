//! What outlives a restart of the link's actor: its status, token, limit and the operator's word.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use super::{config::Token, gather::traceparent, status::StatusBoard};
use crate::platform::ports::MirrorStatus;

/// The operator's side of a link. Clones share; a restarted actor takes up the same handle, so nobody holds a dead reference.
#[derive(Debug, Clone)]
pub struct LinkHandle(pub(super) Arc<Shared>);

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) board: StatusBoard,
    pub(super) token: watch::Sender<Option<Token>>,
    pub(super) limit: watch::Sender<usize>,
    pub(super) resume: watch::Sender<u64>,
    /// Of the request that ended a wait: what comes of it carries it on.
    trace: Mutex<Option<Arc<str>>>,
    refused: Mutex<Option<Refused>>,
}

/// What the upstream refused: the same is not sent again, whoever restarts the link and whatever else is changed.
#[derive(Debug)]
struct Refused {
    token: Option<Token>,
    /// How often the operator had said to go on.
    resumed: u64,
    why: String,
}

impl LinkHandle {
    /// A handle with the token and the message limit to begin with. The sender is shared with the HTTP client, so that one
    /// new token serves both.
    #[must_use]
    pub fn new(token: watch::Sender<Option<Token>>, max_message_bytes: usize) -> Self {
        Self(Arc::new(Shared {
            board: StatusBoard::new(max_message_bytes),
            token,
            limit: watch::Sender::new(max_message_bytes),
            resume: watch::Sender::new(0),
            trace: Mutex::default(),
            refused: Mutex::default(),
        }))
    }

    /// What the link says of itself.
    #[must_use]
    pub fn status(&self) -> MirrorStatus {
        self.0.board.watch().borrow().clone()
    }

    /// The same, to wait for changes of it.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<MirrorStatus> {
        self.0.board.watch()
    }

    /// Ends whatever wait there is: `forbidden`, `backoff`, `over_limit`. The next batch carries the `traceparent` on.
    pub fn resume(&self, trace: Option<Arc<str>>) {
        *self.0.trace.lock().unwrap_or_else(PoisonError::into_inner) = trace;
        self.0.resume.send_modify(|count| *count += 1);
    }

    /// The `traceparent` of the next batch: that of the request that led to it, else a new one.
    pub(super) fn next_trace(&self) -> Arc<str> {
        let asked = self.0.trace.lock().unwrap_or_else(PoisonError::into_inner).take();
        asked.unwrap_or_else(traceparent)
    }

    /// Remembers that the upstream refused this token, offered after so many words of the operator.
    pub(super) fn refuse(&self, token: Option<Token>, resumed: u64, why: String) {
        *self.0.refused.lock().unwrap_or_else(PoisonError::into_inner) = Some(Refused { token, resumed, why });
    }

    /// Why nothing may be tried until there is another token or the operator says so.
    pub(super) fn refused(&self) -> Option<String> {
        let refused = self.0.refused.lock().unwrap_or_else(PoisonError::into_inner);
        let same = |it: &&Refused| it.token == *self.0.token.borrow() && it.resumed == *self.0.resume.borrow();
        refused.as_ref().filter(same).map(|it| it.why.clone())
    }

    /// Replaces the token; a forbidden link tries again with it, but never with the same one.
    pub fn set_token(&self, token: Option<Token>) {
        self.0.token.send_if_modified(|current| {
            let other = *current != token;
            *current = token;
            other
        });
    }

    /// Changes the message limit. In force with the next message; above the ceiling of the open connection it connects again.
    pub fn set_max_message_bytes(&self, bytes: usize) {
        self.0.limit.send_if_modified(|now| std::mem::replace(now, bytes) != bytes);
        self.0.board.update(|status| status.max_message_bytes = bytes as u64);
    }
}
