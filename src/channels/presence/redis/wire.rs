//! What the scripts of presence take and answer.

use std::{sync::Arc, time::Duration};

use dzvin_actors::platform::ports::{
    Buried, BusError, Changed, Counts, Entered, Exited, Grave, Member, MemberChange, MemberPage, Occupied, Outcome,
};
use dzvin_protocols::platform::StreamName;
use fred::types::Value;
use tokio::time::Instant;

/// An answer that is not in our form.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("unexpected {0}")]
struct Malformed(&'static str);

pub(super) fn failed(source: impl std::error::Error + Send + Sync + 'static) -> BusError {
    BusError { doing: "presence", source: Box::new(source) }
}

fn malformed(what: &'static str) -> BusError {
    failed(Malformed(what))
}

pub(super) fn number(n: u64) -> Value {
    // Tickets and counts stay below 2^53.
    Value::Integer(i64::try_from(n).unwrap_or(i64::MAX))
}

pub(super) fn millis(d: Duration) -> Value {
    // At least one: Redis refuses an expiry of zero.
    number(u64::try_from(d.as_millis()).unwrap_or(u64::MAX >> 1).max(1))
}

/// The four words of a change.
pub(super) fn change(change: &MemberChange) -> [Value; 4] {
    match change {
        MemberChange::Enter(member) => {
            let (client, user) = (member.info.client.as_ref(), member.info.user.as_ref());
            ["+".into(), client.into(), user.into(), encode(member).into()]
        }
        MemberChange::Exit { client, user } => ["-".into(), client.as_ref().into(), user.as_ref().into(), "".into()],
    }
}

/// What changes came to, and whether nothing of this life is left; `None` when a later ticket was used.
pub(super) fn changed(changes: &[MemberChange], answer: Value) -> Result<Option<(Changed, bool)>, BusError> {
    let parts = array(answer)?;
    if parts.is_empty() {
        return Ok(None);
    }
    let [digits, clients, users, crowded, left] = parts.as_slice() else { return Err(malformed("answer of change")) };
    let digits = digits.as_string().filter(|digits| digits.len() == changes.len());
    let digits = digits.ok_or_else(|| malformed("outcomes"))?;
    let outcomes = changes.iter().zip(digits.bytes()).map(|(change, digit)| {
        let (made, edge) = (digit & 1 != 0, digit & 2 != 0);
        match change {
            MemberChange::Enter(_) => Outcome::Entered(Entered { new: made, first_of_user: edge }),
            MemberChange::Exit { .. } => Outcome::Exited(Exited { gone: made, last_of_user: edge }),
        }
    });
    let changed = Changed { outcomes: outcomes.collect(), counts: counts(clients, users, crowded)? };
    Ok(Some((changed, count(left)? == 1)))
}

/// What became of the subscribers, and whether nothing of this life is left; `None` when a later ticket was used.
pub(super) fn occupied(answer: Value) -> Result<Option<(Occupied, bool)>, BusError> {
    match array(answer)?.as_slice() {
        [] => Ok(None),
        [before, now, left] => Ok(Some((Occupied { before: count(before)?, now: count(now)? }, count(left)? == 1))),
        _ => Err(malformed("answer of occupy")),
    }
}

/// A member that cannot be read is passed over: it was written by another version.
pub(super) fn page(answer: Value) -> Result<MemberPage, BusError> {
    let parts = array(answer)?;
    let [clients, users, crowded, next, infos @ ..] = parts.as_slice() else {
        return Err(malformed("answer of members"));
    };
    let next: u64 = next.as_string().and_then(|next| next.parse().ok()).ok_or_else(|| malformed("cursor"))?;
    Ok(MemberPage {
        members: infos.iter().filter_map(member).collect(),
        counts: counts(clients, users, crowded)?,
        next: (next != 0).then_some(next),
    })
}

/// What a look at one channel of a dead life found.
pub(super) enum Found {
    /// What is to be told.
    Grave(Buried),
    /// Nothing that is to be told, and whether nothing of that life is left there.
    Nothing(bool),
}

/// What was removed: this node's to tell until then.
pub(super) fn buried(life: &str, channel: StreamName, until: Instant, answer: Value) -> Result<Found, BusError> {
    let parts = array(answer)?;
    let (name, clients, users, crowded, before, now, rest, left) = match parts.as_slice() {
        // It is another's to tell.
        [] => return Ok(Found::Nothing(false)),
        [name, clients, users, crowded, before, now, rest, left @ ..] => {
            (name, clients, users, crowded, before, now, rest, left)
        }
        _ => return Err(malformed("answer of bury")),
    };
    let name = name.as_string().ok_or_else(|| malformed("grave"))?;
    let more = count(rest)? > 0;
    if name.is_empty() {
        return Ok(Found::Nothing(!more));
    }
    let left = left.chunks_exact(2).filter_map(|pair| Some((member(&pair[1])?, pair[0].as_u64() == Some(1))));
    let occupied = Occupied { before: count(before)?, now: count(now)? };
    let (left, counts) = (left.collect(), counts(clients, users, crowded)?);
    let grave = Grave { life: life.into(), name: name.into(), until, more };
    Ok(Found::Grave(Buried { channel, left, counts, occupied, grave }))
}

pub(super) fn names(answer: Value) -> Result<Vec<String>, BusError> {
    array(answer)?.into_iter().map(|name| name.as_string().ok_or_else(|| malformed("name"))).collect()
}

pub(super) fn count(value: &Value) -> Result<u64, BusError> {
    value.as_u64().ok_or_else(|| malformed("number"))
}

fn counts(clients: &Value, users: &Value, crowded: &Value) -> Result<Counts, BusError> {
    let crowded = count(crowded)?;
    Ok(Counts { clients: count(clients)?, users: count(users)?, crowded: crowded == 1, ended: crowded == 2 })
}

/// A digit, and then what others may see: 1, they are told of it and find it; 0, they only find it; 2, they are only told of it.
fn encode(member: &Member) -> String {
    // Text and raw JSON of ours: this cannot fail.
    let info = serde_json::to_string(&member.info).unwrap_or_default();
    let digit = match (member.told, member.shown) {
        (true, true) => 1,
        (true, false) => 2,
        // Who is neither told of nor shown is entered by nobody.
        (false, _) => 0,
    };
    format!("{digit}{info}")
}

fn member(kept: &Value) -> Option<Arc<Member>> {
    let kept = kept.as_string()?;
    let (told, info) = kept.split_at_checked(1)?;
    Some(Arc::new(Member { info: serde_json::from_str(info).ok()?, told: told != "0", shown: told != "2" }))
}

fn array(value: Value) -> Result<Vec<Value>, BusError> {
    match value {
        Value::Array(values) => Ok(values),
        _ => Err(malformed("answer")),
    }
}

#[cfg(test)]
mod tests {
    use dzvin_protocols::channels::centrifuge::ClientInfo;

    use super::*;

    /// Two versions of a node run side by side: the form stays as it is.
    #[test]
    fn a_member_is_kept_in_the_form_of_every_version() {
        let info = ClientInfo {
            user: "\u{457}\t".into(),
            client: "c".into(),
            conn_info: Some("{\"n\": 1.0}".into()),
            chan_info: None,
        };
        let known = Member { info, told: true, shown: true };
        let form = "1{\"user\":\"\u{457}\\t\",\"client\":\"c\",\"conn_info\":{\"n\": 1.0}}";
        assert_eq!(encode(&known), form);
        assert_eq!(member(&form.into()).as_deref(), Some(&known));
        for unknown in ["", "1", "{}", "\u{457}", "1{}"] {
            assert_eq!(member(&unknown.into()), None, "{unknown}");
        }
        let hidden = Member { shown: false, ..known.clone() };
        assert_eq!(member(&encode(&hidden).into()).as_deref(), Some(&hidden));
        assert!(encode(&hidden).starts_with('2'));
        let later = "0{\"user\":\"u\",\"client\":\"c\",\"later\":[]}";
        assert!(!member(&later.into()).expect("known").told, "what a later version adds is passed over");
    }
}
