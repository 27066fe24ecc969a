//! A page of connections, put together from what nodes say.
//!
//! Invariants: whoever is connected while all pages are asked for is on exactly one of them, whatever the nodes had room for; there are
//! never more of them in memory than a page holds and one node says.

use std::sync::Arc;

use dzvin_actors::channels::ClientId;
use dzvin_protocols::channels::ConnectionInfo;
use serde::Serialize;

/// Bytes of connections in what one node says: a word holds 64 KiB, and is a little more than they.
const MAX_ANSWER_BYTES: usize = 48 * 1024;

/// A connection, and where it is.
#[derive(Debug, Serialize)]
pub(super) struct Shown {
    pub(super) node: Arc<str>,
    #[serde(flatten)]
    pub(super) connection: ConnectionInfo,
}

impl Shown {
    /// Its place. What this version cannot read stands before everything, on the first page.
    fn place(&self) -> Option<ClientId> {
        ClientId::parse(&self.connection.client)
    }
}

/// A page that grows.
#[derive(Debug)]
pub(super) struct Page {
    after: Option<ClientId>,
    limit: usize,
    items: Vec<Shown>,
    more: bool,
    /// Behind this one a node has others that it had no room for: nobody else's may be shown before them.
    end: Option<ClientId>,
}

impl Page {
    /// The page behind a client, of at most so many.
    pub(super) const fn new(after: Option<ClientId>, limit: usize) -> Self {
        Self { after, limit, items: Vec::new(), more: false, end: None }
    }

    /// What one node says: its first behind that client, and whether it has more.
    pub(super) fn take(&mut self, node: &Arc<str>, connections: Vec<ConnectionInfo>, more: bool) {
        let shown = connections.into_iter().map(|connection| Shown { node: Arc::clone(node), connection });
        // A node of a version before pages says those that it finds first, whoever they are.
        let behind: Vec<Shown> = shown.filter(|it| self.after.is_none() || it.place() > self.after).collect();
        if more {
            self.more = true;
            let last = behind.iter().filter_map(Shown::place).max();
            self.end = self.end.into_iter().chain(last).min();
        }
        self.items.extend(behind);
        self.items.sort_by_cached_key(Shown::place);
        self.more |= self.items.len() > self.limit;
        self.items.truncate(self.limit);
    }

    /// The page, whether there is another, and behind which client that is.
    pub(super) fn finish(mut self) -> (Vec<Shown>, bool, Option<Arc<str>>) {
        if self.end.is_some() {
            self.items.retain(|it| it.place() <= self.end);
        }
        let next = self.items.last().filter(|it| self.more && it.place().is_some());
        let next = next.map(|it| Arc::clone(&it.connection.client));
        (self.items, self.more, next)
    }
}

/// Leaves the first that an answer may hold and has room for; whether there were more. At least one is left, if only without the names
/// of all its channels: behind it the next page begins.
pub(super) fn fit(connections: &mut Vec<ConnectionInfo>, limit: usize) -> bool {
    let count = connections.len();
    connections.sort_by_cached_key(|it| ClientId::parse(&it.client));
    connections.truncate(limit);
    let mut room = MAX_ANSWER_BYTES;
    let fits = |it: &&ConnectionInfo| {
        let bytes = bytes(it);
        let fits = bytes <= room;
        room = room.saturating_sub(bytes);
        fits
    };
    let fits = connections.iter().take_while(fits).count();
    connections.truncate(fits.max(1));
    if fits == 0
        && let Some(first) = connections.first_mut()
    {
        shorten(first);
    }
    connections.len() < count
}

fn shorten(connection: &mut ConnectionInfo) {
    let channels = std::mem::take(&mut connection.channels);
    let (all, mut room) = (channels.len(), MAX_ANSWER_BYTES.saturating_sub(bytes(connection)));
    let fits = |name: &Arc<str>| {
        // As above.
        let bytes = serde_json::to_vec(name).map_or(0, |text| text.len() + 1);
        let fits = bytes <= room;
        room = room.saturating_sub(bytes);
        fits
    };
    connection.channels = channels.into_iter().take_while(fits).collect();
    let more = all - connection.channels.len();
    connection.more_channels = connection.more_channels.saturating_add(u32::try_from(more).unwrap_or(u32::MAX));
}

/// As it is written in a word.
fn bytes(connection: &ConnectionInfo) -> usize {
    // Strings and numbers: this cannot fail.
    serde_json::to_vec(connection).map_or(0, |text| text.len() + 1)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// Of either wire in turn, anywhere in the order.
    fn connection(n: u64, channels: usize) -> ConnectionInfo {
        let [high, low] = [n.wrapping_mul(0x9e37_79b9_7f4a_7c15), n];
        let client = if n.is_multiple_of(2) { format!("{high}.{low}") } else { format!("{high:016x}{low:016x}") };
        ConnectionInfo {
            client: client.into(),
            user: "\u{1f}app\u{1f}user".into(),
            wire: "w".into(),
            age_seconds: 1,
            queue_bytes: 0,
            channels: (0..channels).map(|of| format!("{of:0>200}").into()).collect(),
            more_channels: 0,
        }
    }

    /// What a node of these says, as it says it.
    fn said(all: &[ConnectionInfo], after: Option<ClientId>, limit: usize) -> (Vec<ConnectionInfo>, bool) {
        let behind = |it: &&ConnectionInfo| after.is_none() || ClientId::parse(&it.client) > after;
        let mut found = all.iter().filter(behind).cloned().collect();
        let more = fit(&mut found, limit);
        assert!(serde_json::to_vec(&found).expect("json").len() <= MAX_ANSWER_BYTES + 2, "it fits a word");
        (found, more)
    }

    #[test]
    fn pages_show_everybody_once_whatever_nodes_have_room_for() {
        // On one node, connections of many channels, of which few fit an answer; one that alone is too large.
        let nodes: [Vec<ConnectionInfo>; 3] = [
            (0..90).map(|n| connection(n, 0)).collect(),
            (90..200).map(|n| connection(n, if n == 120 { 400 } else { 60 })).collect(),
            (200..210).map(|n| connection(n, 1)).collect(),
        ];
        let total: usize = nodes.iter().map(Vec::len).sum();
        for limit in [1, 7, 100] {
            let (mut seen, mut after, mut pages) = (BTreeMap::new(), None, 0);
            loop {
                let mut page = Page::new(after, limit);
                for (name, node) in nodes.iter().enumerate() {
                    let (found, more) = said(node, after, limit);
                    page.take(&name.to_string().into(), found, more);
                    assert!(page.items.len() <= limit);
                }
                let (items, more, next) = page.finish();
                assert_eq!(more, next.is_some());
                pages += 1;
                for it in items {
                    let channels = it.connection.channels.len() + it.connection.more_channels as usize;
                    let place = it.place().expect("a place");
                    assert!(Some(place) > after, "in order");
                    assert!(seen.insert(place, channels).is_none(), "twice: {it:?}");
                }
                let Some(next) = next else { break };
                after = ClientId::parse(&next);
            }
            assert_eq!(seen.len(), total, "{limit} a page, {pages} pages");
            assert!(seen.values().any(|channels| *channels == 400), "all of its channels are counted");
        }
    }

    #[test]
    fn a_node_of_a_version_before_pages_leads_nobody_round_in_circles() {
        let all: Vec<ConnectionInfo> = (0..20).map(|n| connection(n, 0)).collect();
        let mut places: Vec<_> = all.iter().map(|it| ClientId::parse(&it.client)).collect();
        places.sort_unstable();
        let mut page = Page::new(places[19], 10);
        page.take(&"old".into(), all, true);
        let (items, more, next) = page.finish();
        assert!(items.is_empty() && more && next.is_none());
    }
}
