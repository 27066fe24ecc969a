//! A primary behind Sentinel is killed, demoted and replaced by a replica that lags.

use dzvin::channels::bus::HistoryLimits;
use dzvin_actors::platform::ports::Bus;
use dzvin_protocols::platform::StreamName;
use tokio::time::Instant;

use super::{
    kit::hub,
    scene::{RETURN, publish, scene},
    servers::Server,
};
use crate::support::{
    eventually::eventually,
    proxy::{Proxy, Upstream},
};

/// A primary, its replica, and a sentinel that knows both.
pub struct Watched {
    pub primary: Server,
    pub replica: Server,
    sentinel: Server,
}

pub async fn watched(extra: &[&str], sentinel: &str) -> Watched {
    let primary = Server::start(extra).await;
    let replica = Server::start(extra).await;
    replica.ask(&["REPLICAOF", "127.0.0.1", &primary.port.to_string()]).await;
    replicates(&replica).await;
    let sentinel = Server::sentinel(primary.port, sentinel).await;
    eventually("the sentinel knows the replica", || async {
        sentinel.ask(&["SENTINEL", "REPLICAS", "main"]).await.contains(&replica.address())
    })
    .await;
    Watched { primary, replica, sentinel }
}

async fn replicates(replica: &Server) {
    eventually("it replicates", || async {
        replica.command(&["INFO", "replication"]).await.is_ok_and(|info| info.contains("master_link_status:up"))
    })
    .await;
}

/// Its sentinel ends the connections that it finds while it changes its part.
pub async fn is_primary(server: &Server) {
    eventually("it has taken over", || async {
        server.command(&["INFO", "replication"]).await.is_ok_and(|info| info.contains("role:master"))
    })
    .await;
}

impl Watched {
    pub fn url(&self) -> String {
        format!("redis-sentinel://{}?sentinelServiceName=main", self.sentinel.address())
    }

    /// What stands between the two from now on, so that the replica can be held back.
    pub async fn between(&self) -> Proxy {
        let proxy = Proxy::start(Upstream::Tcp(self.primary.address().parse().expect("an address"))).await;
        self.replica.ask(&["REPLICAOF", "127.0.0.1", &proxy.addr.port().to_string()]).await;
        replicates(&self.replica).await;
        proxy
    }
}

fn chat() -> StreamName {
    StreamName::from_checked("chat.1")
}

#[tokio::test]
async fn a_killed_primary_is_followed_by_its_replica() {
    let mut redis = watched(&[], "").await;
    let scene = scene(&redis.url()).await;
    let before = publish(&scene.near, &chat(), 1).await;
    redis.primary.kill();
    scene.commit(20).await;
    // While there is no primary the follower lives on the log.
    scene.follower.reaches(1, 30).await;
    is_primary(&redis.replica).await;
    let back = Instant::now();
    let after = publish(&scene.near, &chat(), 2).await;
    assert!(back.elapsed() < RETURN, "took {:?}", back.elapsed());
    assert!(after.offset == 1 && after.epoch != before.epoch, "begun anew: {before:?} {after:?}");
    eventually("the other node names it the same", || async {
        scene.far.position(&chat()).await.is_ok_and(|at| at.as_ref() == Some(&after))
    })
    .await;
    scene.is_whole().await;
    // The one that was killed comes back as a replica: nobody goes there.
    redis.primary.restart().await;
    replicates(&redis.primary).await;
    assert_eq!(publish(&scene.far, &chat(), 3).await.offset, 2);
    scene.is_whole().await;
    scene.ends().await;
}

#[tokio::test]
async fn a_primary_that_is_demoted_in_order_is_left() {
    let redis = watched(&[], "").await;
    let scene = scene(&redis.url()).await;
    eventually("the sentinel agrees", || async {
        redis.sentinel.command(&["SENTINEL", "FAILOVER", "main"]).await.is_ok_and(|answer| answer == "+OK\r\n")
    })
    .await;
    is_primary(&redis.replica).await;
    scene.commit(20).await;
    eventually("both go on at the other", || async {
        let listeners = redis.replica.command(&["PUBSUB", "NUMSUB", "{dz:nodes}:all"]).await;
        listeners.is_ok_and(|listeners| listeners.ends_with(":2\r\n"))
    })
    .await;
    scene.is_whole().await;
    scene.ends().await;
}

/// What it lacks was published and seen: its offsets must not be given again to something else in the same epoch.
#[tokio::test]
async fn a_replica_that_lags_begins_application_streams_anew() {
    let mut redis = watched(&[], "").await;
    let proxy = redis.between().await;
    let scene = scene(&redis.url()).await;
    let known = publish(&scene.near, &chat(), 1).await;
    eventually("the replica has it", || async {
        redis.replica.ask(&["HGET", "{dz:chat.1}:position", "top"]).await == "$1\r\n1\r\n"
    })
    .await;
    proxy.stall(true);
    let seen = publish(&scene.near, &chat(), 2).await;
    assert_eq!((seen.offset, &seen.epoch), (2, &known.epoch));
    scene.commit(20).await;
    scene.follower.reaches(1, 30).await;
    redis.primary.kill();
    is_primary(&redis.replica).await;
    assert_eq!(redis.replica.ask(&["HGET", "{dz:chat.1}:position", "top"]).await, "$1\r\n1\r\n", "it lags");
    let after = publish(&scene.far, &chat(), 3).await;
    assert!(after.offset == 1 && after.epoch != known.epoch, "{known:?} {after:?}");
    eventually("the other node reads the same", || async {
        let slice = scene.near.read(&chat(), 0, super::kit::ALL).await;
        slice.is_ok_and(|slice| slice.is_some_and(|slice| slice.position == after && slice.publications.len() == 1))
    })
    .await;
    // The durable stream was set back on the bus and not in the log.
    scene.is_whole().await;
    scene.ends().await;
}

/// One that stands still keeps its connections; the heartbeat gives them up.
#[tokio::test]
async fn a_primary_that_stands_still_is_left() {
    let redis = watched(&[], "").await;
    let scene = scene(&redis.url()).await;
    redis.primary.pause(true);
    scene.commit(20).await;
    is_primary(&redis.replica).await;
    scene.is_whole().await;
    // It wakes up believing that it is the primary; its sentinel teaches it better.
    redis.primary.pause(false);
    replicates(&redis.primary).await;
    scene.is_whole().await;
    scene.ends().await;
}

#[tokio::test]
async fn the_majority_of_sentinels_counts() {
    let (right, wrong) = (Server::start(&[]).await, Server::start(&[]).await);
    let (one, two, three) = (
        Server::sentinel(wrong.port, "sentinel config-epoch main 5").await,
        Server::sentinel(right.port, "").await,
        Server::sentinel(right.port, "sentinel config-epoch main 7").await,
    );
    let [first, second, third] = [&one, &two, &three].map(Server::address);
    let url = format!("redis-sentinel://{first}?sentinelServiceName=main&node={second}&node={third}");
    let nodes = ["ZCARD", "{dz:nodes}:alive"];
    for count in 1..=8 {
        let (_bus, _events) = hub(&url, HistoryLimits::default()).await;
        assert_eq!(right.ask(&nodes).await, format!(":{count}\r\n"));
    }
    // One against one: the later decision counts.
    drop(two);
    for count in 9..=12 {
        let (_bus, _events) = hub(&url, HistoryLimits::default()).await;
        assert_eq!(right.ask(&nodes).await, format!(":{count}\r\n"));
    }
    // One alone is better than none.
    drop(three);
    let (_bus, _events) = hub(&url, HistoryLimits::default()).await;
    assert_eq!(wrong.ask(&nodes).await, ":1\r\n");
    // A service that nobody knows is said so, again and again.
    let unknown = format!("redis-sentinel://{first}?sentinelServiceName=other");
    let bus = super::kit::bare(&unknown);
    eventually("it tries", || async { bus.metrics().failures.get() > 2 }).await;
    assert!(!bus.is_connected());
}

/// The passwords of Redis and of the sentinels are two.
#[tokio::test]
async fn sentinels_and_servers_have_their_own_passwords() {
    let redis = watched(&[], "").await;
    redis.primary.ok(&["ACL", "SETUSER", "hub", "on", ">one", "~*", "&*", "+@all"]).await;
    redis
        .sentinel
        .ok(&[
            "ACL",
            "SETUSER",
            "asker",
            "on",
            ">two",
            "-@all",
            "+auth",
            "+hello",
            "+ping",
            "+info",
            "+client",
            "+sentinel|get-master-addr-by-name",
            "+sentinel|master",
        ])
        .await;
    redis.sentinel.ok(&["ACL", "SETUSER", "default", "resetpass"]).await;
    let with = |asker: &str| {
        let address = redis.sentinel.address();
        format!(
            "redis-sentinel://hub:one@{address}/3?sentinelServiceName=main&sentinelUsername=asker&sentinelPassword={asker}"
        )
    };
    let refused = super::kit::bare(&with("wrong"));
    let (bus, _events) = hub(&with("two"), HistoryLimits::default()).await;
    publish(&bus, &chat(), 1).await;
    assert!(redis.primary.ask(&["INFO", "keyspace"]).await.contains("db3:keys="), "in the database of the address");
    eventually("the other tries", || async { refused.metrics().failures.get() > 2 }).await;
    assert!(!refused.is_connected());
}
