//! What came of all clients since it was last asked.

use crate::sample::Samples;

/// Counts and times.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Clients that were not let in.
    pub(crate) refused: usize,
    /// Clients that were cut off.
    pub(crate) cut: usize,
    /// What the first of them was told.
    pub(crate) why: Option<String>,
    /// Pings that were answered.
    pub(crate) pings: usize,
    /// Microseconds from the beginning to the subscription, of each client.
    joins: Vec<u32>,
    /// Microseconds from due to receipt, of each delivery.
    receipts: Vec<u32>,
    /// When the last of either was, in microseconds since 1970.
    pub(crate) last: i64,
}

impl Tally {
    /// A client is subscribed.
    pub(crate) fn joined(&mut self, now: i64, begun: i64) {
        self.joins.push(micros(now - begun));
        self.last = now;
    }

    /// A publication came.
    pub(crate) fn received(&mut self, now: i64, due: i64) {
        self.receipts.push(micros(now - due));
        self.last = now;
    }

    /// Clients that were subscribed.
    pub(crate) fn joins(&self) -> usize {
        self.joins.len()
    }

    /// Publications that came.
    pub(crate) fn deliveries(&self) -> usize {
        self.receipts.len()
    }

    /// How long subscriptions took.
    pub(crate) fn join_times(&self) -> Samples {
        self.joins.iter().map(|micros| i64::from(*micros)).collect()
    }

    /// How long deliveries took.
    pub(crate) fn receipt_times(&self) -> Samples {
        self.receipts.iter().map(|micros| i64::from(*micros)).collect()
    }
}

fn micros(value: i64) -> u32 {
    u32::try_from(value.max(0)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_kept_one_by_one() {
        let mut tally = Tally::default();
        tally.received(5_000, 1_000);
        tally.received(7_000, 1_000);
        tally.joined(9_000, 10_000);
        assert_eq!((tally.deliveries(), tally.joins(), tally.last), (2, 1, 9_000));
        assert_eq!((tally.receipt_times().ms(50.0), tally.receipt_times().ms(99.0)), (4.0, 6.0));
        assert_eq!(tally.join_times().ms(100.0), 0.0, "a clock that was set back");
    }
}
