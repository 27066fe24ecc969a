//! Calls of clients (`rpc`) by the name of their method: what the hub itself, or a room of it, has registered.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use dzvin_protocols::channels::centrifuge::ErrorCode;
use futures_util::future::BoxFuture;

use crate::platform::ports::Identity;

/// Answers one method: JSON as text, or an error of the protocol.
pub type Handler = Arc<dyn for<'a> Fn(&'a Identity, Bytes) -> BoxFuture<'a, Result<Bytes, ErrorCode>> + Send + Sync>;

/// Who answers which method.
#[derive(Clone, Default)]
pub struct Handlers(Arc<HashMap<&'static str, Handler>>);

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

    /// What the method answers this user; `None` when there is no such method.
    pub async fn call(&self, method: &str, identity: &Identity, data: Bytes) -> Option<Result<Bytes, ErrorCode>> {
        let handler = self.0.get(method)?;
        Some(handler(identity, data).await)
    }
}
