//! Who has to look whether they may stay, of all that was revoked at once.
//!
//! Invariants: of a burst nobody is left out, wherever in it they stand, and each is told once; where nobody can say who is meant,
//! everybody looks. What one call takes is bounded, so that whoever is named first does not wait for an end that never comes.

use std::{collections::HashSet, sync::Arc};

use dzvin_actors::platform::ports::Revoked;
use tokio::sync::broadcast::{
    Receiver,
    error::{RecvError, TryRecvError},
};

/// Users who are named one by one: each name is a walk over every session, so that of more everybody looks.
const MOST_USERS: usize = 64;
/// Changes that are taken for one burst: as many as may wait.
const MOST_CHANGES: usize = super::memory::CHANGES;

/// Waits for what is revoked next, and for what has come with it. Answers the users who have to look, `None` among them for everybody;
/// nothing at all when nothing more will come.
pub async fn concerned(changes: &mut Receiver<Revoked>) -> Option<Vec<Option<Arc<str>>>> {
    let mut users = HashSet::new();
    let mut everybody = match changes.recv().await {
        Ok(revoked) => !name(&mut users, revoked),
        Err(RecvError::Lagged(_)) => true,
        Err(RecvError::Closed) => return None,
    };
    for _ in 1..MOST_CHANGES {
        everybody |= match changes.try_recv() {
            Ok(revoked) => !name(&mut users, revoked),
            Err(TryRecvError::Lagged(_)) => true,
            Err(TryRecvError::Empty | TryRecvError::Closed) => break,
        };
    }
    if everybody || users.len() > MOST_USERS {
        return Some(vec![None]);
    }
    Some(users.into_iter().map(Some).collect())
}

/// False when it does not say whose token it is.
fn name(users: &mut HashSet<Arc<str>>, revoked: Revoked) -> bool {
    let Some(user) = revoked.user else { return false };
    users.insert(user);
    true
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use tokio::sync::broadcast::Sender;

    use super::*;

    fn of(user: Option<&str>) -> Revoked {
        let jti = if user.is_none() { Some("t".into()) } else { None };
        Revoked { user: user.map(Into::into), jti, issued_before: None }
    }

    fn say(sender: &Sender<Revoked>, users: impl IntoIterator<Item = String>) {
        for user in users {
            sender.send(of(Some(&user))).expect("heard");
        }
    }

    async fn next(changes: &mut Receiver<Revoked>) -> Vec<String> {
        let found = concerned(changes).await.expect("more comes");
        let mut all: Vec<String> = found.iter().map(|user| user.as_deref().unwrap_or("everybody").to_owned()).collect();
        all.sort_unstable();
        all
    }

    fn numbered(of: std::ops::Range<usize>) -> Vec<String> {
        of.map(|n| format!("u{n:04}")).collect()
    }

    #[tokio::test]
    async fn of_a_burst_everybody_whom_it_names_is_told_once() {
        let sender = Sender::new(MOST_CHANGES);
        let mut changes = sender.subscribe();
        for size in [1, 2, 3, 40, MOST_USERS] {
            say(&sender, numbered(0..size).into_iter().chain(numbered(0..size)));
            assert_eq!(next(&mut changes).await, numbered(0..size));
        }
        assert!(concerned(&mut changes).now_or_never().is_none(), "nothing is told twice");
        say(&sender, numbered(7..8));
        drop(sender);
        assert_eq!((next(&mut changes).await, concerned(&mut changes).await), (numbered(7..8), None));
    }

    #[tokio::test]
    async fn where_nobody_can_say_who_is_meant_everybody_looks() {
        let sender = Sender::new(MOST_CHANGES);
        let mut changes = sender.subscribe();
        for at in 0..3 {
            say(&sender, numbered(0..at));
            sender.send(of(None)).expect("heard");
            say(&sender, numbered(at..3));
            assert_eq!(next(&mut changes).await, ["everybody"], "a token names no user");
        }
        say(&sender, numbered(0..MOST_USERS + 1));
        assert_eq!(next(&mut changes).await, ["everybody"], "many are everybody");
        say(&sender, numbered(0..MOST_CHANGES + 5));
        assert_eq!(next(&mut changes).await, ["everybody"], "some were lost");
        while concerned(&mut changes).now_or_never().is_some() {}
        say(&sender, numbered(0..2));
        assert_eq!(next(&mut changes).await, numbered(0..2), "and from then on each by name");
    }
}
