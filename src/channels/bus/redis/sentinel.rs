//! Asking sentinels where the primary is.
//!
//! All are asked at once; what more than half of them say counts as soon as they have said it, so that one that is dead costs
//! nothing and one that was cut off from the others misleads nobody. When time is up the most frequent answer counts, and of
//! two the one that has been decided later.

use std::{collections::HashMap, time::Duration};

use fred::{
    clients::Client,
    error::{Error, ErrorKind},
    interfaces::ClientLike,
    types::CustomCommand,
};
use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::time::{Instant, timeout_at};

use super::{
    config::{RedisConfig, Sentinels},
    link::Socket,
    script::command,
};

const SENTINEL: CustomCommand = command("SENTINEL");

/// Where a primary is.
pub(super) type Address = (String, u16);

/// Where the primary is now.
pub(super) async fn primary(config: &RedisConfig, sentinels: &Sentinels, within: Duration) -> Result<Address, Error> {
    let until = Instant::now() + within;
    let mut asked: FuturesUnordered<_> =
        sentinels.hosts.iter().map(|(host, port)| ask(config, sentinels, host, *port)).collect();
    let mut votes: HashMap<Address, (usize, u64)> = HashMap::new();
    let mut failure = Error::new(ErrorKind::Timeout, "no sentinel answered in time");
    while let Ok(Some(answer)) = timeout_at(until, asked.next()).await {
        match answer {
            Ok((address, decided)) => {
                let (count, latest) = votes.entry(address.clone()).or_default();
                *count += 1;
                *latest = decided.max(*latest);
                if *count > sentinels.hosts.len() / 2 {
                    return Ok(address);
                }
            }
            Err(error) => failure = error,
        }
    }
    votes.into_iter().max_by_key(|(_, weight)| *weight).map(|(address, _)| address).ok_or(failure)
}

/// Where it says that the primary is, and the number of the decision that made it so.
async fn ask(config: &RedisConfig, sentinels: &Sentinels, host: &str, port: u16) -> Result<(Address, u64), Error> {
    let client: Client = config.sentinel_builder(sentinels, host, port).build()?;
    // The task that drives the socket ends with this.
    let _socket = Socket::connect(&client).await?;
    let service = sentinels.service.as_str();
    // This one names a new primary as soon as it has been promoted, the other when all replicas follow it.
    let address: Option<Address> = client.custom(SENTINEL, vec!["GET-MASTER-ADDR-BY-NAME", service]).await?;
    let address = address.ok_or_else(|| Error::new(ErrorKind::Sentinel, "a sentinel does not know the service"))?;
    // It only breaks a tie: one that may not be asked has an opinion all the same.
    let known: HashMap<String, String> = client.custom(SENTINEL, vec!["MASTER", service]).await.unwrap_or_default();
    Ok((address, known.get("config-epoch").and_then(|epoch| epoch.parse().ok()).unwrap_or_default()))
}
