//! Supervision: budgets, back-off, health by progress and the order of stopping.
//!
//! A [`Supervisor`] owns named children, each with a factory that makes it anew. A permanent child that ends for whatever
//! reason is started again after a random wait that doubles; more restarts than its budget within the window are a
//! [`Meltdown`]: the root tells the process, which exits and says why; a nested supervisor dies of it and is itself a death
//! in its parent's budget. A temporary child is started once and may end.
//!
//! Invariants: every death is counted and logged once, with its cause; nothing slow runs in the supervisor's own handlers, so
//! one child's start never delays another's restart; children stop in the reverse of the order in which they were started,
//! within one grace period.
//!
//! It deliberately does not keep state or queued messages of the dead (what must survive lives in the store), has no
//! one-for-all strategies, and does not own sessions, which are tasks of their shards.

mod backoff;
mod child;
mod metrics;
mod progress;
mod slot;
mod spec;
mod supervisor;

pub use backoff::Backoff;
pub use metrics::{Cause, SupervisorMetrics};
pub use progress::{Busy, Progress};
pub use slot::{CallError, NoActor, Slot};
pub use spec::{Budget, ChildSpec, Restart, Spawner, StopManner};
pub use supervisor::{Meltdown, Settings, StartError, Supervisor};

#[cfg(test)]
mod tests;
