//! `GET /connection/websocket`: the upgrade of a client connection.
//!
//! The socket is taken out of hyper after the 101 and belongs to a shard from then on: no layer of the web framework
//! stands between a publication and the client. Compression is not offered.

use axum::{
    Router,
    body::HttpBody,
    extract::{Request, State},
    http::{self, HeaderMap, HeaderValue, Method, StatusCode, Version, header},
    response::{IntoResponse, Response},
    routing::get,
};
use dzvin_actors::channels::{Admission as Application, Incoming, Permit, Shards, Wire, derive_accept_key};

use super::admission::Admission;
use crate::platform::http::{ClientAddress, Express, Origins, Plumbing, Problem, Taken, Upgrading};

const PATH: &str = "/connection/websocket";

/// The subprotocols, by what they mean; clients that ask for none speak JSON, unless the address says otherwise.
const SUBPROTOCOLS: [(&str, Wire); 2] =
    [("centrifuge-json", Wire::CentrifugeJson), ("centrifuge-protobuf", Wire::CentrifugeProtobuf)];

/// The only version of the protocol that has left its drafts.
const VERSION: &str = "13";

/// What the endpoint needs.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// Who takes the connections.
    pub shards: Shards,
    /// Who may have one.
    pub admission: Admission,
    /// Origins of pages, besides the hub's own, that may connect.
    pub allowed_origins: Origins,
    /// The listener speaks TLS and nothing else.
    pub tls: bool,
}

/// The route.
pub fn router(endpoint: Endpoint) -> Router {
    Router::new().route(PATH, get(connect)).with_state(endpoint)
}

/// The same for whoever does everything right and finds a place.
pub fn express(endpoint: Endpoint, plumbing: &Plumbing) -> Express {
    Express::new(PATH, plumbing, move |request, address, upgrading| {
        let agreement = Agreement::of(&endpoint, request, asked).ok()?;
        let permit = endpoint.admission.try_admit(address)?;
        Some(agreement.begin(&endpoint, request, upgrading, permit))
    })
}

async fn connect(State(endpoint): State<Endpoint>, request: Request) -> Result<Response, Problem> {
    upgrade(&endpoint, request, asked)
}

fn asked(endpoint: &Endpoint, headers: &HeaderMap, query: &str) -> Spoken {
    endpoint.check_origin(headers)?;
    spoken(headers, query).map(|(subprotocol, wire)| (subprotocol, wire, None))
}

/// What a client asks to speak, by the headers and the query: the subprotocol to confirm, if any, its wire, and on that of
/// Pusher whose client it is.
pub(super) type Spoken = Result<(Option<&'static str>, Wire, Option<Application>), Problem>;

/// Answers with the 101, and gives the socket to a shard afterwards.
pub(super) fn upgrade(
    endpoint: &Endpoint,
    mut request: Request,
    spoken: impl FnOnce(&Endpoint, &HeaderMap, &str) -> Spoken,
) -> Result<Response, Problem> {
    let agreement = Agreement::of(endpoint, &request, spoken)?;
    let permit = endpoint.admit(request.extensions().get().copied())?;
    let upgrading = request.extensions().get::<Upgrading>().cloned();
    let upgrading = upgrading.ok_or_else(|| Problem::internal("no server of ours is beneath the router"))?;
    Ok(agreement.begin(endpoint, &mut request, &upgrading, permit))
}

/// What a good request comes to, but for a place.
struct Agreement {
    accept: HeaderValue,
    subprotocol: Option<&'static str>,
    wire: Wire,
    admission: Option<Application>,
}

impl Agreement {
    fn of<B: HttpBody>(
        endpoint: &Endpoint,
        request: &http::Request<B>,
        spoken: impl FnOnce(&Endpoint, &HeaderMap, &str) -> Spoken,
    ) -> Result<Self, Problem> {
        let accept = handshake(request)?;
        let query = request.uri().query().unwrap_or_default();
        let (subprotocol, wire, admission) = spoken(endpoint, request.headers(), query)?;
        Ok(Self { accept, subprotocol, wire, admission })
    }

    /// The answer; the connection goes to a shard behind it.
    fn begin<B>(
        self,
        endpoint: &Endpoint,
        request: &mut http::Request<B>,
        upgrading: &Upgrading,
        permit: Permit,
    ) -> Response {
        let Self { accept, subprotocol, wire, admission } = self;
        let shards = endpoint.shards.clone();
        upgrading.begin(request, permit, move |taken| {
            let Taken { socket, leftover, greeting, permit } = taken;
            let incoming = Incoming { socket, leftover, greeting, wire, permit, mailbox: None, admission };
            if !shards.accept(incoming) {
                tracing::warn!("no shard took a new connection");
            }
        });
        switching(accept, subprotocol)
    }
}

fn refused(status: StatusCode, why: &str) -> Problem {
    Problem::new(status, "websocket_expected", format!("this address speaks websocket only: {why}"))
}

fn switching(accept: HeaderValue, subprotocol: Option<&'static str>) -> Response {
    let mut response = StatusCode::SWITCHING_PROTOCOLS.into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    if let Some(subprotocol) = subprotocol {
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(subprotocol));
    }
    response
}

/// Checks the request of RFC 6455, 4.2.1; answers the accept key.
fn handshake<B: HttpBody>(request: &http::Request<B>) -> Result<HeaderValue, Problem> {
    let headers = request.headers();
    if !has_token(headers, header::UPGRADE, "websocket") || !has_token(headers, header::CONNECTION, "upgrade") {
        return Err(refused(StatusCode::BAD_REQUEST, "the request asks for no upgrade"));
    }
    if headers.get(header::SEC_WEBSOCKET_VERSION).is_none_or(|version| version != VERSION) {
        // Which version is spoken (RFC 6455, 4.2.2), and which protocol (RFC 9110, 15.5.22).
        let problem = refused(StatusCode::UPGRADE_REQUIRED, "the version must be 13");
        let problem = problem.with_header(header::SEC_WEBSOCKET_VERSION, VERSION);
        return Err(problem.with_header(header::UPGRADE, "websocket").with_header(header::CONNECTION, "upgrade"));
    }
    if request.method() != Method::GET || request.version() != Version::HTTP_11 || !request.body().is_end_stream() {
        return Err(refused(StatusCode::BAD_REQUEST, "an upgrade is a GET of HTTP/1.1 without a body"));
    }
    let key = headers.get(header::SEC_WEBSOCKET_KEY).filter(|key| key.len() == 24);
    let key = key.ok_or_else(|| refused(StatusCode::BAD_REQUEST, "the key is missing or malformed"))?;
    HeaderValue::from_str(&derive_accept_key(key.as_bytes())).map_err(Problem::internal)
}

fn has_token(headers: &HeaderMap, name: header::HeaderName, token: &str) -> bool {
    let values = headers.get_all(name);
    values
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .any(|v| v.trim().eq_ignore_ascii_case(token))
}

/// What is spoken. Whatever it is, the address may ask for ping frames.
fn spoken(headers: &HeaderMap, query: &str) -> Result<(Option<&'static str>, Wire), Problem> {
    let (subprotocol, wire) = subprotocol(headers, query)?;
    let by_frame = query.split('&').any(|pair| pair == "cf_ws_frame_ping_pong=true");
    Ok((subprotocol, if by_frame { wire.with_frame_pings() } else { wire }))
}

/// The first subprotocol of ours that the client offers; without any, what `format` or `cf_protocol` in the address says.
fn subprotocol(headers: &HeaderMap, query: &str) -> Result<(Option<&'static str>, Wire), Problem> {
    let name = header::SEC_WEBSOCKET_PROTOCOL;
    if !headers.contains_key(&name) {
        let asks = |pair: &str| pair == "format=protobuf" || pair == "cf_protocol=protobuf";
        let protobuf = query.split('&').any(asks);
        return Ok((None, if protobuf { Wire::CentrifugeProtobuf } else { Wire::CentrifugeJson }));
    }
    match SUBPROTOCOLS.into_iter().find(|(subprotocol, _)| has_token(headers, name.clone(), subprotocol)) {
        Some((subprotocol, wire)) => Ok((Some(subprotocol), wire)),
        None => {
            let detail = "ask for the subprotocol centrifuge-json or centrifuge-protobuf, or for none";
            Err(Problem::bad_request("subprotocol_unknown", detail))
        }
    }
}

impl Endpoint {
    /// A place for one more session.
    pub(super) fn admit(&self, address: Option<ClientAddress>) -> Result<Permit, Problem> {
        self.admission.admit(address)
    }

    /// Whether a client has come over TLS, to the hub or to what stands before it. One that claims so falsely fools itself alone.
    pub(super) fn is_secure(&self, headers: &HeaderMap) -> bool {
        let nearest = headers.get_all("x-forwarded-proto").iter().next_back().and_then(|value| value.to_str().ok());
        let nearest = nearest.and_then(|all| all.rsplit(',').next()).map(str::trim);
        self.tls
            || nearest.is_some_and(|proto| proto.eq_ignore_ascii_case("https") || proto.eq_ignore_ascii_case("wss"))
    }

    /// A page of another site must not use the tokens that a browser holds.
    pub(super) fn check_origin(&self, headers: &HeaderMap) -> Result<(), Problem> {
        self.allowed_origins.check(headers)
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(k, v)| (header::HeaderName::from_static(k), HeaderValue::from_str(v).expect("header")))
            .collect()
    }

    fn asking(pairs: &[(&'static str, &str)]) -> http::Request<Body> {
        let mut request = http::Request::new(Body::empty());
        *request.headers_mut() = headers(pairs);
        request
    }

    const GOOD: [(&str, &str); 4] = [
        ("upgrade", "WebSocket"),
        ("connection", "keep-alive, Upgrade"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];

    #[test]
    fn the_handshake_is_that_of_the_rfc() {
        // The sample of RFC 6455, 1.3.
        assert_eq!(handshake(&asking(&GOOD)).expect("good"), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        for missing in 0..GOOD.len() {
            let mut bad = GOOD.to_vec();
            bad.remove(missing);
            assert_eq!(handshake(&asking(&bad)).expect_err("bad").code(), "websocket_expected");
        }
        for (at, value, status) in [(2, "8", 426), (2, "14", 426), (3, "dGhlIHNhbXBsZSBub25j", 400)] {
            let mut bad = GOOD;
            bad[at].1 = value;
            let refused = handshake(&asking(&bad)).expect_err("bad").into_response();
            assert_eq!(refused.status(), status, "{value}");
            for (name, told) in [("sec-websocket-version", "13"), ("upgrade", "websocket"), ("connection", "upgrade")] {
                let named = refused.headers().get(name).map(HeaderValue::as_bytes);
                assert_eq!(named, (status == 426).then_some(told.as_bytes()), "{name} to {value}");
            }
        }
    }

    #[test]
    fn what_is_no_plain_get_upgrades_nothing() {
        let refused = |change: fn(&mut http::Request<Body>)| {
            let mut request = asking(&GOOD);
            change(&mut request);
            handshake(&request).expect_err("bad").status()
        };
        assert_eq!(refused(|request| *request.method_mut() = Method::HEAD), 400);
        assert_eq!(refused(|request| *request.version_mut() = Version::HTTP_10), 400);
        assert_eq!(refused(|request| *request.body_mut() = Body::from("x")), 400);
    }

    #[test]
    fn both_forms_are_spoken() {
        use Wire::{CentrifugeJson, CentrifugeProtobuf, FramePingedJson, FramePingedProtobuf};
        let ask = |offer: &str| spoken(&headers(&[("sec-websocket-protocol", offer)]), "format=protobuf");
        assert_eq!(ask("x, centrifuge-json").expect("json"), (Some("centrifuge-json"), CentrifugeJson));
        assert_eq!(ask("centrifuge-protobuf").expect("protobuf"), (Some("centrifuge-protobuf"), CentrifugeProtobuf));
        assert!(ask("mqtt").is_err());
        for (query, wire) in [
            ("", CentrifugeJson),
            ("a=1&format=protobuf", CentrifugeProtobuf),
            ("cf_protocol=protobuf", CentrifugeProtobuf),
            ("format=json", CentrifugeJson),
            ("cf_ws_frame_ping_pong=true", FramePingedJson),
            ("cf_ws_frame_ping_pong=true&format=protobuf", FramePingedProtobuf),
            ("cf_ws_frame_ping_pong=false", CentrifugeJson),
            ("cf_ws_frame_ping_pong", CentrifugeJson),
            ("xcf_ws_frame_ping_pong=true", CentrifugeJson),
        ] {
            assert_eq!(spoken(&headers(&[]), query).expect("none"), (None, wire), "{query}");
        }
        let offer = headers(&[("sec-websocket-protocol", "centrifuge-json")]);
        let by_frame = spoken(&offer, "cf_ws_frame_ping_pong=true").expect("json");
        assert_eq!(by_frame, (Some("centrifuge-json"), FramePingedJson));
    }
}
