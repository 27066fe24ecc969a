//! Asking sentinels where the primary is.
//!
//! All are asked at once; what more than half of them say counts as soon as they have said it, so that one that is dead costs
//! nothing and one that was cut off from the others misleads nobody. When time is up the most frequent answer counts.

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
    let mut votes: HashMap<Address, usize> = HashMap::new();
    let mut failure = Error::new(ErrorKind::Timeout, "no sentinel answered in time");
    while let Ok(Some(answer)) = timeout_at(until, asked.next()).await {
        match answer {
            Ok(address) => {
                let count = votes.entry(address.clone()).or_default();
                *count += 1;
                if *count > sentinels.hosts.len() / 2 {
                    return Ok(address);
                }
            }
            Err(error) => failure = error,
        }
    }
    votes.into_iter().max_by_key(|(_, count)| *count).map(|(address, _)| address).ok_or(failure)
}

async fn ask(config: &RedisConfig, sentinels: &Sentinels, host: &str, port: u16) -> Result<Address, Error> {
    let client: Client = config.sentinel_builder(sentinels, host, port).build()?;
    // The task that drives the socket ends with this.
    let _socket = Socket::connect(&client).await?;
    let words = vec!["GET-MASTER-ADDR-BY-NAME", sentinels.service.as_str()];
    let answer: Option<(String, u16)> = client.custom(SENTINEL, words).await?;
    answer.ok_or_else(|| Error::new(ErrorKind::Sentinel, "a sentinel does not know the service"))
}
