//! What the dead have left: found channel by channel, removed in parts, and kept in graves until it has been told.
//!
//! Invariants: a burial removes no more than it was asked for, and nothing after the time in which that could be told; a life rests when
//! none of its channels is left.

use std::time::Duration;

use dzvin_actors::platform::ports::{Buried, BusError, Grave};
use dzvin_protocols::platform::StreamName;
use tokio::time::Instant;

use super::{
    BURY, CLOSE, DEAD, PAGE, REST, RedisPresence,
    wire::{self, Found, millis, number},
};

/// How long what nobody has told is kept to be told: no node looked for it for all that time.
const KEEP_GRAVES: Duration = Duration::from_secs(3600);
/// A burial takes no more channels on after this part of the time in which what it removed is to be told.
const HURRY: u32 = 3;
/// Lives that one look finds to be buried.
const DEAD_AT_ONCE: u64 = 8;
/// Channels of a dead life that are looked up at once.
const GRAVES: usize = 32;

/// What one burial has removed, and how much more it may.
struct Dig {
    buried: Vec<Buried>,
    room: usize,
    until: Instant,
}

impl Dig {
    fn goes_on(&self) -> bool {
        self.room > 0 && Instant::now() < self.until
    }

    fn add(&mut self, grave: Buried) {
        self.room -= (grave.left.len() + 1).min(self.room);
        self.buried.push(grave);
    }
}

impl RedisPresence {
    /// Removes up to so much of what the dead have left.
    pub(super) async fn bury_dead(&self, limit: usize) -> Result<Vec<Buried>, BusError> {
        let keys = ["presence", "dying", "left"].map(|name| self.nodes(name)).to_vec();
        let lives = wire::names(self.run(&DEAD, keys, vec![number(DEAD_AT_ONCE)]).await?)?;
        let until = Instant::now() + self.settings.telling / HURRY;
        let mut dig = Dig { buried: Vec::new(), room: limit.max(1), until };
        for life in lives {
            if let Err(error) = self.bury_life(&life, &mut dig).await {
                // What was removed before it is told, whatever becomes of the rest.
                return if dig.buried.is_empty() { Err(error) } else { Ok(dig.buried) };
            }
        }
        Ok(dig.buried)
    }

    /// What is in a grave has been told.
    pub(super) async fn close_grave(&self, channel: &StreamName, grave: &Grave) -> Result<(), BusError> {
        let keys = [format!("grave:{}", grave.life), format!("of:{}", grave.life)];
        let keys = keys.iter().map(|name| self.key(channel, name)).collect();
        let left = wire::count(&self.run(&CLOSE, keys, vec![grave.name.as_ref().into()]).await?)?;
        if left == 1 {
            // What stays noted for nothing costs the next burial a look.
            let _ = self.cross_out_of(&grave.life, channel.as_str()).await;
        }
        Ok(())
    }

    /// A part of what a dead life left on one channel.
    async fn empty(&self, life: &str, channel: StreamName, room: usize) -> Result<Found, BusError> {
        let number_of = {
            let mut state = self.state();
            state.graves += 1;
            state.graves
        };
        // With a third to spare: nobody else is answered it before this node has left it.
        let until = Instant::now() + self.settings.telling * 2 / 3;
        let (theirs, grave) = (format!("of:{life}"), format!("grave:{life}"));
        let keys = ["members", "users", &theirs, "occupancy", "answers", "crowd", &grave];
        let keys = keys.map(|name| self.key(&channel, name)).to_vec();
        let crowd = self.settings.crowd;
        let args = vec![
            life.into(),
            number(room as u64),
            number(crowd.above),
            number(crowd.below),
            format!("{}.{number_of}", self.server.node()).into(),
            millis(self.settings.telling),
            millis(KEEP_GRAVES),
        ];
        wire::buried(life, channel, until, self.run(&BURY, keys, args).await?)
    }

    /// Goes through the channels of a dead life, and rests it when it has none.
    async fn bury_life(&self, life: &str, dig: &mut Dig) -> Result<(), BusError> {
        let (mut from, mut open) = (b"-".to_vec(), false);
        while dig.goes_on() {
            let names = self.names(life, &from, b"+", GRAVES).await?;
            let Some(last) = names.last() else {
                if open {
                    return Ok(());
                }
                if from != b"-" {
                    // Once more from the beginning: nothing has come meanwhile.
                    from = b"-".to_vec();
                    continue;
                }
                let keys = ["dying", "buried"].map(|name| self.nodes(name)).to_vec();
                self.run(&REST, keys, vec![life.into()]).await?;
                self.strike(vec![life.to_owned()]).await;
                return Ok(());
            };
            from = [b"(", last.as_bytes()].concat();
            for name in names {
                if !dig.goes_on() {
                    return Ok(());
                }
                match self.empty(life, StreamName::from_checked(&name), dig.room.min(PAGE)).await? {
                    Found::Grave(grave) => {
                        open = true;
                        dig.add(grave);
                    }
                    Found::Nothing(whole) => {
                        dig.room -= 1;
                        open |= !whole;
                        if whole {
                            self.cross_out_of(life, &name).await?;
                        }
                    }
                }
            }
        }
        Ok(())
    }
}
