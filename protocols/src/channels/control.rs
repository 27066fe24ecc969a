//! What nodes have each other do with their sessions.
//!
//! The form is that of [`Word`](super::Word): JSON, one member that names the order; what a node does not know it passes over.
//! An order with a condition that it does not know it passes over as a whole: without it more would be meant.

use std::{net::IpAddr, sync::Arc};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{SessionSecret, TraceLine, TraceTarget, Whose, centrifuge::or_default};
use crate::identity::Overrides;

/// Where commands for a session came in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PostedBy {
    /// The node that was given them.
    pub node: Arc<str>,
    /// The client's address, as that node counts it.
    pub address: IpAddr,
}

/// What a subscription is to be that a server makes, beside its channel. A node that knows of less makes it without.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Subscribing {
    /// What other subscribers may see of this one: one JSON value as text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub info: Option<String>,
    /// What the client is told with it: the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<String>,
    /// When it ends, in seconds since 1970; absent: never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expire_at: Option<i64>,
    /// Where the client stands.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<Since>,
    /// Choices that go before the configuration's.
    #[serde(rename = "override", skip_serializing_if = "is_default")]
    pub overrides: Overrides,
}

/// A position as a server gives it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Since {
    /// The last offset that the client has.
    #[serde(deserialize_with = "or_default")]
    pub offset: u64,
    /// Its epoch; empty for whichever is current.
    #[serde(deserialize_with = "or_default")]
    pub epoch: String,
}

fn is_default(overrides: &Overrides) -> bool {
    *overrides == Overrides::default()
}

/// A node, as operators see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeInfo {
    /// This life of its process, as the bus knows it.
    pub uid: Arc<str>,
    /// Its machine and port.
    pub name: Arc<str>,
    /// What it runs.
    pub version: Arc<str>,
    /// Connections.
    pub num_clients: u64,
    /// Different users of them.
    pub num_users: u64,
    /// Subscriptions.
    pub num_subs: u64,
    /// Different channels of them.
    pub num_channels: u64,
    /// For how many seconds it has been running.
    pub uptime: u64,
}

/// An order to every node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Control {
    /// Close the connections.
    Disconnect {
        /// Whose.
        whose: Whose,
        /// The close code of the Centrifuge protocol; on the Pusher wire the code of that protocol with the same consequence.
        code: u16,
        /// In words.
        reason: Arc<str>,
    },
    /// End subscriptions.
    Unsubscribe {
        /// Whose.
        whose: Whose,
        /// The channel; absent for all.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        channel: Option<Arc<str>>,
        /// From 2500 on the client subscribes again.
        code: u16,
        /// In words.
        reason: Arc<str>,
    },
    /// Subscribe connections to a channel.
    Subscribe {
        /// Whose.
        whose: Whose,
        /// The channel.
        channel: Arc<str>,
        /// What the subscriptions are to be beside that.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        terms: Option<Box<Subscribing>>,
    },
    /// Move the end of connections.
    Refresh {
        /// Whose.
        whose: Whose,
        /// The new end in seconds since 1970; absent: they end now.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        expire_at: Option<i64>,
    },
    /// Rights have changed: look again at what the subscribers may have.
    Recheck {
        /// Whose.
        whose: Whose,
    },
    /// Commands for a session on a transport of one direction.
    Emulate {
        /// The session, as its client knows it.
        session: SessionSecret,
        /// The commands, as text.
        data: String,
        /// Whom to tell when there is no such session; absent: nobody.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        from: Option<PostedBy>,
    },
    /// Commands from this address were for a session that is not there.
    Stray {
        /// As the node that is told counts it.
        address: IpAddr,
    },
    /// Say which connections there are.
    Survey {
        /// What the answers are to name.
        id: Arc<str>,
        /// The node that asks.
        from: Arc<str>,
        /// Whose.
        whose: Whose,
        /// Behind this client, in the order of their ids; absent: from the first on.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        after: Option<Arc<str>>,
        /// At most so many, the first of them.
        limit: u32,
    },
    /// The answer to a survey, of one node.
    Answer {
        /// The survey.
        id: Arc<str>,
        /// Who answers.
        node: Arc<str>,
        /// Connections, as many as were asked for or as a word holds.
        connections: Vec<ConnectionInfo>,
        /// There are more.
        more: bool,
        /// Shards of that node that did not answer in time.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        silent: Vec<u32>,
    },
    /// Say what the node has to do.
    Count {
        /// What the answers are to name.
        id: Arc<str>,
        /// The node that asks.
        from: Arc<str>,
    },
    /// The answer to that, of one node.
    Counted {
        /// The question.
        id: Arc<str>,
        /// The node.
        node: NodeInfo,
    },
    /// Tell from now on what the target does, until the lease that this word gives ends. Said again it gives another.
    Trace {
        /// What the answers are to name.
        id: Arc<str>,
        /// The node that asks.
        from: Arc<str>,
        /// Who asks, for the log.
        by: Arc<str>,
        /// What is traced.
        target: TraceTarget,
        /// How long the lease is.
        seconds: u32,
    },
    /// What happened at one node: lines that followed each other.
    Traced {
        /// The trace.
        id: Arc<str>,
        /// Who tells.
        node: Arc<str>,
        /// How much had happened there before these, told or not.
        before: u64,
        /// The lines; none: the node has heard of the trace, and nothing more has happened.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        lines: Vec<TraceLine>,
        /// The node follows too many already.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        refused: bool,
    },
    /// Nobody wants to hear of a trace any more.
    Untrace {
        /// The trace.
        id: Arc<str>,
    },
}

/// A connection, as operators see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionInfo {
    /// The session's id, as its client knows it.
    pub client: Arc<str>,
    /// The user; empty for nobody.
    pub user: Arc<str>,
    /// The wire that it speaks.
    pub wire: Arc<str>,
    /// For how many seconds it has been connected.
    pub age_seconds: u64,
    /// Bytes that wait for its socket.
    pub queue_bytes: u64,
    /// Its subscriptions.
    pub channels: Vec<Arc<str>>,
    /// How many more it has, where there was no room for their names.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub more_channels: u32,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes it so")]
const fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// Bytes that are no order, or one of a later version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an order that this version knows")]
pub struct ControlError;

impl Control {
    /// Whose sessions are meant, where it is about sessions of users.
    #[must_use]
    pub const fn whose(&self) -> Option<&Whose> {
        match self {
            Self::Disconnect { whose, .. }
            | Self::Unsubscribe { whose, .. }
            | Self::Subscribe { whose, .. }
            | Self::Refresh { whose, .. }
            | Self::Recheck { whose } => Some(whose),
            Self::Emulate { .. }
            | Self::Stray { .. }
            | Self::Survey { .. }
            | Self::Answer { .. }
            | Self::Count { .. }
            | Self::Counted { .. }
            | Self::Trace { .. }
            | Self::Traced { .. }
            | Self::Untrace { .. } => None,
        }
    }

    /// Whether it is between nodes, and no session hears of it.
    #[must_use]
    pub const fn is_letter(&self) -> bool {
        self.whose().is_none() && !matches!(self, Self::Emulate { .. })
    }

    /// As nodes say it.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        // Strings and numbers: this cannot fail.
        serde_json::to_vec(self).unwrap_or_default().into()
    }

    /// Reads what another node said.
    ///
    /// # Errors
    /// Anything else.
    pub fn decode(bytes: &[u8]) -> Result<Self, ControlError> {
        serde_json::from_slice(bytes).map_err(|_| ControlError)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channels::ClientName;

    /// Two versions of a node run side by side: the form stays as it is.
    #[test]
    fn the_form_is_that_of_every_version() {
        let connection = || ConnectionInfo {
            client: "c".into(),
            user: "u".into(),
            wire: "w".into(),
            age_seconds: 1,
            queue_bytes: 2,
            channels: vec!["x".into()],
            more_channels: 0,
        };
        let whose = || Whose { user: Some("u".into()), ..Whose::default() };
        let terms = Box::new(Subscribing {
            info: Some("{}".to_owned()),
            data: Some("1".to_owned()),
            expire_at: Some(7),
            since: Some(Since { offset: 3, epoch: "e".to_owned() }),
            overrides: Overrides { presence: Some(false), ..Overrides::default() },
        });
        let node = NodeInfo {
            uid: "n".into(),
            name: "h_1".into(),
            version: "v".into(),
            num_clients: 4,
            num_users: 3,
            num_subs: 2,
            num_channels: 1,
            uptime: 9,
        };
        let lines: Vec<TraceLine> = serde_json::from_str(r#"[{"event":"later","n":1.0}]"#).expect("lines");
        let told = |lines, refused| Control::Traced { id: "i".into(), node: "n".into(), before: 7, lines, refused };
        let all = Whose { client: ClientName::id("c"), except: vec!["d".into()], ..whose() };
        let secret = SessionSecret::new("s");
        let by_secret = Whose { client: Some(ClientName::of_session(&secret)), ..Whose::default() };
        for (order, form) in [
            (
                Control::Disconnect { whose: all, code: 3503, reason: "force disconnect".into() },
                r#"{"disconnect":{"whose":{"user":"u","client":"c","except":["d"]},"code":3503,"reason":"force disconnect"}}"#,
            ),
            (
                Control::Unsubscribe { whose: whose(), channel: Some("x".into()), code: 2000, reason: "r".into() },
                r#"{"unsubscribe":{"whose":{"user":"u"},"channel":"x","code":2000,"reason":"r"}}"#,
            ),
            (
                Control::Subscribe { whose: whose(), channel: "x".into(), terms: None },
                r#"{"subscribe":{"whose":{"user":"u"},"channel":"x"}}"#,
            ),
            (
                Control::Subscribe { whose: whose(), channel: "x".into(), terms: Some(terms) },
                r#"{"subscribe":{"whose":{"user":"u"},"channel":"x","terms":{"info":"{}","data":"1","expire_at":7,"since":{"offset":3,"epoch":"e"},"override":{"presence":{"value":false}}}}}"#,
            ),
            (Control::Count { id: "i".into(), from: "n".into() }, r#"{"count":{"id":"i","from":"n"}}"#),
            (
                Control::Counted { id: "i".into(), node },
                r#"{"counted":{"id":"i","node":{"uid":"n","name":"h_1","version":"v","num_clients":4,"num_users":3,"num_subs":2,"num_channels":1,"uptime":9}}}"#,
            ),
            (
                Control::Refresh { whose: whose(), expire_at: Some(1) },
                r#"{"refresh":{"whose":{"user":"u"},"expire_at":1}}"#,
            ),
            (Control::Recheck { whose: Whose::default() }, r#"{"recheck":{"whose":{}}}"#),
            (Control::Recheck { whose: by_secret }, r#"{"recheck":{"whose":{"client":"session:s"}}}"#),
            (
                Control::Emulate { session: secret.clone(), data: "{}".to_owned(), from: None },
                r#"{"emulate":{"session":"s","data":"{}"}}"#,
            ),
            (
                Control::Emulate {
                    session: secret.clone(),
                    data: "{}".to_owned(),
                    from: Some(PostedBy { node: "n".into(), address: [192, 0, 2, 1].into() }),
                },
                r#"{"emulate":{"session":"s","data":"{}","from":{"node":"n","address":"192.0.2.1"}}}"#,
            ),
            (
                Control::Stray { address: "2001:db8::".parse().expect("an address") },
                r#"{"stray":{"address":"2001:db8::"}}"#,
            ),
            (
                Control::Survey { id: "i".into(), from: "n".into(), whose: whose(), after: None, limit: 5 },
                r#"{"survey":{"id":"i","from":"n","whose":{"user":"u"},"limit":5}}"#,
            ),
            (
                Control::Survey { id: "i".into(), from: "n".into(), whose: whose(), after: Some("c".into()), limit: 5 },
                r#"{"survey":{"id":"i","from":"n","whose":{"user":"u"},"after":"c","limit":5}}"#,
            ),
            (
                Control::Answer {
                    id: "i".into(),
                    node: "n".into(),
                    connections: vec![ConnectionInfo { channels: vec![], more_channels: 7, ..connection() }],
                    more: false,
                    silent: vec![],
                },
                r#"{"answer":{"id":"i","node":"n","connections":[{"client":"c","user":"u","wire":"w","age_seconds":1,"queue_bytes":2,"channels":[],"more_channels":7}],"more":false}}"#,
            ),
            (
                Control::Answer {
                    id: "i".into(),
                    node: "n".into(),
                    connections: vec![connection()],
                    more: true,
                    silent: vec![],
                },
                r#"{"answer":{"id":"i","node":"n","connections":[{"client":"c","user":"u","wire":"w","age_seconds":1,"queue_bytes":2,"channels":["x"]}],"more":true}}"#,
            ),
            (
                Control::Answer { id: "i".into(), node: "n".into(), connections: vec![], more: false, silent: vec![1] },
                r#"{"answer":{"id":"i","node":"n","connections":[],"more":false,"silent":[1]}}"#,
            ),
            (
                Control::Trace {
                    id: "i".into(),
                    from: "n".into(),
                    by: "o".into(),
                    target: TraceTarget::User("u".into()),
                    seconds: 9,
                },
                r#"{"trace":{"id":"i","from":"n","by":"o","target":{"user":"u"},"seconds":9}}"#,
            ),
            (told(lines, false), r#"{"traced":{"id":"i","node":"n","before":7,"lines":[{"event":"later","n":1.0}]}}"#),
            (told(vec![], true), r#"{"traced":{"id":"i","node":"n","before":7,"refused":true}}"#),
            (Control::Untrace { id: "i".into() }, r#"{"untrace":{"id":"i"}}"#),
        ] {
            assert_eq!(order.encode(), form);
            assert_eq!(Control::decode(form.as_bytes()), Ok(order));
        }
        // A node of the version before passes over what it does not know, and makes the subscription without.
        let empty = r#"{"subscribe":{"whose":{},"channel":"x","terms":{"later":1}}}"#;
        let Ok(Control::Subscribe { terms, .. }) = Control::decode(empty.as_bytes()) else { panic!("an order") };
        assert_eq!(terms.as_deref(), Some(&Subscribing::default()));
        // Not everybody, because it does not know who is meant.
        let narrower = br#"{"disconnect":{"whose":{"later":"x"},"code":3503,"reason":"r"}}"#;
        for unknown in [&br#"{"later":{}}"#[..], b"", b"[]", b"{}", narrower] {
            assert!(Control::decode(unknown).is_err());
        }
    }
}
