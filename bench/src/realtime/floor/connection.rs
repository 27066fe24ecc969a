//! A connection of the floor: one that subscribes by its path, or one that publishes.

use crate::realtime::wire;
use mio::net::TcpStream;
use std::io::{ErrorKind, Read, Write};

/// What a connection brought.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// A pong, or part of a request.
    Nothing,
    /// It ended.
    Gone,
    /// It follows this channel from now on.
    Subscribed(String),
    /// A path and a body.
    Published(String, String),
}

/// The connection.
#[derive(Debug)]
pub(crate) struct Connection {
    /// Its socket.
    pub(crate) stream: TcpStream,
    /// The number of its channel.
    pub(crate) channel: Option<usize>,
    upgraded: bool,
    request: Vec<u8>,
}

impl Connection {
    /// Nothing has been read of it.
    pub(crate) fn new(stream: TcpStream) -> Self {
        Self { stream, channel: None, upgraded: false, request: Vec::new() }
    }

    /// Reads what there is. A subscriber's frames are read and forgotten.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> Heard {
        loop {
            match self.stream.read(buffer) {
                Ok(0) => return Heard::Gone,
                Ok(len) if self.upgraded && len < buffer.len() => return Heard::Nothing,
                Ok(_) if self.upgraded => {}
                Ok(len) => {
                    self.request.extend(&buffer[..len]);
                    if len < buffer.len() {
                        return self.request();
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return self.request(),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Heard::Gone,
            }
        }
    }

    fn request(&mut self) -> Heard {
        let Some(end) = wire::head_end(&self.request) else { return Heard::Nothing };
        let Some((method, path, length)) = head(&self.request[..end]) else { return Heard::Gone };
        if method == "GET" {
            let channel = path.trim_start_matches("/sub/").to_owned();
            self.request = Vec::new();
            self.upgraded = true;
            let answered = self.stream.write(wire::switching().as_bytes());
            return if answered.is_ok() { Heard::Subscribed(channel) } else { Heard::Gone };
        }
        let Some(body) = self.request.get(end..end + length) else { return Heard::Nothing };
        let (path, body) = (path.to_owned(), String::from_utf8_lossy(body).into_owned());
        self.request.drain(..end + length);
        Heard::Published(path, body)
    }

    /// Answers a publication.
    pub(crate) fn accepted(&mut self) {
        let _ = self.stream.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}");
    }
}

/// Method, path and length of the body.
fn head(bytes: &[u8]) -> Option<(&str, String, usize)> {
    let text = std::str::from_utf8(bytes).ok()?;
    let mut words = text.split(' ');
    let (method, path) = (words.next()?, words.next()?.to_owned());
    let length = text.lines().filter_map(|line| line.split_once(": "));
    let length = length.filter(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    Some((method, path, length.filter_map(|(_, value)| value.parse().ok()).next().unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_read() {
        let post = b"POST /pub/bench.0 HTTP/1.1\r\nHost: a\r\nContent-Length: 128\r\n\r\n";
        assert_eq!(head(post), Some(("POST", "/pub/bench.0".to_owned(), 128)));
        assert_eq!(head(b"GET /sub/a HTTP/1.1\r\n\r\n"), Some(("GET", "/sub/a".to_owned(), 0)));
        assert_eq!(head(b"x\r\n\r\n"), None);
    }
}
