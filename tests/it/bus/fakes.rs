//! A change log and leases in memory, whose behaviour is changed in the middle of a test.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use dzvin_actors::platform::ports::{ChangeLog, Lease, Leases, LogSlice, ReadLimit, StoreError};
use dzvin_protocols::{
    channels::{Epoch, IdKey, Position},
    entities::{Change, Op},
    platform::{EntityId, Kind},
};
use serde_json::value::RawValue;
use time::OffsetDateTime;
use tokio::time::Instant;

pub fn kind(name: &str) -> Kind {
    Kind::new(name).expect("a kind")
}

/// The log of some kinds; cloning shares it.
#[derive(Clone, Default)]
pub struct FakeLog(Arc<LogState>);

#[derive(Default)]
struct LogState {
    kinds: Mutex<BTreeMap<Kind, KindLog>>,
    /// Every call fails as if the database were away.
    away: AtomicBool,
    /// The next call panics.
    panics: AtomicBool,
    /// Reads of this kind fail.
    poison: Mutex<Option<Kind>>,
    calls: AtomicU64,
}

struct KindLog {
    epoch: Epoch,
    top: u64,
    changes: Vec<Change>,
    renewals: u64,
    generation: u64,
}

impl FakeLog {
    pub fn with(kinds: &[&str]) -> Self {
        let log = Self::default();
        for name in kinds {
            let state = KindLog { epoch: Epoch::new("e0"), top: 0, changes: Vec::new(), renewals: 0, generation: 0 };
            log.0.kinds.lock().unwrap().insert(kind(name), state);
        }
        log
    }

    fn change<T>(&self, name: &str, change: impl FnOnce(&mut KindLog) -> T) -> T {
        change(self.0.kinds.lock().unwrap().get_mut(&kind(name)).expect("a known kind"))
    }

    /// Commits so many changes with documents of about so many bytes.
    pub fn commit_of(&self, name: &str, count: u64, bytes: usize) -> u64 {
        self.change(name, |log| {
            for _ in 0..count {
                log.top += 1;
                let change = a_change(name, log.top, log.generation, bytes);
                log.changes.push(change);
            }
            log.top
        })
    }

    pub fn commit(&self, name: &str, count: u64) -> u64 {
        self.commit_of(name, count, 20)
    }

    /// The database is restored to an earlier moment; what it writes from now on is something else.
    pub fn rewind(&self, name: &str, top: u64) {
        self.change(name, |log| {
            log.changes.retain(|c| c.offset <= top);
            (log.top, log.generation) = (top, log.generation + 1);
        });
    }

    /// Retention cuts everything up to and with this offset.
    pub fn cut(&self, name: &str, through: u64) {
        self.change(name, |log| log.changes.retain(|c| c.offset > through));
    }

    /// One row is gone.
    pub fn lose(&self, name: &str, offset: u64) {
        self.change(name, |log| log.changes.retain(|c| c.offset != offset));
    }

    pub fn top(&self, name: &str) -> Position {
        self.change(name, |log| Position { epoch: log.epoch.clone(), offset: log.top })
    }

    pub fn renewals(&self, name: &str) -> u64 {
        self.change(name, |log| log.renewals)
    }

    pub fn away(&self, away: bool) {
        self.0.away.store(away, Ordering::SeqCst);
    }

    pub fn panic_once(&self) {
        self.0.panics.store(true, Ordering::SeqCst);
    }

    pub fn poison(&self, name: Option<&str>) {
        *self.0.poison.lock().unwrap() = name.map(kind);
    }

    /// Calls of any method so far.
    pub fn calls(&self) -> u64 {
        self.0.calls.load(Ordering::SeqCst)
    }

    fn called(&self) -> Result<(), StoreError> {
        self.0.calls.fetch_add(1, Ordering::SeqCst);
        assert!(!self.0.panics.swap(false, Ordering::SeqCst), "told to panic");
        if self.0.away.load(Ordering::SeqCst) {
            return Err(StoreError::Unavailable { doing: "anything", source: "away".into() });
        }
        Ok(())
    }

    fn slice(
        &self,
        of: &Kind,
        place: impl Fn(&Change) -> u64,
        only: Option<&IdKey>,
        after: u64,
        limit: ReadLimit,
    ) -> Option<LogSlice> {
        let kinds = self.0.kinds.lock().unwrap();
        let log = kinds.get(of)?;
        let mine = |c: &&Change| only.is_none_or(|key| *key == IdKey::of(&c.id));
        let top = match only {
            None => log.top,
            Some(_) => log.changes.iter().filter(mine).map(&place).max().unwrap_or(0),
        };
        let mut room = limit.bytes;
        let mut changes: Vec<Change> = Vec::new();
        for change in log.changes.iter().filter(mine).filter(|c| place(c) > after).take(limit.count.max(1)) {
            let size = change.publication().data.len();
            if !changes.is_empty() && size > room {
                break;
            }
            room = room.saturating_sub(size);
            changes.push(change.clone());
        }
        let complete = after >= top || changes.first().is_some_and(|c| place(c) == after + 1);
        Some(LogSlice { position: Position { epoch: log.epoch.clone(), offset: top }, changes, complete })
    }
}

/// Three entities take turns, so that each has revisions of its own.
fn a_change(name: &str, offset: u64, generation: u64, bytes: usize) -> Change {
    Change {
        kind: kind(name),
        id: EntityId::new(&format!("id-{}", offset % 3)).expect("an id"),
        revision: offset.div_ceil(3),
        offset,
        op: Op::Update,
        at: OffsetDateTime::UNIX_EPOCH
            + time::Duration::hours(generation as i64 + 1)
            + time::Duration::microseconds(offset as i64),
        by: "mirror:test".into(),
        changed: vec!["title".into()],
        doc: Some(RawValue::from_string(format!("\"{}\"", "x".repeat(bytes))).expect("json").into()),
        trace: None,
        fields: None,
    }
}

impl ChangeLog for FakeLog {
    async fn positions(&self) -> Result<Vec<(Kind, Position)>, StoreError> {
        self.called()?;
        let kinds = self.0.kinds.lock().unwrap();
        Ok(kinds.iter().map(|(k, l)| (k.clone(), Position { epoch: l.epoch.clone(), offset: l.top })).collect())
    }

    async fn position(&self, kind: &Kind) -> Result<Option<Position>, StoreError> {
        self.called()?;
        let kinds = self.0.kinds.lock().unwrap();
        Ok(kinds.get(kind).map(|l| Position { epoch: l.epoch.clone(), offset: l.top }))
    }

    async fn read(&self, kind: &Kind, after: u64, limit: ReadLimit) -> Result<Option<LogSlice>, StoreError> {
        self.called()?;
        // As the real one: others run meanwhile.
        tokio::task::yield_now().await;
        if self.0.poison.lock().unwrap().as_ref() == Some(kind) {
            return Err(StoreError::Refused { doing: "read", source: "poison".into() });
        }
        Ok(self.slice(kind, |c| c.offset, None, after, limit))
    }

    async fn read_entity(
        &self,
        kind: &Kind,
        key: &IdKey,
        after: u64,
        limit: ReadLimit,
    ) -> Result<Option<LogSlice>, StoreError> {
        self.called()?;
        Ok(self.slice(kind, |c| c.revision, Some(key), after, limit))
    }

    async fn renew_epoch(&self, kind: &Kind, old: &Epoch) -> Result<Option<Position>, StoreError> {
        self.called()?;
        let mut kinds = self.0.kinds.lock().unwrap();
        let Some(log) = kinds.get_mut(kind) else { return Ok(None) };
        if log.epoch == *old {
            log.renewals += 1;
            log.epoch = Epoch::new(&format!("e{}", log.renewals));
        }
        Ok(Some(Position { epoch: log.epoch.clone(), offset: log.top }))
    }
}

/// One lease and who has it; cloning with [`FakeLeases::node`] makes another who wants it.
#[derive(Clone, Default)]
pub struct FakeLeases {
    table: Arc<Mutex<Table>>,
    me: u32,
}

#[derive(Default)]
struct Table {
    owner: Option<(u32, Instant)>,
    term: i64,
    /// Nobody is granted anything.
    refuses: bool,
}

impl FakeLeases {
    pub fn node(&self, me: u32) -> Self {
        Self { table: Arc::clone(&self.table), me }
    }

    /// Takes the lease from whoever has it and gives it to nobody, until told otherwise.
    pub fn refuse(&self, refuses: bool) {
        let mut table = self.table.lock().unwrap();
        table.refuses = refuses;
        if refuses {
            table.owner = None;
        }
    }

    pub fn owner(&self) -> Option<u32> {
        self.table.lock().unwrap().owner.filter(|(_, until)| Instant::now() < *until).map(|(owner, _)| owner)
    }
}

impl Leases for FakeLeases {
    async fn acquire(&self, name: &str, ttl: Duration) -> Result<Option<Lease>, StoreError> {
        let mut table = self.table.lock().unwrap();
        let now = Instant::now();
        match table.owner {
            _ if table.refuses => return Ok(None),
            Some((owner, until)) if owner != self.me && now < until => return Ok(None),
            Some((owner, until)) if owner == self.me && now < until => {}
            _ => table.term += 1,
        }
        table.owner = Some((self.me, now + ttl));
        Ok(Some(Lease { name: name.into(), term: table.term, ttl }))
    }

    async fn release(&self, lease: &Lease) -> Result<(), StoreError> {
        let mut table = self.table.lock().unwrap();
        if table.term == lease.term && table.owner.is_some_and(|(owner, _)| owner == self.me) {
            table.owner = None;
        }
        Ok(())
    }
}
