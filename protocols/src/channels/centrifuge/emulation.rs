//! What a client of a one-directional transport says by requests of their own: its commands, and for which session they are.
//!
//! Invariant: the session's name is a secret of the client's, so nothing here shows it.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD as BASE64};
use bytes::Bytes;
use prost::Message as _;
use serde::Deserialize;

use super::Form;

/// The body of `POST /emulation`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
#[prost(skip_debug)]
pub struct EmulationRequest {
    /// The node that has the session.
    #[prost(string, tag = "1")]
    pub node: String,
    /// The session.
    #[prost(string, tag = "2")]
    pub session: String,
    /// Commands in the session's form.
    #[prost(bytes = "bytes", tag = "3")]
    pub data: Bytes,
}

/// The same in JSON, where the commands are a text and not a value: there may be several, in lines.
#[derive(Deserialize)]
struct InJson {
    node: String,
    session: String,
    data: String,
}

/// The body is not of the form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an emulation request")]
pub struct EmulationError;

impl fmt::Debug for EmulationRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmulationRequest")
            .field("node", &self.node)
            .field("bytes", &self.data.len())
            .finish_non_exhaustive()
    }
}

impl EmulationRequest {
    /// Reads a body.
    ///
    /// # Errors
    /// Anything else.
    pub fn parse(form: Form, body: Bytes) -> Result<Self, EmulationError> {
        match form {
            Form::Protobuf => Self::decode(body).map_err(|_| EmulationError),
            Form::Json => {
                let InJson { node, session, data } = serde_json::from_slice(&body).map_err(|_| EmulationError)?;
                Ok(Self { node, session, data: data.into() })
            }
        }
    }
}

/// Commands as nodes hand them to each other: as text. `None` when they are not of the form.
#[must_use]
pub fn pack_commands(form: Form, commands: Bytes) -> Option<String> {
    match form {
        Form::Json => String::from_utf8(commands.into()).ok(),
        Form::Protobuf => Some(BASE64.encode(commands)),
    }
}

/// What [`pack_commands`] made of commands, turned back. `None` when it was made for another form.
#[must_use]
pub fn unpack_commands(form: Form, text: &str) -> Option<Bytes> {
    match form {
        Form::Json => Some(Bytes::copy_from_slice(text.as_bytes())),
        Form::Protobuf => BASE64.decode(text).ok().map(Bytes::from),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_read_and_nothing_else() {
        let json = br#"{"session":"s","node":"n","data":"{\"id\":1}\n{}","later":1}"#;
        let read = EmulationRequest::parse(Form::Json, Bytes::from_static(json)).expect("json");
        assert_eq!((&*read.session, &*read.node, &read.data[..]), ("s", "n", &b"{\"id\":1}\n{}"[..]));
        let binary = EmulationRequest { node: "n".into(), session: "s".into(), data: Bytes::from_static(&[0, 255]) };
        // As npm `centrifuge` writes it.
        let wire = [10, 1, b'n', 18, 1, b's', 26, 2, 0, 255];
        assert_eq!(binary.encode_to_vec(), wire);
        assert_eq!(EmulationRequest::parse(Form::Protobuf, Bytes::copy_from_slice(&wire)), Ok(binary));
        for bad in [
            &b""[..],
            b"{}",
            b"[]",
            b"null",
            br#"{"session":"s","node":"n"}"#,
            br#"{"session":"s","node":"n","data":{"id":1}}"#,
            br#"{"session":1,"node":"n","data":""}"#,
            b"{\"session\":\"s\",\"node\":\"n\",\"data\":\"\xff\"}",
        ] {
            assert_eq!(EmulationRequest::parse(Form::Json, Bytes::copy_from_slice(bad)), Err(EmulationError));
        }
        for bad in [&[10, 200, 1][..], &[255], &[10, 1, 0xff]] {
            assert_eq!(EmulationRequest::parse(Form::Protobuf, Bytes::copy_from_slice(bad)), Err(EmulationError));
        }
    }

    #[test]
    fn commands_travel_as_text_and_the_secret_is_not_shown() {
        let bytes = Bytes::from_static(&[0, 1, 254, 255]);
        assert_eq!(pack_commands(Form::Json, bytes.clone()), None);
        let text = pack_commands(Form::Protobuf, bytes.clone()).expect("any bytes");
        assert_eq!(unpack_commands(Form::Protobuf, &text), Some(bytes));
        assert_eq!(unpack_commands(Form::Protobuf, "{}"), None);
        let said = Bytes::from("{\"їжак\":1}");
        let text = pack_commands(Form::Json, said.clone()).expect("text");
        assert_eq!(unpack_commands(Form::Json, &text), Some(said));
        let request = EmulationRequest { session: "a-secret".into(), ..EmulationRequest::default() };
        assert!(!format!("{request:?}").contains("secret"));
    }
}
