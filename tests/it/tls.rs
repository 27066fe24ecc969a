//! The hub behind its own TLS: real clients with a real authority, certificates that change under load, and those who do not
//! mean well.

use std::{
    collections::HashSet,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::{SinkExt, StreamExt};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_tungstenite::{
    Connector, MaybeTlsStream, WebSocketStream, connect_async_tls_with_config, tungstenite::Message,
};

use crate::support::{
    eventually::{eventually, patience},
    hub::{Hub, World},
};

/// An authority and what it has signed, in a folder of the test.
struct Authority(PathBuf);

impl Authority {
    fn new(dir: &Path) -> Self {
        let it = Self(dir.join("authority"));
        fs::create_dir_all(&it.0).expect("a folder");
        let made = ["req", "-x509", "-days", "2", "-subj", "/CN=dzvin test authority"];
        it.openssl(&[&made[..], &KEY, &["-keyout", "ca.key", "-out", "ca.crt"]].concat());
        it
    }

    fn openssl(&self, args: &[&str]) {
        let ran = Command::new("openssl").args(args).current_dir(&self.0).output().expect("openssl is installed");
        assert!(ran.status.success(), "{args:?}: {}", String::from_utf8_lossy(&ran.stderr));
    }

    /// Signs a certificate and puts it, with its key, where the hub looks for them.
    fn issue(&self, name: &str) {
        fs::write(self.0.join("ext"), "subjectAltName=IP:127.0.0.1\n").expect("written");
        let subject = format!("/CN={name}");
        let ask = ["req", "-subj", &subject];
        self.openssl(&[&ask[..], &KEY, &["-keyout", "new.key", "-out", "new.csr"]].concat());
        self.openssl(&[
            "x509",
            "-req",
            "-in",
            "new.csr",
            "-CA",
            "ca.crt",
            "-CAkey",
            "ca.key",
            "-CAcreateserial",
            "-days",
            "2",
            "-extfile",
            "ext",
            "-out",
            "new.crt",
        ]);
        for (from, to) in [("new.crt", "tls.crt"), ("new.key", "tls.key")] {
            fs::rename(self.0.join(from), self.0.join(to)).expect("put in place");
        }
    }

    /// `[http.tls]` of a hub.
    fn config(&self, more: &str) -> String {
        let folder = self.0.display();
        format!(
            "[http.tls]\ncertificate = '{folder}/tls.crt'\nkey = '{folder}/tls.key'\nreload_interval = '100ms'\n{more}\n"
        )
    }

    fn client(&self) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        let authority = CertificateDer::from_pem_file(self.0.join("ca.crt")).expect("a certificate");
        roots.add(authority).expect("an authority");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        Arc::new(builder.expect("versions").with_root_certificates(roots).with_no_client_auth())
    }

    async fn connect(&self, hub: SocketAddr) -> TlsStream<TcpStream> {
        let socket = TcpStream::connect(hub).await.expect("connected");
        let name = ServerName::try_from("127.0.0.1").expect("a name");
        TlsConnector::from(self.client()).connect(name, socket).await.expect("a handshake")
    }

    /// The certificate that a new connection is shown.
    async fn shown(&self, hub: SocketAddr) -> Vec<u8> {
        let stream = self.connect(hub).await;
        stream.get_ref().1.peer_certificates().expect("a certificate")[0].to_vec()
    }

    fn issued(&self) -> Vec<u8> {
        CertificateDer::from_pem_file(self.0.join("tls.crt")).expect("a certificate").to_vec()
    }
}

const KEY: [&str; 5] = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// A signed-in client over wss.
async fn session(hub: &Hub, authority: &Authority) -> Socket {
    let url = format!("wss://{}/connection/websocket", hub.addr);
    let connector = Connector::Rustls(authority.client());
    let connected = connect_async_tls_with_config(url, None, false, Some(connector)).await;
    let mut socket = connected.expect("a connection").0;
    let reply = ask(&mut socket, &json!({"id": 1, "connect": {"token": World::token("admin")}})).await;
    assert!(reply["connect"]["client"].is_string(), "{reply}");
    socket
}

async fn ask(socket: &mut Socket, command: &Value) -> Value {
    socket.send(command.to_string().into()).await.expect("sent");
    match hear(socket).await {
        Message::Text(text) => serde_json::from_str(&text).expect("json"),
        other => panic!("{other:?}"),
    }
}

async fn hear(socket: &mut Socket) -> Message {
    timeout(patience(), socket.next()).await.expect("in time").expect("open").expect("well formed")
}

async fn publish(hub: &Hub, authority: &Authority, channel: &str, data: &str) -> u16 {
    let certificate = fs::read(authority.0.join("ca.crt")).expect("the authority");
    let certificate = reqwest::Certificate::from_pem(&certificate).expect("a certificate");
    let client = reqwest::Client::builder().tls_certs_only([certificate]).build().expect("a client");
    let request = client.post(format!("https://{}/api/publish", hub.addr)).bearer_auth(World::token("admin"));
    let sent = request.json(&json!({"channel": channel, "data": data})).send().await.expect("answered");
    sent.status().as_u16()
}

#[tokio::test]
async fn sessions_and_requests_pass_through_tls() {
    let world = World::new(0, false).await;
    let authority = Authority::new(world.dir.path());
    authority.issue("first");
    let hub = world.hub_with("a", &authority.config("")).await;
    let mut socket = session(&hub, &authority).await;
    let reply = ask(&mut socket, &json!({"id": 2, "subscribe": {"channel": "chat.1"}})).await;
    assert!(reply["subscribe"].is_object(), "{reply}");
    // Larger than a record, than a reading, than the pipe.
    for size in [1, 60_000] {
        let text = "я".repeat(size / 2);
        assert_eq!(publish(&hub, &authority, "chat.1", &text).await, 200);
        let Message::Text(push) = hear(&mut socket).await else { panic!("no push") };
        let push: Value = serde_json::from_str(&push).expect("json");
        assert_eq!(push["push"]["pub"]["data"], text);
    }
    let large = json!({"id": 3, "publish": {"channel": "chat.1", "data": "x".repeat(60_000)}});
    socket.send(large.to_string().into()).await.expect("sent");
    let both = [hear(&mut socket).await.into_text().expect("text"), hear(&mut socket).await.into_text().expect("text")];
    assert!(both.iter().any(|text| text.contains("\"id\":3")) && both.iter().any(|text| text.len() > 60_000));
    assert_eq!(hub.metric("dzvin_http_tls_sessions").await, 1.0);

    // A close is answered, and the end of the stream is an end in order.
    socket.close(None).await.expect("sent");
    assert!(matches!(hear(&mut socket).await, Message::Close(_)));
    assert!(timeout(patience(), socket.next()).await.expect("in time").is_none());
    eventually("nobody is left", async || {
        hub.metric("dzvin_http_tls_sessions").await == 0.0 && hub.metric("dzvin_sessions").await == 0.0
    })
    .await;

    // The other way round: what we say last still arrives.
    let mut stale = session(&hub, &authority).await;
    stale.send("no command".into()).await.expect("sent");
    let Message::Close(Some(frame)) = hear(&mut stale).await else { panic!("no close frame") };
    assert_eq!(u16::from(frame.code), 3501);
    eventually("its task is gone", async || hub.metric("dzvin_http_tls_sessions").await == 0.0).await;
}

/// A close frame arrives although the client goes on sending and has never read what came before.
#[tokio::test]
async fn half_an_end_is_half_an_end() {
    let world = World::new(0, false).await;
    let authority = Authority::new(world.dir.path());
    authority.issue("first");
    let hub = world.hub_with("a", &authority.config("")).await;
    let mut stream = authority.connect(hub.addr).await;
    stream.write_all(upgrade(hub.addr).as_bytes()).await.expect("sent");
    // A ping, a close with 4001, then more than anybody wants to hear, then our half of the end.
    let frames =
        [&[0x89, 0x82, 0, 0, 0, 0, b'h', b'i'][..], &[0x88, 0x82, 0, 0, 0, 0, 0x0f, 0xa1], &[0x81; 40_000]].concat();
    stream.write_all(&frames).await.expect("sent");
    stream.shutdown().await.expect("half closed");
    let mut got = Vec::new();
    timeout(patience(), stream.read_to_end(&mut got))
        .await
        .expect("in time")
        .expect("an end in order, with its notify");
    let end = got.windows(4).position(|w| w == b"\r\n\r\n").expect("an answer") + 4;
    assert_eq!(got[end..], [0x8a, 2, b'h', b'i', 0x88, 2, 0x0f, 0xa1]);
}

fn upgrade(host: SocketAddr) -> String {
    format!(
        "GET /connection/websocket HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
}

#[tokio::test]
async fn certificates_change_under_load_and_nobody_notices() {
    let world = World::new(0, false).await;
    let authority = Arc::new(Authority::new(world.dir.path()));
    authority.issue("first");
    let first = authority.issued();
    let hub = world.hub_with("a", &authority.config("")).await;
    let mut old = session(&hub, &authority).await;
    assert!(authority.shown(hub.addr).await == first);

    // Clients that come and go all the while.
    let seen = Arc::new(Mutex::new(HashSet::new()));
    let (addr, of, by) = (hub.addr, Arc::clone(&authority), Arc::clone(&seen));
    let load = tokio::spawn(async move {
        loop {
            let shown = of.shown(addr).await;
            by.lock().expect("no panic").insert(shown);
        }
    });
    let sees = async |certificate: &[u8]| {
        eventually("clients are shown the certificate", async || {
            load.is_finished() || seen.lock().expect("no panic").contains(certificate)
        })
        .await;
        assert!(!load.is_finished(), "every handshake succeeds");
    };
    sees(&first).await;
    for (n, name) in ["second", "third"].into_iter().enumerate() {
        authority.issue(name);
        sees(&authority.issued()).await;
        assert_eq!(hub.metric("dzvin_http_tls_certificates_total{result=\"taken\"}").await, 1.0 + n as f64);
    }
    load.abort();
    assert!(load.await.expect_err("it has no end").is_cancelled(), "every handshake succeeded");

    // Who was there goes on with what it began with.
    assert_eq!(ask(&mut old, &json!({"id": 2, "ping": {}})).await["id"], 2);
    assert_eq!(hub.metric("dzvin_http_tls_sessions").await, 1.0);
}

#[tokio::test]
async fn a_certificate_that_is_of_no_use_changes_nothing() {
    let world = World::new(0, false).await;
    let authority = Authority::new(world.dir.path());
    authority.issue("first");
    let first = authority.issued();
    let hub = world.hub_with("a", &authority.config("")).await;
    let (certificate, key) = (authority.0.join("tls.crt"), authority.0.join("tls.key"));
    let good = fs::read(&key).expect("the key");
    let refused = async |times: f64| {
        eventually("it is refused", async || {
            hub.metric("dzvin_http_tls_certificates_total{result=\"refused\"}").await == times
        })
        .await;
        assert!(authority.shown(hub.addr).await == first);
    };
    // Another's key; none at all; rubbish; no file.
    fs::copy(authority.0.join("ca.key"), &key).expect("copied");
    refused(1.0).await;
    fs::write(&key, "").expect("written");
    refused(2.0).await;
    fs::write(&key, "-----BEGIN PRIVATE KEY-----\nhunter2\n-----END PRIVATE KEY-----\n").expect("written");
    refused(3.0).await;
    fs::remove_file(&key).expect("removed");
    refused(4.0).await;
    let log = hub.log();
    assert_eq!(log.matches("a changed certificate is of no use").count(), 4, "told once each: {log}");
    assert!(!log.contains("hunter2"), "{log}");

    // At SIGHUP as well; the rest of such a configuration is not taken over either.
    hub.reload(|text| text.replace("grace = \"5s\"", "grace = \"5s\"\n[identity.roles]\nnobody = []"));
    eventually("the refusal in the log", async || hub.log().contains("the configuration was not taken over")).await;
    fs::write(&key, &good).expect("written");
    fs::write(&certificate, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").expect("written");
    refused(5.0).await;
    authority.issue("second");
    let second = authority.issued();
    eventually("a good one is taken", async || authority.shown(hub.addr).await == second).await;
}

#[tokio::test]
async fn a_reload_takes_other_files() {
    let world = World::new(0, false).await;
    let authority = Authority::new(world.dir.path());
    authority.issue("first");
    let hub = world.hub_with("a", &authority.config("").replace("'100ms'", "'0s'")).await;
    authority.issue("second");
    let (folder, second) = (authority.0.clone(), authority.issued());
    for name in ["crt", "key"] {
        fs::rename(folder.join(format!("tls.{name}")), folder.join(format!("other.{name}"))).expect("renamed");
    }
    assert!(authority.shown(hub.addr).await != second, "nobody looks by itself");
    hub.reload(|text| text.replace("/tls.crt", "/other.crt").replace("/tls.key", "/other.key"));
    eventually("the other one is shown", async || authority.shown(hub.addr).await == second).await;
}

/// Whoever connects and says nothing, or not enough, keeps nobody from being served and is cut in time.
#[tokio::test]
async fn handshakes_that_stall_hold_nobody_up() {
    let world = World::new(0, false).await;
    let authority = Authority::new(world.dir.path());
    authority.issue("first");
    let hub = world.hub_with("a", &authority.config("handshake_timeout = '1s'")).await;
    let mut stalled = Vec::new();
    for n in 0..50 {
        let mut socket = TcpStream::connect(hub.addr).await.expect("connected");
        // The beginning of a record that never comes.
        socket.write_all(&[0x16, 3, 1, 2, 0, 1][..n % 6]).await.expect("sent");
        stalled.push(socket);
    }
    let mut socket = session(&hub, &authority).await;
    assert_eq!(ask(&mut socket, &json!({"id": 2, "ping": {}})).await["id"], 2);
    for mut socket in stalled {
        let mut rest = Vec::new();
        // Cut with or without a reset.
        drop(timeout(patience(), socket.read_to_end(&mut rest)).await.expect("cut in time"));
    }
    eventually("all are counted", async || {
        hub.metric("dzvin_http_tls_handshakes_total{result=\"timed_out\"}").await >= 50.0
    })
    .await;
    // Plain HTTP is no handshake, and neither is HTTP/2 alone.
    let mut plain = TcpStream::connect(hub.addr).await.expect("connected");
    plain.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("sent");
    let mut answer = Vec::new();
    drop(timeout(patience(), plain.read_to_end(&mut answer)).await.expect("cut at once"));
    assert!(!answer.starts_with(b"HTTP/"), "{answer:?}");
    let mut config = (*authority.client()).clone();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let other = TcpStream::connect(hub.addr).await.expect("connected");
    let name = ServerName::try_from("127.0.0.1").expect("a name");
    assert!(TlsConnector::from(Arc::new(config)).connect(name, other).await.is_err(), "no common protocol");
    eventually("both are counted", async || {
        hub.metric("dzvin_http_tls_handshakes_total{result=\"failed\"}").await == 2.0
    })
    .await;
    assert_eq!(ask(&mut socket, &json!({"id": 3, "ping": {}})).await["id"], 3);
}

/// A client that reads nothing is closed as slow, keeps little memory, slows nobody, and leaves no task behind.
#[tokio::test]
async fn a_client_that_reads_nothing_is_closed_as_slow() {
    let world = World::new(0, false).await;
    let authority = Authority::new(world.dir.path());
    authority.issue("first");
    // Nobody answers pings here.
    let limits = "[channels]\nqueue_bytes = '256KiB'\nrecovery_bytes = '128KiB'\nmax_history_bytes = '128KiB'\nping = '10m'\npong = '9m'";
    let hub = world.hub_with("a", &authority.config(limits)).await;
    let mut deaf = session(&hub, &authority).await;
    let mut well = session(&hub, &authority).await;
    for socket in [&mut deaf, &mut well] {
        let reply = ask(socket, &json!({"id": 2, "subscribe": {"channel": "chat.1"}})).await;
        assert!(reply["subscribe"].is_object(), "{reply}");
    }
    let text = "x".repeat(60_000);
    let slow = "dzvin_sessions_closed_total{code=\"3008\"}";
    let mut sent = 0;
    while hub.metric(slow).await == 0.0 {
        assert_eq!(publish(&hub, &authority, "chat.1", &text).await, 200);
        let Message::Text(push) = hear(&mut well).await else { panic!("no push") };
        assert!(push.len() > 60_000);
        sent += 1;
        // The sockets of both ends take some megabytes.
        assert!(sent < 1_000, "it is never closed");
    }
    eventually("its task is gone", async || hub.metric("dzvin_http_tls_sessions").await == 1.0).await;
    assert_eq!(hub.metric("dzvin_sessions").await, 1.0);
    drop(deaf);
}

#[tokio::test]
async fn a_node_without_a_sound_certificate_does_not_start() {
    let world = World::new(0, false).await;
    let authority = Authority::new(world.dir.path());
    let mut hub = world.unstarted("a");
    hub.reconfigure(|text| text + &authority.config(""));
    hub.spawn();
    assert_eq!(hub.ended().await, Some(78));
    assert!(hub.log().contains("http.tls.certificate: ") && hub.log().contains("cannot be read"), "{}", hub.log());
    authority.issue("first");
    fs::copy(authority.0.join("ca.key"), authority.0.join("tls.key")).expect("copied");
    hub.spawn();
    assert_eq!(hub.ended().await, Some(78));
    assert!(hub.log().contains("certificate and key cannot be used together"), "{}", hub.log());
}

/// A stop closes sessions behind TLS as it closes others.
#[tokio::test]
async fn a_stop_tells_clients_behind_tls_to_come_back() {
    let world = World::new(0, false).await;
    let authority = Authority::new(world.dir.path());
    authority.issue("first");
    let mut hub = world.hub_with("a", &authority.config("")).await;
    let mut socket = session(&hub, &authority).await;
    let (stopped, heard) = tokio::join!(timeout(Duration::from_secs(15), hub.stop()), hear(&mut socket));
    assert_eq!(stopped.expect("in time"), Some(0));
    let Message::Close(Some(frame)) = heard else { panic!("{heard:?}") };
    assert_eq!(u16::from(frame.code), 3001);
}
