//! The benchmarks: `ingest` and `e2e`, each against a PostgreSQL, a Mirror and a hub that it starts and stops by itself; those
//! of the realtime hub, beside a floor and nchan; and `rest`, beside a bare handler and `pgbench`.
//!
//! The hub is the built binary in a process of its own, so its processor time and its memory are its own; so is the Mirror
//! (`feed`, a hidden command of this program over the sandbox's crate). How to run and to read them: `docs/BENCHMARKS.md`.

mod e2e;
mod error;
mod feed;
mod floor;
mod host;
mod ingest;
mod metrics;
mod realtime;
mod report;
mod rest;
mod sample;
#[cfg(test)]
mod settings_tests;
mod soak;
mod subscriber;
mod world;

use clap::{Parser, Subcommand};
use error::{BenchError, Fallible};
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};

/// Measures Dzvin.
#[derive(Debug, Parser)]
#[command(name = "dzvin-bench", version)]
struct Cli {
    #[command(subcommand)]
    scenario: Scenario,
}

#[derive(Debug, Subcommand)]
enum Scenario {
    /// Objects a second from a Mirror's socket into the database, beside a plain loop that writes the same rows.
    Ingest(ingest::Args),
    /// Time from the Mirror's send to a client's receipt at a steady rate.
    E2e(e2e::Args),
    /// Entities read and written over HTTP, beside a bare handler and plain statements; then a mix at a steady rate.
    Rest(rest::Args),
    /// Resident memory of the hub over a million small changes, or over large objects.
    Soak(soak::memory::Args),
    /// Clients of all kinds on two nodes, while nodes and Redis die: nothing lost, memory flat, nothing left behind.
    SoakHub(soak::hub::Args),
    /// A rolling restart of two nodes behind nginx under thousands of clients: nothing lost, no storm.
    SoakDrain(soak::drain::Args),
    /// One channel, many subscribers: processor time and latency of each delivery.
    Fanout(realtime::fanout::Args),
    /// Many channels, publications as fast as they are accepted.
    Burst(realtime::burst::Args),
    /// Many connections to which nothing is published: their memory, and the cost of keeping them alive.
    Idle(realtime::idle::Args),
    /// Many clients that come at a time.
    Connect(realtime::connect::Args),
    /// Publications to nobody and to a few.
    Publish(realtime::publish::Args),
    /// Two hubs over one Redis: latency, and what Redis does for a publication.
    Cluster(realtime::cluster::Args),
    /// Whether a delivery or a connection costs more when there are many.
    Growth(realtime::growth::Args),
    /// The generator of load: orders on standard input, answers on standard output.
    #[command(hide = true)]
    Drive,
    /// The server that does only what nobody can avoid.
    #[command(hide = true)]
    Floor(realtime::floor::Args),
    /// The web framework with nothing in it.
    #[command(hide = true)]
    Bare,
    /// The Mirror's side of the scenarios: orders on standard input, answers on standard output.
    #[command(hide = true)]
    Feed,
}

#[tokio::main]
async fn main() -> ExitCode {
    let scenario = async {
        match Cli::parse().scenario {
            Scenario::Ingest(args) => ingest::run(&args).await,
            Scenario::E2e(args) => e2e::run(&args).await,
            Scenario::Rest(args) => rest::run(&args).await,
            Scenario::Soak(args) => soak::memory::run(&args).await,
            Scenario::SoakHub(args) => soak::hub::run(&args).await,
            Scenario::SoakDrain(args) => soak::drain::run(&args).await,
            Scenario::Fanout(args) => realtime::fanout::run(&args).await,
            Scenario::Burst(args) => realtime::burst::run(&args).await,
            Scenario::Idle(args) => realtime::idle::run(&args).await,
            Scenario::Connect(args) => realtime::connect::run(&args).await,
            Scenario::Publish(args) => realtime::publish::run(&args).await,
            Scenario::Cluster(args) => realtime::cluster::run(&args).await,
            Scenario::Growth(args) => realtime::growth::run(&args).await,
            Scenario::Drive => realtime::on_own_thread(realtime::drive::run).await,
            Scenario::Floor(args) => realtime::on_own_thread(move || realtime::floor::run(&args)).await,
            Scenario::Bare => rest::bare::run().await.map(|()| true),
            Scenario::Feed => feed::run().await.map(|()| true),
        }
    };
    // A signal drops the scenario, and with it everything that it started.
    let done = tokio::select! {
        done = scenario => done,
        told = interrupted() => told.and(Err(BenchError::new("interrupted"))),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(2),
        Err(error) => {
            eprintln!("dzvin-bench: {}", error.chain());
            ExitCode::FAILURE
        }
    }
}

async fn interrupted() -> Fallible<()> {
    let mut terminate = signal(SignalKind::terminate()).map_err(BenchError::because("listening for signals"))?;
    tokio::select! {
        interrupt = tokio::signal::ctrl_c() => interrupt.map_err(BenchError::because("listening for signals")),
        _ = terminate.recv() => Ok(()),
    }
}
