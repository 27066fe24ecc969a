//! What changes without a restart: keys of users, servers and applications, roles, the tokens and message limits of the Mirrors,
//! the certificate, who is admitted, and where users of the console sign in.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use dzvin_actors::channels::{Apps, Notices, Shards};

use super::{AppError, mirrors::Links, settings};
use crate::{
    channels::Admission,
    console::Console,
    entities::KindSpec,
    identity::{ApiKeys, RoleViews, Setup, Verifier},
    platform::{
        config::{Config, IdentityConfig, Pusher, PusherApp},
        http::{Certificates, Pair},
    },
};

/// Over how long sessions are closed when rights have changed: as long may a right that was taken away still hold, but for
/// those to see entities, which end at once.
pub(super) const RECALL: Duration = Duration::from_secs(10);

/// Puts a new configuration into force as far as it can change while running.
#[derive(Clone)]
pub struct Reloader {
    verifier: Arc<Verifier>,
    keys: ApiKeys,
    apps: Apps,
    notices: Notices,
    links: Links,
    shards: Shards,
    /// What is in force, to see what a new configuration takes away.
    known: Arc<Mutex<(IdentityConfig, Pusher)>>,
    /// The kinds that the node runs with, which are others only after a restart.
    running: Arc<[KindSpec]>,
    admission: Option<Admission>,
    certificates: Option<Certificates>,
    console: Option<Console>,
}

impl Reloader {
    pub(super) fn new(
        verifier: &Arc<Verifier>,
        keys: ApiKeys,
        (apps, notices): (&Apps, &Notices),
        links: &Links,
        shards: &Shards,
        config: &Config,
    ) -> Self {
        Self {
            verifier: Arc::clone(verifier),
            keys,
            apps: apps.clone(),
            notices: notices.clone(),
            links: links.clone(),
            shards: shards.clone(),
            known: Arc::new(Mutex::new((config.identity.clone(), config.pusher.clone()))),
            // They have been read before, or nothing would run.
            running: settings::kinds(config).unwrap_or_default().into(),
            admission: None,
            certificates: None,
            console: None,
        }
    }

    /// Those who stand at the door as well.
    pub(super) fn with_edge(self, admission: Admission, certificates: Option<Certificates>, console: Console) -> Self {
        Self { admission: Some(admission), certificates, console: Some(console), ..self }
    }

    /// Takes over keys, roles, applications, and each known Mirror's token and message limit. The rest waits for a restart. All or nothing
    /// of the values that can be wrong. Sessions that were granted something by other rules begin again.
    ///
    /// # Errors
    /// What is wrong; then everything stays as it was.
    pub fn reload(&self, config: &Config) -> Result<(), AppError> {
        // Whatever may be refused is tried first: after the verifier has changed, nothing may fail.
        settings::judge(config)?;
        rows_can_be_told(config, &self.running)?;
        let dialects = config.mirrors.iter().map(|mirror| Ok((mirror, settings::dialect(mirror)?)));
        let dialects = dialects.collect::<Result<Vec<_>, AppError>>()?;
        let setup = Setup::of(&config.identity).map_err(|error| AppError::config("identity.keys", error))?;
        let tls = self.certificates.as_ref().zip(config.http.tls.as_ref());
        let tls = tls.map(|(certificates, files)| Pair::read(files).map(|pair| (certificates, pair)));
        let tls = tls.transpose().map_err(AppError::tls)?;
        self.verifier.replace_all(setup).map_err(|error| AppError::config("identity.keys", error))?;
        settings::replace_api_keys(&self.keys, config)?;
        if let Some((certificates, pair)) = tls {
            certificates.replace(pair);
        }
        if let Some(admission) = &self.admission {
            admission.update(&config.channels);
        }
        if let Some(console) = &self.console {
            console.replace(config.identity.login.as_ref());
        }
        settings::replace_apps(&self.apps, config)?;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let (before, apps) = std::mem::replace(&mut *known, (config.identity.clone(), config.pusher.clone()));
        drop(known);
        if others_hear(&apps, &config.pusher) {
            // Until now the numbers of subscribers concerned nobody, or who is a member. What is told of that is heard from here on, and
            // not when whoever sends it looks at the configuration.
            if config.pusher.apps.iter().any(|app| app.enabled && !app.webhooks.is_empty()) {
                self.notices.listen(true);
            }
            self.shards.present();
        }
        if others_decide(&before, &config.identity) || others_sign(&apps, &config.pusher) {
            tracing::info!("rights may have changed: every session connects again");
            if others_see(&before, &config.identity) {
                self.shards.hush();
            }
            self.shards.recall(RECALL);
        }
        for (mirror, dialect) in dialects {
            self.links.update(mirror, dialect.max_message_bytes);
        }
        Ok(())
    }
}

/// Rows are judged by fields that the running node derives: with others nobody would see anything until a restart.
fn rows_can_be_told(config: &Config, running: &[KindSpec]) -> Result<(), AppError> {
    let views = RoleViews::read(&config.identity.views).map_err(|error| AppError::config("identity.views", error))?;
    for (role, kind, fields) in views.rows() {
        let declared = running.iter().find(|spec| spec.kind == *kind).map(KindSpec::fields);
        let unknown = |field: &&str| !declared.unwrap_or_default().iter().any(|it| it == field);
        if let Some(field) = fields.into_iter().find(unknown) {
            let key = format!("identity.views.{role}.{kind}.rows");
            return Err(AppError::config(
                key,
                format!("{field} is not declared where the node runs: restart it first"),
            ));
        }
    }
    Ok(())
}

/// Whether a signature that was good may now be none, or open something else. A further application or key changes nothing
/// for anybody.
fn others_sign(before: &Pusher, now: &Pusher) -> bool {
    before.apps.iter().any(|app| {
        let Some(same) = now.apps.iter().find(|other| other.id == app.id) else { return true };
        let keys = app
            .keys
            .iter()
            .all(|key| same.keys.iter().any(|other| (&other.key, &other.secret) == (&key.key, &key.secret)));
        !keys || (app.enabled && !same.enabled) || app.isolated != same.isolated
    })
}

/// Whether servers of applications may now be told of channels of which nobody was.
fn others_hear(before: &Pusher, now: &Pusher) -> bool {
    now.apps.iter().any(|app| {
        let told = |other: &&PusherApp| {
            (&other.id, other.enabled, other.isolated, &other.webhooks)
                == (&app.id, app.enabled, app.isolated, &app.webhooks)
        };
        !before.apps.iter().any(|other| told(&other))
    })
}

/// Whether of entities somebody may now see something else.
fn others_see(before: &IdentityConfig, now: &IdentityConfig) -> bool {
    let rules = |config: &IdentityConfig| {
        (config.roles.clone(), config.views.clone(), config.anonymous, config.anonymous_role.clone())
    };
    rules(before) != rules(now)
}

/// Whether a token that was good may now be none, or grant something else. A further key or issuer changes nothing for anybody.
fn others_decide(before: &IdentityConfig, now: &IdentityConfig) -> bool {
    let rules = |config: &IdentityConfig| {
        let IdentityConfig { issuer, audience, roles, views, anonymous, anonymous_role, subscription_keys, .. } =
            config.clone();
        (issuer, audience, roles, views, anonymous, anonymous_role, subscription_keys)
    };
    let stays = |key| now.keys.iter().any(|other| (&other.id, &other.secret, other.algorithm) == key);
    rules(before) != rules(now)
        || !before.keys.iter().map(|key| (&key.id, &key.secret, key.algorithm)).all(stays)
        || !before.issuers.iter().all(|issuer| now.issuers.contains(issuer))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_by_fields_that_wait_for_a_restart_are_refused() {
        let with = |kinds: &str| -> Config {
            let views = "[identity.views.clerk.deal]\nrows = '{\"owner\": \"me\"}'";
            toml::from_str(&format!("[database]\nurl = \"postgres://x/y\"\n{kinds}\n{views}")).expect("a configuration")
        };
        let [before, after] = ["status", "owner"].map(|field| with(&format!("[kinds.deal]\nfields = [\"{field}\"]")));
        let running = |config: &Config| settings::kinds(config).expect("kinds");
        assert!(rows_can_be_told(&after, &running(&after)).is_ok());
        let refused = rows_can_be_told(&after, &running(&before)).expect_err("refused").to_string();
        assert!(
            refused.contains("identity.views.clerk.deal.rows") && refused.contains("restart it first"),
            "{refused}"
        );
    }
}
