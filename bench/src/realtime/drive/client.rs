//! One client: a socket, what it has still to send, and the part of a frame that has come. Thousands of them share one buffer.

use super::speech::{self, Heard};
use super::tally::Tally;
use crate::realtime::orders::{Dialect, Names};
use crate::realtime::{stamp, wire};
use mio::net::TcpStream;
use std::io::{ErrorKind, Read, Write};

/// How much of a refusal is told.
const TOLD: usize = 200;

/// How far a client has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Its upgrade has not been answered.
    Upgrading,
    /// Its subscription has not.
    Joining,
    /// It is subscribed.
    Joined,
    /// It is no more.
    Gone,
}

/// A client.
#[derive(Debug)]
pub(crate) struct Client {
    /// Its socket, while it lives.
    pub(crate) stream: Option<TcpStream>,
    /// How far it has come.
    pub(crate) stage: Stage,
    /// When it began, in microseconds since 1970.
    begun: i64,
    out: Vec<u8>,
    carry: Vec<u8>,
}

/// What all clients share.
#[derive(Debug)]
pub(crate) struct Shared {
    /// How they speak.
    pub(crate) dialect: Dialect,
    /// Their channels.
    pub(crate) names: Names,
    /// What came of them.
    pub(crate) tally: Tally,
    /// Finds the times.
    pub(crate) reader: stamp::Reader,
}

impl Client {
    /// Begins to connect, with the first bytes to send.
    pub(crate) fn new(stream: TcpStream, first: Vec<u8>, begun: i64) -> Self {
        Self { stream: Some(stream), stage: Stage::Upgrading, begun, out: first, carry: Vec::new() }
    }

    /// Its socket can be written or read.
    pub(crate) fn ready(&mut self, n: usize, buffer: &mut [u8], shared: &mut Shared) {
        let done = self.flush().and_then(|()| self.fill(n, buffer, shared));
        if let Err(why) = done {
            self.leave(&why, shared);
        }
    }

    /// Sends what it has to send, as far as that goes.
    pub(crate) fn flush(&mut self) -> Result<(), String> {
        let Some(stream) = &mut self.stream else { return Ok(()) };
        while !self.out.is_empty() {
            match stream.write(&self.out) {
                Ok(sent) if sent == self.out.len() => self.out = Vec::new(),
                Ok(sent) => drop(self.out.drain(..sent)),
                // While it still connects, both may be said.
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.to_string()),
            }
        }
        Ok(())
    }

    fn fill(&mut self, n: usize, buffer: &mut [u8], shared: &mut Shared) -> Result<(), String> {
        while let Some(stream) = &mut self.stream {
            match stream.read(buffer) {
                Ok(0) => return Err("the server closed the connection".to_owned()),
                Ok(len) => {
                    self.take(n, &buffer[..len], shared)?;
                    // Less than was asked for: there is no more, and the next will be told.
                    if len < buffer.len() {
                        break;
                    }
                }
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.to_string()),
            }
        }
        Ok(())
    }

    fn take(&mut self, n: usize, fresh: &[u8], shared: &mut Shared) -> Result<(), String> {
        let now = stamp::now_us();
        if self.carry.is_empty() {
            let used = self.read(n, fresh, now, shared)?;
            self.carry.extend(&fresh[used..]);
        } else {
            let mut all = std::mem::take(&mut self.carry);
            all.extend(fresh);
            let used = self.read(n, &all, now, shared)?;
            if used < all.len() {
                all.drain(..used);
                self.carry = all;
            }
        }
        Ok(())
    }

    /// Answers how many bytes were whole.
    fn read(&mut self, n: usize, bytes: &[u8], now: i64, shared: &mut Shared) -> Result<usize, String> {
        let mut at = 0;
        if self.stage == Stage::Upgrading {
            let Some(end) = wire::head_end(bytes) else { return Ok(0) };
            if !bytes.starts_with(b"HTTP/1.1 101") {
                return Err(format!("not let in: {}", told(bytes)));
            }
            at = end;
            self.stage = Stage::Joining;
            if speech::joined_by_upgrade(shared.dialect) {
                self.joined(now, shared);
            }
        }
        while let Some(frame) = wire::frame(&bytes[at..]).map_err(|error| error.chain())? {
            at += frame.used;
            match frame.opcode {
                wire::CLOSE => return Err(format!("closed: {}", told(frame.payload))),
                wire::PING => {
                    shared.tally.pings += 1;
                    wire::client_frame(wire::PONG, frame.payload, &mut self.out);
                }
                wire::PONG => {}
                _ => {
                    for line in wire::lines(frame.payload) {
                        self.hear(n, line, now, shared)?;
                    }
                }
            }
        }
        self.flush()?;
        Ok(at)
    }

    fn hear(&mut self, n: usize, line: &[u8], now: i64, shared: &mut Shared) -> Result<(), String> {
        match speech::hear(shared.dialect, line, self.stage == Stage::Joined, || shared.names.name(n)) {
            Heard::Other => {
                for due in shared.reader.dues(line) {
                    shared.tally.received(now, due);
                }
            }
            Heard::Ping(pong) => {
                shared.tally.pings += 1;
                wire::client_frame(wire::TEXT, pong.as_bytes(), &mut self.out);
            }
            Heard::Say(bytes) => self.out.extend(bytes),
            Heard::Joined => self.joined(now, shared),
            Heard::Refused => return Err(format!("refused: {}", told(line))),
        }
        Ok(())
    }

    fn joined(&mut self, now: i64, shared: &mut Shared) {
        self.stage = Stage::Joined;
        shared.tally.joined(now, self.begun);
    }

    /// It is no more.
    pub(crate) fn leave(&mut self, why: &str, shared: &mut Shared) {
        match self.stage {
            Stage::Gone => return,
            Stage::Joined => shared.tally.cut += 1,
            Stage::Upgrading | Stage::Joining => shared.tally.refused += 1,
        }
        shared.tally.why.get_or_insert_with(|| why.to_owned());
        (self.stage, self.stream, self.out, self.carry) = (Stage::Gone, None, Vec::new(), Vec::new());
    }
}

fn told(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(TOLD)]).replace(['\r', '\n'], " ")
}
