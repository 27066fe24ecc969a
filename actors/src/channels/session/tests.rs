//! Sessions over real sockets, with a log and a bus in memory.

mod codes;
mod ends;
mod grants;
mod live;
mod model;
mod node;
mod past;
mod pusher;
mod queries;
mod races;
mod rights;
mod rpc;
mod stand_in;
mod terms;
mod traced;
mod watched;
mod world;

use std::{
    collections::{HashMap, HashSet},
    future::Future,
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use dzvin_protocols::{
    channels::{Epoch, Extra, IdKey, Message, Position, Publication},
    entities::{Change, Op},
    identity::{Overrides, Permissions},
    platform::{EntityId, Kind, StreamName},
};
use futures_util::{SinkExt, StreamExt};
use ractor::{Actor, ActorRef};
use serde_json::{Value, json, value::RawValue};
use time::OffsetDateTime;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::timeout,
};
use tokio_tungstenite::{WebSocketStream, tungstenite};

use super::{Hub, Incoming};
use crate::{
    channels::{
        Access, Apps, ChannelRules, Conflate, Handlers, HoldRules, Limits, Mailboxes, Metrics, Namespaces, Numbers,
        Shard, ShardArgs, Shards, Topics, TopicsArgs, TopicsMessage, Tracer, Users, Wire,
    },
    platform::ports::{
        Across, Appended, AuthError, Authenticator, Bus, BusError, BusEvent, ChangeLog, Conditions, HistoryLimits,
        Identity, LogSlice, Offer, Published, ReadLimit, ServerSubscription, Slice, StoreError, SubscriptionGrant,
        TokenMark, UserPace, Verified,
    },
    supervise::{Progress, Slot},
};
use node::{Client, Node};
use world::{World, kind};

const PATIENCE: Duration = Duration::from_secs(10);
const EVERYTHING: ReadLimit = ReadLimit { count: usize::MAX, bytes: usize::MAX };

fn subscribe(channel: &str) -> Value {
    json!({"id": 2, "subscribe": {"channel": channel}})
}

fn recover(epoch: &str, offset: u64) -> Value {
    json!({"id": 2, "subscribe": {"channel": "entities.procedure", "recover": true, "epoch": epoch, "offset": offset}})
}

async fn eventually<F: Future<Output = bool>>(what: &str, check: impl Fn() -> F) {
    let waiting = async {
        while !check().await {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("never: {what}"));
}
