//! Publishing on an application's stream: one script, whatever the conditions; and the pace of who publishes.
//!
//! Invariants: what was published before is answered as it was, whatever a pace or a limit says, and counts for neither; a place
//! among this node's keys is taken by what Redis has, or may have, once for each key; a key of what nothing keeps is answered as told
//! only when that was told where somebody listens.

use std::{hash::BuildHasher, time::Duration};

use dzvin_actors::platform::ports::{
    Across, BusError, Conditions, HistoryLimits, Offer, Once, Published, UserPace, Version,
};
use dzvin_protocols::{
    channels::Epoch,
    platform::{EntityId, StreamName},
};
use fred::{
    error::{Error, ErrorKind},
    types::{Key, Value},
};
use tokio::time::{Instant, timeout};

use super::{
    super::{Unnamed, check_word, keys, paces::person},
    APPEND, Asked, Bytes, PACE, RedisBus, Shared, failed, held,
    link::Link,
    route::{Answered, Command, Moving, NotConnected},
    wire,
};

/// How long a user waits at most for what other nodes have counted: what needs nothing else of Redis, as a call, is not held up
/// longer while it hangs.
const PACE_PATIENCE: Duration = Duration::from_millis(500);
/// How errors begin with which a server says that it runs nothing, or writes nothing, now.
const REFUSALS: [&str; 9] =
    ["LOADING", "CLUSTERDOWN", "MASTERDOWN", "OOM", "READONLY", "MISCONF", "NOREPLICAS", "NOPERM", "NOAUTH"];

impl RedisBus {
    pub(super) async fn put_on(
        &self,
        stream: &StreamName,
        offer: Offer,
        on: &Conditions,
    ) -> Result<Published, BusError> {
        let said = Said::of(stream, offer)?;
        let here = on.pace.filter(|pace| pace.across == Across::Node);
        let late = here.and_then(|pace| self.shared.paces.wait(stream, pace.per_second));
        if let Some(wait) = late
            && on.once.is_none()
            && on.version.is_none()
        {
            return Ok(Published::TooMany { wait });
        }
        let mut place = on.once.as_ref().map(|once| Place::of(&self.shared, stream, once));
        let full = place.as_ref().is_some_and(|place| !place.has_room).then_some(keys::WAIT);
        let published = self.put_unless(stream, said, on, Known { full, late }).await;
        if let Some(place) = &mut place {
            place.taken = match &published {
                Ok(Published::At(_) | Published::Told | Published::Older(_)) => true,
                Ok(Published::Again(_) | Published::TooMany { .. }) => false,
                Err(error) => may_have_run(error),
            };
        }
        let happened = match &published {
            Ok(Published::At(_) | Published::Told) => true,
            Ok(_) => false,
            Err(error) => may_have_run(error),
        };
        if here.is_some() && late.is_none() && !happened {
            self.shared.paces.give_back(stream);
        }
        match published {
            Ok(Published::At(_)) => {
                self.shared.metrics.appended.inc();
            }
            Ok(Published::Again(_)) => {
                self.shared.metrics.repeated.inc();
            }
            _ => {}
        }
        published
    }

    async fn put_unless(
        &self,
        stream: &StreamName,
        said: Said,
        on: &Conditions,
        known: Known,
    ) -> Result<Published, BusError> {
        let Said { keep, message, word } = said;
        let paced = on.pace.is_some_and(|pace| pace.across == Across::Cluster);
        let mut keys = Vec::with_capacity(3);
        match &word {
            None => keys.extend(["position", "history"]),
            Some(_) if paced => keys.push("position"),
            Some(_) => {}
        }
        if on.once.is_some() {
            keys.push("keys");
        }
        let answer = match word {
            None => {
                let conditions = || conditions(on, None, known);
                let args =
                    |link: &Link| self.run(stream, &link.new_epoch(), 0, &keep, conditions(), message.as_slice());
                self.on_keys(Asked { doing: "publish", script: &APPEND, stream, keys: &keys }, args).await?
            }
            // Nothing has to be known for it: it needs no key, and so none that may be elsewhere.
            Some(word) if keys.is_empty() => {
                self.shared.say("publish", &self.shared.config.channel(stream), word).await?;
                return Ok(Published::Told);
            }
            Some(word) => self.tell_on(Telling { stream, keys: self.keys(stream, &keys), on, known, word }).await?,
        };
        wire::published(answer).map_err(failed("publish"))
    }

    /// Tells what nothing keeps and something has to be known for. Ahead of its slot nobody listens: there its key is claimed, then it
    /// is said where the slot still is, then that is noted. Whatever fails in between, whoever offers it again says it.
    async fn tell_on(&self, telling: Telling<'_>) -> Result<Value, BusError> {
        let config = &self.shared.config;
        let patience = config.word_patience();
        // The claim outlasts what it is for: the answer to it takes a command's time at most.
        let answer = self.ask_to_tell(&telling, Saying::Within(patience + config.command_timeout)).await?;
        if !answer.ahead || !wire::is_told(&answer.value) {
            return Ok(answer.value);
        }
        let channel = config.channel(telling.stream);
        let said = timeout(patience, self.shared.say("publish", &channel, telling.word.clone())).await;
        let said = said.unwrap_or_else(|_| Err(failed("publish")(Moving)));
        if telling.on.once.is_some() {
            // Where it cannot be noted the claim ends by itself.
            let _ = self.ask_to_tell(&telling, if said.is_ok() { Saying::Said } else { Saying::Unsaid }).await;
        }
        said.map(|_| answer.value).map_err(|error| failed("publish")(Unsaid(error)))
    }

    async fn ask_to_tell(&self, telling: &Telling<'_>, saying: Saying) -> Result<Answered, BusError> {
        let Telling { stream, keys, on, known, word } = telling;
        let keep = HistoryLimits::default();
        let conditions = || conditions(on, Some((word, saying)), *known);
        let args = |link: &Link| self.run(stream, &link.new_epoch(), 0, &keep, conditions(), &[]);
        let command = |link: &Link| Command::Script(&APPEND, keys.clone(), args(link));
        let says = matches!(saying, Saying::Within(_));
        self.shared.run("publish", &self.shared.config.tag(stream), says, command).await
    }

    /// First this node's own count, which bounds what Redis is asked, and is what there is while it cannot be.
    pub(super) async fn pace_of(&self, user: &str, pace: UserPace) -> Option<Duration> {
        let person = person(user);
        let here = self.shared.user_paces.wait(&person, pace.per_second);
        if here.is_some() || pace.across == Across::Node {
            return here;
        }
        let key = self.shared.config.person(&person);
        let asked =
            self.shared.eval("pace", &PACE, vec![key.into()], vec![wire::number(pace.per_second.max(1).into())]);
        let answer = match timeout(PACE_PATIENCE, asked).await {
            Ok(Ok(answer)) => answer.as_u64(),
            _ => None,
        };
        if answer.is_none() {
            self.shared.metrics.paced_alone.inc();
        }
        answer.filter(|wait| *wait > 0).map(Duration::from_millis)
    }

    /// The arguments of the script that appends.
    pub(super) fn run(
        &self,
        stream: &StreamName,
        epoch: &Epoch,
        first: u64,
        keep: &HistoryLimits,
        conditions: Vec<Value>,
        publications: &[Bytes],
    ) -> Vec<Value> {
        let config = &self.shared.config;
        let head = [
            config.channel(stream).into(),
            epoch.as_str().into(),
            wire::number(first),
            wire::number(keep.count as u64),
            wire::number(keep.bytes as u64),
            wire::millis(keep.age),
            wire::millis(config.keep_position),
            if first == 0 { self.shared.routes().vouched().into() } else { "".into() },
            wire::number(conditions.len() as u64),
        ];
        head.into_iter().chain(conditions).chain(publications.iter().cloned().map(Value::Bytes)).collect()
    }
}

/// An offer as the script takes it.
struct Said {
    keep: HistoryLimits,
    /// None of what nothing keeps.
    message: Option<Bytes>,
    /// What nothing keeps, as it is told.
    word: Option<Bytes>,
}

impl Said {
    fn of(stream: &StreamName, offer: Offer) -> Result<Self, BusError> {
        match offer {
            Offer::Kept(message, keep) => {
                let id = EntityId::new(stream.as_str()).map_err(|_| failed("publish")(Unnamed))?;
                Ok(Self { keep, message: Some(wire::headless(message, id)), word: None })
            }
            Offer::Passing(word) => {
                check_word("publish", &word)?;
                Ok(Self { keep: HistoryLimits::default(), message: None, word: Some(wire::word(&word)) })
            }
        }
    }
}

/// What nothing keeps and something has to be known for.
struct Telling<'a> {
    stream: &'a StreamName,
    keys: Vec<Key>,
    on: &'a Conditions,
    known: Known,
    word: Bytes,
}

/// What becomes of a word ahead of its slot.
#[derive(Debug, Clone, Copy)]
enum Saying {
    /// Who asks says it where the slot still is, by then; until then nobody else does.
    Within(Duration),
    /// It was said.
    Said,
    /// It was not.
    Unsaid,
}

impl From<Saying> for Value {
    fn from(saying: Saying) -> Self {
        match saying {
            Saying::Within(time) => wire::millis(time),
            Saying::Said => "said".into(),
            Saying::Unsaid => "unsaid".into(),
        }
    }
}

/// Its key is known, and nobody has heard it: whoever offers it again says it.
#[derive(Debug, thiserror::Error)]
#[error("it was not said where those listen who listen")]
struct Unsaid(#[source] BusError);

/// What this node has found by itself, and what only holds for what was not published before.
#[derive(Debug, Clone, Copy)]
struct Known {
    /// There is no room for another key: how long to wait.
    full: Option<Duration>,
    /// The channel has had all that it may have: how long to wait.
    late: Option<Duration>,
}

/// The place of a key among those of this node, while it is asked what became of it. Whoever gives up in the middle leaves it taken.
struct Place<'a> {
    shared: &'a Shared,
    name: u64,
    once: Once,
    /// It was promised one; not when it has one already.
    promised: bool,
    /// It may be remembered.
    has_room: bool,
    /// Redis has it, or may have it.
    taken: bool,
}

impl<'a> Place<'a> {
    fn of(shared: &'a Shared, stream: &StreamName, once: &Once) -> Self {
        // Two names of one number would be counted as one.
        let name = shared.hasher.hash_one((stream, once.key));
        let (mut keys, now) = (held(&shared.keys), Instant::now());
        let has_one = keys.find(&name, now).is_some();
        let promised = !has_one && keys.promise(once.publisher, now);
        Self { shared, name, once: *once, promised, has_room: has_one || promised, taken: true }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut keys = held(&self.shared.keys);
        if self.promised {
            keys.release(self.once.publisher);
        }
        if self.taken && self.has_room {
            keys.keep(self.name, (), self.once.publisher, self.once.window, Instant::now());
        }
    }
}

/// Whether it may have been done all the same.
fn may_have_run(error: &BusError) -> bool {
    let source = &*error.source;
    if source.is::<NotConnected>() || source.is::<Moving>() {
        return false;
    }
    source.downcast_ref::<Error>().is_none_or(|error| {
        let refused = REFUSALS.iter().any(|word| error.details().starts_with(word));
        !refused && *error.kind() != ErrorKind::Backpressure
    })
}

/// As the script takes them; none, where there are none.
fn conditions(on: &Conditions, word: Option<(&Bytes, Saying)>, known: Known) -> Vec<Value> {
    let pace = on.pace.filter(|pace| pace.across == Across::Cluster);
    if on.once.is_none() && on.version.is_none() && pace.is_none() && word.is_none() {
        return Vec::new();
    }
    let none = || Value::Bytes(Bytes::new());
    let (key, window) = on.once.as_ref().map_or_else(
        || (none(), wire::number(0)),
        |once| (Value::Bytes(Bytes::copy_from_slice(&once.key)), wire::millis(once.window)),
    );
    // Twenty digits compare as texts as the numbers do, which Lua would round.
    let digits = |version: &Version| format!("{:020}", version.number);
    vec![
        key,
        window,
        on.version.as_ref().map_or_else(none, |version| digits(version).into()),
        on.version.as_ref().map_or_else(none, |version| (&*version.epoch).into()),
        pace.map_or_else(none, |pace| wire::number(pace.per_second.max(1).into())),
        word.map_or_else(none, |(word, _)| Value::Bytes(word.clone())),
        known.full.map_or_else(none, wire::millis),
        known.late.map_or_else(none, wire::millis),
        word.map_or_else(none, |(_, saying)| saying.into()),
    ]
}
