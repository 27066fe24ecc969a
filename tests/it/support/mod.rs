//! What several modules of the suite use.

pub mod postgres;
