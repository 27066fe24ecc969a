//! Applications from the configuration's words to what sessions and the HTTP API take.

use std::num::NonZeroU16;

use base64::{Engine, engine::general_purpose::STANDARD};
use dzvin_actors::channels::{App, AppRules, Apps, AppsError, MasterKey, Webhook};
use dzvin_protocols::channels::pusher::{Credentials, CredentialsError};

use crate::platform::config::{Pusher, PusherApp, PusherWebhookEvent, Secret};

/// The applications that the configuration describes.
///
/// # Errors
/// The key of the configuration with what is wrong with it.
pub fn apps(config: &Pusher) -> Result<Vec<App>, (String, AppsError)> {
    let rules = AppRules {
        activity_timeout: u16::try_from(config.activity_timeout.as_secs())
            .ok()
            .and_then(NonZeroU16::new)
            .unwrap_or(AppRules::default().activity_timeout),
        client_events_per_second: config.client_events_per_second,
        max_client_event: config.max_client_event,
        max_user_info: config.max_user_info,
        cache_age: config.cache_age,
    };
    let mut all = Vec::with_capacity(config.apps.len());
    for (i, app) in config.apps.iter().enumerate() {
        all.push(one(app, rules).map_err(|error| (format!("pusher.apps.{i}"), error))?);
        // Tried with every further one, so that the error names the one that is too many.
        Apps::default().replace(all.clone()).map_err(|error| (format!("pusher.apps.{i}"), error))?;
    }
    Ok(all)
}

fn one(app: &PusherApp, rules: AppRules) -> Result<App, AppsError> {
    let keys = app.keys.iter().map(|key| {
        let secret = key.secret.as_ref().ok_or(CredentialsError::Secret)?;
        Credentials::new(&key.key, secret.expose())
    });
    let webhooks = app.webhooks.iter().map(|webhook| Webhook {
        url: webhook.url.expose().into(),
        events: webhook.events.iter().map(|event| name(*event)).collect(),
    });
    Ok(App {
        enabled: app.enabled,
        isolated: app.isolated,
        tls_only: app.tls_only,
        client_events: app.client_events,
        subscription_counts: app.subscription_counts,
        watchlists: app.watchlists,
        max_members: app.max_members,
        webhooks: webhooks.collect(),
        rules,
        master_key: app.encryption_master_key.as_ref().map(master_key).transpose()?,
        ..App::new(&app.id, keys.collect::<Result<_, _>>()?)?
    })
}

fn master_key(text: &Secret) -> Result<MasterKey, AppsError> {
    let bytes = STANDARD.decode(text.expose().trim()).map_err(|_| AppsError::MasterKey)?;
    MasterKey::new(&bytes)
}

const fn name(event: PusherWebhookEvent) -> &'static str {
    match event {
        PusherWebhookEvent::ChannelOccupied => "channel_occupied",
        PusherWebhookEvent::ChannelVacated => "channel_vacated",
        PusherWebhookEvent::MemberAdded => "member_added",
        PusherWebhookEvent::MemberRemoved => "member_removed",
        PusherWebhookEvent::ClientEvent => "client_event",
        PusherWebhookEvent::CacheMiss => "cache_miss",
        PusherWebhookEvent::SubscriptionCount => "subscription_count",
    }
}
