//! The hub as a whole, against those who do not mean well and on the days when something inside dies.

mod admission;
mod alone;
mod answers;
mod channels;
mod cluster;
mod deltas;
mod drain;
mod hostile;
mod kills;
mod limits;
mod logs;
mod pages;
mod publish;
mod queries;
mod returns;
mod rfc6455;
mod server;
mod terms;
mod trace;
mod transports;
