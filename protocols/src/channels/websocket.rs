//! The server's side of RFC 6455 framing, without I/O.
//!
//! Ours, and not a library's, because the hub builds each outgoing frame once and shares it among all its subscribers,
//! and keeps no buffer for a connection that says nothing. Invariants: the decoder holds at most one message within its
//! limit and the beginning of one frame; it never trusts a length before checking it; control frames may stand between
//! fragments. It deliberately negotiates no extension (compression costs tens of kilobytes a connection).

use bytes::{BufMut, Bytes, BytesMut};

/// Control frames carry at most 125 bytes (RFC 6455, 5.5).
const MAX_CONTROL: usize = 125;
/// A close reason is what is left of a control frame after the code.
pub const MAX_CLOSE_REASON: usize = MAX_CONTROL - 2;

/// A whole message or control frame from a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// A text message, checked to be UTF-8.
    Text(String),
    /// A binary message.
    Binary(Vec<u8>),
    /// To be answered with a pong of the same payload.
    Ping(Vec<u8>),
    /// The answer to a ping of ours.
    Pong,
    /// The client closes, with the code it gave.
    Close(Option<u16>),
}

/// What a client must not send; each closes the connection with [`FrameError::close_code`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Reserved bits, an unknown opcode, a fragmented control frame, a continuation of nothing, an unmasked frame, a length that
    /// is not written as short as it could be.
    #[error("malformed frame: {0}")]
    Malformed(&'static str),
    /// The message is above the limit.
    #[error("message of {size} bytes is above the limit of {limit}")]
    TooLarge {
        /// What it would have been, as far as it was announced.
        size: u64,
        /// The limit in force.
        limit: usize,
    },
    /// A text message that is not UTF-8.
    #[error("text is not utf-8")]
    NotText,
}

impl FrameError {
    /// The close code of RFC 6455, 7.4.1.
    #[must_use]
    pub const fn close_code(self) -> u16 {
        match self {
            Self::Malformed(_) => 1002,
            Self::NotText => 1007,
            Self::TooLarge { .. } => 1009,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Opcode {
    Continuation = 0,
    Text = 1,
    Binary = 2,
    Close = 8,
    Ping = 9,
    Pong = 10,
}

impl Opcode {
    fn parse(bits: u8) -> Result<Self, FrameError> {
        Ok(match bits {
            0 => Self::Continuation,
            1 => Self::Text,
            2 => Self::Binary,
            8 => Self::Close,
            9 => Self::Ping,
            10 => Self::Pong,
            _ => return Err(FrameError::Malformed("unknown opcode")),
        })
    }

    const fn is_control(self) -> bool {
        self as u8 >= 8
    }
}

struct Header {
    fin: bool,
    opcode: Opcode,
    mask: [u8; 4],
    head: usize,
    payload: usize,
}

/// Takes bytes as they come and gives messages.
#[derive(Debug)]
pub struct Decoder {
    limit: usize,
    input: BytesMut,
    message: Vec<u8>,
    kind: Option<Opcode>,
    /// How much of a text in fragments has been seen to be UTF-8.
    checked: usize,
}

impl Decoder {
    /// `limit` is the largest message in bytes.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { limit, input: BytesMut::new(), message: Vec::new(), kind: None, checked: 0 }
    }

    /// Adds what was read from the socket.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.input.extend_from_slice(bytes);
    }

    /// Whether it stands between two messages and holds nothing.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.input.is_empty() && self.kind.is_none()
    }

    /// The next whole message, or `None` when more bytes are needed.
    ///
    /// # Errors
    /// What the client must not send. The decoder is of no use afterwards.
    pub fn next_message(&mut self) -> Result<Option<Message>, FrameError> {
        loop {
            let Some(header) = self.header()? else { return Ok(None) };
            if self.input.len() < header.head + header.payload {
                return Ok(None);
            }
            let mut frame = self.input.split_to(header.head + header.payload);
            if self.input.is_empty() {
                // A silent connection keeps no buffer.
                self.input = BytesMut::new();
            }
            let payload = &mut frame[header.head..];
            unmask(payload, header.mask);
            if header.opcode.is_control() {
                return control(header.opcode, payload).map(Some);
            }
            self.message.extend_from_slice(payload);
            if header.opcode != Opcode::Continuation {
                self.kind = Some(header.opcode);
            }
            if header.fin {
                return self.finish().map(Some);
            }
            self.check_text()?;
        }
    }

    fn header(&self) -> Result<Option<Header>, FrameError> {
        let [first, second, rest @ ..] = &self.input[..] else { return Ok(None) };
        if first & 0x70 != 0 {
            return Err(FrameError::Malformed("reserved bits"));
        }
        if second & 0x80 == 0 {
            return Err(FrameError::Malformed("unmasked"));
        }
        let (fin, opcode) = (first & 0x80 != 0, Opcode::parse(first & 0x0f)?);
        // With the least that the form is for: a shorter length must be written in a shorter form (RFC 6455, 5.2).
        let (extended, size, least) = match second & 0x7f {
            126 => (2, rest.get(..2).map(|b| u64::from(u16::from_be_bytes([b[0], b[1]]))), 126),
            127 => (8, rest.get(..8).and_then(|b| b.try_into().ok()).map(u64::from_be_bytes), 0x1_0000),
            short => (0, Some(u64::from(short)), 0),
        };
        self.check_order(fin, opcode)?;
        let Some(size) = size else { return Ok(None) };
        if size < least || size > i64::MAX as u64 {
            return Err(FrameError::Malformed("a length in a form that is not for it"));
        }
        let payload = self.check_size(opcode, size)?;
        let Some(mask) = rest.get(extended..extended + 4).and_then(|m| m.try_into().ok()) else { return Ok(None) };
        Ok(Some(Header { fin, opcode, mask, head: 2 + extended + 4, payload }))
    }

    fn check_order(&self, fin: bool, opcode: Opcode) -> Result<(), FrameError> {
        match (opcode, self.kind) {
            (o, _) if o.is_control() && !fin => Err(FrameError::Malformed("fragmented control frame")),
            (Opcode::Continuation, None) => Err(FrameError::Malformed("continuation of nothing")),
            (Opcode::Text | Opcode::Binary, Some(_)) => Err(FrameError::Malformed("a message within a message")),
            _ => Ok(()),
        }
    }

    fn check_size(&self, opcode: Opcode, size: u64) -> Result<usize, FrameError> {
        if opcode.is_control() {
            return match usize::try_from(size) {
                Ok(size) if size <= MAX_CONTROL => Ok(size),
                _ => Err(FrameError::Malformed("control frame above 125 bytes")),
            };
        }
        let total = size.saturating_add(self.message.len() as u64);
        if total > self.limit as u64 {
            return Err(FrameError::TooLarge { size: total, limit: self.limit });
        }
        usize::try_from(size).map_err(|_| FrameError::TooLarge { size, limit: self.limit })
    }

    /// Fragments of what is no text are told at once, each byte looked at once; a character may be cut in two.
    fn check_text(&mut self) -> Result<(), FrameError> {
        if self.kind == Some(Opcode::Binary) {
            return Ok(());
        }
        let rest = self.message.get(self.checked..).unwrap_or_default();
        match std::str::from_utf8(rest) {
            Ok(_) => self.checked = self.message.len(),
            Err(error) if error.error_len().is_none() => self.checked += error.valid_up_to(),
            Err(_) => return Err(FrameError::NotText),
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<Message, FrameError> {
        let message = std::mem::take(&mut self.message);
        self.checked = 0;
        match self.kind.take() {
            Some(Opcode::Binary) => Ok(Message::Binary(message)),
            _ => String::from_utf8(message).map(Message::Text).map_err(|_| FrameError::NotText),
        }
    }
}

fn unmask(payload: &mut [u8], mask: [u8; 4]) {
    let wide = u32::from_ne_bytes(mask);
    let mut chunks = payload.chunks_exact_mut(4);
    for chunk in &mut chunks {
        let word = u32::from_ne_bytes([chunk[0], chunk[1], chunk[2], chunk[3]]) ^ wide;
        chunk.copy_from_slice(&word.to_ne_bytes());
    }
    for (byte, key) in chunks.into_remainder().iter_mut().zip(mask) {
        *byte ^= key;
    }
}

fn control(opcode: Opcode, payload: &[u8]) -> Result<Message, FrameError> {
    Ok(match opcode {
        Opcode::Ping => Message::Ping(payload.to_vec()),
        Opcode::Pong => Message::Pong,
        _ => match payload {
            [] => Message::Close(None),
            [_] => return Err(FrameError::Malformed("a close code of one byte")),
            [high, low, reason @ ..] => {
                std::str::from_utf8(reason).map_err(|_| FrameError::NotText)?;
                let code = u16::from_be_bytes([*high, *low]);
                // RFC 6455, 7.4: 1004 to 1006 and 1015 are never on the wire, the rest below 3000 is not given out.
                if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
                    return Err(FrameError::Malformed("a close code that must not be sent"));
                }
                Message::Close(Some(code))
            }
        },
    })
}

/// One unfragmented text frame, ready for any number of sockets.
#[must_use]
pub fn text_frame(payload: &[u8]) -> Bytes {
    frame(Opcode::Text, payload)
}

/// One unfragmented binary frame, ready for any number of sockets.
#[must_use]
pub fn binary_frame(payload: &[u8]) -> Bytes {
    frame(Opcode::Binary, payload)
}

/// The answer to a ping.
#[must_use]
pub fn pong_frame(payload: &[u8]) -> Bytes {
    frame(Opcode::Pong, &payload[..payload.len().min(MAX_CONTROL)])
}

/// A close frame; the reason is cut to what fits, at a character's edge.
#[must_use]
pub fn close_frame(code: u16, reason: &str) -> Bytes {
    let end = (0..=reason.len().min(MAX_CLOSE_REASON)).rev().find(|at| reason.is_char_boundary(*at)).unwrap_or(0);
    let mut payload = Vec::with_capacity(2 + end);
    payload.extend_from_slice(&code.to_be_bytes());
    payload.extend_from_slice(&reason.as_bytes()[..end]);
    frame(Opcode::Close, &payload)
}

fn frame(opcode: Opcode, payload: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(payload.len() + 10);
    out.put_u8(0x80 | opcode as u8);
    match payload.len() {
        short @ 0..=125 => out.put_u8(u8::try_from(short).unwrap_or(0)),
        middle @ 126..=0xffff => {
            out.put_u8(126);
            out.put_u16(u16::try_from(middle).unwrap_or(u16::MAX));
        }
        long => {
            out.put_u8(127);
            out.put_u64(long as u64);
        }
    }
    out.put_slice(payload);
    out.freeze()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn masked(first: u8, payload: &[u8], mask: [u8; 4]) -> Vec<u8> {
        let mut out = vec![first];
        match payload.len() {
            n @ 0..=125 => out.push(0x80 | n as u8),
            n @ 126..=0xffff => {
                out.push(0x80 | 126);
                out.extend((n as u16).to_be_bytes());
            }
            n => {
                out.push(0x80 | 127);
                out.extend((n as u64).to_be_bytes());
            }
        }
        out.extend(mask);
        out.extend(payload.iter().zip(mask.iter().cycle()).map(|(b, m)| b ^ m));
        out
    }

    fn all(limit: usize, bytes: &[u8]) -> Result<Vec<Message>, FrameError> {
        let mut decoder = Decoder::new(limit);
        decoder.feed(bytes);
        std::iter::from_fn(|| decoder.next_message().transpose()).collect()
    }

    /// A frame as a client could send it, sound or not: first byte, length form, mask, payload.
    fn any_frame() -> impl Strategy<Value = Vec<u8>> {
        let first = prop_oneof![
            8 => prop::sample::select(vec![0x81_u8, 0x01, 0x00, 0x80, 0x82, 0x02, 0x89, 0x8a, 0x88]),
            1 => any::<u8>(),
        ];
        let payload = prop_oneof![
            4 => "\\PC{0,60}".prop_map(String::into_bytes),
            1 => prop::collection::vec(any::<u8>(), 0..8),
            1 => prop::collection::vec(any::<u8>(), 120..140),
        ];
        (first, payload, any::<[u8; 4]>(), prop::bool::weighted(0.03)).prop_map(|(first, payload, mask, bare)| {
            let mut frame = masked(first, &payload, mask);
            if bare {
                frame[1] &= 0x7f;
            }
            frame
        })
    }

    /// What a decoder gives of a stream in such pieces: the messages, and the error that ends them.
    fn in_pieces(limit: usize, stream: &[u8], mut size: impl FnMut() -> usize) -> (Vec<Message>, Option<FrameError>) {
        let (mut decoder, mut messages, mut rest) = (Decoder::new(limit), Vec::new(), stream);
        while !rest.is_empty() {
            let (piece, later) = rest.split_at(size().clamp(1, rest.len()));
            decoder.feed(piece);
            rest = later;
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

    proptest! {
        #[test]
        fn any_split_gives_the_same_messages(
            frames in prop::collection::vec(any_frame(), 1..12),
            cuts in prop::collection::vec(1_usize..64, 1..40),
        ) {
            let stream = frames.concat();
            let whole = in_pieces(256, &stream, || usize::MAX);
            let mut cuts = cuts.iter().cycle();
            prop_assert_eq!(&in_pieces(256, &stream, || *cuts.next().unwrap()), &whole);
            prop_assert_eq!(&in_pieces(256, &stream, || 1), &whole);
        }

        #[test]
        fn any_text_in_any_fragments_is_the_text(text in "\\PC{0,80}", cuts in prop::collection::vec(0_usize..9, 1..9), mask: [u8; 4]) {
            let (mut stream, mut rest, mut first, mut cuts) = (Vec::new(), text.as_bytes(), 0x01, cuts.iter().cycle());
            // Fragments may be empty, and end in the middle of a character.
            for _ in 0..20 {
                let (piece, later) = rest.split_at((*cuts.next().unwrap()).min(rest.len()));
                stream.extend(masked(first, piece, mask));
                (rest, first) = (later, 0x00);
            }
            stream.extend(masked(0x80, rest, mask));
            prop_assert_eq!(all(1024, &stream), Ok(vec![Message::Text(text)]));
        }

        #[test]
        fn hostile_bytes_are_values(bytes: Vec<u8>) {
            let _ = all(256, &bytes);
        }
    }

    #[test]
    fn fragments_join_around_a_ping() {
        let mask = [1, 2, 3, 4];
        let stream = [masked(0x01, b"he", mask), masked(0x89, b"?", mask), masked(0x80, b"llo", mask)].concat();
        assert_eq!(all(64, &stream), Ok(vec![Message::Ping(b"?".to_vec()), Message::Text("hello".into())]));
    }

    #[test]
    fn what_a_client_must_not_send() {
        let mask = [9; 4];
        for (stream, code) in [
            (vec![0x81, 0x01, b'x'], 1002),
            (masked(0xC1, b"x", mask), 1002),
            (masked(0x83, b"x", mask), 1002),
            (masked(0x80, b"x", mask), 1002),
            (masked(0x09, b"x", mask), 1002),
            (masked(0x89, &[0; 126], mask), 1002),
            (masked(0x88, &[1], mask), 1002),
            (masked(0x88, &[0, 0], mask), 1002),
            (masked(0x88, &1005u16.to_be_bytes(), mask), 1002),
            (masked(0x88, &5000u16.to_be_bytes(), mask), 1002),
            (masked(0x88, &[3, 232, 0xff], mask), 1007),
            ([masked(0x01, b"x", mask), masked(0x81, b"y", mask)].concat(), 1002),
            (masked(0x81, &[0xff], mask), 1007),
            (masked(0x81, &[b'x'; 65], mask), 1009),
            ([masked(0x01, &[b'x'; 40], mask), masked(0x80, &[b'x'; 40], mask)].concat(), 1009),
            (vec![0x81, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], 1009),
            // The top bit must be 0.
            (vec![0x81, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], 1002),
            (vec![0x81, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 1], 1002),
            // Lengths in a longer form than they need.
            (vec![0x81, 0xfe, 0, 125], 1002),
            (vec![0x81, 0xff, 0, 0, 0, 0, 0, 0, 0xff, 0xff], 1002),
            (vec![0x89, 0xfe, 0, 0], 1002),
            // Told with the fragment that holds it, not with the end of the message.
            (masked(0x01, &[b'x', 0xff], mask), 1007),
            ([masked(0x01, "ж".as_bytes(), mask), masked(0x00, &[0xd0, 0xd0], mask)].concat(), 1007),
            ([masked(0x01, &[0xd0], mask), masked(0x80, b"", mask)].concat(), 1007),
        ] {
            assert_eq!(all(64, &stream).expect_err("refused").close_code(), code, "{stream:?}");
        }
    }

    #[test]
    fn frames_have_the_right_lengths() {
        assert_eq!(&text_frame(b"hi")[..], b"\x81\x02hi");
        assert_eq!(&text_frame(&[b'a'; 126])[..4], b"\x81\x7e\x00\x7e");
        assert_eq!(&text_frame(&[b'a'; 65_536])[..10], b"\x81\x7f\0\0\0\0\0\x01\0\0");
        let close = close_frame(3008, &"ш".repeat(100));
        assert_eq!((&close[..4], close.len()), (&b"\x88\x7c\x0b\xc0"[..], 2 + 124));
    }
}
