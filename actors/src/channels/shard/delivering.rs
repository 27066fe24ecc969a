//! What a shard hands its sessions: appended to all of them first, then each touched session is flushed once.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::task::yield_now;

use super::{ShardState, seats::ChannelState};
use crate::{
    channels::{Delivery, What, roster::FETCHED, session::Offered, trace::Targets},
    platform::ports::{Bus, ChangeLog},
};

/// Sessions that are served in a row before others get the thread: a few milliseconds of writing.
const IN_A_ROW: usize = 512;

impl<B: Bus, L: ChangeLog> ShardState<B, L> {
    /// Everything that waits, in two phases: append it all, then flush each touched session once.
    pub(super) async fn deliver(&mut self) {
        let batches = self.queue.take();
        if batches.is_empty() {
            return;
        }
        let deliveries = || batches.iter().flat_map(|(batch, _)| batch.iter());
        let alone = deliveries().nth(1).is_none();
        let mut oldest = i64::MAX;
        let mut frames = 0;
        let traced = self.hub.tracer.targets();
        for delivery in deliveries() {
            frames += self.offer(delivery, alone && delivery.is_single(), traced.as_ref()).await;
            if let What::Items(items) = &delivery.what {
                oldest = oldest.min(items.first().map_or(i64::MAX, |item| item.publication.at));
            }
        }
        for (n, session) in std::mem::take(&mut self.dirty).into_iter().enumerate() {
            session.flush();
            breathe(n).await;
        }
        if frames > 0 {
            self.hub.metrics.deliveries.inc_by(frames);
            self.hub.metrics.commit_to_write.observe(seconds_since(oldest));
        }
    }

    /// One delivery to every subscriber of its channel; answers how many frames went out.
    async fn offer(&mut self, delivery: &Delivery, alone: bool, traced: Option<&Targets>) -> u64 {
        let Some(number) = self.names.get(&delivery.channel).copied() else { return 0 };
        let Some(channel) = self.channels.get_mut(number as usize) else { return 0 };
        if !channel.has_to_hear(delivery) {
            return 0;
        }
        let (mut frames, mut reached, mut told, mut served) = (0, 0, 0, 0);
        let mut over = Vec::new();
        for member in 0..channel.members.capacity() {
            if member.is_multiple_of(FETCHED) {
                let some = (member..member + FETCHED).filter_map(|member| channel.members.get(member));
                some.for_each(|seated| seated.session.fetch());
            }
            let Some(seated) = channel.members.get_mut(member) else { continue };
            let session = &seated.session;
            let (offered, touched) = if traced.is_some_and(|it| it.has_user(session.user())) {
                session.offer_traced(number, &mut seated.hint, delivery, alone)
            } else {
                session.offer(number, &mut seated.hint, delivery, alone)
            };
            if touched {
                self.dirty.push(Arc::clone(&seated.session));
            }
            match offered {
                Offered::Queued(queued) => {
                    frames += queued;
                    reached += 1;
                }
                Offered::Skipped => {}
                Offered::Ended | Offered::Gone => {
                    told += u64::from(offered == Offered::Ended);
                    over.push(member);
                }
            }
            breathe(served).await;
            served += 1;
        }
        if traced.is_some_and(|it| it.has_channel(&delivery.channel)) {
            self.hub.tracer.tell_delivered(delivery, reached);
        }
        for member in &over {
            let left = channel.members.remove(*member);
            self.hub.exit(self.index, &delivery.channel, &left);
        }
        self.hub.metrics.subscriptions.dec_by(i64::try_from(over.len()).unwrap_or(0));
        self.hub.metrics.insufficient.inc_by(told);
        let empty = channel.members.is_empty();
        if !over.is_empty() {
            self.recount(number);
        }
        if empty {
            self.forget(number);
        }
        frames
    }
}

impl ChannelState {
    /// A quiet stream is compared every few seconds: to walk over everybody each time would be most of what idle sessions cost.
    fn has_to_hear(&mut self, delivery: &Delivery) -> bool {
        let What::Top(top) = delivery.what else { return true };
        let now = Some((delivery.epoch.clone(), top));
        let before = std::mem::replace(&mut self.compared, now);
        self.compared != before
    }
}

async fn breathe(served: usize) {
    if served % IN_A_ROW == IN_A_ROW - 1 {
        yield_now().await;
    }
}

/// Age of a moment given in microseconds since 1970, by our clock; never negative.
fn seconds_since(micros: i64) -> f64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let then = Duration::from_micros(u64::try_from(micros).unwrap_or(0));
    now.saturating_sub(then).as_secs_f64()
}

#[cfg(test)]
mod tests {
    use dzvin_protocols::channels::Epoch;
    use slab::Slab;

    use super::*;

    #[test]
    fn a_quiet_stream_is_compared_once_by_those_who_are_there() {
        let name: Arc<str> = Arc::from("news");
        let mut channel = ChannelState { name: Arc::clone(&name), members: Slab::new(), compared: None };
        let told = |epoch: &str, what: What| Delivery {
            channel: Arc::clone(&name),
            number: 0,
            epoch: Epoch::new(epoch),
            what,
        };
        let mut hears = |epoch, what| channel.has_to_hear(&told(epoch, what));
        assert!(hears("a", What::Top(7)));
        assert!(!hears("a", What::Top(7)), "nothing has happened");
        assert!(hears("a", What::Top(8)));
        assert!(hears("b", What::Top(8)), "another past");
        assert!(hears("b", What::Reset) && hears("b", What::Reset), "whatever else is told is told to all");
        assert!(!hears("b", What::Top(8)));
    }
}
