//! Numbers that stand out of their turn, so many and no more.

use std::collections::BTreeSet;

/// Of one subscription. A run that passes over more has failed long before.
pub(super) const MOST: usize = 10_000;

/// A set of numbers that does not grow without end.
#[derive(Debug, Default)]
pub(super) struct Numbers(BTreeSet<u64>);

impl Numbers {
    /// Puts one in; answers whether it was not there. Beyond the bound it is forgotten.
    pub(super) fn insert(&mut self, number: u64) -> bool {
        if self.0.len() < MOST { self.0.insert(number) } else { !self.0.contains(&number) }
    }

    /// Takes one out; answers whether it was there.
    pub(super) fn remove(&mut self, number: u64) -> bool {
        self.0.remove(&number)
    }

    /// Takes all out.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_bounded() {
        let mut numbers = Numbers::default();
        assert!((0..MOST as u64 + 5).all(|number| numbers.insert(number)));
        assert!(!numbers.insert(7) && numbers.remove(7) && !numbers.remove(7));
        assert!(!numbers.remove(MOST as u64 + 1), "beyond the bound");
        numbers.clear();
        assert!(numbers.insert(0));
    }
}
