//! The one integration binary: real servers on free ports.

mod bus;
mod dev_postgres;
mod store;
mod support;
