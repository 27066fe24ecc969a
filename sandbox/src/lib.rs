//! A faithful double of the Prozorro.Sale central database (CDB): its Mirror over WebSocket, its HTTP API and the NGINX limits
//! before both, on one port, with a control API that makes things happen and go wrong.
//!
//! For tests it is a library: `Sandbox::start` and `SandboxHandle::control`. For people it is the program `dzvin-sandbox`. It was
//! written from what is public about the CDB and from nothing else; what is not public is a knob (`Knobs`).
//!
//! What it does not do: owners' views, page-number lists, documents' files, TLS.

mod access;
mod answers;
mod api;
mod body;
mod clock;
mod config;
mod control;
mod error;
mod faults;
pub mod fixtures;
mod generate;
mod json;
mod mirror;
pub mod nginx;
mod search;
mod server;
mod shared;
mod stats;
mod world;

pub use clock::Ts;
pub use config::{
    AccessKnobs, ApiKnobs, CollectionConfig, DEFAULT_TOKEN, Envelope, Knobs, Manner, MirrorKnobs, NginxKnobs,
    NullSpelling, SandboxConfig, WorldKnobs,
};
pub use control::{Control, Generate, Generated, Play};
pub use error::{SandboxError, WorldError};
pub use faults::{ActiveFault, Fault, StaleTs};
pub use generate::{Generator, with_size};
pub use server::{Sandbox, SandboxHandle};
pub use stats::{AnswerStats, CollectionStats, LinkStats, Phase, Stats};
pub use world::{TruthRow, Written};
