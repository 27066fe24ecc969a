//! The other questions of the HTTP API: searches by method, auction, organiser and system date, and the dictionaries. What
//! they answer is taken from clients that use them; where those are silent (no result, which methods a group has) it is inferred.
//! Every search reads the whole collection: this is a double.

use crate::answers::{Refusal, json_text};
use crate::api::{Paging, array, decode, empty, not_found, public};
use crate::shared::Shared;
use crate::world::{Document, Query, Shelf};
use crate::{clock, json};
use axum::body::Body;
use axum::http::{Response, StatusCode};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Where an organiser's code stands, in the older shape and in the newer one.
const ORGANISER: [&[&str]; 2] =
    [&["sellingEntity", "identifier", "id"], &["relatedOrganizations", "sellingEntity", "identifier", "id"]];

/// Answers a path under `/api/search/` that is not the feed by date.
pub(crate) fn search(shared: &Shared, shelf: &Shelf, path: &str, query: &str) -> Result<Response<Body>, Refusal> {
    let paging = Paging::read(shared, query)?;
    let (by, what) = path.split_once('/').ok_or_else(not_found)?;
    let what = decode(what);
    match by {
        "bySellingMethod" => many(select(shelf, None, true, |text| is(text, &["sellingMethod"], &what)), &paging),
        "byAuctionId" => {
            let found = select(shelf, None, true, |text| is(text, &["auctionId"], &what));
            let doc = found.first().ok_or_else(not_found)?;
            Ok(json_text(StatusCode::OK, public(shared, doc)))
        }
        "byAuctionOrganizer" => {
            let organised = |text: &str| ORGANISER.iter().any(|path| is(text, path, &what));
            many(select(shelf, paging.from, paging.backward, organised), &paging)
        }
        group => {
            let date = what.strip_prefix("bySystemDateModified/").ok_or_else(not_found)?;
            let methods = shared.knobs().api.groups.get(group).cloned().ok_or_else(not_found)?;
            let from = moment(date)?;
            let of_group = |text: &str| {
                let method = json::get_string(text, &["sellingMethod"]).unwrap_or_default();
                methods.is_empty() || methods.iter().any(|prefix| method.starts_with(prefix))
            };
            let dated = |doc: &Arc<Document>| {
                let text = json::get_string(&doc.body.text(), &["_meta", "systemDateModified"])?;
                clock::parse(&text).map(|(micros, _)| (micros, doc.clone()))
            };
            let mut found: Vec<_> = select(shelf, None, false, of_group).iter().filter_map(dated).collect();
            found.retain(|(at, _)| *at >= from);
            found.sort_by_key(|(at, _)| *at);
            many(found.into_iter().map(|(_, doc)| doc).collect(), &paging)
        }
    }
}

/// Answers the dictionaries; `None` when the path is none.
pub(crate) fn dictionary(shared: &Shared, shelf: &Shelf, path: &str) -> Option<Result<Response<Body>, Refusal>> {
    let values = |path: &'static [&str]| {
        select(shelf, None, false, |_| true).into_iter().filter_map(|doc| json::get_string(&doc.body.text(), path))
    };
    let body = match path {
        "legal_names" => serde_json::json!(values(&["sellingMethod"]).collect::<BTreeSet<_>>()),
        "auction_prefixes" => {
            let pair = |doc: Arc<Document>| {
                let text = doc.body.text();
                let id = json::get_string(&text, &["auctionId"])?;
                Some((json::get_string(&text, &["sellingMethod"])?, id.split('-').next()?.to_owned()))
            };
            serde_json::json!(
                select(shelf, None, false, |_| true).into_iter().filter_map(pair).collect::<BTreeMap<_, _>>()
            )
        }
        _ => match shared.knobs().api.classifiers.get(path.strip_prefix("classifiers/")?) {
            Some(dictionary) => dictionary.clone(),
            None => return Some(Err(not_found())),
        },
    };
    Some(Ok(json_text(StatusCode::OK, body.to_string())))
}

/// A moment of a path or a query.
pub(crate) fn moment(text: &str) -> Result<i64, Refusal> {
    let bad = || Refusal::new(StatusCode::BAD_REQUEST, "the date is not an ISO date");
    clock::parse(&decode(text)).map(|(micros, _)| micros).ok_or_else(bad)
}

fn is(text: &str, path: &[&str], wanted: &str) -> bool {
    json::get_string(text, path).is_some_and(|value| value == wanted)
}

/// What fits, by `dateModified`, from a moment on in the given direction.
fn select(shelf: &Shelf, from: Option<i64>, backward: bool, fits: impl Fn(&str) -> bool) -> Vec<Arc<Document>> {
    let from = from.unwrap_or(if backward { i64::MAX } else { i64::MIN });
    let mut all = shelf.read(|c| c.page(Query { from, backward, limit: usize::MAX }));
    // Outside the lock: every text is looked at.
    all.retain(|doc| fits(&doc.body.text()));
    all
}

fn many(mut docs: Vec<Arc<Document>>, paging: &Paging) -> Result<Response<Body>, Refusal> {
    docs.truncate(paging.limit);
    if docs.is_empty() { Ok(empty()) } else { Ok(json_text(StatusCode::OK, array(docs))) }
}
