//! Ports for servers that are told where to listen. The integration tests do the same (`tests/it/support/ports.rs`): crates that share nothing.

use crate::error::{BenchError, Fallible};
use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Ports of our own: below those that connections get on Linux unless it is told otherwise, so that a server that was killed finds
/// its own free when it comes back.
const PORTS: Range<u16> = 12_000..32_000;

/// Where to look next: no port is given twice, and two runs at the same time begin at different places.
static NEXT: LazyLock<AtomicUsize> = LazyLock::new(|| AtomicUsize::new(rand::random_range(0..PORTS.len())));

/// One on which nobody listens now. Another program may take it first; then the server says so.
pub(crate) fn free_port() -> Fallible<u16> {
    let found = PORTS.clone().find_map(|_| {
        let nth = NEXT.fetch_add(1, Ordering::Relaxed) % PORTS.len();
        PORTS.clone().nth(nth).filter(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok())
    });
    found.ok_or_else(|| BenchError::new("no free port was found"))
}

/// The same with the address of loopback before it.
pub(crate) fn free_address() -> Fallible<String> {
    Ok(format!("{}:{}", Ipv4Addr::LOCALHOST, free_port()?))
}
