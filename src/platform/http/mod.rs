//! What every HTTP endpoint stands on: problems, tracing, metrics, limits, and the server loop.
//!
//! Invariants: every answer above 399 is a problem (RFC 9457), whoever made it; every request has an id and a trace; a panic
//! in a handler ends that request alone; labels of metrics come from closed sets. Connections are plain TCP under HTTP/1.1,
//! so that an upgrade gives the socket itself back ([`socket`]). TLS is the proxy's.

mod layers;
mod metrics;
mod ops;
mod patient;
mod problem;
mod room;
mod serve;
mod trace;

pub use layers::{Plumbing, plumb};
pub use metrics::HttpMetrics;
pub use ops::{Check, Readiness, internal_router};
pub use patient::socket;
pub use problem::{Problem, chain};
pub use room::{AnswerRoom, Room};
pub use serve::{ListenError, Serving, listen, serve};
pub use trace::TraceContext;
