//! What takes too long for every commit: memory over a million changes (`memory`), clients of all kinds while servers die (`hub`),
//! and a rolling restart behind nginx (`drain`).
//!
//! `ledger` is the checker: what each client was told against the promise, and `returns` whether it came back; `verdict` holds the
//! bars. All are tried with planted faults. `client` is one that means well, `hostile` one that does not, `words` what they say;
//! `attention` tells how far one has read; `stage` starts the servers, `chaos` plans what befalls them.

mod attention;
mod chaos;
mod client;
pub(crate) mod drain;
mod ground;
mod hostile;
pub(crate) mod hub;
mod ledger;
mod line;
pub(crate) mod memory;
mod nginx;
mod publish;
mod redis;
mod returns;
mod stage;
pub(crate) mod verdict;
mod watch;
mod words;
