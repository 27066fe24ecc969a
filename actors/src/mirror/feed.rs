//! A walk over the upstream's HTTP feed: everything at or after a moment, page by page.
//!
//! Invariants: the cursor is inclusive and only moves to a moment that was seen, so equal timestamps at the edge of a page are
//! read again and known by id and version; an empty page is the end, a short one is not: the upstream may send fewer than we
//! ask for. A page that holds one moment alone is asked for larger, and if that does not help the moment is stepped over *with
//! an alarm*. Objects that cannot be stored count as any other. It always ends.

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
    /// The page does not tell where to go on.
    Lost(&'static str),
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
    /// The largest page so far: one as large may be cut, whatever we ask for.
    largest: usize,
    /// The moment before, when it may have been cut: known if anything lies behind it.
    doubted: Option<String>,
}

impl FeedWalk {
    pub(super) fn new(at: String, page: usize) -> Self {
        let page = page.max(1);
        Self { page, at, limit: page, known: HashSet::new(), stalls: 0, last_len: 0, largest: 0, doubted: None }
    }

    /// The answer could not be used, because it is too large: asks for less. False when less is not possible.
    pub(super) fn smaller(&mut self) -> bool {
        self.stalls += 1;
        let can = self.limit > 1 && self.stalls <= MAX_STALLS;
        self.limit = (self.limit / 2).max(1);
        can
    }

    /// Takes a page; answers what is new in it, and what to do next.
    /// `len` is how many objects the upstream sent and `newest` their newest moment, unusable ones included.
    pub(super) fn take(
        &mut self,
        page: Vec<VersionedDoc>,
        len: usize,
        newest: Option<String>,
        paths: &Paths,
    ) -> (Vec<VersionedDoc>, Next) {
        if len == 0 {
            return (Vec::new(), Next::End);
        }
        let doubted = self.doubted.take();
        let moment = |doc: &VersionedDoc| paths.feed_of(&doc.doc).unwrap_or_else(|| doc.version.clone());
        let at_newest = page.iter().filter(|doc| Some(moment(doc)) == newest);
        let edge: HashSet<_> = at_newest.map(|doc| (doc.id.clone(), doc.version.clone())).collect();
        let fresh: Vec<_> =
            page.into_iter().filter(|doc| !self.known.contains(&(doc.id.clone(), doc.version.clone()))).collect();
        let next = match newest {
            None => Next::Lost("no object of the page has the moment by which the feed is ordered"),
            Some(newest) if newest < self.at => Next::Lost("the page is older than what was asked for"),
            Some(newest) if newest > self.at => {
                self.advance(newest, edge);
                Next::More
            }
            Some(_) if len < self.limit.min(self.page) && fresh.is_empty() => self.ended(len),
            Some(_) => self.stalled(len, edge, !fresh.is_empty()),
        };
        self.largest = self.largest.max(len);
        match (doubted, next) {
            (Some(doubted), Next::More) => (fresh, Next::Stepped(doubted)),
            (_, next) => (fresh, next),
        }
    }

    /// A short page with nothing new: the end, or the upstream sends fewer than we ask for. What lies behind tells.
    fn ended(&mut self, len: usize) -> Next {
        let stuck = self.at.clone();
        let Some(later) = after(&stuck) else { return Next::End };
        self.advance(later, HashSet::new());
        self.doubted = (len >= self.largest).then_some(stuck);
        Next::More
    }

    /// A page that does not lead beyond its own moment, and is full or still brings something.
    fn stalled(&mut self, len: usize, edge: HashSet<(EntityId, String)>, fresh: bool) -> Next {
        let grew = len > self.last_len || fresh;
        self.known.extend(edge);
        self.stalls += 1;
        // A page that grew but is not full may be the end or the upstream's own limit: only the next answer tells.
        if grew && self.limit < MAX_PAGE && self.stalls <= MAX_STALLS {
            self.last_len = len;
            self.limit = (self.limit * 2).min(MAX_PAGE);
            return Next::More;
        }
        let stuck = self.at.clone();
        match after(&stuck) {
            Some(later) => {
                self.advance(later, HashSet::new());
                Next::Stepped(stuck)
            }
            None => Next::End,
        }
    }

    fn advance(&mut self, at: String, edge: HashSet<(EntityId, String)>) {
        (self.at, self.known, self.limit, self.stalls, self.last_len) = (at, edge, self.page, 0, 0);
    }
}

/// The next moment that the feed can tell from this one.
fn after(moment: &str) -> Option<String> {
    parse_time(moment).and_then(|at| at.checked_add(time::Duration::milliseconds(1))).map(format_time)
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

    /// Objects that storage would refuse.
    fn unusable(doc: &VersionedDoc) -> bool {
        doc.id.as_str().parse::<u32>().unwrap() >= 1_000
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
            let (len, newest) = (all.len(), all.last().map(|doc| doc.version.clone()));
            all.retain(|doc| !unusable(doc));
            let (fresh, next) = walk.take(all, len, newest, &Paths::default());
            seen.extend(fresh.iter().map(|doc| doc.id.as_str().parse::<u32>().unwrap()));
            match next {
                Next::More => {}
                Next::Stepped(at) => stepped.push(at),
                Next::End => return (seen, stepped, requests),
                Next::Lost(why) => panic!("{why}"),
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

    #[test]
    fn an_upstream_that_sends_fewer_than_asked_for_is_read_to_its_end() {
        let feed: Vec<_> = (0..40).map(|id| (id, id)).collect();
        let (seen, stepped, _) = walk(&feed, 100, 7);
        assert_eq!((seen.len(), stepped.len()), (40, 0));
        let feed: Vec<_> = (0..30).map(|id| (id, 5)).chain([(99, 6)]).collect();
        let (seen, stepped, _) = walk(&feed, 100, 7);
        assert!(seen.contains(&99) && stepped == ["2024-01-01T00:00:05.000000Z"], "{seen:?} {stepped:?}");
    }

    #[test]
    fn pages_of_what_cannot_be_stored_are_walked_over() {
        let feed: Vec<_> = (1_000..1_050).map(|id| (id, id - 1_000)).chain([(7, 60)]).collect();
        let (seen, stepped, requests) = walk(&feed, 10, 10);
        assert_eq!((seen.into_iter().collect::<Vec<_>>(), stepped.len()), (vec![7], 0));
        assert!(requests < 20, "{requests}");
    }

    #[test]
    fn a_page_that_leads_nowhere_is_an_error() {
        let mut walk = FeedWalk::new("2024-01-01T00:00:05.000000Z".into(), 10);
        assert!(matches!(walk.take(Vec::new(), 10, None, &Paths::default()).1, Next::Lost(_)));
        let old = doc(1, 1);
        let newest = Some(old.version.clone());
        assert!(matches!(walk.take(vec![old], 1, newest, &Paths::default()).1, Next::Lost(_)));
    }

    proptest! {
        /// Whatever the timestamps: it ends, and everything is seen unless a moment was told to be incomplete.
        #[test]
        fn nothing_is_lost_silently(moments in proptest::collection::vec(0u32..30, 0..150), page in 1usize..12, cap in 1usize..40) {
            let feed: Vec<_> = moments.iter().enumerate().map(|(id, at)| (id as u32, *at)).collect();
            let (seen, stepped, requests) = walk(&feed, page, cap);
            let mut lost: BTreeMap<String, usize> = BTreeMap::new();
            for (id, at) in &feed {
                if !seen.contains(id) {
                    *lost.entry(doc(*id, *at).version).or_default() += 1;
                }
            }
            for at in lost.keys() {
                // An upstream that shows a part of its last moment, and fewer than we ask for, can not be told from one that
                // has no more: that is why a page should be no larger than the upstream's.
                let undecidable = cap < page && feed.iter().all(|(_, other)| doc(0, *other).version <= *at);
                prop_assert!(undecidable || stepped.contains(at), "{at} lost silently");
            }
            prop_assert!(requests <= 400 + feed.len() * 3);
        }
    }
}
