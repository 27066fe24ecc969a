//! What must hold for any bytes at each decoder. One function per fuzz target; a failed assertion is a finding.
//!
//! The same file is compiled into `protocols/tests/corpus.rs`, so the committed corpus runs on stable with the ordinary
//! tests. Invariants: deterministic, no I/O, no clock; linear in the input except where a limit of ours bounds the rest.

mod answers;
mod centrifuge;
mod documents;
mod edges;
mod filters;
mod fossil;
mod frames;
mod identity;
mod jose;
mod masks;
mod mirror;
mod names;
mod patches;
mod pusher;
mod tree;
mod versions;
mod words;

pub use answers::answers;
pub use centrifuge::{commands, protobuf};
pub use documents::documents;
pub use edges::edges;
pub use filters::filters;
pub use fossil::fossil;
pub use frames::websocket;
pub use identity::{claims, subscription_claims};
pub use jose::jose;
pub use masks::masks;
pub use mirror::mirror;
pub use names::{bus_form, channels, cursors};
pub use patches::patches;
pub use pusher::{pusher_events, pusher_http};
pub use versions::versions;
pub use words::words;

/// A check of one decoder.
pub type Check = fn(&[u8]);

/// Every target by its name, which is also the folder of its corpus.
pub const TARGETS: [(&str, Check); 21] = [
    ("websocket", websocket),
    ("commands", commands),
    ("protobuf", protobuf),
    ("fossil", fossil),
    ("bus_form", bus_form),
    ("channels", channels),
    ("cursors", cursors),
    ("mirror", mirror),
    ("documents", documents),
    ("versions", versions),
    ("claims", claims),
    ("subscription_claims", subscription_claims),
    ("answers", answers),
    ("pusher_events", pusher_events),
    ("pusher_http", pusher_http),
    ("filters", filters),
    ("jose", jose),
    ("words", words),
    ("edges", edges),
    ("masks", masks),
    ("patches", patches),
];

/// The input's leading bytes choose options; what is missing counts as zero.
fn options<const N: usize>(data: &[u8]) -> ([u8; N], &[u8]) {
    match data.split_first_chunk::<N>() {
        Some((head, rest)) => (*head, rest),
        None => ([0; N], data),
    }
}

/// The input as text; what is not UTF-8 is replaced, for these decoders are given text only.
fn text(data: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(data)
}
