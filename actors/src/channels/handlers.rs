//! Calls of clients (`rpc`) by the name of their method: what the hub itself, or a room of it, has registered.
//!
//! A method answers within the time that a command may take, or its client is told to try again. One that panics fails that call
//! and nothing else: it is counted, and the session goes on.

use std::{collections::HashMap, panic::AssertUnwindSafe, sync::Arc};

use bytes::Bytes;
use dzvin_protocols::channels::centrifuge::ReplyError;
use futures_util::{FutureExt, future::BoxFuture};

use crate::platform::ports::Identity;

/// What a method answers: JSON as text (clients of the JSON form can take nothing else), or an error, of the protocol or of its
/// own (400 to 1999).
pub type Answered = Result<Bytes, ReplyError<'static>>;

/// Answers one method, for the user who calls it.
pub type Handler = Arc<dyn for<'a> Fn(&'a Identity, Bytes) -> BoxFuture<'a, Answered> + Send + Sync>;

/// Who answers which method.
#[derive(Clone, Default)]
pub struct Handlers(Arc<HashMap<&'static str, Handler>>);

/// What became of a call.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Called {
    /// It was answered.
    Answered(Bytes),
    /// The method refused.
    Refused(ReplyError<'static>),
    /// There is no such method.
    Unknown,
    /// A fault of ours.
    Panicked,
}

impl std::fmt::Debug for Handlers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Handlers {
    /// These and no others.
    #[must_use]
    pub fn new(all: impl IntoIterator<Item = (&'static str, Handler)>) -> Self {
        Self(Arc::new(all.into_iter().collect()))
    }

    /// What the method answers this user.
    pub(super) async fn call(&self, method: &str, identity: &Identity, data: Bytes) -> Called {
        let Some(handler) = self.0.get(method) else { return Called::Unknown };
        // The call itself as well: it may fail before there is anything to wait for.
        let answer = AssertUnwindSafe(async { handler(identity, data).await }).catch_unwind().await;
        match answer {
            Ok(Ok(answer)) => Called::Answered(answer),
            Ok(Err(error)) => Called::Refused(error),
            Err(_) => Called::Panicked,
        }
    }
}
