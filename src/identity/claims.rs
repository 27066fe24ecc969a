//! What a token of an issuer means here: its subject becomes a user, the names in one of its claims become roles.
//!
//! Invariants: only an issuer that is trusted speaks of permissions and channels; from any other only the registered claims
//! and the roles are read, and its tokens must end.

use std::collections::BTreeMap;

use dzvin_protocols::identity::{ACCOUNT_PREFIX, Audience, Claims};
use serde::Deserialize;
use serde_json::{Value, value::RawValue};

use crate::platform::config::IssuerConfig;

/// Most roles that are read of a token: above it they are somebody's whole directory.
const MAX_ROLES: usize = 256;

/// Where an issuer's tokens say what we want to know.
#[derive(Debug, Clone)]
pub(super) struct ClaimNames {
    trusted: bool,
    subject: String,
    subject_prefix: String,
    roles: String,
    /// What its names are called here; empty: the same.
    renamed: BTreeMap<String, String>,
}

/// The claims that RFC 7519 registers, and nothing else of the token.
#[derive(Deserialize)]
struct Registered {
    #[serde(default)]
    exp: Option<Value>,
    #[serde(default)]
    iat: Option<Value>,
    #[serde(default)]
    nbf: Option<Value>,
    #[serde(default)]
    jti: Option<String>,
    #[serde(default)]
    iss: Option<String>,
    #[serde(default)]
    aud: Audience,
}

impl ClaimNames {
    pub(super) fn of(config: &IssuerConfig) -> Self {
        Self {
            trusted: config.trusted,
            subject: config.subject_claim.clone(),
            subject_prefix: config.subject_prefix.clone(),
            roles: config.roles_claim.clone(),
            renamed: config.roles.clone(),
        }
    }

    /// The claims of a payload whose signature is good; `None` when they cannot be used.
    pub(super) fn read(&self, payload: &[u8]) -> Option<Claims> {
        let all: Value = serde_json::from_slice(payload).ok()?;
        let mut claims = if self.trusted { self.trusted(payload, &all)? } else { untrusted(&all)? };
        let subject = found(&all, &self.subject)?.as_str().filter(|subject| !subject.is_empty())?;
        claims.sub = self.user(subject);
        // Nobody else is what a service account is called.
        if claims.sub.starts_with(ACCOUNT_PREFIX) {
            return None;
        }
        claims.roles = self.roles(found(&all, &self.roles));
        Some(claims)
    }

    /// The user that a subject of this issuer is here.
    pub(super) fn user(&self, subject: &str) -> String {
        format!("{}{subject}", self.subject_prefix)
    }

    /// Ours in form, but for the claims that are configured: those may have any form.
    fn trusted(&self, payload: &[u8], all: &Value) -> Option<Claims> {
        if self.roles == "roles" && self.subject == "sub" {
            // A list of names, or one text with spaces between, is read below.
            if all.get("roles").is_none_or(Value::is_array) {
                return serde_json::from_slice(payload).ok();
            }
        }
        // What is not ours to read is left out; the rest stays as it was written.
        let mut all: BTreeMap<String, &RawValue> = serde_json::from_slice(payload).ok()?;
        all.retain(|name, _| name != "roles" && name != "sub");
        serde_json::from_str(&serde_json::to_string(&all).ok()?).ok()
    }

    /// A list of names, or names with spaces between; what is renamed passes only under its new name.
    fn roles(&self, claim: Option<&Value>) -> Vec<String> {
        let named: Vec<&str> = match claim {
            Some(Value::Array(all)) => all.iter().filter_map(Value::as_str).take(MAX_ROLES).collect(),
            Some(Value::String(text)) => text.split_ascii_whitespace().take(MAX_ROLES).collect(),
            _ => Vec::new(),
        };
        if self.renamed.is_empty() {
            return named.into_iter().map(str::to_owned).collect();
        }
        named.into_iter().filter_map(|name| self.renamed.get(name)).cloned().collect()
    }
}

/// Only the registered claims, and an end.
fn untrusted(all: &Value) -> Option<Claims> {
    let Registered { exp, iat, nbf, jti, iss, aud } = Registered::deserialize(all).ok()?;
    // Through our own reader of times.
    let times = serde_json::json!({ "exp": exp?, "iat": iat, "nbf": nbf });
    let times: Claims = serde_json::from_str(&times.to_string()).ok()?;
    times.exp?;
    // A subscription's token connects nobody, whoever made it: the check of claims sees to that.
    let channel = all.get("channel").filter(|channel| !channel.is_null()).map(ToString::to_string);
    Some(Claims { jti, iss, aud, channel, ..times })
}

/// A claim by its name, or by a dotted path: names of claims may be addresses, with dots in them.
fn found<'a>(all: &'a Value, name: &str) -> Option<&'a Value> {
    all.get(name).or_else(|| name.split('.').try_fold(all, |at, part| at.get(part)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn names(more: &str) -> ClaimNames {
        let text =
            format!("issuer = 'https://id.example'\naudience = 'dzvin'\njwks_url = 'https://id.example/k'\n{more}");
        ClaimNames::of(&toml::from_str(&text).expect("an issuer"))
    }

    fn read(names: &ClaimNames, payload: &Value) -> Option<Claims> {
        names.read(payload.to_string().as_bytes())
    }

    #[test]
    fn only_a_trusted_issuer_grants() {
        let payload = json!({"sub": "olha", "exp": 9, "iat": 7.5, "jti": "t", "iss": "i", "aud": ["a"], "roles": ["viewer"],
            "permissions": ["*"], "channels": ["secret"], "subs": {"other": {}}, "channel": "x", "expire_at": 0, "info": {"n": 1}});
        let claims = read(&names(""), &payload).expect("claims");
        assert_eq!(
            (&*claims.sub, claims.exp, claims.iat, claims.jti.as_deref()),
            ("olha", Some(9), Some(7), Some("t"))
        );
        assert_eq!((claims.roles, claims.aud.contains("a")), (vec!["viewer".to_owned()], true));
        assert!(claims.permissions.is_empty() && claims.channels.is_empty() && claims.subs.is_empty());
        assert!(claims.expire_at.is_none() && claims.info.is_none());
        assert!(claims.channel.is_some(), "so that it is not taken for a connection's token");
        let claims = read(&names("trusted = true"), &payload).expect("claims");
        assert_eq!((claims.permissions, claims.channels), (vec!["*".to_owned()], vec!["secret".to_owned()]));
        assert_eq!((claims.subs.len(), claims.info.expect("info").get()), (1, r#"{"n":1}"#));
    }

    #[test]
    fn roles_and_subjects_are_where_the_configuration_says() {
        let keycloak = names(
            "roles_claim = 'realm_access.roles'\nsubject_claim = 'preferred_username'\nsubject_prefix = 'kc-'\n[roles]\nboss = 'admin'",
        );
        let payload = json!({"sub": "b7", "preferred_username": "olha", "exp": 9, "realm_access": {"roles": ["boss", "admin", 7]}});
        let claims = read(&keycloak, &payload).expect("claims");
        assert_eq!((&*claims.sub, claims.roles), ("kc-olha", vec!["admin".to_owned()]), "renamed names alone pass");
        let dotted = names("roles_claim = 'https://id.example/roles'\ntrusted = true");
        let payload = json!({"sub": "u", "exp": 9, "https://id.example/roles": "viewer operator", "roles": {"x": 1}});
        let claims = read(&dotted, &payload).expect("claims");
        assert_eq!(claims.roles, ["viewer", "operator"]);
        assert!(read(&names(""), &json!({"sub": "u", "exp": 9, "roles": {"x": 1}})).expect("claims").roles.is_empty());
    }

    #[test]
    fn claims_of_wrong_forms_are_none() {
        let names = names("");
        for bad in [
            json!({"sub": "u"}),
            json!({"sub": "", "exp": 9}),
            json!({"sub": 7, "exp": 9}),
            json!({"sub": "svc-import", "exp": 9}),
            json!({"exp": 9}),
            json!({"sub": "u", "exp": "9"}),
            json!({"sub": "u", "exp": -1}),
            json!({"sub": "u", "exp": 9, "jti": 1}),
            json!({"sub": "u", "exp": null}),
            json!([]),
        ] {
            assert!(read(&names, &bad).is_none(), "{bad}");
        }
        assert!(names.read(b"{").is_none());
    }
}
