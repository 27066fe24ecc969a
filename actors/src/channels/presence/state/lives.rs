//! This node's life in the store, and the leavings of nodes whose lives are over.
//!
//! Invariants: one renewal and one burial at a time; what a burial has removed is told before more is looked for.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use tokio::time::{Instant, timeout};

use super::{
    super::{
        PresenceMessage, in_time,
        limits::{BURIAL, BURY, MAX_UNSAID},
        servers, unpanicked,
    },
    State,
};
use crate::platform::ports::{Buried, Bus, Life, Presence};

impl<P: Presence, B: Bus> State<P, B> {
    pub(super) fn renew(&mut self) {
        self.renewing = true;
        self.renewed = Some(Instant::now());
        let (store, myself, within) = (Arc::clone(&self.args.store), self.myself.clone(), self.args.limits.command);
        self.tasks.spawn(async move {
            let life = unpanicked(async { in_time(timeout(within, store.renew()).await) }).await;
            let _ = myself.cast(PresenceMessage::Renewed(life.flatten()));
        });
    }

    pub(in super::super) fn renewed(&mut self, life: Option<Life>) {
        self.renewing = false;
        let Some(life) = life else {
            self.args.metrics.failures.inc();
            if !self.away {
                tracing::warn!("the store of presence did not renew this node's life");
                self.goes_away();
                // It has just been asked.
                self.renewed = Some(Instant::now());
            }
            return;
        };
        if std::mem::replace(&mut self.away, false) {
            tracing::info!("the store of presence answers");
        }
        self.failures_in_a_row = 0;
        if let Life::Anew { told } = life {
            self.begin(told);
        }
        for (place, name) in std::mem::take(&mut self.failed) {
            let listed = self.channels.get_mut(&name).filter(|channel| channel.listed == Some(place));
            let Some(channel) = listed else { continue };
            (channel.failed, channel.listed) = (false, None);
            self.settle(&name);
        }
        self.bury();
    }

    /// Everything is entered again.
    fn begin(&mut self, told: bool) {
        (self.life, self.told) = (self.life + 1, told);
        self.args.metrics.lives.inc();
        if !told {
            self.unsettled = Some(Instant::now() + self.args.limits.settle);
        }
        if self.life > 1 {
            tracing::warn!(clients = self.clients, "the store knows nothing of this node: presence is entered again");
        }
        let names: Vec<_> = self.channels.keys().cloned().collect();
        for name in names {
            self.change(&name, |channel| {
                // One that is with a call hears of it when that is over.
                if !channel.busy {
                    channel.lost(told);
                }
            });
        }
    }

    pub(super) fn bury(&mut self) {
        // Those that are being told come first: a store answers them to nobody else meanwhile.
        if self.burying || self.graves > 0 || self.unsaid > MAX_UNSAID || self.going.load(Relaxed) {
            return;
        }
        self.burying = true;
        let (store, myself) = (Arc::clone(&self.args.store), self.myself.clone());
        self.tasks.spawn(async move {
            let buried = unpanicked(async { in_time(timeout(BURIAL, store.bury(BURY)).await) }).await;
            // What an answer that was lost had removed the store answers again.
            let _ = myself.cast(PresenceMessage::Buried(buried.flatten().unwrap_or_default()));
        });
    }

    pub(in super::super) fn buried(&mut self, buried: Vec<Buried>) {
        self.burying = false;
        let mut work = 0;
        for grave in buried {
            let name: Arc<str> = grave.channel.as_str().into();
            work += grave.left.len() + 1;
            // Whom servers are told of is in two graves.
            if servers::channel(&name).is_none() {
                self.args.metrics.buried.inc_by(grave.left.len() as u64);
            }
            (self.graves, self.unburied) = (self.graves + 1, self.unburied | grave.grave.more);
            let (context, mut tell) = (self.context(&name), Vec::new());
            self.change(&name, |channel| tell = channel.buried(grave, &context));
            self.tell(&name, tell);
        }
        // As much as one burial removes: there may be more, which is looked for when this has been told.
        self.unburied |= work >= BURY;
    }
}
