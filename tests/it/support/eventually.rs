//! Waiting by condition, with one knob of patience.

use std::{future::Future, time::Duration};

/// How often the condition is looked at: short beside what it waits for, long beside what it costs.
const EVERY: Duration = Duration::from_millis(5);

/// What a condition answers: `true`, or a value.
pub trait Outcome {
    /// What was waited for.
    type Value;
    /// The value, if it is there.
    fn value(self) -> Option<Self::Value>;
}

impl Outcome for bool {
    type Value = ();
    fn value(self) -> Option<()> {
        self.then_some(())
    }
}

impl<T> Outcome for Option<T> {
    type Value = T;
    fn value(self) -> Option<T> {
        self
    }
}

/// `DZVIN_TEST_PATIENCE_S`, 20 by default: for machines that are slower than the test expects.
pub fn patience() -> Duration {
    let seconds = std::env::var("DZVIN_TEST_PATIENCE_S").ok().and_then(|s| s.parse().ok());
    Duration::from_secs(seconds.unwrap_or(20))
}

/// Returns what the condition answers as soon as it does; panics with `what` when patience ends.
#[track_caller]
pub fn eventually<F, Fut>(what: &str, condition: F) -> impl Future<Output = <Fut::Output as Outcome>::Value>
where
    F: FnMut() -> Fut,
    Fut: Future,
    Fut::Output: Outcome,
{
    let caller = std::panic::Location::caller();
    wait(format!("{what} (waited for at {caller})"), condition)
}

async fn wait<F, Fut>(what: String, mut condition: F) -> <Fut::Output as Outcome>::Value
where
    F: FnMut() -> Fut,
    Fut: Future,
    Fut::Output: Outcome,
{
    let looked = async {
        loop {
            if let Some(value) = condition().await.value() {
                return value;
            }
            tokio::time::sleep(EVERY).await;
        }
    };
    tokio::time::timeout(patience(), looked).await.unwrap_or_else(|_| panic!("never happened: {what}"))
}
