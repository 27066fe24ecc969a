//! The scenarios of the realtime hub: fan-out, bursts, idle connections, connecting, publishing, two nodes, and growth.
//!
//! Three processes stand apart: a generator of load on one core (`drive`), the server that is measured on another, and this
//! program, which gives orders. Servers are the hub, a floor (`floor`) that does only what nobody can avoid, nchan and sockudo; all
//! are measured in one run, in turn, by the processor time and the memory of their process.

pub(crate) mod bars;
pub(crate) mod burst;
pub(crate) mod cluster;
pub(crate) mod connect;
pub(crate) mod drive;
pub(crate) mod fanout;
pub(crate) mod floor;
pub(crate) mod growth;
pub(crate) mod idle;
mod nchan;
mod orders;
pub(crate) mod pinned;
pub(crate) mod publish;
mod redis;
mod rig;
mod sockudo;
mod stamp;
mod steer;
mod target;
pub(crate) mod usage;
pub(crate) mod wire;

use crate::error::{BenchError, Fallible};
use crate::world::WorldArgs;
use target::{Kind, Peer};

/// What every scenario here can be told.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Common {
    /// What to measure.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Kind::Hub, Kind::Floor, Kind::Nchan, Kind::Sockudo])]
    targets: Vec<Kind>,
    /// A server that already runs, as NAME=DIALECT@ADDRESS#PID with the dialect centrifuge, raw or pusher; may be repeated.
    #[arg(long)]
    peer: Vec<Peer>,
    /// A token for the peers: their clients', and of whoever publishes, unless there is a key for that.
    #[arg(long)]
    peer_token: Option<String>,
    /// The key of the peers' own HTTP API, as Centrifugo has one.
    #[arg(long)]
    peer_api_key: Option<String>,
    /// Seconds from one ping to the next, the same for all servers.
    #[arg(long, default_value_t = 25)]
    ping: u64,
    /// Milliseconds between two turns of the floor's pinging: the longer, the more pings leave together.
    #[arg(long, default_value_t = 500)]
    floor_tick_ms: u64,
    /// The core of the server.
    #[arg(long, default_value_t = 0)]
    server_core: usize,
    /// The core of the generator.
    #[arg(long, default_value_t = 1)]
    generator_core: usize,
    /// The names of the channels, `{n}` for the number.
    #[arg(long, default_value = "bench.{n}")]
    channels: String,
    /// Bytes of a payload.
    #[arg(long, default_value_t = 128)]
    payload: usize,
    /// Times that everything is measured; the middle counts.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Print one last line of JSON.
    #[arg(long)]
    json: bool,
    /// Leave with code 2 when a bar is missed, or cannot be judged though `--targets` left nothing out that it needs.
    #[arg(long)]
    check: bool,
    #[command(flatten)]
    world: WorldArgs,
}

impl Common {
    /// What the hub is told: what is asked for, and what the scenarios need.
    pub(crate) fn settings(&self) -> Vec<String> {
        let mut all = self.world.settings();
        all.push(format!("channels.ping = \"{}s\"", self.ping));
        // The time for an answer must be below the interval, and is 8 seconds by default.
        if self.ping <= 8 {
            all.push(format!("channels.pong = \"{}ms\"", self.ping * 750));
        }
        all.push("channels.max_sessions = 50000".to_owned());
        all
    }
}

/// Runs something that blocks until its input ends, on a thread that nothing has to wait for.
pub(crate) async fn on_own_thread(work: impl FnOnce() -> Fallible<()> + Send + 'static) -> Fallible<bool> {
    let (done_in, done) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let _ = done_in.send(work());
    });
    done.await.map_err(BenchError::because("running a process of the bench"))?.map(|()| true)
}
