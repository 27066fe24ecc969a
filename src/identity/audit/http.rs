//! `GET /api/v1/audit`: who did what, and what was refused, for whoever has `audit:read:*`.

use std::net::IpAddr;

use axum::{
    Json, Router,
    extract::{Query, State},
    routing::get,
};
use dzvin_protocols::platform::time::rfc3339_millis;
use serde::Serialize;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{
    AuditStore, MAX_OBJECT,
    store::{Row, Wanted},
};
use crate::{
    identity::Caller,
    platform::http::{ClientAddress, Problem},
};

/// Rows on a page when nobody says.
const DEFAULT_LIMIT: u16 = 50;
/// Most rows on a page: a row has less than a kilobyte.
const MAX_LIMIT: u16 = 500;

/// The resource.
pub fn router(store: AuditStore) -> Router {
    Router::new().route("/api/v1/audit", get(list)).with_state(store)
}

#[derive(Serialize)]
struct Item {
    at: String,
    node: String,
    request: Option<String>,
    address: Option<String>,
    user: String,
    token: Option<String>,
    action: String,
    object: String,
    outcome: String,
    status: Option<i16>,
    revision: Option<i64>,
    times: i64,
}

impl From<Row> for Item {
    fn from(row: Row) -> Self {
        let Row { at, node, request, address, user, token, action, object, outcome, status, revision, times, .. } = row;
        let at = rfc3339_millis(at);
        Self { at, node, request, address, user, token, action, object, outcome, status, revision, times }
    }
}

#[derive(Serialize)]
struct Page {
    items: Vec<Item>,
    next: Option<String>,
}

/// A place among the rows: they are read downwards from there.
type Place = (OffsetDateTime, i64);

#[derive(Debug)]
struct Asked {
    wanted: Wanted,
    since: OffsetDateTime,
    below: Place,
    limit: u16,
}

fn unreadable(name: &str) -> Problem {
    Problem::bad_request("bad_parameter", format!("{name} cannot be read"))
}

/// `MICROSECONDS.ID` of the last row of the page before.
fn place(cursor: &str) -> Option<Place> {
    let (micros, id) = cursor.split_once('.')?;
    let nanos = i128::from(micros.parse::<i64>().ok()?) * 1_000;
    Some((OffsetDateTime::from_unix_timestamp_nanos(nanos).ok()?, id.parse().ok()?))
}

fn cursor((at, id): Place) -> String {
    format!("{}.{id}", at.unix_timestamp_nanos() / 1_000)
}

/// A moment that the database can hold.
fn moment(name: &str, value: &str) -> Result<OffsetDateTime, Problem> {
    let at = OffsetDateTime::parse(value, &Rfc3339).map_err(|_| unreadable(name))?;
    if (1..=9_999).contains(&at.year()) { Ok(at) } else { Err(unreadable(name)) }
}

fn text(name: &str, value: String) -> Result<Option<String>, Problem> {
    if value.len() <= MAX_OBJECT && !value.contains('\0') { Ok(Some(value)) } else { Err(unreadable(name)) }
}

impl Asked {
    fn parse(pairs: Vec<(String, String)>) -> Result<Self, Problem> {
        let newest = OffsetDateTime::from_unix_timestamp(253_402_300_799).map_err(Problem::internal)?;
        let mut asked = Self {
            wanted: Wanted::default(),
            since: OffsetDateTime::UNIX_EPOCH,
            below: (newest, i64::MAX),
            limit: DEFAULT_LIMIT,
        };
        for (name, value) in pairs {
            match name.as_str() {
                "user" => asked.wanted.user = text("user", value)?,
                "object" => asked.wanted.object = text("object", value)?,
                "action" => asked.wanted.action = text("action", value)?,
                "outcome" => asked.wanted.outcome = text("outcome", value)?,
                // In the one spelling in which they are written.
                "address" => {
                    let address: IpAddr = value.parse().map_err(|_| unreadable("address"))?;
                    asked.wanted.address = Some(ClientAddress::new(address).to_string());
                }
                "since" => asked.since = moment("since", &value)?,
                "until" => asked.below = asked.below.min((moment("until", &value)?, i64::MIN)),
                "cursor" => asked.below = asked.below.min(place(&value).ok_or_else(|| unreadable("cursor"))?),
                "limit" => {
                    let limit = value.parse().ok().filter(|limit| (1..=MAX_LIMIT).contains(limit));
                    let detail = format!("limit is 1 to {MAX_LIMIT}");
                    asked.limit = limit.ok_or_else(|| Problem::bad_request("bad_parameter", detail))?;
                }
                _ => {
                    return Err(unreadable(
                        "only user, object, action, outcome, address, since, until, cursor and limit are known: this",
                    ));
                }
            }
        }
        Ok(asked)
    }
}

async fn list(
    State(store): State<AuditStore>,
    Query(pairs): Query<Vec<(String, String)>>,
    caller: Caller,
) -> Result<Json<Page>, Problem> {
    caller.require("audit", "read", "*")?;
    let Asked { wanted, since, below, limit } = Asked::parse(pairs)?;
    let mut rows = store.page(&wanted, since, below, i64::from(limit) + 1).await?;
    let more = rows.len() > usize::from(limit);
    rows.truncate(usize::from(limit));
    let next = rows.last().filter(|_| more).map(|row| cursor((row.at, row.id)));
    Ok(Json(Page { items: rows.into_iter().map(Item::from).collect(), next }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(pairs: &[(&str, &str)]) -> Result<Asked, &'static str> {
        let pairs = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Asked::parse(pairs).map_err(|problem| problem.code())
    }

    #[test]
    fn a_cursor_leads_on_and_until_ends_before_it() {
        let at = OffsetDateTime::from_unix_timestamp_nanos(1_700_000_000_123_456_000).expect("a moment");
        assert_eq!(place(&cursor((at, 7))), Some((at, 7)));
        let until = asked(&[("until", "2023-11-14T22:13:20.123456Z"), ("cursor", &cursor((at, 7)))]).expect("readable");
        assert_eq!(until.below, (at, i64::MIN), "whichever is earlier");
        let address = asked(&[("address", "2001:0db8::0001")]).expect("readable").wanted.address;
        assert_eq!(address.as_deref(), Some("2001:db8::1"));
    }

    #[test]
    fn what_cannot_be_read_is_refused() {
        for (name, value) in [
            ("user", "a\0b"),
            ("object", &*"x".repeat(MAX_OBJECT + 1)),
            ("address", "localhost"),
            ("since", "yesterday"),
            ("until", "2026-11-28"),
            ("cursor", "7"),
            ("cursor", "9223372036854775807.1"),
            ("limit", "0"),
            ("limit", "501"),
            ("kind", "deal"),
        ] {
            assert_eq!(asked(&[(name, value)]).map(drop), Err("bad_parameter"), "{name}={value}");
        }
    }
}
