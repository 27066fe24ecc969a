//! Programs on Node: the real JavaScript clients of `tests/clients`.

use std::{path::Path, process::Stdio};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
    time::timeout,
};

use super::{eventually::patience, hub::World};

/// A group of followers: unmodified `centrifuge` clients with a ledger (`tests/clients/follow.mjs`).
pub struct Followers {
    _child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

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
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients");
        assert!(folder.join("node_modules").exists(), "no node packages in tests/clients; scripts/test installs them");
        let mut child = Command::new("node")
            .current_dir(folder)
            .args(["follow.mjs", "--url", url, "--token", &World::token("viewer"), "--clients", &clients.to_string()])
            .args(more)
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

    /// The last offset of each follower.
    pub async fn progress(&mut self) -> Vec<u64> {
        self.tell(json!({"ask": "progress"})).await;
        let heard = self.hear("progress").await;
        heard["last"].as_array().expect("a list").iter().filter_map(Value::as_u64).collect()
    }

    /// Lets them catch up with the list that REST shows now, and compares. The report is in `tests/clients/follow.mjs`.
    pub async fn finish(mut self) -> Value {
        self.tell(json!({"ask": "finish", "patience_ms": patience().as_millis() as u64})).await;
        self.hear("report").await
    }

    async fn tell(&mut self, command: Value) {
        self.input.write_all(format!("{command}\n").as_bytes()).await.expect("told");
    }

    async fn hear(&mut self, event: &str) -> Value {
        loop {
            let line = timeout(patience() * 2, self.output.next_line()).await;
            let line = line.unwrap_or_else(|_| panic!("followers said no {event} in time")).expect("read");
            let line = line.unwrap_or_else(|| panic!("followers ended before they said {event}"));
            let heard: Value = serde_json::from_str(&line).expect("a line of json");
            assert_ne!(heard["event"], "gone", "a follower was sent away for good: {heard}");
            if heard["event"] == event {
                return heard;
            }
        }
    }
}
