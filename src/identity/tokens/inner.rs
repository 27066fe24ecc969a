//! What is in force at one moment: keys, issuers and rules, replaced together.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
};

use dzvin_actors::platform::ports::AuthError;
use dzvin_protocols::identity::{
    Audience, ClaimError, ClaimRules, Claims, Compact, Family, MAX_PERMISSIONS, PermissionError, Permissions,
    SubscriptionClaims,
};

use super::{
    LEEWAY_SECONDS,
    rules::{IdentityError, MAX_KEYS, TokenRules},
};
use crate::identity::{
    issuer::{Issuer, Now},
    keys::{self, SigningKey},
    setup::Setup,
    views::RoleViews,
};

/// Most sets of roles whose rights are remembered: as many as organisations have; tokens with other sets have rights of their own.
const MAX_ROLE_SETS: usize = 256;

/// Keys and rules that are in force together.
pub(super) struct Inner {
    pub(super) keys: Vec<SigningKey>,
    /// Those of subscriptions' tokens; empty: the same.
    pub(super) subscription_keys: Vec<SigningKey>,
    pub(super) issuers: Vec<Arc<Issuer>>,
    rules: TokenRules,
    claim_rules: ClaimRules,
    pub(super) views: RoleViews,
    /// What a client without a token may do; `None`: there are no such clients.
    pub(super) anonymous: Option<Arc<Permissions>>,
    /// What sets of roles grant, as tokens have named them.
    of_roles: RwLock<HashMap<Vec<String>, Arc<Permissions>>>,
}

/// What a token is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    Connection,
    Subscription,
}

/// A token whose signature is good.
pub(super) struct Signed {
    pub(super) payload: Vec<u8>,
    /// Who signed it; `None`: we.
    pub(super) by: Option<Arc<Issuer>>,
}

/// A token that is not known to be good.
pub(super) enum Open<'a> {
    Refused,
    /// The issuer's keys have to be asked for.
    Ask(Arc<Issuer>, Box<Compact<'a>>, Vec<u8>),
}

fn auth_error(error: ClaimError) -> AuthError {
    if error == ClaimError::Expired { AuthError::Expired } else { AuthError::Invalid }
}

impl Inner {
    pub(super) fn new(setup: Setup, known: &[Arc<Issuer>]) -> Result<Self, IdentityError> {
        let Setup { keys, subscription_keys, issuers, rules, anonymous, pace, guard: _ } = setup;
        for keys in [&keys, &subscription_keys] {
            let same_id = keys.len() == 2 && keys.first().map(|k| &k.id) == keys.last().map(|k| &k.id);
            if keys.len() > MAX_KEYS || same_id {
                return Err(IdentityError::Keys);
            }
        }
        if keys.is_empty() && issuers.is_empty() {
            return Err(IdentityError::Keys);
        }
        let role = |role: &str, all: &[String]| {
            Permissions::granted(all.iter().map(String::as_str))
                .map_err(|source| IdentityError::Role { role: role.to_owned(), source })
        };
        for (name, all) in &rules.roles {
            role(name, all)?;
        }
        let views = RoleViews::read(&rules.views)?;
        let anonymous = anonymous.map(|name| {
            let granted = name.as_ref().and_then(|name| rules.roles.get(name)).map_or(&[][..], Vec::as_slice);
            let all = role(name.as_deref().unwrap_or_default(), granted)?;
            let seen = views.of(&[(name.as_deref(), all.clone())]);
            Ok::<_, IdentityError>(Arc::new(all.with_views(seen)))
        });
        let issuers = issuers.iter().map(|config| {
            let same = known.iter().find(|issuer| issuer.config() == config);
            same.map_or_else(|| Issuer::new(config, LEEWAY_SECONDS, pace).map(Arc::new), |same| Ok(Arc::clone(same)))
        });
        let (issuer, audience) = (rules.issuer.clone(), rules.audience.clone());
        Ok(Self {
            issuers: issuers.collect::<Result<_, _>>()?,
            anonymous: anonymous.transpose()?,
            keys,
            subscription_keys,
            rules,
            views,
            claim_rules: ClaimRules { leeway: LEEWAY_SECONDS, issuer, audience },
            of_roles: RwLock::default(),
        })
    }

    pub(super) fn keys_for(&self, purpose: Purpose) -> &[SigningKey] {
        match purpose {
            Purpose::Subscription if !self.subscription_keys.is_empty() => &self.subscription_keys,
            _ => &self.keys,
        }
    }

    pub(super) fn knows_role(&self, role: &str) -> bool {
        self.rules.roles.contains_key(role)
    }

    pub(super) fn fill(&self, issuer: &mut Option<String>, audience: &mut Audience) {
        if issuer.is_none() {
            issuer.clone_from(&self.rules.issuer);
        }
        if let (true, Some(name)) = (audience.is_empty(), &self.rules.audience) {
            *audience = Audience::One(name.clone());
        }
    }

    /// Checks the signature with what is known.
    pub(super) fn signed<'a>(&self, token: &'a str, purpose: Purpose) -> Result<Signed, Open<'a>> {
        let refused = |_| Open::Refused;
        let compact = Compact::parse(token).map_err(refused)?;
        if compact.algorithm.family() == Family::Hmac {
            if !keys::signed_by_us(self.keys_for(purpose), &compact) {
                return Err(Open::Refused);
            }
            return Ok(Signed { payload: compact.payload().map_err(refused)?, by: None });
        }
        if self.issuers.is_empty() {
            return Err(Open::Refused);
        }
        let payload = compact.payload().map_err(refused)?;
        let named = Compact::claimed_issuer(&payload).ok_or(Open::Refused)?;
        let of = |issuer: &&Arc<Issuer>| {
            let config = issuer.config();
            let serves = match purpose {
                Purpose::Connection => config.connections,
                Purpose::Subscription => config.subscriptions,
            };
            serves && config.issuer == *named
        };
        let issuer = Arc::clone(self.issuers.iter().find(of).ok_or(Open::Refused)?);
        match issuer.check(&compact) {
            Now::Signed => Ok(Signed { payload, by: Some(issuer) }),
            Now::Refused => Err(Open::Refused),
            Now::Later => Err(Open::Ask(issuer, Box::new(compact), payload)),
        }
    }

    pub(super) fn claims(&self, signed: &Signed, now: i64) -> Result<Claims, AuthError> {
        let (claims, rules) = match &signed.by {
            None => (serde_json::from_slice(&signed.payload).ok(), &self.claim_rules),
            Some(issuer) => (issuer.names.read(&signed.payload), &issuer.rules),
        };
        let claims: Claims = claims.ok_or(AuthError::Invalid)?;
        claims.check(now, rules).map_err(auth_error)?;
        Ok(claims)
    }

    pub(super) fn subscription_claims(
        &self,
        signed: &Signed,
        user: &str,
        channel: &str,
        now: i64,
    ) -> Result<SubscriptionClaims, AuthError> {
        let mut claims: SubscriptionClaims = serde_json::from_slice(&signed.payload).map_err(|_| AuthError::Invalid)?;
        let rules = match &signed.by {
            None => &self.claim_rules,
            Some(issuer) => {
                claims.sub = issuer.names.user(&claims.sub);
                &issuer.rules
            }
        };
        claims.check(user, channel, now, rules).map_err(auth_error)?;
        Ok(claims)
    }

    /// When the subscription ends. An issuer's token is good for so long after it was made, whatever it says itself; one that does
    /// not say when it was made has to end within that time from now.
    ///
    /// # Errors
    /// Expired when that is over; invalid when nobody can say when it would be.
    pub(super) fn end_of(
        &self,
        signed: &Signed,
        claims: &SubscriptionClaims,
        now: i64,
    ) -> Result<Option<i64>, AuthError> {
        let ends = claims.ends_at();
        let longest = signed.by.as_ref().map(|issuer| issuer.config().max_subscription_lifetime);
        let Some(longest) = longest.filter(|longest| !longest.is_zero()) else { return Ok(ends) };
        let longest = i64::try_from(longest.as_secs()).unwrap_or(i64::MAX);
        let last = match claims.iat {
            // It would begin anew at each use, and no revocation by its time would ever meet it.
            Some(made) if made > now.saturating_add(LEEWAY_SECONDS) => return Err(AuthError::Invalid),
            Some(made) => made.min(now).saturating_add(longest),
            None if ends.is_some_and(|ends| ends <= now.saturating_add(longest)) => return Ok(ends),
            None => return Err(AuthError::Invalid),
        };
        if last.saturating_add(LEEWAY_SECONDS) <= now {
            return Err(AuthError::Expired);
        }
        Ok(Some(ends.map_or(last, |ends| ends.min(last))))
    }

    /// Tokens of the same roles share what these grant: thousands of sessions have few sets of rights.
    pub(super) fn shared_permissions(&self, claims: &Claims) -> Result<Arc<Permissions>, PermissionError> {
        if !claims.permissions.is_empty() {
            return self.permissions(claims).map(Arc::new);
        }
        let known = |of_roles: &HashMap<Vec<String>, Arc<Permissions>>| of_roles.get(&claims.roles).cloned();
        if let Some(known) = known(&self.of_roles.read().unwrap_or_else(PoisonError::into_inner)) {
            return Ok(known);
        }
        let made = Arc::new(self.permissions(claims)?);
        let mut of_roles = self.of_roles.write().unwrap_or_else(PoisonError::into_inner);
        if of_roles.len() < MAX_ROLE_SETS {
            of_roles.insert(claims.roles.clone(), Arc::clone(&made));
        }
        Ok(made)
    }

    /// Unknown roles grant nothing: a token may carry roles meant for another system.
    fn permissions(&self, claims: &Claims) -> Result<Permissions, PermissionError> {
        let of_roles =
            claims.roles.iter().take(MAX_PERMISSIONS).filter_map(|role| self.rules.roles.get(role)).flatten();
        // Those of the token itself are counted; what roles grant is ours to say.
        Permissions::parse(claims.permissions.iter().map(String::as_str))?;
        let all = Permissions::granted(of_roles.chain(&claims.permissions).map(String::as_str))?;
        if self.views.are_none() {
            return Ok(all);
        }
        let of = |granted: &[String]| Permissions::granted(granted.iter().map(String::as_str));
        let mut grants = vec![(None, of(&claims.permissions)?)];
        for role in claims.roles.iter().take(MAX_PERMISSIONS) {
            if let Some(granted) = self.rules.roles.get(role) {
                grants.push((Some(role.as_str()), of(granted)?));
            }
        }
        Ok(all.with_views(self.views.of(&grants)))
    }
}
