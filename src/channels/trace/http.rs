//! The resource: who may ask, for what, for how long, and in which form the lines go out.

use std::{sync::Arc, time::Duration};

use axum::{
    Extension, Router,
    body::Body,
    extract::{Query, State},
    http::{HeaderMap, HeaderName, HeaderValue, header},
    response::Response,
    routing::get,
};
use dzvin_protocols::{
    channels::{MAX_CHANNEL, ONLINE_PREFIX, TraceTarget},
    identity::MAX_SUBJECT,
};
use futures_util::stream;
use serde::Deserialize;

use super::{
    Traces,
    ask::{Asked, Form},
    rights::{Rights, permission},
};
use crate::{
    identity::{Caller, Verifier, bearer},
    platform::http::Problem,
};

/// How long a trace lasts when nobody says.
const DEFAULT_SECONDS: u64 = 600;
/// How long it may last: whoever needs more asks again, and is in the log again.
const MAX_SECONDS: u64 = 3_600;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    user: Option<String>,
    channel: Option<String>,
    seconds: Option<u64>,
}

impl Wanted {
    fn target(self) -> Result<(TraceTarget, Duration), Problem> {
        let seconds = self.seconds.unwrap_or(DEFAULT_SECONDS);
        if !(1..=MAX_SECONDS).contains(&seconds) {
            return Err(Problem::bad_request("bad_parameter", format!("seconds is 1 to {MAX_SECONDS}")));
        }
        let target = match (self.user, self.channel) {
            (Some(user), None) if (1..=MAX_SUBJECT).contains(&user.len()) => TraceTarget::User(user.into()),
            // Whether somebody is online is said on no channel that anybody has.
            (None, Some(channel))
                if (1..=MAX_CHANNEL).contains(&channel.len()) && !channel.starts_with(ONLINE_PREFIX) =>
            {
                TraceTarget::Channel(channel.into())
            }
            _ => {
                let detail = "expected either user or channel, by the name that it has inside the hub";
                return Err(Problem::bad_request("bad_parameter", detail));
            }
        };
        Ok((target, Duration::from_secs(seconds)))
    }
}

/// The resource.
pub fn router(traces: Traces) -> Router {
    Router::new().route("/api/v1/trace", get(trace)).with_state(traces)
}

async fn trace(
    State(traces): State<Traces>,
    caller: Caller,
    Extension(verifier): Extension<Arc<Verifier>>,
    headers: HeaderMap,
    Query(wanted): Query<Wanted>,
) -> Result<Response, Problem> {
    let (target, lasts) = wanted.target()?;
    let (action, object) = permission(&target);
    caller.require("trace", action, object)?;
    let token = bearer(&headers).ok_or_else(Problem::unauthorized)?.to_owned();
    let events = headers.get(header::ACCEPT).is_some_and(|accept| accept.as_bytes().starts_with(b"text/event-stream"));
    let (form, kind) =
        if events { (Form::Events, "text/event-stream; charset=utf-8") } else { (Form::Lines, "application/x-ndjson") };
    let rights = Rights { verifier, token, user: caller.user, mark: caller.mark, target };
    let pieces = traces.ask(Asked { rights, lasts, form }).await?;
    let pieces = stream::unfold(pieces, |mut pieces| async move {
        let piece = pieces.recv().await?;
        Some((Ok::<_, std::convert::Infallible>(piece), pieces))
    });
    let mut response = Response::new(Body::from_stream(pieces));
    // Nobody on the way may keep, join or compress what is to be read at once.
    for (name, value) in [
        (header::CONTENT_TYPE, kind),
        (header::CACHE_CONTROL, "private, no-cache, no-store, no-transform, must-revalidate"),
        (HeaderName::from_static("x-accel-buffering"), "no"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_target_and_a_time_within_reason() {
        let wanted = |user: Option<&str>, channel: Option<&str>, seconds| {
            let (user, channel) = (user.map(str::to_owned), channel.map(str::to_owned));
            Wanted { user, channel, seconds }.target().map_err(|problem| problem.code())
        };
        assert_eq!(
            wanted(Some("u"), None, None),
            Ok((TraceTarget::User("u".into()), Duration::from_secs(DEFAULT_SECONDS)))
        );
        assert_eq!(wanted(None, Some("x"), Some(1)), Ok((TraceTarget::Channel("x".into()), Duration::from_secs(1))));
        let long = "x".repeat(MAX_CHANNEL + 1);
        for (user, channel, seconds) in [
            (None, None, None),
            (Some("u"), Some("x"), None),
            (Some(""), None, None),
            (None, Some(&*long), None),
            (Some("u"), None, Some(0)),
            (Some("u"), None, Some(MAX_SECONDS + 1)),
        ] {
            assert_eq!(wanted(user, channel, seconds), Err("bad_parameter"), "{user:?} {channel:?} {seconds:?}");
        }
    }
}
