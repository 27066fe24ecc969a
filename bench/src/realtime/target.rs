//! The servers that are measured, and how each is spoken to.

use super::Common;
use super::nchan::Nchan;
use super::orders::{Api, Dialect, Names, Plan};
use super::pinned::Own;
use super::sockudo::Sockudo;
use crate::error::Fallible;
use crate::report::progress;
use crate::world::{Cluster, Hub, Setup, binary};
use std::str::FromStr;

/// A kind of server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Kind {
    /// The hub of this workspace.
    Hub,
    /// A loop that does only what nobody can avoid.
    Floor,
    /// nginx with the nchan module.
    Nchan,
    /// A server of the Pusher protocol.
    Sockudo,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Hub => "hub",
            Self::Floor => "floor",
            Self::Nchan => "nchan",
            Self::Sockudo => "sockudo",
        }
    }
}

/// A server that somebody else started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Peer {
    name: String,
    dialect: Dialect,
    address: String,
    pid: u32,
}

impl FromStr for Peer {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = || {
            let (name, rest) = text.split_once('=')?;
            let (dialect, rest) = rest.split_once('@')?;
            let (address, pid) = rest.split_once('#')?;
            let dialect = match dialect {
                "centrifuge" => Dialect::Centrifuge,
                "raw" => Dialect::Raw,
                "pusher" => Dialect::Pusher,
                _ => return None,
            };
            Some(Self { name: name.to_owned(), dialect, address: address.to_owned(), pid: pid.parse().ok()? })
        };
        parts().ok_or_else(|| "NAME=DIALECT@ADDRESS#PID with the dialect centrifuge, raw or pusher".to_owned())
    }
}

/// A running server.
#[derive(Debug)]
pub(crate) struct Target {
    /// What it is called.
    pub(crate) name: String,
    /// What it is, if it is ours to start.
    pub(crate) kind: Option<Kind>,
    /// Where it listens.
    pub(crate) address: String,
    /// How its clients speak.
    pub(crate) dialect: Dialect,
    /// The process that does the work.
    pub(crate) pid: u32,
    /// Of its clients.
    token: Option<String>,
    /// Of whoever publishes: the header's value.
    authorization: Option<String>,
    server: Server,
}

#[derive(Debug)]
enum Server {
    /// Before its database, which is stopped after it.
    Hub(Box<Hub>, Box<Cluster>),
    Floor(Box<Own>),
    /// Held for its end.
    Nchan(#[expect(dead_code, reason = "stopped when it is dropped")] Box<Nchan>),
    /// Held for its end.
    Sockudo(#[expect(dead_code, reason = "killed when it is dropped")] Box<Sockudo>),
    Elsewhere,
}

impl Target {
    /// Starts one; `None` with a word about it when it is not installed.
    pub(crate) async fn start(kind: Kind, common: &Common) -> Fallible<Option<Self>> {
        let missing = match kind {
            Kind::Nchan => Nchan::missing(),
            Kind::Sockudo => Sockudo::missing(),
            Kind::Hub | Kind::Floor => None,
        };
        if let Some(why) = missing {
            progress(&format!("{} is passed by: {why}", kind.name()));
            return Ok(None);
        }
        let (core, ping) = (common.server_core, common.ping);
        Ok(Some(match kind {
            Kind::Hub => Self::hub(common).await?,
            Kind::Floor => {
                let (ping, tick) = ((ping * 1000).to_string(), common.floor_tick_ms.to_string());
                let args = ["floor", "--ping-ms", &ping, "--tick-ms", &tick].map(str::to_owned);
                let mut own = Own::start(core, &args)?;
                let (address, pid) = (own.line().await?, own.pid());
                Self::ours(kind, address, Dialect::Raw, pid, Server::Floor(Box::new(own)))
            }
            Kind::Nchan => {
                let nchan = Nchan::start(core, ping).await?;
                let (address, pid) = (nchan.address().to_owned(), nchan.worker());
                Self::ours(kind, address, Dialect::Raw, pid, Server::Nchan(Box::new(nchan)))
            }
            Kind::Sockudo => {
                let sockudo = Sockudo::start(core, ping).await?;
                let (address, pid) = (sockudo.address().to_owned(), sockudo.pid());
                Self::ours(kind, address, Dialect::Pusher, pid, Server::Sockudo(Box::new(sockudo)))
            }
        }))
    }

    /// One that was just started, and asks nobody for a token.
    fn ours(kind: Kind, address: String, dialect: Dialect, pid: u32, server: Server) -> Self {
        Self {
            name: kind.name().to_owned(),
            kind: Some(kind),
            address,
            dialect,
            pid,
            token: None,
            authorization: None,
            server,
        }
    }

    async fn hub(common: &Common) -> Fallible<Self> {
        progress("building the hub");
        let binary = binary(common.world.hub.clone()).await?;
        progress("starting PostgreSQL and the hub");
        let cluster = Cluster::start(&common.world.dir, common.world.keep).await?;
        let extra = common.settings();
        let core = Some(common.server_core);
        let setup = Setup { cluster: &cluster, name: "dzvin", mirror: None, core, extra: &extra, secret: None };
        let hub = Hub::start(&binary, setup).await?;
        let (authorization, address, pid) = (Some(bearer(&hub.token()?)), hub.address().to_owned(), hub.pid());
        let server = Server::Hub(Box::new(hub), Box::new(cluster));
        Ok(Self { authorization, ..Self::ours(Kind::Hub, address, Dialect::Centrifuge, pid, server) })
    }

    /// One that already runs.
    pub(crate) fn peer(peer: &Peer, common: &Common) -> Self {
        let by_key = common.peer_api_key.as_ref().map(|key| format!("apikey {key}"));
        Self {
            name: peer.name.clone(),
            kind: None,
            address: peer.address.clone(),
            dialect: peer.dialect,
            pid: peer.pid,
            authorization: by_key.or_else(|| common.peer_token.as_deref().map(bearer)),
            token: common.peer_token.clone(),
            server: Server::Elsewhere,
        }
    }

    /// How publications are brought to it.
    pub(crate) fn plan(&self, names: Names, payload: usize, batch: usize, in_flight: usize) -> Fallible<Plan> {
        let api = match self.dialect {
            Dialect::Centrifuge => Api::Centrifugo,
            Dialect::Raw => Api::Raw,
            Dialect::Pusher => Api::Pusher,
        };
        let (addresses, authorization) = (vec![self.address.clone()], self.authorization.clone());
        Ok(Plan { addresses, api, authorization, names, payload, batch, in_flight })
    }

    /// A token for each of its clients, one a line.
    pub(crate) fn tokens(&self, count: usize) -> Fallible<Option<String>> {
        match &self.server {
            Server::Hub(hub, _) => {
                let tokens: Fallible<Vec<_>> = (0..count).map(|n| hub.token_of(&format!("bench-{n}"))).collect();
                Ok(Some(tokens?.join("\n")))
            }
            _ => Ok(self.token.clone()),
        }
    }

    /// The database's version and folder, for the line about the environment.
    pub(crate) fn cluster(&self) -> Option<&Cluster> {
        match &self.server {
            Server::Hub(_, cluster) => Some(cluster),
            _ => None,
        }
    }

    /// Stops it in order.
    pub(crate) async fn stop(self) -> Fallible<()> {
        match self.server {
            Server::Hub(hub, cluster) => {
                hub.stop().await?;
                drop(cluster);
            }
            Server::Floor(own) => own.stop().await,
            Server::Nchan(_) | Server::Sockudo(_) | Server::Elsewhere => {}
        }
        Ok(())
    }
}

fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_named_in_one_word() {
        let peer: Peer = "sockudo=pusher@127.0.0.1:6001#42".parse().unwrap();
        assert_eq!((peer.name.as_str(), peer.dialect, peer.pid), ("sockudo", Dialect::Pusher, 42));
        assert_eq!(peer.address, "127.0.0.1:6001");
        for wrong in ["", "a=b@c#1", "a=raw@c", "a=raw@c#x"] {
            assert!(wrong.parse::<Peer>().is_err(), "{wrong}");
        }
    }
}
