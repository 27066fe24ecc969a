//! Which primary of a cluster has which slots, out of what the primaries say of themselves and of one another.
//!
//! Every line of `CLUSTER NODES` is a claim with an epoch. Of one server the newest claim counts, and among equals its own;
//! of a slot the claim with the greatest epoch. So a replica that took over wins against everything that is said of the
//! one before it, and a slot that has been moved goes over when its new owner says so.

use std::collections::HashMap;

/// Slots of a cluster.
pub(super) const SLOTS: u16 = 16_384;

/// A primary and what it has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Primary {
    /// The name that it has for as long as it lives, whatever its address.
    pub(super) id: String,
    pub(super) host: String,
    pub(super) hostname: Option<String>,
    pub(super) port: u16,
    /// Grows whenever it takes slots over.
    pub(super) epoch: u64,
    /// First and last of each run, in order.
    pub(super) slots: Vec<(u16, u16)>,
}

impl Primary {
    /// Whether it is to be found at the same place.
    pub(super) fn is_where(&self, other: &Self) -> bool {
        (&self.host, &self.hostname, self.port) == (&other.host, &other.hostname, other.port)
    }
}

#[derive(Debug, Clone)]
struct Claim {
    primary: Primary,
    serves: bool,
    failed: bool,
    own: bool,
}

/// The primaries, in the order of their names, with what each has after all claims were compared.
pub(super) fn merge(views: &[(String, String)]) -> Vec<Primary> {
    let mut newest: HashMap<String, Claim> = HashMap::new();
    for claim in views.iter().flat_map(|(from, view)| view.lines().filter_map(|line| parse(from, line))) {
        let weight = |claim: &Claim| (claim.primary.epoch, claim.own, claim.failed);
        let better = newest.get(&claim.primary.id).is_none_or(|known| weight(&claim) > weight(known));
        if better {
            newest.insert(claim.primary.id.clone(), claim);
        }
    }
    let mut claims: Vec<Claim> = newest.into_values().filter(|claim| claim.serves).collect();
    claims.sort_by(|a, b| (a.primary.epoch, &a.primary.id).cmp(&(b.primary.epoch, &b.primary.id)));
    let mut owners = vec![usize::MAX; usize::from(SLOTS)];
    for (index, claim) in claims.iter().enumerate() {
        for (first, last) in &claim.primary.slots {
            owners[usize::from(*first)..=usize::from(*last)].fill(index);
        }
    }
    let mut primaries: Vec<Primary> = claims
        .into_iter()
        .enumerate()
        .filter_map(|(index, claim)| {
            let slots = runs(&owners, index);
            // One that failed and has lost everything to another is a primary no more.
            (!claim.failed || !slots.is_empty()).then_some(Primary { slots, ..claim.primary })
        })
        .collect();
    primaries.sort_by(|a, b| a.id.cmp(&b.id));
    primaries
}

fn runs(owners: &[usize], of: usize) -> Vec<(u16, u16)> {
    let mut runs: Vec<(u16, u16)> = Vec::new();
    for slot in (0..SLOTS).filter(|slot| owners[usize::from(*slot)] == of) {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == slot => *last = slot,
            _ => runs.push((slot, slot)),
        }
    }
    runs
}

/// `id ip:port@bus[,hostname] flags primary ping pong epoch state slots...`; `None` for what is no primary that can be reached.
fn parse(from: &str, line: &str) -> Option<Claim> {
    let mut words = line.split(' ');
    let (id, address, flags) = (words.next()?, words.next()?, words.next()?);
    let epoch = words.nth(3)?.parse().ok()?;
    let slots = words.skip(1).filter_map(run).collect();
    let has = |flag: &str| flags.split(',').any(|f| f == flag);
    let (address, hostname) = address.split_once(',').unwrap_or((address, ""));
    let (host, port) = address.split('@').next()?.rsplit_once(':')?;
    // A server that does not know its own address is where we have found it.
    let host = if host.is_empty() && has("myself") { from } else { host };
    let hostname = hostname.split(',').next().filter(|name| !name.is_empty() && !name.contains('='));
    Some(Claim {
        serves: has("master") && !has("noaddr") && !has("handshake") && !host.is_empty(),
        failed: has("fail"),
        own: has("myself"),
        primary: Primary {
            id: id.to_owned(),
            host: host.to_owned(),
            hostname: hostname.map(str::to_owned),
            port: port.parse().ok().filter(|port| *port != 0)?,
            epoch,
            slots,
        },
    })
}

/// `5` or `5-7`; what is in brackets is on its way and still where it was.
fn run(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    (first <= last && last < SLOTS).then_some((first, last))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(lines: &[&str]) -> (String, String) {
        ("10.0.0.9".to_owned(), lines.join("\n"))
    }

    fn shape(views: &[(String, String)]) -> Vec<(String, Vec<(u16, u16)>)> {
        merge(views).into_iter().map(|p| (p.id, p.slots)).collect()
    }

    fn owned(id: &str, slots: &[(u16, u16)]) -> (String, Vec<(u16, u16)>) {
        (id.to_owned(), slots.to_vec())
    }

    #[test]
    fn a_view_is_read() {
        let all = merge(&[view(&[
            "a 127.0.0.1:7001@17001,one.example myself,master - 0 0 1 connected 0-5460 7000",
            "b 127.0.0.1:7002@17002,,shard-id=x master - 0 17 2 connected 5461-6999 7001-10922 [93->-c]",
            "c ::1:7003@17003 master - 0 17 3 disconnected 10923-16383",
            "d 127.0.0.1:7004@17004 slave a 0 17 1 connected",
            "e :0@0 master,noaddr - 0 17 9 disconnected 0-16383",
            "rubbish",
            "",
        ])]);
        assert_eq!(all.len(), 3);
        assert_eq!((all[0].hostname.as_deref(), all[1].hostname.as_deref()), (Some("one.example"), None));
        assert_eq!((all[2].host.as_str(), all[2].port), ("::1", 7003));
        assert_eq!(all[0].slots, [(0, 5460), (7000, 7000)]);
        assert_eq!(all[1].slots, [(5461, 6999), (7001, 10922)]);
    }

    #[test]
    fn who_does_not_know_its_address_is_where_it_was_found() {
        let all = merge(&[view(&["a :7001@17001 myself,master - 0 0 1 connected 0-16383"])]);
        assert_eq!(all[0].host, "10.0.0.9");
    }

    #[test]
    fn a_slot_goes_over_when_its_new_owner_says_so() {
        let old =
            view(&["a h:1@11 myself,master - 0 0 1 connected 0-100", "b h:2@12 master - 0 0 2 connected 101-16383"]);
        let new =
            view(&["a h:1@11 master - 0 0 1 connected 0-100", "b h:2@12 myself,master - 0 0 3 connected 50 101-16383"]);
        let after = [owned("a", &[(0, 49), (51, 100)]), owned("b", &[(50, 50), (101, 16383)])];
        assert_eq!(shape(&[old.clone(), new.clone()]), after);
        assert_eq!(shape(&[new, old]), after, "whoever answers first");
    }

    #[test]
    fn a_replica_that_took_over_has_it_all() {
        let stale = view(&["a h:1@11 master - 0 0 1 connected 0-16383", "r h:3@13 slave a 0 0 1 connected"]);
        let revived = view(&["a h:1@11 myself,master - 0 0 1 connected 0-16383", "r h:3@13 slave a 0 0 1 connected"]);
        let taken =
            view(&["a h:1@11 master,fail - 0 0 1 disconnected", "r h:3@13 myself,master - 0 0 4 connected 0-16383"]);
        assert_eq!(shape(&[stale, taken.clone()]), [owned("r", &[(0, 16383)])]);
        assert_eq!(shape(std::slice::from_ref(&taken)), [owned("r", &[(0, 16383)])]);
        // For a moment it believes itself; nothing is sent to it.
        assert_eq!(shape(&[revived, taken]), [owned("a", &[]), owned("r", &[(0, 16383)])]);
    }

    #[test]
    fn one_that_failed_and_has_no_heir_keeps_its_slots() {
        let view = view(&["a h:1@11 master,fail - 0 0 1 disconnected 0-9", "b h:2@12 myself,master - 0 0 2 connected"]);
        assert_eq!(shape(&[view]), [owned("a", &[(0, 9)]), owned("b", &[])]);
    }
}
