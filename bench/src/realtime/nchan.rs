//! The peer from the distribution: one worker of nginx with the nchan module, in a folder of its own.

use super::pinned;
use super::usage;
use crate::error::{BenchError, Fallible};
use crate::world::free_address;
use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::process::Child;

/// Where distributions put the module.
const MODULE: &str = "/usr/lib/nginx/modules/ngx_nchan_module.so";
/// How long a start may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// The running server. Dropping it asks it to leave: only then does its worker leave too.
#[derive(Debug)]
pub(crate) struct Nchan {
    master: Child,
    pid: u32,
    worker: u32,
    address: String,
    folder: TempDir,
}

impl Nchan {
    /// Why it cannot be measured here, if so.
    pub(crate) fn missing() -> Option<&'static str> {
        let there = Path::new(MODULE).exists() && program().is_some();
        (!there).then_some("nchan is not installed: apt-get install libnginx-mod-nchan nginx-light")
    }

    /// Starts it and waits until it listens.
    pub(crate) async fn start(core: usize, ping_seconds: u64) -> Fallible<Self> {
        let doing = || BenchError::because("starting nginx with nchan");
        let folder = tempfile::Builder::new().prefix("dzn").tempdir().map_err(doing())?;
        let address = free_address()?;
        let config = folder.path().join("nginx.conf");
        fs::write(&config, configuration(&address, folder.path(), ping_seconds)).map_err(doing())?;
        let program = program().ok_or_else(|| BenchError::new("nginx is not installed"))?;
        let mut command = pinned::command(core, program);
        command.arg("-p").arg(folder.path()).arg("-c").arg(&config).arg("-e").arg(folder.path().join("error.log"));
        let master = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().map_err(doing())?;
        let pid = master.id().unwrap_or_default();
        let mut nchan = Self { master, pid, worker: 0, address, folder };
        nchan.ready().await?;
        Ok(nchan)
    }

    async fn ready(&mut self) -> Fallible<()> {
        let begun = Instant::now();
        loop {
            if let Some(worker) = usage::child_of(self.pid)
                && TcpStream::connect(&self.address).is_ok()
            {
                self.worker = worker;
                return Ok(());
            }
            if self.master.try_wait().is_ok_and(|status| status.is_some()) || begun.elapsed() > PATIENCE {
                let log = fs::read_to_string(self.folder.path().join("error.log")).unwrap_or_default();
                return Err(BenchError::new(format!("nginx with nchan does not start: {}", log.trim())));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// The process that does the work.
    pub(crate) fn worker(&self) -> u32 {
        self.worker
    }
}

impl Drop for Nchan {
    fn drop(&mut self) {
        let told = Command::new("sh").args(["-c", "kill -TERM \"$0\"", &self.pid.to_string()]).status();
        let begun = Instant::now();
        while told.is_ok() && begun.elapsed() < PATIENCE && self.master.try_wait().is_ok_and(|it| it.is_none()) {
            std::thread::park_timeout(Duration::from_millis(20));
        }
    }
}

fn program() -> Option<PathBuf> {
    ["/usr/sbin/nginx", "/usr/bin/nginx"].into_iter().map(PathBuf::from).find(|path| path.exists())
}

/// History as a hub keeps it, pings as often, and no log of requests.
fn configuration(address: &str, folder: &Path, ping_seconds: u64) -> String {
    let folder = folder.display();
    let user = if fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0) {
        "user root;"
    } else {
        ""
    };
    format!(
        r#"load_module {MODULE};
{user}
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log error;
events {{ worker_connections 18000; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  keepalive_requests 1000000000;
  nchan_shared_memory_size 512M;
  server {{
    listen {address} backlog=65535;
    location ~ ^/sub/(.+)$ {{
      nchan_subscriber websocket;
      nchan_channel_id $1;
      nchan_subscriber_first_message newest;
      nchan_websocket_ping_interval {ping_seconds};
      nchan_subscriber_timeout 0;
    }}
    location ~ ^/pub/(.+)$ {{
      nchan_publisher http;
      nchan_channel_id $1;
      nchan_message_buffer_length 100;
      nchan_message_timeout 1m;
    }}
  }}
}}
"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_names_its_own_folder_only() {
        let text = configuration("127.0.0.1:1", Path::new("/x"), 25);
        assert!(text.contains("listen 127.0.0.1:1 backlog=65535;") && text.contains("pid /x/nginx.pid;"));
        assert!(!text.contains("/var/"));
    }
}
