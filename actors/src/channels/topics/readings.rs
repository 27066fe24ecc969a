//! Reading streams on: beside the actor, one reading of a stream at a time, and all of them when it is time to compare.

use std::{collections::HashMap, sync::Arc};

use dzvin_protocols::{channels::Position, platform::StreamName};
use futures_util::future::join_all;
use ractor::ActorRef;

use super::{
    AttachError, Attached, IDLE_CHECKS, TopicsMessage, TopicsState,
    fetch::{Fetched, fetch, open},
    stream::{Source, Stream},
    time,
    watched::Watchlist,
};
use crate::platform::ports::{Bus, ChangeLog, ReadLimit};

impl<B: Bus, L: ChangeLog> TopicsState<B, L> {
    /// Starts the reading that the stream needs, unless one is under way: then another follows it.
    pub(super) fn read(&mut self, myself: &ActorRef<TopicsMessage>, name: &StreamName) {
        let Some(stream) = self.streams.get_mut(name) else { return };
        if stream.watched.is_some() && stream.position.is_some() {
            // There is nothing to be read on.
            return;
        }
        if std::mem::replace(&mut stream.reading, true) {
            stream.again = true;
            return;
        }
        stream.again = false;
        let (bus, log) = (Arc::clone(&self.args.bus), Arc::clone(&self.args.log));
        // A batch is well below what may wait for one session, or catching up would close those that are not slow.
        let ReadLimit { count, bytes } = self.args.limits.recovery;
        let limit = ReadLimit { count, bytes: bytes.min(self.args.limits.queue_bytes / 4) };
        let (source, name, position, myself) =
            (stream.source.clone(), name.clone(), stream.position.clone(), myself.clone());
        let (within, places) = (self.args.limits.command, Arc::clone(&self.readings));
        tokio::spawn(async move {
            // The semaphore is never closed.
            let _place = places.acquire_owned().await;
            let reading = async {
                match position {
                    None => open(bus.as_ref(), log.as_ref(), &source).await,
                    Some(position) => fetch(bus.as_ref(), log.as_ref(), &source, &position, limit).await,
                }
            };
            let fetched = tokio::time::timeout(within, reading).await.unwrap_or(Fetched::Failed);
            let _ = myself.cast(TopicsMessage::Fetched(name, fetched));
        });
    }

    pub(super) async fn fetched(&mut self, myself: &ActorRef<TopicsMessage>, name: StreamName, fetched: Fetched) {
        let Some(stream) = self.streams.get_mut(&name) else { return };
        stream.reading = false;
        let mut again = stream.again;
        match fetched {
            Fetched::Opened(position) => {
                for (number, reply) in stream.waiting.drain(..) {
                    let _ = reply.send(Ok(Attached { position: position.clone(), number }));
                }
                stream.stand(position);
                // What was committed meanwhile.
                again = true;
                let batch = stream.greet();
                self.deliver(batch).await;
            }
            Fetched::Run { publications, more } => {
                let batch = stream.advance(&publications, true);
                time(myself, &name, stream);
                if !batch.is_empty() {
                    self.args.metrics.gaps_healed.inc();
                    tracing::debug!(stream = %name, publications = publications.len(), "publications missed on the bus were fetched");
                }
                again |= more;
                self.deliver(batch).await;
            }
            Fetched::Lost(position) => {
                let batch = stream.reset(position);
                self.args.metrics.resets.inc();
                tracing::warn!(stream = %name, "the past of a stream is lost; its subscribers reload");
                self.deliver(batch).await;
            }
            Fetched::Unknown => {
                for (_, reply) in stream.waiting.drain(..) {
                    let _ = reply.send(Err(AttachError::Unknown));
                }
                self.streams.remove(&name);
                self.count();
                return;
            }
            Fetched::Left if stream.is_wanted() => again = true,
            Fetched::Left => {
                self.streams.remove(&name);
                self.count();
                return;
            }
            Fetched::Failed => {
                for (_, reply) in stream.waiting.drain(..) {
                    let _ = reply.send(Err(AttachError::Unavailable));
                }
                // The next check tries again.
                again = false;
            }
        }
        if again {
            self.read(myself, &name);
        }
    }

    /// Reads every followed stream on, tells the shards where it stands, and leaves what nobody wants.
    pub(super) async fn check(&mut self, myself: &ActorRef<TopicsMessage>) {
        let names: Vec<StreamName> = self.streams.keys().cloned().collect();
        let (mut tops, mut resets) = (Vec::new(), Vec::new());
        let owed = self.shed.take_owed();
        let (mut followed, mut watched) = (Vec::new(), Watchlist::default());
        for name in names {
            let Some(stream) = self.streams.get_mut(&name) else { continue };
            resets.extend(stream.resets(owed));
            if stream.idle_for() > IDLE_CHECKS {
                self.leave(myself, name);
                continue;
            }
            tops.extend(stream.top());
            tops.extend(stream.pass_queries());
            watched.add(&name, stream);
            match (&stream.source, &stream.position) {
                (Source::Application(_), Some(position)) if !stream.reading => followed.push((name, position.clone())),
                _ => self.read(myself, &name),
            }
        }
        let held: usize = self.streams.values().map(Stream::held).sum();
        self.args.metrics.held_bytes.set(i64::try_from(held).unwrap_or(i64::MAX));
        self.compare(myself, followed);
        self.look(myself, watched);
        self.count();
        self.deliver(resets).await;
        self.deliver(tops).await;
    }

    /// Streams of the application may be many thousands: the bus is asked for all their tops at once, and only what differs is
    /// read.
    fn compare(&mut self, myself: &ActorRef<TopicsMessage>, followed: Vec<(StreamName, Position)>) {
        if followed.is_empty() || std::mem::replace(&mut self.comparing, true) {
            return;
        }
        let (bus, myself, within) = (Arc::clone(&self.args.bus), myself.clone(), self.args.limits.command);
        tokio::spawn(async move {
            let known: HashMap<StreamName, Position> = followed.into_iter().collect();
            // What cannot be asked for now cannot be compared; the rest of it can.
            let asked = bus.parts(known.keys().cloned().collect()).into_iter().map(|names| async {
                let tops = tokio::time::timeout(within, bus.positions(&names)).await.ok()?.ok()?;
                Some(names.into_iter().zip(tops).collect::<Vec<_>>())
            });
            let tops = join_all(asked).await.into_iter().flatten().flatten();
            let differ = tops.filter(|(name, top)| top.as_ref() != known.get(name));
            let behind: Vec<StreamName> = differ.map(|(name, _)| name).collect();
            let _ = myself.cast(TopicsMessage::Behind(behind));
        });
    }

    /// The bus is asked for no more events. Whoever wants the stream meanwhile waits until that is done, for the bus
    /// must not be told to begin before it is told to end.
    fn leave(&mut self, myself: &ActorRef<TopicsMessage>, name: StreamName) {
        let Some(stream) = self.streams.get_mut(&name) else { return };
        if std::mem::replace(&mut stream.reading, true) {
            return;
        }
        stream.position = None;
        let (bus, myself, within) = (Arc::clone(&self.args.bus), myself.clone(), self.args.limits.command);
        tokio::spawn(async move {
            let _ = tokio::time::timeout(within, bus.unsubscribe(&name)).await;
            let _ = myself.cast(TopicsMessage::Fetched(name, Fetched::Left));
        });
    }
}
