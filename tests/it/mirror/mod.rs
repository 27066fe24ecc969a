//! The Mirror link against the sandbox, as processes and through every fault.

mod arena;
mod faults;
mod flow;
mod large;
mod matrix;
mod operator;
mod takeover;
mod truth;
