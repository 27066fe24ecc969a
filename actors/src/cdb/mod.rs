//! The rules under which anything of ours speaks to the central database.

mod governor;
mod metrics;
mod retry;

pub use governor::{Crowded, EgressLimits, Governor, Pass};
pub use metrics::EgressMetrics;
pub use retry::{Backoff, MAX_REPEATS, with_retries};
