//! Why a node does not start, or could not go on. Each is one line for the operator and one kind for the exit code.

use std::error::Error;

use dzvin_actors::supervise::{Meltdown, StartError};

use crate::platform::{
    alone::AloneError,
    http::{ListenError, TlsError},
};

/// What ended or prevented a node.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// A value that only the rooms can check.
    #[error("{key}: {problem}")]
    Config {
        /// The key.
        key: String,
        /// What is wrong with it, and what it should be.
        problem: String,
    },
    /// The database does not answer, or not as it should.
    #[error("the database cannot be used; `dzvin check` says more")]
    Database(#[source] Box<dyn Error + Send + Sync>),
    /// Another node, and no Redis between the two.
    #[error(transparent)]
    NotAlone(#[from] AloneError),
    /// Redis does not answer.
    #[error("redis does not answer at the configured address; `dzvin check` says more")]
    Redis,
    /// A port is taken, or the address is not ours.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The certificate cannot be used.
    #[error(transparent)]
    Tls(TlsError),
    /// An actor could not be started.
    #[error(transparent)]
    Start(#[from] StartError),
    /// An actor could not be kept alive.
    #[error(transparent)]
    Meltdown(Meltdown),
    /// A fault of ours.
    #[error("internal error")]
    Internal(#[source] Box<dyn Error + Send + Sync>),
}

impl AppError {
    pub(super) fn database(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Database(source.into())
    }

    pub(super) fn tls(source: TlsError) -> Self {
        Self::Tls(source)
    }

    pub(super) fn internal(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Internal(source.into())
    }

    #[allow(clippy::needless_pass_by_value, reason = "callers hand over errors and texts as they have them")]
    pub(super) fn config(key: impl Into<String>, problem: impl ToString) -> Self {
        Self::Config { key: key.into(), problem: problem.to_string() }
    }
}
