//! Publishing on an application's stream: one script, whatever the conditions.

use dzvin_actors::platform::ports::{Across, BusError, Conditions, HistoryLimits, Offer, Published, Version};
use dzvin_protocols::{
    channels::Epoch,
    platform::{EntityId, StreamName},
};
use fred::types::Value;

use super::{
    super::{Unnamed, check_word, keys},
    APPEND, Bytes, RedisBus, failed, held,
    link::Link,
    wire,
};

impl RedisBus {
    pub(super) async fn put_on(
        &self,
        stream: &StreamName,
        offer: Offer,
        on: &Conditions,
    ) -> Result<Published, BusError> {
        if let Some(pace) = on.pace.filter(|pace| pace.across == Across::Node)
            && let Some(wait) = self.shared.paces.wait(stream, pace.per_second)
        {
            return Ok(Published::TooMany { wait });
        }
        if on.once.is_some() && !held(&self.shared.keys).has_room() {
            return Ok(Published::TooMany { wait: keys::WAIT });
        }
        let (keep, message, word) = match offer {
            Offer::Kept(message, keep) => {
                let id = EntityId::new(stream.as_str()).map_err(|_| failed("publish")(Unnamed))?;
                (keep, vec![wire::headless(message, id)], Bytes::new())
            }
            Offer::Passing(word) => {
                check_word("publish", &word)?;
                (HistoryLimits::default(), Vec::new(), wire::word(&word))
            }
        };
        let args = |link: &Link| self.run(stream, &link.new_epoch(), 0, &keep, conditions(on, &word), &message);
        let names = ["position", "history", "keys"];
        let names = &names[..if on.once.is_some() { 3 } else { 2 }];
        let answer = self.on_keys("publish", &APPEND, stream, names, args).await;
        let published = answer.and_then(|answer| wire::published(answer).map_err(failed("publish")));
        match (&published, &on.once) {
            (Ok(Published::Again(_) | Published::TooMany { .. }), _) | (_, None) => {}
            // After an error it may be there.
            (_, Some(once)) => held(&self.shared.keys).take(once.window),
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

/// As the script takes them; none, where there are none.
fn conditions(on: &Conditions, word: &Bytes) -> Vec<Value> {
    let pace = on.pace.filter(|pace| pace.across == Across::Cluster);
    if on.once.is_none() && on.version.is_none() && pace.is_none() && word.is_empty() {
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
        Value::Bytes(word.clone()),
    ]
}
