//! One Mirror connection: the server asks, then tells. It asks for the protocol, the cursor and the starting point, decides
//! between the oplog and a snapshot, and then follows the oplog until somebody ends it.
//!
//! Invariants: nothing is acknowledged by the client, so TCP is the only flow control; a tail that falls off the oplog ends the
//! connection instead of skipping; every answer is written into the books before it is used.

mod asking;
mod parting;
mod telling;

use super::frames::{Frame, INIT_POINT, PROTOCOL, Speller, TIMESTAMP};
use super::wire::{self, ClientFrame, Style, Writer};
use crate::config::{Knobs, Manner};
use crate::faults::{ActiveFault, Fault, Faults};
use crate::nginx::Slot;
use crate::shared::{Command, LinkDoor, Shared, lock};
use crate::stats::{LinkStats, Phase};
use crate::world::Collection;
use bytes::Bytes;
use rand::{SeedableRng, rngs::StdRng};
use std::collections::HashMap;
use std::io::Cursor;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};

/// Oplog entries read under one lock.
const BATCH: usize = 128;
/// Client messages waiting to be looked at.
const INBOX: usize = 32;

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
        let lost = |faults: &Faults| faults.find("history-lost", &self.collection).is_some_and(ActiveFault::strike);
        let lost = cursor.is_some() && lost(&self.faults.borrow());
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
        self.knobs = self.shared.knobs();
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
}
