//! A walk over the upstream's HTTP feed: everything at or after a moment, page by page.
//!
//! Invariants: the cursor is inclusive and only moves to a moment that was seen, so equal timestamps at the edge of a page are
//! read again and known by id and version; an empty page means "stay", a short one is the end; a page that holds one moment
//! alone is asked for larger, and if that does not help the moment is stepped over *with an alarm*. It always ends.

use std::collections::HashSet;

use dzvin_protocols::{
    mirror::{Paths, VersionedDoc, format_time, parse_time},
    platform::EntityId,
};

/// Most objects that are asked for when a page holds one moment alone.
const MAX_PAGE: usize = 1_000;
/// Requests without progress before a moment is stepped over.
const MAX_STALLS: u32 = 8;

/// What to do after a page.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Ask for the next page.
    More,
    /// As before, but this moment could not be shown whole: objects may be missing there.
    Stepped(String),
    /// The end of the feed.
    End,
}

/// Where the walk stands.
#[derive(Debug)]
pub(super) struct FeedWalk {
    page: usize,
    /// The moment to ask for, inclusive.
    pub(super) at: String,
    /// How many to ask for.
    pub(super) limit: usize,
    known: HashSet<(EntityId, String)>,
    stalls: u32,
    last_len: usize,
}

impl FeedWalk {
    pub(super) fn new(at: String, page: usize) -> Self {
        let page = page.max(1);
        Self { page, at, limit: page, known: HashSet::new(), stalls: 0, last_len: 0 }
    }

    /// The answer could not be used, because it is too large: asks for less. False when less is not possible.
    pub(super) fn smaller(&mut self) -> bool {
        self.stalls += 1;
        let can = self.limit > 1 && self.stalls <= MAX_STALLS;
        self.limit = (self.limit / 2).max(1);
        can
    }

    /// Takes a page; answers what is new in it, and what to do next.
    /// `len` is how many objects the upstream sent, unusable ones included.
    pub(super) fn take(&mut self, page: Vec<VersionedDoc>, len: usize, paths: &Paths) -> (Vec<VersionedDoc>, Next) {
        let moments: Vec<String> =
            page.iter().map(|doc| paths.feed_of(&doc.doc).unwrap_or_else(|| doc.version.clone())).collect();
        let newest = moments.iter().max().cloned();
        let keys = page.iter().map(|doc| (doc.id.clone(), doc.version.clone()));
        let edge: HashSet<_> =
            keys.zip(&moments).filter(|(_, at)| Some(*at) == newest.as_ref()).map(|(key, _)| key).collect();
        let fresh: Vec<_> =
            page.into_iter().filter(|doc| !self.known.contains(&(doc.id.clone(), doc.version.clone()))).collect();
        let next = match newest {
            _ if len < self.limit.min(self.page) => Next::End,
            Some(newest) if newest > self.at => {
                self.advance(newest, edge);
                Next::More
            }
            _ => self.stalled(len, edge),
        };
        (fresh, next)
    }

    /// A full page that does not lead beyond its own moment.
    fn stalled(&mut self, len: usize, edge: HashSet<(EntityId, String)>) -> Next {
        let grew = len > self.last_len;
        self.known.extend(edge);
        self.stalls += 1;
        // A page that grew but is not full may be the end or the upstream's own limit: only the next answer tells.
        if grew && self.limit < MAX_PAGE && self.stalls <= MAX_STALLS {
            self.last_len = len;
            self.limit = (self.limit * 2).min(MAX_PAGE);
            return Next::More;
        }
        let stuck = self.at.clone();
        match parse_time(&stuck).and_then(|at| at.checked_add(time::Duration::milliseconds(1))) {
            Some(later) => {
                self.advance(format_time(later), HashSet::new());
                Next::Stepped(stuck)
            }
            None => Next::End,
        }
    }

    fn advance(&mut self, at: String, edge: HashSet<(EntityId, String)>) {
        (self.at, self.known, self.limit, self.stalls, self.last_len) = (at, edge, self.page, 0, 0);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;
    use serde_json::value::RawValue;

    use super::*;

    fn doc(id: u32, second: u32) -> VersionedDoc {
        let version = format!("2024-01-01T00:{:02}:{:02}.000000Z", second / 60, second % 60);
        let text = format!(r#"{{"_id":"{id}","dateModified":"{version}"}}"#);
        VersionedDoc::new(EntityId::new(&id.to_string()).unwrap(), version, RawValue::from_string(text).unwrap())
    }

    /// Walks a feed that answers at most `cap` objects; gives the ids seen, the moments stepped over, and the requests.
    fn walk(feed: &[(u32, u32)], page: usize, cap: usize) -> (BTreeSet<u32>, Vec<String>, usize) {
        let mut walk = FeedWalk::new("1970-01-01T00:00:00.000000Z".into(), page);
        let (mut seen, mut stepped) = (BTreeSet::new(), Vec::new());
        for requests in 1..10_000 {
            let mut all: Vec<_> =
                feed.iter().map(|(id, at)| doc(*id, *at)).filter(|doc| doc.version >= walk.at).collect();
            all.sort_by(|a, b| a.version.cmp(&b.version));
            all.truncate(walk.limit.min(cap));
            let len = all.len();
            let (fresh, next) = walk.take(all, len, &Paths::default());
            seen.extend(fresh.iter().map(|doc| doc.id.as_str().parse::<u32>().unwrap()));
            match next {
                Next::More => {}
                Next::Stepped(at) => stepped.push(at),
                Next::End => return (seen, stepped, requests),
            }
        }
        panic!("the walk does not end");
    }

    #[test]
    fn an_empty_world_ends_at_once() {
        assert_eq!(walk(&[], 100, 100), (BTreeSet::new(), vec![], 1));
    }

    #[test]
    fn one_moment_larger_than_a_page() {
        let feed: Vec<_> = (0..25).map(|id| (id, 5)).chain([(99, 6)]).collect();
        let (seen, stepped, _) = walk(&feed, 10, 1000);
        assert_eq!((seen.len(), stepped.len()), (26, 0), "a larger page shows all");
        let (seen, stepped, _) = walk(&feed, 10, 10);
        assert!(seen.contains(&99) && seen.len() == 11, "what follows is not lost");
        assert_eq!(stepped, ["2024-01-01T00:00:05.000000Z"], "and the loss is told");
    }

    proptest! {
        /// Whatever the timestamps: it ends, and everything is seen unless a moment was told to be incomplete.
        #[test]
        fn nothing_is_lost_silently(moments in proptest::collection::vec(0u32..30, 0..150), page in 1usize..12, cap in 1usize..40) {
            let page = page.min(cap);
            let feed: Vec<_> = moments.iter().enumerate().map(|(id, at)| (id as u32, *at)).collect();
            let (seen, stepped, requests) = walk(&feed, page, cap);
            let mut lost: BTreeMap<String, usize> = BTreeMap::new();
            for (id, at) in &feed {
                if !seen.contains(id) {
                    *lost.entry(doc(*id, *at).version).or_default() += 1;
                }
            }
            for at in lost.keys() {
                prop_assert!(stepped.contains(at), "{at} lost silently");
            }
            prop_assert!(requests <= 400 + feed.len() * 3);
        }
    }
}
