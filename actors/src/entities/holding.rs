//! Our hold on a lease, by our own monotonic clock.
//!
//! Invariant: `is_held` turns false at two thirds of the lease's time since the request was *sent*, whatever the
//! database does, so that nobody else can have been granted it yet.

use std::time::Duration;

use tokio::time::Instant;

use crate::platform::ports::{Lease, Leases, StoreError};

/// A lease that is ours now, was ours, or never was.
pub(super) struct Holding {
    name: &'static str,
    ttl: Duration,
    lease: Option<Lease>,
    /// When the last granted request was sent.
    since: Instant,
    /// When the last request was sent, granted or not.
    asked: Option<Instant>,
}

impl Holding {
    pub(super) fn new(name: &'static str, ttl: Duration) -> Self {
        Self { name, ttl, lease: None, since: Instant::now(), asked: None }
    }

    pub(super) fn is_held(&self) -> bool {
        self.lease.is_some() && self.since.elapsed() < self.ttl * 2 / 3
    }

    /// The term of the lease while it is held.
    pub(super) fn term(&self) -> Option<i64> {
        self.lease.as_ref().filter(|_| self.is_held()).map(|lease| lease.term)
    }

    /// Asks for more of the lease once in a third of its time, and for a lease that is not ours at least ten times in its time.
    /// True while it is held. After an error it asks again at once: the caller waits.
    pub(super) async fn keep<L: Leases>(&mut self, leases: &L) -> Result<bool, StoreError> {
        // Below a tenth, so that a caller who comes by that often is not told by a hair to come again.
        let interval = if self.lease.is_some() { self.ttl / 3 } else { self.ttl / 12 };
        if self.asked.is_some_and(|asked| asked.elapsed() < interval) {
            return Ok(self.is_held());
        }
        let sent = Instant::now();
        self.asked = None;
        // An error leaves what we have until its time is over.
        self.lease = leases.acquire(self.name, self.ttl).await?;
        (self.asked, self.since) = (Some(sent), sent);
        Ok(self.is_held())
    }

    /// Gives it back, if it is still ours.
    pub(super) async fn release<L: Leases>(&mut self, leases: &L) -> Result<(), StoreError> {
        match self.lease.take() {
            Some(lease) => leases.release(&lease).await,
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tokio::time::advance;

    use super::*;

    /// A term, a refusal, or a database that is away.
    type Says = Result<Option<i64>, ()>;

    /// Answers what it is told to, and counts.
    #[derive(Default)]
    struct Scripted(Mutex<(usize, Vec<Says>)>);

    impl Scripted {
        fn say(&self, answers: &[Says]) {
            self.0.lock().unwrap().1 = answers.iter().rev().copied().collect();
        }
        fn asked(&self) -> usize {
            self.0.lock().unwrap().0
        }
    }

    impl Leases for Scripted {
        async fn acquire(&self, name: &str, ttl: Duration) -> Result<Option<Lease>, StoreError> {
            let mut state = self.0.lock().unwrap();
            state.0 += 1;
            match state.1.pop().expect("not that often") {
                Ok(term) => Ok(term.map(|term| Lease { name: name.into(), term, ttl })),
                Err(()) => Err(StoreError::Unavailable { doing: "acquire", source: "away".into() }),
            }
        }
        async fn release(&self, _: &Lease) -> Result<(), StoreError> {
            Ok(())
        }
    }

    const TTL: Duration = Duration::from_secs(9);
    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn it_is_asked_for_in_thirds_and_ends_at_two() {
        let (leases, mut holding) = (Scripted::default(), Holding::new("relay", TTL));
        leases.say(&[Ok(Some(7)), Err(()), Err(())]);
        assert!(holding.keep(&leases).await.expect("granted"));
        advance(SECOND * 2).await;
        assert!(holding.keep(&leases).await.expect("not asked"), "still ours");
        assert_eq!(leases.asked(), 1);
        advance(SECOND * 2).await;
        assert!(holding.keep(&leases).await.is_err());
        assert_eq!(holding.term(), Some(7), "the database is away, the lease is not over");
        advance(SECOND * 2).await;
        assert!(!holding.is_held(), "two thirds are over");
        assert_eq!(holding.term(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_ends_it_at_once() {
        let (leases, mut holding) = (Scripted::default(), Holding::new("relay", TTL));
        leases.say(&[Ok(Some(7)), Ok(None), Ok(Some(9))]);
        assert!(holding.keep(&leases).await.expect("granted"));
        advance(SECOND * 3).await;
        assert!(!holding.keep(&leases).await.expect("answered"));
        advance(SECOND * 3).await;
        assert!(holding.keep(&leases).await.expect("granted"));
        assert_eq!(holding.term(), Some(9));
    }
}
