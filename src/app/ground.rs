//! What everything stands on: the database, being alone without Redis, leases, revocations.

use std::sync::Arc;

use dzvin_actors::{channels::Shards, platform::ports::Revoked};
use dzvin_protocols::channels::{Control, Whose};
use prometheus_client::registry::Registry;
use tokio::sync::{broadcast, watch};

use super::{
    AppError,
    background::{Background, Phase},
    settings,
};
use crate::{
    entities::{ChangeListener, Entities, Retention},
    identity::{
        Verifier,
        accounts::Accounts,
        audit::{AuditStore, Notes},
        revocations::{RevocationStore, concerned},
    },
    platform::{alone::Alone, config::Config, db::Database, lease::PgLeases},
};

/// The store and what guards it.
pub(super) struct Ground {
    pub(super) database: Database,
    /// This node's name, as others see it.
    pub(super) owner: Arc<str>,
    pub(super) entities: Entities,
    pub(super) leases: Arc<PgLeases>,
    /// Told when another node serves the database, and there is no Redis.
    pub(super) displaced: watch::Receiver<bool>,
}

impl Ground {
    pub(super) async fn lay(
        config: &Config,
        registry: &mut Registry,
        background: &mut Background,
    ) -> Result<Self, AppError> {
        let db = settings::database_options(config)?;
        let direct = db.listen.clone().unwrap_or_else(|| db.connect.clone());
        let database = Database::new(db);
        database.register(registry);
        let owner: Arc<str> = database.node().into();
        database.guard_identity().await.map_err(AppError::database)?;
        let displaced = if config.redis.url.is_none() {
            keep_alone(Alone::claim(direct, &owner).await?, background)
        } else {
            watch::channel(false).1
        };
        let entities = Entities::open(database.clone(), settings::kinds(config)?).await.map_err(AppError::database)?;
        entities.register(registry);
        views_are_of_kinds(config, &entities);
        let leases = Arc::new(PgLeases::new(database.clone(), Arc::clone(&owner)));
        background.run(ChangeListener::new(entities.clone()).run(background.reached(Phase::Ending)));
        let retention = Retention { days: config.changes.retention_days };
        background.run(entities.clone().keep_kinds(background.reached(Phase::Ending)));
        background.run(entities.clone().keep_derived(background.reached(Phase::Ending)));
        background.run(entities.clone().keep_sorted(background.reached(Phase::Ending)));
        background.run(entities.clone().keep_maintained(retention, background.reached(Phase::Ending)));
        Ok(Self { database, owner, entities, leases, displaced })
    }

    /// Who is revoked, as the database knows it, before anybody is served.
    pub(super) async fn revocations(
        &self,
        verifier: &Arc<Verifier>,
        registry: &mut Registry,
        background: &mut Background,
    ) -> Result<RevocationStore, AppError> {
        verifier.register(registry);
        let (known, counted) = (verifier.revocations().clone(), verifier.metrics().clone());
        let revocations = RevocationStore::new(self.database.clone(), known, counted);
        revocations.load().await.map_err(AppError::database)?;
        background.run(revocations.clone().keep(background.reached(Phase::Ending)));
        background.run(Arc::clone(verifier).keep(background.reached(Phase::Ending)));
        Ok(revocations)
    }

    /// What was refused is written from here on, and what is old removed.
    pub(super) fn audit(
        &self,
        config: &Config,
        notes: &Notes,
        registry: &mut Registry,
        background: &mut Background,
    ) -> AuditStore {
        notes.register(registry);
        let store = AuditStore::new(self.database.clone());
        let keep_days = config.identity.audit.keep_days;
        background.run(notes.clone().keep(store.clone(), keep_days, background.reached(Phase::Ending)));
        store
    }

    /// Callers that are programs, known from here on.
    pub(super) fn accounts(
        &self,
        verifier: &Verifier,
        revocations: &RevocationStore,
        background: &mut Background,
    ) -> Accounts {
        let accounts = Accounts::new(self.database.clone(), revocations.clone());
        verifier.take_accounts(accounts.clone());
        background.run(accounts.clone().keep_used(background.reached(Phase::Ending)));
        accounts
    }
}

/// A kind may be declared later, over the API; a name that is misspelled would hide nothing, and nobody would know.
fn views_are_of_kinds(config: &Config, entities: &Entities) {
    let views = config.identity.views.iter().flat_map(|(role, kinds)| kinds.keys().map(move |kind| (role, kind)));
    for (role, kind) in views.filter(|(_, kind)| entities.spec(kind).is_none()) {
        tracing::warn!(role, %kind, "what a role sees of a kind is configured, and there is no such kind yet");
    }
}

/// Has those who live on a token that is revoked look at it: within a second of the word, on every node, for each hears it by itself.
pub(super) async fn end_revoked(mut changes: broadcast::Receiver<Revoked>, shards: Shards) {
    while let Some(users) = concerned(&mut changes).await {
        for user in users {
            shards.order(&Arc::new(Control::Recheck { whose: Whose { user, ..Whose::default() } }));
        }
    }
}

/// Holds on to being alone until everything has ended, so that the next node begins after this one.
fn keep_alone(alone: Alone, background: &mut Background) -> watch::Receiver<bool> {
    let (tell, displaced) = watch::channel(false);
    background.keep(async move {
        let error = alone.keep().await;
        tracing::error!(%error, "this node has to end");
        tell.send_replace(true);
    });
    displaced
}
