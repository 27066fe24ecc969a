//! Processes that are bound to one core and may open many files, by the tools of util-linux, and the way to talk to ours.

use super::orders::{Answer, Order};
use crate::error::{BenchError, Fallible};
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::OnceLock;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

/// Files that a process may open, where we may say so.
const FILES: u64 = 65_536;
/// How long one of ours may take to leave after its input ended.
const GRACE: Duration = Duration::from_secs(5);

/// A command on one core. The program takes the place of the tools, so the process that is started is its own.
pub(crate) fn command(core: usize, program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("prlimit");
    command.arg(format!("--nofile={0}:{0}", files())).args(["taskset", "-c", &core.to_string()]).arg(program);
    command.process_group(0).kill_on_drop(true);
    command
}

/// What a process of ours may open: more than we were given where we may say so, which not even root may everywhere.
fn files() -> u64 {
    static FOUND: OnceLock<u64> = OnceLock::new();
    *FOUND.get_or_init(|| {
        let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
        let hard = hard_limit(&limits).unwrap_or(1024);
        let mut raise = std::process::Command::new("prlimit");
        let raise = raise.args([format!("--nofile={FILES}:{FILES}").as_str(), "true"]).stderr(Stdio::null());
        if hard < FILES && raise.status().is_ok_and(|status| status.success()) { FILES } else { hard }
    })
}

fn hard_limit(limits: &str) -> Option<u64> {
    let line = limits.lines().find(|line| line.starts_with("Max open files"))?;
    line.split_ascii_whitespace().nth(4)?.parse().ok()
}

/// Says why the scenarios cannot be run here, if so.
pub(crate) fn fit(core: usize, connections: usize) -> Fallible<()> {
    let cores = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cores = cores.lines().filter(|line| line.starts_with("processor")).count();
    if core >= cores {
        return Err(BenchError::new(format!("core {core} is asked for, and there are {cores}")));
    }
    if !Path::new("/usr/bin/taskset").exists() || !Path::new("/usr/bin/prlimit").exists() {
        return Err(BenchError::new("taskset or prlimit is missing: install util-linux"));
    }
    if connections as u64 + 100 > files() {
        return Err(BenchError::new(format!(
            "{connections} connections need a limit of open files above that; there are {}",
            files()
        )));
    }
    Ok(())
}

/// This program under another of its commands, on a core of its own; it lives as long as its input.
#[derive(Debug)]
pub(crate) struct Own {
    child: Child,
    pid: u32,
    orders: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Own {
    /// Starts it.
    pub(crate) fn start(core: usize, args: &[String]) -> Fallible<Self> {
        Self::spawn(command(core, this_program()?), args)
    }

    /// The same on whatever core is free.
    pub(crate) fn anywhere(args: &[String]) -> Fallible<Self> {
        let mut command = Command::new(this_program()?);
        command.process_group(0).kill_on_drop(true);
        Self::spawn(command, args)
    }

    fn spawn(mut command: Command, args: &[String]) -> Fallible<Self> {
        let child = command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = child.map_err(BenchError::because("starting a process of the bench; is prlimit there?"))?;
        let pipes = child.stdin.take().zip(child.stdout.take());
        let (orders, answers) = pipes.ok_or_else(|| BenchError::new("a process of the bench has no pipes"))?;
        let pid = child.id().unwrap_or_default();
        Ok(Self { child, pid, orders, answers: BufReader::new(answers).lines() })
    }

    /// Its next line.
    pub(crate) async fn line(&mut self) -> Fallible<String> {
        let line = self.answers.next_line().await.map_err(BenchError::because("reading an answer"))?;
        line.ok_or_else(|| BenchError::new("a process of the bench has ended"))
    }

    /// Gives the generator an order and waits until it is carried out.
    pub(crate) async fn tell(&mut self, order: &Order) -> Fallible<Answer> {
        let line = serde_json::to_string(order).map_err(BenchError::because("writing an order"))? + "\n";
        self.orders.write_all(line.as_bytes()).await.map_err(BenchError::because("writing an order"))?;
        let answer: Answer =
            serde_json::from_str(&self.line().await?).map_err(BenchError::because("reading an answer"))?;
        match answer.error {
            Some(error) => Err(BenchError::new(format!("the generator: {error}"))),
            None => Ok(answer),
        }
    }

    /// The process.
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// Ends its input and waits for it.
    pub(crate) async fn stop(mut self) {
        drop(self.orders);
        // What does not go by itself is killed when it is dropped.
        let _ = timeout(GRACE, self.child.wait()).await;
    }
}

fn this_program() -> Fallible<PathBuf> {
    std::env::current_exe().map_err(BenchError::because("finding this program"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hard_limit_is_the_second_number() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units\n\
                      Max open files            1024                 524288               files\n";
        assert_eq!(hard_limit(limits), Some(524_288));
        assert_eq!(hard_limit(""), None);
        assert!(files() > 0);
    }
}
