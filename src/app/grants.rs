//! What declared kinds grant to roles, in force on this node as soon as it has heard of them.

use std::sync::Arc;

use dzvin_actors::channels::Shards;

use super::reload::RECALL;
use crate::{
    entities::Entities,
    identity::{Grants, Verifier},
    platform::http::chain,
};

/// Of all kinds together.
fn granted(entities: &Entities) -> Grants {
    let mut all = Grants::new();
    for spec in entities.specs() {
        for (role, actions) in &spec.declaration.grants {
            let of_kind = actions.iter().map(|action| format!("entities:{}:{}", action.as_str(), spec.kind));
            all.entry(role.clone()).or_default().extend(of_kind);
        }
    }
    all
}

/// Puts them into force; answers whether they are others than before.
pub(super) fn take(entities: &Entities, verifier: &Verifier) -> bool {
    verifier.take_grants(granted(entities)).unwrap_or_else(|error| {
        tracing::error!(error = chain(&error), "what kinds grant cannot be put into force; it stays as it was");
        false
    })
}

/// The same with every declaration. Sessions that were granted something else begin again.
pub(super) async fn follow(entities: Entities, verifier: Arc<Verifier>, shards: Shards) {
    let mut redeclared = entities.redeclared();
    // What was declared since it was taken at the start is heard of here at the latest.
    loop {
        if take(&entities, &verifier) {
            tracing::info!("kinds grant something else: every session connects again");
            shards.hush();
            shards.recall(RECALL);
        }
        if !redeclared.changed().await {
            return;
        }
    }
}
