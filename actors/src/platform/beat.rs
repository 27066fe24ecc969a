//! One beat for whoever looks now and then: where one period is a multiple of the other, their timers go off in the same moments, so that
//! a quiet node wakes as often as the most frequent of them and not as often as there are rooms. To wake a sleeping core costs more than
//! most of what is then done.
//!
//! Not here: deadlines. The first moment of a beat comes at once or after up to a whole period.

use std::{sync::LazyLock, time::Duration};

use ractor::{ActorRef, Message};
use tokio::{
    task::JoinHandle,
    time::{Instant, Interval, MissedTickBehavior, interval_at},
};

/// The next moment of the beat: a multiple of `period`, counted from one moment of the process.
#[must_use]
pub fn next(period: Duration) -> Instant {
    // Of the clock of the system: that of a test may have been ahead of it.
    static FIRST: LazyLock<std::time::Instant> = LazyLock::new(std::time::Instant::now);
    let now = Instant::now();
    now + until_next(now.saturating_duration_since(Instant::from_std(*FIRST)), period)
}

/// From so long after the first moment to the next.
fn until_next(past: Duration, period: Duration) -> Duration {
    // What is left of a period is below it; periods are seconds, and 64 bits of nanoseconds are 580 years.
    let over = past.as_nanos() % period.as_nanos().max(1);
    period.saturating_sub(Duration::from_nanos(u64::try_from(over).unwrap_or(0)))
}

/// Ticks at every moment of the beat; those that were missed are passed over.
///
/// # Panics
/// The period is zero.
#[must_use]
pub fn every(period: Duration) -> Interval {
    let mut ticks = interval_at(next(period), period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    ticks
}

/// Tells an actor at every moment of the beat until it ends.
pub fn tell<M: Message>(
    actor: ActorRef<M>,
    period: Duration,
    message: impl Fn() -> M + Send + 'static,
) -> JoinHandle<()> {
    let mut ticks = every(period);
    tokio::spawn(async move {
        loop {
            ticks.tick().await;
            if actor.cast(message()).is_err() {
                return;
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use ractor::{Actor, ActorProcessingErr};
    use tokio::time::advance;

    use super::*;

    proptest! {
        /// Whoever begins when: a moment of the longer beat is one of the shorter, of which it is a multiple.
        #[test]
        fn all_are_in_one_beat(past in 0..1_000_000_000_u64, short in 1..5_000_u64, times in 1..8_u32) {
            let (past, short) = (Duration::from_micros(past), Duration::from_millis(short));
            for period in [short, short * times] {
                let left = until_next(past, period);
                prop_assert!(left > Duration::ZERO && left <= period);
                prop_assert_eq!((past + left).as_nanos() % short.as_nanos(), 0);
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn ticks_keep_to_the_beat() {
        let period = Duration::from_millis(500);
        let mut ticks = every(period);
        for late in [0, 137, 1_300] {
            let at = ticks.tick().await;
            assert_eq!(next(period), at + period);
            advance(Duration::from_millis(late)).await;
        }
    }

    /// An actor that does nothing.
    struct Told;

    impl Actor for Told {
        type Msg = ();
        type State = ();
        type Arguments = ();

        async fn pre_start(&self, _: ActorRef<()>, (): ()) -> Result<(), ActorProcessingErr> {
            Ok(())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_beat_of_an_actor_ends_with_it() {
        let (actor, life) = Actor::spawn(None, Told, ()).await.expect("starts");
        let beat = tell(actor.clone(), Duration::from_millis(5), || ());
        actor.stop(None);
        life.await.expect("stopped");
        beat.await.expect("ends");
    }
}
