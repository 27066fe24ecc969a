//! The little of WebSocket and HTTP that a load generator needs, by hand: a library's handshake and buffers for thousands of
//! sockets would cost more than the servers that are measured.

use crate::error::{BenchError, Fallible};
use memchr::{memchr, memmem};

/// `Sec-WebSocket-Key` of every client: the example of RFC 6455, whose answer is known.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
/// The answer to it.
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
/// Mask of all client frames: it need not be secret here, only not zero, so that nobody may skip unmasking.
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// A text frame.
pub(crate) const TEXT: u8 = 1;
/// The other side closes.
pub(crate) const CLOSE: u8 = 8;
/// A ping that wants its payload back.
pub(crate) const PING: u8 = 9;
/// The answer to a ping.
pub(crate) const PONG: u8 = 10;

/// A request that asks for a WebSocket.
pub(crate) fn upgrade(host: &str, path: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n\r\n"
    )
}

/// The answer that lets one in.
pub(crate) fn switching() -> String {
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Accept: {ACCEPT}\r\n\r\n"
    )
}

/// Appends a whole, masked frame.
pub(crate) fn client_frame(opcode: u8, payload: &[u8], out: &mut Vec<u8>) {
    head(opcode, payload.len(), 0x80, out);
    out.extend(MASK);
    out.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
}

/// A whole frame as servers send it.
pub(crate) fn server_frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(payload.len() + 10);
    head(opcode, payload.len(), 0, &mut out);
    out.extend(payload);
    out
}

fn head(opcode: u8, len: usize, masked: u8, out: &mut Vec<u8>) {
    out.push(0x80 | opcode);
    match (u8::try_from(len), u16::try_from(len)) {
        (Ok(len), _) if len < 126 => out.push(masked | len),
        (_, Ok(len)) => {
            out.push(masked | 126);
            out.extend(len.to_be_bytes());
        }
        _ => {
            out.push(masked | 127);
            out.extend((len as u64).to_be_bytes());
        }
    }
}

/// A frame of a server.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Frame<'a> {
    /// What it is; zero continues the one before.
    pub(crate) opcode: u8,
    /// What it holds.
    pub(crate) payload: &'a [u8],
    /// Its length with its head.
    pub(crate) used: usize,
}

/// The frame at the beginning, if it is whole.
pub(crate) fn frame(bytes: &[u8]) -> Fallible<Option<Frame<'_>>> {
    let [first, second, rest @ ..] = bytes else { return Ok(None) };
    if second & 0x80 != 0 {
        return Err(BenchError::new("a server's frame is masked"));
    }
    let (len, at): (usize, usize) = match (second, rest) {
        (126, [a, b, ..]) => (usize::from(u16::from_be_bytes([*a, *b])), 4),
        (127, [a, b, c, d, e, f, g, h, ..]) => {
            let len = u64::from_be_bytes([*a, *b, *c, *d, *e, *f, *g, *h]);
            (usize::try_from(len).map_err(BenchError::because("reading a frame"))?, 10)
        }
        (126 | 127, _) => return Ok(None),
        (len, _) => (usize::from(*len), 2),
    };
    let used = at.checked_add(len).ok_or_else(|| BenchError::new("a frame of an impossible length"))?;
    Ok(bytes.get(at..used).map(|payload| Frame { opcode: first & 0x0f, payload, used }))
}

/// Where the head of a request or an answer ends, if it is whole.
pub(crate) fn head_end(bytes: &[u8]) -> Option<usize> {
    memmem::find(bytes, b"\r\n\r\n").map(|at| at + 4)
}

/// An HTTP answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Reply<'a> {
    /// Its status.
    pub(crate) status: u16,
    /// Its body; of a chunked one with the marks of its chunks.
    pub(crate) body: &'a [u8],
    /// Its length.
    pub(crate) used: usize,
    /// The server ends the connection after it.
    pub(crate) closes: bool,
}

/// The answer at the beginning, if it is whole.
pub(crate) fn reply(bytes: &[u8]) -> Fallible<Option<Reply<'_>>> {
    let Some(at) = head_end(bytes) else { return Ok(None) };
    let head = String::from_utf8_lossy(&bytes[..at]);
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    let status = status.ok_or_else(|| BenchError::new("an answer that is not HTTP"))?;
    let header = |name: &str| {
        let mut found = head.lines().filter_map(|line| line.split_once(':'));
        found.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    };
    let rest = &bytes[at..];
    let len = if header("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked")) {
        let end = if rest.starts_with(b"0\r\n\r\n") { Some(5) } else { None };
        end.or_else(|| memmem::find(rest, b"\r\n0\r\n\r\n").map(|end| end + 7))
    } else {
        Some(header("content-length").and_then(|len| len.parse().ok()).unwrap_or(0))
    };
    let closes = header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
    let body = len.and_then(|len| rest.get(..len));
    Ok(body.map(|body| Reply { status, body, used: at + body.len(), closes }))
}

/// The lines of a text, without the empty ones.
pub(crate) fn lines(mut text: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        while !text.is_empty() {
            let end = memchr(b'\n', text).unwrap_or(text.len());
            let (line, rest) = text.split_at(end);
            text = rest.get(1..).unwrap_or_default();
            if !line.is_empty() {
                return Some(line);
            }
        }
        None
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_of_every_length_are_read_whole_or_not_at_all() {
        for len in [0, 1, 125, 126, 127, 65_535, 65_536] {
            let payload = vec![b'x'; len];
            let mut bytes = server_frame(TEXT, &payload);
            let used = bytes.len();
            for cut in [0, 1, 2, 3, 9, used - 1].into_iter().filter(|cut| *cut < used) {
                assert_eq!(frame(&bytes[..cut]).unwrap(), None, "{cut} of {used}");
            }
            bytes.extend(b"next");
            assert_eq!(frame(&bytes).unwrap(), Some(Frame { opcode: TEXT, payload: &payload, used }));
        }
    }

    #[test]
    fn a_client_frame_is_masked() {
        let mut out = Vec::new();
        client_frame(TEXT, b"{}", &mut out);
        assert_eq!(out, [0x81, 0x82, 0x37, 0xfa, 0x21, 0x3d, b'{' ^ 0x37, b'}' ^ 0xfa]);
        assert!(frame(&out).is_err(), "servers do not mask");
    }

    #[test]
    fn answers_with_a_length_or_in_chunks() {
        let plain = b"HTTP/1.1 202 Accepted\r\ncontent-LENGTH: 2\r\n\r\n{}HTTP";
        assert_eq!(
            reply(plain).unwrap(),
            Some(Reply { status: 202, body: b"{}", used: plain.len() - 4, closes: false })
        );
        let last = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
        assert!(reply(last).unwrap().unwrap().closes);
        assert_eq!(reply(&plain[..plain.len() - 5]).unwrap(), None);
        let chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n";
        assert_eq!(reply(chunked).unwrap().map(|reply| reply.used), Some(chunked.len()));
        assert_eq!(reply(&chunked[..chunked.len() - 1]).unwrap(), None);
        let empty = b"HTTP/1.1 204 No Content\r\n\r\n";
        assert_eq!(reply(empty).unwrap().map(|reply| reply.used), Some(empty.len()));
        assert!(reply(b"no\r\n\r\n").is_err());
    }

    #[test]
    fn lines_without_empty_ones() {
        assert_eq!(lines(b"{}\n\na\n").collect::<Vec<_>>(), [b"{}".as_slice(), b"a"]);
        assert_eq!(lines(b"").count(), 0);
    }
}
