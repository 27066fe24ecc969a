//! The operators' page, built into a real hub, in a real browser: `tests/clients/board.browser.mjs` under the hub's own policy.

use crate::support::{hub::World, scenarios};

/// More than two pages of the board.
const OBJECTS: usize = 130;
/// As in production: an object of 7.5 MB in a debug build outlives the second that other tests take.
const LEASE_TTL: &str = "10s";
/// Those that say something about the hub; the others run against the mock.
const SCENARIOS: u32 = 13;

#[tokio::test]
async fn the_page_tells_the_truth_about_a_real_hub() {
    let mut world = World::new(OBJECTS, false).await;
    world.lease_ttl = LEASE_TTL;
    let hub = world.hub("page").await;
    scenarios::pass("board.browser.mjs", SCENARIOS, &world, &hub, &[]).await;
}
