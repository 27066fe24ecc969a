//! Keeps the shape of a cluster: which primaries there are, a connection to each, and every subscription where its slot is.
//!
//! The primaries are asked for their view of the cluster with each heartbeat, and at once when one of them says that it
//! no longer has what it was asked for. A server that loses a slot ends the subscriptions to its channels; the client
//! library keeps that to itself, so it is the new owner's claim that tells. Whoever was subscribed is subscribed there,
//! and then told that something may be missing. Publications are then looked up; words are not kept anywhere, so none is said where a
//! slot has come to before all nodes have had the time to listen there ([`Routes::settles`]).
//!
//! Invariants: each primary's connection lives and dies by itself, the others go on; a channel that was refused is tried
//! again with every look until it is taken or not wanted any more; nothing here waits for the reader of events.

use std::{collections::HashMap, mem, sync::Arc, time::Duration};

use dzvin_actors::platform::ports::BusEvent;
use fred::{error::Error, types::config::ServerConfig};
use futures_util::future::{join_all, select_ok};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout},
};

use super::{
    Shared,
    config::Deployment,
    keeper::{AbortOnDrop, keep},
    link,
    shard::{Routes, Shard, Site, slot},
    topology::{self, Primary},
};

/// Most primaries that are followed, which is as far as a cluster goes.
const MAX_PRIMARIES: usize = 1_000;
/// How long one primary may take to say what it sees; the others are not held up longer.
const VIEW: Duration = Duration::from_millis(500);
/// The shortest time between two looks, however many ask for one.
const BREATH: Duration = Duration::from_millis(50);

/// How long it takes at most until every node listens where a slot has come to, counted from when any of them sees it there. A node
/// looks with each heartbeat and then asks for its channels there; and as the new owner may end what it has been asked for when it is
/// told of the slot once more, which the next heartbeat finds, there are two.
const fn settling(heartbeat: Duration) -> Duration {
    heartbeat.saturating_add(VIEW).saturating_add(BREATH).saturating_mul(2)
}

/// How often what is to be said may find that its slot has gone on: a slot is moved once in a while, and seldom twice. One that goes on
/// and on is nowhere long enough for all to listen, and whoever has something to say there is better told so than held.
const SETTLINGS: u32 = 2;

/// How long a word waits at most until all nodes listen where its slot is.
pub(super) const fn longest_settling(heartbeat: Duration) -> Duration {
    settling(heartbeat).saturating_mul(SETTLINGS)
}

/// A primary that is followed.
struct Followed {
    shard: Arc<Shard>,
    seen: Primary,
    _keeper: AbortOnDrop,
}

/// Runs for as long as it is not aborted.
pub(super) async fn follow(shared: Arc<Shared>, events: mpsc::Sender<BusEvent>) {
    let mut followed: HashMap<String, Followed> = HashMap::new();
    // Something may have been missed that nobody was told of.
    let mut owed = false;
    loop {
        match look(&shared).await {
            Ok(views) => {
                let primaries = topology::merge(&views);
                if primaries.len() > MAX_PRIMARIES {
                    tracing::error!(primaries = primaries.len(), "the redis cluster has too many primaries");
                } else if !primaries.is_empty() {
                    shape(&shared, &events, &mut followed, primaries);
                }
            }
            Err(error) => {
                shared.metrics.failures.inc();
                tracing::warn!(error = &error as &dyn std::error::Error, "no server of the redis cluster can be asked");
            }
        }
        shared.looks.send_modify(|looks| *looks += 1);
        owed |= hear(&shared).await;
        if owed && events.try_send(BusEvent::Lost).is_ok() {
            shared.metrics.lost.inc();
            owed = false;
        }
        sleep(BREATH).await;
        let _ = timeout(shared.config.heartbeat, shared.refresh.notified()).await;
    }
}

/// What each connected primary sees, and whose view it is; of anybody else who answers, when none is connected.
async fn look(shared: &Shared) -> Result<Vec<(String, String)>, Error> {
    let routes = shared.routes();
    let linked = routes.shards.iter().filter_map(|shard| Some((shard.host().to_owned(), shard.link()?)));
    let asked = linked.map(|(host, link)| async move {
        timeout(VIEW, link.cluster_nodes()).await.ok()?.ok().map(|view| (host, view))
    });
    let views: Vec<_> = join_all(asked).await.into_iter().flatten().collect();
    if !views.is_empty() {
        return Ok(views);
    }
    let Deployment::Cluster(seeds) = &shared.config.deployment else { return Ok(Vec::new()) };
    let known = routes.shards.iter().filter_map(|shard| shard.address());
    let all = seeds.iter().cloned().chain(known).map(|(host, port)| {
        Box::pin(async move {
            let server = ServerConfig::new_centralized(host.as_str(), port);
            link::look(&shared.config, server).await.map(|view| (host, view))
        })
    });
    let (view, _) = select_ok(all).await?;
    Ok(vec![view])
}

/// Makes it the shape of the cluster, as far as this node is concerned.
fn shape(
    shared: &Arc<Shared>,
    events: &mpsc::Sender<BusEvent>,
    followed: &mut HashMap<String, Followed>,
    primaries: Vec<Primary>,
) {
    let same = primaries.len() == followed.len()
        && primaries.iter().all(|primary| followed.get(&primary.id).is_some_and(|known| known.seen == *primary));
    if same {
        return;
    }
    let mut before = mem::take(followed);
    let (mut runs, mut shards, mut fresh, mut grown) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for primary in primaries {
        let known = before.remove(&primary.id).filter(|known| known.seen.is_where(&primary));
        let shard = known.as_ref().map_or_else(|| at(shared, &primary), |known| Arc::clone(&known.shard));
        runs.extend(primary.slots.iter().map(|(first, last)| (*first, *last, Arc::clone(&shard))));
        shards.push(Arc::clone(&shard));
        match known {
            Some(known) => {
                if known.seen.epoch != primary.epoch {
                    grown.push(Arc::clone(&shard));
                }
                followed.insert(primary.id.clone(), Followed { seen: primary, ..known });
            }
            None => fresh.push((primary, shard)),
        }
    }
    runs.sort_by_key(|(first, ..)| *first);
    tracing::info!(primaries = shards.len(), "the redis cluster has a new shape");
    let mut routes = Routes { runs, shards, settling: Vec::new() };
    routes.settle(&shared.routes(), Instant::now() + settling(shared.config.heartbeat));
    let old = shared.set_routes(routes);
    // After the routes, for each asks what it has to do at once.
    for (seen, shard) in fresh {
        let keeper = tokio::spawn(keep(Arc::clone(shared), Arc::clone(&shard), events.clone()));
        followed.insert(seen.id.clone(), Followed { shard, seen, _keeper: AbortOnDrop(keeper) });
    }
    let now = shared.routes();
    let moved = shared.wanted().into_iter().filter(|channel| {
        let slot = slot(channel);
        match (old.of(slot), now.of(slot)) {
            // A slot may have gone and come back between two looks: then the epoch is another.
            (Some(from), Some(to)) => !Arc::ptr_eq(from, to) || grown.iter().any(|shard| Arc::ptr_eq(shard, to)),
            (None, Some(_)) => !old.shards.is_empty(),
            (_, None) => false,
        }
    });
    shared.unheard(moved.collect());
}

fn at(shared: &Shared, primary: &Primary) -> Arc<Shard> {
    let by_ip = (primary.host.clone(), primary.port);
    let by_name = primary.hostname.clone().map(|name| (name, primary.port));
    let names = by_name.iter().chain([&by_ip]).map(|(host, port)| format!("{host}:{port}")).collect();
    // A certificate is for a name, where there is one.
    let (host, port) = by_name.filter(|_| shared.config.uses_tls()).unwrap_or(by_ip);
    Shard::new(Site::At(ServerConfig::new_centralized(host, port)), names)
}

/// Subscribes what was moved where it is now. Answers whether something may have been missed.
async fn hear(shared: &Shared) -> bool {
    let mut missed = false;
    let routes = shared.routes();
    let channels = shared.take_unheard().into_iter().map(|channel| (slot(&channel), channel));
    let asked = routes.by_owner(channels).into_iter().filter_map(|(owner, channels)| match owner {
        // One that is not connected subscribes all that it has when it is.
        Some(owner) => Some((owner.link()?, channels)),
        None => {
            shared.unheard(channels);
            None
        }
    });
    let asked = asked.map(|(link, channels)| async move {
        // On any other error nobody knows what was heard: they are asked for again, and events may be missing.
        match link.subscribe_own(&channels).await {
            Ok(refused) => (refused.len() < channels.len(), refused),
            Err(_) => (true, channels),
        }
    });
    for (some, refused) in join_all(asked).await {
        missed |= some;
        shared.unheard(refused);
    }
    missed
}
