//! TLS of the public listener, by files that may change while the hub runs.
//!
//! Invariants: a handshake runs in the task of its connection and within a time, so it keeps nobody from being accepted;
//! certificate and key are taken over together or not at all, and open connections keep what they began with; what cannot be
//! used is told once and changes nothing. No text of ours carries a byte of a key. This is the path for places without a
//! proxy: a WebSocket session behind it is served through a pipe (`pump`).

use std::{
    fs::File,
    io::{self, IoSlice, Read},
    path::{Path, PathBuf},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError, RwLock},
    task::{Context, Poll},
    time::Duration,
};

use rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use sha2::{Digest, Sha256};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{MissedTickBehavior, interval, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::{HttpMetrics, metrics::Handshake, patient::Patient};
use crate::platform::config;

/// Largest file of certificates or of a key: a chain of ten is below 64 KiB.
const MAX_FILE: u64 = 256 * 1024;
/// Plain text that a connection may hold before the socket takes it: one record, for behind it stands a queue with a limit.
const BUFFER: usize = 16 * 1024;
/// An upgrade needs HTTP/1.1, and nothing else is spoken here.
const PROTOCOL: &[u8] = b"http/1.1";

/// Why certificate and key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The file is not there, or closed to us.
    #[error("{key}: {} cannot be read", path.display())]
    Read {
        /// The key of the configuration.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// It is no such file.
    #[error("{key}: {} has no {what}", path.display())]
    Content {
        /// The key of the configuration.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// What was looked for.
        what: &'static str,
    },
    /// They do not belong together, or are of a kind that is not known.
    #[error("http.tls: certificate and key cannot be used together")]
    Pair(#[source] rustls::Error),
}

/// What the two files held, to know whether they changed; not what they say.
type Stamp = [u8; 32];

/// Certificate and key, read and found good.
pub struct Pair {
    config: Arc<ServerConfig>,
    files: config::Tls,
    stamp: Stamp,
}

impl Pair {
    /// Reads the files. Blocks.
    ///
    /// # Errors
    /// [`TlsError`] names the file.
    pub fn read(files: &config::Tls) -> Result<Self, TlsError> {
        let (certificate, key) = texts(files)?;
        Self::of(files, &certificate, &key)
    }

    fn of(files: &config::Tls, certificate: &[u8], key: &[u8]) -> Result<Self, TlsError> {
        let stamp = stamp(certificate, key);
        // The causes that the reader of PEM gives quote the file, so they are left out.
        let content = |key, path: &Path, what| TlsError::Content { key, path: path.to_path_buf(), what };
        let chain = CertificateDer::pem_slice_iter(certificate).collect::<Result<Vec<_>, _>>().unwrap_or_default();
        if chain.is_empty() {
            return Err(content("http.tls.certificate", &files.certificate, "certificate in PEM form"));
        }
        let key = PrivateKeyDer::from_pem_slice(key)
            .map_err(|_| content("http.tls.key", &files.key, "private key in PEM form without a passphrase"))?;
        let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
            .map_err(TlsError::Pair)?;
        config.alpn_protocols = vec![PROTOCOL.to_vec()];
        Ok(Self { config: Arc::new(config), files: files.clone(), stamp })
    }
}

fn texts(files: &config::Tls) -> Result<(Vec<u8>, Vec<u8>), TlsError> {
    let read = |key, path: &PathBuf| read(path).map_err(|source| TlsError::Read { key, path: path.clone(), source });
    Ok((read("http.tls.certificate", &files.certificate)?, read("http.tls.key", &files.key)?))
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("larger than {MAX_FILE} bytes")));
    }
    Ok(bytes)
}

fn stamp(certificate: &[u8], key: &[u8]) -> Stamp {
    Sha256::new().chain_update(Sha256::digest(certificate)).chain_update(Sha256::digest(key)).finalize().into()
}

/// What was seen at the last look: the same again is no news.
#[derive(PartialEq, Eq)]
enum Seen {
    Stamp(Stamp),
    Unreadable(String),
}

/// The certificate in force.
#[derive(Clone)]
pub struct Certificates(Arc<Inner>);

struct Inner {
    current: RwLock<Arc<ServerConfig>>,
    files: Mutex<config::Tls>,
    seen: Mutex<Seen>,
    metrics: HttpMetrics,
}

impl Certificates {
    /// Begins with this one.
    #[must_use]
    pub fn new(pair: Pair, metrics: HttpMetrics) -> Self {
        Self(Arc::new(Inner {
            current: RwLock::new(pair.config),
            files: Mutex::new(pair.files),
            seen: Mutex::new(Seen::Stamp(pair.stamp)),
            metrics,
        }))
    }

    /// From here on new connections get this one, and are not resumed with what came before.
    pub fn replace(&self, pair: Pair) {
        let it = &*self.0;
        *it.seen.lock().unwrap_or_else(PoisonError::into_inner) = Seen::Stamp(pair.stamp);
        *it.files.lock().unwrap_or_else(PoisonError::into_inner) = pair.files;
        *it.current.write().unwrap_or_else(PoisonError::into_inner) = pair.config;
        it.metrics.certificate(true);
    }

    /// Looks at the files from time to time until dropped. With a rest of zero only [`Self::replace`] changes anything.
    pub async fn keep_fresh(self) {
        let rest = self.files().reload_interval;
        if rest.is_zero() {
            return;
        }
        let mut looks = interval(rest);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            let it = self.clone();
            if let Err(error) = tokio::task::spawn_blocking(move || it.look()).await {
                tracing::error!(%error, "looking at the certificate failed");
            }
        }
    }

    fn files(&self) -> config::Tls {
        self.0.files.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes over what has changed. Blocks.
    fn look(&self) {
        let files = self.files();
        let found = texts(&files);
        let now = match &found {
            Ok((certificate, key)) => Seen::Stamp(stamp(certificate, key)),
            Err(error) => Seen::Unreadable(super::chain(error)),
        };
        {
            let mut seen = self.0.seen.lock().unwrap_or_else(PoisonError::into_inner);
            if *seen == now {
                return;
            }
            *seen = now;
        }
        match found.and_then(|(certificate, key)| Pair::of(&files, &certificate, &key)) {
            Ok(pair) => {
                self.replace(pair);
                tracing::info!(certificate = %files.certificate.display(), "a changed certificate is in force");
            }
            Err(error) => {
                self.0.metrics.certificate(false);
                tracing::error!(
                    error = super::chain(&error),
                    "a changed certificate is of no use; the one before stays in force"
                );
            }
        }
    }

    /// The handshake of one connection. `None`: it failed or took too long, which is the client's matter.
    pub(super) async fn accept(
        &self,
        stream: TcpStream,
        peer: std::net::SocketAddr,
        patience: Duration,
    ) -> Option<Secure> {
        let within = self.0.files.lock().unwrap_or_else(PoisonError::into_inner).handshake_timeout;
        let config = Arc::clone(&self.0.current.read().unwrap_or_else(PoisonError::into_inner));
        let accepting = TlsAcceptor::from(config)
            .accept_with(Patient::new(stream, patience), |session| session.set_buffer_limit(Some(BUFFER)));
        let (outcome, stream) = match timeout(within, accepting).await {
            Ok(Ok(stream)) => (Handshake::Done, Some(Secure { stream, metrics: self.0.metrics.clone() })),
            Ok(Err(error)) => {
                tracing::debug!(%peer, %error, "handshake failed");
                (Handshake::Failed, None)
            }
            Err(_) => {
                tracing::debug!(%peer, "handshake took too long");
                (Handshake::TimedOut, None)
            }
        };
        self.0.metrics.handshake(outcome);
        stream
    }
}

impl std::fmt::Debug for Certificates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Certificates").field("files", &self.files()).finish_non_exhaustive()
    }
}

/// A connection behind its handshake.
#[derive(Debug)]
pub(super) struct Secure {
    stream: TlsStream<Patient>,
    pub(super) metrics: HttpMetrics,
}

impl Secure {
    /// How long its reader may take nothing is from here on somebody else's business.
    pub(super) fn wait_for_ever(&mut self) {
        self.stream.get_mut().0.wait_for_ever();
    }
}

impl AsyncRead for Secure {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Secure {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
