//! `[identity]`: keys, issuers, the login of the console, roles and revocations.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use dzvin_protocols::{
    identity::Algorithm,
    platform::{Kind, units::duration},
};
use serde::{Deserialize, Serialize};

use super::super::values::{Secret, SecretUrl};
use crate::identity::{TokenRules, guard::GuardRules};

/// `[identity]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct IdentityConfig {
    /// One or two; the first signs, both verify. `serve` needs one, or an issuer.
    pub keys: Vec<KeyConfig>,
    /// One or two for the tokens of subscriptions; without them those of `keys`.
    pub subscription_keys: Vec<KeyConfig>,
    /// Required `iss`.
    pub issuer: Option<String>,
    /// Required `aud`.
    pub audience: Option<String>,
    /// Whether clients may connect without a token.
    pub anonymous: bool,
    /// What they may do; without it nothing that is not open to everybody.
    pub anonymous_role: Option<String>,
    /// Permissions of each role. Naming any role replaces the whole table.
    pub roles: BTreeMap<String, Vec<String>>,
    /// What roles see of kinds that they may read: role, kind, view.
    pub views: ViewsConfig,
    /// Others whose tokens are taken.
    pub issuers: Vec<IssuerConfig>,
    /// Where the console's users sign in; without it they bring a token.
    pub login: Option<LoginConfig>,
    /// Servers that call the publish API.
    pub api_keys: Vec<ApiKeyConfig>,
    /// When failed attempts are too many.
    pub guard: GuardConfig,
    /// What was done and refused.
    pub audit: AuditConfig,
}

impl Default for IdentityConfig {
    fn default() -> Self {
        let TokenRules { issuer, audience, roles, views } = TokenRules::default();
        let (keys, subscription_keys, issuers, api_keys) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Self {
            keys,
            subscription_keys,
            issuer,
            audience,
            anonymous: false,
            anonymous_role: None,
            roles,
            views,
            issuers,
            login: None,
            api_keys,
            guard: GuardConfig::default(),
            audit: AuditConfig::default(),
        }
    }
}

/// `[identity.guard]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct GuardConfig {
    /// Failed attempts of one address within the window after which it has to wait; 0: any number.
    pub failures: u32,
    /// The same of one token at one address.
    pub token_failures: u32,
    /// The window.
    #[serde(with = "duration")]
    pub window: Duration,
    /// The longest wait.
    #[serde(with = "duration")]
    pub longest_wait: Duration,
}

impl Default for GuardConfig {
    fn default() -> Self {
        let GuardRules { failures, token_failures, window, longest_wait } = GuardRules::default();
        Self { failures, token_failures, window, longest_wait }
    }
}

impl GuardConfig {
    /// The same as the room has it.
    #[must_use]
    pub const fn rules(&self) -> GuardRules {
        let Self { failures, token_failures, window, longest_wait } = *self;
        GuardRules { failures, token_failures, window, longest_wait }
    }
}

/// `[identity.audit]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct AuditConfig {
    /// Days for which rows are kept, at least 1.
    pub keep_days: u16,
}

impl Default for AuditConfig {
    /// A year: until the next audit.
    fn default() -> Self {
        Self { keep_days: 365 }
    }
}

/// `[identity.views]`: role, kind, view.
pub type ViewsConfig = BTreeMap<String, BTreeMap<Kind, ViewConfig>>;

/// `[identity.views.ROLE.KIND]`: what a role does not see of a kind.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct ViewConfig {
    /// Hidden fields, as dotted paths or JSON Pointers.
    pub mask: Vec<String>,
    /// The filter, as of queries, that rows must meet to be seen; the text `$user` is the caller's id.
    pub rows: Option<String>,
}

/// `[[identity.keys]]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct KeyConfig {
    /// Written into tokens as `kid`.
    pub id: String,
    /// HS256, HS384 or HS512.
    #[serde(default = "KeyConfig::default_algorithm")]
    pub algorithm: Algorithm,
    /// At least as many bytes as the hash has: 32, 48 or 64.
    pub secret: Option<Secret>,
    /// A file that holds `secret`.
    pub secret_file: Option<PathBuf>,
}

impl KeyConfig {
    fn default_algorithm() -> Algorithm {
        Algorithm::Hs256
    }

    /// A secret for HS256.
    #[must_use]
    pub fn new(id: &str, secret: Secret) -> Self {
        Self { id: id.to_owned(), algorithm: Self::default_algorithm(), secret: Some(secret), secret_file: None }
    }
}

/// `[[identity.issuers]]`: one of `jwks_url`, `jwks_file`, `discovery` and `keys`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct IssuerConfig {
    /// The `iss` of its tokens, exactly.
    pub issuer: String,
    /// The `aud` that its tokens must have: those for other applications are not for us.
    pub audience: String,
    /// Where its set of keys is.
    pub jwks_url: Option<SecretUrl>,
    /// A file that holds its set of keys, read again each minute.
    pub jwks_file: Option<PathBuf>,
    /// Whether the address of the set stands in the issuer's own description (OpenID Connect).
    #[serde(default)]
    pub discovery: bool,
    /// Whether keys may be fetched over plain HTTP from another machine.
    #[serde(default)]
    pub insecure_http: bool,
    /// What its keys may be used with.
    #[serde(default = "IssuerConfig::default_algorithms")]
    pub algorithms: Vec<Algorithm>,
    /// Whether its tokens connect clients.
    #[serde(default = "IssuerConfig::yes")]
    pub connections: bool,
    /// Whether its tokens open subscriptions.
    #[serde(default)]
    pub subscriptions: bool,
    /// How long a token that opens a subscription is good after it was made, whatever it says itself; 0: as long as it says.
    #[serde(default = "IssuerConfig::day", with = "duration")]
    pub max_subscription_lifetime: Duration,
    /// Whether its tokens may name permissions and channels beside roles.
    #[serde(default)]
    pub trusted: bool,
    /// The claim that names the user, a name or a dotted path.
    #[serde(default = "IssuerConfig::default_subject")]
    pub subject_claim: String,
    /// What its users' ids begin with here, where those of several issuers could meet.
    #[serde(default)]
    pub subject_prefix: String,
    /// The claim that names the roles: a list, or a text with spaces between.
    #[serde(default = "IssuerConfig::default_roles")]
    pub roles_claim: String,
    /// Its names of roles, and ours. Where there are any, no other counts.
    #[serde(default)]
    pub roles: BTreeMap<String, String>,
    /// Its keys themselves.
    #[serde(default)]
    pub keys: Vec<PublicKeyConfig>,
}

impl IssuerConfig {
    /// All but secrets: an issuer's keys are public.
    fn default_algorithms() -> Vec<Algorithm> {
        Algorithm::ALL.into_iter().filter(|algorithm| algorithm.min_secret() == 0).collect()
    }

    fn yes() -> bool {
        true
    }

    /// A working day and its night: whoever leaves in the evening is gone the next.
    fn day() -> Duration {
        Duration::from_secs(24 * 3600)
    }

    fn default_subject() -> String {
        "sub".to_owned()
    }

    fn default_roles() -> String {
        "roles".to_owned()
    }
}

/// `[identity.login]`: what the console, which has no secret, says to one of the issuers (OpenID Connect, code with PKCE).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct LoginConfig {
    /// One of `identity.issuers`, by its name.
    pub issuer: String,
    /// What the issuer calls the console.
    pub client_id: String,
    /// What is asked for, words with spaces between; `openid` is among them.
    #[serde(default = "LoginConfig::default_scope")]
    pub scope: String,
    /// What the access token is to be for (RFC 8707), where the issuer wants to be told.
    pub resource: Option<String>,
    /// Which of the issuer's tokens the console brings.
    #[serde(default)]
    pub token: LoginToken,
    /// Where else than at its own origin the issuer hands out tokens: the page may ask there too.
    #[serde(default)]
    pub origins: Vec<String>,
}

impl LoginConfig {
    fn default_scope() -> String {
        "openid".to_owned()
    }
}

/// Which of an issuer's tokens is the bearer here.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LoginToken {
    /// The access token, which must be a JWT.
    #[default]
    Access,
    /// The ID token, where access tokens are opaque. It is for the client, so `audience` of the issuer is `client_id`.
    Id,
}

/// `[[identity.issuers.keys]]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct PublicKeyConfig {
    /// How tokens call it (`kid`); without it any token may mean it.
    pub id: Option<String>,
    /// What it is used with, and nothing else.
    pub algorithm: Algorithm,
    /// A PEM section `PUBLIC KEY`.
    pub pem: Option<String>,
    /// A file that holds `pem`.
    pub pem_file: Option<PathBuf>,
}

/// `[[identity.api_keys]]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ApiKeyConfig {
    /// What logs call it.
    pub id: String,
    /// At least 32 bytes.
    pub secret: Option<Secret>,
    /// A file that holds `secret`.
    pub secret_file: Option<PathBuf>,
    /// What it may do.
    #[serde(default = "ApiKeyConfig::default_permissions")]
    pub permissions: Vec<String>,
}

impl ApiKeyConfig {
    fn default_permissions() -> Vec<String> {
        vec!["channels:*:*".to_owned(), "connections:*:*".to_owned()]
    }
}
