//! The client's side of the wire: WebSocket frames.

use dzvin_protocols::channels::websocket::{
    Decoder, FrameError, MAX_CLOSE_REASON, Message, close_frame, pong_frame, text_frame,
};

use super::{options, text};

/// Bytes: limit, seed of the cuts, mask; the rest is the stream.
///
/// However the stream is cut, the messages and the error are the same; no message is above the limit; and our own frames,
/// masked and fragmented as a client would, read back.
pub fn websocket(data: &[u8]) {
    let ([limit, seed, mask], stream) = options::<3>(data);
    let limit = usize::from(limit) * 8;
    let whole = run(limit, std::iter::once(stream));
    let cut = run(limit, Cuts { rest: stream, state: u32::from(seed) });
    assert_eq!(whole, cut, "the same messages whatever the cuts");
    let single = run(limit, stream.chunks(1));
    assert_eq!(whole, single, "byte by byte too");
    for message in &whole.0 {
        let (size, most) = match message {
            Message::Text(text) => (text.len(), limit),
            Message::Binary(bytes) => (bytes.len(), limit),
            Message::Ping(bytes) => (bytes.len(), 125),
            Message::Pong | Message::Close(_) => (0, 0),
        };
        assert!(size <= most, "{size} bytes above {most}");
    }
    if let Some(error) = whole.1 {
        assert!(matches!(error.close_code(), 1002 | 1007 | 1009));
    }
    round_trip(stream, mask, seed);
}

type Outcome = (Vec<Message>, Option<FrameError>);

fn run<'a>(limit: usize, chunks: impl Iterator<Item = &'a [u8]>) -> Outcome {
    let (mut decoder, mut messages) = (Decoder::new(limit), Vec::new());
    for chunk in chunks {
        decoder.feed(chunk);
        loop {
            match decoder.next_message() {
                Ok(Some(message)) => messages.push(message),
                Ok(None) => break,
                Err(error) => return (messages, Some(error)),
            }
        }
    }
    (messages, None)
}

/// Pieces of 1 to 64 bytes by a small generator, so that an input always means the same cuts.
struct Cuts<'a> {
    rest: &'a [u8],
    state: u32,
}

impl Cuts<'_> {
    fn number(&mut self) -> usize {
        self.state = self.state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (self.state >> 24) as usize
    }
}

impl<'a> Iterator for Cuts<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        if self.rest.is_empty() {
            return None;
        }
        let (piece, rest) = self.rest.split_at((self.number() % 64 + 1).min(self.rest.len()));
        self.rest = rest;
        Some(piece)
    }
}

/// A payload goes out as one binary message in fragments with pings between, and as frames of ours.
fn round_trip(payload: &[u8], mask: u8, seed: u8) {
    let key = [mask, seed, mask ^ 0x5a, !seed];
    let mut sent = Vec::new();
    let mut fragments = Cuts { rest: payload, state: u32::from(mask) }.peekable();
    let mut first = 0x02;
    let mut pings = 0;
    loop {
        let fragment = fragments.next().unwrap_or_default();
        let last = fragments.peek().is_none();
        sent.extend(masked(if last { first | 0x80 } else { first }, fragment, key));
        first = 0;
        if last {
            break;
        }
        sent.extend(masked(0x89, b"?", key));
        pings += 1;
    }
    let (mut messages, error) = run(payload.len(), Cuts { rest: &sent, state: u32::from(seed) });
    assert_eq!((error, messages.pop()), (None, Some(Message::Binary(payload.to_vec()))));
    assert_eq!(messages, vec![Message::Ping(b"?".to_vec()); pings]);

    let text = text(payload);
    for (frame, expected) in [
        (text_frame(text.as_bytes()), Message::Text(text.to_string())),
        (close_frame(3000 + u16::from(seed), &text), Message::Close(Some(3000 + u16::from(seed)))),
        (pong_frame(payload), Message::Pong),
    ] {
        let (head, body) = parts(&frame);
        assert!(frame[0] & 0x0f < 8 || body.len() <= MAX_CLOSE_REASON + 2, "a control frame fits");
        assert_eq!(run(body.len(), std::iter::once(&masked(head, body, key)[..])), (vec![expected], None));
    }
}

/// The first byte and the payload of a server's frame, read by its own rules.
fn parts(frame: &[u8]) -> (u8, &[u8]) {
    let head = match frame[1] {
        126 => 4,
        127 => 10,
        short => {
            assert_eq!(usize::from(short), frame.len() - 2);
            2
        }
    };
    (frame[0], &frame[head..])
}

fn masked(first: u8, payload: &[u8], key: [u8; 4]) -> Vec<u8> {
    let mut out = vec![first];
    match payload.len() {
        short @ 0..=125 => out.push(0x80 | short as u8),
        middle @ 126..=0xffff => {
            out.push(0x80 | 126);
            out.extend((middle as u16).to_be_bytes());
        }
        long => {
            out.push(0x80 | 127);
            out.extend((long as u64).to_be_bytes());
        }
    }
    out.extend(key);
    out.extend(payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key));
    out
}
