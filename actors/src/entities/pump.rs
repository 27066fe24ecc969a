//! One pass of the relay: for each kind whose log is ahead of the bus, runs from the one to the other in offset order.
//!
//! Invariants: the bus's own top is the cursor, whatever we remember of it is a guess that `append` corrects; only what
//! the log holds is published, gap-free; kinds take turns, one run each; a kind that fails waits alone.
//!
//! Two relays at once do no harm: `append` takes each offset once and `reset` never goes back. Hence a node without the
//! lease may publish too when the holder is silent; only the holder renews epochs.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use dzvin_protocols::{
    channels::{Position, Publication},
    entities::Change,
    platform::{Kind, trace_id},
};
use time::OffsetDateTime;
use tokio::time::Instant;

use super::{metrics::RelayMetrics, relay::RelayConfig};
use crate::{
    platform::ports::{Appended, Bus, BusError, ChangeLog, LogSlice, ReadLimit, StoreError},
    supervise::Progress,
};

/// Turns that a kind may take without coming nearer to the log's top, before it waits: two relays that race each
/// other lose a turn or two, not ten.
const MAX_IDLE_TURNS: u32 = 10;
/// The first pause of a kind that failed; it doubles up to [`MAX_PAUSE`].
const MIN_PAUSE: Duration = Duration::from_millis(50);
/// Below the five seconds within which a committed change has to be delivered.
const MAX_PAUSE: Duration = Duration::from_secs(2);

/// Moves changes from the log to the bus.
pub(super) struct Pump<B, L> {
    bus: Arc<B>,
    log: Arc<L>,
    config: RelayConfig,
    metrics: RelayMetrics,
    progress: Progress,
    /// The bus's positions as we last heard of them.
    tops: HashMap<Kind, Position>,
    /// Kinds whose newest publication was compared with the log since we began or the log was last away.
    compared: HashSet<Kind>,
    waiting: HashMap<Kind, Wait>,
}

/// A kind that failed.
struct Wait {
    until: Instant,
    pause: Duration,
}

/// Why a kind did not move. Each is worth another try.
#[derive(Debug, thiserror::Error)]
pub(super) enum PumpError {
    #[error("the change log failed")]
    Log(#[from] StoreError),
    #[error("the bus failed")]
    Bus(#[from] BusError),
    #[error("the epoch has to be renewed, and that is for the holder of the lease")]
    NotHolder,
    #[error("no progress against another relay")]
    Contended,
}

/// What a pass out of memory came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fresh {
    /// There is nothing more in memory.
    Done,
    /// Something was published; there may be more.
    More,
    /// A kind failed, the bus's top is not known, or what is in memory does not follow it.
    AskLog,
}

/// What one turn of a kind came to.
#[derive(Debug, PartialEq, Eq)]
enum Turn {
    Moved,
    Idle,
    Done,
}

impl<B: Bus, L: ChangeLog> Pump<B, L> {
    pub(super) fn new(
        bus: Arc<B>,
        log: Arc<L>,
        config: RelayConfig,
        metrics: RelayMetrics,
        progress: Progress,
    ) -> Self {
        let (tops, compared, waiting) = (HashMap::new(), HashSet::new(), HashMap::new());
        Self { bus, log, config, metrics, progress, tops, compared, waiting }
    }

    /// Forgets what it knows of the bus: the next pass asks.
    pub(super) fn forget_tops(&mut self) {
        self.tops.clear();
    }

    /// Brings every kind to the log's top as it is now, or as far as `may_go_on` lets it. Answers false when a kind
    /// failed and waits for its next try.
    ///
    /// # Errors
    /// When the log cannot say where it is.
    pub(super) async fn pass(&mut self, holder: bool, may_go_on: impl Fn() -> bool) -> Result<bool, StoreError> {
        let positions = self.log.positions().await.inspect_err(|_| self.compared.clear())?;
        self.tops.retain(|kind, _| positions.iter().any(|(k, _)| k == kind));
        let mut open: Vec<_> = positions
            .into_iter()
            .filter(|(kind, _)| self.waiting.get(kind).is_none_or(|wait| wait.until <= Instant::now()))
            .map(|(kind, top)| (kind, top, 0))
            .collect();
        while !open.is_empty() && may_go_on() {
            let mut next = Vec::with_capacity(open.len());
            for (kind, mut top, idle) in open {
                self.progress.tick();
                let turn = match self.turn(&kind, &mut top, holder).await {
                    Ok(Turn::Idle) if idle == MAX_IDLE_TURNS => Err(PumpError::Contended),
                    turn => turn,
                };
                match turn {
                    Ok(Turn::Moved) => next.push((kind, top, 0)),
                    Ok(Turn::Idle) => next.push((kind, top, idle + 1)),
                    Ok(Turn::Done) => {
                        self.waiting.remove(&kind);
                        self.metrics.lag(&kind, 0, 0);
                    }
                    Err(error) => self.put_off(kind, &error),
                }
            }
            open = next;
        }
        Ok(self.waiting.is_empty())
    }

    /// Publishes what this node has just committed, out of memory: one run of each kind, so that kinds take turns and the
    /// lease is looked after between the runs.
    pub(super) async fn pass_fresh(&mut self) -> Fresh {
        let Some(fresh) = self.log.fresh().filter(|_| self.waiting.is_empty()) else { return Fresh::AskLog };
        let mut came = Fresh::Done;
        for kind in fresh {
            self.progress.tick();
            let Some(top) = self.tops.get(&kind).filter(|_| self.compared.contains(&kind)) else {
                return Fresh::AskLog;
            };
            let Some(slice) = self.log.recent(&kind, top, self.config.run) else { return Fresh::AskLog };
            let Some(run) = run(&slice, top.offset) else { continue };
            match self.publish(&kind, &slice.position, &slice.changes, &run).await {
                // Asked once more, it is forgotten.
                Ok(Turn::Moved | Turn::Done) => came = Fresh::More,
                // The pass that follows finds out and says so.
                Ok(Turn::Idle) | Err(_) => return Fresh::AskLog,
            }
            self.metrics.lag(&kind, 0, 0);
        }
        came
    }

    /// Offsets that the bus is behind the log, over all kinds.
    pub(super) async fn behind(&self) -> Result<u64, PumpError> {
        let mut behind = 0;
        for (kind, top) in self.log.positions().await? {
            let bus = self.bus.position(&kind.stream()).await?;
            behind += match bus {
                Some(bus) if bus.epoch == top.epoch => top.offset.saturating_sub(bus.offset),
                _ => top.offset.max(1),
            };
        }
        Ok(behind)
    }

    fn put_off(&mut self, kind: Kind, error: &PumpError) {
        self.metrics.errors.inc();
        self.tops.remove(&kind);
        if matches!(error, PumpError::Log(_)) {
            self.compared.remove(&kind);
        }
        let pause = self.waiting.get(&kind).map_or(MIN_PAUSE, |wait| (wait.pause * 2).min(MAX_PAUSE));
        tracing::warn!(%kind, error = error as &dyn std::error::Error, "relay put a kind off");
        let until = Instant::now() + pause.mul_f64(rand::random_range(0.5..=1.0));
        self.waiting.insert(kind, Wait { until, pause });
    }

    /// When the first of the waiting kinds is due.
    pub(super) fn due(&self) -> Option<Instant> {
        self.waiting.values().map(|wait| wait.until).min()
    }

    /// One run of a kind. `top` is the log's as the pass knows it; it is corrected when the epoch turns out to be another.
    async fn turn(&mut self, kind: &Kind, top: &mut Position, holder: bool) -> Result<Turn, PumpError> {
        let bus = match self.tops.get(kind) {
            Some(known) => Some(known.clone()),
            None => self.bus.position(&kind.stream()).await?,
        };
        let Some(bus) = bus.filter(|bus| bus.epoch == top.epoch) else {
            return self.refill(kind, top).await;
        };
        if !self.compared.contains(kind) && !self.agrees(kind, &bus).await? {
            return self.renew(kind, top, &bus, None, holder).await;
        }
        self.compared.insert(kind.clone());
        self.tops.insert(kind.clone(), bus.clone());
        if bus.offset > top.offset {
            return self.ahead(kind, top, &bus, holder).await;
        }
        if bus.offset == top.offset {
            return Ok(Turn::Done);
        }
        let Some(slice) = self.read(kind, bus.offset).await? else { return Ok(Turn::Done) };
        self.note_lag(kind, &slice, bus.offset);
        if slice.position.epoch != bus.epoch {
            self.tops.remove(kind);
            return Ok(Turn::Idle);
        }
        match run(&slice, bus.offset) {
            Some(run) => self.publish(kind, &slice.position, &slice.changes, &run).await,
            None if slice.position.offset <= bus.offset => Ok(Turn::Idle),
            None => self.renew(kind, top, &bus, Some(before_first(&slice)), holder).await,
        }
    }

    /// The bus knows nothing of the stream, or another life of it: it starts again a window below the log's top.
    async fn refill(&mut self, kind: &Kind, top: &mut Position) -> Result<Turn, PumpError> {
        // The epoch may have been renewed since the pass began.
        let Some(now) = self.log.position(kind).await? else { return Ok(Turn::Done) };
        *top = now;
        let window = top.offset.saturating_sub(self.config.history_window);
        let Some(slice) = self.read(kind, window).await? else { return Ok(Turn::Done) };
        let offset = if run(&slice, window).is_some() { window } else { before_first(&slice) };
        let start = Position { epoch: slice.position.epoch.clone(), offset };
        self.bus.reset(&kind.stream(), &start).await?;
        self.metrics.gaps_healed.inc();
        tracing::info!(%kind, epoch = %start.epoch, from = offset, to = top.offset, "bus starts the stream again");
        self.compared.insert(kind.clone());
        self.tops.insert(kind.clone(), start);
        match run(&slice, offset) {
            Some(run) => self.publish(kind, &slice.position, &slice.changes, &run).await,
            None => Ok(Turn::Done),
        }
    }

    /// The bus seems to be ahead. Either it moved since the pass began, or PostgreSQL went back in time.
    async fn ahead(
        &mut self,
        kind: &Kind,
        top: &mut Position,
        bus: &Position,
        holder: bool,
    ) -> Result<Turn, PumpError> {
        let Some(now) = self.log.position(kind).await? else { return Ok(Turn::Done) };
        let went_back = now.epoch == bus.epoch && now.offset < bus.offset;
        *top = now;
        if went_back { self.renew(kind, top, bus, None, holder).await } else { Ok(Turn::Idle) }
    }

    /// Declares the past lost: a new epoch, from `start` or from the log's top.
    async fn renew(
        &mut self,
        kind: &Kind,
        top: &mut Position,
        old: &Position,
        start: Option<u64>,
        holder: bool,
    ) -> Result<Turn, PumpError> {
        if !holder {
            return Err(PumpError::NotHolder);
        }
        let Some(new) = self.log.renew_epoch(kind, &old.epoch).await? else { return Ok(Turn::Done) };
        self.metrics.epoch_renewals.inc();
        tracing::error!(%kind, old = %old.epoch, bus = old.offset, new = %new.epoch, log = new.offset,
            "the past of a stream is lost: it has a new epoch");
        let start = Position { offset: start.unwrap_or(new.offset).min(new.offset), epoch: new.epoch.clone() };
        *top = new;
        self.bus.reset(&kind.stream(), &start).await?;
        self.compared.insert(kind.clone());
        self.tops.insert(kind.clone(), start);
        Ok(Turn::Idle)
    }

    /// Whether the newest publication of the bus is in the log. A database that was restored to an earlier moment and
    /// has written on since is not behind the bus, but it holds something else at that offset.
    async fn agrees(&self, kind: &Kind, bus: &Position) -> Result<bool, PumpError> {
        let Some(before) = bus.offset.checked_sub(1) else { return Ok(true) };
        let one = ReadLimit { count: 1, bytes: 1 };
        let told = self.bus.read(&kind.stream(), before, one).await?.and_then(|s| s.publications.into_iter().next());
        let Some(told) = told.filter(|p| p.offset == bus.offset) else { return Ok(true) };
        let logged = self.log.read(kind, before, one).await?.and_then(|s| s.changes.into_iter().next());
        let Some(logged) = logged.filter(|c| c.offset == bus.offset) else { return Ok(true) };
        Ok(told.id == logged.id && told.revision == logged.revision && told.at == logged.publication().at)
    }

    async fn read(&self, kind: &Kind, after: u64) -> Result<Option<LogSlice>, StoreError> {
        self.log.read(kind, after, self.config.run).await
    }

    async fn publish(
        &mut self,
        kind: &Kind,
        position: &Position,
        changes: &[Change],
        run: &[Publication],
    ) -> Result<Turn, PumpError> {
        let answer = self.bus.append(&kind.stream(), &position.epoch, run).await?;
        let Some(first) = run.first() else { return Ok(Turn::Done) };
        match answer {
            Appended::Accepted { top } => {
                self.metrics.published.inc_by(run.len() as u64);
                self.metrics.batch.observe(run.len() as f64);
                if let Some(oldest) = changes.first() {
                    self.metrics.commit_to_bus.observe(age(oldest).as_seconds_f64().max(0.0));
                }
                log_published(kind, run);
                self.note_top(kind, position, top);
                Ok(if top >= position.offset { Turn::Done } else { Turn::Moved })
            }
            Appended::Duplicate { top } => {
                self.metrics.duplicates.inc();
                self.note_top(kind, position, top);
                Ok(Turn::Idle)
            }
            Appended::Gap { position: known } => {
                // Of an empty bus, or another epoch's, the refill that follows is counted.
                if known.as_ref().is_some_and(|known| known.epoch == position.epoch) {
                    self.metrics.gaps_healed.inc();
                }
                tracing::info!(%kind, ?known, at = first.offset, "bus is behind, refilling from the log");
                self.tops.remove(kind);
                Ok(Turn::Idle)
            }
        }
    }

    fn note_top(&mut self, kind: &Kind, position: &Position, top: u64) {
        self.tops.insert(kind.clone(), Position { epoch: position.epoch.clone(), offset: top });
    }

    fn note_lag(&self, kind: &Kind, slice: &LogSlice, bus: u64) {
        let oldest =
            slice.changes.first().map_or(0, |c| i64::try_from(age(c).whole_milliseconds()).unwrap_or(i64::MAX));
        self.metrics.lag(kind, slice.position.offset.saturating_sub(bus), oldest.max(0));
    }
}

/// One line for each batch or request of the run, so that a trace is found at both ends.
fn log_published(kind: &Kind, run: &[Publication]) {
    if !tracing::enabled!(tracing::Level::DEBUG) {
        return;
    }
    for part in run.chunk_by(|one, next| one.trace == next.trace) {
        if let [first, .., last] | [first @ last] = part {
            let trace_id = first.trace.as_deref().and_then(trace_id);
            tracing::debug!(%kind, from = first.offset, to = last.offset, trace_id, "published");
        }
    }
}

/// The publications that follow `after` without a gap; `None` when the very next one is not there.
fn run(slice: &LogSlice, after: u64) -> Option<Vec<Publication>> {
    let next = slice.changes.iter().zip(after + 1..).take_while(|(change, offset)| change.offset == *offset);
    let run: Vec<_> = next.map(|(change, _)| change.publication()).collect();
    (!run.is_empty()).then_some(run)
}

/// Where a stream has to start so that the first change that is left can follow.
fn before_first(slice: &LogSlice) -> u64 {
    slice.changes.first().map_or(slice.position.offset, |change| change.offset.saturating_sub(1))
}

fn age(change: &Change) -> time::Duration {
    OffsetDateTime::now_utc() - change.at
}
