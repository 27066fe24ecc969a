//! Redis behind TLS: one server, and a cluster, whose servers name their TLS ports over TLS.
//!
//! Who is trusted stands in the system's store, and which that is in the environment; so the hub runs in a process of its own: this
//! same binary, asked for one test.

use std::{env, path::Path, process::Command};

use dzvin::channels::bus::HistoryLimits;
use dzvin_actors::platform::ports::Bus;
use dzvin_protocols::platform::StreamName;

use super::{
    kit::{bare, hub},
    scene::publish,
    servers::Server,
};
use crate::support::{eventually::eventually, ports::free_port};

/// The addresses for the process that trusts, between spaces: the first is refused.
const URLS: &str = "DZVIN_TEST_TLS_URLS";

/// A certificate that vouches for itself, and its key.
fn certificate(dir: &Path, name: &str) -> [String; 2] {
    let [cert, key] = ["crt", "key"].map(|end| dir.join(format!("{name}.{end}")).display().to_string());
    let done = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"])
        .args(["-subj", "/CN=redis", "-addext", "subjectAltName=IP:127.0.0.1"])
        .args(["-addext", "basicConstraints=critical,CA:FALSE", "-out", &cert, "-keyout", &key])
        .output()
        .expect("openssl is installed");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    [cert, key]
}

async fn server(files: &[String; 2], extra: &[&str]) -> (Server, String) {
    let (port, [cert, key]) = (free_port().to_string(), files);
    let tls = ["--tls-port", &port, "--tls-cert-file", cert, "--tls-key-file", key, "--tls-ca-cert-file", cert];
    let server = Server::start(&[tls.as_slice(), &["--tls-auth-clients", "no"], extra].concat()).await;
    (server, format!("127.0.0.1:{port}"))
}

#[tokio::test]
async fn certificates_are_checked() {
    let dir = tempfile::tempdir().expect("a folder");
    let (trusted, other) = (certificate(dir.path(), "trusted"), certificate(dir.path(), "other"));
    let (one, one_at) = server(&trusted, &[]).await;
    let (_stranger, stranger_at) = server(&other, &[]).await;
    let bus = free_port().to_string();
    let options = ["--cluster-enabled", "yes", "--cluster-port", &bus, "--tls-cluster", "yes"];
    let (member, member_at) = server(&trusted, &options).await;
    member.ok(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]).await;
    eventually("the cluster is whole", || async {
        member.ask(&["CLUSTER", "INFO"]).await.contains("cluster_state:ok")
    })
    .await;
    let urls = format!("rediss://{stranger_at} rediss://{one_at} rediss-cluster://{member_at}");
    let output = tokio::process::Command::new(env::current_exe().expect("this binary"))
        .args(["--exact", "bus::tls::a_hub_that_trusts", "--ignored"])
        .env(URLS, urls)
        .env("SSL_CERT_FILE", &trusted[0])
        .output()
        .await
        .expect("it ran");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    for server in [&one, &member] {
        assert_eq!(server.ask(&["EXISTS", "{dz:chat.1}:position"]).await, ":1\r\n", "it was there");
    }
}

#[tokio::test]
#[ignore = "the other process of the test above"]
async fn a_hub_that_trusts() {
    let Ok(urls) = env::var(URLS) else { return };
    let mut urls = urls.split(' ');
    let stranger = bare(urls.next().expect("an address"));
    for url in urls {
        let (bus, _events) = hub(url, HistoryLimits::default()).await;
        let name = StreamName::from_checked("chat.1");
        let at = publish(&bus, &name, 1).await;
        assert_eq!(bus.position(&name).await.expect("asked"), Some(at));
    }
    eventually("the stranger is refused", || async { stranger.metrics().failures.get() > 2 }).await;
    assert!(!stranger.is_connected());
}
