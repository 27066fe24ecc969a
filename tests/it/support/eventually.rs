//! Waiting by condition, with one knob of patience.

use std::time::Duration;

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
pub async fn eventually<O: Outcome>(what: &str, condition: impl AsyncFnMut() -> O) -> O::Value {
    in_time(condition).await.unwrap_or_else(|| panic!("never happened: {what}"))
}

/// The same for who can say more of what did not happen: `None` when patience ends.
pub async fn in_time<O: Outcome>(mut condition: impl AsyncFnMut() -> O) -> Option<O::Value> {
    let looked = async {
        loop {
            if let Some(value) = condition().await.value() {
                return value;
            }
            tokio::time::sleep(EVERY).await;
        }
    };
    tokio::time::timeout(patience(), looked).await.ok()
}
