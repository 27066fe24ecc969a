//! One connection's conversation: questions are answered, frames are gathered and stored.
//!
//! Invariants: a pure responder, in any order, any number of times; every answer comes from what is committed; batches are
//! stored in the order of their frames, one at a time, the next is gathered meanwhile. What is lost and what is owed is
//! written in the same transaction as the frames that showed it.

use std::{collections::BTreeSet, future::pending, pin::Pin, sync::Arc};

use dzvin_protocols::mirror::{
    Ack, Asked, Cursor, Frame, FrameFault, FrameKind, Handshake, UnknownType, VersionKind, format_time, percent_encode,
};
use serde_json::value::RawValue;
use time::OffsetDateTime;
use tokio::{
    sync::{OwnedSemaphorePermit, watch},
    time::{Instant, sleep_until, timeout},
};

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

/// Most ids in one answer, and how many are read at a time.
const MAX_IDS: usize = 100_000;
const IDS_PAGE: usize = 1_000;

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
    /// What `snapshot_complete` will be once everything gathered is stored.
    complete: bool,
    settle_at: Option<Instant>,
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
        let complete = committed.snapshot_complete;
        Self {
            context,
            applier,
            wants,
            committed,
            gather: Gather::default(),
            counts: FrameCounts::default(),
            resuming: false,
            began_in_snapshot: !complete,
            complete,
            settle_at: None,
            last_frame: None,
        }
    }

    /// The cursor that may be answered: none before a snapshot was whole.
    fn cursor(&self) -> Option<&RawValue> {
        self.committed.cursor.as_deref().filter(|_| self.committed.snapshot_complete)
    }

    /// The address to dial.
    pub(super) fn url(&self) -> String {
        let url = self.context.config.url.clone();
        match &self.context.config.dialect.handshake {
            Handshake::CursorInUrl { template } => {
                url + &self.fill(template, |json| percent_encode(json.trim_matches('"')))
            }
            _ => url,
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
            let due = self.gather.due(&limits).filter(|_| inflight.is_none());
            tokio::select! {
                biased;
                stored = wait(&mut inflight) => {
                    inflight = None;
                    if let Err(LeaseLost) = self.stored(stored, &connection).await {
                        break End::LeaseLost;
                    }
                }
                () = at(due) => inflight = self.begin_storing(),
                () = told_to(&mut stop) => break End::Stopped,
                _ = limit.changed() => {
                    if *limit.borrow() > connection.ceiling {
                        break End::LimitRaised;
                    }
                }
                inbound = connection.inbound.recv(), if self.gather.has_room(&limits) => match inbound {
                    Some(Inbound::Ended(ending)) => break End::Connection(ending),
                    None => break End::Connection(Ending::Lost("the reading task died".into())),
                    Some(inbound) => self.take(inbound, &connection).await,
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

    async fn open(&mut self, connection: &Connection) {
        self.state(LinkState::Handshaking);
        match &self.context.config.dialect.handshake {
            Handshake::ServerAsks | Handshake::None => {}
            Handshake::CursorInUrl { .. } => self.cursor_told(),
            Handshake::ClientSendsSubscribe { template } => {
                let message = self.fill(template, str::to_owned);
                self.cursor_told();
                self.send(connection, message).await;
            }
        }
    }

    fn fill(&self, template: &str, spell: impl Fn(&str) -> String) -> String {
        let protocol = format!("\"{}\"", self.context.config.dialect.protocol.as_str());
        template
            .replace("{cursor}", &spell(self.cursor_json()))
            .replace("{protocol}", &spell(&protocol))
            .replace("{init_point}", &spell(&self.init_point()))
    }

    fn cursor_json(&self) -> &str {
        self.cursor().map_or(self.context.config.dialect.cursor.null.json(), RawValue::get)
    }

    fn cursor_told(&mut self) {
        self.resuming = self.cursor().is_some();
        if self.resuming {
            self.settle_at = Some(Instant::now() + self.context.config.limits.settle);
        }
    }

    fn init_point(&self) -> String {
        let dialect = &self.context.config.dialect;
        match &self.committed.newest_version {
            Some(newest) if self.committed.snapshot_complete => {
                let bare = dialect.paths.version_kind == VersionKind::Time && !dialect.cursor.init_point_zone;
                let text = if bare { newest.trim_end_matches('Z') } else { newest };
                serde_json::Value::from(text).to_string()
            }
            _ => dialect.cursor.null.json().to_owned(),
        }
    }

    async fn take(&mut self, inbound: Inbound, connection: &Connection) {
        self.last_frame = Some(OffsetDateTime::now_utc());
        match inbound {
            Inbound::Text(text, permit) => {
                let dialect = Arc::clone(&self.context.config.dialect);
                match dialect.decode(&text) {
                    Ok(frame) => self.frame(&frame, text.as_bytes(), permit, connection).await,
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
            Inbound::OverLimit { id, cursor, bytes, head } => self.over_limit(id, cursor, bytes, &head),
            Inbound::Ended(_) => {}
        }
    }

    async fn frame(&mut self, frame: &Frame<'_>, text: &[u8], permit: OwnedSemaphorePermit, connection: &Connection) {
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
            Ok(Asked::Op(op)) => self.gather.op(op),
            Ok(Asked::Fetch(id)) => self.gather.slots.push(Slot::Fetch(id)),
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
    }

    fn over_limit(
        &mut self,
        id: Option<dzvin_protocols::platform::EntityId>,
        cursor: Option<Box<RawValue>>,
        bytes: usize,
        head: &[u8],
    ) {
        self.context.metrics.over_limit.inc();
        self.gather.count(head.len(), None);
        self.gather.over_limit += 1;
        let detail = format!("a message of {bytes} bytes; its object is fetched over HTTP");
        tracing::warn!(mirror = %self.context.metrics.mirror, bytes, id = id.as_ref().map(tracing::field::display), "a message is above the limit");
        self.aside(FrameFault { reason: "over_limit", detail: detail.clone(), id: id.clone() }, head);
        self.context.update(|status| status.over_limit_pending += 1);
        match cursor {
            Some(cursor) => self.cursor_came(cursor),
            None => self.snapshot_row(),
        }
        match id {
            Some(id) => self.gather.slots.push(Slot::Fetch(id)),
            // Nobody knows what it was: only a comparison of everything can tell.
            None => self.gather.gap = self.gap_owed(),
        }
        self.context.handle.0.board.stream(&self.context.metrics, LinkState::OverLimit, Some(detail));
    }

    fn cursor_came(&mut self, cursor: Box<RawValue>) {
        if matches!(self.context.config.dialect.ack, Ack::Each { .. }) {
            self.gather.acks.push(cursor.clone());
        }
        self.gather.cursor = Some(cursor);
        self.resuming = false;
        if !self.complete {
            self.complete = true;
            self.gather.snapshot_complete = Some(true);
            if self.context.cdb.is_none() && self.committed.gap {
                // Without HTTP a whole snapshot is the only reconcile there is, and it has just ended.
                self.gather.gap = Some(false);
            }
        }
        self.flowing(LinkState::Live);
    }

    /// A row without a cursor. After a cursor was answered it means that the upstream could not resume there.
    fn snapshot_row(&mut self) {
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
        self.gather.gap = Some(true);
        self.context.update(|status| status.last_error = Some(format!("history lost: {why}")));
    }

    fn gap_owed(&self) -> Option<bool> {
        if self.context.cdb.is_some() { Some(true) } else { self.gather.gap }
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

    async fn question(&mut self, frame: &Frame<'_>, connection: &Connection) {
        let dialect = Arc::clone(&self.context.config.dialect);
        let data = match frame.kind {
            Some(FrameKind::ProtocolRequest) => format!("\"{}\"", dialect.protocol.as_str()),
            Some(FrameKind::TimestampRequest) => {
                self.cursor_told();
                self.cursor_json().to_owned()
            }
            Some(FrameKind::InitPointRequest) => self.init_point(),
            Some(FrameKind::IdsSinceRequest) => self.ids_since(frame).await,
            _ => frame.data.map_or("null", RawValue::get).to_owned(),
        };
        let answer = dialect.answer(frame, &data);
        self.send(connection, answer).await;
    }

    /// Ids of what was stored at or after the moment of the frame's cursor. Too many is better than too few here: the upstream
    /// sends them again.
    async fn ids_since(&self, frame: &Frame<'_>) -> String {
        let moment = match frame.cursor {
            Cursor::At(raw) => self.context.config.dialect.cursor.kind.moment(raw),
            _ => None,
        };
        let mut since = moment.map(format_time).unwrap_or_default();
        let mut after: Option<String> = None;
        let mut ids = BTreeSet::new();
        while ids.len() < MAX_IDS {
            let page = self.context.store.ids_since(&self.context.config.kind, &since, after.as_deref(), IDS_PAGE);
            let page = match timeout(self.context.config.limits.store, page).await {
                Ok(Ok(page)) => page,
                Ok(Err(error)) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "ids since a moment could not be read");
                    break;
                }
                Err(_) => break,
            };
            let Some((id, version)) = page.last() else { break };
            (since, after) = (version.clone(), Some(id.to_string()));
            let full = page.len() == IDS_PAGE;
            ids.extend(page.into_iter().map(|(id, _)| id));
            if !full {
                break;
            }
        }
        serde_json::to_string(&ids).unwrap_or_else(|_| "[]".into())
    }

    async fn send(&self, connection: &Connection, message: String) {
        // A full queue means that the writer is stuck; it says so itself within its own limit.
        let _ = timeout(self.context.config.limits.write, connection.answers.send(message)).await;
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
        let (context, applier) = (self.context, self.applier);
        Some(Box::pin(async move {
            let slots = std::mem::take(&mut gather.slots);
            let (ops, owed) = context.resolve(slots, &mut gather.quarantined).await;
            if owed {
                gather.gap = Some(true);
            }
            let stored = (gather.newest.take(), std::mem::take(&mut gather.acks), gather.over_limit);
            let (batch, permit) = gather.into_batch(ops, &context.by);
            let (cursor, complete, gap) = (batch.cursor.clone(), batch.snapshot_complete, batch.gap);
            let result = applier.submit(batch).await;
            let (newest, acks, over_limit) = stored;
            Stored { result, cursor, snapshot_complete: complete, gap, newest, acks, over_limit, _permit: permit }
        }))
    }

    /// A batch is committed: only now may it be answered from.
    async fn stored(&mut self, stored: Stored, connection: &Connection) -> Result<(), LeaseLost> {
        let applied = stored.result?;
        let newest = stored.newest.as_ref();
        if newest > self.committed.newest_version.as_ref() {
            self.committed.newest_version = stored.newest;
        }
        self.committed.snapshot_complete = stored.snapshot_complete.unwrap_or(self.committed.snapshot_complete);
        if let Some(gap) = stored.gap {
            self.committed.gap = gap;
            self.wants.gap_is(gap);
        }
        let lag = stored.cursor.as_deref().and_then(|cursor| self.context.config.dialect.cursor.kind.moment(cursor));
        let lag = lag.map(|moment| (OffsetDateTime::now_utc() - moment).max(time::Duration::ZERO));
        if let Some(lag) = lag {
            self.context.metrics.lag.set(lag.as_seconds_f64());
        }
        self.context.update(|status| {
            status.applied += applied.changed;
            status.unchanged += applied.unchanged;
            status.stale += applied.stale;
            status.over_limit_pending = status.over_limit_pending.saturating_sub(stored.over_limit);
            if let Some(lag) = lag {
                status.lag_ms = u64::try_from(lag.whole_milliseconds()).ok();
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
