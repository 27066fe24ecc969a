//! The central database itself: collections of documents, each with an oplog. Every write gets a position that only grows.
//! Nothing here knows of sockets; the Mirror and the HTTP API read, the control API writes.

mod collection;
mod oplog;
mod stamp;

pub(crate) use crate::clock::Ts;
pub(crate) use collection::{Collection, Document, Query};
pub use collection::{TruthRow, Written};
pub(crate) use oplog::{Entry, Op};

use crate::config::CollectionConfig;
use crate::error::WorldError;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

/// A collection with its lock and the signal that it was written to.
#[derive(Debug)]
pub(crate) struct Shelf {
    pub(crate) name: String,
    pub(crate) path: String,
    inner: Mutex<Collection>,
    /// Sequence number after the last oplog entry.
    pub(crate) top: watch::Sender<u64>,
}

impl Shelf {
    /// Reads under the lock. Nothing may block or wait in there.
    pub(crate) fn read<T>(&self, f: impl FnOnce(&Collection) -> T) -> T {
        f(&self.lock())
    }

    /// Writes under the lock, then wakes the tails.
    pub(crate) fn write<T>(&self, f: impl FnOnce(&mut Collection) -> T) -> T {
        let mut inner = self.lock();
        let out = f(&mut inner);
        let top = inner.oplog.end();
        drop(inner);
        self.top.send_if_modified(|seen| std::mem::replace(seen, top) != top);
        out
    }

    fn lock(&self) -> MutexGuard<'_, Collection> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All collections; their set is fixed at the start.
#[derive(Debug)]
pub(crate) struct World {
    shelves: Vec<Shelf>,
}

impl World {
    pub(crate) fn new(collections: &[CollectionConfig], now: i64) -> Self {
        let shelves = collections
            .iter()
            .map(|config| Shelf {
                name: config.name.clone(),
                path: config.path.trim_matches('/').to_owned(),
                inner: Mutex::new(Collection::new(now)),
                top: watch::Sender::new(0),
            })
            .collect();
        Self { shelves }
    }

    pub(crate) fn shelves(&self) -> &[Shelf] {
        &self.shelves
    }

    pub(crate) fn default_shelf(&self) -> Option<&Shelf> {
        self.shelves.first()
    }

    pub(crate) fn shelf(&self, name: &str) -> Result<&Shelf, WorldError> {
        let found = self.shelves.iter().find(|shelf| shelf.name == name);
        found.ok_or_else(|| WorldError::NoCollection(name.to_owned()))
    }

    pub(crate) fn by_path(&self, path: &str) -> Option<&Shelf> {
        self.shelves.iter().find(|shelf| shelf.path == path)
    }
}
