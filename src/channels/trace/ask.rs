//! A trace as the node knows it that was asked: lines of all nodes, with what is missing, until one of its ends comes.

use std::{
    collections::{BTreeMap, BTreeSet},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use axum::body::Bytes;
use bytes::BytesMut;
use dzvin_actors::platform::ports::{AuthError, Authenticator, Bus, Identity};
use dzvin_protocols::channels::{Control, TraceTarget};
use serde_json::{Value, json};
use tokio::{
    sync::mpsc,
    time::{Instant, interval, sleep_until, timeout},
};

use super::{LEASE, MAX_ASKED, PARTS, PATIENCE, Part, RENEW, Told, Traces};
use crate::{identity::Verifier, platform::http::Problem};

/// Bytes of lines that wait for a client that does not read; then words wait, and then they are lost and counted.
const MAX_WAITING: usize = 64 * 1024;
/// Renewals between two lines that say that the trace goes on.
const ALIVE: u32 = 5;

/// How lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// One JSON text a line.
    Lines,
    /// Server-sent events.
    Events,
}

/// Who asks for what.
pub(super) struct Asked {
    pub(super) target: TraceTarget,
    pub(super) by: Arc<str>,
    pub(super) lasts: Duration,
    pub(super) form: Form,
    /// Looked at again while the trace goes on: rights may end before it does.
    pub(super) token: String,
    pub(super) verifier: Arc<Verifier>,
}

/// Why a trace ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Time,
    Left,
    Rights,
    Shutdown,
}

impl End {
    const fn name(self) -> &'static str {
        match self {
            Self::Time => "time",
            Self::Left => "left",
            Self::Rights => "rights",
            Self::Shutdown => "shutdown",
        }
    }
}

/// Whether somebody with these rights may trace it.
pub(super) fn permission(target: &TraceTarget) -> (&'static str, &str) {
    match target {
        TraceTarget::User(user) => ("user", user),
        TraceTarget::Channel(channel) => ("channel", channel),
    }
}

impl Traces {
    /// Begins a trace; answers what is to be sent to the asker, piece by piece.
    pub(super) async fn ask(&self, asked: Asked) -> Result<mpsc::Receiver<Bytes>, Problem> {
        let away = || Problem::unavailable("bus_unavailable", "the bus does not answer; try again soon");
        let nodes = match timeout(PATIENCE, self.0.bus.nodes()).await {
            Ok(Ok(nodes)) => nodes,
            Ok(Err(error)) => return Err(away().caused_by(error)),
            Err(_) => return Err(away()),
        };
        let id: Arc<str> = format!("{:032x}", rand::random::<u128>()).into();
        let (sender, parts) = mpsc::channel(PARTS);
        {
            let mut all = self.asked();
            if all.len() >= MAX_ASKED {
                let detail = format!("{MAX_ASKED} traces are under way at this node; end one, or ask another node");
                return Err(Problem::unavailable("too_many_traces", detail));
            }
            all.insert(Arc::clone(&id), sender);
        }
        self.0.tracer.metrics().asked.inc();
        let (pieces, body) = mpsc::channel(1);
        let now = Instant::now();
        let mut trace = Trace {
            traces: self.clone(),
            id,
            ends: now + asked.lasts,
            asked,
            missing: Some(nodes.iter().cloned().collect()),
            known: BTreeMap::new(),
            waiting: BytesMut::new(),
            lines: 0,
            lost: 0,
        };
        if trace.say_again().await != Told::Heard {
            return Err(away());
        }
        tracing::info!(trace = &*trace.id, by = &*trace.asked.by, what = ?trace.asked.target, "a trace begins");
        let seconds = trace.asked.lasts.as_secs();
        trace.note(&json!({"event": "begin", "trace": &*trace.id, "nodes": nodes, "seconds": seconds}));
        tokio::spawn(trace.run(parts, pieces));
        Ok(body)
    }
}

/// One trace.
struct Trace {
    traces: Traces,
    id: Arc<str>,
    asked: Asked,
    ends: Instant,
    /// Nodes that have not said that they follow, until that is told.
    missing: Option<BTreeSet<Arc<str>>>,
    /// Nodes that follow, and how much of what happened there has come here or is known as lost.
    known: BTreeMap<Arc<str>, u64>,
    waiting: BytesMut,
    lines: u64,
    lost: u64,
}

impl Drop for Trace {
    fn drop(&mut self) {
        self.traces.asked().remove(&self.id);
        self.traces.0.tracer.metrics().asked.dec();
        let (traces, word) = (self.traces.clone(), Control::Untrace { id: Arc::clone(&self.id) });
        // Whoever does not hear it ends with the lease.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { traces.tell(None, &word).await });
        }
    }
}

impl Trace {
    async fn run(mut self, mut parts: mpsc::Receiver<Part>, pieces: mpsc::Sender<Bytes>) {
        let mut stopping = self.traces.0.stopping.subscribe();
        let mut stopped = pin!(async move { drop(stopping.wait_for(|stopping| *stopping).await) });
        let mut ticks = interval(RENEW);
        ticks.tick().await;
        let mut turns = 0_u32;
        let end = loop {
            let room = self.waiting.len() < MAX_WAITING;
            tokio::select! {
                () = pieces.closed() => break End::Left,
                () = &mut stopped => break End::Shutdown,
                () = sleep_until(self.ends) => break End::Time,
                _ = ticks.tick() => {
                    turns += 1;
                    if !self.may_go_on().await {
                        break End::Rights;
                    }
                    self.say_again().await;
                    self.look_around(turns).await;
                }
                Ok(place) = pieces.reserve(), if !self.waiting.is_empty() => place.send(self.waiting.split().freeze()),
                Some(part) = parts.recv(), if room => self.take(&part),
            }
        };
        let (lines, lost) = (self.lines, self.lost);
        self.note(&json!({"event": "end", "why": end.name(), "lines": lines, "lost": lost}));
        let _ = timeout(PATIENCE, pieces.send(self.waiting.split().freeze())).await;
        let (trace, by) = (&*self.id, &*self.asked.by);
        tracing::info!(trace, by, what = ?self.asked.target, why = end.name(), lines, lost, "a trace ends");
    }

    /// What a node has told, with what is missing before it.
    fn take(&mut self, part: &Part) {
        if let Some(missing) = &mut self.missing {
            missing.remove(&part.node);
        }
        if part.refused {
            return self.note(&json!({"event": "refused", "node": &*part.node}));
        }
        match self.known.get(&part.node).copied() {
            None => self.note(&json!({"event": "node", "node": &*part.node})),
            Some(known) if part.before > known => self.lose(&part.node, part.before - known),
            // It was without a lease for a while, and has begun again.
            Some(known) if part.before < known => self.note(&json!({"event": "resumed", "node": &*part.node})),
            Some(_) => {}
        }
        self.known.insert(Arc::clone(&part.node), part.before + part.lines.len() as u64);
        self.lines += part.lines.len() as u64;
        for line in &part.lines {
            // An object of another node, with the node's name before what it says.
            let Some(rest) = line.get().strip_prefix('{') else { continue };
            let comma = if rest.starts_with('}') { "" } else { "," };
            self.write(&format!("{{\"node\":\"{}\"{comma}{rest}", part.node));
        }
    }

    fn lose(&mut self, node: &str, count: u64) {
        self.lost += count;
        self.note(&json!({"event": "lost", "node": node, "count": count}));
    }

    /// Asks every node to follow, or to go on.
    async fn say_again(&self) -> Told {
        let word = Control::Trace {
            id: Arc::clone(&self.id),
            from: self.traces.0.bus.node().into(),
            by: Arc::clone(&self.asked.by),
            target: self.asked.target.clone(),
            seconds: u32::try_from(LEASE.as_secs()).unwrap_or(u32::MAX),
        };
        self.traces.tell(None, &word).await
    }

    /// Tells of nodes that do not follow, and of those that are gone.
    async fn look_around(&mut self, turns: u32) {
        if let Some(missing) = self.missing.take()
            && !missing.is_empty()
        {
            self.note(&json!({"event": "missing", "nodes": missing}));
        }
        if let Ok(Ok(alive)) = timeout(PATIENCE, self.traces.0.bus.nodes()).await {
            let gone: Vec<_> = self.known.keys().filter(|node| !alive.contains(node)).cloned().collect();
            for node in gone {
                self.known.remove(&node);
                self.note(&json!({"event": "gone", "node": &*node}));
            }
        }
        if turns.is_multiple_of(ALIVE) {
            let left = self.ends.saturating_duration_since(Instant::now()).as_secs();
            self.note(&json!({"event": "alive", "nodes": self.known.len(), "seconds": left}));
        }
    }

    /// Whether the asker still has the right. Keys that cannot be had now take nobody's rights away.
    async fn may_go_on(&self) -> bool {
        let (area, object) = permission(&self.asked.target);
        let allowed = |identity: Identity| identity.permissions.allow("trace", area, object);
        match self.asked.verifier.authenticate(&self.asked.token).await {
            Ok(identity) => allowed(identity),
            Err(AuthError::Unavailable) => true,
            Err(AuthError::Expired | AuthError::Invalid) => false,
        }
    }

    fn note(&mut self, line: &Value) {
        self.write(&line.to_string());
    }

    fn write(&mut self, line: &str) {
        let (before, after) = match self.asked.form {
            Form::Lines => ("", "\n"),
            Form::Events => ("data: ", "\n\n"),
        };
        for part in [before, line, after] {
            self.waiting.extend_from_slice(part.as_bytes());
        }
    }
}
