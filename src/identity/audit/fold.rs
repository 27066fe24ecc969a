//! What waits to be written, equal ones as one.
//!
//! Whoever is known and whoever is not have a share each, and within it each source has a bounded number of rows in a minute: one that
//! tries many things is told of without their names from then on. So a flood comes to a bounded number of rows, whatever it is made of,
//! and takes no room of others.

use std::{
    collections::{HashMap, hash_map::Entry},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use time::OffsetDateTime;
use tokio::time::Instant;

/// Within this what is equal is one row.
const MINUTE: Duration = Duration::from_secs(60);
/// Rows of callers whom nobody knows, in a minute: a day of nothing but flood is some hundred megabytes on a node.
pub(super) const STRANGERS: usize = 512;
/// Rows of users, in a minute.
pub(super) const USERS: usize = 2_048;
/// Of them those of one address.
const OF_ADDRESS: usize = 16;
/// Of them those of one user: a program that writes in a loop what it may not.
const OF_USER: usize = 64;
/// The action of rows that tell of what had no room.
pub(super) const LOST: &str = "audit.lost";

/// What makes rows equal.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) user: Arc<str>,
    pub(super) token: Option<Arc<str>>,
    /// As limits count addresses.
    pub(super) counted: Option<IpAddr>,
    pub(super) action: &'static str,
    pub(super) object: Arc<str>,
    pub(super) outcome: Arc<str>,
}

/// What is told of the first of them.
#[derive(Debug, Clone)]
pub(super) struct First {
    pub(super) address: Option<IpAddr>,
    pub(super) request: Option<Arc<str>>,
    pub(super) status: Option<u16>,
}

/// A row to be written, or to be counted into.
#[derive(Debug, Clone)]
pub(super) struct Noted {
    pub(super) at: OffsetDateTime,
    pub(super) fold: i64,
    pub(super) user: Arc<str>,
    pub(super) token: Option<Arc<str>>,
    pub(super) action: &'static str,
    pub(super) object: Arc<str>,
    pub(super) outcome: Arc<str>,
    pub(super) address: Option<IpAddr>,
    pub(super) request: Option<Arc<str>>,
    pub(super) status: Option<u16>,
    pub(super) times: i64,
}

#[derive(Debug)]
struct Row {
    fold: i64,
    at: OffsetDateTime,
    began: Instant,
    first: First,
    /// Not written yet.
    times: i64,
}

/// Who takes room.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Source {
    User(Arc<str>),
    Address(Option<IpAddr>),
}

impl Source {
    fn of(key: &Key) -> Self {
        if key.user.is_empty() { Self::Address(key.counted) } else { Self::User(Arc::clone(&key.user)) }
    }

    fn most(&self) -> usize {
        match self {
            Self::User(_) => OF_USER,
            Self::Address(_) => OF_ADDRESS,
        }
    }
}

#[derive(Debug)]
struct Share {
    most: usize,
    rows: HashMap<Key, Row>,
    of: HashMap<Source, usize>,
}

impl Share {
    fn new(most: usize) -> Self {
        Self { most, rows: HashMap::new(), of: HashMap::new() }
    }

    /// False where there is no room.
    fn take(&mut self, mut key: Key, first: First, now: Instant) -> bool {
        let source = Source::of(&key);
        if !self.rows.contains_key(&key) && self.of.get(&source).is_some_and(|rows| *rows >= source.most()) {
            (key.object, key.token) = (Arc::default(), None);
        }
        let full = self.rows.len() >= self.most;
        match self.rows.entry(key) {
            Entry::Occupied(mut row) => row.get_mut().times += 1,
            Entry::Vacant(_) if full => return false,
            Entry::Vacant(place) => {
                place.insert(Row::new(first, now, 1));
                *self.of.entry(source).or_default() += 1;
            }
        }
        true
    }

    /// Forgets what is written and over.
    fn age(&mut self, now: Instant) {
        self.rows.retain(|_, row| row.times > 0 || now.duration_since(row.began) < MINUTE);
        self.of.clear();
        for key in self.rows.keys() {
            *self.of.entry(Source::of(key)).or_default() += 1;
        }
    }
}

impl Row {
    fn new(first: First, began: Instant, times: i64) -> Self {
        // No two of some hundred million are alike.
        let fold = i64::from_ne_bytes(rand::random::<[u8; 8]>());
        Self { fold, at: OffsetDateTime::now_utc(), began, first, times }
    }
}

/// All that waits.
#[derive(Debug)]
pub(super) struct Fold {
    strangers: Share,
    users: Share,
    /// What had no room: one row for each share.
    lost: HashMap<Key, Row>,
}

impl Default for Fold {
    fn default() -> Self {
        Self { strangers: Share::new(STRANGERS), users: Share::new(USERS), lost: HashMap::new() }
    }
}

impl Fold {
    /// Takes one in; names the share that has no room for it.
    pub(super) fn take(&mut self, key: Key, first: First, now: Instant) -> Result<(), &'static str> {
        let (share, name) =
            if key.user.is_empty() { (&mut self.strangers, "strangers") } else { (&mut self.users, "users") };
        if share.take(key, first, now) {
            return Ok(());
        }
        let first = First { address: None, request: None, status: None };
        let key = Key {
            user: Arc::default(),
            token: None,
            counted: None,
            action: LOST,
            object: name.into(),
            outcome: "lost".into(),
        };
        self.lost.entry(key).or_insert_with(|| Row::new(first, now, 0)).times += 1;
        Err(name)
    }

    /// Rows that are held, of strangers and of users.
    pub(super) fn len(&self) -> [(&'static str, usize); 2] {
        [("strangers", self.strangers.rows.len()), ("users", self.users.rows.len())]
    }

    /// What is to be written now; once it is, or cannot be, the next call goes on from there.
    pub(super) fn due(&mut self, now: Instant) -> Vec<Noted> {
        self.strangers.age(now);
        self.users.age(now);
        self.lost.retain(|_, row| row.times > 0 || now.duration_since(row.began) < MINUTE);
        let due = |(key, row): (&Key, &mut Row)| {
            (row.times > 0).then(|| Noted {
                at: row.at,
                fold: row.fold,
                user: Arc::clone(&key.user),
                token: key.token.clone(),
                action: key.action,
                object: Arc::clone(&key.object),
                outcome: Arc::clone(&key.outcome),
                address: row.first.address,
                request: row.first.request.clone(),
                status: row.first.status,
                times: std::mem::take(&mut row.times),
            })
        };
        self.rows().filter_map(due).collect()
    }

    /// They could not be written: they are due again.
    pub(super) fn give_back(&mut self, noted: &[Noted]) {
        let owed: HashMap<i64, i64> = noted.iter().map(|it| (it.fold, it.times)).collect();
        for (_, row) in self.rows() {
            row.times += owed.get(&row.fold).copied().unwrap_or_default();
        }
    }

    fn rows(&mut self) -> impl Iterator<Item = (&Key, &mut Row)> {
        self.users.rows.iter_mut().chain(&mut self.strangers.rows).chain(&mut self.lost)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(user: &str, address: u32, object: &str) -> Key {
        Key {
            user: user.into(),
            token: None,
            counted: Some(IpAddr::from(address.to_be_bytes())),
            action: "entities.update",
            object: object.into(),
            outcome: "forbidden".into(),
        }
    }

    const FIRST: First = First { address: None, request: None, status: Some(403) };

    #[test]
    fn equal_ones_are_one_row_for_a_minute() {
        let (mut fold, now) = (Fold::default(), Instant::now());
        for _ in 0..3 {
            fold.take(key("olha", 1, "deal/1"), FIRST, now).expect("room");
        }
        fold.take(key("olha", 1, "deal/2"), FIRST, now).expect("room");
        let due = fold.due(now);
        assert_eq!(due.iter().map(|it| it.times).sum::<i64>(), 4);
        assert_eq!((due.len(), fold.due(now).len()), (2, 0));
        // Counted into the same row, whether or not it could be written.
        fold.take(key("olha", 1, "deal/1"), FIRST, now).expect("room");
        let again = fold.due(now);
        assert!(again.len() == 1 && due.iter().any(|it| it.fold == again[0].fold));
        fold.give_back(&again);
        let late = now + MINUTE;
        assert_eq!(fold.due(late).len(), 1, "what is not written is not forgotten");
        assert_eq!((fold.due(late).len(), fold.users.rows.len(), fold.users.of.len()), (0, 0, 0));
        fold.take(key("olha", 1, "deal/1"), FIRST, late).expect("room");
        assert!(fold.due(late).iter().all(|it| it.fold != again[0].fold), "another minute, another row");
    }

    #[test]
    fn a_flood_is_bounded_and_takes_no_room_of_users() {
        let (mut fold, now) = (Fold::default(), Instant::now());
        for address in 0..1_000 {
            for object in 0..100 {
                let _ = fold.take(key("", address, &object.to_string()), FIRST, now);
            }
        }
        assert_eq!(fold.len(), [("strangers", STRANGERS), ("users", 0)]);
        fold.take(key("olha", 1, "deal/1"), FIRST, now).expect("users have a share of their own");
        let due = fold.due(now);
        assert_eq!(due.len(), STRANGERS + 2);
        assert_eq!(due.iter().map(|it| it.times).sum::<i64>(), 100_001, "each is counted somewhere");
        let lost = due.iter().find(|it| it.action == LOST).expect("told");
        assert_eq!((&*lost.object, &*lost.outcome), ("strangers", "lost"));
    }

    #[test]
    fn a_source_that_tries_many_things_is_told_of_without_their_names() {
        let (mut fold, now) = (Fold::default(), Instant::now());
        for object in 0..10_000 {
            fold.take(key("", 7, &object.to_string()), FIRST, now).expect("room");
            fold.take(key("olha", 7, &object.to_string()), FIRST, now).expect("room");
        }
        assert_eq!(fold.len(), [("strangers", OF_ADDRESS + 1), ("users", OF_USER + 1)]);
        fold.take(key("", 8, "another address"), FIRST, now).expect("room");
        let due = fold.due(now);
        let rest = due.iter().find(|it| it.user.is_empty() && it.object.is_empty()).expect("the rest");
        assert_eq!(rest.times, 10_000 - i64::try_from(OF_ADDRESS).expect("small"));
    }
}
