//! The actor with a store that fails, forgets and hangs.

mod end;
mod failing;
mod fakes;
mod lives;
mod model;
mod promises;

use std::time::Duration;

use super::PresenceEvent;
use fakes::{Fake, Scene};

const SECOND: Duration = Duration::from_secs(1);

async fn scene() -> Scene {
    let scene = Scene::start(Fake::default()).await;
    scene.pass(SECOND).await;
    scene
}

fn vacated(channel: &str) -> PresenceEvent {
    PresenceEvent::Vacated { channel: channel.into() }
}
