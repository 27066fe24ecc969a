//! The one integration binary: real servers on free ports.

mod bus;
mod support;
