//! What nodes ask and tell each other beside what concerns sessions: each letter goes to whom it is for.

use std::sync::Arc;

use dzvin_protocols::channels::Control;
use tokio::sync::{Semaphore, mpsc};

use super::{api::Nodes, connections::Connections, trace::Traces, transports::Refusals};

/// Questions of other nodes that are answered at once: a stuck shard must not make everybody's questions wait.
const ANSWERS: usize = 16;
/// Commands for sessions that are not here of which nodes are told at once. What is above it is not counted against anybody: then
/// the bus is slow, and so are guesses.
const STRAYS: usize = 64;

/// Deals with letters until the hub is gone. A question above the bound is not answered; who asked names this node as missing.
pub async fn correspond(
    connections: Connections,
    traces: Traces,
    refusals: Refusals,
    nodes: Nodes,
    mut letters: mpsc::Receiver<Control>,
) {
    let places = Arc::new(Semaphore::new(ANSWERS));
    let strays = Arc::new(Semaphore::new(STRAYS));
    while let Some(letter) = letters.recv().await {
        match letter {
            Control::Emulate { from: Some(from), .. } => {
                let Ok(place) = Arc::clone(&strays).try_acquire_owned() else { continue };
                let connections = connections.clone();
                tokio::spawn(async move {
                    connections.tell(&from.node, &Control::Stray { address: from.address }).await;
                    drop(place);
                });
            }
            Control::Stray { address } => refusals.count_address(address),
            Control::Survey { id, from, whose, after, limit } => {
                let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
                let connections = connections.clone();
                tokio::spawn(async move {
                    connections.answer(id, &from, whose, after.as_deref(), limit).await;
                    drop(place);
                });
            }
            Control::Answer { .. } => connections.answered(letter),
            Control::Count { id, from } => {
                let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
                let nodes = nodes.clone();
                tokio::spawn(async move {
                    nodes.answer(id, &from).await;
                    drop(place);
                });
            }
            Control::Counted { id, node } => nodes.answered(&id, node),
            letter => traces.told(letter),
        }
    }
}
