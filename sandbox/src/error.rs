//! What can go wrong when the sandbox is started or asked for something. No recovery happens here.

use std::net::SocketAddr;

/// Why the sandbox could not start or load its data.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// The address is taken or not ours.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address asked for.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// The control API has no authentication, so it may not leave the machine by accident.
    #[error("{0} is not a loopback address; set allow_remote to serve an open control api there")]
    NotLoopback(SocketAddr),
    /// A data file could not be read.
    #[error("cannot read {path}: {source}")]
    Data {
        /// The file.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// A seed document was not acceptable.
    #[error("seed of {collection}: {source}")]
    Seed {
        /// The collection it was meant for.
        collection: String,
        /// What was wrong with it.
        source: WorldError,
    },
}

/// Why an operation on the world was refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum WorldError {
    /// No such collection.
    #[error("no collection {0}")]
    NoCollection(String),
    /// No such object.
    #[error("no object {0}")]
    NoObject(String),
    /// The text is not a JSON object.
    #[error("not a json object: {0}")]
    NotAnObject(String),
    /// A request goes beyond a limit of the sandbox.
    #[error("{what} is {asked}, at most {limit} is allowed")]
    TooMuch {
        /// What there is too much of.
        what: &'static str,
        /// How much was asked for.
        asked: usize,
        /// The limit.
        limit: usize,
    },
    /// The wanted size is smaller than the smallest object or frame that can be made.
    #[error("cannot make it as small as {wanted} bytes, the least is {least}")]
    TooSmall {
        /// The size asked for.
        wanted: usize,
        /// The smallest possible.
        least: usize,
    },
    /// A name or a value that means nothing here.
    #[error("{0}")]
    Bad(String),
}
