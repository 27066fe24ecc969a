//! Where commands arrive for sessions on transports of one direction: the client sends them by other requests, to whichever
//! node, which name the session by a secret.
//!
//! Invariants: a mailbox is as long known as its session's transport lives; what it cannot take at once is refused, never queued
//! without bound. The secret is never shown, and looking for it tells nothing of others: where it would lie in the map depends on
//! a key of this process, so no guess is compared with a secret that it resembles.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

/// Bytes of commands that may wait for one session: as much as may wait for its client.
pub const MAX_POSTED: usize = 1024 * 1024;
/// What one request counts at least, so that many small ones are bounded as well: four thousand.
const LEAST: usize = 256;

/// A session, as others reach it.
#[derive(Clone)]
struct Place {
    sender: mpsc::Sender<Posted>,
    room: Arc<Semaphore>,
}

/// Commands of one request on their way; their room is free again with them.
#[derive(Debug)]
pub struct Posted {
    /// The commands.
    pub commands: String,
    _room: OwnedSemaphorePermit,
}

/// All mailboxes of a node.
#[derive(Clone, Default)]
pub struct Mailboxes {
    all: Arc<Mutex<HashMap<Arc<str>, Place>>>,
    count: Gauge,
}

/// The place of one session; it is forgotten with this.
pub struct Mailbox {
    session: Arc<str>,
    of: Mailboxes,
}

impl fmt::Debug for Mailboxes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mailboxes").field("count", &self.count.get()).finish_non_exhaustive()
    }
}

impl fmt::Debug for Mailbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mailbox").finish_non_exhaustive()
    }
}

/// Commands that were not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MailboxError {
    /// There is no such session here.
    #[error("no such session")]
    Unknown,
    /// It has not dealt with what came before.
    #[error("too many commands wait")]
    Full,
}

impl Mailboxes {
    /// A mailbox under a new secret, and what arrives in it.
    #[must_use]
    pub fn open(&self) -> (Mailbox, mpsc::Receiver<Posted>) {
        // As many as its room has place for; no more is allocated than wait.
        let (sender, receiver) = mpsc::channel(MAX_POSTED / LEAST);
        let place = Place { sender, room: Arc::new(Semaphore::new(MAX_POSTED)) };
        let session: Arc<str> = format!("{:032x}", rand::random::<u128>()).into();
        self.lock().insert(Arc::clone(&session), place);
        self.count.inc();
        (Mailbox { session, of: self.clone() }, receiver)
    }

    /// Hands over commands.
    ///
    /// # Errors
    /// The session is not here, or does not keep up.
    pub fn deliver(&self, session: &str, commands: String) -> Result<(), MailboxError> {
        let Place { sender, room } = self.lock().get(session).cloned().ok_or(MailboxError::Unknown)?;
        let share = u32::try_from(commands.len().max(LEAST)).unwrap_or(u32::MAX);
        let room = room.try_acquire_many_owned(share).map_err(|_| MailboxError::Full)?;
        sender.try_send(Posted { commands, _room: room }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => MailboxError::Full,
            mpsc::error::TrySendError::Closed(_) => MailboxError::Unknown,
        })
    }

    /// How many there are.
    #[must_use]
    pub fn gauge(&self) -> &Gauge {
        &self.count
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, Place>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Mailbox {
    /// The secret that names the session.
    #[must_use]
    pub fn session(&self) -> &str {
        &self.session
    }

    /// Whether it is this one's. Whoever guesses learns nothing from how long the answer takes.
    #[must_use]
    pub fn is_of(&self, session: &str) -> bool {
        let (ours, theirs) = (self.session.as_bytes(), session.as_bytes());
        let differ = ours.iter().zip(theirs).fold(0, |differ, (a, b)| differ | (a ^ b));
        ours.len() == theirs.len() && std::hint::black_box(differ) == 0
    }
}

impl Drop for Mailbox {
    fn drop(&mut self) {
        self.of.lock().remove(&self.session);
        self.of.count.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn commands_arrive_while_the_session_lives_and_not_without_bound() {
        let all = Mailboxes::default();
        let (mailbox, mut arrived) = all.open();
        let session = mailbox.session().to_owned();
        assert_eq!(all.deliver("another", "{}".into()), Err(MailboxError::Unknown));
        let large = "x".repeat(MAX_POSTED / 4);
        for n in 0..MAX_POSTED / LEAST / 2 {
            assert_eq!(all.deliver(&session, n.to_string()), Ok(()));
        }
        for _ in 0..2 {
            assert_eq!(all.deliver(&session, large.clone()), Ok(()));
        }
        assert_eq!(all.deliver(&session, "more".into()), Err(MailboxError::Full));
        assert_eq!(arrived.recv().await.expect("posted").commands, "0");
        assert_eq!(all.deliver(&session, "one".into()), Ok(()));
        assert_eq!(all.deliver(&session, "more".into()), Err(MailboxError::Full));
        assert_eq!(all.gauge().get(), 1);
        assert!(mailbox.is_of(&session));
        for other in ["", &session[1..], &format!("{session}0"), &session.replace(&session[..1], "x")] {
            assert!(!mailbox.is_of(other), "{other}");
        }
        assert!(!format!("{all:?} {mailbox:?}").contains(&session));
        drop(mailbox);
        assert_eq!(all.deliver(&session, "late".into()), Err(MailboxError::Unknown));
        assert_eq!(all.gauge().get(), 0);
    }
}
