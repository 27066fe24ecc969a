//! A log and a bus in memory: what the bus knows is a prefix of the log.

use super::*;

/// The log and the bus at once: what the bus knows is a prefix of the log.
pub(super) struct World {
    pub(super) log: Mutex<Vec<Change>>,
    pub(super) epoch: Mutex<Epoch>,
    pub(super) bus_top: Mutex<u64>,
    pub(super) bus_down: Mutex<bool>,
    pub(super) subscribed: Mutex<HashSet<StreamName>>,
    /// What the application published, all on one channel.
    pub(super) published: Mutex<Vec<Publication>>,
    /// Closed: who unsubscribes waits.
    pub(super) leaving: Semaphore,
    pub(super) waiting_to_leave: AtomicUsize,
    pub(super) left: AtomicUsize,
    /// True: the log never answers for an entity.
    pub(super) hanging: AtomicBool,
    /// True: the bus has lost what it had of the application's streams.
    pub(super) emptied: AtomicBool,
    /// What each user has published and called.
    pub(super) done: Mutex<HashMap<String, u32>>,
}

pub(super) fn kind() -> Kind {
    Kind::new("procedure").expect("kind")
}

impl World {
    pub(super) fn new() -> Arc<Self> {
        let epoch = Mutex::new(Epoch::new("e1"));
        Arc::new(Self {
            log: Mutex::default(),
            epoch,
            bus_top: Mutex::new(0),
            bus_down: Mutex::new(false),
            subscribed: Mutex::default(),
            published: Mutex::default(),
            leaving: Semaphore::new(1),
            waiting_to_leave: AtomicUsize::new(0),
            left: AtomicUsize::new(0),
            hanging: AtomicBool::new(false),
            emptied: AtomicBool::new(false),
            done: Mutex::default(),
        })
    }

    pub(super) fn commit(&self, id: &str) {
        self.commit_sized(id, 0);
    }

    pub(super) fn commit_sized(&self, id: &str, size: usize) {
        let mut log = self.log.lock().unwrap();
        let revision = log.iter().filter(|c| c.id.as_str() == id).count() as u64 + 1;
        let doc = RawValue::from_string(format!("{{\"n\":{revision},\"pad\":\"{}\"}}", "x".repeat(size))).unwrap();
        let offset = log.len() as u64 + 1;
        log.push(Change {
            kind: kind(),
            id: EntityId::new(id).unwrap(),
            revision,
            offset,
            op: Op::Update,
            at: OffsetDateTime::now_utc(),
            by: "test".into(),
            changed: vec![],
            doc: Some(doc.into()),
            trace: None,
            fields: None,
        });
    }

    pub(super) fn position_at(&self, offset: u64) -> Position {
        Position { epoch: self.epoch.lock().unwrap().clone(), offset }
    }

    pub(super) fn slice(&self, after: u64, top: u64, limit: ReadLimit) -> Vec<Change> {
        let log = self.log.lock().unwrap();
        bounded(log.iter().filter(|c| c.offset > after && c.offset <= top).cloned(), limit)
    }
}

/// As many as the limit allows, and at least one, as the ports promise.
fn bounded(changes: impl Iterator<Item = Change>, limit: ReadLimit) -> Vec<Change> {
    let mut bytes = 0;
    let fits = |(n, change): &(usize, Change)| {
        bytes += change.publication().data.len();
        *n == 0 || bytes <= limit.bytes
    };
    changes.take(limit.count).enumerate().take_while(fits).map(|(_, change)| change).collect()
}

fn down() -> BusError {
    BusError { doing: "a test", source: Box::new(io::Error::other("down")) }
}

impl Bus for World {
    async fn append(&self, _: &StreamName, _: &Epoch, run: &[Publication]) -> Result<Appended, BusError> {
        let top = run.last().map_or(0, |p| p.offset);
        *self.bus_top.lock().unwrap() = top;
        Ok(Appended::Accepted { top })
    }
    async fn reset(&self, _: &StreamName, _: &Position) -> Result<(), BusError> {
        Ok(())
    }
    async fn publish(&self, stream: &StreamName, message: Message, _: &HistoryLimits) -> Result<Position, BusError> {
        let id = EntityId::new(stream.as_str()).unwrap();
        let mut published = self.published.lock().unwrap();
        let offset = published.len() as u64 + 1;
        published.push(message.publication(id, offset));
        Ok(self.position_at(offset))
    }
    async fn put(&self, stream: &StreamName, offer: Offer, _: &Conditions) -> Result<Published, BusError> {
        match offer {
            Offer::Kept(message, keep) => self.publish(stream, message, &keep).await.map(Published::At),
            Offer::Passing(_) => Ok(Published::Told),
        }
    }
    async fn pace_user(&self, user: &str, pace: UserPace) -> Option<Duration> {
        let mut done = self.done.lock().unwrap();
        let done = done.entry(user.to_owned()).or_default();
        *done += 1;
        (*done > pace.per_second).then_some(Duration::from_secs(1))
    }
    async fn forget(&self, _: &StreamName) -> Result<(), BusError> {
        Ok(())
    }
    async fn open(&self, _: &StreamName) -> Result<Position, BusError> {
        Ok(self.position_at(self.published.lock().unwrap().len() as u64))
    }
    async fn positions(&self, streams: &[StreamName]) -> Result<Vec<Option<Position>>, BusError> {
        let top = self.published.lock().unwrap().len() as u64;
        Ok(streams.iter().map(|_| Some(self.position_at(top))).collect())
    }
    async fn position(&self, _: &StreamName) -> Result<Option<Position>, BusError> {
        if *self.bus_down.lock().unwrap() {
            Err(down())
        } else {
            Ok(Some(self.position_at(*self.bus_top.lock().unwrap())))
        }
    }
    async fn read(&self, stream: &StreamName, after: u64, limit: ReadLimit) -> Result<Option<Slice>, BusError> {
        if *self.bus_down.lock().unwrap() {
            return Err(down());
        }
        if stream.kind().is_none() {
            if self.emptied.load(Ordering::SeqCst) {
                return Ok(None);
            }
            let published = self.published.lock().unwrap();
            let rest = published.iter().filter(|it| it.offset > after).take(limit.count).cloned();
            let position = self.position_at(published.len() as u64);
            return Ok(Some(Slice { position, publications: rest.collect(), complete: true }));
        }
        let top = *self.bus_top.lock().unwrap();
        let publications = self.slice(after, top, limit).iter().map(Change::publication).collect();
        Ok(Some(Slice { position: self.position_at(top), publications, complete: true }))
    }
    async fn subscribe(&self, stream: &StreamName) -> Result<(), BusError> {
        self.subscribed.lock().unwrap().insert(stream.clone());
        if *self.bus_down.lock().unwrap() { Err(down()) } else { Ok(()) }
    }
    async fn unsubscribe(&self, stream: &StreamName) -> Result<(), BusError> {
        self.waiting_to_leave.fetch_add(1, Ordering::SeqCst);
        drop(self.leaving.acquire().await);
        self.subscribed.lock().unwrap().remove(stream);
        self.left.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
    async fn whisper(&self, _: &StreamName, _: Bytes) -> Result<(), BusError> {
        Ok(())
    }
    async fn tell(&self, _: Option<&str>, _: Bytes) -> Result<bool, BusError> {
        Ok(true)
    }
    fn node(&self) -> &str {
        "node"
    }
    async fn nodes(&self) -> Result<Vec<Arc<str>>, BusError> {
        Ok(vec!["node".into()])
    }
}

impl ChangeLog for World {
    async fn positions(&self) -> Result<Vec<(Kind, Position)>, StoreError> {
        Ok(vec![])
    }
    async fn position(&self, of: &Kind) -> Result<Option<Position>, StoreError> {
        Ok((*of == kind()).then(|| self.position_at(self.log.lock().unwrap().len() as u64)))
    }
    async fn read(&self, of: &Kind, after: u64, limit: ReadLimit) -> Result<Option<LogSlice>, StoreError> {
        let position = self.position_at(self.log.lock().unwrap().len() as u64);
        let changes = self.slice(after, u64::MAX, limit);
        Ok((*of == kind()).then_some(LogSlice { position, changes, complete: true }))
    }
    async fn read_entity(
        &self,
        _: &Kind,
        key: &IdKey,
        after: u64,
        limit: ReadLimit,
    ) -> Result<Option<LogSlice>, StoreError> {
        if self.hanging.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        let mine: Vec<Change> =
            self.slice(0, u64::MAX, EVERYTHING).into_iter().filter(|c| c.id.as_str() == key.as_str()).collect();
        let position = self.position_at(mine.len() as u64);
        let changes = bounded(mine.into_iter().filter(|c| c.revision > after), limit);
        Ok(Some(LogSlice { position, changes, complete: true }))
    }
    async fn renew_epoch(&self, _: &Kind, _: &Epoch) -> Result<Option<Position>, StoreError> {
        Ok(None)
    }
}
