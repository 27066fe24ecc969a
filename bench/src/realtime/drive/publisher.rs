//! The publishing side: a few connections, each with one request under way; kept as long as the server keeps them.

use super::template::Template;
use crate::error::{BenchError, Fallible};
use crate::realtime::orders::Plan;
use crate::realtime::{stamp, wire};
use memchr::memmem;
use mio::{Interest, Registry, Token, net::TcpStream};
use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};

/// The first token of the publishing connections: above those of all clients.
pub(crate) const FIRST_TOKEN: usize = 1 << 32;
/// How much of an unexpected answer is told.
const TOLD: usize = 200;

/// Connections and what waits for them.
#[derive(Debug)]
pub(crate) struct Publisher {
    registry: Registry,
    connections: Vec<Connection>,
    templates: Vec<Template>,
    next: usize,
    /// Due times of requests for which no connection was free.
    waiting: VecDeque<i64>,
    /// Clients of each channel by number.
    audience: Vec<usize>,
    /// Publications that were accepted.
    pub(crate) published: usize,
    /// Publications that were not.
    pub(crate) failed: usize,
    /// Deliveries that must follow.
    pub(crate) expected: usize,
    /// What the first failure said.
    pub(crate) why: Option<String>,
    /// How late each request was written, in microseconds.
    pub(crate) late: Vec<i64>,
    /// How long each took from when it was due to its acceptance.
    pub(crate) took: Vec<i64>,
}

#[derive(Debug)]
struct Connection {
    address: String,
    stream: TcpStream,
    /// The template under way, and when it was due.
    busy: Option<(usize, i64)>,
    out: Vec<u8>,
    sent: usize,
    answer: Vec<u8>,
}

impl Publisher {
    /// Connects. The audience is how many clients each channel has.
    pub(crate) fn start(plan: &Plan, audience: Vec<usize>, registry: &Registry) -> Fallible<Self> {
        let mut connections = Vec::new();
        for (n, address) in (0..plan.in_flight.max(1)).zip(plan.addresses.iter().cycle()) {
            let (address, stream) = (address.clone(), connect(address, n, registry)?);
            connections.push(Connection { address, stream, busy: None, out: Vec::new(), sent: 0, answer: Vec::new() });
        }
        Ok(Self {
            registry: registry.try_clone().map_err(BenchError::because("preparing to publish"))?,
            connections,
            templates: Template::all(plan),
            next: 0,
            waiting: VecDeque::new(),
            audience,
            published: 0,
            failed: 0,
            expected: 0,
            why: None,
            late: Vec::new(),
            took: Vec::new(),
        })
    }

    /// A request is due.
    pub(crate) fn due(&mut self, due: i64) {
        self.waiting.push_back(due);
    }

    /// Whether nothing is under way or waits.
    pub(crate) fn idle(&self) -> bool {
        self.waiting.is_empty() && self.connections.iter().all(|it| it.busy.is_none())
    }

    /// How many connections have nothing to do.
    pub(crate) fn free(&self) -> usize {
        self.connections.iter().filter(|it| it.busy.is_none()).count().saturating_sub(self.waiting.len())
    }

    /// Gives what waits to connections that are free, in turn.
    pub(crate) fn pump(&mut self) -> Fallible<()> {
        // Turns are by the request's number, so that several servers get equal shares; one that is busy is passed by.
        while !self.waiting.is_empty() {
            let count = self.connections.len();
            let turn = (0..count).map(|n| (self.next + n) % count);
            let Some(free) = turn.into_iter().find(|n| self.connections[*n].busy.is_none()) else { break };
            let Some(due) = self.waiting.pop_front() else { break };
            let template = self.next % self.templates.len();
            self.next += 1;
            self.late.push(stamp::now_us() - due);
            let connection = &mut self.connections[free];
            connection.busy = Some((template, due));
            connection.out.clear();
            connection.out.extend(self.templates[template].at(due));
            connection.sent = 0;
            connection.flush()?;
        }
        Ok(())
    }

    /// One of the connections can be written or read.
    pub(crate) fn ready(&mut self, n: usize, buffer: &mut [u8]) -> Fallible<()> {
        let Some(connection) = self.connections.get_mut(n) else { return Ok(()) };
        connection.flush()?;
        let ended = connection.fill(buffer)?;
        let Some(reply) = wire::reply(&connection.answer)? else {
            return match (ended, connection.busy) {
                (false, _) => Ok(()),
                (true, None) => connection.begin_again(n, &self.registry),
                (true, Some(_)) => Err(BenchError::new("the server closed a connection that publishes")),
            };
        };
        let accepted = (200..300).contains(&reply.status) && memmem::find(reply.body, b"\"error\"").is_none();
        if !accepted && self.why.is_none() {
            let body = String::from_utf8_lossy(&reply.body[..reply.body.len().min(TOLD)]).into_owned();
            self.why = Some(format!("a publication was answered by {} {body}", reply.status));
        }
        let (used, closes) = (reply.used, reply.closes);
        connection.answer.drain(..used);
        if ended || closes {
            connection.begin_again(n, &self.registry)?;
        }
        if let Some((done, due)) = connection.busy.take() {
            self.took.push(stamp::now_us() - due);
            let channels = &self.templates[done].channels;
            if accepted {
                self.published += channels.len();
                self.expected += channels.iter().filter_map(|channel| self.audience.get(*channel)).sum::<usize>();
            } else {
                self.failed += channels.len();
            }
        }
        Ok(())
    }
}

fn connect(address: &str, n: usize, registry: &Registry) -> Fallible<TcpStream> {
    let doing = || BenchError::because(format!("connecting to {address} to publish"));
    let stream = std::net::TcpStream::connect(address).map_err(doing())?;
    stream.set_nodelay(true).and_then(|()| stream.set_nonblocking(true)).map_err(doing())?;
    let mut stream = TcpStream::from_std(stream);
    let interest = Interest::READABLE | Interest::WRITABLE;
    registry.register(&mut stream, Token(FIRST_TOKEN + n), interest).map_err(doing())?;
    Ok(stream)
}

impl Connection {
    /// Some servers end a connection with every answer.
    fn begin_again(&mut self, n: usize, registry: &Registry) -> Fallible<()> {
        self.answer.clear();
        self.stream = connect(&self.address, n, registry)?;
        Ok(())
    }

    fn flush(&mut self) -> Fallible<()> {
        while self.sent < self.out.len() {
            match self.stream.write(&self.out[self.sent..]) {
                Ok(sent) => self.sent += sent,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(BenchError::because("publishing")(error)),
            }
        }
        Ok(())
    }

    /// Reads what there is; answers whether the server has ended the connection.
    fn fill(&mut self, buffer: &mut [u8]) -> Fallible<bool> {
        loop {
            match self.stream.read(buffer) {
                Ok(0) => return Ok(true),
                Ok(len) => self.answer.extend(&buffer[..len]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(BenchError::because("publishing")(error)),
            }
        }
    }
}
