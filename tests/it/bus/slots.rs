//! A slot of a cluster on its way from one server to another, and who listens where.

use dzvin_protocols::platform::StreamName;

use super::servers::{Cluster, Server};

pub const DURABLE: &str = "{dz:entities.tender}:events";

pub fn key(name: &StreamName) -> String {
    format!("{{dz:{name}}}:position")
}

/// An application's stream that this server has.
pub async fn stream_on(cluster: &Cluster, owner: usize) -> StreamName {
    for n in 0.. {
        let name = StreamName::from_checked(&format!("chat.{n}"));
        if cluster.owner(&key(&name)).await == owner {
            return name;
        }
    }
    unreachable!("every server has some")
}

pub async fn listeners(server: &Server, channel: &str) -> u64 {
    let answer = server.ask(&["PUBSUB", "SHARDNUMSUB", channel]).await;
    answer.trim_end().rsplit_once(':').and_then(|(_, n)| n.parse().ok()).expect("a number")
}

/// A slot on its way from one server to another.
pub struct Move<'a> {
    cluster: &'a Cluster,
    slot: String,
    from: &'a Server,
    to: &'a Server,
    ids: [String; 2],
}

impl<'a> Move<'a> {
    pub async fn begins(cluster: &'a Cluster, key: &str, from: usize, to: usize) -> Self {
        let (slot, ids) = (cluster.slot(key).await.to_string(), [cluster.id(from).await, cluster.id(to).await]);
        let (from, to) = (&cluster.servers[from], &cluster.servers[to]);
        to.ok(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &ids[0]]).await;
        from.ok(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &ids[1]]).await;
        Self { cluster, slot, from, to, ids }
    }

    pub async fn carries_keys(&self) {
        loop {
            let keys = self.from.ask(&["CLUSTER", "GETKEYSINSLOT", &self.slot, "100"]).await;
            let keys: Vec<&str> = keys.split("\r\n").filter(|part| part.starts_with('{')).collect();
            if keys.is_empty() {
                return;
            }
            let port = self.to.port.to_string();
            let command = ["MIGRATE", "127.0.0.1", &port, "", "0", "5000", "KEYS"];
            self.from.ask(&[command.as_slice(), &keys].concat()).await;
        }
    }

    pub async fn ends(self) {
        self.to.ok(&["CLUSTER", "SETSLOT", &self.slot, "NODE", &self.ids[1]]).await;
        self.from.ok(&["CLUSTER", "SETSLOT", &self.slot, "NODE", &self.ids[1]]).await;
        // Told to all, as tools do. The new owner hears it for the second time, and ends all subscriptions to it once more.
        for server in &self.cluster.servers {
            let _ = server.command(&["CLUSTER", "SETSLOT", &self.slot, "NODE", &self.ids[1]]).await;
        }
    }
}
