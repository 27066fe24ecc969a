//! What every HTTP endpoint stands on: problems.

mod problem;

pub use problem::{Problem, chain};
