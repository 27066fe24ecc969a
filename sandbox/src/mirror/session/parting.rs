//! How a connection ends: politely, plainly, in the middle of a frame, by a reset, or without a word.

use super::Session;
use crate::config::Manner;
use crate::mirror::wire;
use crate::stats::Phase;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// How long each step of a parting may take.
const PARTING: Duration = Duration::from_millis(250);
/// How long a silently dropped connection waits for the client's next byte.
const SILENT_LIMIT: Duration = Duration::from_secs(600);

impl Session {
    /// Ends the connection in the given manner; none where the other side ended it.
    pub(super) async fn part(
        mut self,
        manner: Option<Manner>,
        reader: JoinHandle<()>,
        killed: &mut watch::Receiver<Option<Manner>>,
    ) {
        match manner {
            Some(Manner::Rst) => return self.reset(reader).await,
            Some(Manner::Silent) => {
                while self.inbox.try_recv().is_ok() {}
                self.note(|link| link.phase = Phase::Silent);
                killed.mark_unchanged();
                tokio::select! {
                    _ = timeout(SILENT_LIMIT, self.inbox.recv()) => {}
                    _ = killed.changed() => {}
                }
                return self.reset(reader).await;
            }
            Some(Manner::Close(code)) => {
                let farewell = [&code.to_be_bytes()[..], b"sandbox"].concat();
                let _ = timeout(PARTING, self.writer.control(wire::CLOSE, &farewell)).await;
            }
            Some(Manner::MidFrame) => {
                let _ = timeout(PARTING, self.writer.half_a_message()).await;
            }
            Some(Manner::Fin) => {}
            None => {
                reader.abort();
                return;
            }
        }
        if matches!(manner, Some(Manner::Close(_))) {
            // The client answers a Close with its own; only then does the stream end.
            let answered =
                async { while matches!(self.inbox.recv().await, Some(Ok(frame)) if frame.opcode != wire::CLOSE) {} };
            let _ = timeout(PARTING, answered).await;
        }
        let _ = timeout(PARTING, self.writer.shutdown()).await;
        let drained = async { while matches!(self.inbox.recv().await, Some(Ok(_))) {} };
        let _ = timeout(PARTING, drained).await;
        reader.abort();
    }

    async fn reset(self, reader: JoinHandle<()>) {
        reader.abort();
        let _ = reader.await;
        self.writer.reset();
    }
}
