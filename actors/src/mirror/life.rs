//! The life of a link: wait for the lease, connect, talk, wait, again.
//!
//! Invariants: no socket without the lease, none after two thirds of its term; whatever ends a connection, the next one comes
//! no sooner than the rules allow; a refusal that repeating cannot mend waits for a person or a new token, lease in hand.

use std::{sync::Arc, time::Duration};

use dzvin_protocols::platform::time::rfc3339_millis;
use time::OffsetDateTime;
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};

use super::{
    apply::Applier,
    config::Token,
    context::Context,
    reconcile::{Reconciler, Wants},
    session::{End, Session, moment, told_to},
    socket::{self, Ending, Place, Refusal, Wiring},
    status::LinkState,
    tap::Tap,
    tenure::Tenure,
};
use crate::{
    cdb::Backoff,
    platform::ports::{CdbApi, Lease, Leases, MirrorRecord, MirrorStore},
};

/// Least wait after 429.
const TOO_MANY_FLOOR: Duration = Duration::from_secs(1);
/// Back-off after a message that cannot be read: HTTP fills in meanwhile, and the same message comes again.
const OVER_LIMIT_BASE: Duration = Duration::from_secs(5);
const OVER_LIMIT_CAP: Duration = Duration::from_secs(300);
/// Least time between two notes of the state in the store.
const NOTE_PAUSE: Duration = Duration::from_secs(1);

/// Why a connection is not there.
enum Broken {
    Refused(Refusal),
    Ended(End),
}

/// Lives until `stop` becomes true.
pub(super) async fn live<S: MirrorStore, L: Leases, C: CdbApi>(
    context: Arc<Context<S, L, C>>,
    mut stop: watch::Receiver<bool>,
) {
    let limits = context.config.limits;
    let board = &context.handle.0.board;
    let metrics = &context.metrics;
    while !*stop.borrow() {
        let Some(tenure) = Tenure::begin(&*context.leases, &context.lease_name, limits.lease_ttl).await else {
            board.stream(metrics, LinkState::Standby, None);
            tokio::select! {
                () = sleep(limits.standby_poll) => {}
                _ = stop.changed() => {}
            }
            continue;
        };
        let lease = tenure.lease.clone();
        tracing::info!(mirror = %metrics.mirror, term = lease.term, "the link has the lease");
        let ended = tokio::select! {
            () = tenure.keep(Arc::clone(&context.leases)) => "the lease was lost",
            () = Box::pin(reign(&context, &lease, stop.clone())) => "the link is leaving",
        };
        board.owed(metrics, None);
        metrics.gap.set(0);
        tracing::info!(mirror = %metrics.mirror, why = ended, "the link gives up the lease");
        // The tasks of the socket were told to end; the lease goes only after them.
        let _ = timeout(limits.stop, context.place.acquire()).await;
        let _ = timeout(limits.stop, context.leases.release(&lease)).await;
        if !*stop.borrow() {
            board.stream(metrics, LinkState::Standby, Some(ended.into()));
            sleep(limits.standby_poll / 4).await;
        }
    }
    board.stream(metrics, LinkState::Stopped, None);
}

/// What is done while the lease is ours.
async fn reign<S: MirrorStore, L: Leases, C: CdbApi>(
    context: &Context<S, L, C>,
    lease: &Lease,
    stop: watch::Receiver<bool>,
) {
    context.handle.0.board.stream(&context.metrics, LinkState::Connecting, None);
    let Some(record) = open(context, lease).await else { return };
    let cursor = record.cursor.as_deref().and_then(|cursor| context.config.dialect.cursor.kind.moment(cursor));
    let committed = cursor.map(|cursor| rfc3339_millis(moment(cursor, record.newest_version.as_deref())));
    context.update(|status| status.cursor_at = committed);
    let wants = Wants::default();
    if record.gap {
        wants.gap_is(true);
    }
    let (kind, limit) = (context.config.kind.clone(), context.config.limits.store);
    let (applier, _worker) =
        Applier::start(Arc::clone(&context.store), kind, lease.clone(), context.metrics.clone(), limit);
    let reconciler = Reconciler { context, applier: applier.clone(), wants: &wants, lease: lease.clone() };
    tokio::select! {
        () = Box::pin(connections(context, &applier, &wants, record, stop)) => {}
        () = Box::pin(reconciler.run()) => {}
        () = note(context, lease) => {}
    }
    let status = context.handle.status();
    let _ =
        timeout(context.config.limits.stop, context.store.note_state(&context.metrics.mirror, lease, &status)).await;
}

/// Takes the Mirror's row. `None`: the lease is no longer ours.
async fn open<S: MirrorStore, L: Leases, C: CdbApi>(context: &Context<S, L, C>, lease: &Lease) -> Option<MirrorRecord> {
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(1));
    loop {
        let opened = context.store.open(&context.metrics.mirror, &context.config.kind, lease);
        let why = match timeout(context.config.limits.store, opened).await {
            Ok(Ok(record)) => return Some(record),
            Ok(Err(crate::platform::ports::StoreError::LeaseLost { .. })) => return None,
            Ok(Err(error)) => error.to_string(),
            Err(_) => "the store did not answer in time".into(),
        };
        tracing::warn!(mirror = %context.metrics.mirror, error = why, "the Mirror's row could not be read");
        sleep(backoff.next(Duration::from_millis(50))).await;
    }
}

/// Tells the store what the link does, so that every node can show it.
async fn note<S: MirrorStore, L: Leases, C: CdbApi>(context: &Context<S, L, C>, lease: &Lease) {
    let mut status = context.handle.watch();
    status.mark_changed();
    while status.changed().await.is_ok() {
        let now = status.borrow_and_update().clone();
        let noted = context.store.note_state(&context.metrics.mirror, lease, &now);
        if let Ok(Err(error)) = timeout(context.config.limits.store, noted).await {
            tracing::debug!(mirror = %context.metrics.mirror, error = &error as &dyn std::error::Error, "the state was not noted");
        }
        sleep(NOTE_PAUSE).await;
    }
}

/// What can cut a wait short.
struct Signals {
    stop: watch::Receiver<bool>,
    token: watch::Receiver<Option<Token>>,
    resume: watch::Receiver<u64>,
    limit: watch::Receiver<usize>,
}

impl Signals {
    /// Everything that was said until now has been heard.
    fn heard(&mut self) {
        self.token.mark_unchanged();
        self.resume.mark_unchanged();
        self.limit.mark_unchanged();
    }

    /// True when something new was said.
    async fn wait(&mut self, longest: Option<Duration>) -> bool {
        let timer = async {
            match longest {
                Some(longest) => sleep(longest).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = timer => false,
            _ = self.stop.changed() => true,
            _ = self.token.changed() => true,
            _ = self.resume.changed() => true,
            _ = self.limit.changed() => true,
        }
    }
}

/// One connection after another until the link is told to stop.
async fn connections<S: MirrorStore, L: Leases, C: CdbApi>(
    context: &Context<S, L, C>,
    applier: &Applier,
    wants: &Wants,
    mut committed: MirrorRecord,
    stop: watch::Receiver<bool>,
) {
    let shared = &context.handle.0;
    let limits = context.config.limits;
    let mut signals = Signals {
        stop,
        token: shared.token.subscribe(),
        resume: shared.resume.subscribe(),
        limit: shared.limit.subscribe(),
    };
    let mut backoff = Backoff::new(limits.backoff_base, limits.backoff_cap);
    let mut over_limit = Backoff::new(OVER_LIMIT_BASE, OVER_LIMIT_CAP);
    let mut first = true;
    while !*signals.stop.borrow() {
        signals.heard();
        let refused = context.handle.refused();
        if refused.is_none() && !std::mem::take(&mut first) {
            context.metrics.reconnects.inc();
            context.update(|status| status.reconnects += 1);
        }
        let begun = Instant::now();
        let broken = match refused {
            Some(why) => Broken::Refused(Refusal::Final(why)),
            None => {
                let session = Session::new(context, applier, wants, &mut committed);
                Box::pin(converse(context, session, &mut signals)).await
            }
        };
        if begun.elapsed() >= limits.steady {
            backoff.reset();
            over_limit.reset();
        }
        let (state, why, wait) = match broken {
            Broken::Ended(End::LeaseLost | End::Stopped) => return,
            Broken::Ended(End::LimitRaised) => continue,
            Broken::Ended(End::Connection(Ending::TooBig(why))) => {
                context.metrics.over_limit.inc();
                let dialect = &context.config.dialect;
                let moment = committed.cursor.as_deref().and_then(|cursor| dialect.cursor.kind.moment(cursor));
                let newest = committed.newest_version.as_deref().and_then(dzvin_protocols::mirror::parse_time);
                wants.since(moment.into_iter().chain(newest).min().unwrap_or(OffsetDateTime::UNIX_EPOCH));
                (LinkState::OverLimit, why, Some(over_limit.next(TOO_MANY_FLOOR)))
            }
            Broken::Ended(End::Connection(ending)) => {
                (LinkState::Backoff, ending.to_string(), Some(backoff.next(Duration::ZERO)))
            }
            Broken::Refused(Refusal::Final(why)) => (LinkState::Forbidden, why, None),
            Broken::Refused(Refusal::TooMany) => {
                let wait = backoff.next(TOO_MANY_FLOOR);
                context.governor.hold(TOO_MANY_FLOOR);
                (LinkState::Backoff, "too many requests".into(), Some(wait))
            }
            Broken::Refused(Refusal::Failed(why)) => (LinkState::Backoff, why, Some(backoff.next(Duration::ZERO))),
        };
        if state == LinkState::Forbidden {
            tracing::error!(mirror = %context.metrics.mirror, reason = why, "the upstream refuses us: a person or a new token is needed");
        }
        shared.board.stream(&context.metrics, state, Some(why));
        if signals.wait(wait).await {
            backoff.reset();
        }
    }
}

/// One connection from dialling to its end.
async fn converse<S: MirrorStore, L: Leases, C: CdbApi>(
    context: &Context<S, L, C>,
    session: Session<'_, S, L, C>,
    signals: &mut Signals,
) -> Broken {
    let limits = context.config.limits;
    context.handle.0.board.stream(&context.metrics, LinkState::Connecting, None);
    let mut stop = signals.stop.clone();
    let dialling = async {
        let crowded = |_| Refusal::Failed("no free connection to the upstream from this address".into());
        let pass = context.governor.admit().await.map_err(crowded)?;
        let token = signals.token.borrow_and_update().clone();
        let ceiling = socket::ceiling_of(*signals.limit.borrow_and_update());
        let gone = |_| Refusal::Failed("the link is stopping".into());
        let place = Arc::clone(&context.place).acquire_owned().await.map_err(gone)?;
        let resumed = *signals.resume.borrow();
        let stream = socket::dial(&context.config, &session.url(), token.as_ref(), ceiling).await;
        if let Err(Refusal::Final(why)) = &stream {
            context.handle.refuse(token, resumed, why.clone());
        }
        let stream = stream?;
        Ok((stream, Place::new(pass, place), ceiling))
    };
    let dialled = tokio::select! {
        dialled = dialling => dialled,
        () = told_to(&mut stop) => return Broken::Ended(End::Stopped),
    };
    let (stream, place, ceiling) = match dialled {
        Ok(parts) => parts,
        Err(refusal) => return Broken::Refused(refusal),
    };
    let wiring = Wiring {
        dialect: Arc::clone(&context.config.dialect),
        budget: Arc::clone(&context.budget),
        budget_bytes: limits.budget_bytes,
        limit: context.handle.0.limit.subscribe(),
        write: limits.write,
        metrics: context.metrics.clone(),
        tap: Tap::begin(context.config.tap.as_ref()).map(Arc::new),
    };
    let connection = socket::start(stream, wiring, ceiling, place);
    let (end, connection) = session.run(connection, signals.stop.clone()).await;
    connection.close(limits.stop).await;
    Broken::Ended(end)
}
