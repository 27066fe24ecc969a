//! What a client says and hears in each dialect.

use super::seal::APP;
use crate::realtime::orders::Dialect;
use crate::realtime::wire;
use memchr::memmem;
use serde_json::json;

/// What a line of a server means to a client.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// Perhaps publications.
    Other,
    /// A ping, to be answered by these bytes.
    Ping(&'static str),
    /// It is time to say this.
    Say(Vec<u8>),
    /// Subscribed.
    Joined,
    /// Not let in.
    Refused,
}

/// All that a client sends at once when it connects.
pub(crate) fn first(dialect: Dialect, host: &str, channel: &str, token: Option<&str>) -> Vec<u8> {
    match dialect {
        Dialect::Centrifuge => {
            let mut bytes = wire::upgrade(host, "/connection/websocket").into_bytes();
            let connect = json!({"id": 1, "connect": token.map_or(json!({}), |token| json!({"token": token}))});
            let subscribe = json!({"id": 2, "subscribe": {"channel": channel}});
            wire::client_frame(wire::TEXT, format!("{connect}\n{subscribe}").as_bytes(), &mut bytes);
            bytes
        }
        Dialect::Raw => wire::upgrade(host, &format!("/sub/{channel}")).into_bytes(),
        Dialect::Pusher => wire::upgrade(host, &format!("/app/{APP}?protocol=7&client=bench&version=1.0")).into_bytes(),
    }
}

/// Whether the answer to the upgrade is all that there is to wait for.
pub(crate) fn joined_by_upgrade(dialect: Dialect) -> bool {
    dialect == Dialect::Raw
}

/// Reads a line. Once a client has joined only pings matter.
pub(crate) fn hear(dialect: Dialect, line: &[u8], joined: bool, channel: impl FnOnce() -> String) -> Heard {
    let has = |what: &str| memmem::find(line, what.as_bytes()).is_some();
    match dialect {
        _ if line == b"{}" => Heard::Ping("{}"),
        Dialect::Pusher if line.len() < 64 && has("pusher:ping") => {
            Heard::Ping("{\"event\":\"pusher:pong\",\"data\":{}}")
        }
        _ if joined => Heard::Other,
        Dialect::Centrifuge if has("\"error\"") && has("\"id\"") => Heard::Refused,
        Dialect::Centrifuge if has("\"id\":2") => Heard::Joined,
        Dialect::Pusher if has("pusher:connection_established") => {
            let subscribe = json!({"event": "pusher:subscribe", "data": {"channel": channel(), "auth": ""}});
            let mut frame = Vec::new();
            wire::client_frame(wire::TEXT, subscribe.to_string().as_bytes(), &mut frame);
            Heard::Say(frame)
        }
        Dialect::Pusher if has("subscription_succeeded") => Heard::Joined,
        Dialect::Pusher if has("pusher:error") || has("subscription_error") => Heard::Refused,
        _ => Heard::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn centrifuge(line: &str, joined: bool) -> Heard {
        hear(Dialect::Centrifuge, line.as_bytes(), joined, String::new)
    }

    #[test]
    fn centrifuge_is_understood() {
        assert_eq!(centrifuge("{}", false), Heard::Ping("{}"));
        assert_eq!(centrifuge("{}", true), Heard::Ping("{}"));
        assert_eq!(centrifuge(r#"{"id":1,"connect":{"client":"a"}}"#, false), Heard::Other);
        assert_eq!(centrifuge(r#"{"id":2,"subscribe":{}}"#, false), Heard::Joined);
        assert_eq!(centrifuge(r#"{"id":2,"error":{"code":103,"message":"no"}}"#, false), Heard::Refused);
        assert_eq!(centrifuge(r#"{"push":{"pub":{"data":{"id":2}}}}"#, true), Heard::Other);
        let sent = first(Dialect::Centrifuge, "h", "a", Some("t"));
        assert!(sent.starts_with(b"GET /connection/websocket HTTP/1.1\r\n"));
    }

    #[test]
    fn pusher_is_understood() {
        let hear = |line: &str| hear(Dialect::Pusher, line.as_bytes(), false, || "a".to_owned());
        assert!(matches!(hear(r#"{"event":"pusher:connection_established","data":"{}"}"#), Heard::Say(_)));
        assert_eq!(hear(r#"{"event":"pusher_internal:subscription_succeeded","channel":"a"}"#), Heard::Joined);
        assert!(matches!(hear(r#"{"event":"pusher:ping","data":{}}"#), Heard::Ping(_)));
        assert_eq!(hear(r#"{"event":"pusher:error","data":{"code":4009}}"#), Heard::Refused);
    }
}
