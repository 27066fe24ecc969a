//! The servers that this node keeps connections to, and which of them has what.
//!
//! Where Redis is one server, or one behind Sentinel, there is one of them and it has everything; of a cluster each primary is
//! one. A change of shape is a new [`Routes`]; whoever holds the old one is told by a server that it was wrong.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use fred::{types::config::ServerConfig, util::redis_keyslot};
use tokio::{sync::watch, time::Instant};

use super::{link::Link, topology::SLOTS};

/// How a server is found.
#[derive(Debug, Clone)]
pub(super) enum Site {
    /// Always there.
    At(ServerConfig),
    /// Where the sentinels say.
    Watched,
}

/// A primary, and the connection to it while there is one.
#[derive(Debug)]
pub(super) struct Shard {
    pub(super) site: Site,
    /// `host:port`, as its neighbours may call it.
    names: Vec<String>,
    link: watch::Sender<Option<Arc<Link>>>,
    /// The replication id that it had when it was last seen.
    primary: Mutex<Arc<str>>,
}

impl Shard {
    pub(super) fn new(site: Site, names: Vec<String>) -> Arc<Self> {
        Arc::new(Self { site, names, link: watch::Sender::new(None), primary: Mutex::new("".into()) })
    }

    /// The connection, if there is one now.
    pub(super) fn link(&self) -> Option<Arc<Link>> {
        self.link.borrow().clone()
    }

    /// The connection once there is one; the caller sets the time limit.
    pub(super) async fn linked(&self) -> Option<Arc<Link>> {
        // The sender lives as long as we do: the wait cannot fail.
        self.link.subscribe().wait_for(Option::is_some).await.ok().and_then(|link| link.clone())
    }

    pub(super) fn is_linked(&self) -> bool {
        self.link.borrow().is_some()
    }

    /// Only [`super::Shared::set_link`] may: it counts.
    pub(super) fn set_link(&self, link: Option<Arc<Link>>) {
        if let Some(link) = &link {
            *self.primary.lock().unwrap_or_else(PoisonError::into_inner) = link.primary.as_str().into();
        }
        self.link.send_replace(link);
    }

    /// For the log.
    pub(super) fn name(&self) -> &str {
        self.names.first().map_or("", String::as_str)
    }

    /// Where it is, if that is over TCP and known beforehand.
    pub(super) fn address(&self) -> Option<(String, u16)> {
        match &self.site {
            Site::At(ServerConfig::Centralized { server }) => Some((server.host.to_string(), server.port)),
            _ => None,
        }
    }

    /// The host alone.
    pub(super) fn host(&self) -> &str {
        match &self.site {
            Site::At(ServerConfig::Centralized { server }) => &server.host,
            _ => "",
        }
    }

    pub(super) fn is_at(&self, name: &str) -> bool {
        self.names.iter().any(|known| known == name)
    }

    pub(super) fn primary(&self) -> Arc<str> {
        Arc::clone(&self.primary.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Who has what.
#[derive(Debug, Default)]
pub(super) struct Routes {
    /// First and last slot of each run and who has it, in order.
    pub(super) runs: Vec<(u16, u16, Arc<Shard>)>,
    /// All, those that have nothing too: what is being moved to them is there already.
    pub(super) shards: Vec<Arc<Shard>>,
    /// First and last slot of each run that has come to another server, and until when not everybody may listen there yet.
    pub(super) settling: Vec<(u16, u16, Instant)>,
}

/// The slot of a key or channel: of its tag, if it has one.
pub(super) fn slot(key: &str) -> u16 {
    redis_keyslot(key.as_bytes())
}

impl Routes {
    /// One server has everything.
    pub(super) fn one(shard: Arc<Shard>) -> Self {
        Self { runs: vec![(0, SLOTS - 1, Arc::clone(&shard))], shards: vec![shard], settling: Vec::new() }
    }

    /// Who has the slot.
    pub(super) fn of(&self, slot: u16) -> Option<&Arc<Shard>> {
        let next = self.runs.partition_point(|(first, ..)| *first <= slot);
        let (_, last, shard) = self.runs.get(next.checked_sub(1)?)?;
        (slot <= *last).then_some(shard)
    }

    /// Notes what another server had before, until that moment.
    pub(super) fn settle(&mut self, before: &Self, until: Instant) {
        let now = Instant::now();
        self.settling = before.settling.iter().filter(|(.., until)| *until > now).copied().collect();
        let mut moved: Option<(u16, u16, Instant)> = None;
        for slot in 0..SLOTS {
            let changed = match (before.of(slot), self.of(slot)) {
                (Some(from), Some(to)) => !Arc::ptr_eq(from, to),
                // What nobody had was somebody's, unless it is the first look.
                (None, Some(_)) => !before.shards.is_empty(),
                (_, None) => false,
            };
            match &mut moved {
                Some((_, last, _)) if changed => *last = slot,
                None if changed => moved = Some((slot, slot, until)),
                _ => self.settling.extend(moved.take()),
            }
        }
        self.settling.extend(moved);
    }

    /// Until when not everybody may listen where the slot is, if that is so.
    pub(super) fn settles(&self, slot: u16) -> Option<Instant> {
        let of = self.settling.iter().filter(|(first, last, _)| (*first..=*last).contains(&slot));
        of.map(|(.., until)| *until).max().filter(|until| *until > Instant::now())
    }

    /// Whether the server has the key or channel.
    pub(super) fn has(&self, shard: &Arc<Shard>, key: &str) -> bool {
        self.of(slot(key)).is_some_and(|owner| Arc::ptr_eq(owner, shard))
    }

    /// Who answers at `host:port`.
    pub(super) fn at(&self, name: &str) -> Option<&Arc<Shard>> {
        self.shards.iter().find(|shard| shard.is_at(name))
    }

    /// Things by who has their slot; last, what nobody has.
    pub(super) fn by_owner<T>(&self, things: impl IntoIterator<Item = (u16, T)>) -> Vec<(Option<Arc<Shard>>, Vec<T>)> {
        let mut groups: HashMap<*const Shard, (Option<Arc<Shard>>, Vec<T>)> = HashMap::new();
        for (slot, thing) in things {
            let owner = self.of(slot);
            let group = groups.entry(owner.map_or(std::ptr::null(), Arc::as_ptr));
            group.or_insert_with(|| (owner.cloned(), Vec::new())).1.push(thing);
        }
        let mut groups: Vec<_> = groups.into_values().collect();
        groups.sort_by_key(|(owner, _)| owner.is_none());
        groups
    }

    /// Whether everything can be asked for.
    pub(super) fn whole(&self) -> bool {
        let covered: u32 = self.runs.iter().map(|(first, last, _)| u32::from(*last) - u32::from(*first) + 1).sum();
        covered == u32::from(SLOTS) && self.runs.iter().all(|(.., shard)| shard.is_linked())
    }

    /// The replication ids of those that have something, between spaces: what one of them began and another holds has been moved,
    /// not lost. Of one server nothing can have been moved.
    pub(super) fn vouched(&self) -> String {
        if self.shards.len() < 2 {
            return String::new();
        }
        let mut ids: Vec<_> = self.runs.iter().map(|(.., shard)| shard.primary()).filter(|id| !id.is_empty()).collect();
        ids.sort_unstable();
        ids.dedup();
        ids.join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shard(name: &str) -> Arc<Shard> {
        Shard::new(Site::Watched, vec![name.to_owned()])
    }

    #[test]
    fn a_slot_has_one_owner_or_none() {
        let (a, b) = (shard("a:1"), shard("b:2"));
        let runs = vec![(0, 4, Arc::clone(&a)), (5, 5, Arc::clone(&b)), (7, 9, Arc::clone(&a))];
        let routes = Routes { runs, shards: vec![Arc::clone(&a), Arc::clone(&b)], settling: Vec::new() };
        let owner = |slot| routes.of(slot).map(|shard| shard.is_at("a:1"));
        assert_eq!(
            [0, 4, 5, 6, 7, 9, 10, 16383].map(owner),
            [Some(true), Some(true), Some(false), None, Some(true), Some(true), None, None]
        );
        assert!(routes.at("b:2").is_some_and(|found| Arc::ptr_eq(found, &b)) && routes.at("c:3").is_none());
        assert!(Routes::default().of(0).is_none() && !Routes::default().whole());
        assert!(Routes::one(a).of(16_383).is_some());
    }

    #[test]
    fn a_slot_that_has_moved_settles() {
        let (a, b) = (shard("a:1"), shard("b:2"));
        let routes = |runs: &[(u16, u16, &Arc<Shard>)]| Routes {
            runs: runs.iter().map(|(first, last, shard)| (*first, *last, Arc::clone(shard))).collect(),
            shards: vec![Arc::clone(&a), Arc::clone(&b)],
            settling: Vec::new(),
        };
        let later = Instant::now() + std::time::Duration::from_secs(60);
        let settling = |routes: &Routes| [0, 4, 5, 6, 7, 9, 16_383].map(|slot| routes.settles(slot).is_some());
        let mut first = routes(&[(0, 9, &a), (10, 16_383, &b)]);
        first.settle(&Routes::default(), later);
        assert_eq!(settling(&first), [false; 7], "nothing was anywhere before");
        let mut second = routes(&[(0, 4, &a), (5, 6, &b), (7, 8, &a), (10, 16_382, &b), (16_383, 16_383, &a)]);
        second.settle(&first, later);
        assert_eq!(settling(&second), [false, false, true, true, false, false, true]);
        let mut third = routes(&[(0, 9, &a), (10, 16_383, &b)]);
        third.settle(&second, Instant::now());
        assert_eq!(
            settling(&third),
            [false, false, true, true, false, false, true],
            "what has not yet settled still has not"
        );
        let mut fourth = routes(&[(0, 9, &a), (10, 16_383, &b)]);
        fourth.settle(&routes(&[(0, 8, &a), (10, 16_383, &b)]), later);
        assert_eq!(settling(&fourth), [false, false, false, false, false, true, false], "what nobody had for a while");
    }

    #[test]
    fn keys_and_channel_of_a_stream_share_a_slot() {
        for tag in ["{dz:chat.1}", "{dz:a}b}", "{dz:{x}}", "{dz:ї}"] {
            let slots = ["position", "history", "events"].map(|part| slot(&format!("{tag}:{part}")));
            assert!(slots.iter().all(|s| *s == slots[0]), "{tag}");
        }
    }
}
