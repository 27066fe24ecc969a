//! Pusher's protocol.

use super::{Data, Heard, Of, Signed};
use crate::soak::ledger::Joined;
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;

#[derive(Deserialize)]
struct Event<'a> {
    event: String,
    #[serde(default)]
    channel: String,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Established {
    socket_id: String,
}

#[derive(Deserialize)]
struct Refusal {
    #[serde(alias = "status")]
    code: Option<u32>,
}

/// `pusher:subscribe`.
pub(super) fn subscribe(channel: &str, signed: Option<&Signed>) -> Vec<u8> {
    let mut data = json!({"channel": channel, "auth": signed.map_or("", |it| it.auth.as_str())});
    if let Some(said) = signed.and_then(|it| it.channel_data.as_ref()) {
        data["channel_data"] = json!(said);
    }
    json!({"event": "pusher:subscribe", "data": data}).to_string().into_bytes()
}

/// One event.
pub(super) fn hear(text: &[u8]) -> Result<Heard, String> {
    let event: Event<'_> = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    let data = event.data.map_or("{}", RawValue::get);
    Ok(match event.event.as_str() {
        "pusher:ping" => Heard::Ping(br#"{"event":"pusher:pong","data":{}}"#.to_vec()),
        "pusher:connection_established" => Heard::Welcome(within::<Established>(data)?.socket_id),
        "pusher_internal:subscription_succeeded" => Heard::Joined(Of::Channel(event.channel), Joined::default()),
        "pusher:subscription_error" => {
            Heard::Refused { of: Of::Channel(event.channel), code: within::<Refusal>(data)?.code.unwrap_or(0) }
        }
        "pusher:error" => Heard::Refused { of: Of::Command(0), code: within::<Refusal>(data)?.code.unwrap_or(0) },
        name if name.starts_with("pusher") => Heard::Other,
        _ => Heard::Publication(event.channel, within::<Data>(data)?.publication(0)),
    })
}

/// Data are JSON, or JSON within a string of JSON.
fn within<T: serde::de::DeserializeOwned>(data: &str) -> Result<T, String> {
    let inner = if data.starts_with('"') { serde_json::from_str(data) } else { Ok(data.to_owned()) };
    inner.and_then(|inner| serde_json::from_str(&inner)).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::soak::ledger::Publication;

    #[test]
    fn what_matters_is_read() {
        let heard = |text: &str| hear(text.as_bytes()).unwrap();
        assert_eq!(
            heard(
                r#"{"event":"pusher:connection_established","data":"{\"socket_id\":\"1.2\",\"activity_timeout\":120}"}"#
            ),
            Heard::Welcome("1.2".to_owned())
        );
        assert_eq!(
            heard(r#"{"event":"pusher_internal:subscription_succeeded","channel":"c","data":"{}"}"#),
            Heard::Joined(Of::Channel("c".to_owned()), Joined::default())
        );
        let publication = Publication { offset: 0, number: 3, mark: 3 };
        for data in [r#"{"n":3}"#, r#""{\"n\":3}""#] {
            let text = format!(r#"{{"event":"x","channel":"c","data":{data}}}"#);
            assert_eq!(heard(&text), Heard::Publication("c".to_owned(), publication));
        }
        assert!(matches!(heard(r#"{"event":"pusher:ping","data":{}}"#), Heard::Ping(_)));
        let refused = Heard::Refused { of: Of::Channel("c".to_owned()), code: 401 };
        assert_eq!(
            heard(r#"{"event":"pusher:subscription_error","channel":"c","data":{"type":"AuthError","status":401}}"#),
            refused
        );
        assert_eq!(
            heard(r#"{"event":"pusher:error","data":{"code":null}}"#),
            Heard::Refused { of: Of::Command(0), code: 0 }
        );
        assert!(hear(b"[]").is_err());
    }

    #[test]
    fn a_signature_is_shown() {
        let signed = Signed { auth: "k:s".to_owned(), channel_data: Some("{}".to_owned()) };
        let said: serde_json::Value = serde_json::from_slice(&subscribe("private-x", Some(&signed))).unwrap();
        assert_eq!((&said["data"]["auth"], &said["data"]["channel_data"]), (&json!("k:s"), &json!("{}")));
    }
}
