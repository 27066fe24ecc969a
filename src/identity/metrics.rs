//! What is counted of tokens, keys and revocations.

use std::sync::Arc;

use dzvin_actors::platform::ports::AuthError;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use super::views::RoleViews;
use crate::platform::telemetry::ResultLabel;

/// An issuer of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct IssuerLabel {
    issuer: String,
}

/// A kind of which not everybody sees everything.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabel {
    kind: String,
}

/// A fetch from an issuer.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FetchLabel {
    issuer: String,
    #[prometheus(flatten)]
    result: ResultLabel,
}

/// Tokens, keys and revocations.
#[derive(Clone)]
pub struct IdentityMetrics {
    tokens: Family<ResultLabel, Counter>,
    /// Looked up once: every connect counts.
    of_results: Arc<[Counter; 5]>,
    fetches: Family<FetchLabel, Counter>,
    keys: Family<IssuerLabel, Gauge>,
    masks: Family<KindLabel, Gauge>,
    pub(super) revocations: Gauge,
    pub(super) revocation_errors: Counter,
}

const RESULTS: [&str; 5] = ["ok", "expired", "invalid", "unavailable", "revoked"];

impl Default for IdentityMetrics {
    fn default() -> Self {
        let tokens = Family::<ResultLabel, Counter>::default();
        let of_results = Arc::new(RESULTS.map(|result| tokens.get_or_create(&ResultLabel { result }).clone()));
        Self {
            tokens,
            of_results,
            fetches: Family::default(),
            keys: Family::default(),
            masks: Family::default(),
            revocations: Gauge::default(),
            revocation_errors: Counter::default(),
        }
    }
}

impl IdentityMetrics {
    /// Registers all under `identity_`.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("identity");
        registry.register("tokens", "Tokens that were checked", self.tokens.clone());
        registry.register("key_fetches", "Fetches of an issuer's keys", self.fetches.clone());
        registry.register("keys", "Keys of an issuer", self.keys.clone());
        registry.register(
            "masks",
            "Field masks of a kind, those of users with several roles included",
            self.masks.clone(),
        );
        registry.register("revocations", "Revocations in force on this node", self.revocations.clone());
        registry.register("revocation_errors", "Failed attempts to read revocations", self.revocation_errors.clone());
    }

    /// What a token came to.
    pub(super) fn checked<T>(&self, result: &Result<T, AuthError>) {
        let place = match result {
            Ok(_) => 0,
            Err(AuthError::Expired) => 1,
            Err(AuthError::Invalid) => 2,
            // Nobody has looked at it where there were too many.
            Err(AuthError::Unavailable | AuthError::TooMany(_)) => 3,
        };
        self.count(place);
    }

    /// A token that would have been good. It is counted as invalid as well: that is what its bearer is told.
    pub(super) fn revoked(&self) {
        self.count(4);
    }

    fn count(&self, place: usize) {
        if let Some(counter) = self.of_results.get(place) {
            counter.inc();
        }
    }

    pub(super) fn fetched(&self, issuer: &str, good: bool) {
        let result = if good { "ok" } else { "failed" };
        self.fetches.get_or_create(&FetchLabel { issuer: issuer.to_owned(), result: ResultLabel { result } }).inc();
    }

    /// The masks in force instead of those before.
    pub(super) fn masks(&self, views: &RoleViews) {
        self.masks.clear();
        for (kind, count) in views.counts() {
            let label = KindLabel { kind: kind.to_string() };
            self.masks.get_or_create(&label).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    pub(super) fn keys(&self, issuer: &str, count: usize) {
        let label = IssuerLabel { issuer: issuer.to_owned() };
        self.keys.get_or_create(&label).set(i64::try_from(count).unwrap_or(i64::MAX));
    }
}
