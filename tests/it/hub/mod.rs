//! The hub as a whole, against those who do not mean well and on the days when something inside dies.

mod admission;
mod alone;
mod answers;
mod calls;
mod channels;
mod cluster;
mod conflated;
mod connections;
mod deltas;
mod drain;
mod frame_pings;
mod hostile;
mod kills;
mod limits;
mod logs;
mod pages;
mod ports;
mod publish;
mod queries;
mod raw;
pub mod returns;
mod rfc6455;
pub mod server;
mod talk;
mod terms;
mod trace;
mod transports;
