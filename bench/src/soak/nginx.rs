//! The nginx that is shipped, before the hubs of a soak: the files of `nginx/` as they stand. Replaced is only what they themselves say
//! differs from place to place: where hubs are, addresses, the certificate, and the folders of the system.

use crate::error::{BenchError, Fallible};
use crate::world::free_address;
use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tokio::process::Child;

/// How long a start may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// The files that differ from place to place, and those that do not but are included.
const PLACES: [&str; 5] = ["hubs.conf", "tls.conf", "plain.conf", "idle.conf", "limits.conf"];

/// The running server. Dropping it asks it to leave: only then do its workers leave too.
#[derive(Debug)]
pub(crate) struct Nginx {
    master: Child,
    pid: u32,
    /// Where clients connect.
    pub(crate) address: SocketAddr,
    prefix: PathBuf,
}

impl Nginx {
    /// Starts it in a folder of its own before these hubs, and waits until it listens.
    pub(crate) async fn start(within: &Path, hubs: &[&str]) -> Fallible<Self> {
        let doing = || BenchError::because("starting nginx");
        let (prefix, address, plain) = (within.join("nginx"), free_address()?, free_address()?);
        fs::create_dir_all(prefix.join("dzvin"))
            .and_then(|()| fs::create_dir(prefix.join("conf.d")))
            .map_err(doing())?;
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../nginx");
        let read = |name: &str| fs::read_to_string(shipped.join(name)).map_err(doing());
        let shipped_hubs = read("dzvin/hubs.conf")?;
        let of_one = shipped_hubs.lines().filter(|line| line.starts_with("server "));
        let servers: String =
            of_one.flat_map(|line| hubs.iter().map(move |hub| line.replace("127.0.0.1:8480", hub) + "\n")).collect();
        let write = |name: &str, text: String| {
            let text = text.replace("/etc/nginx", &prefix.display().to_string());
            fs::write(prefix.join(name), text).map_err(doing())
        };
        for name in PLACES {
            let name = format!("dzvin/{name}");
            let text = match name.as_str() {
                "dzvin/hubs.conf" => servers.clone(),
                "dzvin/tls.conf" => moved(&read(&name)?, "443", &address),
                "dzvin/plain.conf" => moved(&read(&name)?, "80", &plain),
                _ => read(&name)?,
            };
            write(&name, text)?;
        }
        write("conf.d/dzvin.conf", read("dzvin.conf")?)?;
        write("nginx.conf", own(&read("nginx.conf")?, &prefix))?;
        certificate(&prefix)?;
        let mut command = tokio::process::Command::new(program().ok_or_else(|| BenchError::new("nginx is missing"))?);
        command.arg("-p").arg(&prefix).arg("-c").arg(prefix.join("nginx.conf")).args(["-g", "daemon off;"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
        let master = command.spawn().map_err(doing())?;
        let pid = master.id().unwrap_or_default();
        let address = address.parse().map_err(BenchError::because("reading an address"))?;
        let mut nginx = Self { master, pid, address, prefix };
        nginx.ready().await?;
        Ok(nginx)
    }

    async fn ready(&mut self) -> Fallible<()> {
        let begun = Instant::now();
        while TcpStream::connect(self.address).is_err() {
            if self.master.try_wait().is_ok_and(|status| status.is_some()) || begun.elapsed() > PATIENCE {
                let log = fs::read_to_string(self.prefix.join("error.log")).unwrap_or_default();
                return Err(BenchError::new(format!("nginx does not start: {}", log.trim())));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    /// The certificate that it shows.
    pub(crate) fn certificate(&self) -> PathBuf {
        self.prefix.join("dzvin/tls.crt")
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let told = Command::new("sh").args(["-c", "kill -TERM \"$0\"", &self.pid.to_string()]).status();
        let begun = Instant::now();
        while told.is_ok() && begun.elapsed() < PATIENCE && self.master.try_wait().is_ok_and(|it| it.is_none()) {
            std::thread::park_timeout(Duration::from_millis(20));
        }
    }
}

/// Another address in place of the usual port, on one family.
fn moved(text: &str, port: &str, address: &str) -> String {
    let lines = text.lines().filter(|line| !line.starts_with("listen [::]"));
    lines.map(|line| line.replace(&format!("listen {port}"), &format!("listen {address}")) + "\n").collect()
}

/// The main file, with folders of its own.
fn own(text: &str, prefix: &Path) -> String {
    let folder = prefix.display().to_string();
    let root = fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0);
    let user = if root { "user root;" } else { "" };
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|name| format!("    {name}_temp_path {folder}/{name};\n"))
        .concat();
    text.replace("user www-data;", user)
        .replace("/run/nginx.pid", &format!("{folder}/nginx.pid"))
        .replace("/var/log/nginx", &folder)
        .replace("http {\n", &format!("http {{\n{temporary}"))
}

fn program() -> Option<PathBuf> {
    ["/usr/sbin/nginx", "/usr/bin/nginx"].into_iter().map(PathBuf::from).find(|path| path.exists())
}

fn certificate(prefix: &Path) -> Fallible<()> {
    let mut command = Command::new("openssl");
    command.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]);
    command.args(["-subj", "/CN=dzvin.test", "-addext", "subjectAltName=IP:127.0.0.1"]);
    // An authority of its own would not be taken as the server's certificate.
    command.args(["-addext", "basicConstraints=critical,CA:FALSE"]);
    command.arg("-keyout").arg(prefix.join("dzvin/tls.key")).arg("-out").arg(prefix.join("dzvin/tls.crt"));
    let made = command.output().map_err(BenchError::because("running openssl"))?;
    match made.status.success() {
        true => Ok(()),
        false => Err(BenchError::new(format!("no certificate: {}", String::from_utf8_lossy(&made.stderr)))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_the_system_is_left_in_the_shipped_files() {
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../nginx");
        let main = own(&fs::read_to_string(shipped.join("nginx.conf")).unwrap(), Path::new("/p"));
        for word in ["/var/", "/run/", "www-data"] {
            assert!(!main.contains(word), "{word} in {main}");
        }
        assert!(main.contains("worker_rlimit_nofile") && main.contains("proxy_temp_path /p/proxy;"));
        let tls = moved(&fs::read_to_string(shipped.join("dzvin/tls.conf")).unwrap(), "443", "127.0.0.1:9");
        assert!(tls.contains("listen 127.0.0.1:9 ssl http2 backlog=4096;") && !tls.contains("[::]"), "{tls}");
    }
}
