//! What the upstream asks, and what we say: always from what is committed.

use std::{collections::BTreeSet, sync::Arc};

use dzvin_protocols::mirror::{Cursor, Frame, FrameKind, Handshake, VersionKind, format_time, percent_encode};
use serde_json::value::RawValue;
use tokio::time::{Instant, timeout};

use super::Session;
use crate::{
    mirror::{
        socket::{Connection, Ending},
        status::LinkState,
    },
    platform::ports::{CdbApi, Leases, MirrorStore},
};

/// Ids that are read at a time.
const IDS_PAGE: usize = 1_000;

impl<S: MirrorStore, L: Leases, C: CdbApi> Session<'_, S, L, C> {
    /// The cursor that may be answered: none before a snapshot was whole.
    fn cursor(&self) -> Option<&RawValue> {
        self.committed.cursor.as_deref().filter(|_| self.committed.snapshot_complete)
    }

    /// The address to dial.
    pub(in crate::mirror) fn url(&self) -> String {
        let url = self.context.config.url.clone();
        match &self.context.config.dialect.handshake {
            Handshake::CursorInUrl { template } => {
                url + &self.fill(template, |json| percent_encode(json.trim_matches('"')))
            }
            _ => url,
        }
    }

    pub(super) async fn open(&mut self, connection: &Connection) {
        self.state(LinkState::Handshaking);
        match &self.context.config.dialect.handshake {
            Handshake::ServerAsks | Handshake::None => {}
            Handshake::CursorInUrl { .. } => self.cursor_told(),
            Handshake::ClientSendsSubscribe { template } => {
                let message = self.fill(template, str::to_owned);
                self.cursor_told();
                self.send(connection, message).await;
            }
        }
    }

    fn fill(&self, template: &str, spell: impl Fn(&str) -> String) -> String {
        let protocol = format!("\"{}\"", self.context.config.dialect.protocol.as_str());
        template
            .replace("{cursor}", &spell(self.cursor_json()))
            .replace("{protocol}", &spell(&protocol))
            .replace("{init_point}", &spell(&self.init_point()))
    }

    fn cursor_json(&self) -> &str {
        self.cursor().map_or(self.context.config.dialect.cursor.null.json(), RawValue::get)
    }

    fn cursor_told(&mut self) {
        self.resuming = self.cursor().is_some();
        if self.resuming {
            self.settle_at = Some(Instant::now() + self.context.config.limits.settle);
        }
    }

    fn init_point(&self) -> String {
        let dialect = &self.context.config.dialect;
        match &self.committed.newest_version {
            Some(newest) if self.committed.snapshot_complete => {
                let bare = dialect.paths.version_kind == VersionKind::Time && !dialect.cursor.init_point_zone;
                let text = if bare { newest.trim_end_matches('Z') } else { newest };
                serde_json::Value::from(text).to_string()
            }
            _ => dialect.cursor.null.json().to_owned(),
        }
    }

    /// Answers. What cannot be answered truly ends the connection: a part of the ids would look like all of them.
    pub(super) async fn question(&mut self, frame: &Frame<'_>, connection: &Connection) -> Option<Ending> {
        let dialect = Arc::clone(&self.context.config.dialect);
        let data = match frame.kind {
            Some(FrameKind::ProtocolRequest) => format!("\"{}\"", dialect.protocol.as_str()),
            Some(FrameKind::TimestampRequest) => {
                self.cursor_told();
                self.cursor_json().to_owned()
            }
            Some(FrameKind::InitPointRequest) => self.init_point(),
            Some(FrameKind::IdsSinceRequest) => {
                // Asked of those who may resume: rows without a cursor that follow repair what was rolled back.
                self.resuming = false;
                match self.ids_since(frame).await {
                    Ok(ids) => ids,
                    Err(why) => return Some(Ending::Lost(why.into())),
                }
            }
            _ => frame.data.map_or("null", RawValue::get).to_owned(),
        };
        let answer = dialect.answer(frame, &data);
        self.send(connection, answer).await;
        None
    }

    /// Ids of what was stored at or after the moment of the frame's cursor. Too many is better than too few here: the upstream
    /// sends them again.
    async fn ids_since(&mut self, frame: &Frame<'_>) -> Result<String, &'static str> {
        let moment = match frame.cursor {
            Cursor::At(raw) => self.context.config.dialect.cursor.kind.moment(raw),
            _ => None,
        };
        let mut since = moment.map(format_time).unwrap_or_default();
        let mut after: Option<String> = None;
        let limits = self.context.config.limits;
        let mut ids = BTreeSet::new();
        loop {
            let page = self.context.store.ids_since(&self.context.config.kind, &since, after.as_deref(), IDS_PAGE);
            let page = match timeout(limits.store, page).await {
                Ok(Ok(page)) => page,
                Ok(Err(error)) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "ids since a moment could not be read");
                    return Err("the ids that were asked for could not be read");
                }
                Err(_) => return Err("the ids that were asked for were not read in time"),
            };
            let Some((id, version)) = page.last() else { break };
            (since, after) = (version.clone(), Some(id.to_string()));
            let full = page.len() == IDS_PAGE;
            ids.extend(page.into_iter().map(|(id, _)| id));
            if ids.len() > limits.answer_ids {
                // The same question would come again: the next connection begins with a snapshot instead.
                self.history_lost("more was asked for than one answer holds");
                return Err("more ids were asked for than one answer holds");
            }
            if !full {
                break;
            }
        }
        Ok(serde_json::to_string(&ids).unwrap_or_else(|_| "[]".into()))
    }

    pub(super) async fn send(&self, connection: &Connection, message: String) {
        // A full queue means that the writer is stuck; it says so itself within its own limit.
        let _ = timeout(self.context.config.limits.write, connection.answers.send(message)).await;
    }
}
