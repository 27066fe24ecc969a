//! One Mirror connection: the server asks, then tells. It asks for the protocol, the cursor and the starting point, decides
//! between the oplog and a snapshot, and then follows the oplog until somebody ends it.
//!
//! Invariants: nothing is acknowledged by the client, so TCP is the only flow control; a tail that falls off the oplog ends the
//! connection instead of skipping; every answer is written into the books before it is used.

use super::frames::{self, Frame, IDS_SINCE, INIT_POINT, PROTOCOL, Speller, TIMESTAMP};
use super::wire::{self, ClientFrame, Style, Writer};
use crate::clock;
use crate::config::{Knobs, Manner, NullSpelling};
use crate::faults::{ActiveFault, Fault, Faults, StaleTs};
use crate::nginx::Slot;
use crate::shared::{Command, LinkDoor, Shared, lock};
use crate::stats::{LinkStats, Phase};
use crate::world::{Collection, Document, Entry, Op, Ts};
use bytes::Bytes;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng, rngs::StdRng};
use std::collections::HashMap;
use std::io::Cursor;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout};

/// Oplog entries read under one lock.
const BATCH: usize = 128;
/// Client messages waiting to be looked at.
const INBOX: usize = 32;
/// Ids taken from one answer.
const MAX_IDS: usize = 10_000;
/// How long a parting may take.
const PARTING: Duration = Duration::from_secs(1);
/// How long a silently dropped connection waits for the client's next byte.
const SILENT_LIMIT: Duration = Duration::from_secs(600);

/// Why and how a connection ends.
#[derive(Debug)]
struct End {
    manner: Option<Manner>,
    why: &'static str,
}

fn end<T>(manner: Manner, why: &'static str) -> Result<T, End> {
    Err(End { manner: Some(manner), why })
}

fn gone(why: &'static str) -> End {
    End { manner: None, why }
}

/// What woke the session.
enum Event {
    Answer(&'static str, String),
    Deadline,
    Other,
}

struct Session {
    id: u64,
    shared: Arc<Shared>,
    collection: String,
    writer: Writer,
    inbox: mpsc::Receiver<Result<ClientFrame, &'static str>>,
    commands: mpsc::Receiver<Command>,
    faults: watch::Receiver<Arc<Faults>>,
    top: watch::Receiver<u64>,
    rng: StdRng,
    knobs: Arc<Knobs>,
    active: Instant,
    ping_at: Instant,
    operations: u64,
    full: bool,
    awaited: HashMap<&'static str, u32>,
}

/// Serves one upgraded socket until it ends.
pub(crate) async fn run(shared: Arc<Shared>, collection: String, socket: TcpStream, early: Bytes, slot: Option<Slot>) {
    let _ = socket.set_nodelay(true);
    let id = shared.next_link.fetch_add(1, Ordering::Relaxed);
    let Ok(top) = shared.shelf(&collection).map(|shelf| shelf.top.subscribe()) else { return };
    let (commands_in, commands) = mpsc::channel(64);
    let (kill, mut killed) = watch::channel(None);
    lock(&shared.links).insert(id, LinkDoor { collection: collection.clone(), commands: commands_in, kill });
    let nth = shared.book.collection(&collection, |c| {
        c.connections += 1;
        c.connections
    });
    shared.book.change(|stats| {
        stats.links.push(LinkStats {
            id,
            collection: collection.clone(),
            phase: Phase::Asking,
            protocol: None,
            started_from: None,
            sent: None,
            sequence: 0,
            operations: 0,
        });
    });
    let knobs = shared.knobs();
    let (read, write) = socket.into_split();
    let (inbox_in, inbox) = mpsc::channel(INBOX);
    let limit = knobs.mirror.max_client_message;
    let reader = tokio::spawn(async move {
        let mut from = Cursor::new(early).chain(read);
        let mut partial = None;
        loop {
            let message = wire::read_message(&mut from, &mut partial, limit).await.map_err(|error| match error {
                wire::ReadError::Io(_) => "the client left",
                wire::ReadError::Protocol(_) => "the client broke the protocol",
                wire::ReadError::TooBig(_) => "the client's message is too big",
            });
            let over = message.is_err();
            if inbox_in.send(message).await.is_err() || over {
                break;
            }
        }
    });
    let now = Instant::now();
    let mut session = Session {
        id,
        collection: collection.clone(),
        writer: Writer::new(write),
        inbox,
        commands,
        faults: shared.faults.subscribe(),
        top,
        rng: StdRng::seed_from_u64(knobs.mirror.seed.wrapping_add(nth)),
        knobs,
        active: now,
        ping_at: now,
        operations: 0,
        full: false,
        awaited: HashMap::new(),
        shared: shared.clone(),
    };
    let ended = tokio::select! {
        biased;
        ended = async { killed.wait_for(Option::is_some).await.ok().and_then(|manner| *manner) } => End { manner: ended, why: "it was told to" },
        ended = session.live() => ended,
    };
    tracing::debug!(link = id, collection, why = ended.why, manner = ?ended.manner, "a mirror connection ends");
    session.part(ended.manner, reader, &mut killed).await;
    drop(slot);
    lock(&shared.links).remove(&id);
    shared.book.change(|stats| stats.links.retain(|link| link.id != id));
    shared.book.collection(&collection, |c| *c.ends.entry(ended.why.to_owned()).or_default() += 1);
}

impl Session {
    async fn live(&mut self) -> End {
        match self.serve().await {
            Ok(()) => gone("the sandbox stops"),
            Err(ended) => ended,
        }
    }

    async fn serve(&mut self) -> Result<(), End> {
        let answers = self.ask_all().await?;
        self.full = answers.get(PROTOCOL).is_some_and(|data| data == "\"full\"");
        let cursor = self.cursor(answers.get(TIMESTAMP))?;
        let point = self.point(answers.get(INIT_POINT))?;
        let protocol = if self.full { "full" } else { "simple" };
        self.note(|link| {
            link.protocol = Some(protocol.to_owned());
            link.started_from = cursor;
        });
        while self.faults.borrow_and_update().find("stuck", &self.collection).is_some() {
            self.event(None).await?;
        }
        let lost = self.faults.borrow().find("history-lost", &self.collection).is_some_and(ActiveFault::strike);
        let start = match cursor.filter(|_| !lost) {
            Some(ts) => self.shelf_read(|c| c.oplog.find(ts))?,
            None => None,
        };
        let next = match (start, cursor) {
            (Some(next), Some(ts)) => {
                if self.full && self.knobs.mirror.ids_since {
                    self.repair(ts).await?;
                }
                next
            }
            _ => self.snapshot(point).await?,
        };
        self.tail(next).await
    }

    /// Asks for everything in the order that chance gives; the last answer to each counts.
    async fn ask_all(&mut self) -> Result<HashMap<&'static str, String>, End> {
        let knobs = self.knobs.clone();
        let mut script = Vec::new();
        for kind in [PROTOCOL, TIMESTAMP, INIT_POINT] {
            let times = self.rng.random_range(1..=knobs.mirror.repeat_requests.clamp(1, 100));
            script.extend((0..times).map(|_| kind));
        }
        if knobs.mirror.shuffle_requests {
            script.shuffle(&mut self.rng);
        }
        let mut answers = HashMap::new();
        if knobs.mirror.pipeline_requests {
            for kind in &script {
                self.ask(kind, None).await?;
            }
            self.answers(&mut answers).await?;
        } else {
            for kind in script {
                self.ask(kind, None).await?;
                self.answers(&mut answers).await?;
            }
        }
        Ok(answers)
    }

    async fn ask(&mut self, kind: &'static str, ts: Option<Ts>) -> Result<(), End> {
        *self.awaited.entry(kind).or_default() += 1;
        self.shared.book.collection(&self.collection, |c| c.answers.entry(kind).or_default().asked += 1);
        let frame = Speller(&self.knobs.mirror).request(kind, ts);
        self.send(&frame).await
    }

    /// Waits until every request that was sent is answered.
    async fn answers(&mut self, into: &mut HashMap<&'static str, String>) -> Result<(), End> {
        let until = Instant::now() + Duration::from_millis(self.knobs.mirror.answer_timeout_ms);
        while self.awaited.values().any(|count| *count > 0) {
            match self.event(Some(until)).await? {
                Event::Answer(kind, data) => {
                    into.insert(kind, data);
                }
                Event::Deadline => return end(Manner::Close(1008), "no answer in time"),
                Event::Other => {}
            }
        }
        Ok(())
    }

    fn cursor(&self, data: Option<&String>) -> Result<Option<Ts>, End> {
        match self.present(data)? {
            None => Ok(None),
            Some(data) => match serde_json::from_str::<Ts>(data) {
                Ok(ts) => Ok(Some(ts)),
                Err(_) => end(Manner::Close(1008), "the cursor is not a pair of numbers"),
            },
        }
    }

    fn point(&self, data: Option<&String>) -> Result<Option<i64>, End> {
        let Some(data) = self.present(data)? else { return Ok(None) };
        match serde_json::from_str::<String>(data).ok().and_then(|text| clock::parse(&text)) {
            Some((micros, _)) => Ok(Some(micros)),
            None => end(Manner::Close(1008), "the init point is not a time"),
        }
    }

    fn present<'a>(&self, data: Option<&'a String>) -> Result<Option<&'a str>, End> {
        let Some(data) = data else { return Ok(None) };
        let spelled = match data.as_str() {
            "null" => NullSpelling::Null,
            "\"\"" => NullSpelling::Empty,
            other => return Ok(Some(other)),
        };
        if self.knobs.mirror.strict_null && spelled != self.knobs.mirror.null {
            return end(Manner::Close(1008), "null is spelled otherwise here");
        }
        Ok(None)
    }

    /// Repairs a full client: it names what it changed since a little before its cursor, and is told how those stand.
    async fn repair(&mut self, cursor: Ts) -> Result<(), End> {
        let since = Ts { seconds: cursor.seconds.saturating_sub(60), increment: 0 };
        self.ask(IDS_SINCE, Some(since)).await?;
        let mut answers = HashMap::new();
        self.answers(&mut answers).await?;
        let ids: Vec<String> =
            answers.get(IDS_SINCE).and_then(|data| serde_json::from_str(data).ok()).unwrap_or_default();
        for id in ids.into_iter().take(MAX_IDS) {
            let doc = self.shelf_read(|c| c.get(&id))?;
            let speller = Speller(&self.knobs.mirror);
            let frame = doc.map_or_else(|| speller.delete(&id, None), |doc| speller.upsert(doc, None));
            self.operation(frame, None).await?;
        }
        Ok(())
    }

    /// Sends every document from the point on, without positions; gives the sequence number at which the tail goes on.
    async fn snapshot(&mut self, point: Option<i64>) -> Result<u64, End> {
        self.note(|link| link.phase = Phase::Snapshot);
        self.shared.book.collection(&self.collection, |c| c.snapshots += 1);
        let (mut docs, next, top) = self.shelf_read(|c| (c.since(point), c.oplog.end(), c.oplog.top()))?;
        if !self.knobs.mirror.snapshot_ordered {
            docs.shuffle(&mut self.rng);
        }
        for doc in docs {
            let frame = Speller(&self.knobs.mirror).upsert(doc, None);
            self.operation(frame, None).await?;
        }
        if self.knobs.mirror.snapshot_end_noop {
            let frame = Speller(&self.knobs.mirror).noop(top);
            self.operation(frame, None).await?;
        }
        self.flush().await?;
        self.shared.book.collection(&self.collection, |c| c.snapshots_done += 1);
        Ok(next)
    }

    async fn tail(&mut self, mut next: u64) -> Result<(), End> {
        self.note(|link| {
            link.phase = Phase::Tail;
            link.sequence = next;
        });
        let mut reask = 0;
        loop {
            self.top.borrow_and_update();
            let Some(entries) = self.shelf_read(|c| c.oplog.read(next, BATCH))? else {
                return end(Manner::Close(1011), "the tail fell off the oplog");
            };
            let idle = entries.is_empty();
            for entry in entries {
                self.entry(entry).await?;
                next += 1;
                reask += 1;
                if self.knobs.mirror.reask_every > 0 && reask >= self.knobs.mirror.reask_every {
                    reask = 0;
                    self.ask(TIMESTAMP, None).await?;
                }
            }
            self.flush().await?;
            self.note(|link| link.sequence = next);
            if idle {
                self.event(None).await?;
            } else {
                self.look_up().await?;
            }
        }
    }

    async fn entry(&mut self, entry: Entry) -> Result<(), End> {
        let speller = Speller(&self.knobs.mirror);
        let ts = entry.ts;
        match entry.op {
            Op::Write { doc, prev, set: Some(set) } if self.full => {
                let frame = speller.update(&doc.id, &set, ts);
                self.operation(frame, prev).await
            }
            Op::Write { doc, prev, .. } => {
                let frame = speller.upsert(doc, Some(ts));
                self.operation(frame, prev).await
            }
            Op::Delete { id } if self.full => {
                let frame = speller.delete(&id, Some(ts));
                self.operation(frame, None).await
            }
            Op::Delete { .. } => Ok(()),
            Op::Noop => {
                let frame = speller.noop(ts);
                self.operation(frame, None).await
            }
        }
    }

    /// Sends one operation with whatever faults strike around it.
    async fn operation(&mut self, frame: Frame, prev: Option<Arc<Document>>) -> Result<(), End> {
        let faults = self.faults.borrow().clone();
        let ts = frame.ts;
        if faults.0.is_empty() {
            self.send(&frame).await?;
        } else {
            self.before(&faults, ts).await?;
            self.send(&frame).await?;
            self.after(&faults, frame, prev).await?;
        }
        self.operations += 1;
        let operations = self.operations;
        self.note(|link| {
            link.operations = operations;
            link.sent = ts.max(link.sent);
        });
        if operations.is_multiple_of(BATCH as u64) {
            self.look_up().await?;
        }
        Ok(())
    }

    async fn before(&mut self, faults: &Faults, ts: Option<Ts>) -> Result<(), End> {
        let find = |name| faults.find(name, &self.collection);
        let due = |every: u32| self.operations.is_multiple_of(u64::from(every.max(1)));
        let mut extra = Vec::new();
        if let Some(active) = find("malformed")
            && let Fault::Malformed { every } = active.fault
            && due(every)
            && active.strike()
        {
            extra.push(frames::malformed(self.operations));
        }
        if let Some(active) = find("unknown-type")
            && let Fault::UnknownType { every } = active.fault
            && due(every)
            && active.strike()
        {
            extra.push(Speller(&self.knobs.mirror).unknown(ts.unwrap_or(Ts { seconds: 1, increment: 1 })));
        }
        if let Some(active) = find("cut")
            && let Fault::Cut { after, manner } = active.fault
            && self.operations >= u64::from(after)
            && active.strike()
        {
            return end(manner, "a cut");
        }
        let silence = find("silence").is_some_and(|active| {
            matches!(active.fault, Fault::Silence { after } if self.operations >= u64::from(after)) && active.strike()
        });
        for frame in extra {
            self.send(&frame).await?;
        }
        if silence { self.silence().await } else { Ok(()) }
    }

    async fn after(&mut self, faults: &Faults, frame: Frame, prev: Option<Arc<Document>>) -> Result<(), End> {
        let (ts, chance) = (frame.ts, self.rng.random_range(0..100u8));
        if let Some(active) = faults.find("duplicates", &self.collection)
            && let Fault::Duplicates { percent } = active.fault
            && chance < percent
            && active.strike()
        {
            self.send(&frame.counted("duplicate")).await?;
        }
        if let Some((active, prev)) = faults.find("stale", &self.collection).zip(prev)
            && let Fault::Stale { percent, ts: which } = active.fault
            && chance < percent
            && active.strike()
        {
            let ts = match which {
                StaleTs::Old => prev.ts,
                StaleTs::Same => ts,
                StaleTs::Null => None,
            };
            let frame = Speller(&self.knobs.mirror).upsert(prev, ts).counted("stale");
            self.send(&frame).await?;
        }
        Ok(())
    }

    /// Half-open: no byte in either direction until the fault is taken away.
    async fn silence(&mut self) -> Result<(), End> {
        self.flush().await?;
        let mut was = Phase::Tail;
        self.note(|link| was = std::mem::replace(&mut link.phase, Phase::Silent));
        let collection = self.collection.clone();
        let over = self.faults.wait_for(|faults| faults.find("silence", &collection).is_none()).await.is_ok();
        self.note(|link| link.phase = was);
        self.active = Instant::now();
        if over { Ok(()) } else { Err(gone("the sandbox stops")) }
    }

    async fn send(&mut self, frame: &Frame) -> Result<(), End> {
        let style = self.style();
        self.writer.message(frame.len(), frame.pieces(), style).await.map_err(|_| gone("the client left"))?;
        self.active = Instant::now();
        let (kind, bytes) = (frame.kind, frame.len() as u64);
        self.shared.book.collection(&self.collection, |c| {
            *c.frames.entry(kind).or_default() += 1;
            c.bytes += bytes;
        });
        Ok(())
    }

    fn style(&self) -> Style {
        let faults = self.faults.borrow();
        if faults.0.is_empty() {
            return Style::default();
        }
        let find = |name| faults.find(name, &self.collection).map(|active| &active.fault);
        Style {
            fragment: find("fragments")
                .and_then(|f| if let Fault::Fragments { bytes } = f { Some(*bytes) } else { None }),
            pace: find("slow")
                .and_then(|f| if let Fault::Slow { bytes_per_s } = f { Some(*bytes_per_s) } else { None }),
            binary: find("binary").is_some(),
        }
    }

    async fn flush(&mut self) -> Result<(), End> {
        self.writer.flush().await.map_err(|_| gone("the client left"))
    }

    /// Deals with what the client and the control have said meanwhile, without waiting.
    async fn look_up(&mut self) -> Result<(), End> {
        while let Ok(message) = self.inbox.try_recv() {
            self.heard(message).await?;
        }
        while let Ok(command) = self.commands.try_recv() {
            self.obey(command).await?;
        }
        Ok(())
    }

    /// Waits for the next thing to happen.
    async fn event(&mut self, until: Option<Instant>) -> Result<Event, End> {
        self.flush().await?;
        self.knobs = self.shared.knobs();
        let mirror = &self.knobs.mirror;
        let far = Duration::from_secs(86_400);
        let after = |from: Instant, ms: u64| from + if ms == 0 { far } else { Duration::from_millis(ms) };
        let idle = after(self.active, mirror.idle_close_ms);
        let (manner, ping_ms) = (mirror.idle_manner, mirror.ping_ms);
        let mut changed = self.shared.knobs.subscribe();
        tokio::select! {
            message = self.inbox.recv() => match message {
                Some(message) => self.heard(message).await,
                None => Err(gone("the client left")),
            },
            Some(command) = self.commands.recv() => self.obey(command).await.map(|()| Event::Other),
            _ = self.top.changed() => Ok(Event::Other),
            _ = self.faults.changed() => Ok(Event::Other),
            _ = changed.changed() => Ok(Event::Other),
            () = sleep_until(idle) => end(manner, "idle for too long"),
            () = sleep_until(after(self.ping_at, ping_ms)) => {
                self.ping_at = Instant::now();
                self.writer.control(wire::PING, b"sandbox").await.map_err(|_| gone("the client left"))?;
                Ok(Event::Other)
            }
            () = sleep_until(until.unwrap_or_else(|| Instant::now() + far)) => Ok(Event::Deadline),
        }
    }

    async fn obey(&mut self, command: Command) -> Result<(), End> {
        match command {
            Command::Inject(frame) => {
                self.send(&frame).await?;
                self.flush().await
            }
            Command::Close(code) => end(Manner::Close(code), "it was told to"),
        }
    }

    async fn heard(&mut self, message: Result<ClientFrame, &'static str>) -> Result<Event, End> {
        self.active = Instant::now();
        let frame = match message {
            Ok(frame) => frame,
            Err(why @ "the client left") => return Err(gone(why)),
            Err(why @ "the client's message is too big") => return end(Manner::Close(1009), why),
            Err(why) => return end(Manner::Close(1002), why),
        };
        match frame.opcode {
            wire::PING => {
                self.shared.book.collection(&self.collection, |c| c.pings += 1);
                self.writer.control(wire::PONG, &frame.payload).await.map_err(|_| gone("the client left"))?;
                Ok(Event::Other)
            }
            wire::PONG => Ok(Event::Other),
            wire::CLOSE => {
                let _ = self.writer.control(wire::CLOSE, &frame.payload).await;
                Err(gone("the client closed"))
            }
            _ => Ok(self.said(&String::from_utf8_lossy(&frame.payload))),
        }
    }

    /// Writes down what the client said, and gives it on if it is an answer that was awaited.
    fn said(&mut self, text: &str) -> Event {
        let answer = Speller(&self.knobs.mirror).answer(text);
        let Some((kind, data)) = answer.filter(|(kind, _)| self.awaited.get(kind).is_some_and(|count| *count > 0))
        else {
            self.shared.book.collection(&self.collection, |c| c.unexpected += 1);
            return Event::Other;
        };
        if let Some(count) = self.awaited.get_mut(kind) {
            *count -= 1;
        }
        let short = data.chars().take(4096).collect::<String>();
        self.shared.book.collection(&self.collection, |c| {
            let answers = c.answers.entry(kind).or_default();
            answers.answered += 1;
            answers.last = Some(short);
            if kind == TIMESTAMP {
                c.last_cursor = serde_json::from_str(data).ok();
            }
        });
        Event::Answer(kind, data.to_owned())
    }

    fn note(&self, f: impl FnOnce(&mut LinkStats)) {
        self.shared.book.change(|stats| {
            if let Some(link) = stats.links.iter_mut().find(|link| link.id == self.id) {
                f(link);
            }
        });
    }

    fn shelf_read<T>(&self, f: impl FnOnce(&Collection) -> T) -> Result<T, End> {
        self.shared.shelf(&self.collection).map(|shelf| shelf.read(f)).map_err(|_| gone("the collection is gone"))
    }

    /// Ends the connection in the given manner; none where the other side ended it.
    async fn part(
        mut self,
        manner: Option<Manner>,
        reader: JoinHandle<()>,
        killed: &mut watch::Receiver<Option<Manner>>,
    ) {
        match manner {
            Some(Manner::Rst) => return self.reset(reader).await,
            Some(Manner::Silent) => {
                while self.inbox.try_recv().is_ok() {}
                self.note(|link| link.phase = Phase::Silent);
                killed.mark_unchanged();
                tokio::select! {
                    _ = timeout(SILENT_LIMIT, self.inbox.recv()) => {}
                    _ = killed.changed() => {}
                }
                return self.reset(reader).await;
            }
            Some(Manner::Close(code)) => {
                let farewell = [&code.to_be_bytes()[..], b"sandbox"].concat();
                let _ = timeout(PARTING, self.writer.control(wire::CLOSE, &farewell)).await;
            }
            Some(Manner::MidFrame) => {
                let _ = timeout(PARTING, self.writer.half_a_message()).await;
            }
            Some(Manner::Fin) => {}
            None => {
                reader.abort();
                return;
            }
        }
        if matches!(manner, Some(Manner::Close(_))) {
            // The client answers a Close with its own; only then does the stream end.
            let answered =
                async { while matches!(self.inbox.recv().await, Some(Ok(frame)) if frame.opcode != wire::CLOSE) {} };
            let _ = timeout(PARTING, answered).await;
        }
        let _ = timeout(PARTING, self.writer.shutdown()).await;
        let drained = async { while matches!(self.inbox.recv().await, Some(Ok(_))) {} };
        let _ = timeout(PARTING, drained).await;
        reader.abort();
    }

    async fn reset(self, reader: JoinHandle<()>) {
        reader.abort();
        let _ = reader.await;
        self.writer.reset();
    }
}
