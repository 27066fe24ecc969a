//! `POST /emulation`: commands of a client whose connection only carries answers. Whichever node gets them hands them to the
//! one that has the session.

use std::sync::Arc;

use axum::{
    Extension,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode},
};
use dzvin_actors::{
    channels::{MAX_POSTED, MailboxError},
    platform::ports::Bus,
};
use dzvin_protocols::channels::{
    Control, PostedBy,
    centrifuge::{EmulationRequest, pack_commands},
};

use super::{Transports, form_of};
use crate::{
    channels::bus::MAX_LETTER,
    platform::http::{ClientAddress, Problem},
};

/// Names of nodes and sessions are our own: 128 bits in hexadecimal. Nothing else is looked for.
const NAME: usize = 32;

pub(super) async fn emulate(
    State(transports): State<Arc<Transports>>,
    client: Option<Extension<ClientAddress>>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<StatusCode, Problem> {
    let client = client.map(|Extension(client)| client);
    transports.endpoint.check_origin(&headers)?;
    transports.refusals.admit(client)?;
    let answer = hand_over(&transports, client, &headers, body).await;
    if answer.as_ref().is_err_and(|problem| problem.status().is_client_error()) {
        transports.refusals.count(client);
    }
    answer
}

async fn hand_over(
    transports: &Transports,
    client: Option<ClientAddress>,
    headers: &HeaderMap,
    body: Bytes,
) -> Result<StatusCode, Problem> {
    let form = form_of(headers);
    let malformed = || Problem::bad_request("bad_request", "the body must be session, node and data");
    let EmulationRequest { node, session, data } = EmulationRequest::parse(form, body).map_err(|_| malformed())?;
    let commands = pack_commands(form, data).ok_or_else(malformed)?;
    if !is_name(&node) || !is_name(&session) {
        return Err(unknown());
    }
    // Whichever node has the session: what a message may be is known already, and this is what a mailbox takes.
    if commands.len() > MAX_POSTED {
        return Err(too_long());
    }
    if node == transports.bus.node() {
        return match transports.mailboxes.deliver(&session, commands) {
            Ok(()) => Ok(StatusCode::NO_CONTENT),
            Err(MailboxError::Unknown) => Err(unknown()),
            // The client library begins anew, where it would wait for an answer that never comes.
            Err(error @ MailboxError::Full) => {
                Err(Problem::unavailable("session_busy", "the session has not dealt with earlier commands")
                    .caused_by(error))
            }
        };
    }
    let from = client.map(|client| PostedBy { node: transports.bus.node().into(), address: client.counted() });
    let word = Control::Emulate { session: session.into(), data: commands, from }.encode();
    // Control characters are six bytes each between nodes, but there are none in commands.
    if word.len() > MAX_LETTER {
        return Err(too_long());
    }
    match transports.bus.tell(Some(&node), word).await {
        // That node has it. Should it not know the session, the client's stream has ended, which it sees itself; and this node is
        // told, for whoever guesses is counted here.
        Ok(true) => Ok(StatusCode::NO_CONTENT),
        Ok(false) => Err(unknown()),
        Err(error) => Err(Problem::from(error)),
    }
}

fn too_long() -> Problem {
    let detail =
        "these commands are more than a session takes at once (1 MiB, bytes as base64): send fewer, or smaller ones";
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "commands_too_large", detail)
}

fn unknown() -> Problem {
    Problem::not_found("session_unknown", "there is no such session; connect again")
}

fn is_name(name: &str) -> bool {
    name.len() == NAME && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}
