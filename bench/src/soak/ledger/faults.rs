//! What is counted of each subscription, and its sums.

/// What may never be above zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Faults {
    /// Publications that were passed over without a word.
    pub(crate) lost: u64,
    /// Publications that came twice.
    pub(crate) doubled: u64,
    /// Publications that came behind a later one.
    pub(crate) reordered: u64,
    /// Said to be recovered, but not from where the client stood.
    pub(crate) false_recoveries: u64,
    /// A position behind the client's own, in the same epoch.
    pub(crate) back: u64,
    /// Other clients, or the publisher, saw something else at the same position.
    pub(crate) differing: u64,
    /// Publications on a channel that was not subscribed.
    pub(crate) stray: u64,
}

/// What is only counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Counts {
    /// Publications.
    pub(crate) received: u64,
    /// First subscriptions.
    pub(crate) attached: u64,
    /// Came back and were given all that they had missed.
    pub(crate) recovered: u64,
    /// Came back and were told by another epoch that the past is lost, as it was: with the bus.
    pub(crate) told: u64,
    /// Told so although the bus had kept it.
    pub(crate) unfounded: u64,
    /// Told so in the epoch that they knew.
    pub(crate) refused: u64,
    /// Were further behind than is recovered, and told so.
    pub(crate) beyond: u64,
}

impl Faults {
    /// All of them, by name.
    pub(crate) fn named(&self) -> [(&'static str, u64); 7] {
        [
            ("lost", self.lost),
            ("doubled", self.doubled),
            ("reordered", self.reordered),
            ("recovered from elsewhere", self.false_recoveries),
            ("gone back", self.back),
            ("differing", self.differing),
            ("stray", self.stray),
        ]
    }

    /// Adds those of another.
    pub(crate) fn add(&mut self, other: &Self) {
        self.lost += other.lost;
        self.doubled += other.doubled;
        self.reordered += other.reordered;
        self.false_recoveries += other.false_recoveries;
        self.back += other.back;
        self.differing += other.differing;
        self.stray += other.stray;
    }
}

impl Counts {
    /// Adds those of another.
    pub(crate) fn add(&mut self, other: &Self) {
        self.received += other.received;
        self.attached += other.attached;
        self.recovered += other.recovered;
        self.told += other.told;
        self.unfounded += other.unfounded;
        self.refused += other.refused;
        self.beyond += other.beyond;
    }

    /// Those who came back to a past that was still there.
    fn returns(&self) -> u64 {
        self.recovered + self.unfounded + self.refused
    }

    /// The part of them that was given everything; all, when nobody came back.
    pub(crate) fn recovered_part(&self) -> f64 {
        let all = self.returns();
        if all == 0 { 1.0 } else { self.recovered as f64 / all as f64 }
    }

    /// Whether so many are at most this part of them.
    pub(crate) fn are_within(&self, count: u64, part: f64) -> bool {
        count as f64 <= self.returns() as f64 * part
    }
}
