//! How one kind of client wants its messages: the protocol's form inside the right WebSocket frame.

use bytes::Bytes;
use dzvin_protocols::channels::{
    Publication,
    centrifuge::{About, Event, Form, Pub},
    websocket::{binary_frame, text_frame},
};

/// A form in which publications leave; each is built once for all its subscribers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wire {
    /// The Centrifuge protocol in JSON, in text frames.
    CentrifugeJson,
    /// The same in Protobuf, in binary frames.
    CentrifugeProtobuf,
}

impl Wire {
    /// How many there are.
    pub(super) const COUNT: usize = 2;

    pub(super) const fn form(self) -> Form {
        match self {
            Self::CentrifugeJson => Form::Json,
            Self::CentrifugeProtobuf => Form::Protobuf,
        }
    }

    /// One frame of messages that are encoded already.
    pub(super) fn frame(self, messages: &[u8]) -> Bytes {
        match self {
            Self::CentrifugeJson => text_frame(messages),
            Self::CentrifugeProtobuf => binary_frame(messages),
        }
    }

    /// The frame of a push to one client.
    pub(super) fn push<E: Event>(self, channel: &str, event: &E) -> Bytes {
        let mut out = Vec::new();
        self.form().push(&mut out, About::Channel(channel), event);
        self.frame(&out)
    }

    /// The frame of a publication for every subscriber of the channel.
    pub(super) fn publication(self, channel: &str, publication: &Publication, offset: u64) -> Bytes {
        self.push(channel, &Pub::new(publication, offset))
    }

    /// The server's ping, an empty message, as a whole frame.
    pub(super) const fn ping(self) -> &'static [u8] {
        match self {
            Self::CentrifugeJson => b"\x81\x02{}",
            Self::CentrifugeProtobuf => b"\x82\x01\0",
        }
    }

    /// Whether these bytes are the usual answer to it and nothing else: one masked frame of the empty message.
    pub(super) fn is_pong(self, bytes: &[u8]) -> bool {
        match (self, bytes) {
            (Self::CentrifugeJson, [0x81, 0x82, a, b, _, _, open, close]) => open ^ a == b'{' && close ^ b == b'}',
            (Self::CentrifugeProtobuf, [0x82, 0x81, a, _, _, _, zero]) => zero == a,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pings_and_pongs_are_what_the_codec_makes_of_them() {
        let mask = [7, 200, 3, 4];
        for (wire, head) in [(Wire::CentrifugeJson, 0x81), (Wire::CentrifugeProtobuf, 0x82)] {
            let mut ping = Vec::new();
            wire.form().ping(&mut ping);
            assert_eq!(wire.ping(), &wire.frame(&ping)[..]);
            let masked = ping.iter().zip(mask).map(|(byte, key)| byte ^ key);
            let pong: Vec<u8> = [head, 0x80 | ping.len() as u8].into_iter().chain(mask).chain(masked).collect();
            assert!(wire.is_pong(&pong));
            for n in 0..pong.len() {
                let mut other = pong.clone();
                other[n] ^= 1;
                // A changed key that no byte of the message uses is another mask of the same message.
                let unused = (2 + ping.len()..6).contains(&n);
                assert_eq!(wire.is_pong(&other), unused, "{wire:?} at {n}");
                assert!(!wire.is_pong(&pong[..n]));
            }
        }
    }
}
