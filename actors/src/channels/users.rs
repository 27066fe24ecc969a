//! How many connections each user has on this node: counted only where there is a limit.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

/// Counts by user. As many as there are sessions.
#[derive(Debug, Clone, Default)]
pub struct Users(Arc<Mutex<HashMap<Arc<str>, u32>>>);

/// One connection that counts; its end is the end of this.
#[derive(Debug)]
pub(super) struct Counted(Users, Arc<str>);

impl Users {
    /// Counts one more of this user, unless there are as many as may be. Those without a user are not one.
    pub(super) fn admit(&self, user: &Arc<str>, most: Option<u32>) -> Option<Option<Counted>> {
        let Some(most) = most.filter(|_| !user.is_empty()) else { return Some(None) };
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = all.entry(Arc::clone(user)).or_default();
        if *count >= most {
            return None;
        }
        *count += 1;
        Some(Some(Counted(self.clone(), Arc::clone(user))))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut all = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = all.get_mut(&self.1) {
            *count -= 1;
            if *count == 0 {
                all.remove(&self.1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_free_when_its_connection_ends() {
        let (users, olha) = (Users::default(), Arc::from("olha"));
        let first = users.admit(&olha, Some(2));
        let second = users.admit(&olha, Some(2)).expect("room");
        assert!(first.is_some() && users.admit(&olha, Some(2)).is_none());
        assert!(users.admit(&Arc::from("ivan"), Some(2)).is_some() && users.admit(&olha, None).is_some());
        drop(second);
        let third = users.admit(&olha, Some(2));
        assert!(third.is_some());
        drop((first, third));
        assert!(users.0.lock().expect("lock").is_empty());
        assert!((0..9).all(|_| users.admit(&Arc::from(""), Some(1)).is_some()), "nobody is no user");
    }
}
