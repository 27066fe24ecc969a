//! Centrifuge's protocol in JSON.

use super::{Data, Heard, Of};
use crate::soak::ledger::{Joined, Position, Publication};
use serde::Deserialize;
use serde_json::json;

#[derive(Deserialize)]
struct Message {
    #[serde(default)]
    id: u32,
    error: Option<Refusal>,
    connect: Option<Connected>,
    subscribe: Option<Subscribed>,
    push: Option<Push>,
}

#[derive(Deserialize)]
struct Refusal {
    code: u32,
}

#[derive(Deserialize)]
struct Connected {
    client: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Subscribed {
    epoch: String,
    offset: u64,
    recovered: bool,
    publications: Vec<Published>,
}

#[derive(Deserialize)]
struct Push {
    #[serde(default)]
    channel: String,
    #[serde(rename = "pub")]
    published: Option<Published>,
    unsubscribe: Option<Refusal>,
}

#[derive(Deserialize)]
struct Published {
    data: Data,
    #[serde(default)]
    offset: u64,
}

impl Published {
    fn publication(&self) -> Publication {
        self.data.publication(self.offset)
    }
}

/// `connect`.
pub(super) fn hello(token: &str) -> Vec<u8> {
    json!({"id": 1, "connect": {"token": token, "name": "soak"}}).to_string().into_bytes()
}

/// `subscribe`.
pub(super) fn subscribe(id: u32, channel: &str, since: Option<&Position>) -> Vec<u8> {
    let mut what = json!({"channel": channel});
    if let Some(since) = since {
        what = json!({"channel": channel, "recover": true, "epoch": since.epoch, "offset": since.offset});
    }
    json!({"id": id, "subscribe": what}).to_string().into_bytes()
}

/// One line.
pub(super) fn hear(line: &[u8]) -> Result<Heard, String> {
    if line == b"{}" {
        return Ok(Heard::Ping(b"{}".to_vec()));
    }
    let message: Message = serde_json::from_slice(line).map_err(|error| error.to_string())?;
    Ok(match message {
        Message { error: Some(Refusal { code }), id, .. } => Heard::Refused { of: Of::Command(id), code },
        Message { connect: Some(connected), .. } => Heard::Welcome(connected.client),
        Message { subscribe: Some(it), id, .. } => {
            let position = Position { epoch: it.epoch, offset: it.offset };
            let missed = it.publications.iter().map(Published::publication).collect();
            Heard::Joined(Of::Command(id), Joined { position, recovered: it.recovered, missed })
        }
        Message { push: Some(Push { channel, published: Some(it), .. }), .. } => {
            Heard::Publication(channel, it.publication())
        }
        Message { push: Some(Push { channel, unsubscribe: Some(Refusal { code }), .. }), .. } => {
            Heard::Unsubscribed(channel, code)
        }
        _ => Heard::Other,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(line: &str) -> Heard {
        hear(line.as_bytes()).unwrap()
    }

    #[test]
    fn what_matters_is_read() {
        assert_eq!(heard("{}"), Heard::Ping(b"{}".to_vec()));
        assert_eq!(heard(r#"{"id":1,"connect":{"client":"a","ping":5}}"#), Heard::Welcome("a".to_owned()));
        let refused = Heard::Refused { of: Of::Command(3), code: 103 };
        assert_eq!(heard(r#"{"id":3,"error":{"code":103,"message":"m"}}"#), refused);
        let joined = heard(
            r#"{"id":4,"subscribe":{"recoverable":true,"epoch":"e","offset":5,"recovered":true,"publications":[{"data":{"n":6},"offset":6}]}}"#,
        );
        let position = Position { epoch: "e".to_owned(), offset: 5 };
        let missed = vec![Publication { offset: 6, number: 6, mark: 6 }];
        assert_eq!(joined, Heard::Joined(Of::Command(4), Joined { position, recovered: true, missed }));
        let publication = Publication { offset: 8, number: 9, mark: 9 };
        assert_eq!(
            heard(r#"{"push":{"channel":"c","pub":{"data":{"n":9},"offset":8,"tags":{}}}}"#),
            Heard::Publication("c".to_owned(), publication)
        );
        assert_eq!(
            heard(r#"{"push":{"channel":"c","unsubscribe":{"code":2500,"reason":"r"}}}"#),
            Heard::Unsubscribed("c".to_owned(), 2500)
        );
        assert_eq!(heard(r#"{"push":{"channel":"c","join":{"info":{}}}}"#), Heard::Other);
        assert!(hear(b"{").is_err());
    }
}
