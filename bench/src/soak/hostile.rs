//! Clients that do not mean well: what they send, and what must come of it. The lies are made without I/O; a player sends them.

use super::ground::Ground;
use super::line::{self, Line};
use super::words::Wire;
use crate::realtime::wire;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

/// A liar must be shown the door within this: above the time for `connect`, and above a ping and its answer's time.
const PATIENCE: Duration = Duration::from_secs(40);
/// From one lie to the next, in milliseconds.
const PAUSE: std::ops::Range<u64> = 100..1_500;

/// A lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Lie {
    /// Not even HTTP.
    Rubbish,
    /// A request that never ends.
    HalfRequest,
    /// A frame without a mask.
    Unmasked,
    /// A length above everything.
    Endless,
    /// A length above what a message may have.
    TooLong,
    /// A length above what is sent, then a cut.
    Shortened,
    /// Half a frame, then silence.
    HalfFrame,
    /// Reserved bits.
    Reserved,
    /// An operation that does not exist.
    UnknownOperation,
    /// Text that is none.
    NotUtf8,
    /// A continuation of nothing.
    Continued,
    /// A ping in pieces.
    PingInPieces,
    /// A ping that is too long.
    LongPing,
    /// A close frame that is half a code.
    HalfCode,
    /// Bytes at random after the upgrade.
    Noise,
    /// The frame's mask is not what it was masked with.
    WrongMask,
    /// A command that is none, after a good beginning.
    NoCommand,
    /// The other form.
    OtherForm,
    /// A message whose length lies, in Protobuf.
    WrongLength,
    /// A good beginning, then a cut.
    Cut,
    /// Upgraded, then silence.
    Silence,
    /// Events of Pusher's that are none.
    NoEvent,
    /// A signature that is none.
    NoSignature,
}

/// All of them.
pub(crate) const LIES: [Lie; 23] = [
    Lie::Rubbish,
    Lie::HalfRequest,
    Lie::Unmasked,
    Lie::Endless,
    Lie::TooLong,
    Lie::Shortened,
    Lie::HalfFrame,
    Lie::Reserved,
    Lie::UnknownOperation,
    Lie::NotUtf8,
    Lie::Continued,
    Lie::PingInPieces,
    Lie::LongPing,
    Lie::HalfCode,
    Lie::Noise,
    Lie::WrongMask,
    Lie::NoCommand,
    Lie::OtherForm,
    Lie::WrongLength,
    Lie::Cut,
    Lie::Silence,
    Lie::NoEvent,
    Lie::NoSignature,
];

/// What a liar does after its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Then {
    /// Reads until the server closes, which it must.
    Wait,
    /// Goes without a word.
    Go,
}

/// What is sent, over which wire, and what follows.
#[derive(Debug)]
pub(crate) struct Script {
    /// `None`: not upgraded at all.
    pub(crate) wire: Option<Wire>,
    /// Bytes.
    pub(crate) bytes: Vec<u8>,
    /// What follows.
    pub(crate) then: Then,
}

impl Lie {
    /// Its bytes. What follows a good beginning has the hello of the wire before it.
    pub(crate) fn script(self, token: &str, random: &mut StdRng) -> Script {
        let wire = match self {
            Self::Rubbish | Self::HalfRequest => None,
            Self::WrongLength => Some(Wire::Protobuf),
            Self::NoEvent | Self::NoSignature => Some(Wire::Pusher),
            Self::NoCommand | Self::OtherForm | Self::Cut | Self::WrongMask => Some(Wire::Json),
            _ => [Wire::Json, Wire::Protobuf, Wire::Pusher].choose(random).copied(),
        };
        let then = match self {
            // Who is polite but for an event or a signature stays; who was cut is gone.
            Self::Shortened | Self::Cut | Self::NoEvent | Self::NoSignature | Self::HalfRequest => Then::Go,
            _ => Then::Wait,
        };
        let mut bytes = Vec::new();
        let text = |text: &str, bytes: &mut Vec<u8>| wire::client_frame(wire::TEXT, text.as_bytes(), bytes);
        if matches!(self, Self::NoCommand | Self::OtherForm | Self::Cut | Self::WrongLength)
            && let Some(wire) = wire
        {
            wire::client_frame(wire.opcode(), &wire.hello(token).unwrap_or_default(), &mut bytes);
        }
        match self {
            Self::Rubbish => {
                let len = random.random_range(1..2_000);
                bytes.extend((0..len).map(|_| random.random::<u8>()));
                // Or it would be taken for the beginning of a head that may still come.
                bytes.extend(b"\r\n\r\n");
            }
            Self::HalfRequest => {
                let whole = wire::upgrade("hub", &Wire::Json.path());
                bytes.extend(&whole.as_bytes()[..random.random_range(1..whole.len())]);
            }
            Self::Unmasked => bytes.extend(wire::server_frame(wire::TEXT, b"{}")),
            Self::Endless => bytes.extend([&[0x81, 0xff][..], &u64::MAX.to_be_bytes(), b"mask{}"].concat()),
            Self::TooLong => bytes.extend([&[0x81, 0xff][..], &(8_u64 << 20).to_be_bytes(), b"mask{}"].concat()),
            Self::Shortened | Self::HalfFrame => {
                text(&"x".repeat(500), &mut bytes);
                bytes.truncate(random.random_range(1..500));
            }
            Self::Reserved => bytes.extend([0x81_u8 | (random.random_range(1..8) << 4), 0x80, 1, 2, 3, 4]),
            Self::UnknownOperation => bytes.extend([0x80 | random.random_range(3..8_u8), 0x80, 1, 2, 3, 4]),
            Self::NotUtf8 => wire::client_frame(wire::TEXT, b"{\"id\":1,\"\xc3\x28\":{}}", &mut bytes),
            Self::Continued => wire::client_frame(0, b"{}", &mut bytes),
            Self::PingInPieces => bytes.extend([0x09_u8, 0x80, 1, 2, 3, 4]),
            Self::LongPing => wire::client_frame(wire::PING, &[b'x'; 126], &mut bytes),
            Self::HalfCode => wire::client_frame(wire::CLOSE, &[3], &mut bytes),
            Self::Noise => {
                // The first byte has reserved bits: whatever follows, it is no frame.
                bytes.push(0xf1);
                bytes.extend((0..random.random_range(1..3_000)).map(|_| random.random::<u8>()));
            }
            Self::WrongMask => {
                text("{\"id\":1,\"connect\":{\"token\":\"t\"}}", &mut bytes);
                bytes[2] ^= 0xff;
            }
            Self::NoCommand => {
                let nonsense = ["[]", "{\"id\":3,\"subscribe\":7}", "{\"id\":-1}", "nonsense", "{\"id\":5,\"x\":{}}"];
                text(nonsense.choose(random).copied().unwrap_or("[]"), &mut bytes);
            }
            Self::OtherForm => wire::client_frame(super::words::BINARY, b"\x02\x08\x01", &mut bytes),
            Self::WrongLength => wire::client_frame(super::words::BINARY, b"\xff\xff\xff\x7f\x08\x01", &mut bytes),
            Self::Cut | Self::Silence => {}
            Self::NoEvent => {
                let nonsense = ["[]", "{\"event\":1}", "{\"event\":\"pusher:subscribe\",\"data\":[]}", "\"\"", "{{{{"];
                nonsense.iter().for_each(|nonsense| text(nonsense, &mut bytes));
            }
            Self::NoSignature => text(
                "{\"event\":\"pusher:subscribe\",\"data\":{\"channel\":\"private-entities.procedure\",\"auth\":\"soak-app:00\"}}",
                &mut bytes,
            ),
        }
        Script { wire, bytes, then }
    }
}

/// What came of all lies.
#[derive(Debug, Default)]
pub(crate) struct Lies {
    told: Mutex<BTreeMap<Lie, (u64, u64)>>,
}

impl Lies {
    /// How often each was told, and how often nobody minded.
    pub(crate) fn look(&self) -> BTreeMap<Lie, (u64, u64)> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn note(&self, lie: Lie, unpunished: bool) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let it = told.entry(lie).or_default();
        (it.0, it.1) = (it.0 + 1, it.1 + u64::from(unpunished));
    }
}

/// Lies until it is told to stop.
pub(crate) async fn lie(
    ground: Arc<Ground>,
    lies: Arc<Lies>,
    token: String,
    seed: u64,
    mut stop: watch::Receiver<bool>,
) {
    let mut random = StdRng::seed_from_u64(seed);
    loop {
        let pause = Duration::from_millis(random.random_range(PAUSE));
        tokio::select! {
            () = sleep(pause) => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
        let lie = LIES.choose(&mut random).copied().unwrap_or(Lie::Rubbish);
        let script = lie.script(&token, &mut random);
        let address = ground.addresses[random.random_range(0..ground.addresses.len())];
        let pieces = random.random_range(1..4_usize);
        tokio::select! {
            // A hub that is away is no door to be shown.
            done = play(&script, address, pieces) => if let Some(closed) = done {
                lies.note(lie, !closed);
            },
            _ = stop.wait_for(|stop| *stop) => return,
        }
    }
}

/// Plays one; answers whether the server closed, where it has to. `None`: no connection came to be.
async fn play(script: &Script, address: std::net::SocketAddr, pieces: usize) -> Option<bool> {
    let stream = line::connect(address, None, None).await.ok()?;
    let Some(wire) = script.wire else {
        let mut stream = stream;
        let _ = stream.write_all(&script.bytes).await;
        let mut read = vec![0; 4096];
        let reading = async { while stream.read(&mut read).await.is_ok_and(|len| len > 0) {} };
        return match script.then {
            Then::Go => Some(true),
            Then::Wait => Some(timeout(PATIENCE, reading).await.is_ok()),
        };
    };
    let mut line = Line::open(stream, address, &wire.path()).await.ok()?;
    for piece in script.bytes.chunks(script.bytes.len().div_ceil(pieces).max(1)) {
        // Who has been shown the door already cannot go on.
        if line.write(piece).await.is_err() {
            return Some(true);
        }
        sleep(Duration::from_millis(1)).await;
    }
    if script.then == Then::Go {
        return Some(true);
    }
    let waiting = async { while !matches!(line.next().await, line::Came::Closed(_)) {} };
    Some(timeout(PATIENCE, waiting).await.is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_lie_is_one() {
        let mut random = StdRng::seed_from_u64(1);
        let mut script = |lie: Lie| lie.script("t", &mut random);
        for lie in LIES {
            let script = script(lie);
            assert_eq!(script.bytes.is_empty(), lie == Lie::Silence, "{lie:?}");
            assert_eq!(script.wire.is_none(), matches!(lie, Lie::Rubbish | Lie::HalfRequest), "{lie:?}");
        }
        assert_eq!(script(Lie::Unmasked).bytes[1] & 0x80, 0);
        assert_ne!(script(Lie::Reserved).bytes[0] & 0x70, 0);
        assert!(wire::frame(&wire::server_frame(9, b"")).is_ok_and(|frame| frame.is_some()));
        let mut right = Vec::new();
        wire::client_frame(wire::TEXT, b"{\"id\":1,\"connect\":{\"token\":\"t\"}}", &mut right);
        assert_ne!(script(Lie::WrongMask).bytes, right);
    }
}
