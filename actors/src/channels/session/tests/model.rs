//! The live rule and the outbox against models of them.

use std::collections::VecDeque;

use bytes::Bytes;
use proptest::prelude::*;

use crate::channels::{
    Delivery, Item, What, Wire,
    outbox::Outbox,
    session::live::{Place, Stop, Terms, View, buffer, follow},
};
use dzvin_protocols::channels::Epoch;

fn at(next: u64) -> Place {
    Place { epoch: Epoch::new("e"), next, seen: 0, online: None }
}

fn view(terms: &Terms) -> View<'_> {
    View { wire: Wire::CentrifugeJson, limit: usize::MAX, client: 0, began: 0, terms, notes: None }
}

#[derive(Debug, Clone)]
enum News {
    /// A run of `len` from an offset, of frames of one size.
    Run(u64, u64, usize),
    /// One at an offset, after so many that the channel does not show.
    Skipping(u64, u64),
    Top(u64),
    Reset,
    OtherEpoch,
}

fn news() -> impl Strategy<Value = News> {
    prop_oneof![
        8 => (1..30u64, 1..6u64, 1..40usize).prop_map(|(from, len, size)| News::Run(from, len, size)),
        2 => (1..30u64, 0..9u64).prop_map(|(offset, skips)| News::Skipping(offset, skips.min(offset - 1))),
        2 => (0..30u64).prop_map(News::Top),
        1 => Just(News::Reset),
        1 => Just(News::OtherEpoch),
    ]
}

/// The offset is in the frame, so that what goes out can be read back.
fn frame(offset: u64, size: usize) -> Bytes {
    let mut frame = offset.to_be_bytes().to_vec();
    frame.resize(8 + size, 0);
    frame.into()
}

fn delivery(news: &News) -> Delivery {
    let run = |from: u64, len: u64, size| {
        What::Items((from..from + len).map(|offset| Item::framed(offset, frame(offset, size))).collect())
    };
    let (epoch, what) = match *news {
        News::Run(from, len, size) => ("e", run(from, len, size)),
        News::Skipping(offset, skips) => {
            ("e", What::Items([Item::framed(offset, frame(offset, 1)).skipping(skips)].into()))
        }
        News::Top(top) => ("e", What::Top(top)),
        News::Reset => ("e", What::Reset),
        News::OtherEpoch => ("f", run(1, 30, 1)),
    };
    Delivery { channel: "c".into(), number: 0, epoch: Epoch::new(epoch), what }
}

/// What has gone out, in order.
fn offsets(outbox: &Outbox) -> Vec<u64> {
    outbox.frames().map(|frame| u64::from_be_bytes(frame[..8].try_into().unwrap())).collect()
}

/// The rule in one line each: the next offset that is expected after this news, or `None` when the subscriber is told.
fn expected(next: u64, news: &News) -> Option<u64> {
    match *news {
        News::Run(from, len, _) if from <= next => Some(next.max(from + len)),
        News::Skipping(offset, _) if offset < next => Some(next),
        News::Skipping(offset, skips) if offset - skips <= next => Some(offset + 1),
        News::Top(top) if top < next => Some(next),
        News::Skipping(..) | News::Run(..) | News::Top(_) | News::Reset | News::OtherEpoch => None,
    }
}

#[test]
fn a_recovering_subscription_keeps_one_reset() {
    let (mut live, mut bytes) = (Vec::new(), 0);
    for news in [News::Run(1, 2, 10), News::Reset, News::Reset, News::Top(9), News::OtherEpoch, News::Reset] {
        buffer(&mut live, &mut bytes, &delivery(&news), 400);
    }
    assert!(
        matches!(live[..], [Delivery { what: What::Items(_), .. }, Delivery { what: What::Reset, .. }]),
        "{live:?}"
    );
    let (mut outbox, mut place, terms) = (Outbox::default(), at(1), Terms::default());
    let told = live.iter().try_for_each(|d| follow(&mut place, d, &mut outbox, view(&terms)).map(drop));
    assert_eq!(told, Err(Stop::Insufficient));
}

proptest! {
    #[test]
    fn live_offsets_follow_one_another_or_the_subscriber_is_told(all in proptest::collection::vec(news(), 0..40), start in 1..5u64) {
        let (mut outbox, mut place, mut model, terms) = (Outbox::default(), at(start), start, Terms::default());
        let mut shown = Vec::new();
        for news in &all {
            let told = follow(&mut place, &delivery(news), &mut outbox, view(&terms)).is_err();
            // Every offset that is beyond the end of a known run and not its successor is a gap.
            let after = expected(model, news);
            prop_assert_eq!(told, after.is_none(), "{:?} at {}", news, model);
            let Some(after) = after else { break };
            match news {
                News::Skipping(offset, _) => shown.extend((*offset >= model).then_some(*offset)),
                _ => shown.extend(model..after),
            }
            model = after;
            prop_assert_eq!(place.next, model);
            prop_assert_eq!(offsets(&outbox), shown.clone());
        }
    }

    #[test]
    fn what_comes_while_recovering_is_delivered_or_told(all in proptest::collection::vec(news(), 0..40), from in 0..20u64, limit in 0..400usize) {
        let (terms, mut live, mut bytes) = (Terms::default(), Vec::new(), 0);
        let runs = all.iter().filter(|n| matches!(n, News::Run(..))).collect::<Vec<_>>();
        for news in &runs {
            buffer(&mut live, &mut bytes, &delivery(news), limit);
        }
        prop_assert!(bytes <= limit);
        let (mut outbox, mut place) = (Outbox::default(), at(from + 1));
        let result = live.iter().try_for_each(|d| follow(&mut place, d, &mut outbox, view(&terms)).map(drop));
        let next = place.next;
        let highest = runs.iter().map(|n| match n { News::Run(from, len, _) => from + len - 1, _ => 0 }).max().unwrap_or(0);
        // Either it stands above all that was ever offered, or it was told.
        prop_assert!(result == Err(Stop::Insufficient) || next > highest, "at {} below {}", next, highest);
        prop_assert_eq!(offsets(&outbox), (from + 1..next).collect::<Vec<_>>());
    }

    #[test]
    fn the_outbox_is_a_queue_of_bytes(steps in proptest::collection::vec((0..4u8, 1..50usize), 0..60), limit in 1..200usize) {
        let (mut outbox, mut model, mut whole) = (Outbox::default(), VecDeque::<u8>::new(), VecDeque::<usize>::new());
        // `whole`: how many bytes are left of each frame; the first may have begun.
        let mut begun = false;
        for (n, (step, size)) in steps.into_iter().enumerate() {
            match step {
                0 | 1 => {
                    let frame = vec![u8::try_from(n).unwrap(); size];
                    let fits = whole.is_empty() || model.len() + size <= limit;
                    prop_assert_eq!(outbox.push(frame.clone().into(), limit).is_ok(), fits);
                    if fits {
                        model.extend(frame);
                        whole.push_back(size);
                    }
                }
                2 => {
                    let mut written = size.min(model.len());
                    if written == 0 { continue; }
                    outbox.advance(written);
                    model.drain(..written);
                    while written > 0 {
                        let first = whole[0].min(written);
                        written -= first;
                        whole[0] -= first;
                        begun = whole[0] > 0;
                        if whole[0] == 0 { whole.pop_front(); }
                    }
                }
                _ => {
                    outbox.clear();
                    let keep = if begun { whole[0] } else { 0 };
                    model.truncate(keep);
                    whole.truncate(usize::from(begun));
                }
            }
            prop_assert_eq!(outbox.bytes(), model.len());
            prop_assert_eq!(outbox.left(), model.iter().copied().collect::<Vec<_>>());
            prop_assert_eq!(outbox.is_empty(), model.is_empty());
        }
    }
}
