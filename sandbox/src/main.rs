//! The sandbox for people: starts the double, fills it with real objects, lets them change, and says where it is.

use clap::Parser;
use dzvin_sandbox::{DEFAULT_TOKEN, Generate, Play, Sandbox, SandboxConfig, fixtures};
use std::error::Error;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

/// A double of the Prozorro.Sale central database.
#[derive(Debug, Parser)]
#[command(name = "dzvin-sandbox", version)]
struct Args {
    /// Where to listen.
    #[arg(long, default_value = "127.0.0.1:8181")]
    listen: SocketAddr,
    /// Listen beyond loopback: the control API has no password, so only inside a network of one's own.
    #[arg(long)]
    allow_remote: bool,
    /// Objects to begin with, one JSON document a line (.jsonl or .jsonl.gz); the built-in subset if none.
    #[arg(long)]
    data: Option<PathBuf>,
    /// Edits a second; 0 for a world that stands still.
    #[arg(long, default_value_t = 2.0)]
    rate: f64,
    /// Generated objects of the Sale shape beside the real ones, in each collection.
    #[arg(long, default_value_t = 50)]
    generated: usize,
}

#[tokio::main]
async fn main() -> ExitCode {
    tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::from_default_env()).init();
    match run(Args::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("dzvin-sandbox: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: Args) -> Result<(), Box<dyn Error>> {
    let mut config = SandboxConfig { listen: args.listen, allow_remote: args.allow_remote, ..SandboxConfig::default() };
    let data = args.data;
    let read = move || data.map_or_else(fixtures::real, |path| fixtures::from_file(&path));
    let seed = tokio::task::spawn_blocking(read).await??;
    if let Some(first) = config.collections.first_mut() {
        first.seed = seed;
    }
    let handle = Sandbox::start(config).await?;
    let control = handle.control();
    for (n, collection) in (0u64..).zip(control.collections()) {
        control.generate(&Generate { collection, count: args.generated, seed: n, ..Generate::default() })?;
    }
    control.play(&Play { rate_per_s: args.rate, ..Play::default() })?;
    for collection in control.collections() {
        println!("mirror   {}   {} objects", handle.mirror_url(&collection), control.count(&collection)?);
    }
    println!("api      {}", handle.api_url());
    println!("control  {}", handle.control_url());
    println!("token    {DEFAULT_TOKEN}   (headers: Authorization, Platform-Version: 1.0 or higher)");
    tokio::signal::ctrl_c().await?;
    handle.stop().await;
    Ok(())
}
