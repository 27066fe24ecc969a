//! The signed-in user of a request.

use std::sync::Arc;

use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, StatusCode, header, request::Parts},
};
use dzvin_actors::platform::ports::{Identity, TokenMark};
use dzvin_protocols::{identity::Permissions, platform::Kind};

use super::{Origin, Verifier, audit::Who};
use crate::platform::http::Problem;

/// Who asks, by `Authorization: Bearer`. Needs `Extension<Arc<Verifier>>` on the router.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The user's id; empty for a token that names nobody.
    pub user: Arc<str>,
    /// What the user may do.
    pub permissions: Arc<Permissions>,
    /// By what the token may be revoked, for what outlives the request's head.
    pub mark: TokenMark,
    /// The same caller, as the audit tells it.
    pub who: Who,
}

impl Caller {
    /// # Errors
    /// 403 when `{area}:{action}:{object}` is not granted.
    pub fn require(&self, area: &str, action: &str, object: &str) -> Result<(), Problem> {
        if self.permissions.allow(area, action, object) {
            return Ok(());
        }
        Err(Problem::forbidden(format_args!("{area}:{action}:{object}")))
    }

    /// The user's id.
    ///
    /// # Errors
    /// 403 `no_user` when the token names nobody; `what` says what needs one.
    pub fn require_user(&self, what: &str) -> Result<&str, Problem> {
        if self.user.is_empty() {
            return Err(Problem::new(StatusCode::FORBIDDEN, "no_user", format!("the token names no user {what}")));
        }
        Ok(&self.user)
    }

    /// # Errors
    /// 403 when entities of the kind may not be read.
    pub fn require_read(&self, kind: &Kind) -> Result<(), Problem> {
        self.require("entities", "read", kind.as_str())
    }
}

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let (verifier, token) = credentials(parts)?;
        let (identity, who) = Origin::of(parts).authenticate(&**verifier, token).await?;
        tracing::Span::current().record("user", &*identity.user);
        let mark = TokenMark { user: None, jti: identity.jti, issued_at: identity.issued_at };
        Ok(Self { user: identity.user, permissions: identity.permissions, mark, who })
    }
}

/// The bearer token of a request, for what goes on behind the head of its answer: by it the right is looked at again.
pub struct Token {
    verifier: Arc<Verifier>,
    origin: Origin,
    text: String,
}

impl Token {
    /// Whose it is, and what it grants now.
    ///
    /// # Errors
    /// As of a request that is made now.
    pub async fn identity(&self) -> Result<Identity, Problem> {
        let (identity, _) = self.origin.clone().authenticate(&*self.verifier, &self.text).await?;
        Ok(identity)
    }
}

impl<S: Sync> FromRequestParts<S> for Token {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let (verifier, text) = credentials(parts)?;
        Ok(Self { verifier: Arc::clone(verifier), origin: Origin::of(parts), text: text.to_owned() })
    }
}

fn credentials(parts: &Parts) -> Result<(&Arc<Verifier>, &str), Problem> {
    let verifier = parts
        .extensions
        .get::<Arc<Verifier>>()
        .ok_or_else(|| Problem::internal("the router has no Extension<Arc<Verifier>>"))?;
    Ok((verifier, bearer(&parts.headers).ok_or_else(Problem::unauthorized)?))
}

/// The bearer token of the only `Authorization` header; two of them are nobody's.
pub fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut all = headers.get_all(header::AUTHORIZATION).iter();
    let (only, None) = (all.next()?, all.next()) else { return None };
    let (scheme, token) = only.to_str().ok()?.split_once(' ')?;
    // The empty token is that of a client without one, and is none here.
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim()).filter(|token| !token.is_empty())
}

#[cfg(test)]
mod tests {
    use axum::{Extension, Router, body::Body, http::Request, response::IntoResponse, routing::get};
    use dzvin_protocols::identity::Claims;
    use time::OffsetDateTime;
    use tower::ServiceExt;

    use super::*;
    use crate::identity::{SigningKey, TokenRules};

    fn verifier() -> Arc<Verifier> {
        let key = SigningKey::new("k1", &[7; 32]).expect("key");
        Arc::new(Verifier::new(vec![key], TokenRules::default()).expect("verifier"))
    }

    async fn ask(verifier: &Arc<Verifier>, headers: &[String]) -> (u16, String) {
        async fn whoami(caller: Caller) -> Result<String, Problem> {
            caller.require_read(&Kind::new("procedure").expect("kind"))?;
            Ok(caller.user.to_string())
        }
        let router = Router::new().route("/", get(whoami)).layer(Extension(Arc::clone(verifier)));
        let mut request = Request::get("/");
        for value in headers {
            request = request.header("authorization", value);
        }
        let response = router.oneshot(request.body(Body::empty()).expect("request")).await.expect("infallible");
        let status = response.status().as_u16();
        let bytes = axum::body::to_bytes(response.into_response().into_body(), 65_536).await.expect("body");
        (status, String::from_utf8_lossy(&bytes).into_owned())
    }

    #[tokio::test]
    async fn only_a_good_token_passes() {
        let verifier = verifier();
        let now = OffsetDateTime::now_utc().unix_timestamp();
        let sign = |roles: &[&str], exp: i64| {
            let roles = roles.iter().map(ToString::to_string).collect();
            let claims = Claims { sub: "olha".into(), exp: Some(exp), roles, ..Claims::default() };
            verifier.sign(&claims).expect("signed")
        };
        let viewer = sign(&["viewer"], now + 60);
        assert_eq!(ask(&verifier, &[format!("bearer {viewer}")]).await, (200, "olha".to_owned()));
        for (headers, status, code) in [
            (vec![], 401, "unauthorized"),
            (vec![format!("Basic {viewer}")], 401, "unauthorized"),
            (vec![format!("Bearer {viewer}x")], 401, "unauthorized"),
            (vec![format!("Bearer {viewer}"), format!("Bearer {viewer}")], 401, "unauthorized"),
            (vec![format!("Bearer {}", sign(&["viewer"], now - 60))], 401, "token_expired"),
            (vec![format!("Bearer {}", sign(&[], now + 60))], 403, "forbidden"),
        ] {
            let (got, body) = ask(&verifier, &headers).await;
            assert!(got == status && body.contains(&format!("\"code\":\"{code}\"")), "{headers:?}: {got} {body}");
        }
    }
}
