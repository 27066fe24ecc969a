//! What a refused call is told. The libraries read the status; the text is for whoever looks for the reason.

use std::time::Duration;

use axum::http::StatusCode;
use dzvin_actors::platform::ports::BusError;
use dzvin_protocols::channels::pusher::http_api::{ApiError, SignatureError};

use crate::platform::http::Problem;

/// A call that is not signed as it should be. The texts name no secret, and not the key that was tried.
pub(super) fn unsigned(error: SignatureError) -> Problem {
    match error.status() {
        401 => Problem::unsigned(error.to_string()),
        _ => Problem::bad_request("bad_request", error.to_string()),
    }
}

/// There is no such application: to an outsider the same as a wrong signature.
pub(super) fn unknown_app() -> Problem {
    Problem::unsigned("there is no application of this id")
}

/// The application is switched off.
pub(super) fn disabled() -> Problem {
    Problem::new(StatusCode::FORBIDDEN, "app_disabled", "the application is disabled")
}

/// A call that cannot be done.
#[allow(clippy::needless_pass_by_value, reason = "called as map_err calls it")]
pub(super) fn refused(error: ApiError) -> Problem {
    match error.status() {
        413 => Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "event_too_large", error.to_string()),
        _ => Problem::bad_request("bad_request", error.to_string()),
    }
}

/// Some of the events may have been published, and perhaps all of them.
pub(super) fn unpublished(error: BusError) -> Problem {
    let text = "the bus did not confirm every event; try again soon";
    Problem::unavailable("bus_unavailable", text).caused_by(error)
}

/// A channel has had as many events as it may have. Those before it may have been published.
pub(super) fn too_often(wait: Duration) -> Problem {
    let text = "a channel has had as many events as it may have; what stands before it was published";
    Problem::new(StatusCode::TOO_MANY_REQUESTS, "too_many_publications", text).retry_after(wait)
}

/// One request has more events for a channel than it may have in a second. Nothing of it was published.
pub(super) fn above_pace(channel: &str, per_second: u32) -> Problem {
    let text = format!(
        "more than {per_second} events for {channel}, which may have so many in a second: together they never pass, send fewer at once"
    );
    Problem::bad_request("batch_above_pace", text)
}

/// More than an answer holds.
pub(super) fn too_many(what: String) -> Problem {
    Problem::bad_request("too_many", what)
}
