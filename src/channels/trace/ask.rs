//! A trace as the node knows it that was asked: lines of all nodes, with what is missing, until one of its ends comes.

use std::{
    collections::{BTreeMap, BTreeSet},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use axum::body::Bytes;
use bytes::BytesMut;
use dzvin_actors::platform::ports::Bus;
use dzvin_protocols::channels::Control;
use futures_util::{Stream, StreamExt, stream};
use serde_json::{Value, json};
use tokio::{
    sync::mpsc,
    time::{Instant, interval_at, sleep_until, timeout},
};

use super::{LEASE, MAX_ASKED, PARTS, PATIENCE, Part, RENEW, Told, Traces, rights::Rights};
use crate::platform::http::Problem;

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
    /// Whose they are, and for what; they may end before the trace does.
    pub(super) rights: Rights,
    pub(super) lasts: Duration,
    pub(super) form: Form,
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
        let trace = Trace::new(self, id, asked, nodes.iter().cloned().collect());
        let word = trace.word();
        if self.tell(None, &word).await != Told::Heard {
            return Err(away());
        }
        tracing::info!(trace = &*trace.id, by = &*trace.asked.rights.user, what = ?trace.asked.rights.target, "a trace begins");
        let (rights, rounds) = (trace.asked.rights.clone(), self.clone().rounds(word));
        tokio::spawn(trace.begun(&nodes).run(parts, pieces, rights.end(), rounds));
        Ok(body)
    }

    /// What is done every [`RENEW`] while a trace goes on: every node is asked to go on following, and the bus who is alive. It
    /// takes as long as the bus does, so nothing else may wait for it. `None`: the bus does not say.
    fn rounds(self, word: Control) -> impl Stream<Item = Option<Vec<Arc<str>>>> {
        let ticks = interval_at(Instant::now() + RENEW, RENEW);
        stream::unfold((self, word, ticks), |(traces, word, mut ticks)| async move {
            ticks.tick().await;
            traces.tell(None, &word).await;
            let alive = timeout(PATIENCE, traces.0.bus.nodes()).await;
            Some((alive.ok().and_then(Result::ok), (traces, word, ticks)))
        })
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
    fn new(traces: &Traces, id: Arc<str>, asked: Asked, nodes: BTreeSet<Arc<str>>) -> Self {
        Self {
            traces: traces.clone(),
            id,
            ends: Instant::now() + asked.lasts,
            asked,
            missing: Some(nodes),
            known: BTreeMap::new(),
            waiting: BytesMut::new(),
            lines: 0,
            lost: 0,
        }
    }

    /// The word that asks a node to follow, or to go on.
    fn word(&self) -> Control {
        Control::Trace {
            id: Arc::clone(&self.id),
            from: self.traces.0.bus.node().into(),
            by: Arc::clone(&self.asked.rights.user),
            target: self.asked.rights.target.clone(),
            seconds: u32::try_from(LEASE.as_secs()).unwrap_or(u32::MAX),
        }
    }

    fn begun(mut self, nodes: &[Arc<str>]) -> Self {
        let seconds = self.asked.lasts.as_secs();
        self.note(&json!({"event": "begin", "trace": &*self.id, "nodes": nodes, "seconds": seconds}));
        self
    }

    /// Goes on until one of its ends comes; that of the rights is heard whatever the bus does.
    async fn run(
        mut self,
        mut parts: mpsc::Receiver<Part>,
        pieces: mpsc::Sender<Bytes>,
        rights_end: impl Future<Output = ()>,
        rounds: impl Stream<Item = Option<Vec<Arc<str>>>>,
    ) {
        let mut stopping = self.traces.0.stopping.subscribe();
        let mut stopped = pin!(async move { drop(stopping.wait_for(|stopping| *stopping).await) });
        let (mut rights_end, mut rounds) = (pin!(rights_end), pin!(rounds));
        let mut turns = 0_u32;
        let end = loop {
            let room = self.waiting.len() < MAX_WAITING;
            tokio::select! {
                () = pieces.closed() => break End::Left,
                () = &mut stopped => break End::Shutdown,
                () = sleep_until(self.ends) => break End::Time,
                () = &mut rights_end => break End::Rights,
                Some(alive) = rounds.next() => {
                    turns += 1;
                    self.look_around(turns, alive.as_deref());
                }
                Ok(place) = pieces.reserve(), if !self.waiting.is_empty() => place.send(self.waiting.split().freeze()),
                Some(part) = parts.recv(), if room => self.take(&part),
            }
        };
        let (lines, lost) = (self.lines, self.lost);
        self.note(&json!({"event": "end", "why": end.name(), "lines": lines, "lost": lost}));
        let _ = timeout(PATIENCE, pieces.send(self.waiting.split().freeze())).await;
        let (trace, by) = (&*self.id, &*self.asked.rights.user);
        tracing::info!(trace, by, what = ?self.asked.rights.target, why = end.name(), lines, lost, "a trace ends");
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

    /// Tells of nodes that do not follow, and of those that are gone.
    fn look_around(&mut self, turns: u32, alive: Option<&[Arc<str>]>) {
        if let Some(missing) = self.missing.take()
            && !missing.is_empty()
        {
            self.note(&json!({"event": "missing", "nodes": missing}));
        }
        if let Some(alive) = alive {
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

#[cfg(test)]
mod tests {
    use dzvin_actors::channels::Tracer;

    use super::*;
    use crate::channels::{
        bus::{AnyBus, HistoryLimits, MemoryBus},
        trace::rights::tests::rights,
    };

    /// The last line that an asker is sent.
    async fn last(mut body: mpsc::Receiver<Bytes>) -> Value {
        let mut all = Vec::new();
        while let Some(piece) = body.recv().await {
            all.extend_from_slice(&piece);
        }
        let line = all.trim_ascii_end().rsplit(|byte| *byte == b'\n').next().expect("a line");
        serde_json::from_slice(line).expect("json")
    }

    /// With rounds that never come round: nothing of it waits for the bus.
    #[tokio::test]
    async fn a_trace_ends_with_the_rights_while_the_bus_hangs() {
        let (events, _told) = mpsc::channel(8);
        let bus = Arc::new(AnyBus::Memory(MemoryBus::new(HistoryLimits::default(), events)));
        let traces = Traces::new(bus, Tracer::default());
        let (over, ended) = tokio::sync::oneshot::channel::<()>();
        let asked = Asked { rights: rights(), lasts: Duration::from_secs(3_600), form: Form::Lines };
        let trace = Trace::new(&traces, "t".into(), asked, BTreeSet::new()).begun(&[]);
        let ((_to, parts), (pieces, mut body)) = (mpsc::channel(PARTS), mpsc::channel(1));
        let running = tokio::spawn(trace.run(parts, pieces, async { drop(ended.await) }, stream::pending()));
        assert!(body.recv().await.expect("a piece").starts_with(b"{\"event\":\"begin\""));
        drop(over);
        let end = timeout(PATIENCE * 10, last(body)).await.expect("it ends");
        assert_eq!((&end["event"], &end["why"]), (&json!("end"), &json!("rights")));
        running.await.expect("ended");
    }
}
