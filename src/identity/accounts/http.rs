//! `/api/v1/service-accounts`: accounts and their tokens, for whoever has `identity:accounts:{name}`, and `identity:grant:{role}` for each
//! role that is handed out.

use std::sync::Arc;

use axum::{
    Extension, Json, Router,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{delete, get},
};
use dzvin_protocols::{
    identity::Permissions,
    platform::{Kind, time::rfc3339_millis},
};
use serde::{Deserialize, Serialize};
use time::{Duration, OffsetDateTime};

use super::{
    Accounts, MAX_ACCOUNTS, MAX_TOKENS,
    store::{Account, TokenRow, Wanted},
    token::shown,
    user_of,
};
use crate::{
    identity::{Caller, Verifier, audit::Who},
    platform::http::Problem,
};

/// How long a token lasts when nobody says: a quarter, as long as people remember what it was for.
const LASTS: Duration = Duration::days(90);
/// The longest: a token that nobody rotates within a year is forgotten.
const LONGEST: Duration = Duration::days(366);
/// Longest label.
const MAX_LABEL: usize = 100;
/// Longest description.
const MAX_DESCRIPTION: usize = 500;
/// Longest scope: three parts of up to 64 bytes.
const MAX_SCOPE: usize = 194;
/// Most roles of an account, and scopes of a token.
const MAX_NAMES: usize = 64;

/// The resource.
pub fn router(accounts: Accounts) -> Router {
    Router::new()
        .route("/api/v1/service-accounts", get(list).post(create))
        .route("/api/v1/service-accounts/{name}", delete(disable))
        .route("/api/v1/service-accounts/{name}/tokens", get(tokens).post(issue))
        .route("/api/v1/service-accounts/{name}/tokens/{id}", delete(take_back))
        .with_state(accounts)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewAccount {
    name: String,
    roles: Vec<String>,
    #[serde(default)]
    description: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewToken {
    label: String,
    #[serde(default)]
    scopes: Vec<String>,
    #[serde(default, with = "time::serde::rfc3339::option")]
    expires_at: Option<OffsetDateTime>,
}

#[derive(Serialize)]
struct AccountItem {
    user: String,
    name: String,
    roles: Vec<String>,
    description: String,
    created_at: String,
    created_by: String,
    disabled_at: Option<String>,
}

impl From<Account> for AccountItem {
    fn from(account: Account) -> Self {
        Self {
            user: user_of(&account.name),
            name: account.name,
            roles: account.roles,
            description: account.description,
            created_at: rfc3339_millis(account.created_at),
            created_by: account.created_by,
            disabled_at: account.disabled_at.map(rfc3339_millis),
        }
    }
}

#[derive(Serialize)]
struct TokenItem {
    id: String,
    prefix: String,
    label: String,
    scopes: Vec<String>,
    created_at: String,
    created_by: String,
    expires_at: String,
    last_used_at: Option<String>,
    revoked_at: Option<String>,
    /// Only where it was just made.
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<String>,
}

impl TokenItem {
    fn of(row: TokenRow, token: Option<String>) -> Self {
        Self {
            prefix: shown(&row.id),
            id: row.id,
            label: row.label,
            scopes: row.scopes,
            created_at: rfc3339_millis(row.created_at),
            created_by: row.created_by,
            expires_at: rfc3339_millis(row.expires_at),
            last_used_at: row.last_used_at.map(rfc3339_millis),
            revoked_at: row.revoked_at.map(rfc3339_millis),
            token,
        }
    }
}

fn unfit(detail: impl Into<String>) -> Problem {
    Problem::unprocessable("bad_account", detail)
}

fn unknown() -> Problem {
    Problem::not_found("unknown_account", "there is no such service account, or it is disabled")
}

fn permitted(caller: &Caller, name: &str) -> Result<(), Problem> {
    caller.require("identity", "accounts", name)?;
    // What cannot be a name is nobody's, and the database may not even be asked for it.
    Kind::new(name).map(drop).map_err(|_| unknown())
}

/// Who changes the account of that name.
fn manager<'a>(caller: &'a Caller, name: &str) -> Result<&'a Who, Problem> {
    permitted(caller, name)?;
    caller.require_user("in whose name something could be changed").map(|_| &caller.who)
}

/// Nobody hands out what they may not grant; and who is less than their roles could make more of themselves.
fn may_grant(caller: &Caller, roles: &[String]) -> Result<(), Problem> {
    if caller.permissions.is_narrowed() {
        return Err(Problem::forbidden("identity:grant by a token without scopes"));
    }
    roles.iter().try_for_each(|role| caller.require("identity", "grant", role))
}

fn plain(what: &str, text: &str, most: usize) -> Result<(), Problem> {
    let fits = text.len() <= most && !text.chars().any(char::is_control);
    if fits { Ok(()) } else { Err(unfit(format!("{what} is up to {most} bytes without control characters"))) }
}

async fn list(State(accounts): State<Accounts>, caller: Caller) -> Result<Response, Problem> {
    let all = accounts.list(None).await?.into_iter();
    let seen = all.filter(|account| permitted(&caller, &account.name).is_ok());
    let items: Vec<AccountItem> = seen.map(AccountItem::from).collect();
    Ok(Json(serde_json::json!({ "items": items })).into_response())
}

async fn create(
    State(accounts): State<Accounts>,
    Extension(verifier): Extension<Arc<Verifier>>,
    caller: Caller,
    Json(wanted): Json<NewAccount>,
) -> Result<Response, Problem> {
    let NewAccount { name, roles, description } = wanted;
    // The alphabet of kinds is that of names in addresses.
    Kind::new(&name).map_err(|_| unfit("a name is a letter and up to 40 of a-z, 0-9 and -"))?;
    let who = manager(&caller, &name)?;
    plain("a description", &description, MAX_DESCRIPTION)?;
    if roles.is_empty() || roles.len() > MAX_NAMES {
        return Err(unfit(format!("an account has 1 to {MAX_NAMES} roles")));
    }
    if let Some(role) = roles.iter().find(|role| !verifier.knows_role(role)) {
        return Err(unfit(format!("there is no role {role:.80}")));
    }
    may_grant(&caller, &roles)?;
    let made = accounts.create(&name, &roles, &description, who).await?.ok_or_else(|| {
        let detail = format!("there is, or was, an account of this name, or there are {MAX_ACCOUNTS}");
        Problem::conflict("account_exists", detail)
    })?;
    tracing::info!(account = name, "a service account was made");
    Ok((StatusCode::CREATED, Json(AccountItem::from(made))).into_response())
}

async fn disable(
    State(accounts): State<Accounts>,
    Path(name): Path<String>,
    caller: Caller,
) -> Result<StatusCode, Problem> {
    let who = manager(&caller, &name)?;
    if !accounts.disable(&name, who).await? {
        return Err(unknown());
    }
    tracing::info!(account = name, "a service account was disabled");
    Ok(StatusCode::NO_CONTENT)
}

async fn tokens(
    State(accounts): State<Accounts>,
    Path(name): Path<String>,
    caller: Caller,
) -> Result<Response, Problem> {
    permitted(&caller, &name)?;
    accounts.list(Some(&name)).await?.pop().ok_or_else(unknown)?;
    let items = accounts.tokens(&name).await?.into_iter().map(|row| TokenItem::of(row, None));
    Ok(Json(serde_json::json!({ "items": items.collect::<Vec<_>>() })).into_response())
}

async fn issue(
    State(accounts): State<Accounts>,
    Path(name): Path<String>,
    caller: Caller,
    Json(wanted): Json<NewToken>,
) -> Result<Response, Problem> {
    let who = manager(&caller, &name)?;
    let account = accounts.list(Some(&name)).await?.pop().ok_or_else(unknown)?;
    // Whoever makes a token holds it.
    may_grant(&caller, &account.roles)?;
    let NewToken { label, scopes, expires_at } = wanted;
    plain("a label", &label, MAX_LABEL)?;
    if scopes.len() > MAX_NAMES {
        return Err(unfit(format!("a token has up to {MAX_NAMES} scopes")));
    }
    scopes.iter().try_for_each(|scope| plain("a scope", scope, MAX_SCOPE))?;
    Permissions::parse(scopes.iter().map(String::as_str)).map_err(|error| unfit(error.to_string()))?;
    let now = OffsetDateTime::now_utc();
    let expires_at = expires_at.unwrap_or(now + LASTS);
    if expires_at <= now || expires_at > now + LONGEST {
        return Err(unfit("expires_at is ahead, and by no more than 366 days"));
    }
    let wanted = Wanted { account: &name, label: &label, scopes: &scopes, expires_at, who };
    let (row, token) = accounts.issue(wanted).await?.ok_or_else(|| {
        let detail = format!("the account is disabled, or has {MAX_TOKENS} tokens: take some back");
        Problem::conflict("too_many_tokens", detail)
    })?;
    tracing::info!(account = name, token = row.id, "an API token was made");
    let item = TokenItem::of(row, Some(token));
    let headers = [(axum::http::header::CACHE_CONTROL, "no-store")];
    Ok((StatusCode::CREATED, headers, Json(item)).into_response())
}

async fn take_back(
    State(accounts): State<Accounts>,
    Path((name, id)): Path<(String, String)>,
    caller: Caller,
) -> Result<StatusCode, Problem> {
    let who = manager(&caller, &name)?;
    if id.contains('\0') || !accounts.take_back(&name, &id, who).await? {
        return Err(Problem::not_found("unknown_token", "the account has no such token"));
    }
    tracing::info!(account = name, token = id, "an API token was taken back");
    Ok(StatusCode::NO_CONTENT)
}
