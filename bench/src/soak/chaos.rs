//! What happens to the servers, and when. Chosen before the run, from a seed, so that a run can be repeated.
//!
//! The second node is killed again and again. The first is killed in the first third alone: what it is afterwards lives long enough
//! to show whether memory grows.

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use std::time::Duration;

/// From one blow to the next, in seconds.
const BETWEEN: std::ops::Range<f64> = 8.0..35.0;
/// How long what was killed stays away, in seconds.
const AWAY: std::ops::Range<f64> = 0.3..6.0;
/// Nothing happens in the last part of a run, so that the end is not a matter of luck.
const QUIET: Duration = Duration::from_secs(10);
/// The part of a run in which the first node is killed too.
const UNSAFE_PART: f64 = 1.0 / 3.0;

/// What happens.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Blow {
    /// kill -9 of a hub, and its start after so long.
    Kill(usize, Duration),
    /// Redis forgets everything, running.
    Empty,
    /// Redis is killed, and begins after so long with all that it had.
    Restart(Duration),
    /// The same with nothing.
    RestartEmpty(Duration),
}

/// Blows, each with its time since the beginning.
pub(crate) fn plan(seed: u64, whole: Duration) -> Vec<(Duration, Blow)> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut all = Vec::new();
    let mut at = Duration::ZERO;
    // Each kind comes about as often, and each comes in any run that is long enough for one of each.
    let mut left: Vec<u8> = Vec::new();
    loop {
        at += Duration::from_secs_f64(random.random_range(BETWEEN));
        if at + QUIET >= whole {
            return all;
        }
        if left.is_empty() {
            left = vec![0, 0, 1, 2, 3, 4];
        }
        let kind = left.choose(&mut random).copied().unwrap_or(0);
        left.retain({
            let mut taken = false;
            move |it| *it != kind || std::mem::replace(&mut taken, true)
        });
        let away = Duration::from_secs_f64(random.random_range(AWAY));
        let first = usize::from(at.as_secs_f64() > whole.as_secs_f64() * UNSAFE_PART);
        let blow = match kind {
            0 => Blow::Kill(1, away),
            1 => Blow::Kill(first, away),
            2 => Blow::Empty,
            3 => Blow::Restart(away),
            _ => Blow::RestartEmpty(away),
        };
        all.push((at, blow));
        // What is away must be back before the next blow.
        at += away;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_is_of_its_seed_and_leaves_the_first_node_alone_later() {
        let whole = Duration::from_secs(1800);
        for seed in 0..50 {
            let all = plan(seed, whole);
            assert_eq!(all, plan(seed, whole));
            assert!(all.len() > 40, "{}", all.len());
            assert!(all.iter().all(|(at, _)| *at < whole - QUIET));
            let first = |(at, blow): &(Duration, Blow)| matches!(blow, Blow::Kill(0, _)) && *at > whole / 3;
            assert!(!all.iter().any(first));
            for wanted in [Blow::Empty, Blow::Restart(Duration::ZERO), Blow::Kill(1, Duration::ZERO)] {
                let same = |blow: &Blow| std::mem::discriminant(blow) == std::mem::discriminant(&wanted);
                assert!(all.iter().any(|(_, blow)| same(blow)), "{wanted:?} of seed {seed}");
            }
        }
        assert_ne!(plan(1, whole), plan(2, whole));
    }
}
