//! Who calls the server API: a server by its key, or anybody whose token grants it.

use std::sync::Arc;

use axum::{
    extract::FromRequestParts,
    http::{header, request::Parts},
};
use dzvin_protocols::identity::Permissions;
use sha2::{Digest, Sha256};

use super::ServerApi;
use crate::{
    identity::{Caller, Origin, Verifier},
    platform::http::Problem,
};

/// The caller's rights.
#[derive(Debug, Clone)]
pub(super) struct ApiCaller {
    /// What it may do.
    pub(super) permissions: Arc<Permissions>,
    /// Stands for who it is: no key has the number of a user.
    pub(super) publisher: u64,
}

/// Half of what tells keys apart: publishers are few.
fn number(kind: &str, name: &str) -> u64 {
    let digest = Sha256::new().chain_update(kind).chain_update([0]).chain_update(name).finalize();
    digest.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
}

impl FromRequestParts<Arc<ServerApi>> for ApiCaller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<ServerApi>) -> Result<Self, Problem> {
        let Some(key) = api_key(parts) else {
            let caller = Caller::from_request_parts(parts, api).await?;
            return Ok(Self { publisher: number("user", &caller.user), permissions: caller.permissions });
        };
        let verifier = parts.extensions.get::<Arc<Verifier>>();
        let verifier = verifier.ok_or_else(|| Problem::internal("the router has no Extension<Arc<Verifier>>"))?;
        let origin = Origin::of(parts);
        let found = origin.look(verifier.guard(), key, || api.keys.find(key).ok_or_else(Problem::unauthorized))?;
        let (id, permissions) = found?;
        origin.known_as(&format!("key:{id}").into(), None);
        Ok(Self { publisher: number("key", &id), permissions })
    }
}

/// `X-API-Key: KEY`, or `Authorization: apikey KEY`. A key in the address would stand in logs, and is not taken.
fn api_key(parts: &Parts) -> Option<&str> {
    if let Some(key) = parts.headers.get("x-api-key") {
        return key.to_str().ok();
    }
    let (scheme, key) = parts.headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("apikey").then_some(key.trim())
}
