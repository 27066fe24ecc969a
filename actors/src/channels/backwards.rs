//! Reading a past backwards that can be read forwards alone: pages up to an end, of which what comes first gives way to what comes later.
//!
//! It asks for nothing behind the end, which is given once: what is published meanwhile comes into no page. The beginning of a past may be
//! gone; a read from before it begins at the oldest that is kept. Who reads, from where, and for how long is not here.

use std::collections::VecDeque;

use dzvin_protocols::channels::Publication;

/// One page.
#[derive(Debug)]
pub struct Backwards<P> {
    place: P,
    kept: VecDeque<Publication>,
    bytes: usize,
    most: usize,
    at: u64,
    end: u64,
}

impl<P: Fn(&Publication) -> u64> Backwards<P> {
    /// The last `count` publications up to `end`, of at most so many bytes, though always one; `place` is what is counted by.
    pub const fn new(end: u64, count: usize, most: usize, place: P) -> Self {
        Self { place, kept: VecDeque::new(), bytes: 0, most, at: end.saturating_sub(count as u64), end }
    }

    /// After which place how many are to be read next, as long as something is missing.
    #[must_use]
    pub fn wanted(&self) -> Option<(u64, usize)> {
        let rest = self.end - self.at;
        (rest > 0).then(|| (self.at, usize::try_from(rest).unwrap_or(usize::MAX)))
    }

    /// What was read from there; nothing is the end of the past.
    pub fn take(&mut self, publications: Vec<Publication>) {
        self.at = publications.last().map_or(self.end, |last| (self.place)(last).min(self.end));
        for publication in publications {
            if (self.place)(&publication) > self.end {
                break;
            }
            self.bytes += weight(&publication);
            self.kept.push_front(publication);
            while self.bytes > self.most && self.kept.len() > 1 {
                self.bytes -= self.kept.pop_back().as_ref().map_or(0, weight);
            }
        }
    }

    /// Newest first.
    #[must_use]
    pub fn into_page(self) -> Vec<Publication> {
        self.kept.into()
    }
}

/// What a publication takes of a page: its data, and the JSON around it.
#[must_use]
pub(super) fn weight(publication: &Publication) -> usize {
    const ENVELOPE: usize = 128;
    publication.size() + ENVELOPE
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use dzvin_protocols::platform::EntityId;
    use proptest::prelude::*;

    use super::*;

    fn publication(offset: u64, size: usize) -> Publication {
        let (id, data) = (EntityId::new("c").expect("id"), Bytes::from(vec![b'1'; size]));
        Publication { offset, id, revision: offset, at: 0, data, trace: None, extra: None }
    }

    proptest! {
        /// Whatever is kept and however little one read brings.
        #[test]
        fn a_page_is_the_last_of_what_is_kept_up_to_its_end(first in 1..50_u64, top in 0..80_u64, end in 0..100_u64, count in 1..60_usize, a_read in 1..9_usize, most in 0..3_000_usize) {
            let end = end.min(top);
            let kept: Vec<u64> = (first..=top).collect();
            let mut page = Backwards::new(end, count, most, |it| it.offset);
            let mut reads = 0;
            while let Some((after, count)) = page.wanted() {
                let read = kept.iter().filter(|at| **at > after).take(count.min(a_read));
                page.take(read.map(|at| publication(*at, 100)).collect());
                reads += 1;
                prop_assert!(reads <= 100, "it comes to an end");
            }
            let fit = (most / weight(&publication(1, 100))).max(1);
            let last = kept.iter().rev().filter(|at| **at <= end && **at + count as u64 > end).take(fit).copied();
            prop_assert_eq!(page.into_page().iter().map(|it| it.offset).collect::<Vec<_>>(), last.collect::<Vec<_>>());
        }
    }
}
