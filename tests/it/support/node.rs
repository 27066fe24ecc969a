//! Programs on Node: the real JavaScript clients of `tests/clients`.

use std::{path::Path, process::Stdio};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
    time::timeout,
};

use super::{
    eventually::{in_time, patience},
    hub::World,
};

/// A running script of `tests/clients` that is asked over stdin and answers on stdout, one JSON line each.
pub struct Script {
    _child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

impl Script {
    /// Starts it and waits until it says that it is ready.
    pub async fn start(script: &str, args: &[&str], certificate: Option<&Path>) -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients");
        assert!(folder.join("node_modules").exists(), "no node packages in tests/clients; scripts/test installs them");
        let mut child = Command::new("node")
            .current_dir(folder)
            .arg(script)
            .args(args)
            .envs(certificate.map(|certificate| ("NODE_EXTRA_CA_CERTS", certificate)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("node starts");
        let input = child.stdin.take().expect("stdin");
        let output = BufReader::new(child.stdout.take().expect("stdout")).lines();
        let mut it = Self { _child: child, input, output };
        it.hear("ready").await;
        it
    }

    /// Asks, and waits for the answer of this name.
    pub async fn ask(&mut self, command: Value, event: &str) -> Value {
        self.input.write_all(format!("{command}\n").as_bytes()).await.expect("told");
        self.hear(event).await
    }

    async fn hear(&mut self, event: &str) -> Value {
        loop {
            let line = timeout(patience() * 2, self.output.next_line()).await;
            let line = line.unwrap_or_else(|_| panic!("the script said no {event} in time")).expect("read");
            let line = line.unwrap_or_else(|| panic!("the script ended before it said {event}"));
            let heard: Value = serde_json::from_str(&line).expect("a line of json");
            assert_ne!(heard["event"], "gone", "a client was sent away for good: {heard}");
            if heard["event"] == event {
                return heard;
            }
        }
    }
}

/// A group of followers: unmodified `centrifuge` clients with a ledger (`tests/clients/follow.mjs`).
pub struct Followers(Script);

impl Followers {
    /// Starts them and waits until all are subscribed.
    pub async fn start(url: &str, clients: usize, more: &[&str]) -> Self {
        Self::spawn(url, clients, more, None).await
    }

    /// The same through a proxy whose certificate is this one.
    pub async fn start_trusting(url: &str, clients: usize, certificate: &Path) -> Self {
        Self::spawn(url, clients, &[], Some(certificate)).await
    }

    async fn spawn(url: &str, clients: usize, more: &[&str], certificate: Option<&Path>) -> Self {
        let (token, clients) = (World::token("viewer"), clients.to_string());
        let args = [&["--url", url, "--token", &token, "--clients", &clients], more].concat();
        Self(Script::start("follow.mjs", &args, certificate).await)
    }

    /// The last offset of each follower.
    pub async fn progress(&mut self) -> Vec<u64> {
        let heard = self.0.ask(json!({"ask": "progress"}), "progress").await;
        heard["last"].as_array().expect("a list").iter().filter_map(Value::as_u64).collect()
    }

    /// Waits until each has been told this offset; when one has not, shows where each stands.
    pub async fn reach(&mut self, what: &str, offset: u64) {
        let mut last = Vec::new();
        let all = in_time(async || {
            last = self.progress().await;
            last.iter().all(|at| *at >= offset)
        });
        assert!(all.await.is_some(), "never happened: {what}: all at {offset}, but {last:?}");
    }

    /// Lets them catch up with the list that REST shows now, and compares. The report is in `tests/clients/follow.mjs`.
    pub async fn finish(mut self) -> Value {
        self.0.ask(json!({"ask": "finish", "patience_ms": patience().as_millis() as u64}), "report").await
    }
}
