//! One error for all: a benchmark can only say what it was doing and stop.

use std::error::Error;

/// The answer of everything here that can fail.
pub(crate) type Fallible<T> = Result<T, BenchError>;

/// What went wrong while doing what.
#[derive(Debug, thiserror::Error)]
#[error("{doing}")]
pub(crate) struct BenchError {
    doing: String,
    source: Option<Box<dyn Error + Send + Sync>>,
}

impl BenchError {
    /// Without a deeper cause.
    pub(crate) fn new(doing: impl Into<String>) -> Self {
        Self { doing: doing.into(), source: None }
    }

    /// For `map_err`.
    pub(crate) fn because<E: Into<Box<dyn Error + Send + Sync>>>(doing: impl Into<String>) -> impl FnOnce(E) -> Self {
        let doing = doing.into();
        move |source| Self { doing, source: Some(source.into()) }
    }

    /// The error with its causes, on one line.
    pub(crate) fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut cause = self.source();
        while let Some(error) = cause {
            text = format!("{text}: {error}");
            cause = error.source();
        }
        text
    }
}
