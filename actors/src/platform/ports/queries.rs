//! Query subscriptions, as far as sessions and topics need them.

use std::sync::Arc;

use dzvin_protocols::{channels::QueryId, entities::Filter, platform::Kind};
use futures_util::future::BoxFuture;

use super::StoreError;

/// What somebody asked to be told of.
#[derive(Debug, PartialEq, Eq)]
pub struct Query {
    /// Its name.
    pub id: QueryId,
    /// Of which entities.
    pub kind: Kind,
    /// Of which of them.
    pub filter: Filter,
}

/// Who may listen to which query. Asked once for each subscription, so it may be `dyn`.
pub trait Queries: Send + Sync + 'static {
    /// The query of this name, if the user made it, it has not been forgotten, and its fields are declared and derived.
    fn find<'a>(&'a self, id: &'a QueryId, user: &'a str) -> BoxFuture<'a, Result<Option<Arc<Query>>, StoreError>>;

    /// The query of this name as this node remembers it: that of every subscription that stands here. It says nothing of
    /// who may listen.
    fn known(&self, id: &QueryId) -> Option<Arc<Query>>;
}

/// There are none.
impl Queries for () {
    fn find<'a>(&'a self, _: &'a QueryId, _: &'a str) -> BoxFuture<'a, Result<Option<Arc<Query>>, StoreError>> {
        Box::pin(async { Ok(None) })
    }

    fn known(&self, _: &QueryId) -> Option<Arc<Query>> {
        None
    }
}
