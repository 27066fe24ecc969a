//! Where a page of a list ended, as clients are told it.
//!
//! A place in a list by offset is a number and stands as it is ([`PageCursor`]). One by id or by a field may be that of an entity which
//! the caller does not see, where a page ended because it had looked at enough: it is sealed by a key that all nodes have from the
//! database, together with kind and order, so it tells nothing and is read only where it came from. Like any cursor it grants nothing.

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use dzvin_protocols::{
    channels::{Epoch, Position},
    entities::{By, MAX_EPOCH, Order, PageCursor, Place},
    platform::Kind,
};
use serde::{Deserialize, Serialize};

/// How a sealed cursor begins: no number does.
const SEALED: char = '~';
/// How a cursor of the oldest first begins.
const ASCENDING: char = 'a';
/// Longest sealed cursor: a number of a thousand digits or two hundred letters, escaped, an id, a position, and what sealing adds.
const MAX_SEALED: usize = 4096;

/// What seals and reads cursors.
pub(super) struct Cursors(Option<RandomizedNonceKey>);

/// Where a page ended, and the position of the first page, which counts over all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Cursor {
    pub(super) place: Place,
    pub(super) position: Position,
}

#[derive(Serialize, Deserialize)]
struct Inside {
    place: Place,
    offset: u64,
    epoch: String,
}

impl Cursors {
    /// By a secret of 32 bytes. With any other nothing is sealed, and lists by id or field have one page.
    pub(super) fn new(secret: &[u8]) -> Self {
        Self(RandomizedNonceKey::new(&AES_256_GCM, secret).ok())
    }

    /// The cursor of a place in a list.
    pub(super) fn write(&self, kind: &Kind, order: &Order, cursor: &Cursor) -> Option<String> {
        let position = &cursor.position;
        if let Place::Offset(below) = cursor.place {
            // Of the newest first it is what it always was; of the other direction the same number means another place.
            let plain = PageCursor { below, position: position.clone() }.to_string();
            return Some(if order.descending { plain } else { format!("{ASCENDING}{plain}") });
        }
        let inside = Inside { place: cursor.place.clone(), offset: position.offset, epoch: position.epoch.to_string() };
        let mut sealed = serde_json::to_vec(&inside).ok()?;
        let nonce = self.0.as_ref()?.seal_in_place_append_tag(bound_to(kind, order), &mut sealed).ok()?;
        let whole = [nonce.as_ref().as_slice(), &sealed].concat();
        Some(format!("{SEALED}{}", URL_SAFE_NO_PAD.encode(whole)))
    }

    /// Reads a cursor of a list of this kind and order; `None` when it is none.
    pub(super) fn read(&self, kind: &Kind, order: &Order, text: &str) -> Option<Cursor> {
        if order.by == By::Offset {
            let plain = if order.descending { text } else { text.strip_prefix(ASCENDING)? };
            let PageCursor { below, position } = PageCursor::parse(plain)?;
            return Some(Cursor { place: Place::Offset(below), position });
        }
        let text = text.strip_prefix(SEALED).filter(|text| text.len() <= MAX_SEALED)?;
        let mut whole = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (nonce, sealed) = whole.split_at_mut_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let inside = self.0.as_ref()?.open_in_place(nonce, bound_to(kind, order), sealed).ok()?;
        let Inside { place, offset, epoch } = serde_json::from_slice(inside).ok()?;
        let sound = place.is_in(order) && epoch.len() <= MAX_EPOCH;
        sound.then(|| Cursor { place, position: Position { epoch: Epoch::new(&epoch), offset } })
    }
}

fn bound_to(kind: &Kind, order: &Order) -> Aad<Vec<u8>> {
    let sort = if let By::Field(_, sort) = &order.by { sort.as_str() } else { "" };
    Aad::from(format!("{kind} {order} {sort}").into_bytes())
}

#[cfg(test)]
mod tests {
    use dzvin_protocols::entities::SortAs;

    use super::*;

    fn order(text: &str) -> Order {
        Order::parse(text, |_| Some(SortAs::Text)).expect(text)
    }

    #[test]
    fn a_cursor_is_read_where_it_came_from_and_tells_nothing() {
        let (cursors, deal, other) = (Cursors::new(&[7; 32]), kind("deal"), kind("task"));
        let position = Position { epoch: Epoch::new("00ff"), offset: 9 };
        let place = Place::Field(Some("Ґанок".into()), "s3cret".into());
        let cursor = Cursor { place, position: position.clone() };
        let text = cursors.write(&deal, &order("title"), &cursor).expect("sealed");
        assert_eq!(cursors.read(&deal, &order("title"), &text), Some(cursor.clone()));
        let inside = URL_SAFE_NO_PAD.decode(&text[1..]).expect("base64");
        assert!(!String::from_utf8_lossy(&inside).contains("s3cret"));
        assert_ne!(cursors.write(&deal, &order("title"), &cursor).expect("sealed"), text, "nor that it is the same");
        for (kind, by) in [(&other, "title"), (&deal, "-title"), (&deal, "id"), (&deal, "name"), (&deal, "-offset")] {
            assert_eq!(cursors.read(kind, &order(by), &text), None, "{kind} {by}");
        }
        let as_number = Order::parse("title", |_| Some(SortAs::Number)).expect("an order");
        assert_eq!(cursors.read(&deal, &as_number, &text), None, "nor when it is read as something else");
        assert_eq!(Cursors::new(&[8; 32]).read(&deal, &order("title"), &text), None, "another cluster's");
        for n in 0..text.len() {
            let mut bad = text.clone().into_bytes();
            bad[n] = if bad[n] == b'A' { b'B' } else { b'A' };
            let bad = String::from_utf8(bad).expect("ascii");
            assert_eq!(cursors.read(&deal, &order("title"), &bad), None, "{bad}");
        }
        for bad in ["", "~", "~AAAA", "1.2.a", &format!("~{}", "A".repeat(5000))] {
            assert_eq!(cursors.read(&deal, &order("title"), bad), None, "{bad}");
        }
        let plain = Cursor { place: Place::Offset(7), position };
        for by in ["-offset", "offset"] {
            let text = cursors.write(&deal, &order(by), &plain).expect("written");
            assert_eq!(cursors.read(&deal, &order(by), &text), Some(plain.clone()));
            let turned = if by == "offset" { "-offset" } else { "offset" };
            assert_eq!(cursors.read(&deal, &order(turned), &text), None, "in the other direction it is another place");
        }
    }

    fn kind(name: &str) -> Kind {
        Kind::new(name).expect(name)
    }
}
