//! `GET /app/{key}`: the upgrade of a client of the Pusher protocol.
//!
//! What is wrong with a connection is said after the 101, by an event and by the close code: that is all that such a client
//! can read, and an answer of HTTP would make it try again for ever.

use axum::{
    Router,
    extract::{Request, State},
    response::Response,
    routing::get,
};
use dzvin_actors::channels::{Admission, Apps, Wire};
use dzvin_protocols::channels::pusher::{Close, check_handshake};

use crate::{
    channels::endpoint::{Endpoint, upgrade},
    platform::http::Problem,
};

/// What the endpoint needs.
#[derive(Debug, Clone)]
struct Pusher {
    endpoint: Endpoint,
    apps: Apps,
}

/// The route.
pub fn router(endpoint: Endpoint, apps: Apps) -> Router {
    let wrong = || get(lost);
    Router::new()
        .route("/app/{key}", get(connect))
        // What a client makes of a base path that is wrong.
        .route("/app", wrong())
        .route("/app/", wrong())
        .route("/app/{key}/", wrong())
        .route("/app/{key}/{*rest}", wrong())
        .with_state(Pusher { endpoint, apps })
}

/// Not an address of an application: told so, for good, as every other refusal is.
async fn lost(State(pusher): State<Pusher>, request: Request) -> Result<Response, Problem> {
    upgrade(&pusher.endpoint, request, |_, _, _| {
        Ok((None, Wire::Pusher, Some(Admission::Refused(Close::PathNotFound))))
    })
}

async fn connect(State(pusher): State<Pusher>, request: Request) -> Result<Response, Problem> {
    let Pusher { endpoint, apps } = pusher;
    // As it stands in the address: what would have to be decoded is no key, and is told so.
    let key = request.uri().path().strip_prefix("/app/").unwrap_or_default().to_owned();
    upgrade(&endpoint, request, |endpoint, headers, query| {
        let admission = match admit(&apps, &key, query, endpoint.is_secure(headers)) {
            // Who is no browser sends no origin.
            Ok(_) if endpoint.check_origin(headers).is_err() => Admission::Refused(Close::Unauthorized),
            Ok(id) => Admission::App(id),
            Err(close) => Admission::Refused(close),
        };
        Ok((None, Wire::Pusher, Some(admission)))
    })
}

/// The application whose client this is.
fn admit(apps: &Apps, key: &str, query: &str, secure: bool) -> Result<std::sync::Arc<str>, Close> {
    let app = apps.by_key(key).ok_or(Close::UnknownApp)?;
    if !app.enabled {
        return Err(Close::AppDisabled);
    }
    if app.tls_only && !secure {
        return Err(Close::TlsRequired);
    }
    check_handshake(query)?;
    Ok(std::sync::Arc::clone(&app.id))
}

#[cfg(test)]
mod tests {
    use dzvin_actors::channels::App;
    use dzvin_protocols::channels::pusher::Credentials;

    use super::*;

    #[test]
    fn who_may_not_stay_is_told_why() {
        let app = |id: &str, key: &str| {
            App::new(id, vec![Credentials::new(key, "a secret of sixteen").expect("key")]).expect("app")
        };
        let apps = Apps::default();
        let (off, safe) = (App { enabled: false, ..app("b", "k2") }, App { tls_only: true, ..app("c", "k4") });
        apps.replace(vec![app("a", "k1"), off, safe]).expect("apps");
        for (key, query, expected) in [
            ("k1", "protocol=7&client=js&version=8.6.0&flash=false", Ok("a".into())),
            ("k3", "protocol=7", Err(Close::UnknownApp)),
            ("k2", "protocol=7", Err(Close::AppDisabled)),
            ("k1", "", Err(Close::NoProtocol)),
            ("k1", "protocol=4", Err(Close::UnsupportedProtocol)),
            ("k1", "protocol=7&version=\u{1}", Err(Close::BadVersion)),
        ] {
            assert_eq!(admit(&apps, key, query, false), expected, "{key} {query}");
        }
        assert_eq!(admit(&apps, "k4", "protocol=7", false), Err(Close::TlsRequired));
        assert_eq!(admit(&apps, "k4", "protocol=7", true), Ok("c".into()));
    }
}
