//! The bars of the soaks, and whether they are reached. Pure: each fault is tried on it.

use super::ground::Inner;
use super::ledger::Position;
use crate::report::{say, table};
use std::collections::BTreeMap;

/// The part of those who come back to a durable stream that must be given all that they missed.
const RECOVERED: f64 = 0.99;
/// Refusals that a client repeats by itself: of Centrifuge's, and Pusher's "ask again".
const TEMPORARY: [u32; 3] = [100, 111, 503];

/// One bar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Bar {
    /// What must be.
    pub(crate) what: String,
    /// What is.
    pub(crate) value: String,
    /// Whether it is reached.
    pub(crate) reached: bool,
}

impl Bar {
    /// One of these.
    pub(crate) fn new(what: impl Into<String>, value: impl Into<String>, reached: bool) -> Self {
        Self { what: what.into(), value: value.into(), reached }
    }

    /// One that must be zero.
    pub(crate) fn none(what: impl Into<String>, value: u64) -> Self {
        Self::new(what, value.to_string(), value == 0)
    }
}

/// Where every stream ends: the position, and for clients without positions the last number that is owed.
pub(crate) type Tops = BTreeMap<String, (Position, u64)>;

/// What holds in every soak.
pub(crate) fn judge(inner: &Inner, tops: &Tops, disagreed: u64) -> Vec<Bar> {
    let sides = [("durable", &inner.durable), ("application", &inner.application), ("pusher", &inner.pusher)];
    let mut bars = Vec::new();
    let names = inner.durable.faults.named().map(|(name, _)| name);
    for (n, name) in names.into_iter().enumerate() {
        let counts = sides.map(|(_, side)| side.faults.named()[n].1);
        let value = counts.map(|count| count.to_string()).join(" / ");
        bars.push(Bar::new(format!("{name}: none (durable / application / pusher)"), value, counts == [0; 3]));
    }
    let part = inner.durable.counts.recovered_part();
    let what = format!("durable streams recovered: at least {:.0} %", RECOVERED * 100.0);
    bars.push(Bar::new(what, format!("{:.3} %", part * 100.0), part >= RECOVERED));
    bars.push(Bar::none("application streams: losses are told by a new epoch; else", inner.application.counts.refused));
    bars.push(Bar::none("publications that were answered with another position than they had", disagreed));
    bars.push(Bar::none("codes that send a client away for good", inner.sent_away));
    let refused = inner.refused.iter().filter(|(code, _)| !TEMPORARY.contains(code)).map(|(_, count)| count).sum();
    bars.push(Bar::none("refusals that a client does not repeat", refused));
    bars.push(Bar::new("what clients cannot read: nothing", inner.unreadable.1.as_str(), inner.unreadable.0 == 0));
    bars.push(Bar::none("connections given up for silence", inner.silent));
    bars.push(Bar::none("clients that did not reach the end", behind(inner, tops)));
    let heard = [&inner.durable, &inner.application].iter().all(|side| side.counts.received > 0);
    bars.push(Bar::new("publications came on both kinds of streams", heard.to_string(), heard));
    bars
}

/// Subscriptions that are not where their stream is.
fn behind(inner: &Inner, tops: &Tops) -> u64 {
    let is_behind = |(stream, positions, end): &(String, bool, Option<Position>)| {
        let Some((top, number)) = tops.get(stream) else { return true };
        match (positions, end) {
            (true, Some(end)) => end != top,
            (true, None) => true,
            // A client without positions to which nothing was owed since it came.
            (false, None) => false,
            (false, Some(end)) => end.offset < *number,
        }
    };
    inner.ends.iter().filter(|end| is_behind(end)).count() as u64
}

/// Prints them; answers whether all are reached.
pub(crate) fn show(bars: &[Bar]) -> bool {
    let row = |bar: &Bar| {
        let word = if bar.reached { "reached" } else { "MISSED" };
        vec![bar.what.clone(), bar.value.clone(), word.to_owned()]
    };
    say("");
    table(&["bar", "is", ""], &bars.iter().map(row).collect::<Vec<_>>());
    bars.iter().all(|bar| bar.reached)
}

/// What clients met, in words.
pub(crate) fn show_counts(inner: &Inner) {
    let counted = |side: &super::ground::Side| {
        let counts = &side.counts;
        [counts.received, counts.attached, counts.recovered, counts.told, counts.refused].map(|it| it.to_string())
    };
    let row = |name: &str, side| [vec![name.to_owned()], counted(side).to_vec()].concat();
    say("");
    table(
        &["streams", "received", "first subscriptions", "recovered", "lost, new epoch", "lost, same epoch"],
        &[row("durable", &inner.durable), row("application", &inner.application), row("pusher", &inner.pusher)],
    );
    let list = |items: Vec<String>| if items.is_empty() { "none".to_owned() } else { items.join(", ") };
    let closes = inner.closes.iter().map(|((wire, code), count)| format!("{wire} {code}: {count}"));
    say(&format!("\nclosed, by wire and code (0: cut): {}", list(closes.collect())));
    let ended = inner.unsubscribed.iter().map(|(code, count)| format!("{code}: {count}"));
    say(&format!("subscriptions ended, by code: {}", list(ended.collect())));
    let refused = inner.refused.iter().map(|(code, count)| format!("{code}: {count}"));
    say(&format!("refused and repeated, by code: {}", list(refused.collect())));
    let failures = inner.failures.iter().map(|(why, count)| format!("{why}: {count}"));
    say(&format!("connections that did not come to be: {}", list(failures.collect())));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::soak::ledger::Counts;

    fn at(offset: u64) -> Position {
        Position { epoch: "e".to_owned(), offset }
    }

    fn fine() -> (Inner, Tops) {
        let mut inner = Inner::default();
        inner.durable.counts = Counts { received: 5, recovered: 99, told: 1, ..Counts::default() };
        inner.application.counts = Counts { received: 5, told: 7, ..Counts::default() };
        inner.refused.insert(100, 3);
        inner.ends = vec![
            ("s".to_owned(), true, Some(at(9))),
            ("s".to_owned(), false, None),
            ("s".to_owned(), false, Some(Position { epoch: String::new(), offset: 12 })),
        ];
        (inner, Tops::from([("s".to_owned(), (at(9), 12))]))
    }

    fn red(change: impl FnOnce(&mut Inner)) -> usize {
        let (mut inner, tops) = fine();
        change(&mut inner);
        judge(&inner, &tops, 0).iter().filter(|bar| !bar.reached).count()
    }

    #[test]
    fn each_fault_turns_one_bar_red() {
        assert_eq!(red(|_| ()), 0);
        assert_eq!(red(|it| it.durable.faults.lost = 1), 1);
        assert_eq!(red(|it| it.application.faults.doubled = 1), 1);
        assert_eq!(red(|it| it.pusher.faults.reordered = 1), 1);
        assert_eq!(red(|it| it.durable.faults.false_recoveries = 1), 1);
        assert_eq!(red(|it| it.durable.faults.back = 1), 1);
        assert_eq!(red(|it| it.application.faults.differing = 1), 1);
        assert_eq!(red(|it| it.pusher.faults.stray = 1), 1);
        assert_eq!(red(|it| it.durable.counts.told = 2), 1, "99 of 101");
        assert_eq!(red(|it| it.application.counts.refused = 1), 1);
        assert_eq!(red(|it| it.sent_away = 1), 1);
        assert_eq!(red(|it| it.refused = [(103, 1)].into()), 1);
        assert_eq!(red(|it| it.unreadable = (1, "x".to_owned())), 1);
        assert_eq!(red(|it| it.silent = 1), 1);
        assert_eq!(red(|it| it.ends[0].2 = Some(at(8))), 1);
        assert_eq!(red(|it| it.ends[0].2 = None), 1);
        assert_eq!(red(|it| it.ends[2].2 = Some(at(11))), 1);
        assert_eq!(red(|it| it.durable.counts.received = 0), 1);
        let (inner, tops) = fine();
        assert_eq!(judge(&inner, &tops, 1).iter().filter(|bar| !bar.reached).count(), 1);
        assert_eq!(judge(&inner, &Tops::new(), 0).iter().filter(|bar| !bar.reached).count(), 1);
    }
}
