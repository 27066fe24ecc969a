//! One connection's conversation: questions are answered, frames are gathered and stored.
//!
//! Invariants: a pure responder, in any order, any number of times; every answer comes from what is committed; batches are
//! stored in the order of their frames, one at a time, the next is gathered meanwhile. What is lost and what is owed is
//! written in the same transaction as the frames that showed it.

mod answers;
mod moment;

use std::{
    future::{pending, ready},
    pin::Pin,
    sync::Arc,
};

use dzvin_protocols::{
    entities::Derived,
    mirror::{Ack, Asked, Cursor, Frame, FrameFault, FrameKind, MirrorOp, Protocol, Sought, UnknownType},
};
use serde_json::value::RawValue;
use time::OffsetDateTime;
use tokio::{
    sync::{OwnedSemaphorePermit, watch},
    time::{Instant, sleep_until},
};

pub(super) use moment::moment;

use super::{
    apply::{Applier, LeaseLost},
    context::Context,
    gather::{Gather, Slot},
    metrics::FrameCounts,
    reconcile::Wants,
    socket::{Connection, Ending, Inbound},
    status::LinkState,
};
use crate::platform::ports::{Applied, CdbApi, Leases, MirrorRecord, MirrorStore};
use dzvin_protocols::platform::time::rfc3339_millis;

/// Frames that are taken at once before anything else is looked at.
const RUN: usize = 32;

/// A document above this is left to the store, which has threads for what takes more than a millisecond; after as much of
/// small ones other tasks have their turn.
const DERIVE_BYTES: usize = 256 * 1024;

/// Why a session ended.
#[derive(Debug)]
pub(super) enum End {
    /// The connection is gone.
    Connection(Ending),
    /// The lease is gone.
    LeaseLost,
    /// The message limit was raised above the connection's ceiling.
    LimitRaised,
    /// We were told to stop.
    Stopped,
}

/// What a stored batch tells the session.
struct Stored {
    result: Result<Applied, LeaseLost>,
    cursor: Option<Box<RawValue>>,
    snapshot_complete: Option<bool>,
    gap: Option<bool>,
    newest: Option<String>,
    acks: Vec<Box<RawValue>>,
    over_limit: u64,
    _permit: Option<OwnedSemaphorePermit>,
}

type InFlight<'a> = Pin<Box<dyn Future<Output = Stored> + Send + 'a>>;

pub(super) struct Session<'a, S, L, C> {
    pub(super) context: &'a Context<S, L, C>,
    pub(super) applier: &'a Applier,
    pub(super) wants: &'a Wants,
    /// What is committed; outlives the session.
    pub(super) committed: &'a mut MirrorRecord,
    gather: Gather,
    counts: FrameCounts,
    /// A cursor was answered, and no frame with a cursor has come since.
    resuming: bool,
    /// The session was not sure of a whole snapshot when it began.
    began_in_snapshot: bool,
    /// Rows of an earlier snapshot are here that was never whole: what was deleted since is in no snapshot and in no tail.
    /// True until that is written down.
    rows_of_a_broken_one: bool,
    /// What the gap mark will be once everything gathered is stored.
    gap: bool,
    /// What `snapshot_complete` will be once everything gathered is stored.
    complete: bool,
    settle_at: Option<Instant>,
    /// Bytes of documents since other tasks had their turn.
    derived_bytes: usize,
    /// When a frame came, until the status was told: once a batch, not once a frame.
    last_frame: Option<OffsetDateTime>,
}

impl<'a, S: MirrorStore, L: Leases, C: CdbApi> Session<'a, S, L, C> {
    pub(super) fn new(
        context: &'a Context<S, L, C>,
        applier: &'a Applier,
        wants: &'a Wants,
        committed: &'a mut MirrorRecord,
    ) -> Self {
        let (complete, gap) = (committed.snapshot_complete, committed.gap);
        let full = context.config.dialect.protocol == Protocol::Full;
        let rows_of_a_broken_one = full && !complete && committed.newest_version.is_some();
        Self {
            context,
            applier,
            wants,
            committed,
            gather: Gather::default(),
            counts: FrameCounts::default(),
            resuming: false,
            began_in_snapshot: !complete,
            rows_of_a_broken_one,
            gap,
            complete,
            settle_at: None,
            derived_bytes: 0,
            last_frame: None,
        }
    }

    /// Runs until the connection or the lease is gone. What was gathered is stored before it ends.
    pub(super) async fn run(
        mut self,
        mut connection: Connection,
        mut stop: watch::Receiver<bool>,
    ) -> (End, Connection) {
        self.open(&connection).await;
        let mut limit = self.context.handle.0.limit.subscribe();
        let mut inflight: Option<InFlight<'_>> = None;
        let limits = self.context.config.limits;
        let end = loop {
            tokio::select! {
                biased;
                stored = wait(&mut inflight) => {
                    inflight = None;
                    if let Err(LeaseLost) = self.stored(stored, &connection).await {
                        break End::LeaseLost;
                    }
                }
                // A lone frame waits for nobody: company comes while the batch before is being stored.
                () = ready(()), if inflight.is_none() && self.gather.frames > 0 => inflight = self.begin_storing(),
                () = told_to(&mut stop) => break End::Stopped,
                _ = limit.changed() => {
                    if *limit.borrow() > connection.ceiling {
                        break End::LimitRaised;
                    }
                }
                inbound = connection.inbound.recv(), if self.gather.has_room(&limits) => match inbound {
                    Some(Inbound::Ended(ending)) => break End::Connection(ending),
                    None => break End::Connection(Ending::Lost("the reading task died".into())),
                    Some(inbound) => {
                        if let Some(ending) = self.take_run(inbound, &mut connection).await {
                            break End::Connection(ending);
                        }
                    }
                },
                () = at(self.settle_at) => {
                    self.settle_at = None;
                    self.state(LinkState::Live);
                }
            }
        };
        // The upstream will not send again what it has sent; what came is stored before another connection asks for more.
        if !matches!(end, End::LeaseLost) {
            while inflight.is_some() || self.gather.worth_storing() {
                inflight = inflight.or_else(|| self.begin_storing());
                let stored = wait(&mut inflight).await;
                inflight = None;
                if self.stored(stored, &connection).await.is_err() {
                    return (End::LeaseLost, connection);
                }
            }
        }
        (end, connection)
    }

    /// Takes what came and what is already behind it, as far as there is room: a select for every frame would cost more than
    /// the frame.
    async fn take_run(&mut self, first: Inbound, connection: &mut Connection) -> Option<Ending> {
        let mut next = Some(first);
        for _ in 0..RUN {
            match next {
                None => break,
                Some(Inbound::Ended(ending)) => return Some(ending),
                Some(inbound) => {
                    if let Some(ending) = self.take(inbound, connection).await {
                        return Some(ending);
                    }
                }
            }
            let room = self.gather.has_room(&self.context.config.limits);
            next = if room { connection.inbound.try_recv().ok() } else { None };
        }
        match next {
            Some(Inbound::Ended(ending)) => Some(ending),
            Some(inbound) => self.take(inbound, connection).await,
            None => None,
        }
    }

    async fn take(&mut self, inbound: Inbound, connection: &Connection) -> Option<Ending> {
        self.last_frame = Some(OffsetDateTime::now_utc());
        match inbound {
            Inbound::Text(text, permit) => {
                let dialect = Arc::clone(&self.context.config.dialect);
                match dialect.decode(&text) {
                    Ok(frame) => return self.frame(&frame, text.as_bytes(), permit, connection).await,
                    Err(fault) => {
                        self.gather.count(text.len(), Some(permit));
                        self.aside(fault, text.as_bytes());
                    }
                }
            }
            Inbound::Binary(bytes) => {
                self.gather.count(bytes.len(), None);
                let fault = FrameFault { reason: "malformed", detail: "bytes that are no text".into(), id: None };
                self.aside(fault, &bytes);
            }
            Inbound::OverLimit { sought, cursor, bytes, head } => self.over_limit(sought, cursor, bytes, &head),
            Inbound::Ended(_) => {}
        }
        None
    }

    async fn frame(
        &mut self,
        frame: &Frame<'_>,
        text: &[u8],
        permit: OwnedSemaphorePermit,
        connection: &Connection,
    ) -> Option<Ending> {
        self.counts.add(frame.kind);
        match frame.kind {
            Some(
                FrameKind::ProtocolRequest
                | FrameKind::TimestampRequest
                | FrameKind::InitPointRequest
                | FrameKind::IdsSinceRequest
                | FrameKind::Ping,
            ) => return self.question(frame, connection).await,
            Some(FrameKind::HistoryLost) => self.history_lost("the upstream said so"),
            _ => {}
        }
        self.gather.count(text.len(), Some(permit));
        match self.context.config.dialect.asked(frame) {
            Ok(Asked::Op(op)) => {
                let op = self.derived(op);
                self.gather.op(op);
                if self.derived_bytes > DERIVE_BYTES {
                    self.derived_bytes = 0;
                    tokio::task::yield_now().await;
                }
            }
            Ok(Asked::Fetch(sought)) => self.gather.slots.push(Slot::Fetch(sought)),
            Ok(Asked::Nothing) => {}
            Err(fault) => {
                let counted = frame.kind.is_none() && self.context.config.dialect.unknown_type == UnknownType::Count;
                if !counted {
                    self.aside(fault, text);
                }
            }
        }
        match frame.cursor {
            Cursor::At(cursor) => self.cursor_came(cursor.to_owned()),
            Cursor::None if frame.kind == Some(FrameKind::Upsert) => self.snapshot_row(),
            Cursor::None => {}
            Cursor::Unreadable(raw) => {
                let detail: String = raw.get().chars().take(80).collect();
                self.aside(FrameFault { reason: "bad_cursor", detail, id: None }, text);
            }
        }
        None
    }

    /// The operation with what storage keeps beside its document, made while the batch before is being stored.
    fn derived(&mut self, mut op: MirrorOp) -> MirrorOp {
        if let MirrorOp::Upsert(it) = &mut op
            && it.doc.get().len() <= DERIVE_BYTES
        {
            let config = &self.context.config;
            self.derived_bytes += it.doc.get().len();
            it.derived = Some(Derived::of(&it.doc, &config.fields, &config.dialect.paths.versions));
        }
        op
    }

    fn over_limit(&mut self, sought: Option<Sought>, cursor: Option<Box<RawValue>>, bytes: usize, head: &[u8]) {
        self.context.metrics.over_limit.inc();
        self.gather.count(head.len(), None);
        self.gather.over_limit += 1;
        let id = sought.as_ref().map(|sought| sought.id.clone());
        let detail = format!("a message of {bytes} bytes; its object is fetched over HTTP");
        tracing::warn!(mirror = %self.context.metrics.mirror, bytes, id = id.as_ref().map(tracing::field::display), "a message is above the limit");
        self.aside(FrameFault { reason: "over_limit", detail: detail.clone(), id }, head);
        self.context.update(|status| status.over_limit_pending += 1);
        match cursor {
            Some(cursor) => self.cursor_came(cursor),
            None => self.snapshot_row(),
        }
        match sought {
            Some(sought) => self.gather.slots.push(Slot::Fetch(sought)),
            // Nobody knows what it was: only a comparison of everything can tell.
            None if self.context.cdb.is_some() => self.gap_came(),
            None => {}
        }
        self.context.handle.0.board.stream(&self.context.metrics, LinkState::OverLimit, Some(detail));
    }

    fn cursor_came(&mut self, cursor: Box<RawValue>) {
        self.snapshot_again();
        if matches!(self.context.config.dialect.ack, Ack::Each { .. }) {
            self.gather.acks.push(cursor.clone());
        }
        self.gather.cursor = Some(cursor);
        self.resuming = false;
        if !self.complete {
            self.complete = true;
            self.gather.snapshot_complete = Some(true);
            if self.context.cdb.is_none() && std::mem::take(&mut self.gap) {
                // Without HTTP a whole snapshot is the only reconcile there is, and it has just ended.
                self.gather.gap = Some(false);
            }
        }
        self.flowing(LinkState::Live);
    }

    /// A row without a cursor. After a cursor was answered it means that the upstream could not resume there.
    fn snapshot_row(&mut self) {
        self.snapshot_again();
        if self.resuming {
            self.history_lost("a snapshot began although a cursor was answered");
        } else if self.complete && self.began_in_snapshot {
            // The snapshot goes on after a heartbeat: it is not whole yet.
            self.complete = false;
            self.gather.snapshot_complete = Some(false);
        }
        if !self.complete {
            self.flowing(LinkState::Snapshot);
        }
    }

    /// The full protocol alone announces deletes, and relies on them: only a comparison finds those of the time between.
    fn snapshot_again(&mut self) {
        if std::mem::take(&mut self.rows_of_a_broken_one) {
            tracing::warn!(mirror = %self.context.metrics.mirror, "a snapshot begins over the rows of one that was not whole");
            self.gap_came();
        }
    }

    fn history_lost(&mut self, why: &str) {
        if !self.complete {
            return;
        }
        tracing::error!(mirror = %self.context.metrics.mirror, why, "the upstream's history is lost");
        self.context.metrics.gaps.inc();
        self.resuming = false;
        self.complete = false;
        self.began_in_snapshot = true;
        self.gather.snapshot_complete = Some(false);
        self.gap_came();
        self.context.update(|status| status.last_error = Some(format!("history lost: {why}")));
    }

    /// A full reconcile is owed from here on; the reconciler hears of it before it is stored, so that the end of an earlier
    /// pass does not take the new mark away.
    fn gap_came(&mut self) {
        self.gap = true;
        self.gather.gap = Some(true);
        self.wants.gap_comes();
    }

    fn aside(&mut self, fault: FrameFault, raw: &[u8]) {
        self.context.metrics.quarantined(fault.reason);
        self.context.update(|status| status.quarantined += 1);
        self.gather.aside(fault, raw);
    }

    fn state(&self, state: LinkState) {
        self.context.handle.0.board.stream(&self.context.metrics, state, None);
    }

    /// Shows that frames flow, unless something more important is shown.
    fn flowing(&mut self, state: LinkState) {
        self.settle_at = None;
        let now = self.context.handle.0.board.of_stream();
        if now != state && now != LinkState::OverLimit {
            self.state(state);
        }
    }

    fn begin_storing(&mut self) -> Option<InFlight<'a>> {
        self.counts.flush(&self.context.metrics);
        if let Some(at) = self.last_frame.take() {
            self.context.update(|status| status.last_frame_at = Some(rfc3339_millis(at)));
        }
        let used = self.context.config.limits.budget_bytes.saturating_sub(self.context.budget.available_permits());
        self.context.metrics.budget.set(i64::try_from(used).unwrap_or(i64::MAX));
        let mut gather = std::mem::take(&mut self.gather);
        if !gather.worth_storing() {
            return None;
        }
        let (context, applier, wants) = (self.context, self.applier, self.wants);
        Some(Box::pin(async move {
            let slots = std::mem::take(&mut gather.slots);
            let (ops, owed) = context.resolve(slots, &mut gather.quarantined).await;
            if owed {
                gather.gap = Some(true);
                wants.gap_comes();
            }
            let stored = (gather.newest.take(), std::mem::take(&mut gather.acks), gather.over_limit);
            let (batch, permit) = gather.into_batch(ops, &context.by, context.handle.next_trace());
            let (cursor, complete, gap) = (batch.cursor.clone(), batch.snapshot_complete, batch.gap);
            let result = applier.submit(batch).await;
            let (newest, acks, over_limit) = stored;
            Stored { result, cursor, snapshot_complete: complete, gap, newest, acks, over_limit, _permit: permit }
        }))
    }

    /// A batch is committed: only now may it be answered from.
    async fn stored(&mut self, stored: Stored, connection: &Connection) -> Result<(), LeaseLost> {
        let applied = stored.result?;
        let at = stored.cursor.as_deref().and_then(|cursor| self.context.config.dialect.cursor.kind.moment(cursor));
        let now = OffsetDateTime::now_utc();
        let at = at.map(|at| moment(at, stored.newest.as_deref()));
        let newest = stored.newest.as_ref();
        if newest > self.committed.newest_version.as_ref() {
            self.committed.newest_version = stored.newest;
        }
        self.committed.snapshot_complete = stored.snapshot_complete.unwrap_or(self.committed.snapshot_complete);
        if let Some(gap) = if applied.unmerged > 0 { Some(true) } else { stored.gap } {
            self.committed.gap = gap;
            self.gap |= gap;
            self.context.owes(gap.then_some(LinkState::Gap));
            self.wants.gap_is(gap);
        }
        self.context.update(|status| {
            status.applied += applied.changed;
            status.unchanged += applied.unchanged;
            status.stale += applied.stale;
            status.over_limit_pending = status.over_limit_pending.saturating_sub(stored.over_limit);
            status.committed_at = Some(rfc3339_millis(now));
            if let Some(at) = at {
                status.lag_ms = u64::try_from((now - at).whole_milliseconds().max(0)).ok();
                status.cursor_at = Some(rfc3339_millis(at));
            }
        });
        if stored.over_limit > 0 {
            self.state(if self.complete { LinkState::Live } else { LinkState::Snapshot });
        }
        if let Some(cursor) = stored.cursor {
            if let Ack::Batch { template } = &self.context.config.dialect.ack {
                self.send(connection, template.replace("{cursor}", cursor.get())).await;
            }
            self.committed.cursor = Some(cursor);
        }
        if let Ack::Each { template } = &self.context.config.dialect.ack {
            for cursor in stored.acks {
                self.send(connection, template.replace("{cursor}", cursor.get())).await;
            }
        }
        Ok(())
    }
}

/// Waits for the word to stop.
pub(super) async fn told_to(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Waits for what is in flight; for ever when nothing is.
async fn wait(inflight: &mut Option<InFlight<'_>>) -> Stored {
    match inflight {
        Some(future) => future.as_mut().await,
        None => pending().await,
    }
}

/// Waits for a moment; for ever without one.
async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => pending().await,
    }
}
