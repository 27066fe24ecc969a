//! `/api/v1/revocations`: taking tokens back and keeping users out, for whoever has `identity:revoke:*`.

use axum::{
    Json, Router,
    extract::{Path, Query, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{delete, get},
};
use dzvin_protocols::{
    identity::{MAX_JTI, MAX_SUBJECT},
    platform::time::rfc3339_millis,
};
use serde::{Deserialize, Serialize};
use time::{Duration, OffsetDateTime};

use super::{Asked, Kind, MAX_REASON, MAX_REVOCATIONS, RevocationStore, Row};
use crate::{identity::Caller, platform::http::Problem};

/// How long a revocation without an end lasts: longer than the longest token that we make.
const LASTS: Duration = Duration::days(367);
/// How far ahead `issued_before` may lie: as far as clocks may be wrong. Whoever wants more wants a block.
const AHEAD: Duration = Duration::hours(1);
/// Revocations on a page.
const PAGE: i64 = 100;

/// The resource.
pub fn router(store: RevocationStore) -> Router {
    Router::new()
        .route("/api/v1/revocations", get(list).post(add))
        .route("/api/v1/revocations/{id}", delete(lift))
        .with_state(store)
}

fn permitted(caller: &Caller) -> Result<(), Problem> {
    caller.require("identity", "revoke", "*")
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    token: Option<String>,
    user: Option<String>,
    #[serde(default)]
    block: bool,
    #[serde(default, with = "time::serde::rfc3339::option")]
    issued_before: Option<OffsetDateTime>,
    #[serde(default, with = "time::serde::rfc3339::option")]
    expires_at: Option<OffsetDateTime>,
    reason: Option<String>,
}

fn bad(detail: impl Into<String>) -> Problem {
    Problem::unprocessable("bad_revocation", detail)
}

impl Wanted {
    fn asked(self, now: OffsetDateTime) -> Result<Asked, Problem> {
        let Self { token, user, block, issued_before, expires_at, reason } = self;
        let (kind, subject) = match (token, user, block) {
            (Some(token), None, false) if issued_before.is_none() => (Kind::Token, token),
            (None, Some(user), false) => (Kind::User, user),
            (None, Some(user), true) if issued_before.is_none() => (Kind::Block, user),
            _ => return Err(bad("expected token, or user, or user with block; issued_before goes with user alone")),
        };
        let most = if kind == Kind::Token { MAX_JTI } else { MAX_SUBJECT };
        if subject.is_empty() || subject.len() > most || subject.chars().any(char::is_control) {
            return Err(bad(format!("token and user are 1 to {most} bytes without control characters")));
        }
        // Stored as it is, and shown in lists: a secret is neither.
        if kind == Kind::Token && subject.starts_with("eyJ") && subject.contains('.') {
            return Err(bad("token is the name of a token, which is its claim jti, and never the token itself"));
        }
        let plain = |reason: &String| reason.len() <= MAX_REASON && !reason.contains('\0');
        if !reason.as_ref().is_none_or(plain) {
            return Err(bad(format!("a reason is up to {MAX_REASON} bytes")));
        }
        if expires_at.is_some_and(|at| at <= now) {
            return Err(bad("expires_at is past"));
        }
        if issued_before.is_some_and(|at| at > now + AHEAD) {
            return Err(bad("issued_before is ahead; to keep a user out, ask for a block"));
        }
        // Tokens say when they were made in whole seconds: those of this very second are meant as well.
        let issued_before = (kind == Kind::User).then(|| {
            let whole = |at: OffsetDateTime| at.replace_nanosecond(0).unwrap_or(at);
            issued_before.map_or(whole(now) + Duration::seconds(1), |at| {
                if whole(at) == at { at } else { whole(at) + Duration::seconds(1) }
            })
        });
        let expires_at = match kind {
            Kind::Block => expires_at,
            Kind::Token | Kind::User => Some(expires_at.unwrap_or(now + LASTS)),
        };
        Ok(Asked { kind, subject, issued_before, expires_at, reason })
    }
}

#[derive(Serialize)]
struct Item {
    id: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<String>,
    block: bool,
    issued_before: Option<String>,
    expires_at: Option<String>,
    reason: Option<String>,
    created_at: String,
    created_by: String,
}

impl From<Row> for Item {
    fn from(row: Row) -> Self {
        let (token, user) = match row.kind {
            Kind::Token => (Some(row.subject), None),
            Kind::User | Kind::Block => (None, Some(row.subject)),
        };
        Self {
            id: row.id,
            token,
            user,
            block: row.kind == Kind::Block,
            issued_before: row.issued_before.map(rfc3339_millis),
            expires_at: row.expires_at.map(rfc3339_millis),
            reason: row.reason,
            created_at: rfc3339_millis(row.created_at),
            created_by: row.created_by,
        }
    }
}

async fn add(
    State(store): State<RevocationStore>,
    caller: Caller,
    Json(wanted): Json<Wanted>,
) -> Result<Response, Problem> {
    permitted(&caller)?;
    let asked = wanted.asked(OffsetDateTime::now_utc())?;
    if store.known.len() >= MAX_REVOCATIONS {
        let detail = format!("there are {MAX_REVOCATIONS} already: lift some, or rotate the key");
        return Err(Problem::conflict("too_many_revocations", detail));
    }
    let row = store.add(&asked, &caller.user, Some(&caller.who)).await?;
    // The span of the request says who did it.
    tracing::info!(id = row.id, kind = row.kind.name(), "tokens are revoked");
    Ok((StatusCode::CREATED, Json(Item::from(row))).into_response())
}

async fn list(
    State(store): State<RevocationStore>,
    Query(pairs): Query<Vec<(String, String)>>,
    caller: Caller,
) -> Result<Response, Problem> {
    permitted(&caller)?;
    let (mut below, mut only) = (i64::MAX, None);
    for (name, value) in pairs {
        match name.as_str() {
            "cursor" => below = value.parse().map_err(|_| unreadable("cursor"))?,
            "token" | "user" if value.contains('\0') => return Err(unreadable("token and user")),
            "token" => only = Some((&["token"][..], value)),
            "user" => only = Some((&["user", "block"][..], value)),
            _ => return Err(unreadable("only cursor, token and user are known: this")),
        }
    }
    let mut rows = match &only {
        Some((kinds, subject)) => store.of(kinds, subject).await?,
        None => store.list(below, PAGE + 1).await?,
    };
    let more = rows.len() as i64 > PAGE;
    rows.truncate(PAGE as usize);
    let next = rows.last().filter(|_| more).map(|row| row.id.to_string());
    let items: Vec<Item> = rows.into_iter().map(Item::from).collect();
    Ok(Json(serde_json::json!({ "items": items, "next": next })).into_response())
}

fn unreadable(name: &str) -> Problem {
    Problem::bad_request("bad_parameter", format!("{name} cannot be read"))
}

async fn lift(
    State(store): State<RevocationStore>,
    Path(id): Path<String>,
    caller: Caller,
) -> Result<StatusCode, Problem> {
    permitted(&caller)?;
    let unknown = || Problem::not_found("unknown_revocation", "there is no such revocation in force");
    let id: i64 = id.parse().map_err(|_| unknown())?;
    let row = store.lift(id, &caller.who).await?.ok_or_else(unknown)?;
    tracing::info!(id = row.id, kind = row.kind.name(), "a revocation is lifted");
    Ok(StatusCode::NO_CONTENT)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const NOW: i64 = 1_000_000;

    fn at(seconds: i64) -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp(seconds).expect("in range")
    }

    fn asked(body: &Value) -> Result<Asked, String> {
        let wanted: Wanted = serde_json::from_value(body.clone()).map_err(|error| error.to_string())?;
        wanted.asked(at(NOW) + Duration::milliseconds(300)).map_err(|problem| problem.code().to_owned())
    }

    #[test]
    fn what_is_asked_for_is_one_of_three() {
        let token = asked(&json!({"token": "t"})).expect("a token");
        assert_eq!((token.kind, token.issued_before), (Kind::Token, None));
        assert!(token.expires_at.expect("an end") > at(NOW) + Duration::days(366), "it outlives the token");
        let user = asked(&json!({"user": "olha", "expires_at": "2030-01-01T00:00:00Z"})).expect("a user");
        assert_eq!((user.kind, user.issued_before), (Kind::User, Some(at(NOW + 1))), "this second's are meant as well");
        let moment = asked(&json!({"user": "olha", "issued_before": "1970-01-02T00:00:00Z"})).expect("a moment");
        assert_eq!(moment.issued_before, Some(at(86_400)));
        let block = asked(&json!({"user": "olha", "block": true, "reason": "left"})).expect("a block");
        assert_eq!((block.kind, block.expires_at, block.reason.as_deref()), (Kind::Block, None, Some("left")));
    }

    #[test]
    fn the_rest_is_refused() {
        for bad in [
            json!({}),
            json!({"token": "t", "user": "u"}),
            json!({"token": "t", "block": true}),
            json!({"token": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJ1In0.c2lnbmVk"}),
            json!({"token": "t", "issued_before": "1970-01-02T00:00:00Z"}),
            json!({"user": "u", "block": true, "issued_before": "1970-01-02T00:00:00Z"}),
            json!({"user": ""}),
            json!({"user": "a\u{0}b"}),
            json!({"token": "t".repeat(MAX_JTI + 1)}),
            json!({"user": "u", "reason": "r".repeat(MAX_REASON + 1)}),
            json!({"user": "u", "reason": "\u{0}"}),
            json!({"user": "u", "expires_at": "1970-01-02T00:00:00Z"}),
            json!({"user": "u", "issued_before": "1970-02-02T00:00:00Z"}),
        ] {
            assert_eq!(asked(&bad).map(drop), Err("bad_revocation".to_owned()), "{bad}");
        }
        for bad in [json!({"user": "u", "expires_at": 5}), json!({"user": "u", "blok": true}), json!({"user": 1})] {
            assert!(asked(&bad).expect_err("no body of ours") != "bad_revocation", "{bad}");
        }
    }
}
