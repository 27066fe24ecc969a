//! The actor with a store that fails, forgets and hangs.

mod fakes;
mod model;
mod promises;
