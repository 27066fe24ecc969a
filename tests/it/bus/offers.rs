//! What is published on conditions, and words to say so.

use std::time::Duration;

use dzvin::channels::bus::HistoryLimits;
use dzvin_actors::platform::ports::{Across, Bus, ChannelPace, Conditions, Offer, Once, Published, UserPace, Version};
use dzvin_protocols::{channels::Position, platform::StreamName};
use futures_util::future::join_all;
use tokio::time::Instant;

use super::kit::{ALL, message};

/// Longer than any test.
pub const LONG: Duration = Duration::from_secs(60);

pub fn once(key: u64, window: Duration) -> Conditions {
    once_by(1, key, window)
}

pub fn once_by(publisher: u64, key: u64, window: Duration) -> Conditions {
    let key = u128::from(key).to_be_bytes();
    Conditions { once: Some(Once { key, window, publisher }), ..Conditions::default() }
}

pub fn version(number: u64, epoch: &str) -> Conditions {
    Conditions { version: Some(Version { number, epoch: epoch.into() }), ..Conditions::default() }
}

pub fn pace(per_second: u32, across: Across) -> Conditions {
    Conditions { pace: Some(ChannelPace { per_second, across }), ..Conditions::default() }
}

pub fn kept(n: u64) -> Offer {
    Offer::Kept(message(n), HistoryLimits::default())
}

pub async fn put<B: Bus>(bus: &B, stream: &StreamName, n: u64, on: &Conditions) -> Published {
    bus.put(stream, kept(n), on).await.expect("answered")
}

pub async fn place<B: Bus>(bus: &B, stream: &StreamName, n: u64, on: &Conditions) -> Position {
    match put(bus, stream, n, on).await {
        Published::At(position) => position,
        other => panic!("{other:?}"),
    }
}

pub async fn count<B: Bus>(bus: &B, stream: &StreamName) -> usize {
    bus.read(stream, 0, ALL).await.expect("read").map_or(0, |slice| slice.publications.len())
}

/// How many of so many at once are let through.
pub async fn let_through<B: Bus>(bus: &B, user: &str, pace: UserPace, count: usize) -> usize {
    let asked = join_all((0..count).map(|_| bus.pace_user(user, pace))).await;
    assert!(asked.iter().flatten().all(|wait| !wait.is_zero() && wait.as_secs() < 1), "{asked:?}");
    asked.iter().filter(|wait| wait.is_none()).count()
}

/// At most, when so much time has passed.
pub fn most(per_second: u32, begun: Instant) -> usize {
    let grown = begun.elapsed().as_millis() * u128::from(per_second) / 1000;
    per_second as usize + usize::try_from(grown).expect("small") + 1
}
