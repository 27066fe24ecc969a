//! A generator and the servers of one run, and what is done with them in every scenario.

use super::Common;
use super::orders::{Answer, Names, Order};
use super::pinned::{self, Own};
use super::target::Target;
use crate::error::{BenchError, Fallible};
use crate::host;
use crate::report::progress;
use std::fs;
use std::time::Instant;
use tempfile::TempDir;

/// What a closed swarm leaves behind is done with after so long.
const AFTER_CLOSE_S: f64 = 1.5;
/// Seconds of publishing that are not counted.
const WARM_UP_S: f64 = 1.0;
/// Clients, and publications a second, of a server's first use.
const FIRST_USE: usize = 20;
/// Connections that are begun at a time when connecting is not what is measured.
const GENTLE: usize = 200;

/// The generator and the servers.
#[derive(Debug)]
pub(crate) struct Rig {
    /// The servers, in the order in which they are measured.
    pub(crate) targets: Vec<Target>,
    generator: Own,
    folder: TempDir,
    begun: (Instant, f64),
    /// Resident memory of each server after its first use, where that was looked at.
    bases: Vec<Option<f64>>,
    /// What every scenario is told.
    pub(crate) common: Common,
}

impl Rig {
    /// Starts them all.
    pub(crate) async fn start(common: &Common, connections: usize) -> Fallible<Self> {
        pinned::fit(common.server_core.max(common.generator_core), connections)?;
        let folder = tempfile::Builder::new().prefix("dzr").tempdir();
        let folder = folder.map_err(BenchError::because("making a folder"))?;
        let mut targets = Vec::new();
        for kind in &common.targets {
            targets.extend(Target::start(*kind, common).await?);
        }
        targets.extend(common.peer.iter().map(|peer| Target::peer(peer, common)));
        let generator = Own::start(common.generator_core, &["drive".to_owned()])?;
        let begun = (Instant::now(), host::stolen_seconds());
        let bases = vec![None; targets.len()];
        Ok(Self { targets, generator, folder, begun, bases, common: common.clone() })
    }

    /// Connects so many clients to one of the servers, all at once when the concurrency is zero.
    pub(crate) async fn open(
        &mut self,
        n: usize,
        count: usize,
        channels: usize,
        concurrency: Option<usize>,
    ) -> Fallible<Answer> {
        let target = &self.targets[n];
        let names = self.names(channels);
        let tokens = target.tokens(count)?.map(|tokens| {
            let path = self.folder.path().join("tokens");
            fs::write(&path, tokens).map(|()| path).map_err(BenchError::because("writing tokens"))
        });
        let order = Order::Open {
            addresses: vec![target.address.clone()],
            dialect: target.dialect,
            names,
            count,
            tokens: tokens.transpose()?,
            concurrency: concurrency.unwrap_or(GENTLE),
            pids: vec![target.pid],
        };
        let answer = self.generator.tell(&order).await?;
        if concurrency.is_none() && answer.subscribed < count {
            return Err(BenchError::new(format!(
                "{} of {count} clients of {} are subscribed: {}",
                answer.subscribed,
                self.targets[n].name,
                answer.why.unwrap_or_default()
            )));
        }
        Ok(answer)
    }

    /// Publishes for a while without counting, then for as long as is asked for. A rate of zero is as fast as is accepted.
    pub(crate) async fn flow(&mut self, n: usize, what: Flow) -> Fallible<Answer> {
        let target = &self.targets[n];
        let plan = target.plan(self.names(what.channels), self.common.payload, what.batch, what.in_flight)?;
        let pids = vec![target.pid];
        let order = |seconds| Order::Flow { plan: plan.clone(), rate: what.rate, seconds, pids: pids.clone() };
        let warm = self.generator.tell(&order(WARM_UP_S.max(1.0 / what.rate.max(1.0)))).await?;
        if warm.published == 0 {
            return Err(BenchError::new(format!(
                "{} accepts no publication: {}",
                self.targets[n].name,
                warm.why.unwrap_or_default()
            )));
        }
        self.generator.tell(&order(what.seconds)).await
    }

    /// Resident memory of a server that has been used a little and is empty again, in KiB: what a first use takes is not
    /// of the connections that come later.
    pub(crate) async fn base(&mut self, n: usize) -> Fallible<f64> {
        if let Some(base) = self.bases[n] {
            return Ok(base);
        }
        self.open(n, FIRST_USE, 1, None).await?;
        let flow = Flow { channels: 1, batch: 1, in_flight: 4, rate: FIRST_USE as f64, seconds: WARM_UP_S };
        self.flow(n, flow).await?;
        self.close().await?;
        let base = self.rest(n, 0.0).await?.server().rss_kib;
        self.bases[n] = Some(base);
        Ok(base)
    }

    /// Lets the clients answer pings and nothing else.
    pub(crate) async fn rest(&mut self, n: usize, seconds: f64) -> Fallible<Answer> {
        let pids = vec![self.targets[n].pid];
        self.generator.tell(&Order::Rest { seconds, pids }).await
    }

    /// All clients leave.
    pub(crate) async fn close(&mut self) -> Fallible<()> {
        self.generator.tell(&Order::Close).await?;
        self.generator.tell(&Order::Rest { seconds: AFTER_CLOSE_S, pids: Vec::new() }).await?;
        Ok(())
    }

    /// What is being done, to those who wait.
    pub(crate) fn progress(&self, n: usize, what: &str) {
        progress(&format!("{}: {what}", self.targets[n].name));
    }

    fn names(&self, count: usize) -> Names {
        Names { pattern: self.common.channels.clone(), count }
    }

    /// Where the numbers come from.
    pub(crate) fn environment(&self) -> String {
        let cluster = self.targets.iter().find_map(Target::cluster);
        let environment = match cluster {
            Some(cluster) => host::environment(cluster.version(), cluster.folder()),
            None => host::environment("no PostgreSQL", self.folder.path()),
        };
        format!("{environment}; {}", host::stolen_since(self.begun))
    }

    /// Stops everything in order.
    pub(crate) async fn stop(self) -> Fallible<()> {
        self.generator.stop().await;
        for target in self.targets {
            target.stop().await?;
        }
        Ok(())
    }
}

/// How to publish.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Flow {
    /// To how many channels in turn.
    pub(crate) channels: usize,
    /// Publications in one request.
    pub(crate) batch: usize,
    /// Requests under way at a time.
    pub(crate) in_flight: usize,
    /// Requests a second; zero for as fast as they are accepted.
    pub(crate) rate: f64,
    /// How long.
    pub(crate) seconds: f64,
}
