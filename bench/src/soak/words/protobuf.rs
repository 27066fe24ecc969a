//! Centrifuge's protocol in Protobuf: each message behind its length. Only the fields that are needed; others are passed by.

use super::{Data, Heard, Of};
use crate::soak::ledger::{Joined, Position, Publication};
use prost::Message as _;

#[derive(Clone, PartialEq, prost::Message)]
struct Command {
    #[prost(uint32, tag = "1")]
    id: u32,
    #[prost(message, optional, tag = "4")]
    connect: Option<Connect>,
    #[prost(message, optional, tag = "5")]
    subscribe: Option<Subscribe>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Connect {
    #[prost(string, tag = "1")]
    token: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Subscribe {
    #[prost(string, tag = "1")]
    channel: String,
    #[prost(bool, tag = "3")]
    recover: bool,
    #[prost(string, tag = "6")]
    epoch: String,
    #[prost(uint64, tag = "7")]
    offset: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Reply {
    #[prost(uint32, tag = "1")]
    id: u32,
    #[prost(message, optional, tag = "2")]
    error: Option<Refusal>,
    #[prost(message, optional, tag = "4")]
    push: Option<Push>,
    #[prost(message, optional, tag = "5")]
    connect: Option<Connected>,
    #[prost(message, optional, tag = "6")]
    subscribe: Option<Subscribed>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Refusal {
    #[prost(uint32, tag = "1")]
    code: u32,
}

/// The code of an end stands elsewhere than that of an error.
#[derive(Clone, PartialEq, prost::Message)]
struct Ended {
    #[prost(uint32, tag = "2")]
    code: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Connected {
    #[prost(string, tag = "1")]
    client: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Subscribed {
    #[prost(string, tag = "6")]
    epoch: String,
    #[prost(message, repeated, tag = "7")]
    publications: Vec<Published>,
    #[prost(bool, tag = "8")]
    recovered: bool,
    #[prost(uint64, tag = "9")]
    offset: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Push {
    #[prost(string, tag = "2")]
    channel: String,
    #[prost(message, optional, tag = "4")]
    published: Option<Published>,
    #[prost(message, optional, tag = "7")]
    unsubscribe: Option<Ended>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Published {
    #[prost(bytes = "vec", tag = "4")]
    data: Vec<u8>,
    #[prost(uint64, tag = "6")]
    offset: u64,
}

impl Published {
    fn publication(&self) -> Result<Publication, String> {
        let data: Data = serde_json::from_slice(&self.data).map_err(|error| error.to_string())?;
        Ok(data.publication(self.offset))
    }
}

/// `connect`.
pub(super) fn hello(token: &str) -> Vec<u8> {
    let connect = Some(Connect { token: token.to_owned() });
    Command { id: 1, connect, subscribe: None }.encode_length_delimited_to_vec()
}

/// `subscribe`.
pub(super) fn subscribe(id: u32, channel: &str, since: Option<&Position>) -> Vec<u8> {
    let at = since.cloned().unwrap_or_default();
    let subscribe =
        Subscribe { channel: channel.to_owned(), recover: since.is_some(), epoch: at.epoch, offset: at.offset };
    Command { id, connect: None, subscribe: Some(subscribe) }.encode_length_delimited_to_vec()
}

/// One frame.
pub(super) fn hear(mut frame: &[u8]) -> Result<Vec<Heard>, String> {
    let mut all = Vec::new();
    while !frame.is_empty() {
        let reply = Reply::decode_length_delimited(&mut frame).map_err(|error| error.to_string())?;
        all.push(heard(reply)?);
    }
    Ok(all)
}

fn heard(reply: Reply) -> Result<Heard, String> {
    // A ping is an empty message, and so is its answer.
    if reply == Reply::default() {
        return Ok(Heard::Ping(vec![0]));
    }
    Ok(match reply {
        Reply { error: Some(Refusal { code }), id, .. } => Heard::Refused { of: Of::Command(id), code },
        Reply { connect: Some(connected), .. } => Heard::Welcome(connected.client),
        Reply { subscribe: Some(it), id, .. } => {
            let position = Position { epoch: it.epoch, offset: it.offset };
            let missed: Result<_, _> = it.publications.iter().map(Published::publication).collect();
            Heard::Joined(Of::Command(id), Joined { position, recovered: it.recovered, missed: missed? })
        }
        Reply { push: Some(Push { channel, published: Some(it), .. }), .. } => {
            Heard::Publication(channel, it.publication()?)
        }
        Reply { push: Some(Push { channel, unsubscribe: Some(Ended { code }), .. }), .. } => {
            Heard::Unsubscribed(channel, code)
        }
        _ => Heard::Other,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_stand_behind_their_lengths() {
        let said = hello("t");
        assert_eq!(said, [7, 8, 1, 34, 3, 10, 1, b't']);
        let since = Position { epoch: "e".to_owned(), offset: 3 };
        let said = Command::decode_length_delimited(subscribe(2, "c", Some(&since)).as_slice()).unwrap();
        assert_eq!(said.subscribe.map(|it| (it.recover, it.epoch, it.offset)), Some((true, "e".to_owned(), 3)));
    }

    #[test]
    fn what_matters_is_read() {
        let published = Published { data: br#"{"n":4}"#.to_vec(), offset: 9 };
        let push = |published, unsubscribe| Reply {
            push: Some(Push { channel: "c".to_owned(), published, unsubscribe }),
            ..Reply::default()
        };
        let subscribed =
            Subscribed { epoch: "e".to_owned(), publications: vec![published.clone()], recovered: true, offset: 8 };
        let replies = [
            Reply { connect: Some(Connected { client: "a".to_owned() }), ..Reply::default() },
            Reply { id: 2, subscribe: Some(subscribed), ..Reply::default() },
            push(Some(published), None),
            push(None, Some(Ended { code: 2500 })),
            Reply::default(),
            Reply { id: 3, error: Some(Refusal { code: 100 }), ..Reply::default() },
        ];
        let frame: Vec<u8> = replies.iter().flat_map(prost::Message::encode_length_delimited_to_vec).collect();
        let publication = Publication { offset: 9, number: 4, mark: 4 };
        let position = Position { epoch: "e".to_owned(), offset: 8 };
        let expected = [
            Heard::Welcome("a".to_owned()),
            Heard::Joined(Of::Command(2), Joined { position, recovered: true, missed: vec![publication] }),
            Heard::Publication("c".to_owned(), publication),
            Heard::Unsubscribed("c".to_owned(), 2500),
            Heard::Ping(vec![0]),
            Heard::Refused { of: Of::Command(3), code: 100 },
        ];
        assert_eq!(hear(&frame).unwrap(), expected);
        assert!(hear(&frame[..frame.len() - 1]).is_err());
    }
}
