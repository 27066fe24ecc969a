//! The control of a running sandbox, for tests: every operation of the control API as a typed call. It is the only thing that
//! writes into the world (the HTTP API's create call aside).

pub(crate) mod http;
mod play;

pub use play::{Generate, Generated, Play};

use crate::clock::{self, Ts};
use crate::config::{Knobs, Manner};
use crate::error::WorldError;
use crate::faults::{ActiveFault, Fault};
use crate::json;
use crate::mirror::{Frame, Speller, raw};
use crate::shared::{Command, Shared, lock};
use crate::stats::Stats;
use crate::world::{Collection, TruthRow, Written};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// A handle to a running sandbox; cheap to clone.
#[derive(Debug, Clone)]
pub struct Control {
    pub(crate) shared: Arc<Shared>,
}

type Outcome<T> = Result<T, WorldError>;

impl Control {
    /// Names of the collections, the default one first.
    pub fn collections(&self) -> Vec<String> {
        self.shared.world.shelves().iter().map(|shelf| shelf.name.clone()).collect()
    }

    /// Every document of a collection as it stands now, ordered by id.
    pub fn truth(&self, collection: &str) -> Outcome<Vec<TruthRow>> {
        Ok(self.shared.shelf(collection)?.read(|c| c.truth(true)))
    }

    /// The same without the texts: ids, versions and lengths. For collections of large documents.
    pub fn truth_index(&self, collection: &str) -> Outcome<Vec<TruthRow>> {
        Ok(self.shared.shelf(collection)?.read(|c| c.truth(false)))
    }

    /// One document's text.
    pub fn document(&self, collection: &str, id: &str) -> Outcome<Option<String>> {
        Ok(self.shared.shelf(collection)?.read(|c| c.get(id)).map(|doc| doc.body.text()))
    }

    /// How many documents there are.
    pub fn count(&self, collection: &str) -> Outcome<usize> {
        Ok(self.shared.shelf(collection)?.read(Collection::len))
    }

    /// The newest position, and the sequence number that the next entry will have.
    pub fn top(&self, collection: &str) -> Outcome<(Ts, u64)> {
        Ok(self.shared.shelf(collection)?.read(|c| (c.oplog.top(), c.oplog.end())))
    }

    /// Entries and bytes that the oplog keeps.
    pub fn oplog_kept(&self, collection: &str) -> Outcome<(usize, usize)> {
        Ok(self.shared.shelf(collection)?.read(|c| c.oplog.kept()))
    }

    /// Goes on from an earlier world: documents `(id, text)` as they were at a position, and an oplog that begins there. Before
    /// anybody reads the collection.
    pub fn restore(&self, collection: &str, at: Ts, documents: &[(String, String)]) -> Outcome<()> {
        let knobs = self.shared.knobs();
        self.shared.shelf(collection)?.write(|c| {
            c.begin_at(at);
            documents.iter().try_for_each(|(id, text)| c.restore(id, text, &knobs.world))
        })
    }

    /// Writes a document (new or not), stamped with the time.
    pub fn put(&self, collection: &str, text: &str) -> Outcome<Written> {
        self.put_dated(collection, text, None)
    }

    /// Writes a document whose `dateModified` is given (ISO 8601) instead of being the time of the write.
    pub fn put_dated(&self, collection: &str, text: &str, date: Option<&str>) -> Outcome<Written> {
        let date = date.map(micros).transpose()?;
        let knobs = self.shared.knobs();
        self.shared.shelf(collection)?.write(|c| c.put(text, clock::now(), date, &knobs.world))
    }

    /// Writes any text under an id, without a look at it: for what a database should never hold.
    pub fn put_verbatim(&self, collection: &str, id: &str, text: &str) -> Outcome<Written> {
        let knobs = self.shared.knobs();
        self.shared.shelf(collection)?.write(|c| c.put_verbatim(id, text, clock::now(), &knobs.world))
    }

    /// Sets members of a document; `set` is a JSON object, its keys may be dotted paths.
    pub fn patch(&self, collection: &str, id: &str, set: &str) -> Outcome<Written> {
        let knobs = self.shared.knobs();
        self.shared.shelf(collection)?.write(|c| c.patch(id, set, clock::now(), &knobs.world))
    }

    /// Takes a document out.
    pub fn delete(&self, collection: &str, id: &str) -> Outcome<Written> {
        let knobs = self.shared.knobs();
        self.shared.shelf(collection)?.write(|c| c.delete(id, clock::now(), &knobs.world))
    }

    /// Writes a noop into the oplog.
    pub fn noop(&self, collection: &str) -> Outcome<Ts> {
        let knobs = self.shared.knobs();
        Ok(self.shared.shelf(collection)?.write(|c| c.noop(clock::now(), &knobs.world)))
    }

    /// Writes a document of exactly so many bytes (as the Mirror and the API show it).
    pub fn put_sized(&self, collection: &str, text: &str, bytes: usize) -> Outcome<Written> {
        self.put_measured(collection, text, |_| bytes)
    }

    /// Writes a document whose upsert frame, as the tail sends it, has exactly so many bytes of payload.
    pub fn put_frame(&self, collection: &str, text: &str, bytes: usize) -> Outcome<Written> {
        let knobs = self.shared.knobs();
        self.put_measured(collection, text, |ts| bytes.saturating_sub(Speller(&knobs.mirror).overhead(ts)))
    }

    fn put_measured(&self, collection: &str, text: &str, size: impl FnOnce(Ts) -> usize) -> Outcome<Written> {
        let knobs = self.shared.knobs();
        self.shared.shelf(collection)?.write(|c| {
            let now = clock::now();
            let wanted = size(c.oplog.next_ts(now));
            // A trial write to a scrap of paper shows what the stamps add.
            let mut scrap = Collection::new(now);
            let bare = json::set(text, &[("x_filling", "\"\"")])?;
            let least = scrap.put(&bare, now, None, &knobs.world)?.bytes;
            let missing = wanted.checked_sub(least).ok_or(WorldError::TooSmall { wanted, least })?;
            c.put_filled(&bare, missing, now, None, &knobs.world)
        })
    }

    /// Switches a fault on everywhere until it is cleared.
    pub fn fault(&self, fault: Fault) {
        self.fault_with(ActiveFault::new(fault));
    }

    /// Switches a fault on, bound to a collection or to a number of strikes.
    pub fn fault_with(&self, active: ActiveFault) {
        self.shared.faults.send_modify(|faults| {
            Arc::make_mut(faults).0.insert(active.fault.name(), active);
        });
    }

    /// Switches the fault of this name off; false if it was not on.
    pub fn clear(&self, name: &str) -> bool {
        let mut was = false;
        self.shared.faults.send_modify(|faults| was = Arc::make_mut(faults).0.remove(name).is_some());
        was
    }

    /// Switches every fault off.
    pub fn clear_all(&self) {
        self.shared.faults.send_modify(|faults| Arc::make_mut(faults).0.clear());
    }

    /// The faults that are on.
    pub fn faults(&self) -> Vec<ActiveFault> {
        self.shared.faults().0.values().cloned().collect()
    }

    /// Gives a token these permissions from now on.
    pub fn set_token<'a>(&self, token: &str, permissions: impl IntoIterator<Item = &'a str>) {
        let permissions: BTreeSet<String> = permissions.into_iter().map(str::to_owned).collect();
        lock(&self.shared.tokens).insert(token.to_owned(), permissions);
    }

    /// Makes a token unknown.
    pub fn remove_token(&self, token: &str) -> bool {
        lock(&self.shared.tokens).remove(token).is_some()
    }

    /// The knobs as they stand.
    pub fn knobs(&self) -> Knobs {
        (*self.shared.knobs()).clone()
    }

    /// Turns knobs. Open connections take most of them up at once, those of the handshake with the next connection.
    pub fn turn(&self, f: impl FnOnce(&mut Knobs)) {
        self.shared.knobs.send_modify(|knobs| f(Arc::make_mut(knobs)));
    }

    /// Sends a text frame to every open connection of a collection; gives how many took it.
    pub fn inject(&self, collection: &str, text: &str) -> usize {
        let frame: Frame = raw(text);
        self.tell(collection, || Command::Inject(frame.clone()))
    }

    /// Ends every open connection of a collection in this manner; gives how many there were.
    pub fn disconnect(&self, collection: &str, manner: Manner) -> usize {
        if let Manner::Close(code) = manner {
            return self.tell(collection, || Command::Close(code));
        }
        let links = lock(&self.shared.links);
        let ours = links.values().filter(|link| link.collection == collection);
        ours.filter(|link| link.kill.send(Some(manner)).is_ok()).count()
    }

    fn tell(&self, collection: &str, command: impl Fn() -> Command) -> usize {
        let links = lock(&self.shared.links);
        let ours = links.values().filter(|link| link.collection == collection);
        ours.filter(|link| link.commands.try_send(command()).is_ok()).count()
    }

    /// Empties the oplog and moves its position on: no cursor given out so far can be followed.
    pub fn forget_history(&self, collection: &str) -> Outcome<()> {
        self.shared.shelf(collection)?.write(|c| c.oplog.forget(true));
        Ok(())
    }

    /// What happened so far.
    pub fn stats(&self) -> Stats {
        self.shared.book.read()
    }

    /// Waits until the books say what is wanted; false if they do not in time.
    pub async fn wait_until(&self, limit: Duration, mut wanted: impl FnMut(&Stats) -> bool) -> bool {
        let mut changes = self.shared.book.watch();
        let seen = async {
            while !wanted(&self.shared.book.read()) {
                if changes.changed().await.is_err() {
                    return false;
                }
            }
            true
        };
        tokio::time::timeout(limit, seen).await.unwrap_or(false)
    }

    /// Waits until a connection of the collection has been sent everything that is written now.
    pub async fn wait_sent(&self, collection: &str, limit: Duration) -> bool {
        let Ok((_, end)) = self.top(collection) else { return false };
        let done = |stats: &Stats| {
            stats.links.iter().any(|link| {
                link.collection == collection && link.phase == crate::stats::Phase::Tail && link.sequence >= end
            })
        };
        self.wait_until(limit, done).await
    }
}

fn micros(date: &str) -> Outcome<i64> {
    clock::parse(date).map(|(micros, _)| micros).ok_or_else(|| WorldError::Bad(format!("{date} is not an ISO date")))
}
