//! Whether the database answers, from what is asked of it anyway.
//!
//! An open connection says nothing: the pool keeps those of a server that is gone until somebody uses them.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use dzvin_actors::platform::ports::StoreError;

/// The last answer; none after a failure.
#[derive(Debug, Default)]
pub struct Contact(Mutex<Option<Instant>>);

impl Contact {
    /// Takes note of how a call went. A refusal is an answer as well.
    pub fn note<T>(&self, result: &Result<T, StoreError>) {
        let away = matches!(result, Err(StoreError::Unavailable { .. }));
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = (!away).then(Instant::now);
    }

    /// Whether the last call was answered, and not longer ago than this: a call that hangs has not failed.
    #[must_use]
    pub fn is_fresh(&self, longest: Duration) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_some_and(|at| at.elapsed() < longest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(3600);

    #[test]
    fn only_an_answer_of_late_is_contact() {
        let contact = Contact::default();
        assert!(!contact.is_fresh(LONG), "nobody has asked yet");
        contact.note(&Ok(()));
        assert!(contact.is_fresh(LONG));
        let away = StoreError::Unavailable { doing: "asking", source: "gone".into() };
        contact.note::<()>(&Err(away));
        assert!(!contact.is_fresh(LONG));
        contact.note::<()>(&Err(StoreError::Refused { doing: "asking", source: "no".into() }));
        assert!(contact.is_fresh(LONG), "a refusal is an answer");
        assert!(!contact.is_fresh(Duration::ZERO), "a call that hangs is no contact");
    }
}
