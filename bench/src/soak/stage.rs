//! What both soaks of the hub stand on: PostgreSQL, Redis, the Mirror, two hubs, publishers, and a crowd of clients.

use super::client::Client;
use super::ground::{Ground, Phase, Tally};
use super::ledger::{Plant, Position, Truth, is_application};
use super::line::Tls;
use super::publish;
use super::redis::Redis;
use super::verdict::{Published, Tops};
use super::words::APP;
use crate::error::{BenchError, Fallible};
use crate::feed::{COLLECTION, Order};
use crate::host;
use crate::report::progress;
use crate::world::{Cluster, Feeder, Hub, Setup, WorldArgs, binary, on_redis, random_secret};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// Distinct objects among the changes.
const OBJECTS: usize = 500;
/// Bytes of padding of each: a change is about what a small real object is.
const PADDING: usize = 1_500;
/// How long all may take to stand where the streams end, when nothing more happens.
const SETTLING: Duration = Duration::from_secs(60);

/// The entities' channel.
pub(crate) fn entities() -> String {
    format!("entities.{COLLECTION}")
}

/// The servers.
#[derive(Debug)]
pub(crate) struct Stage {
    /// The two nodes.
    pub(crate) hubs: [Hub; 2],
    /// The bus.
    pub(crate) redis: Redis,
    feeder: Option<Feeder>,
    cluster: Cluster,
    begun: (Instant, f64),
}

#[derive(Deserialize)]
struct Listed {
    position: Where,
}

#[derive(Deserialize)]
struct Where {
    epoch: String,
    offset: u64,
}

/// What hubs on this Redis are told, with these lines of the scenario's own.
pub(super) fn settings(args: &WorldArgs, lines: &[&str], redis: &str) -> Vec<String> {
    let own = random_secret();
    let mut all = args.settings();
    all.extend(lines.iter().map(|line| (*line).to_owned()));
    all.push(on_redis(redis));
    all.push(format!("[[pusher.apps]]\nid = \"soak\"\nkeys = [{{ key = \"{APP}\", secret = \"{own}\" }}]"));
    all
}

impl Stage {
    /// Starts them all, with what the hubs are told when their Redis is at this address.
    pub(crate) async fn start(args: &WorldArgs, settings: impl FnOnce(&str) -> Vec<String>) -> Fallible<Self> {
        progress("building the hub");
        let binary = binary(args.hub.clone()).await?;
        progress("starting PostgreSQL, Redis, the Mirror and two hubs");
        let cluster = Cluster::start(&args.dir, args.keep).await?;
        let redis = Redis::start(cluster.folder()).await?;
        let mut feeder = Feeder::start().await?;
        let extra = settings(&redis.url());
        let mirror = Some(&feeder);
        let setup = Setup { cluster: &cluster, name: "one", mirror, core: None, extra: &extra, secret: None };
        let one = Hub::start(&binary, setup).await?;
        let two = Hub::start(&binary, Setup { name: "two", secret: Some(one.secret()), ..setup }).await?;
        feeder.tell(&Order::AwaitTail).await?;
        feeder.tell(&Order::Padded { count: OBJECTS, bytes: PADDING }).await?;
        let begun = (Instant::now(), host::stolen_seconds());
        Ok(Self { hubs: [one, two], redis, feeder: Some(feeder), cluster, begun })
    }

    /// Where clients connect without a proxy.
    pub(crate) fn addresses(&self) -> Fallible<Vec<SocketAddr>> {
        let parsed: Result<_, _> = self.hubs.iter().map(|hub| hub.address().parse()).collect();
        parsed.map_err(BenchError::because("reading a hub's address"))
    }

    /// Where files may be put.
    pub(crate) fn folder(&self) -> &std::path::Path {
        self.cluster.folder()
    }

    /// Begins to write changes in the upstream, for so long.
    pub(crate) fn flow(&mut self, rate: u32, whole: Duration) -> Fallible<JoinHandle<Fallible<Feeder>>> {
        let mut feeder = self.feeder.take().ok_or_else(|| BenchError::new("the flow has begun already"))?;
        let count = usize::try_from(whole.as_secs() * u64::from(rate)).unwrap_or(usize::MAX);
        Ok(tokio::spawn(async move {
            feeder.tell(&Order::Flow { rate, count }).await?;
            Ok(feeder)
        }))
    }

    /// The flow has ended.
    pub(crate) async fn flowed(&mut self, flow: JoinHandle<Fallible<Feeder>>) -> Fallible<()> {
        let feeder = flow.await.map_err(BenchError::because("waiting for the flow"))?;
        self.feeder = Some(feeder?);
        Ok(())
    }

    /// Where every stream ends, as soon as the entities' stands still.
    pub(crate) async fn tops(&self, ground: &Ground, channels: &[String]) -> Fallible<Tops> {
        let mut tops = BTreeMap::new();
        for channel in channels {
            let top = ground.truth.top(channel);
            let top = top.ok_or_else(|| BenchError::new(format!("nothing was published to {channel}")))?;
            let started = ground.truth.started(channel);
            tops.insert(channel.clone(), (top, started));
        }
        let token = self.hubs[0].token()?;
        let (mut last, begun) = (None, Instant::now());
        loop {
            let url = format!("http://{}/api/v1/entities/{COLLECTION}?limit=1", self.hubs[0].address());
            let asked = ground.http.get(url).bearer_auth(&token).send().await;
            let asked = asked.and_then(reqwest::Response::error_for_status);
            let listed: Listed = asked
                .map_err(BenchError::because("asking where the entities are"))?
                .json()
                .await
                .map_err(BenchError::because("reading where the entities are"))?;
            let now = Position { epoch: listed.position.epoch, offset: listed.position.offset };
            if last.as_ref() == Some(&now) {
                let number = now.offset;
                tops.insert(entities(), (now, number));
                return Ok(tops);
            }
            if begun.elapsed() > SETTLING {
                return Err(BenchError::new("changes go on after the flow has ended"));
            }
            last = Some(now);
            // The upstream's last write may still be on its way through the Mirror.
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
    }

    /// Where the numbers come from.
    pub(crate) fn environment(&self) -> String {
        let environment = host::environment(self.cluster.version(), self.cluster.folder());
        format!("{environment}; {}", host::stolen_since(self.begun))
    }

    /// Stops everything in order.
    pub(crate) async fn stop(self) -> Fallible<()> {
        let Self { hubs: [one, two], redis, feeder, cluster, .. } = self;
        one.stop().await?;
        two.stop().await?;
        if let Some(feeder) = feeder {
            feeder.stop().await?;
        }
        drop((redis, cluster));
        Ok(())
    }
}

/// How clients get to the hubs.
#[derive(Debug)]
pub(crate) struct Way {
    /// Where they connect.
    pub(crate) addresses: Vec<SocketAddr>,
    /// With TLS or without.
    pub(crate) tls: Option<Tls>,
    /// For requests.
    pub(crate) http: reqwest::Client,
}

/// Clients and publishers at work.
#[derive(Debug)]
pub(crate) struct Crowd {
    /// What they share.
    pub(crate) ground: Arc<Ground>,
    phase: watch::Sender<Phase>,
    clients: JoinSet<()>,
    /// Of each client: whether it has positions, and its streams.
    streams: Vec<(bool, Vec<String>)>,
    publishers: JoinSet<u64>,
    quiet: watch::Sender<bool>,
}

impl Crowd {
    /// The ground for so many clients with so many channels each that take this way.
    pub(crate) fn new(way: Way, [silence, due]: [Duration; 2], clients: usize, channels: usize) -> Self {
        let (truth, tally) = (Arc::new(Truth::default()), Tally::new(clients, channels));
        let Way { addresses, tls, http } = way;
        let ground = Arc::new(Ground { addresses, tls, silence, due, truth, tally, http });
        let (phase, quiet) = (watch::Sender::new(Phase::Run), watch::Sender::new(false));
        Self { ground, phase, clients: JoinSet::new(), streams: Vec::new(), publishers: JoinSet::new(), quiet }
    }

    /// Publishes to these channels from now on, by these servers in turn.
    pub(crate) fn publish(
        &mut self,
        servers: &[String],
        token: &str,
        channels: &[String],
        every: Duration,
        plant: Option<Plant>,
    ) {
        let quiet = self.quiet.subscribe();
        self.publishers = publish::start(&self.ground, servers, token, channels, every, plant, &quiet);
    }

    /// One more client, on these streams.
    pub(crate) fn enter(&mut self, client: Client, streams: Vec<String>) {
        self.streams.push((client.has_positions(), streams));
        self.clients.spawn(client.live(Arc::clone(&self.ground), self.phase.subscribe()));
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.streams.len()
    }

    /// Waits until all have all their channels; answers how many have.
    pub(crate) async fn complete(&self, patience: Duration) -> usize {
        let begun = Instant::now();
        loop {
            let present = self.ground.tally.everybody_present();
            if present == self.len() || begun.elapsed() > patience {
                return present;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Publishing ends; answers how often an answer disagreed with what clients saw.
    pub(crate) async fn hush(&mut self) -> u64 {
        self.quiet.send_replace(true);
        let mut disagreed = 0;
        while let Some(one) = self.publishers.join_next().await {
            disagreed += one.unwrap_or(1);
        }
        disagreed
    }

    /// What is to be said of the publications, when all clients have gone; `disagreed` is what [`Crowd::hush`] answered.
    pub(crate) fn published(&self, disagreed: u64) -> Published {
        Published { disagreed, repeated: self.ground.truth.repeated() }
    }

    /// All become steady and catch up, then leave for good.
    pub(crate) async fn settle(&mut self, tops: &Tops) -> Fallible<()> {
        self.phase.send_replace(Phase::Settle);
        let begun = Instant::now();
        let arrived = |n: usize| {
            let (positions, streams) = &self.streams[n];
            // Of a stream that has nothing but positions nobody can say where one without them is.
            let all = streams.iter().enumerate().filter(|(_, stream)| *positions || is_application(stream));
            all.filter_map(|(at, stream)| Some((at, tops.get(stream)?))).all(|(at, (top, number))| {
                // A client that recovers nothing stands where it was told to: the ledgers are judged, this only waits.
                self.ground.tally.where_is(n, at) >= if *positions { top.offset } else { *number }
            })
        };
        while begun.elapsed() < SETTLING {
            let here = self.ground.tally.everybody_present() == self.len();
            if here && (0..self.len()).all(arrived) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        // What has come to those with positions is on its way to the others, also on streams that nobody waited for.
        tokio::time::sleep(Duration::from_secs(1)).await;
        self.phase.send_replace(Phase::Leave);
        while let Some(one) = self.clients.join_next().await {
            one.map_err(BenchError::because("running a client"))?;
        }
        Ok(())
    }
}
