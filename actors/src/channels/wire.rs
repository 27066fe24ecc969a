//! How one kind of client wants its messages: the protocol's form, and what stands around it on the transport.
//!
//! Of every wire a message can be built once and shared by all its clients. Nothing here knows a session.

use bytes::Bytes;
use dzvin_protocols::channels::{
    ONLINE_PREFIX, Word,
    centrifuge::{self, About, Disconnect, DisconnectPush, Event, Form},
    pusher,
    websocket::{Message, binary_frame, close_frame, text_frame},
};

use super::apps::outside;

/// A form in which messages leave; each is built once for all its clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wire {
    /// The Centrifuge protocol in JSON, in text frames.
    CentrifugeJson,
    /// The same in Protobuf, in binary frames.
    CentrifugeProtobuf,
    /// The Pusher protocol: an event a frame.
    Pusher,
    /// The Centrifuge protocol in an HTTP answer that goes on: a line a message.
    StreamJson,
    /// The same in Protobuf: each message with its length before it.
    StreamProtobuf,
    /// The Centrifuge protocol as server-sent events.
    EventSource,
    /// Pushes of the Centrifuge protocol and nothing else, each in a text frame. Behind each ping of the protocol, which the page may look
    /// for, comes one of the WebSocket, which the client's library answers: its user says nothing by which it would be known to be there.
    OneWayWebSocket,
    /// The same as server-sent events.
    OneWayEventSource,
    /// The Centrifuge protocol in JSON, kept alive by ping frames of the WebSocket: for tools that answer those by themselves, and no
    /// pings of the protocol.
    FramePingedJson,
    /// The same in Protobuf.
    FramePingedProtobuf,
}

/// How a subscriber wants publications, within its wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shape(u8);

/// The data of a publication on a Centrifuge wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Data {
    /// As it is.
    Raw,
    /// As a text, for a client that takes patches and has no base.
    Full,
    /// As a patch of the publication before, where that is shorter.
    Patch,
}

/// The name under which a channel is known on the Pusher wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Alias {
    /// Its own.
    #[default]
    None,
    /// With `private-` before it: channels of the hub, where the prefix is nothing but an alias.
    Private,
    /// With `private-cache-` before it: the same, with the last state after each subscription.
    PrivateCache,
}

impl Alias {
    /// What stands before the name.
    #[must_use]
    pub const fn prefix(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Private => "private-",
            Self::PrivateCache => "private-cache-",
        }
    }

    /// A channel of the hub as clients spell it.
    #[must_use]
    pub fn name(self, channel: &str) -> String {
        [self.prefix(), outside(channel)].concat()
    }
}

impl Shape {
    /// How many there are on one wire.
    pub(super) const COUNT: usize = 6;

    pub(super) const fn centrifuge(numbered: bool, data: Data) -> Self {
        Self(data as u8 + if numbered { 3 } else { 0 })
    }

    pub(super) const fn pusher(alias: Alias) -> Self {
        Self(alias as u8)
    }

    pub(super) const fn index(self) -> usize {
        self.0 as usize
    }

    pub(super) const fn numbered(self) -> bool {
        self.0 >= 3
    }

    pub(super) const fn data(self) -> Data {
        match self.0 % 3 {
            0 => Data::Raw,
            1 => Data::Full,
            _ => Data::Patch,
        }
    }

    pub(super) const fn alias(self) -> Alias {
        match self.0 {
            0 => Alias::None,
            1 => Alias::Private,
            _ => Alias::PrivateCache,
        }
    }
}

impl Wire {
    /// How many places there are for frames. Those that are kept alive by ping frames come last: they have the places of the plain ones.
    pub(super) const PLACES: usize = 8;

    /// Where frames are kept that are built once for all its clients.
    pub(super) const fn place(self) -> usize {
        self.without_frame_pings() as usize
    }

    /// The same, but that pings are frames of the WebSocket; where clients of the Centrifuge protocol can answer those.
    #[must_use]
    pub const fn with_frame_pings(self) -> Self {
        match self {
            Self::CentrifugeJson => Self::FramePingedJson,
            Self::CentrifugeProtobuf => Self::FramePingedProtobuf,
            other => other,
        }
    }

    const fn without_frame_pings(self) -> Self {
        match self {
            Self::FramePingedJson => Self::CentrifugeJson,
            Self::FramePingedProtobuf => Self::CentrifugeProtobuf,
            other => other,
        }
    }

    /// Whether its pings are frames of the WebSocket: the protocol knows none then.
    pub(super) const fn pings_by_frame(self) -> bool {
        matches!(self, Self::FramePingedJson | Self::FramePingedProtobuf)
    }

    /// What operators know it by.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::CentrifugeJson => "centrifuge-json",
            Self::CentrifugeProtobuf => "centrifuge-protobuf",
            Self::Pusher => "pusher",
            Self::StreamJson => "http-stream-json",
            Self::StreamProtobuf => "http-stream-protobuf",
            Self::EventSource => "sse",
            Self::OneWayWebSocket => "uni-websocket",
            Self::OneWayEventSource => "uni-sse",
            Self::FramePingedJson => "centrifuge-json-frame-pings",
            Self::FramePingedProtobuf => "centrifuge-protobuf-frame-pings",
        }
    }

    pub(super) const fn form(self) -> Form {
        match self.without_frame_pings() {
            Self::CentrifugeProtobuf | Self::StreamProtobuf => Form::Protobuf,
            _ => Form::Json,
        }
    }

    /// Whether its clients say nothing.
    pub(super) const fn is_one_way(self) -> bool {
        matches!(self, Self::OneWayWebSocket | Self::OneWayEventSource)
    }

    /// Whether its clients have an answer to a ping: server-sent events go one way in everything.
    pub(super) const fn answers_pings(self) -> bool {
        !matches!(self, Self::OneWayEventSource)
    }

    /// Whether it is spoken in WebSocket frames.
    pub(super) const fn is_websocket(self) -> bool {
        matches!(
            self.without_frame_pings(),
            Self::CentrifugeJson | Self::CentrifugeProtobuf | Self::Pusher | Self::OneWayWebSocket
        )
    }

    /// Adds a message to those that leave together.
    pub(super) fn add(self, together: &mut Vec<u8>, message: &[u8]) {
        match self {
            Self::CentrifugeJson | Self::CentrifugeProtobuf | Self::FramePingedJson | Self::FramePingedProtobuf => {
                self.form().join(together, message);
            }
            Self::StreamProtobuf => together.extend_from_slice(message),
            Self::StreamJson => {
                together.extend_from_slice(message);
                together.push(b'\n');
            }
            Self::EventSource | Self::OneWayEventSource => {
                together.extend_from_slice(b"data: ");
                together.extend_from_slice(message);
                together.extend_from_slice(b"\n\n");
            }
            Self::Pusher | Self::OneWayWebSocket => together.extend_from_slice(&text_frame(message)),
        }
    }

    /// What is written for messages that were added.
    pub(super) fn seal(self, together: Vec<u8>) -> Bytes {
        match self.without_frame_pings() {
            Self::CentrifugeJson => text_frame(&together),
            Self::CentrifugeProtobuf => binary_frame(&together),
            _ => together.into(),
        }
    }

    /// What is written for one message.
    pub(super) fn frame(self, message: &[u8]) -> Bytes {
        match self.without_frame_pings() {
            Self::CentrifugeJson | Self::Pusher | Self::OneWayWebSocket => text_frame(message),
            Self::CentrifugeProtobuf => binary_frame(message),
            _ => {
                let mut out = Vec::with_capacity(message.len() + 8);
                self.add(&mut out, message);
                out.into()
            }
        }
    }

    /// A push of the Centrifuge protocol.
    pub(super) fn push<E: Event>(self, about: About<'_>, event: &E) -> Bytes {
        self.frame(&self.message(about, event))
    }

    /// The same, to be added to others.
    pub(super) fn message<E: Event>(self, about: About<'_>, event: &E) -> Vec<u8> {
        let mut out = Vec::new();
        if self.is_one_way() {
            self.form().bare(&mut out, about, event);
        } else {
            self.form().push(&mut out, about, event);
        }
        out
    }

    /// A word on a channel, for those clients whose protocol has it.
    pub(super) fn word(self, channel: &str, word: &Word) -> Option<Bytes> {
        if self == Self::Pusher {
            let watched = channel.strip_prefix(ONLINE_PREFIX).and_then(|user| user.split_once('/'));
            let frame = match watched {
                Some((_, id)) => pusher::encode_online(id, word),
                None => pusher::encode_word(outside(channel), word),
            };
            return frame.map(|frame| self.frame(&frame));
        }
        match word {
            Word::Join { info, .. } => Some(self.push(About::Channel(channel), &centrifuge::Join { info })),
            Word::Leave { info, .. } => Some(self.push(About::Channel(channel), &centrifuge::Leave { info })),
            Word::Event { .. } | Word::Count { .. } | Word::Publication { .. } | Word::Anew { .. } => None,
        }
    }

    /// The last that a client is told: why the connection ends.
    pub(super) fn farewell(self, code: u16, reason: &str) -> Bytes {
        if self.is_websocket() {
            return close_frame(code, reason);
        }
        let reconnect = centrifuge::reconnects(code);
        self.push(About::Connection, &DisconnectPush { code, reason, reconnect })
    }

    /// The code and the words that say so on this wire.
    pub(super) const fn close_code(self, why: Disconnect) -> (u16, &'static str) {
        if !matches!(self, Self::Pusher) {
            return (why.code(), why.reason());
        }
        let close = match why {
            Disconnect::NoPong => pusher::Close::NoPong,
            Disconnect::InvalidToken | Disconnect::ForceDisconnect | Disconnect::PermissionDenied => {
                pusher::Close::Unauthorized
            }
            // As on the other wire: whoever came back each second would be refused each second.
            Disconnect::ConnectionLimit => pusher::Close::OverQuota,
            // A client that has to wait for room, or that would only do the same again: back in a second, not at once.
            Disconnect::Slow
            | Disconnect::TooManyRequests
            | Disconnect::TooManyErrors
            | Disconnect::ChannelLimit
            | Disconnect::BadRequest
            | Disconnect::InappropriateProtocol
            | Disconnect::NotAvailable
            | Disconnect::Stale => pusher::Close::OverCapacity,
            _ => pusher::Close::Reconnect,
        };
        (close.code(), close.reason())
    }

    /// The server's ping as it is written.
    pub(super) const fn ping(self) -> &'static [u8] {
        match self {
            Self::CentrifugeJson => b"\x81\x02{}",
            Self::OneWayWebSocket => b"\x81\x02{}\x89\0",
            Self::CentrifugeProtobuf => b"\x82\x01\0",
            Self::Pusher => b"\x81\x21{\"event\":\"pusher:ping\",\"data\":{}}",
            Self::StreamJson => b"{}\n",
            Self::StreamProtobuf => b"\0",
            Self::EventSource | Self::OneWayEventSource => b"data: {}\n\n",
            Self::FramePingedJson | Self::FramePingedProtobuf => b"\x89\0",
        }
    }

    /// Whether a client that says this has said that it lives, beside what its protocol has for that.
    pub(super) const fn is_heard(self, message: &Message) -> bool {
        match self {
            // Any frame will do.
            Self::Pusher => true,
            Self::FramePingedJson | Self::FramePingedProtobuf | Self::OneWayWebSocket => {
                matches!(message, Message::Pong)
            }
            _ => false,
        }
    }

    /// Whether these bytes are the usual answer to it and nothing else: one masked frame of the empty message.
    pub(super) fn is_pong(self, bytes: &[u8]) -> bool {
        match (self.form(), bytes) {
            // On a wire of one direction nothing is asked, and what comes first may be the same bytes: a `connect` of nobody.
            _ if self == Self::Pusher || self.is_one_way() || self.pings_by_frame() => false,
            (Form::Json, [0x81, 0x82, a, b, _, _, open, close]) => open ^ a == b'{' && close ^ b == b'}',
            (Form::Protobuf, [0x82, 0x81, a, _, _, _, zero]) => zero == a,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAME_PINGED: [Wire; 2] = [Wire::FramePingedJson, Wire::FramePingedProtobuf];
    const ALL: [Wire; Wire::PLACES] = [
        Wire::CentrifugeJson,
        Wire::CentrifugeProtobuf,
        Wire::Pusher,
        Wire::StreamJson,
        Wire::StreamProtobuf,
        Wire::EventSource,
        Wire::OneWayWebSocket,
        Wire::OneWayEventSource,
    ];

    #[test]
    fn pings_are_what_the_codec_makes_of_them() {
        for (n, wire) in ALL.into_iter().enumerate() {
            assert_eq!(wire.place(), n);
            let mut ping = Vec::new();
            if wire == Wire::Pusher {
                ping.extend_from_slice(pusher::PING.as_bytes());
            } else {
                wire.form().ping(&mut ping);
            }
            let by_frame: &[u8] = if wire == Wire::OneWayWebSocket { b"\x89\0" } else { b"" };
            assert_eq!(wire.ping(), &[&wire.frame(&ping)[..], by_frame].concat()[..], "{wire:?}");
            let mut together = Vec::new();
            wire.add(&mut together, &ping);
            assert_eq!(wire.seal(together), wire.frame(&ping), "{wire:?}");
        }
    }

    /// All but the pings is one with the wire that has its own, frames of publications included.
    #[test]
    fn frame_pings_are_of_the_websocket() {
        for (wire, plain) in FRAME_PINGED.into_iter().zip([Wire::CentrifugeJson, Wire::CentrifugeProtobuf]) {
            assert_eq!((plain.with_frame_pings(), wire.place()), (wire, plain.place()));
            assert_eq!(wire.ping(), b"\x89\0");
            let mut ping = Vec::new();
            wire.form().ping(&mut ping);
            let together = |wire: Wire| {
                let mut together = Vec::new();
                wire.add(&mut together, b"{}");
                wire.add(&mut together, b"[]");
                wire.seal(together)
            };
            assert_eq!(
                (wire.form(), wire.frame(&ping), together(wire)),
                (plain.form(), plain.frame(&ping), together(plain))
            );
            assert_eq!(wire.farewell(3001, "shutdown"), plain.farewell(3001, "shutdown"));
            assert!(wire.is_heard(&Message::Pong) && !wire.is_heard(&Message::Text("{}".to_owned())));
            assert!(!plain.is_heard(&Message::Pong), "the protocol has a pong of its own");
            // The empty pong as it comes: one that nobody asked for is allowed, so it is no pong of the protocol's.
            assert!(!wire.is_pong(&[0x8a, 0x80, 1, 2, 3, 4]) && !wire.is_pong(&[0x81, 0x82, 0, 0, 0, 0, b'{', b'}']));
        }
        for wire in ALL.into_iter().skip(2) {
            assert_eq!(wire.with_frame_pings(), wire, "it knows none");
        }
    }

    #[test]
    fn who_only_listens_answers_by_frames_or_not_at_all() {
        assert!(Wire::OneWayWebSocket.is_heard(&Message::Pong) && Wire::OneWayWebSocket.answers_pings());
        assert!(!Wire::OneWayWebSocket.is_heard(&Message::Text("{}".to_owned())), "nobody listens to that");
        assert!(!Wire::OneWayEventSource.is_heard(&Message::Pong) && !Wire::OneWayEventSource.answers_pings());
    }

    #[test]
    fn pongs_are_known_by_their_bytes() {
        let mask = [7, 200, 3, 4];
        for (wire, head) in [(Wire::CentrifugeJson, 0x81), (Wire::CentrifugeProtobuf, 0x82)] {
            let mut ping = Vec::new();
            wire.form().ping(&mut ping);
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

    /// A client that may come back is never told that it may not, and the other way round only where staying away is meant.
    #[test]
    fn every_code_means_on_the_pusher_wire_what_it_means_on_the_other() {
        for why in Disconnect::ALL {
            let (code, reason) = Wire::Pusher.close_code(*why);
            let back = pusher::ClientAction::of(code).reconnects();
            assert!(back || !why.reconnect(), "{why:?} {code}");
            assert!((4000..4300).contains(&code) && !reason.is_empty());
            // What nothing but another page, or another user's leaving, can mend is not tried each second.
            assert_eq!(*why == Disconnect::ConnectionLimit, code == 4004);
            assert_eq!(Wire::CentrifugeJson.close_code(*why).0, why.code());
        }
    }

    #[test]
    fn shapes_have_places_of_their_own() {
        let mut places = Vec::new();
        for numbered in [false, true] {
            for data in [Data::Raw, Data::Full, Data::Patch] {
                let shape = Shape::centrifuge(numbered, data);
                assert_eq!((shape.numbered(), shape.data()), (numbered, data));
                places.push(shape.index());
            }
        }
        assert_eq!(places, (0..Shape::COUNT).collect::<Vec<_>>());
        for alias in [Alias::None, Alias::Private, Alias::PrivateCache] {
            assert_eq!(Shape::pusher(alias).alias(), alias);
        }
    }
}
