//! Servers of Redis over TCP, as many as a topology takes: a primary and its replica, sentinels, a cluster.

use std::{
    process::{Child, Command, Stdio},
    sync::Weak,
};

use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::Mutex,
};

use crate::support::{eventually::eventually, ports::free_port};

/// A running server; it dies with this value.
#[derive(Debug)]
pub struct Server {
    folder: TempDir,
    child: Option<Child>,
    pub port: u16,
    args: Vec<String>,
    /// Others know its port.
    known: bool,
}

impl Server {
    /// A server that saves only when it is told to.
    pub async fn start(extra: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let dir = folder.path().display().to_string();
        let saves = ["--save", "", "--appendonly", "no", "--dir", &dir, "--repl-diskless-sync-delay", "0"];
        Self::begin(folder, saves.iter().chain(extra).map(ToString::to_string).collect()).await
    }

    /// A sentinel that watches one primary under the name of `main`, and decides alone.
    pub async fn sentinel(of: u16, extra: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("sentinel.conf");
        let text = format!(
            "sentinel monitor main 127.0.0.1 {of} 1\nsentinel down-after-milliseconds main 400\n\
             sentinel failover-timeout main 2000\n{extra}\n"
        );
        std::fs::write(&path, text).expect("written");
        let args = vec![path.display().to_string(), "--sentinel".to_owned()];
        Self::begin(folder, args).await
    }

    async fn begin(folder: TempDir, args: Vec<String>) -> Self {
        let mut server = Self { folder, child: None, port: free_port(), args, known: false };
        server.restart().await;
        server
    }

    /// Starts it again, where it was; at the first time on another port, if somebody was faster.
    pub async fn restart(&mut self) {
        self.kill();
        for _ in 0..10 {
            let mut child = Command::new("redis-server")
                .args(&self.args)
                .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1"])
                .current_dir(self.folder.path())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .expect("redis-server is installed");
            let up = eventually("it answers or ends", async || {
                if let Ok(Some(_)) = child.try_wait() {
                    return Some(false);
                }
                self.command(&["PING"]).await.is_ok_and(|a| a.contains("PONG")).then_some(true)
            });
            if up.await {
                (self.child, self.known) = (Some(child), true);
                return;
            }
            assert!(!self.known, "its port is taken");
            self.port = free_port();
        }
        panic!("no free port");
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("killed");
            child.wait().expect("gone");
        }
    }

    /// Stands still, with its connections open, or goes on.
    pub fn pause(&self, pause: bool) {
        let pid = self.child.as_ref().expect("a running server").id().to_string();
        let signal = if pause { "-STOP" } else { "-CONT" };
        assert!(Command::new("kill").args([signal, &pid]).status().expect("kill").success());
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Sends one command and answers what comes back, as it is on the wire.
    pub async fn command(&self, words: &[&str]) -> std::io::Result<String> {
        let mut socket = TcpStream::connect(self.address()).await?;
        let mut request = format!("*{}\r\n", words.len());
        words.iter().for_each(|word| request += &format!("${}\r\n{word}\r\n", word.len()));
        socket.write_all(request.as_bytes()).await?;
        let mut answer = vec![0; 64 * 1024];
        let n = socket.read(&mut answer).await?;
        Ok(String::from_utf8_lossy(&answer[..n]).into_owned())
    }

    /// The same, for what has to be answered.
    pub async fn ask(&self, words: &[&str]) -> String {
        let answer = self.command(words).await.expect("answered");
        assert!(!answer.starts_with('-'), "{words:?}: {answer}");
        answer
    }

    pub async fn ok(&self, words: &[&str]) {
        assert_eq!(self.ask(words).await, "+OK\r\n", "{words:?}");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The body of an answer that is one text.
pub fn text(answer: &str) -> &str {
    answer.split_once("\r\n").map_or("", |(_, body)| body.trim_end())
}

/// A cluster; it dies with this value. The first `primaries` servers share the slots, the others are a replica each.
#[derive(Debug)]
pub struct Cluster {
    pub servers: Vec<Server>,
    primaries: usize,
}

/// A cluster that has just begun and nobody changes is for all tests that run at the same time.
static SHARED: Mutex<Weak<Cluster>> = Mutex::const_new(Weak::new());

impl Cluster {
    pub async fn start(primaries: usize, replicas: usize) -> Self {
        let buses: Vec<String> = (0..primaries + replicas).map(|_| free_port().to_string()).collect();
        let all = buses.iter().map(|bus| async move {
            let options = ["--cluster-enabled", "yes", "--cluster-node-timeout", "800", "--cluster-port", bus];
            // One that is lost must not stop the others, and a replica that lags may take over.
            let lenient = ["--cluster-require-full-coverage", "no", "--cluster-replica-validity-factor", "0"];
            Server::start(&[options.as_slice(), &lenient].concat()).await
        });
        let cluster = Self { servers: futures_util::future::join_all(all).await, primaries };
        for index in 0..primaries {
            let bound = |n: usize| n * 16_384 / primaries;
            let (first, last) = (bound(index).to_string(), (bound(index + 1) - 1).to_string());
            cluster.servers[index].ok(&["CLUSTER", "ADDSLOTSRANGE", &first, &last]).await;
        }
        let first = &cluster.servers[0];
        for (index, server) in cluster.servers.iter().enumerate() {
            server.ok(&["CLUSTER", "SET-CONFIG-EPOCH", &(index + 1).to_string()]).await;
            server.ok(&["CLUSTER", "MEET", "127.0.0.1", &first.port.to_string(), &buses[0]]).await;
        }
        cluster.settles().await;
        for (index, replica) in cluster.servers.iter().enumerate().skip(primaries) {
            let of = cluster.id(index - primaries).await;
            eventually("it is a replica", || async {
                replica.command(&["CLUSTER", "REPLICATE", &of]).await.is_ok_and(|answer| answer == "+OK\r\n")
            })
            .await;
        }
        for replica in &cluster.servers[primaries..] {
            eventually("it replicates", || async {
                replica.ask(&["INFO", "replication"]).await.contains("master_link_status:up")
            })
            .await;
        }
        cluster.settles().await;
        cluster
    }

    /// Three primaries that nobody may change.
    pub async fn shared() -> std::sync::Arc<Self> {
        let mut shared = SHARED.lock().await;
        if let Some(cluster) = shared.upgrade() {
            return cluster;
        }
        let cluster = std::sync::Arc::new(Self::start(3, 0).await);
        *shared = std::sync::Arc::downgrade(&cluster);
        cluster
    }

    async fn settles(&self) {
        for server in &self.servers {
            eventually("the cluster is whole", || async {
                let info = server.ask(&["CLUSTER", "INFO"]).await;
                info.contains("cluster_state:ok")
                    && info.contains("cluster_slots_ok:16384")
                    && info.contains(&format!("cluster_known_nodes:{}", self.servers.len()))
            })
            .await;
        }
    }

    pub fn url(&self) -> String {
        let mut addresses = self.servers.iter().take(self.primaries).map(Server::address);
        let first = addresses.next().expect("a server");
        let nodes: Vec<_> = addresses.map(|address| format!("node={address}")).collect();
        format!("redis-cluster://{first}?{}", nodes.join("&"))
    }

    pub async fn id(&self, index: usize) -> String {
        text(&self.servers[index].ask(&["CLUSTER", "MYID"]).await).to_owned()
    }

    pub async fn slot(&self, key: &str) -> u16 {
        let answer = self.servers[0].ask(&["CLUSTER", "KEYSLOT", key]).await;
        answer.trim_start_matches(':').trim_end().parse().expect("a slot")
    }

    /// Which server has the key, when the cluster is as it began.
    pub async fn owner(&self, key: &str) -> usize {
        usize::from(self.slot(key).await) * self.primaries / 16_384
    }
}
