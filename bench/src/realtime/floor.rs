//! The floor: a server that does nothing but what nobody can avoid. One thread, one `epoll`; a publication is encoded once and
//! written to each socket of its channel, one write each; a ping is written to each socket once in an interval, and the answer
//! read and forgotten.
//!
//! It looks at no token, keeps no history, numbers nothing and drops what a socket does not take at once: less than any hub may
//! do. Its frames are as long as the hub's. Publications come by HTTP as for nchan, or many in one request.

mod connection;

use super::wire;
use crate::error::{BenchError, Fallible};
use crate::report::say;
use connection::{Connection, Heard};
use mio::{Events, Interest, Poll, Token, Waker, net::TcpListener};
use socket2::{Domain, Socket, Type};
use std::collections::HashMap;
use std::io::{ErrorKind, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// The token of the listener.
const LISTENER: Token = Token(usize::MAX - 1);
/// The token of the thread that waits for the end of our input.
const WAKER: Token = Token(usize::MAX);
/// Connections that the kernel may keep for us; capped by its own limit.
const BACKLOG: i32 = 65_535;
/// Bytes that are read at a time.
const BUFFER: usize = 256 * 1024;
/// Events that are taken at a time.
const EVENTS: usize = 1024;

/// Options of the hidden command.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// Milliseconds in which each socket gets one ping.
    #[arg(long, default_value_t = 25_000)]
    ping_ms: u64,
    /// Milliseconds between two turns of pinging, each for its share of the sockets.
    #[arg(long, default_value_t = 250)]
    tick_ms: u64,
}

/// Says its address, and lives until its input ends.
pub(crate) fn run(args: &Args) -> Fallible<()> {
    let (floor, address) = Floor::bind()?;
    let waker = Waker::new(floor.poll.registry(), WAKER).map_err(BenchError::because("starting the floor"))?;
    say(&address.to_string());
    std::thread::spawn(move || {
        std::io::stdin().lines().map_while(Result::ok).for_each(drop);
        let _ = waker.wake();
    });
    floor.serve(args.ping_ms, args.tick_ms)
}

/// The server.
pub(crate) struct Floor {
    poll: Poll,
    listener: TcpListener,
    connections: Vec<Option<Connection>>,
    free: Vec<usize>,
    /// The number of each channel by its name.
    names: HashMap<String, usize>,
    /// Subscribers of each channel.
    channels: Vec<Vec<usize>>,
    buffer: Vec<u8>,
    ping: Vec<u8>,
    offset: u64,
}

impl Floor {
    /// Listens somewhere on this host.
    pub(crate) fn bind() -> Fallible<(Self, SocketAddr)> {
        let doing = || BenchError::because("starting the floor");
        let poll = Poll::new().map_err(doing())?;
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).map_err(doing())?;
        socket.set_nonblocking(true).map_err(doing())?;
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).map_err(doing())?;
        socket.listen(BACKLOG).map_err(doing())?;
        let mut listener = TcpListener::from_std(socket.into());
        poll.registry().register(&mut listener, LISTENER, Interest::READABLE).map_err(doing())?;
        let address = listener.local_addr().map_err(doing())?;
        let floor = Self {
            poll,
            listener,
            connections: Vec::new(),
            free: Vec::new(),
            names: HashMap::new(),
            channels: Vec::new(),
            buffer: vec![0; BUFFER],
            ping: wire::server_frame(wire::TEXT, b"{}"),
            offset: 0,
        };
        Ok((floor, address))
    }

    /// Serves until it is woken; pings each socket once in so many milliseconds, a share of them every so many.
    pub(crate) fn serve(mut self, ping_ms: u64, tick_ms: u64) -> Fallible<()> {
        let rest = Duration::from_millis(tick_ms.max(1));
        let turns = usize::try_from(ping_ms / tick_ms.max(1)).unwrap_or(1).max(1);
        let mut events = Events::with_capacity(EVENTS);
        let (mut due, mut next) = (Instant::now() + rest, 0);
        loop {
            // Without this an `epoll` that is asked for less than it can wait for would turn round.
            let wait = due.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
            match self.poll.poll(&mut events, Some(wait)) {
                Err(error) if error.kind() != ErrorKind::Interrupted => {
                    return Err(BenchError::because("waiting for events")(error));
                }
                _ => {}
            }
            for event in &events {
                match event.token() {
                    WAKER => return Ok(()),
                    LISTENER => self.accept()?,
                    Token(n) => self.ready(n),
                }
            }
            if Instant::now() >= due {
                due += rest;
                next = self.ping(next, turns);
            }
        }
    }

    fn accept(&mut self) -> Fallible<()> {
        loop {
            match self.listener.accept() {
                Ok((mut stream, _)) => {
                    let n = self.free.pop().unwrap_or(self.connections.len());
                    let registered = self.poll.registry().register(&mut stream, Token(n), Interest::READABLE);
                    registered.map_err(BenchError::because("registering a connection"))?;
                    if n == self.connections.len() {
                        self.connections.push(None);
                    }
                    self.connections[n] = Some(Connection::new(stream));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::ConnectionAborted) => {}
                Err(error) => return Err(BenchError::because("accepting")(error)),
            }
        }
    }

    fn ready(&mut self, n: usize) {
        let Some(connection) = self.connections.get_mut(n).and_then(Option::as_mut) else { return };
        match connection.read(&mut self.buffer) {
            Heard::Nothing => {}
            Heard::Gone => self.remove(n),
            Heard::Subscribed(name) => {
                let next = self.names.len();
                let channel = *self.names.entry(name).or_insert(next);
                if channel == self.channels.len() {
                    self.channels.push(Vec::new());
                }
                self.channels[channel].push(n);
                connection.channel = Some(channel);
            }
            Heard::Published(path, body) => {
                self.publish(&path, &body);
                if let Some(connection) = self.connections.get_mut(n).and_then(Option::as_mut) {
                    connection.accepted();
                }
            }
        }
    }

    fn publish(&mut self, path: &str, body: &str) {
        match path.strip_prefix("/pub/") {
            Some(channel) => self.fan_out(channel, body),
            None => {
                for (channel, payload) in body.lines().filter_map(|line| line.split_once(' ')) {
                    self.fan_out(channel, payload);
                }
            }
        }
    }

    /// The work itself: one frame, one write for each socket.
    fn fan_out(&mut self, channel: &str, payload: &str) {
        self.offset += 1;
        let offset = self.offset;
        let push =
            format!("{{\"push\":{{\"channel\":\"{channel}\",\"pub\":{{\"data\":{payload},\"offset\":{offset}}}}}}}");
        let frame = wire::server_frame(wire::TEXT, push.as_bytes());
        let channel = self.names.get(channel).and_then(|channel| self.channels.get(*channel));
        for n in channel.into_iter().flatten() {
            if let Some(Some(connection)) = self.connections.get_mut(*n) {
                // What is not taken is lost: the generator counts it.
                let _ = connection.stream.write(&frame);
            }
        }
    }

    /// Pings the share of one turn.
    fn ping(&mut self, turn: usize, turns: usize) -> usize {
        let share = self.connections.iter_mut().skip(turn).step_by(turns).flatten();
        for connection in share.filter(|connection| connection.channel.is_some()) {
            let _ = connection.stream.write(&self.ping);
        }
        (turn + 1) % turns
    }

    fn remove(&mut self, n: usize) {
        let Some(gone) = self.connections.get_mut(n).and_then(Option::take) else { return };
        self.free.push(n);
        if let Some(channel) = gone.channel.and_then(|channel| self.channels.get_mut(channel)) {
            channel.retain(|other| *other != n);
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::realtime::stamp;

    #[test]
    fn a_batch_is_lines_of_channel_and_payload() {
        let payload = stamp::payload(128);
        let line = format!("bench.7 {payload}");
        assert_eq!(line.split_once(' '), Some(("bench.7", payload.as_str())));
    }
}
