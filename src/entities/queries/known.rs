//! What a node remembers of queries: which there are, and of whom the database said that they are theirs.
//!
//! Invariants: what nobody has and nobody listens to is not kept. Beside what was listened to when room was made last there are
//! at most [`Room::PER_NODE`] queries, so many users of them, and so many bytes of filters; one more makes room. What is listened to
//! has other owners, and stays.

use std::{
    collections::{HashMap, HashSet, hash_map::Entry},
    sync::Arc,
};

use dzvin_actors::platform::ports::Query;
use dzvin_protocols::channels::QueryId;

/// How much is remembered beside what is listened to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Room {
    /// Queries; and, all of them together, users who have one.
    queries: usize,
    /// Their filters, as they are written.
    bytes: usize,
}

impl Room {
    /// A few pages of the console for each of a thousand users. The largest filters alone would be 160 MiB of text, and more once
    /// they are understood: of them fewer are remembered.
    pub(super) const PER_NODE: Self = Self { queries: 10_000, bytes: 32 * 1024 * 1024 };
}

/// A query that is remembered.
#[derive(Debug)]
struct Remembered {
    query: Arc<Query>,
    /// Of its filter.
    bytes: usize,
    users: HashSet<Box<str>>,
}

impl Remembered {
    fn is_listened_to(&self) -> bool {
        Arc::strong_count(&self.query) > 1
    }
}

/// What is remembered, by name.
#[derive(Debug)]
pub(super) struct Known {
    room: Room,
    all: HashMap<QueryId, Remembered>,
    /// Users of all of them.
    users: usize,
    /// Bytes of all of them.
    bytes: usize,
    /// Queries, and their bytes, that were left when room was made last.
    left: (usize, usize),
}

impl Known {
    pub(super) fn new(room: Room) -> Self {
        Self { room, all: HashMap::new(), users: 0, bytes: 0, left: (0, 0) }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    /// The names of those that somebody listens to.
    pub(super) fn listened(&self) -> Vec<QueryId> {
        self.all.iter().filter(|(_, it)| it.is_listened_to()).map(|(id, _)| id.clone()).collect()
    }

    /// The query of this name.
    pub(super) fn get(&self, id: &QueryId) -> Option<Arc<Query>> {
        self.all.get(id).map(|it| Arc::clone(&it.query))
    }

    /// The query of this name, if it was said to be this user's.
    pub(super) fn of_user(&self, id: &QueryId, user: &str) -> Option<Arc<Query>> {
        self.all.get(id).filter(|it| it.users.contains(user)).map(|it| Arc::clone(&it.query))
    }

    /// Remembers that a query, of a filter of so many bytes, is a user's.
    pub(super) fn remember(&mut self, query: Query, bytes: usize, user: &str) -> Arc<Query> {
        if self.is_full() {
            self.make_room();
        }
        let it = match self.all.entry(query.id.clone()) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                self.bytes += bytes;
                entry.insert(Remembered { query: Arc::new(query), bytes, users: HashSet::new() })
            }
        };
        self.users += usize::from(it.users.insert(user.into()));
        Arc::clone(&it.query)
    }

    /// A query is this user's no more.
    pub(super) fn forget(&mut self, id: &QueryId, user: &str) {
        let Some(it) = self.all.get_mut(id) else { return };
        self.users -= usize::from(it.users.remove(user));
        if it.users.is_empty() && !it.is_listened_to() {
            self.bytes -= it.bytes;
            self.all.remove(id);
        }
    }

    fn is_full(&self) -> bool {
        let (queries, bytes) = self.left;
        self.users >= self.room.queries
            || self.all.len() >= queries + self.room.queries
            || self.bytes >= bytes + self.room.bytes
    }

    /// Whose a query is the database says again when it is asked. It takes as many that are new to come here as are looked at
    /// beside those that stay.
    fn make_room(&mut self) {
        self.all.retain(|_, it| {
            it.users.clear();
            it.is_listened_to()
        });
        (self.users, self.bytes) = (0, self.all.values().map(|it| it.bytes).sum());
        self.left = (self.all.len(), self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use dzvin_protocols::{entities::Filter, platform::Kind};

    use super::*;

    fn query(n: usize) -> Query {
        let kind = Kind::new("deal").expect("a kind");
        let filter = Filter::parse(&format!(r#"{{"n":{n}}}"#)).expect("a filter");
        Query { id: QueryId::of(&kind, &filter), kind, filter }
    }

    fn known() -> Known {
        Known::new(Room { queries: 10, bytes: 1_000 })
    }

    /// Who makes queries and forgets them leaves nothing.
    #[test]
    fn what_is_forgotten_is_not_kept() {
        let mut known = known();
        for n in 0..100 {
            let id = known.remember(query(n), 1, "olha").id.clone();
            known.remember(query(n), 1, "ihor");
            known.forget(&id, "olha");
            assert!(known.of_user(&id, "olha").is_none() && known.of_user(&id, "ihor").is_some());
            // Twice, and by whoever never had it, changes nothing.
            known.forget(&id, "olha");
            known.forget(&id, "ihor");
            known.forget(&id, "ihor");
            assert_eq!((known.len(), known.users, known.bytes), (0, 0, 0));
        }
    }

    #[test]
    fn what_is_listened_to_stays_for_as_long_as_it_is() {
        let mut known = known();
        let listened: Vec<Arc<Query>> = (0..25).map(|n| known.remember(query(n), 1, "olha")).collect();
        known.forget(&listened[0].id, "olha");
        assert!(listened.iter().all(|query| known.get(&query.id).is_some_and(|it| Arc::ptr_eq(&it, query))));
        let ids: Vec<QueryId> = listened.iter().map(|query| query.id.clone()).collect();
        known.remember(query(99), 1, "olha");
        let set = |ids: Vec<QueryId>| ids.into_iter().collect::<HashSet<_>>();
        assert_eq!(set(known.listened()), set(ids.clone()));
        drop(listened);
        assert!(known.listened().is_empty());
        // Nobody says that somebody listens no more: it is found when room is made.
        for n in 100..150 {
            known.remember(query(n), 1, "olha");
        }
        assert!(ids.iter().all(|id| known.get(id).is_none()));
        assert!(known.len() <= 10, "{}", known.len());
    }

    #[test]
    fn there_is_room_for_so_many_queries_users_and_bytes() {
        let mut many = known();
        for n in 0..1_000 {
            many.remember(query(n), 1, "olha");
            assert!(many.len() <= 10 && many.users <= 10);
        }
        // One that everybody has.
        let mut shared = known();
        for n in 0..1_000 {
            shared.remember(query(0), 1, &n.to_string());
            assert!(shared.users <= 10 && shared.bytes == 1);
        }
        let mut large = known();
        for n in 0..1_000 {
            large.remember(query(n), 400, "olha");
            assert!(large.bytes <= 1_200 && large.bytes == large.len() * 400);
        }
        // Those of whom nobody is told any more, because they were listened to when they were.
        let mut unclaimed = known();
        for n in 0..1_000 {
            let held = unclaimed.remember(query(n), 1, "olha");
            unclaimed.forget(&held.id, "olha");
            assert!(unclaimed.len() <= 10 && unclaimed.users == 0, "{}", unclaimed.len());
        }
    }
}
