//! Leases by the database's clock.

use std::{sync::Arc, time::Duration};

use dzvin::platform::lease::PgLeases;
use dzvin_actors::platform::ports::Leases;

use super::Store;

const LONG: Duration = Duration::from_secs(60);

#[tokio::test]
async fn one_owner_at_a_time_and_a_term_for_each() {
    let store = Store::new().await;
    let a = PgLeases::new(store.database.clone(), Arc::from("a"));
    let b = PgLeases::new(store.database.clone(), Arc::from("b"));
    let first = a.acquire("relay", LONG).await.expect("ok").expect("free");
    assert_eq!(b.acquire("relay", LONG).await.expect("ok"), None);
    let again = a.acquire("relay", LONG).await.expect("ok").expect("ours");
    assert_eq!(again.term, first.term, "prolonged");

    // It runs out by the database's clock.
    sqlx::query("UPDATE leases SET expires_at = clock_timestamp() WHERE name = 'relay'")
        .execute(store.database.pool())
        .await
        .expect("expire");
    let second = b.acquire("relay", LONG).await.expect("ok").expect("expired");
    assert_eq!(second.term, first.term + 1);
    a.release(&first).await.expect("a lease that is no longer ours is not given away");
    assert_eq!(a.acquire("relay", LONG).await.expect("ok"), None);

    b.release(&second).await.expect("release");
    let third = b.acquire("relay", LONG).await.expect("ok").expect("free");
    assert_eq!(third.term, second.term + 1, "even for the same owner, what was given back is another term");
}

#[tokio::test]
async fn of_many_who_ask_one_gets_it() {
    let store = Store::new().await;
    let asks = (0..12).map(|n| {
        let leases = PgLeases::new(store.database.clone(), Arc::from(format!("n{n}")));
        tokio::spawn(async move { leases.acquire("relay", LONG).await.expect("ok").is_some() })
    });
    let mut owners = 0;
    for ask in asks.collect::<Vec<_>>() {
        owners += usize::from(ask.await.expect("joined"));
    }
    assert_eq!(owners, 1);
}
