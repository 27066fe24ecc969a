//! `[http]`: listeners, proxies and TLS.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use dzvin_protocols::platform::units::{duration, size};
use serde::{Deserialize, Serialize};

use super::super::values::Network;

/// `[http]`
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Http {
    /// Clients: API, WebSocket, console.
    pub listen: SocketAddr,
    /// Operators: `/healthz`, `/readyz`, `/metrics`. Never for the public.
    pub internal_listen: SocketAddr,
    /// Origins whose pages may connect, `https://crm.example` or `https://*.example`; empty: only pages of the same host. `*`: any.
    pub allowed_origins: Vec<String>,
    /// Proxies that are believed when they name their client: networks or addresses.
    pub trusted_proxies: Vec<Network>,
    /// Where they name it.
    pub client_header: ClientHeader,
    /// Most open client connections of this node; the file descriptor limit must be above it.
    pub max_connections: usize,
    /// Largest request body.
    #[serde(with = "size")]
    pub max_body: usize,
    /// Longest handling of one request (WebSocket connections are not bound by it).
    #[serde(with = "duration")]
    pub request_timeout: Duration,
    /// Largest head of a request: its first line and its headers.
    #[serde(with = "size")]
    pub max_head: usize,
    /// Longest wait for a request's headers; also bounds idle keep-alive connections.
    #[serde(with = "duration")]
    pub header_timeout: Duration,
    /// Longest time in which a client may read nothing of an answer that waits for it.
    #[serde(with = "duration")]
    pub write_timeout: Duration,
    /// Longest time in which nothing that was sent is acknowledged by the client's machine.
    #[serde(with = "duration")]
    pub peer_timeout: Duration,
    /// Memory that answers with documents may hold at once.
    #[serde(with = "size")]
    pub answer_bytes: usize,
    /// TLS of `listen`; without it plain TCP, for a proxy with TLS before it.
    pub tls: Option<Tls>,
}

/// The header in which proxies name their client.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClientHeader {
    /// `X-Forwarded-For: client, proxy`.
    #[default]
    XForwardedFor,
    /// `Forwarded: for=client` (RFC 7239).
    Forwarded,
}

/// `[http.tls]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// A file with the certificate and what stands between it and the authority, PEM.
    pub certificate: PathBuf,
    /// A file with its private key, PEM.
    pub key: PathBuf,
    /// Longest handshake.
    #[serde(with = "duration", default = "Tls::default_handshake_timeout")]
    pub handshake_timeout: Duration,
    /// How often the files are looked at; `0s`: only at SIGHUP.
    #[serde(with = "duration", default = "Tls::default_reload_interval")]
    pub reload_interval: Duration,
}

impl Tls {
    fn default_handshake_timeout() -> Duration {
        Duration::from_secs(10)
    }

    fn default_reload_interval() -> Duration {
        Duration::from_secs(30)
    }
}

impl Default for Http {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8480)),
            internal_listen: SocketAddr::from(([127, 0, 0, 1], 8481)),
            allowed_origins: Vec::new(),
            trusted_proxies: Vec::new(),
            client_header: ClientHeader::default(),
            max_connections: 50_000,
            max_body: 1024 * 1024,
            // A token of 8 KiB and its fellows.
            max_head: 32 * 1024,
            request_timeout: Duration::from_secs(30),
            // Above the 60 s for which nginx keeps idle upstream connections, so that we are never the first to close.
            header_timeout: Duration::from_secs(75),
            write_timeout: Duration::from_secs(30),
            // Two pings of a client that only listens: whose machine is gone is known within a minute and a half.
            peer_timeout: Duration::from_secs(60),
            // Four objects of the upstream's greatest size while they are read, eight while they are sent.
            answer_bytes: 64 * 1024 * 1024,
            tls: None,
        }
    }
}
