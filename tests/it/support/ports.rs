//! Ports for servers that are told where to listen: below those that the system gives to connections, so that no client of another
//! test sits on one when its server starts again, and never the same twice in a run, so that of two that are asked for at the same
//! time each is one's own. `bench/src/world/ports.rs` does the same: crates that share nothing.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    ops::Range,
    sync::{
        LazyLock,
        atomic::{AtomicUsize, Ordering},
    },
};

const PORTS: Range<u16> = 12_000..32_000;

/// Where to look next; two runs at the same time begin at different places.
static NEXT: LazyLock<AtomicUsize> = LazyLock::new(|| AtomicUsize::new(rand::random_range(0..PORTS.len())));

/// A port on which nobody listens.
pub fn free_port() -> u16 {
    free_address().port()
}

/// The same on the loopback address.
pub fn free_address() -> SocketAddr {
    let found = PORTS.clone().find_map(|_| {
        let nth = NEXT.fetch_add(1, Ordering::Relaxed) % PORTS.len();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, PORTS.clone().nth(nth)?));
        TcpListener::bind(address).is_ok().then_some(address)
    });
    found.expect("a free port")
}
