//! How much memory the answers of a node may take at once: a client that asks for large documents and never reads them must
//! not fill it.
//!
//! Room is taken before a document is read, is lent to its bytes, and comes back when the last of them is gone: sent, or
//! given up with the connection.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use prometheus_client::metrics::gauge::Gauge;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use super::{HttpMetrics, Problem};
use crate::platform::config::Http;

/// Room is counted in pieces of so many bytes: a semaphore counts no further than four thousand million.
const PIECE: usize = 1024;

/// The room of a node. Cheap to clone.
#[derive(Debug, Clone)]
pub struct AnswerRoom {
    free: Arc<Semaphore>,
    pieces: u32,
    patience: Duration,
    metrics: HttpMetrics,
}

impl AnswerRoom {
    /// From the configuration.
    #[must_use]
    pub fn new(config: &Http, metrics: HttpMetrics) -> Self {
        let pieces = pieces(config.answer_bytes).max(1);
        // The other half of the request's time is for reading what there is room for.
        Self { free: Arc::new(Semaphore::new(pieces as usize)), pieces, patience: config.request_timeout / 2, metrics }
    }

    /// Takes room for so many bytes, waiting for those who came before. What is larger than the whole room waits for all
    /// of it.
    ///
    /// # Errors
    /// 503 `server_busy` when there is none in time.
    pub async fn take(&self, bytes: usize) -> Result<Room, Problem> {
        let wanted = pieces(bytes).min(self.pieces);
        let free = Arc::clone(&self.free).acquire_many_owned(wanted);
        let Ok(Ok(permit)) = timeout(self.patience, free).await else {
            self.metrics.no_room.inc();
            return Err(Problem::unavailable("server_busy", "too many large answers are under way; try again soon"));
        };
        let held = self.metrics.answer_bytes.clone();
        held.inc_by(bytes_of(permit.num_permits()));
        Ok(Room { permit, held })
    }
}

fn pieces(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(PIECE)).unwrap_or(u32::MAX)
}

fn bytes_of(pieces: usize) -> i64 {
    i64::try_from(pieces * PIECE).unwrap_or(i64::MAX)
}

/// A share of the room.
#[derive(Debug)]
pub struct Room {
    permit: OwnedSemaphorePermit,
    held: Gauge,
}

impl Room {
    /// Gives back what is above so many bytes.
    #[must_use]
    pub fn shrunk(mut self, bytes: usize) -> Self {
        let spare = self.permit.num_permits().saturating_sub(pieces(bytes) as usize);
        if let Some(spare) = self.permit.split(spare) {
            self.held.dec_by(bytes_of(spare.num_permits()));
        }
        self
    }

    /// Bytes that hold this room as long as there is one of them.
    #[must_use]
    pub fn lend(self, text: impl AsRef<[u8]> + Send + 'static) -> Bytes {
        let room = self.shrunk(text.as_ref().len());
        Bytes::from_owner(Lent { text, _room: room })
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.held.dec_by(bytes_of(self.permit.num_permits()));
    }
}

struct Lent<T> {
    text: T,
    _room: Room,
}

impl<T: AsRef<[u8]>> AsRef<[u8]> for Lent<T> {
    fn as_ref(&self) -> &[u8] {
        self.text.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn room_comes_back_with_the_last_byte_and_is_refused_in_time() {
        let config = Http { answer_bytes: 100 * PIECE, request_timeout: Duration::from_millis(40), ..Http::default() };
        let metrics = HttpMetrics::default();
        let room = AnswerRoom::new(&config, metrics.clone());
        let large = room.take(80 * PIECE).await.expect("room");
        let small = room.take(20 * PIECE).await.expect("room").lend(vec![0; 10 * PIECE]);
        assert_eq!(metrics.answer_bytes.get(), bytes_of(90), "what was not needed is given back");
        assert_eq!(room.take(11 * PIECE).await.expect_err("none").code(), "server_busy");
        assert_eq!(metrics.no_room.get(), 1);
        let rest = small.slice(5..);
        drop(small);
        assert_eq!(metrics.answer_bytes.get(), bytes_of(90), "some of its bytes are still to be sent");
        drop((rest, large));
        assert_eq!(metrics.answer_bytes.get(), 0);
        let whole = room.take(usize::MAX).await.expect("what is larger than all waits for all");
        assert_eq!(metrics.answer_bytes.get(), bytes_of(100));
        drop(whole);
    }
}
