//! The bars of the soaks, and whether they are reached. Pure: each fault is tried on it.

use super::ground::{Inner, Side, Stand};
use super::ledger::Position;
use crate::report::{say, table};
use std::collections::BTreeMap;

/// The part of those who come back to a past that the bus still has that must be given all of it. An emptied or restarted bus has lost the
/// application's streams, as OPERATIONS says: who is told so has met no fault. Durable streams are never lost with it.
const RECOVERED: f64 = 0.99;
/// The part of them that may be told that it is lost: by a new epoch, and in the one that they knew. Each for itself, so that neither
/// hides behind what recovers otherwise.
const TOLD: f64 = 0.01;
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

/// What the publishers' side says.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Published {
    /// Answers that disagreed with what clients saw.
    pub(crate) disagreed: u64,
    /// Publications that stand at two places.
    pub(crate) repeated: u64,
}

/// What holds in every soak.
pub(crate) fn judge(inner: &Inner, tops: &Tops, published: Published) -> Vec<Bar> {
    let sides = [("durable", &inner.durable), ("application", &inner.application), ("pusher", &inner.pusher)];
    let mut bars = Vec::new();
    let names = inner.durable.faults.named().map(|(name, _)| name);
    for (n, name) in names.into_iter().enumerate() {
        let counts = sides.map(|(_, side)| side.faults.named()[n].1);
        let value = counts.map(|count| count.to_string()).join(" / ");
        bars.push(Bar::new(format!("{name}: none (durable / application / pusher)"), value, counts == [0; 3]));
    }
    for (name, side) in &sides[..2] {
        bars.extend(recovery(name, side));
    }
    let application = &inner.application.counts;
    let lost = application.refused + application.beyond;
    bars.push(Bar::none("application streams lost in an epoch that is still there", lost));
    bars.push(Bar::none("publications that were answered with another position than they had", published.disagreed));
    bars.push(Bar::none("publications that stand at two places, for somebody has repeated them", published.repeated));
    bars.push(Bar::none("codes that send a client away for good", inner.sent_away));
    let refused = inner.refused.iter().filter(|(code, _)| !TEMPORARY.contains(code)).map(|(_, count)| count).sum();
    bars.push(Bar::none("refusals that a client does not repeat", refused));
    bars.push(Bar::new("what clients cannot read: nothing", inner.unreadable.1.as_str(), inner.unreadable.0 == 0));
    bars.push(Bar::none("connections given up for silence", inner.silent));
    bars.push(Bar::none("subscriptions that were not there, or not up to date, at the end", behind(inner, tops)));
    let returns = &inner.returns;
    let value = format!("{} of {}", returns.late, returns.count);
    let what = "returns that took longer than the library's longest pause and 10 s with nothing broken: none";
    bars.push(Bar::new(what, value, returns.late == 0 && returns.count > 0));
    let heard = |side: &Side| side.counts.received > 0 && side.counts.recovered > 0;
    let heard = heard(&inner.durable) && heard(&inner.application);
    bars.push(Bar::new("publications and recoveries came on both kinds of streams", heard.to_string(), heard));
    bars
}

/// Whoever came back to a past that was still there: given it, or told that it is lost.
fn recovery(name: &str, side: &Side) -> [Bar; 3] {
    let (counts, percent) = (&side.counts, |part: f64| format!("{:.0} %", part * 100.0));
    let told = |what: &str, count: u64| {
        let what = format!("{name} streams told to be lost {what}: at most {} of those who came back", percent(TOLD));
        Bar::new(what, count.to_string(), counts.are_within(count, TOLD))
    };
    let part = counts.recovered_part();
    let what = format!("{name} streams recovered, where the bus still had them: at least {}", percent(RECOVERED));
    [
        Bar::new(what, format!("{:.3} %", part * 100.0), part >= RECOVERED),
        told("by a new epoch for no reason", counts.unfounded),
        told("in the epoch that was known", counts.refused),
    ]
}

/// Subscriptions that are not where their stream is, or are none.
fn behind(inner: &Inner, tops: &Tops) -> u64 {
    let is_behind = |it: &Stand| {
        let Some((top, number)) = tops.get(&it.stream) else { return true };
        let stands = match (it.positions, &it.at) {
            (true, Some(at)) => at == top,
            (true, None) => false,
            // Nothing was owed to a client without positions since it came; what was is counted as lost.
            (false, None) => true,
            (false, Some(at)) => at.offset >= *number,
        };
        !(it.subscribed && stands)
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
        [
            counts.received,
            counts.attached,
            counts.recovered,
            counts.told,
            counts.unfounded,
            counts.refused,
            counts.beyond,
        ]
        .map(|it| it.to_string())
    };
    let row = |name: &str, side| [vec![name.to_owned()], counted(side).to_vec()].concat();
    say("");
    table(
        &[
            "streams",
            "received",
            "first subscriptions",
            "recovered",
            "lost with the bus",
            "lost, new epoch",
            "lost, same epoch",
            "further behind than is recovered",
        ],
        &[row("durable", &inner.durable), row("application", &inner.application), row("pusher", &inner.pusher)],
    );
    let list = |items: Vec<String>| if items.is_empty() { "none".to_owned() } else { items.join(", ") };
    let closes = inner.closes.iter().map(|((wire, code), count)| format!("{wire} {code}: {count}"));
    say(&format!("\nclosed, by wire and code (0: cut): {}", list(closes.collect())));
    let ended = inner.unsubscribed.iter().map(|(code, count)| format!("{code}: {count}"));
    say(&format!("subscriptions ended, by code: {}", list(ended.collect())));
    let refused = inner.refused.iter().map(|(code, count)| format!("{code}: {count}"));
    say(&format!("refused and repeated, by code: {}", list(refused.collect())));
    let longest = inner.returns.longest.iter().map(|(wire, longest)| format!("{wire} {:.1} s", longest.as_secs_f64()));
    say(&format!("the longest ways back with nothing broken, by wire: {}", list(longest.collect())));
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

    fn stand(positions: bool, at: Option<Position>) -> Stand {
        Stand { stream: "s".to_owned(), positions, subscribed: true, at }
    }

    fn fine() -> (Inner, Tops) {
        let mut inner = Inner::default();
        let counts = Counts { received: 5, recovered: 198, unfounded: 1, refused: 1, ..Counts::default() };
        inner.durable.counts = counts;
        // With the bus any number may be lost.
        inner.application.counts = Counts { told: 7_000, refused: 0, ..counts };
        inner.refused.insert(100, 3);
        inner.returns.count = 200;
        inner.ends = vec![
            stand(true, Some(at(9))),
            stand(false, None),
            stand(false, Some(Position { epoch: String::new(), offset: 12 })),
        ];
        (inner, Tops::from([("s".to_owned(), (at(9), 12))]))
    }

    fn red(change: impl FnOnce(&mut Inner)) -> usize {
        let (mut inner, tops) = fine();
        change(&mut inner);
        judge(&inner, &tops, Published::default()).iter().filter(|bar| !bar.reached).count()
    }

    #[test]
    fn each_fault_turns_one_bar_red() {
        assert_eq!(red(|_| ()), 0);
        assert_eq!(red(|it| it.durable.faults.lost = 1), 1);
        assert_eq!(red(|it| it.application.faults.doubled = 1), 1);
        assert_eq!(red(|it| it.pusher.faults.reordered = 1), 1);
        assert_eq!(red(|it| it.pusher.faults.lost = 1), 1);
        assert_eq!(red(|it| it.durable.faults.false_recoveries = 1), 1);
        assert_eq!(red(|it| it.durable.faults.back = 1), 1);
        assert_eq!(red(|it| it.application.faults.differing = 1), 1);
        assert_eq!(red(|it| it.pusher.faults.stray = 1), 1);
        assert_eq!(red(|it| it.application.counts.refused = 1), 1);
        assert_eq!(red(|it| it.application.counts.beyond = 1), 1, "history holds more than anybody is behind");
        assert_eq!(red(|it| it.sent_away = 1), 1);
        assert_eq!(red(|it| it.refused = [(103, 1)].into()), 1);
        assert_eq!(red(|it| it.unreadable = (1, "x".to_owned())), 1);
        assert_eq!(red(|it| it.silent = 1), 1);
        assert_eq!(red(|it| it.ends[0].at = Some(at(8))), 1);
        assert_eq!(red(|it| it.ends[0].at = None), 1);
        assert_eq!(red(|it| it.ends[2].at = Some(at(11))), 1);
        assert_eq!(red(|it| it.durable.counts.received = 0), 1);
        let (inner, tops) = fine();
        for published in [Published { disagreed: 1, repeated: 0 }, Published { disagreed: 0, repeated: 1 }] {
            assert_eq!(judge(&inner, &tops, published).iter().filter(|bar| !bar.reached).count(), 1);
        }
        let nowhere = judge(&inner, &Tops::new(), Published::default());
        assert_eq!(nowhere.iter().filter(|bar| !bar.reached).count(), 1);
    }

    #[test]
    fn losses_that_are_told_are_bounded_on_both_kinds_of_streams() {
        let sides: [fn(&mut Inner) -> &mut Counts; 2] = [|it| &mut it.durable.counts, |it| &mut it.application.counts];
        for side in sides {
            // Each is seen by itself, and in what is left of the recovered.
            assert_eq!(red(|it| side(it).unfounded = 3), 2);
            assert_eq!(red(|it| (side(it).unfounded, side(it).refused, side(it).recovered) = (2, 0, 198)), 0);
            assert_eq!(red(|it| (side(it).unfounded, side(it).recovered) = (300, 300)), 2);
            assert_eq!(red(|it| side(it).told = 1_000_000), 0);
            let nobody = Counts { received: 5, ..Counts::default() };
            assert_eq!(red(|it| *side(it) = nobody), 1, "of nobody nothing is known");
        }
        assert_eq!(red(|it| it.durable.counts.refused = 3), 2);
        assert_eq!(red(|it| it.application.counts.refused = 3), 3, "one that the bus has is not refused at all");
    }

    /// Whoever stays away has no gap in what it heard, and no position that is wrong.
    #[test]
    fn a_client_that_is_not_back_is_seen() {
        for n in 0..3 {
            assert_eq!(red(|it| it.ends[n].subscribed = false), 1, "{n}");
        }
        assert_eq!(red(|it| it.returns.late = 1), 1);
        assert_eq!(red(|it| it.returns.count = 0), 1, "nobody was ever away");
    }
}
