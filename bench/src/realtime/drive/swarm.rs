//! All clients together: who they are, where they connect from, and which channel each follows.

use super::client::{Client, Shared, Stage};
use super::speech;
use super::tally::Tally;
use crate::error::{BenchError, Fallible};
use crate::realtime::orders::{Dialect, Names};
use crate::realtime::stamp;
use mio::{Interest, Registry, Token, net::TcpStream};
use socket2::{Domain, Protocol, Socket, Type};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;

/// Connections from one source address: far below the ports that it has, so that those still closing are in nobody's way.
const PER_SOURCE: usize = 2_000;

/// The clients.
#[derive(Debug)]
pub(crate) struct Swarm {
    clients: Vec<Client>,
    addresses: Vec<SocketAddr>,
    tokens: Vec<String>,
    shared: Shared,
    /// Connections that were ever begun.
    begun: usize,
}

impl Swarm {
    /// None yet.
    pub(crate) fn new() -> Self {
        let names = Names { pattern: String::new(), count: 1 };
        let (tally, reader) = (Tally::default(), stamp::Reader::new());
        let shared = Shared { dialect: Dialect::Raw, names, tally, reader };
        Self { clients: Vec::new(), addresses: Vec::new(), tokens: Vec::new(), shared, begun: 0 }
    }

    /// Those who were there leave; says where the next ones go.
    pub(crate) fn prepare(
        &mut self,
        addresses: &[String],
        dialect: Dialect,
        names: Names,
        tokens: Option<&Path>,
    ) -> Fallible<()> {
        self.close();
        let parsed: Result<Vec<SocketAddr>, _> = addresses.iter().map(|address| address.parse()).collect();
        self.addresses = parsed.map_err(BenchError::because("reading the server's address"))?;
        let text = tokens.map(std::fs::read_to_string).transpose().map_err(BenchError::because("reading tokens"))?;
        self.tokens = text.iter().flat_map(|text| text.lines()).map(str::to_owned).collect();
        (self.shared.dialect, self.shared.names) = (dialect, names);
        Ok(())
    }

    /// Begins one more connection; it counts from `due`.
    pub(crate) fn connect(&mut self, registry: &Registry, due: i64) -> Fallible<()> {
        let doing = || BenchError::because("connecting");
        let n = self.clients.len();
        // Clients of one channel go round the servers.
        let at = n / self.shared.names.count.max(1) % self.addresses.len().max(1);
        let address = *self.addresses.get(at).ok_or_else(|| BenchError::new("no address to connect to"))?;
        let token = self.tokens.get(n % self.tokens.len().max(1)).map(String::as_str);
        let first = speech::first(self.shared.dialect, &address.to_string(), &self.shared.names.name(n), token);
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP)).map_err(doing())?;
        socket.set_nonblocking(true).map_err(doing())?;
        if address.ip().is_loopback() && address.is_ipv4() {
            socket.bind(&SocketAddr::new(source(self.begun / PER_SOURCE), 0).into()).map_err(doing())?;
        }
        self.begun += 1;
        // Being under way is the usual answer; what else may be wrong shows when the socket is used.
        let _ = socket.connect(&address.into());
        let mut stream = TcpStream::from_std(socket.into());
        registry.register(&mut stream, Token(n), Interest::READABLE | Interest::WRITABLE).map_err(doing())?;
        let mut client = Client::new(stream, first, due);
        if let Err(why) = client.flush() {
            client.leave(&why, &mut self.shared);
        }
        self.clients.push(client);
        Ok(())
    }

    /// The socket of one can be written or read.
    pub(crate) fn ready(&mut self, n: usize, buffer: &mut [u8]) {
        if let Some(client) = self.clients.get_mut(n) {
            client.ready(n, buffer, &mut self.shared);
        }
    }

    /// Clients whose connection came to something.
    pub(crate) fn settled(&self) -> usize {
        self.shared.tally.joins() + self.shared.tally.refused
    }

    /// Those that are still on their way will not arrive.
    pub(crate) fn give_up(&mut self) {
        let late = self.clients.iter_mut().filter(|it| matches!(it.stage, Stage::Upgrading | Stage::Joining));
        late.for_each(|client| client.leave("no answer in time", &mut self.shared));
    }

    /// Clients that are subscribed.
    pub(crate) fn subscribed(&self) -> usize {
        self.clients.iter().filter(|client| client.stage == Stage::Joined).count()
    }

    /// How many of them each channel has.
    pub(crate) fn audience(&self, channels: usize) -> Vec<usize> {
        let mut audience = vec![0; channels.max(1)];
        // A channel of its own for each client is more than what is published to.
        let own = self.shared.names.count.max(1);
        for (n, _) in self.clients.iter().enumerate().filter(|(_, client)| client.stage == Stage::Joined) {
            if let Some(count) = audience.get_mut(n % own) {
                *count += 1;
            }
        }
        audience
    }

    /// What came of them.
    pub(crate) fn tally(&self) -> &Tally {
        &self.shared.tally
    }

    /// Counts anew.
    pub(crate) fn reset(&mut self) {
        self.shared.tally = Tally::default();
    }

    /// All leave.
    pub(crate) fn close(&mut self) {
        self.clients = Vec::new();
    }
}

/// An address of this host for outgoing connections.
fn source(n: usize) -> IpAddr {
    let part = |value: usize| u8::try_from(1 + value % 250).unwrap_or(1);
    Ipv4Addr::new(127, 0, part(n / 250), part(n)).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_of_this_host_and_differ() {
        assert_eq!([0, 1, 250].map(source).map(|it| it.to_string()), ["127.0.1.1", "127.0.1.2", "127.0.2.1"]);
    }
}
