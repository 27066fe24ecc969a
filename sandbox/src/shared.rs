//! What every part of a running sandbox holds in common: the world, the knobs, the faults, the books and the open Mirror links.
//! Locks are held for moments only, never across an await.

use crate::clock;
use crate::config::{Knobs, Manner, SandboxConfig};
use crate::error::{SandboxError, WorldError};
use crate::faults::Faults;
use crate::mirror::Frame;
use crate::nginx::Gate;
use crate::stats::Book;
use crate::world::{Shelf, World};
use rand::{Rng, SeedableRng, rngs::StdRng};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

/// What can be said to a Mirror link.
#[derive(Debug)]
pub(crate) enum Command {
    /// Send this too.
    Inject(Frame),
    /// End with a Close frame.
    Close(u16),
}

/// The way to reach an open link.
#[derive(Debug)]
pub(crate) struct LinkDoor {
    pub(crate) collection: String,
    pub(crate) commands: mpsc::Sender<Command>,
    pub(crate) kill: watch::Sender<Option<Manner>>,
}

/// The common state.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) world: World,
    pub(crate) knobs: watch::Sender<Arc<Knobs>>,
    pub(crate) faults: watch::Sender<Arc<Faults>>,
    pub(crate) tokens: Mutex<BTreeMap<String, BTreeSet<String>>>,
    pub(crate) book: Book,
    pub(crate) gate: Gate,
    pub(crate) links: Mutex<HashMap<u64, LinkDoor>>,
    pub(crate) next_link: AtomicU64,
    /// The switch of the flow of edits that is on.
    pub(crate) player: Mutex<Option<Arc<Mutex<bool>>>>,
    pub(crate) stopping: watch::Sender<bool>,
    tasks: Mutex<JoinSet<()>>,
    dice: Mutex<StdRng>,
    born: Instant,
}

/// Takes a lock; a panic elsewhere does not make the state unusable.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub(crate) fn new(config: &SandboxConfig) -> Result<Self, SandboxError> {
        let now = clock::now();
        let world = World::new(&config.collections, now);
        for (shelf, collection) in world.shelves().iter().zip(&config.collections) {
            let seed = |source| SandboxError::Seed { collection: collection.name.clone(), source };
            shelf
                .write(|c| collection.seed.iter().try_for_each(|text| c.seed(text, now, &config.knobs.world)))
                .map_err(seed)?;
        }
        Ok(Self {
            world,
            gate: Gate::new(&config.knobs.nginx),
            dice: Mutex::new(StdRng::seed_from_u64(config.knobs.mirror.seed)),
            knobs: watch::Sender::new(Arc::new(config.knobs.clone())),
            faults: watch::Sender::new(Arc::default()),
            tokens: Mutex::new(config.tokens.clone()),
            book: Book::new(),
            links: Mutex::default(),
            next_link: AtomicU64::new(1),
            player: Mutex::default(),
            stopping: watch::Sender::new(false),
            tasks: Mutex::default(),
            born: Instant::now(),
        })
    }

    pub(crate) fn knobs(&self) -> Arc<Knobs> {
        self.knobs.borrow().clone()
    }

    pub(crate) fn faults(&self) -> Arc<Faults> {
        self.faults.borrow().clone()
    }

    pub(crate) fn shelf(&self, name: &str) -> Result<&Shelf, WorldError> {
        self.world.shelf(name)
    }

    /// Milliseconds since the start, for the gate.
    pub(crate) fn elapsed_ms(&self) -> i64 {
        i64::try_from(self.born.elapsed().as_millis()).unwrap_or(i64::MAX)
    }

    /// Whether chance strikes.
    pub(crate) fn chance(&self, percent: u8) -> bool {
        lock(&self.dice).random_range(0..100) < percent
    }

    /// Runs a task that ends with the sandbox at the latest.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = lock(&self.tasks);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(task);
    }

    /// All tasks, for the one who stops them.
    pub(crate) fn take_tasks(&self) -> JoinSet<()> {
        std::mem::take(&mut lock(&self.tasks))
    }
}
