//! Something done to many, spread over time.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// Does something to each, evenly over the time: however many there are, and however coarse the clock is.
pub(super) async fn spread<T>(all: Vec<T>, within: Duration, each: impl Fn(T) + Send) {
    let (began, count) = (Instant::now(), all.len().max(1));
    for (n, one) in all.into_iter().enumerate() {
        sleep_until(began + within.mul_f64(n as f64 / count as f64)).await;
        each(one);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn many_are_spread_over_the_time_and_no_more() {
        for count in [0, 1, 3, 10_000] {
            let (began, within) = (Instant::now(), Duration::from_millis(900));
            let seen = std::sync::Mutex::new(Vec::new());
            spread((0..count).collect(), within, |n: usize| seen.lock().expect("lock").push((n, began.elapsed())))
                .await;
            assert!(began.elapsed() <= within, "{count} took {:?}", began.elapsed());
            let seen = seen.into_inner().expect("seen");
            assert_eq!(seen.len(), count);
            assert!(
                count < 3 || seen[count / 3].1 <= within / 3 + Duration::from_millis(2),
                "not all at once at the end"
            );
            assert!(
                count < 3 || seen[count * 2 / 3].1 >= within * 2 / 3 - Duration::from_millis(2),
                "nor at the start"
            );
        }
    }
}
