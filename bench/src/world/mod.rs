//! All that a scenario needs: a private PostgreSQL, a Mirror and a hub, each a process of its own.
//!
//! Invariants: whatever way a scenario ends, an error or a signal included, everything is stopped, in the order of the fields
//! below: the hub in order and, if it does not go, by force; the Mirror by the end of its input; the database always in order.

mod feeder;
mod hub;
mod ports;
mod postgres;
mod told;

pub(crate) use feeder::Feeder;
pub(crate) use hub::{Hub, Setup, binary, on_redis, random_secret};
pub(crate) use ports::{free_address, free_port};
pub(crate) use postgres::Cluster;
pub(crate) use told::Told;

use crate::error::Fallible;
use crate::feed::Order;
use crate::host;
use crate::report::progress;
use clap::Args;
use std::path::PathBuf;
use std::time::Instant;

/// What every scenario can be told.
#[derive(Debug, Clone, Args)]
pub(crate) struct WorldArgs {
    /// The hub's binary; built from this workspace if none.
    #[arg(long)]
    pub(crate) hub: Option<PathBuf>,
    /// Where the database lives while it runs: choose the disk to be measured.
    #[arg(long, default_value_os_t = std::env::temp_dir())]
    pub(crate) dir: PathBuf,
    /// Lines of TOML to add to the hub's configuration; may be repeated.
    #[arg(long)]
    config: Vec<String>,
    /// Keep the logs and the data folder, and say where they are.
    #[arg(long)]
    pub(crate) keep: bool,
}

impl WorldArgs {
    /// What every hub is told beside where it and its servers are.
    pub(crate) fn settings(&self) -> Vec<String> {
        self.config.clone()
    }
}

/// A running world.
#[derive(Debug)]
pub(crate) struct World {
    /// When it began, and what the host had stolen until then.
    begun: (Instant, f64),
    pub(crate) hub: Hub,
    pub(crate) feeder: Feeder,
    pub(crate) cluster: Cluster,
}

/// What processes used of the machine.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Usage {
    /// The hub.
    pub(crate) hub: f64,
    /// The Mirror.
    pub(crate) feeder: f64,
    /// PostgreSQL with its children.
    pub(crate) postgres: f64,
}

impl World {
    /// Starts everything and waits until the hub follows the Mirror.
    pub(crate) async fn start(args: &WorldArgs) -> Fallible<Self> {
        progress("building the hub");
        let binary = binary(args.hub.clone()).await?;
        progress("starting PostgreSQL, the Mirror and the hub");
        let cluster = Cluster::start(&args.dir, args.keep).await?;
        let mut feeder = Feeder::start().await?;
        let extra = args.settings();
        let mirror = Some(&feeder);
        let setup = Setup { cluster: &cluster, name: "dzvin", mirror, core: None, extra: &extra, secret: None };
        let hub = Hub::start(&binary, setup).await?;
        feeder.tell(&Order::AwaitTail).await?;
        Ok(Self { begun: (Instant::now(), host::stolen_seconds()), hub, feeder, cluster })
    }

    /// Where the numbers come from.
    pub(crate) fn environment(&self) -> String {
        let environment = host::environment(self.cluster.version(), self.cluster.folder());
        format!("{environment}; {}", host::stolen_since(self.begun))
    }

    /// Processor seconds so far.
    pub(crate) fn usage(&self) -> Usage {
        Usage {
            hub: host::cpu_seconds(self.hub.pid()),
            feeder: host::cpu_seconds(self.feeder.pid()),
            postgres: host::cpu_seconds(self.cluster.pid()),
        }
    }

    /// Stops everything in order.
    pub(crate) async fn stop(self) -> Fallible<()> {
        let Self { hub, feeder, cluster, .. } = self;
        hub.stop().await?;
        feeder.stop().await?;
        drop(cluster);
        Ok(())
    }
}

impl Usage {
    /// What was used since.
    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            hub: self.hub - before.hub,
            feeder: self.feeder - before.feeder,
            postgres: self.postgres - before.postgres,
        }
    }
}
