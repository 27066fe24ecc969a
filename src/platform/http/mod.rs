//! What every HTTP endpoint stands on: problems, tracing, metrics, limits, and the server loop.
//!
//! Invariants: every answer above 399 is a problem (RFC 9457), whoever made it; every request has an id and a trace, but for the upgrades
//! that [`Express`] answers; a panic
//! in a handler ends that request alone; labels of metrics come from closed sets. Connections are HTTP/1.1, so that an upgrade
//! gives the socket itself back ([`Upgrading`]). TLS is usually the proxy's; where there is none it is ours, and slower.

mod address;
mod compress;
mod headers;
mod layers;
mod listen;
mod metrics;
mod ops;
mod origins;
mod patient;
mod problem;
mod pump;
mod room;
mod serve;
mod tls;
mod trace;
mod upgrade;
mod xml;

pub use address::ClientAddress;
pub use headers::{DZVIN_POSITION, IDEMPOTENCY_KEY, IDEMPOTENCY_REPLAYED, media_type};
pub use layers::{Plumbing, plumb};
pub use listen::{BACKLOG, Bound, ListenError, Listeners, listen};
pub use metrics::HttpMetrics;
pub use ops::{Check, Readiness, internal_router};
pub use origins::{Origins, is_origin};
pub use problem::{Problem, ProblemCode, chain};
pub use pump::pipe;
pub use room::{AnswerRoom, Room};
pub use serve::{Serving, serve};
pub use tls::{Certificates, Pair, TlsError};
pub use trace::TraceContext;
pub use upgrade::{Express, Taken, Upgrading};
