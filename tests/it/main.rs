//! The one integration binary: real servers on free ports.

mod store;
mod support;
