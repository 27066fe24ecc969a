//! Who sees only a part of a kind: what they are shown of a publication, made once for all who see the same.
//!
//! Invariants: a publication that everybody sees whole costs nothing here; of each mask and form it is rewritten once, by the
//! first who needs it, and encoded once for each wire. What a viewer is not shown moves them on all the same.

use std::sync::{Arc, OnceLock};

use dzvin_protocols::{
    channels::Publication,
    entities::{FieldChange, Mask, Shown, Sight, Undeclared, masked},
};
use prometheus_client::metrics::counter::Counter;

use super::Item;

/// A subscriber who does not see everything.
#[derive(Debug, Clone)]
pub(super) struct Viewer {
    /// What they see.
    pub(super) sight: Arc<Sight>,
    /// Publications that were rewritten.
    pub(super) rewritten: Counter,
}

/// What there is of one publication beside the whole.
#[derive(Debug, Clone, Default)]
pub(super) struct Parts {
    /// The declared fields before and after, read once.
    fields: OnceLock<Option<FieldChange<'static>>>,
    first: OnceLock<Box<Part>>,
}

/// What viewers of one mask are shown in one form.
#[derive(Debug, Clone)]
struct Part {
    mask: Option<Arc<Mask>>,
    shown: Shown,
    /// `None`: nothing.
    item: Option<Item>,
    /// As many as there are masks, times the forms.
    next: OnceLock<Box<Part>>,
}

impl Part {
    fn is(&self, mask: Option<&Arc<Mask>>, shown: Shown) -> bool {
        let same = match (&self.mask, mask) {
            (None, None) => true,
            // Those of a configuration before this one are others, though they may be equal.
            (Some(a), Some(b)) => Arc::ptr_eq(a, b) || a == b,
            _ => false,
        };
        same && self.shown == shown
    }
}

impl Parts {
    /// What the viewer is shown of the publication, and in which form; `None`: nothing.
    ///
    /// # Errors
    /// It does not say enough to tell: they have to recover.
    pub(super) fn of(&self, whole: &Item, viewer: &Viewer) -> Result<Option<(&Item, Shown)>, Undeclared> {
        let fields = match viewer.sight.rows() {
            None => None,
            Some(_) => {
                self.fields.get_or_init(|| FieldChange::of(&whole.publication).map(FieldChange::into_owned)).as_ref()
            }
        };
        let Some(shown) = viewer.sight.of(fields)? else { return Ok(None) };
        let mask = viewer.sight.mask();
        let mut place = &self.first;
        loop {
            let part = place.get_or_init(|| {
                viewer.rewritten.inc();
                Box::new(Part { mask: mask.cloned(), shown, item: part(whole, mask, shown), next: OnceLock::new() })
            });
            // Another may have been first at this place.
            if part.is(mask, shown) {
                return Ok(part.item.as_ref().map(|item| (item, shown)));
            }
            place = &part.next;
        }
    }
}

/// What is shown of what everybody else has.
fn part(whole: &Item, mask: Option<&Arc<Mask>>, shown: Shown) -> Option<Item> {
    let mask = mask.map(|mask| &**mask);
    let publication = masked(&whole.publication, mask, shown)?;
    // Who has seen the base has seen it whole but for the same fields.
    let base = whole.base().and_then(|(offset, data)| {
        let base = Publication { data: data.clone(), ..whole.publication.clone() };
        Some((*offset, masked(&base, mask, Shown::Whole)?.data))
    });
    Some(Item::new(whole.offset, publication).after(base).opened(whole.open))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use dzvin_protocols::{channels::Extra, entities::Filter, platform::EntityId};

    use super::*;

    fn viewer(paths: &[&str], rows: Option<&str>, rewritten: &Counter) -> Viewer {
        let mask = Mask::parse(paths).expect("paths").map(Arc::new);
        let rows = rows.map(|rows| Filter::parse(rows).expect("a filter"));
        Viewer { sight: Arc::new(Sight::new(mask, rows)), rewritten: rewritten.clone() }
    }

    fn publication(fields: &str, data: &'static str) -> Publication {
        let extra = Some(Arc::new(Extra { fields: Some(fields.into()), ..Extra::default() }));
        let (id, data) = (EntityId::new("a").expect("id"), Bytes::from_static(data.as_bytes()));
        Publication { offset: 7, id, revision: 2, at: 0, data, trace: None, extra }
    }

    fn text(item: &Item) -> String {
        String::from_utf8_lossy(&item.publication.data).into_owned()
    }

    #[test]
    fn viewers_of_the_same_share_what_is_made() {
        let count = Counter::default();
        let whole = publication(
            r#"{"is":{"owner":"me"},"was":{"owner":"other"}}"#,
            r#"{"op":"update","changed":["v"],"doc":{"v":1,"phone":2}}"#,
        );
        let base = (6, Bytes::from_static(br#"{"op":"create","doc":{"v":0,"phone":2}}"#));
        let whole = Item::new(7, whole).after(Some(base));
        let parts = Parts::default();
        let seen = |viewer: &Viewer| parts.of(&whole, viewer).expect("told").map(|(item, shown)| (text(item), shown));
        let phone = viewer(&["phone"], None, &count);
        let masked = r#"{"op":"update","changed":["v"],"doc":{"v":1}}"#;
        for _ in 0..3 {
            assert_eq!(seen(&phone), Some((masked.to_owned(), Shown::Whole)));
        }
        // Of another configuration, and equal.
        assert!(seen(&viewer(&["phone"], None, &count)).is_some());
        assert_eq!(count.get(), 1);
        let (item, _) = parts.of(&whole, &phone).expect("told").expect("shown");
        assert!(item.follows(6) && item.offset == 7);
        assert!(seen(&viewer(&["v"], None, &count)).is_none(), "nothing else has changed");
        assert!(seen(&viewer(&["v"], None, &count)).is_none() && count.get() == 2, "that is remembered as well");
        // With rows of their own each judges by itself, and those who come to the same share it.
        for user in ["me", "them"] {
            let rows = format!(r#"{{"owner":["me","{user}"]}}"#);
            assert_eq!(seen(&viewer(&["phone"], Some(&rows), &count)), Some((masked.to_owned(), Shown::Entered)));
        }
        assert_eq!(count.get(), 3);
        let out = viewer(&["phone"], Some(r#"{"owner":"third"}"#), &count);
        assert!(seen(&out).is_none() && count.get() == 3);
        let left = seen(&viewer(&["phone"], Some(r#"{"owner":"other"}"#), &count)).expect("told");
        assert_eq!(left, (r#"{"op":"update","hidden":true}"#.to_owned(), Shown::Left));
        let unsure = viewer(&[], Some(r#"{"region":"30"}"#), &count);
        assert!(parts.of(&whole, &unsure).is_err());
    }

    #[test]
    fn many_at_once_come_to_the_same() {
        let whole = Item::new(7, publication("{}", r#"{"op":"create","doc":{"f0":0,"f1":1,"f2":2,"f3":3}}"#));
        let (parts, count) = (Parts::default(), Counter::default());
        std::thread::scope(|scope| {
            for n in 0..16 {
                let (whole, parts, count) = (&whole, &parts, &count);
                scope.spawn(move || {
                    let hidden = format!("f{}", n % 4);
                    let viewer = viewer(&[&hidden], None, count);
                    for _ in 0..100 {
                        let (item, _) = parts.of(whole, &viewer).expect("told").expect("shown");
                        let text = text(item);
                        assert!(!text.contains(&hidden) && text.matches('f').count() == 3, "{text}");
                    }
                });
            }
        });
        assert_eq!(count.get(), 4);
    }
}
