//! One stream as this node follows it: of a kind, or of the application.

use std::{collections::HashMap, sync::Arc, time::Duration};

use bytes::Bytes;
use dzvin_protocols::{
    channels::{Channel, Epoch, Position, Publication},
    platform::{Kind, StreamName},
};
use prometheus_client::metrics::counter::Counter;
use ractor::RpcReplyPort;
use tokio::time::Instant;

use super::{
    AttachError, Attached,
    hold::{Hold, Released, Standing, StandsFor},
    numbers::Numbers,
    query::{News, Queries},
    watched::Watched,
};
use crate::{
    channels::{Delivery, Item, Namespaces, Spoken, What},
    platform::ports::Query,
};

/// A shard's wish.
pub(super) struct Want {
    pub(super) channel: Arc<str>,
    pub(super) shard: usize,
    /// Patches are wanted: the last publication is kept for them.
    pub(super) delta: bool,
    /// What the channel asks, if it is a query.
    pub(super) query: Option<Arc<Query>>,
}

/// A channel that is wanted.
#[derive(Debug, Default)]
struct Wanted {
    /// By which shards, as bits.
    shards: u64,
    number: u32,
    /// Somebody wants patches.
    delta: bool,
    /// The offset and data of what went out last, while somebody wants patches.
    last: Option<(u64, Bytes)>,
}

impl Wanted {
    /// The item of a publication.
    fn item(&mut self, offset: u64, of: StandsFor, publication: Publication) -> Item {
        if !self.delta {
            return Item::new(offset, publication);
        }
        // Who comes to the same offset by a recovery has another text there than those who were told several as one.
        let shared = (of.earlier == 0).then(|| (offset, publication.data.clone()));
        Item::new(offset, publication).after(std::mem::replace(&mut self.last, shared))
    }

    /// What its subscribers are told.
    fn delivery(&self, channel: &Arc<str>, epoch: &Epoch, what: What) -> (u64, Delivery) {
        (self.shards, Delivery { channel: Arc::clone(channel), number: self.number, epoch: epoch.clone(), what })
    }

    /// The same of a query.
    fn told(&mut self, channel: &Arc<str>, epoch: &Epoch, news: News, standing: &Standing) -> (u64, Delivery) {
        if news.unsure {
            self.last = None;
            return self.delivery(channel, epoch, What::Reset);
        }
        // What is not told here has concerned the query at no time.
        let open = standing.open(news.shown.iter().map(|(_, it)| it.offset));
        let item = |(n, (skips, it)): (usize, (u64, Publication))| {
            let item = self.item(it.offset, standing.of(it.offset), it);
            item.skipping(skips).opened(open.get(n).copied().unwrap_or_default())
        };
        let items = news.shown.into_iter().enumerate().map(item).collect();
        self.delivery(channel, epoch, What::Items(items))
    }
}

/// A stream by where its positions come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Source {
    /// The change log.
    Durable(Kind),
    /// The bus.
    Application(StreamName),
    /// Nowhere: words alone are said on it, of one user who comes and goes.
    Watched(StreamName),
}

impl Source {
    pub(super) fn name(&self) -> StreamName {
        match self {
            Self::Durable(kind) => kind.stream(),
            Self::Application(name) | Self::Watched(name) => name.clone(),
        }
    }
}

/// A stream with the channels that lead to it: its own, and of a kind those of single entities and of queries.
pub(super) struct Stream {
    pub(super) source: Source,
    /// `None` until it has been opened.
    pub(super) position: Option<Position>,
    pub(super) waiting: Vec<(u32, RpcReplyPort<Result<Attached, AttachError>>)>,
    pub(super) reading: bool,
    pub(super) again: bool,
    whole: Arc<str>,
    wanted: HashMap<Arc<str>, Wanted>,
    /// Of the wanted channels those that are queries.
    queries: Queries,
    /// What is held back.
    hold: Option<Hold>,
    /// Of a user who is watched: what is known.
    pub(super) watched: Option<Watched>,
    /// Channels, with their shard, whose subscribers come from a life of topics before this one.
    presented: Vec<(Arc<str>, usize)>,
    idle: u32,
}

impl Stream {
    /// Nobody wants it yet. For what is held back: how much may wait for one session (`queue`), and what is `conflated` is counted.
    pub(super) fn new(source: Source, namespaces: &Namespaces, queue: usize, conflated: &Counter) -> Self {
        let whole: Arc<str> = source.name().as_str().into();
        let rules = match &source {
            Source::Application(_) => namespaces.of(&whole).hold.as_ref(),
            Source::Durable(kind) => namespaces.of_kind(kind),
            Source::Watched(_) => None,
        };
        let hold = rules.map(|rules| Hold::new(rules.clone(), queue, conflated.clone()));
        let watched = matches!(source, Source::Watched(_)).then(Watched::default);
        Self {
            source,
            position: None,
            waiting: Vec::new(),
            reading: false,
            again: false,
            whole,
            wanted: HashMap::new(),
            queries: Queries::default(),
            hold,
            watched,
            presented: Vec::new(),
            idle: 0,
        }
    }

    /// Answers the channel's number.
    pub(super) fn want(&mut self, Want { channel, shard, delta, query }: Want, numbers: &Numbers) -> u32 {
        let number = numbers.of(&channel);
        if let Some(query) = query {
            self.queries.follow(&channel, query, self.passed());
        }
        let wanted = self.wanted.entry(channel).or_default();
        wanted.shards |= 1 << shard;
        wanted.number = number;
        wanted.delta |= delta;
        self.idle = 0;
        // Whoever comes may not have been told how it stands.
        self.watched.iter_mut().for_each(Watched::owe);
        number
    }

    pub(super) fn unwant(&mut self, channel: &Arc<str>, shard: usize, numbers: &Numbers) {
        if let Some(wanted) = self.wanted.get_mut(channel) {
            wanted.shards &= !(1 << shard);
            if wanted.shards == 0 {
                self.wanted.remove(channel);
                self.queries.forget(channel);
                numbers.forget(channel);
            }
        }
    }

    /// The same of a shard whose subscribers may have missed something. Some may want patches: nobody knows any more.
    pub(super) fn present(&mut self, channel: Arc<str>, shard: usize, query: Option<Arc<Query>>, numbers: &Numbers) {
        self.presented.push((Arc::clone(&channel), shard));
        self.want(Want { channel, shard, delta: true, query }, numbers);
    }

    /// News for everybody who wants the channel.
    fn news(&self, channel: &Arc<str>, wanted: &Wanted, what: What) -> Option<(u64, Delivery)> {
        Some(wanted.delivery(channel, &self.position.as_ref()?.epoch, what))
    }

    /// Tells those that were presented where the stream stands, once that is known. Of single entities only the log
    /// knows: their subscribers recover from it.
    pub(super) fn greet(&mut self) -> Vec<(u64, Delivery)> {
        if self.watched.is_some() {
            self.presented = Vec::new();
        }
        let (Some(Position { epoch, .. }), Some(offset)) = (&self.position, self.passed()) else { return Vec::new() };
        let greeting = |(channel, shard): (Arc<str>, usize)| {
            let what = if channel == self.whole { What::Top(offset) } else { What::Reset };
            (1 << shard, Delivery { channel, number: 0, epoch: epoch.clone(), what })
        };
        self.presented.drain(..).map(greeting).collect()
    }

    /// A shard wants nothing any more.
    pub(super) fn forget(&mut self, shard: usize, numbers: &Numbers) {
        self.presented.retain(|(_, of)| *of != shard);
        self.wanted.retain(|channel, wanted| {
            wanted.shards &= !(1 << shard);
            if wanted.shards == 0 {
                self.queries.forget(channel);
                numbers.forget(channel);
            }
            wanted.shards != 0
        });
    }

    pub(super) fn is_wanted(&self) -> bool {
        !(self.wanted.is_empty() && self.waiting.is_empty())
    }

    /// For how many checks nobody has wanted it.
    pub(super) fn idle_for(&mut self) -> u32 {
        self.idle = if self.is_wanted() { 0 } else { self.idle + 1 };
        self.idle
    }

    /// Takes what is new of a run that follows the position, and encodes it once per channel. It came by itself, or was `read_back`.
    pub(super) fn advance(&mut self, publications: &[Publication], read_back: bool) -> Vec<(u64, Delivery)> {
        let Some(position) = &mut self.position else { return Vec::new() };
        let fresh: Vec<&Publication> = publications.iter().skip_while(|p| p.offset <= position.offset).collect();
        let Some(last) = fresh.last() else { return Vec::new() };
        let before = std::mem::replace(&mut position.offset, last.offset);
        if let Some(hold) = &mut self.hold {
            hold.take(fresh, read_back);
            return if hold.is_due(Instant::now()) { self.release_now() } else { Vec::new() };
        }
        self.tell(before, &fresh, &Standing::default())
    }

    /// What follows `before` for each channel.
    fn tell(&mut self, before: u64, fresh: &[&Publication], standing: &Standing) -> Vec<(u64, Delivery)> {
        let Some(Position { epoch, .. }) = self.position.clone() else { return Vec::new() };
        let mut batch = Vec::new();
        let mut others = self.wanted.len() - self.queries.len();
        if self.queries.len() > 0 {
            for (channel, news) in self.queries.tell(before, fresh) {
                let Some(wanted) = self.wanted.get_mut(&channel) else { continue };
                batch.push(wanted.told(&channel, &epoch, news, standing));
            }
        }
        if let Some(wanted) = self.wanted.get_mut(&self.whole) {
            let open = standing.open(fresh.iter().map(|it| it.offset));
            let item = |(n, it): (usize, &&Publication)| {
                let of = standing.of(it.offset);
                let item = wanted.item(it.offset, of, (*it).clone()).skipping(of.skips);
                item.opened(open.get(n).copied().unwrap_or_default())
            };
            let items = fresh.iter().enumerate().map(item).collect();
            batch.push(wanted.delivery(&self.whole, &epoch, What::Items(items)));
            others -= 1;
        }
        if let Source::Durable(kind) = &self.source
            && others > 0
        {
            for publication in fresh {
                let channel: Arc<str> = Channel::of_entity(kind, &publication.id).to_string().into();
                let Some(wanted) = self.wanted.get_mut(&channel) else { continue };
                let of = standing.of(publication.offset);
                let item = wanted.item(publication.revision, of, (*publication).clone()).skipping(of.earlier);
                batch.push(wanted.delivery(&channel, &epoch, What::Items(Arc::new([item]))));
            }
        }
        batch
    }

    /// Begins to follow at this position.
    pub(super) fn stand(&mut self, position: Position) {
        if let Some(hold) = &mut self.hold {
            hold.reset(position.offset);
        }
        // From here on words are heard.
        self.watched.iter_mut().for_each(Watched::doubt);
        self.position = Some(position);
    }

    /// What was held back, when the time is over.
    pub(super) fn release(&mut self) -> Vec<(u64, Delivery)> {
        let Some(hold) = &mut self.hold else { return Vec::new() };
        if hold.came(Instant::now()) { self.release_now() } else { Vec::new() }
    }

    fn release_now(&mut self) -> Vec<(u64, Delivery)> {
        let Some(hold) = &mut self.hold else { return Vec::new() };
        let Released { mut before, publications, standing, passing } = hold.release(Instant::now());
        let publications: Vec<&Publication> = publications.iter().collect();
        let (mut rest, mut batch) = (&publications[..], Vec::new());
        for (behind, item) in passing {
            let (told, later) = rest.split_at(rest.partition_point(|it| it.offset <= behind));
            batch.extend(self.tell_some(&mut before, told, &standing));
            batch.extend(self.pass(item));
            rest = later;
        }
        batch.extend(self.tell_some(&mut before, rest, &standing));
        batch
    }

    /// What follows `before`, which it moves on, if there is anything.
    fn tell_some(&mut self, before: &mut u64, some: &[&Publication], standing: &Standing) -> Vec<(u64, Delivery)> {
        let Some(last) = some.last() else { return Vec::new() };
        self.tell(std::mem::replace(before, last.offset), some, standing)
    }

    /// Bytes that are held back.
    pub(super) fn held(&self) -> usize {
        self.hold.as_ref().map_or(0, Hold::bytes)
    }

    /// When somebody has to release what is held back.
    pub(super) fn wait(&mut self) -> Option<Duration> {
        self.hold.as_mut()?.wait(Instant::now())
    }

    /// Up to where everything has gone out.
    fn passed(&self) -> Option<u64> {
        let offset = self.position.as_ref()?.offset;
        Some(self.hold.as_ref().map_or(offset, Hold::passed))
    }

    /// Stands at a new position whose past is unknown: every subscriber must recover.
    pub(super) fn reset(&mut self, position: Position) -> Vec<(u64, Delivery)> {
        // Of what nothing keeps nobody could recover anything: it goes out before they are told to.
        let passing = self.hold.as_mut().map(Hold::let_pass).unwrap_or_default();
        let mut batch: Vec<_> = passing.into_iter().filter_map(|item| self.pass(item)).collect();
        self.queries.reset(position.offset);
        self.stand(position);
        self.wanted.values_mut().for_each(|wanted| wanted.last = None);
        batch.extend(self.resets(u64::MAX));
        batch
    }

    /// Tells every subscriber of these shards to recover. Who watches a user is told again how it stands.
    pub(super) fn resets(&mut self, of: u64) -> Vec<(u64, Delivery)> {
        if let Some(watched) = &mut self.watched {
            if of != 0 {
                watched.owe();
            }
            return Vec::new();
        }
        let concerned = self.wanted.iter().filter(|(_, wanted)| wanted.shards & of != 0);
        let told = |(channel, wanted)| self.news(channel, wanted, What::Reset);
        concerned.filter_map(told).map(|(shards, delivery)| (shards & of, delivery)).collect()
    }

    /// Where the kind's own channel stands, for its subscribers to compare.
    pub(super) fn top(&self) -> Option<(u64, Delivery)> {
        if self.watched.is_some() {
            return None;
        }
        self.news(&self.whole, self.wanted.get(&self.whole)?, What::Top(self.passed()?))
    }

    /// Of each query up to where nothing else has concerned it, for its subscribers to compare and to stand there.
    pub(super) fn pass_queries(&mut self) -> Vec<(u64, Delivery)> {
        let Some(passed) = self.passed() else { return Vec::new() };
        let passed = self.queries.pass(passed).into_iter();
        let told = |(channel, after, to)| self.news(&channel, self.wanted.get(&channel)?, What::Passed { after, to });
        passed.filter_map(told).collect()
    }

    /// A word for the subscribers of the stream's own channel.
    pub(super) fn word(&mut self, spoken: Arc<Spoken>) -> Option<(u64, Delivery)> {
        self.watched.iter_mut().for_each(|watched| watched.heard(&spoken.word));
        self.news(&self.whole, self.wanted.get(&self.whole)?, What::Word(spoken))
    }

    /// A publication that nothing keeps, for the same.
    pub(super) fn passing(&mut self, item: Arc<Item>) -> Vec<(u64, Delivery)> {
        let heard = self.position.is_some() && self.wanted.contains_key(&self.whole);
        let Some(hold) = self.hold.as_mut().filter(|_| heard) else { return self.pass(item).into_iter().collect() };
        hold.pass(item);
        if hold.is_due(Instant::now()) { self.release_now() } else { Vec::new() }
    }

    fn pass(&self, item: Arc<Item>) -> Option<(u64, Delivery)> {
        self.news(&self.whole, self.wanted.get(&self.whole)?, What::Passing(item))
    }
}

#[cfg(test)]
#[path = "conflated_tests.rs"]
mod tests;
