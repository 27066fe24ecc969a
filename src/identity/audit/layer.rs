//! What every request passes through: who it is refused to, and what.

use std::sync::{Arc, OnceLock};

use axum::{
    RequestExt,
    extract::{MatchedPath, RawPathParams, Request, State},
    http::StatusCode,
    middleware::Next,
    response::Response,
};

use super::{DONE, Notes, Who, actions, notes::Note};
use crate::platform::http::ProblemCode;

/// Where whoever learns more of a request than its answer shows says so; an extension of requests.
#[derive(Debug, Clone)]
pub struct Slot {
    who: Arc<OnceLock<Who>>,
    notes: Notes,
}

impl Slot {
    /// Says who it is. Once: the first word counts.
    pub fn tell(&self, who: &Who) {
        let _ = self.who.set(who.clone());
    }

    /// Says that one of several things was refused which were asked for together, where that is told.
    pub fn refuse(&self, action: &'static str, object: &str, code: &str, status: StatusCode) {
        if let (Some(who), Some(outcome)) = (self.who.get(), outcome(action, status, code)) {
            self.notes.take(Note { who, action, object, outcome, status: Some(status.as_u16()) });
        }
    }
}

/// Notes what a request was refused, and what it has done where no transaction tells of it.
pub async fn note(State(notes): State<Notes>, mut request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().map_or("", MatchedPath::as_str);
    let action = actions::of(request.method(), route, request.uri().query().unwrap_or_default());
    let Some(action) = action else { return next.run(request).await };
    let params = request.extract_parts::<RawPathParams>().await;
    let object = params.map(|all| object(&all, action)).unwrap_or_default();
    let slot = Slot { who: Arc::default(), notes };
    let stranger = Who::of(request.extensions());
    request.extensions_mut().insert(slot.clone());
    let response = next.run(request).await;
    let status = response.status();
    let code = response.extensions().get::<ProblemCode>().map_or("refused", |code| code.0);
    if let Some(outcome) = outcome(action, status, code) {
        let who = slot.who.get().unwrap_or(&stranger);
        slot.notes.take(Note { who, action, object: &object, outcome, status: Some(status.as_u16()) });
    }
    response
}

/// What it was asked of, such as `deal/42`.
fn object(params: &RawPathParams, action: &str) -> String {
    let named = if action == actions::BULK { 1 } else { usize::MAX };
    params.iter().map(|(_, value)| value).take(named).collect::<Vec<_>>().join("/")
}

fn outcome<'a>(action: &str, status: StatusCode, code: &'a str) -> Option<&'a str> {
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::TOO_MANY_REQUESTS => Some(code),
        StatusCode::CONFLICT | StatusCode::PRECONDITION_FAILED | StatusCode::PRECONDITION_REQUIRED
            if !actions::only_looks(action) =>
        {
            Some(code)
        }
        _ if status.is_success() && actions::is_told_when_done(action) => Some(DONE),
        _ => None,
    }
}
