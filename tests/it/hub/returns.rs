//! Rule 1 by the clock: what is committed reaches every subscriber within five seconds after connectivity returns, at real
//! hubs with their own patience: a Redis that is cut, refused or stalled, a relay that is killed and leaves a long lease.

use std::time::{Duration, Instant};

use dzvin::{
    entities::{Author, Entities, EntityOp},
    platform::db::{Database, DbOptions},
};
use dzvin_protocols::platform::{EntityId, Kind};
use serde_json::{Value, value::RawValue};

use crate::{
    bus::{
        servers::Cluster,
        slots::{Move, listeners},
    },
    support::{
        eventually::eventually,
        front::Front,
        hub::{Hub, World},
        kinds,
        node::Followers,
    },
};

pub const RETURN: Duration = Duration::from_secs(5);
const NOTE: [&str; 2] = ["--kind", "note"];

/// Commits to a kind of the organisation's own, as another node would, whatever the hubs can do.
pub struct Writer {
    entities: Entities,
    kind: Kind,
    /// So many so far.
    pub written: u64,
}

impl Writer {
    pub async fn new(world: &mut World) -> Self {
        world.mirrors.push_str("[kinds.note]\nsource = \"local\"\n");
        let kind = Kind::new("note").expect("kind");
        let spec = kinds::local(&kind, &[]);
        let mut options = DbOptions::new(&world.db.url()).expect("options");
        options.notify = true;
        let entities = Entities::open(Database::new(options), vec![spec]).await.expect("opens");
        Self { entities, kind, written: 0 }
    }

    pub async fn write(&mut self, count: u64) {
        for _ in 0..count {
            self.written += 1;
            let doc = RawValue::from_string(format!("{{\"n\":{}}}", self.written)).expect("json");
            let id = EntityId::new(&format!("n{}", self.written % 20)).expect("id");
            let version = format!("{:08}", self.written);
            let op = EntityOp::Upsert { id, version, doc: doc.into(), derived: None, beside: false };
            let author = Author { by: "olha", trace: None };
            let done = self.entities.commit(&self.kind, author, &[op]).await.expect("committed");
            assert_eq!(done.applied.changed, 1);
        }
    }
}

/// Two hubs behind a front, and clients that have followed what is written from the first.
pub async fn followed(world: &mut World) -> (Writer, [Hub; 2], Front, Followers) {
    let mut writer = Writer::new(world).await;
    let hubs = [world.hub("a").await, world.hub("b").await];
    let front = Front::start(hubs.iter().map(|hub| hub.addr).collect()).await;
    let mut followers = Followers::start(&format!("http://{}", front.addr), 4, &NOTE).await;
    writer.write(20).await;
    reached(&mut followers, &writer).await;
    (writer, hubs, front, followers)
}

/// From now until every follower has all that is written.
pub async fn reached(followers: &mut Followers, writer: &Writer) -> Duration {
    let began = Instant::now();
    followers.reach("all is told", writer.written).await;
    began.elapsed()
}

pub fn assert_whole(report: &Value) {
    for key in ["lost", "doubled", "behind", "differences", "unrecovered"] {
        assert_eq!(report[key], 0, "{key} in {report}");
    }
}

pub async fn bus_is(hubs: &[Hub], state: &str) {
    for hub in hubs {
        eventually(&format!("the bus is {state}"), async || {
            let (_, body) = hub.get("/readyz").await.expect("answered");
            serde_json::from_str::<Value>(&body).expect("json")["checks"]["bus"]["status"] == state
        })
        .await;
    }
}

#[tokio::test]
async fn a_redis_that_comes_back_brings_everything_within_five_seconds() {
    let mut world = World::new(0, true).await;
    let (proxy, url) = world.redis.as_ref().expect("redis").proxy().await;
    world.redis_url = Some(url);
    let (mut writer, hubs, _front, mut followers) = followed(&mut world).await;
    for fault in ["cut", "refused", "stalled"] {
        match fault {
            "stalled" => proxy.stall(true),
            "refused" => {
                proxy.refuse(true);
                proxy.cut();
            }
            _ => proxy.cut(),
        }
        writer.write(50).await;
        if fault != "cut" {
            bus_is(&hubs, "down").await;
            writer.write(50).await;
        }
        proxy.refuse(false);
        proxy.stall(false);
        let took = reached(&mut followers, &writer).await;
        println!("{fault}: whole {took:?} after the return");
        assert!(took < RETURN, "{fault} took {took:?}");
        bus_is(&hubs, "ok").await;
    }
    assert_whole(&followers.finish().await);
}

/// The lease of a killed relay lasts for ten seconds; what is committed meanwhile does not wait for its end.
#[tokio::test]
async fn a_killed_relay_with_a_long_lease_is_stepped_in_for_within_five_seconds() {
    let mut world = World::new(0, true).await;
    world.lease_ttl = "10s";
    let (mut writer, mut hubs, _front, mut followers) = followed(&mut world).await;
    assert_eq!(hubs[0].metric("dzvin_relay_holder").await, 1.0, "the first has the lease");
    let killed = Instant::now();
    hubs[0].kill().await;
    writer.write(50).await;
    let took = reached(&mut followers, &writer).await;
    assert!(killed.elapsed() < Duration::from_secs(10), "while the lease lasted: {:?}", killed.elapsed());
    println!("whole {took:?} after the kill of the relay");
    assert!(took < RETURN, "took {took:?}");
    assert_eq!(hubs[1].metric("dzvin_relay_holder").await, 0.0);
    let report = followers.finish().await;
    assert_whole(&report);
    assert!(report["recovered"].as_u64() > Some(0), "some were at the killed one: {report}");
}

/// What Redis is made of changes under clients that follow a durable stream: its slot is moved, and then the server that has it dies, with
/// a replica that has not read all.
#[tokio::test]
async fn a_cluster_that_changes_is_followed_by_every_client() {
    let mut cluster = Cluster::start(3, 3).await;
    let mut world = World::new(0, false).await;
    world.redis_url = Some(cluster.url());
    let (mut writer, hubs, _front, mut followers) = followed(&mut world).await;
    let stream = "{dzvin:entities.note}:events";
    let home = cluster.owner(stream).await;
    assert_eq!(listeners(&cluster.servers[home], stream).await, 2, "both nodes are there");
    let to = (home + 1) % 3;
    let moving = Move::begins(&cluster, stream, home, to).await;
    writer.write(20).await;
    moving.carries_keys().await;
    writer.write(20).await;
    moving.ends().await;
    writer.write(20).await;
    let took = reached(&mut followers, &writer).await;
    assert!(took < RETURN, "the slot was moved: {took:?}");
    // It is full of what it has not read when its primary dies.
    cluster.servers[to + 3].pause(true);
    writer.write(20).await;
    reached(&mut followers, &writer).await;
    cluster.servers[to].kill();
    writer.write(20).await;
    cluster.servers[to + 3].pause(false);
    reached(&mut followers, &writer).await;
    bus_is(&hubs, "ok").await;
    writer.write(20).await;
    let took = reached(&mut followers, &writer).await;
    assert!(took < RETURN, "another server has it: {took:?}");
    assert_whole(&followers.finish().await);
}
