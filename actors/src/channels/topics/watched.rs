//! Users whom somebody on this node watches. Their coming and going is told by words that nothing keeps, so presence is asked how it
//! stands wherever one may be lost: after an interruption of the bus or of presence, for those who came when too many asked, and now and
//! then for all of them.
//!
//! Invariants: what was asked before the last word is not taken for newer than it; that somebody is away is believed only after
//! [`LOOKS`] looks in a row, between which every node that lives has renewed its life, and with it entered whom it has; one look
//! is under way at a time, and it is of at most [`MOST`] users. Sessions tell their clients only what those do not know.

use std::{sync::Arc, time::Duration};

use dzvin_protocols::{
    channels::{Word, centrifuge::ClientInfo, pusher::is_online},
    platform::StreamName,
};
use ractor::ActorRef;

use super::{Looked, PresenceMessage, TopicsMessage, TopicsState, stream::Stream};
use crate::{
    channels::Spoken,
    platform::ports::{Bus, ChangeLog},
};

/// Checks after which everybody is looked at again, though nothing is known to be lost: five of the usual three seconds.
const TURN: u32 = 5;
/// Looks in a row that must not find somebody before they are away. Nodes renew their lives as often as streams are checked, so
/// one that has to enter its users again knows that before the last of three.
const LOOKS: u8 = 3;
/// Users in one look: half a second of Redis's time. Those that have waited longest are first.
const MOST: usize = 65_536;
/// How long presence may take for one look. It answers by a limit of its own, well below; this is for when it does not live.
const PATIENCE: Duration = Duration::from_secs(30);

/// A user who is looked for.
#[derive(Debug, Clone)]
pub struct Asked {
    stream: StreamName,
    /// What had been heard of them by then.
    heard: u64,
}

/// What is known of one user.
#[derive(Debug, Default)]
pub(super) struct Watched {
    /// What was told here last.
    known: Option<bool>,
    /// Somebody here may not know it.
    owed: bool,
    /// Looks in a row that found nobody.
    absent: u8,
    /// Grows with each word, and where one may be lost: an answer to what was asked before is none.
    heard: u64,
    /// Checks since the last look.
    checks: u32,
}

impl Watched {
    /// Somebody came who may not have been told.
    pub(super) fn owe(&mut self) {
        self.owed = true;
    }

    /// A word may be lost.
    pub(super) fn doubt(&mut self) {
        self.owed = true;
        self.heard += 1;
    }

    /// A word was said.
    pub(super) fn heard(&mut self, word: &Word) {
        self.known = is_online(word).or(self.known);
        self.heard += 1;
        self.absent = 0;
    }

    /// A check: whether it is time for a look.
    fn is_due(&mut self) -> bool {
        self.checks = self.checks.saturating_add(1);
        self.owed || self.absent > 0 || self.checks >= TURN
    }

    /// What a look found: what is to be told of it, if anything.
    fn found(&mut self, heard: u64, clients: u64, settled: bool) -> Option<bool> {
        if heard != self.heard {
            return None;
        }
        self.checks = 0;
        let online = clients > 0;
        if !online && self.known != Some(false) {
            // The first look after all was lost begins to count anew.
            self.absent = if settled { self.absent + 1 } else { 1 };
            if self.absent < LOOKS {
                return None;
            }
        }
        self.absent = 0;
        let news = std::mem::take(&mut self.owed) || self.known != Some(online);
        self.known = Some(online);
        news.then_some(online)
    }
}

/// Those for whom it is time.
#[derive(Debug, Default)]
pub(super) struct Watchlist {
    due: Vec<(u32, Asked)>,
    /// Somebody is watched at all.
    any: bool,
}

impl Watchlist {
    /// Takes the stream in if it is a user's for whom it is time. Who is not heard of yet is not asked for, a word might fall between;
    /// nor who is watched no longer.
    pub(super) fn add(&mut self, name: &StreamName, stream: &mut Stream) {
        let heard = stream.position.is_some() && stream.is_wanted();
        let Some(watched) = stream.watched.as_mut().filter(|_| heard) else { return };
        self.any = true;
        if watched.is_due() {
            self.due.push((watched.checks, Asked { stream: name.clone(), heard: watched.heard }));
        }
    }

    fn into_asked(mut self) -> Vec<Asked> {
        if self.due.len() > MOST {
            self.due.sort_unstable_by_key(|(checks, _)| std::cmp::Reverse(*checks));
            self.due.truncate(MOST);
        }
        self.due.into_iter().map(|(_, asked)| asked).collect()
    }
}

impl<B: Bus, L: ChangeLog> TopicsState<B, L> {
    /// Asks presence for those for whom it is time; where anybody is watched it is asked in any case, to know whether it was away.
    pub(super) fn look(&mut self, myself: &ActorRef<TopicsMessage>, watched: Watchlist) {
        if !watched.any || std::mem::replace(&mut self.looking, true) {
            return;
        }
        let (asked, myself, presence) = (watched.into_asked(), myself.clone(), self.args.presence.clone());
        tokio::spawn(async move {
            let channels = asked.iter().map(|it| it.stream.as_str().into()).collect();
            let found = presence.call(|reply| PresenceMessage::Look { channels, reply }, PATIENCE).await;
            let found = found.ok().and_then(Result::ok);
            let _ = myself.cast(TopicsMessage::Looked(asked, found));
        });
    }

    /// Tells what no word has told.
    pub(super) async fn looked(&mut self, asked: Vec<Asked>, found: Option<Looked>) {
        self.looking = false;
        let Some(Looked { clients, life, settled }) = found else { return self.doubt_watched() };
        if self.life.replace(life).is_some_and(|before| before != life) {
            self.doubt_watched();
        }
        let mut batch = Vec::new();
        for (Asked { stream, heard }, clients) in asked.into_iter().zip(clients) {
            let Some(stream) = self.streams.get_mut(&stream) else { continue };
            let Some(watched) = &mut stream.watched else { continue };
            let Some(clients) = clients else {
                watched.doubt();
                continue;
            };
            let before = watched.known;
            let Some(online) = watched.found(heard, clients, settled) else { continue };
            if before.is_some_and(|before| before != online) {
                self.args.metrics.watch_mended.inc();
            }
            batch.extend(stream.word(said(online)));
        }
        self.deliver(batch).await;
    }

    /// Words may be lost, of whomever.
    pub(super) fn doubt_watched(&mut self) {
        self.streams.values_mut().filter_map(|stream| stream.watched.as_mut()).for_each(Watched::doubt);
    }
}

/// The word that was not heard. Whose it is, its channel says.
fn said(online: bool) -> Arc<Spoken> {
    let info = ClientInfo { user: "".into(), client: "".into(), conn_info: None, chan_info: None };
    let word = if online { Word::Join { info, first: true } } else { Word::Leave { info, last: true } };
    Arc::new(Spoken::new(word, 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(online: bool) -> Word {
        said(online).word.clone()
    }

    #[test]
    fn who_comes_is_told_at_once_and_who_is_away_after_three_looks() {
        let mut watched = Watched::default();
        assert!(!watched.is_due());
        watched.owe();
        assert!(watched.is_due());
        let look = |watched: &mut Watched, clients| watched.found(watched.heard, clients, true);
        assert_eq!([0, 0, 0, 0].map(|clients| look(&mut watched, clients)), [None, None, Some(false), None]);
        assert!(!watched.is_due(), "there is nobody left to tell");
        watched.owe();
        assert_eq!(look(&mut watched, 0), Some(false), "known, and told to whoever came");
        assert_eq!(
            [2, 1, 0, 1, 0, 0].map(|clients| look(&mut watched, clients)),
            [Some(true), None, None, None, None, None]
        );
        assert!(watched.is_due(), "the last word is not spoken");
        assert_eq!(look(&mut watched, 0), Some(false));
    }

    #[test]
    fn everybody_has_a_turn() {
        let mut watched = Watched::default();
        watched.heard(&word(true));
        let mut dues = || (0..TURN).map(|_| watched.is_due()).collect::<Vec<_>>();
        let turn = [false, false, false, false, true];
        assert_eq!(dues(), turn);
        watched.found(1, 1, true);
        assert!(!watched.is_due());
    }

    #[test]
    fn an_answer_that_is_older_than_the_last_word_is_none() {
        let mut watched = Watched::default();
        watched.heard(&word(true));
        let asked = watched.heard;
        watched.heard(&word(false));
        assert_eq!((watched.found(asked, 1, true), watched.known), (None, Some(false)));
        let asked = watched.heard;
        // Not the last, or not the first: somebody came or went all the same.
        let Word::Join { info, .. } = word(true) else { panic!("a join") };
        watched.heard(&Word::Join { info, first: false });
        assert_eq!((watched.found(asked, 1, true), watched.known), (None, Some(false)));
        let asked = watched.heard;
        watched.doubt();
        assert_eq!(watched.found(asked, 0, true), None, "what was lost may be newer");
        assert!(watched.is_due());
    }

    #[test]
    fn nobody_is_away_while_the_store_is_filled_again() {
        let mut watched = Watched::default();
        watched.heard(&word(true));
        let mut look = |clients, settled| watched.found(1, clients, settled);
        assert!((0..9).all(|_| look(0, false).is_none()));
        assert_eq!(look(1, false), None, "it is as it was told");
        assert!((0..9).all(|_| look(0, false).is_none()));
        assert_eq!([look(0, true), look(0, true)], [None, Some(false)]);
    }
}
