//! The Pusher protocol over a real node: unmodified clients, and sockets that do what they should not.

mod clients;
mod cluster;
mod codes;
mod crowds;
mod http;
mod lent;
mod sockets;
mod watchlist;
mod webhooks;

use crate::{
    hub::server::with_key,
    support::hub::{Hub, World},
};

const KEY: &str = "app-key";
const SECRET: &str = "an app secret of many bytes";
/// 32 bytes, of which keys of encrypted channels are made.
const MASTER_KEY: &str = "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=";

/// Three applications, of which one is switched off and one alone, and a namespace that is not open.
fn rules() -> String {
    with_key(&format!(
        "permissions = [\"channels:*:*\", \"connections:*:*\"]\n\
         [channels.namespaces.staff]\nsubscribe = \"granted\"\n\
         [[pusher.apps]]\nid = \"main\"\nkeys = [{{ key = \"{KEY}\", secret = \"{SECRET}\" }}]\n\
         client_events = true\nsubscription_counts = true\nencryption_master_key = \"{MASTER_KEY}\"\n\
         [[pusher.apps]]\nid = \"off\"\nkeys = [{{ key = \"switched-off\", secret = \"{SECRET}\" }}]\nenabled = false\n\
         [[pusher.apps]]\nid = \"own\"\nkeys = [{{ key = \"own-key\", secret = \"{SECRET}\" }}]\n\
         isolated = true\nclient_events = true\n"
    ))
}

/// No secret of an application is in a log.
fn assert_discreet(hub: &Hub) {
    let log = hub.log();
    assert!(!log.contains(SECRET) && !log.contains(MASTER_KEY.trim_end_matches('=')));
}

async fn hub(world: &World) -> Hub {
    world.hub_with("a", &rules()).await
}
