//! What is due when in one session. The shard's wheel asks; nothing here waits.

use std::{
    sync::{Arc, LazyLock},
    time::Instant,
};

use bytes::Bytes;
use dzvin_protocols::channels::centrifuge::Disconnect;
use rand::Rng as _;

use super::{Seat, Session};
use crate::channels::{
    Limits,
    roster::{Asked, Pulse},
};

/// A moment that does not come.
pub(super) const NEVER: u64 = u64::MAX;

/// Milliseconds since this process first asked.
pub(in crate::channels) fn now() -> u64 {
    static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);
    millis(BEGAN.elapsed())
}

/// A duration in whole milliseconds.
pub(in crate::channels) fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(NEVER)
}

/// Moments in milliseconds of [`now`].
#[derive(Debug)]
pub(super) struct Clock {
    /// The next ping of ours.
    ping_at: u64,
    /// The pong of the last one.
    pub(super) pong_by: u64,
    /// The question that it answers.
    asked: Option<Asked>,
    /// Those who were asked with this one have been looked at, and it had more time.
    late: bool,
    /// The `connect` command.
    pub(super) connect_by: u64,
    /// The end of the token and its grace.
    pub(super) expires_at: u64,
    /// The end of the first subscription that ends.
    subscription_ends: u64,
    /// The connection is old enough to begin again, elsewhere perhaps.
    retires_at: u64,
    /// Commands are being worked on: what the client says meanwhile is not heard.
    pub(super) busy: bool,
    /// The moment for which the shard's wheel holds this session; other entries are of the past.
    pub(super) armed: u64,
}

/// What came of a look at a session.
#[derive(Debug, Default)]
pub(in crate::channels) struct Looked {
    /// When to look again.
    pub(in crate::channels) next: Option<u64>,
    /// Seats that the shard has to forget.
    pub(in crate::channels) free: Vec<Seat>,
    /// It was pinged, and has to answer.
    pub(in crate::channels) asked: bool,
}

/// What has to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    Nothing,
    Ping,
    Close(Disconnect),
}

impl Clock {
    pub(super) fn new(limits: &Limits, now: u64) -> Self {
        // Spread from the first on, so that sessions of one moment do not ping in one moment.
        let first = limits.ping.mul_f64(rand::rng().random_range(0.5..1.0));
        let connect_by = now + millis(limits.connect);
        // Spread, so that those who came in one storm do not leave in one.
        let retires_at = limits
            .max_age
            .map_or(NEVER, |age| now.saturating_add(millis(age.mul_f64(rand::rng().random_range(0.8..1.2)))));
        Self {
            ping_at: now + millis(first),
            pong_by: NEVER,
            asked: None,
            late: false,
            connect_by,
            expires_at: NEVER,
            subscription_ends: NEVER,
            retires_at,
            busy: false,
            armed: NEVER,
        }
    }

    /// Commands are being worked on.
    pub(super) fn is_busy(&self) -> bool {
        self.busy
    }

    /// Sets and answers the moment at which it has to be looked at again.
    pub(super) fn arm(&mut self) -> u64 {
        let ends = self.expires_at.min(self.subscription_ends).min(self.retires_at);
        let pong_by = if self.late { self.pong_by } else { NEVER };
        self.armed = self.ping_at.min(pong_by).min(self.connect_by).min(ends);
        self.armed
    }

    pub(super) fn tick(&mut self, now: u64, limits: &Limits, pulse: Option<&Arc<Pulse>>) -> Due {
        if self.connect_by <= now {
            return Due::Close(Disconnect::Stale);
        }
        if self.pong_by <= now && !self.busy {
            return Due::Close(Disconnect::NoPong);
        }
        // A command that is under way may end, but a client that is never idle does not stay for ever.
        let over = |at: u64| at <= now && (!self.busy || at.saturating_add(millis(limits.command)) <= now);
        if over(self.expires_at) {
            return Due::Close(Disconnect::Expired);
        }
        if over(self.retires_at) {
            return Due::Close(Disconnect::ForceReconnect);
        }
        if self.ping_at > now || self.busy {
            return Due::Nothing;
        }
        self.ping_at = now + millis(limits.ping);
        if self.connect_by != NEVER || self.pong_by != NEVER {
            // Who has not said who it is, is not pinged; nor who has one to answer, for each answer answers one.
            return Due::Nothing;
        }
        if let Some(pulse) = pulse {
            self.pong_by = now + millis(limits.pong);
            (self.asked, self.late) = (Some(Asked::of(pulse)), false);
        }
        Due::Ping
    }

    /// The client has answered, or has said something that is as good. Whether it had been asked.
    fn answered(&mut self) -> bool {
        self.asked = None;
        std::mem::replace(&mut self.pong_by, NEVER) != NEVER
    }
}

impl Session {
    /// What is due by now of an entry that was armed for this moment.
    pub(in crate::channels) fn tick(&self, armed: u64, now: u64, limits: &Limits, pulse: &Arc<Pulse>) -> Looked {
        let (mut inner, mut looked) = (self.lock(), Looked::default());
        if inner.closing.is_some() || inner.clock.armed != armed {
            return looked;
        }
        if inner.clock.subscription_ends <= now {
            let (seats, next) = self.expire(&mut inner, now);
            inner.clock.subscription_ends = next.unwrap_or(NEVER);
            looked.free = seats;
            self.flush_locked(&mut inner);
            if inner.closing.is_some() {
                return looked;
            }
        }
        match inner.clock.tick(now, limits, Some(pulse).filter(|_| self.wire.answers_pings())) {
            Due::Nothing => {}
            Due::Close(why) => {
                self.close_locked(&mut inner, why);
                return looked;
            }
            Due::Ping => {
                looked.asked = inner.clock.asked.is_some();
                let ping = Bytes::from_static(self.wire.ping());
                if inner.outbox.is_empty() && !inner.blocked {
                    self.write(&mut inner, &ping);
                } else {
                    // Behind what waits, which somebody will flush. The queue's limit concerns what is published; a ping is a few bytes.
                    let _ = inner.outbox.push(ping, usize::MAX);
                }
            }
        }
        looked.next = Some(inner.clock.arm());
        looked
    }

    /// Not all who were asked with this session have answered in time: closes it if it is one of them. When it has to be looked
    /// at for that again, that moment.
    pub(in crate::channels) fn miss(&self, now: u64) -> Option<u64> {
        let mut inner = self.lock();
        if inner.clock.pong_by == NEVER || inner.closing.is_some() {
            return None;
        }
        if inner.clock.pong_by <= now && !inner.clock.busy {
            self.close_locked(&mut inner, Disconnect::NoPong);
            return None;
        }
        inner.clock.late = true;
        Some(inner.clock.arm())
    }

    /// When the shard has to look at this session for the first time.
    pub(in crate::channels) fn arm(&self) -> u64 {
        self.lock().clock.arm()
    }

    /// The client has said who it is, until this moment. When the shard has to look earlier than it would, that moment.
    pub(super) fn keep_until(&self, expires_at: u64) -> Option<u64> {
        let clock = &mut self.lock().clock;
        clock.connect_by = NEVER;
        clock.expires_at = expires_at;
        (expires_at < clock.armed).then(|| clock.arm())
    }

    /// A subscription ends then. When the shard has to look earlier than it would, that moment.
    pub(super) fn ends_at(&self, at: u64) -> Option<u64> {
        let clock = &mut self.lock().clock;
        clock.subscription_ends = clock.subscription_ends.min(at);
        (at < clock.armed).then(|| clock.arm())
    }

    /// Commands are being worked on, and nothing is read meanwhile: the client is not to blame for its silence. Afterwards it
    /// has as long as ever for the pong that may lie unread.
    pub(super) fn busy(&self, busy: bool, pong_by: u64) {
        let clock = &mut self.lock().clock;
        clock.busy = busy;
        if !busy && clock.pong_by != NEVER {
            clock.pong_by = clock.pong_by.max(pong_by);
        }
    }

    /// The client has said something: that is as good as a pong, where the protocol takes it for one.
    pub(super) fn heard(&self) {
        self.lock().clock.answered();
    }

    /// The answer to a ping of ours; without one it is against the protocol.
    /// Whether all is well.
    pub(super) fn pong(&self) -> bool {
        let mut inner = self.lock();
        let asked = inner.clock.answered();
        if !asked {
            self.close_locked(&mut inner, Disconnect::BadRequest);
        }
        asked
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Those who came in one storm leave over two fifths of the age, and evenly: not in one again.
    #[test]
    fn connections_of_one_moment_retire_apart() {
        const SESSIONS: usize = 4_000;
        const PARTS: usize = 8;
        let limits = Limits { max_age: Some(Duration::from_secs(1_000)), ..Limits::default() };
        let (least, most) = (800_000, 1_200_000);
        let mut parts = [0_usize; PARTS];
        for _ in 0..SESSIONS {
            let age = Clock::new(&limits, 5_000).retires_at - 5_000;
            assert!((least..=most).contains(&age), "{age}");
            let part = usize::try_from((age - least) * PARTS as u64 / (most - least)).expect("small");
            parts[part.min(PARTS - 1)] += 1;
        }
        // Five hundred each, give or take twenty; a third less or more does not happen.
        let even = SESSIONS / PARTS;
        assert!(parts.iter().all(|count| (even * 2 / 3..even * 4 / 3).contains(count)), "{parts:?}");
        assert_eq!(Clock::new(&Limits::default(), 5_000).retires_at, NEVER);
    }

    /// The first ping as well.
    #[test]
    fn connections_of_one_moment_are_asked_apart() {
        let limits = Limits::default();
        let first: Vec<u64> = (0..1_000).map(|_| Clock::new(&limits, 0).ping_at).collect();
        assert!(first.iter().all(|at| (12_500..=25_000).contains(at)));
        let early = first.iter().filter(|at| **at < 18_750).count();
        assert!((350..650).contains(&early), "{early} of a thousand in the first half");
    }
}
