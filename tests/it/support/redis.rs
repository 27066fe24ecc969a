//! A real Redis of one's own: on a unix socket in a temporary folder, so that tests never meet on a port.

use std::{
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
};

use super::{
    eventually::eventually,
    proxy::{Proxy, Upstream},
};

/// A running server; it dies with this value.
#[derive(Debug)]
pub struct Redis {
    folder: TempDir,
    server: Option<Child>,
}

impl Redis {
    /// A new, empty server that saves only when it is told to.
    pub async fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut redis = Self { folder, server: None };
        redis.restart().await;
        redis
    }

    /// `redis+unix://...`
    pub fn url(&self) -> String {
        format!("redis+unix://{}", self.socket().display())
    }

    /// A proxy before it, over TCP, and the address that leads through it.
    pub async fn proxy(&self) -> (Proxy, String) {
        let proxy = Proxy::start(Upstream::Unix(self.socket())).await;
        let url = format!("redis://{}", proxy.addr);
        (proxy, url)
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("redis.sock")
    }

    /// `kill -9`: whatever was not saved is gone.
    pub fn kill(&mut self) {
        if let Some(mut server) = self.server.take() {
            server.kill().expect("killed");
            server.wait().expect("gone");
        }
    }

    /// Stops it without its clients noticing: they wait. `false` lets it go on.
    pub fn hold(&self, held: bool) {
        let server = self.server.as_ref().expect("a running server").id().to_string();
        let signal = if held { "-STOP" } else { "-CONT" };
        assert!(Command::new("kill").args([signal, &server]).status().expect("kill").success());
    }

    /// Starts it again on what was last saved.
    pub async fn restart(&mut self) {
        self.kill();
        let _ = std::fs::remove_file(self.socket());
        let server = Command::new("redis-server")
            .args(["--port", "0", "--save", "", "--appendonly", "no", "--dir"])
            .arg(self.folder.path())
            .arg("--unixsocket")
            .arg(self.socket())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("redis-server is installed");
        self.server = Some(server);
        eventually("redis answers", || async { self.command(&["PING"]).await.is_ok_and(|a| a.contains("PONG")) }).await;
    }

    /// Starts it again with nothing.
    pub async fn restart_empty(&mut self) {
        self.kill();
        let _ = std::fs::remove_file(self.folder.path().join("dump.rdb"));
        self.restart().await;
    }

    /// Writes everything to disk now.
    pub async fn save(&self) {
        assert_eq!(self.command(&["SAVE"]).await.expect("answered"), "+OK\r\n");
    }

    pub async fn flush(&self) {
        assert_eq!(self.command(&["FLUSHALL"]).await.expect("answered"), "+OK\r\n");
    }

    /// Sends one command and answers the beginning of what comes back, as it is on the wire.
    pub async fn command(&self, words: &[&str]) -> std::io::Result<String> {
        let mut socket = UnixStream::connect(self.socket()).await?;
        let mut request = format!("*{}\r\n", words.len());
        words.iter().for_each(|word| request += &format!("${}\r\n{word}\r\n", word.len()));
        socket.write_all(request.as_bytes()).await?;
        let mut answer = vec![0; 64 * 1024];
        let n = socket.read(&mut answer).await?;
        Ok(String::from_utf8_lossy(&answer[..n]).into_owned())
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
    }
}
