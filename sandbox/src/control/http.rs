//! The control API: small, JSON, without authentication, and therefore on loopback only unless somebody insists. It is not
//! behind the limits of NGINX and is not counted.

use super::{Control, Generate, Play};
use crate::answers::{json_error, json_text};
use crate::config::{Knobs, Manner};
use crate::error::WorldError;
use crate::faults::{ActiveFault, Fault};
use crate::shared::Shared;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::http::{Response, StatusCode};
use axum::routing::{delete, get, patch, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// Largest document that is taken.
const MAX_BODY: usize = 32 * 1024 * 1024;

type Answer = Response<Body>;
type Door = State<Arc<Shared>>;

/// The routes below `/control`.
pub(crate) fn routes() -> Router<Arc<Shared>> {
    Router::new()
        .route("/", get(index))
        .route("/stats", get(|State(s): Door| async move { shown(&Control { shared: s }.stats()) }))
        .route("/knobs", get(knobs).patch(turn))
        .route("/faults", get(faults).delete(clear_all))
        .route("/faults/{fault}", post(set_fault))
        .route("/tokens", post(set_token))
        .route("/truth/{collection}", get(truth))
        .route("/generate", post(generate))
        .route("/play", post(play))
        .route("/collections/{collection}/objects", post(put))
        .route("/collections/{collection}/objects/{id}", patch(set))
        .route("/collections/{collection}/objects/{id}", delete(remove))
        .route("/collections/{collection}/sized", post(sized))
        .route("/collections/{collection}/noop", post(noop))
        .route("/collections/{collection}/inject", post(inject))
        .route("/collections/{collection}/disconnect", post(disconnect))
        .route("/collections/{collection}/forget-history", post(forget))
        .layer(DefaultBodyLimit::max(MAX_BODY))
}

fn shown(value: &impl Serialize) -> Answer {
    match serde_json::to_string(value) {
        Ok(text) => json_text(StatusCode::OK, text),
        Err(error) => json_error(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}

fn bad(message: impl std::fmt::Display) -> Answer {
    json_error(StatusCode::BAD_REQUEST, &message.to_string())
}

fn outcome<T: Serialize>(result: Result<T, WorldError>) -> Answer {
    match result {
        Ok(value) => shown(&value),
        Err(error @ (WorldError::NoCollection(_) | WorldError::NoObject(_))) => {
            json_error(StatusCode::NOT_FOUND, &error.to_string())
        }
        Err(error) => bad(error),
    }
}

async fn index(State(shared): Door) -> Answer {
    let control = Control { shared };
    let counts: Map<String, Value> = control
        .collections()
        .into_iter()
        .map(|c| {
            let n = control.count(&c).unwrap_or(0);
            (c, n.into())
        })
        .collect();
    shown(&json!({ "objects": counts, "faults": Fault::NAMES }))
}

async fn knobs(State(shared): Door) -> Answer {
    shown(&*shared.knobs())
}

/// Merges the given members into the knobs.
async fn turn(State(shared): Door, Json(change): Json<Value>) -> Answer {
    let mut whole = match serde_json::to_value(&*shared.knobs()) {
        Ok(whole) => whole,
        Err(error) => return bad(error),
    };
    merge(&mut whole, change);
    match serde_json::from_value::<Knobs>(whole) {
        Ok(knobs) => {
            shared.knobs.send_replace(Arc::new(knobs));
            shown(&*shared.knobs())
        }
        Err(error) => bad(error),
    }
}

fn merge(into: &mut Value, change: Value) {
    match (into, change) {
        (Value::Object(into), Value::Object(change)) => {
            for (key, value) in change {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, change) => *into = change,
    }
}

async fn faults(State(shared): Door) -> Answer {
    shown(&Control { shared }.faults())
}

async fn clear_all(State(shared): Door) -> Answer {
    Control { shared }.clear_all();
    shown(&json!([]))
}

/// `{"on": false}` switches off; else the members are the fault's parameters, beside `collection` and `times`.
async fn set_fault(
    State(shared): Door,
    Path(name): Path<String>,
    Json(mut params): Json<Map<String, Value>>,
) -> Answer {
    let control = Control { shared };
    if !Fault::NAMES.contains(&name.as_str()) {
        return json_error(StatusCode::NOT_FOUND, &format!("no fault {name}; there are {}", Fault::NAMES.join(", ")));
    }
    if params.remove("on") == Some(Value::Bool(false)) {
        control.clear(&name);
        return shown(&control.faults());
    }
    let collection = params.remove("collection");
    let times = params.remove("times");
    params.insert("fault".to_owned(), name.into());
    let mut active = match serde_json::from_value(Value::Object(params)) {
        Ok(fault) => ActiveFault::new(fault),
        Err(error) => return bad(error),
    };
    match collection {
        None | Some(Value::Null) => {}
        Some(Value::String(name)) => active = active.on(&name),
        Some(_) => return bad("collection is a name"),
    }
    match times.map(serde_json::from_value) {
        None => {}
        Some(Ok(times)) => active = active.times(times),
        Some(Err(error)) => return bad(error),
    }
    control.fault_with(active);
    shown(&control.faults())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Token {
    token: String,
    /// None makes the token unknown.
    permissions: Option<Vec<String>>,
}

async fn set_token(State(shared): Door, Json(order): Json<Token>) -> Answer {
    let control = Control { shared };
    match order.permissions {
        Some(permissions) => control.set_token(&order.token, permissions.iter().map(String::as_str)),
        None => {
            control.remove_token(&order.token);
        }
    }
    shown(&json!({ "ok": true }))
}

#[derive(Deserialize)]
struct TruthOptions {
    /// Leaves the texts out.
    #[serde(default)]
    index: bool,
}

async fn truth(State(shared): Door, Path(collection): Path<String>, Query(options): Query<TruthOptions>) -> Answer {
    let control = Control { shared };
    outcome(if options.index { control.truth_index(&collection) } else { control.truth(&collection) })
}

async fn generate(State(shared): Door, Json(order): Json<Generate>) -> Answer {
    outcome(Control { shared }.generate(&order))
}

async fn play(State(shared): Door, Json(order): Json<Play>) -> Answer {
    outcome(Control { shared }.play(&order))
}

#[derive(Deserialize)]
struct PutOptions {
    /// Keeps the text as it is, under this id.
    verbatim: Option<String>,
    /// `dateModified` to write.
    date: Option<String>,
}

async fn put(
    State(shared): Door,
    Path(collection): Path<String>,
    Query(options): Query<PutOptions>,
    text: String,
) -> Answer {
    let control = Control { shared };
    outcome(match options.verbatim {
        Some(id) => control.put_verbatim(&collection, &id, &text),
        None => control.put_dated(&collection, &text, options.date.as_deref()),
    })
}

async fn set(State(shared): Door, Path((collection, id)): Path<(String, String)>, text: String) -> Answer {
    outcome(Control { shared }.patch(&collection, &id, &text))
}

async fn remove(State(shared): Door, Path((collection, id)): Path<(String, String)>) -> Answer {
    outcome(Control { shared }.delete(&collection, &id))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Sized {
    /// Length of the frame's payload.
    frame_bytes: Option<usize>,
    /// Length of the document.
    bytes: Option<usize>,
    #[serde(default)]
    seed: u64,
}

async fn sized(State(shared): Door, Path(collection): Path<String>, Json(order): Json<Sized>) -> Answer {
    let control = Control { shared };
    let object = crate::generate::Generator::new(order.seed).object(&collection);
    match (order.frame_bytes, order.bytes) {
        (Some(bytes), None) => outcome(control.put_frame(&collection, &object, bytes)),
        (None, Some(bytes)) => outcome(control.put_sized(&collection, &object, bytes)),
        _ => bad("give either frame_bytes or bytes"),
    }
}

async fn noop(State(shared): Door, Path(collection): Path<String>) -> Answer {
    outcome(Control { shared }.noop(&collection))
}

async fn inject(State(shared): Door, Path(collection): Path<String>, text: String) -> Answer {
    let links = Control { shared }.inject(&collection, &text);
    shown(&json!({ "links": links }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Disconnect {
    manner: Manner,
}

async fn disconnect(State(shared): Door, Path(collection): Path<String>, Json(order): Json<Disconnect>) -> Answer {
    let links = Control { shared }.disconnect(&collection, order.manner);
    shown(&json!({ "links": links }))
}

async fn forget(State(shared): Door, Path(collection): Path<String>) -> Answer {
    outcome(Control { shared }.forget_history(&collection))
}
