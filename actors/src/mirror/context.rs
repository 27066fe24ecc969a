//! What the parts of one link share.

use std::{sync::Arc, time::Duration};

use dzvin_protocols::{
    mirror::{MirrorOp, Quarantined, Sought, VersionedDoc},
    platform::EntityId,
};
use serde_json::value::RawValue;
use tokio::{
    sync::Semaphore,
    time::{sleep, timeout},
};

use super::{config::LinkConfig, gather::Slot, handle::LinkHandle, metrics::LinkMetrics, status::LinkState};
use crate::{
    cdb::{Governor, with_retries},
    platform::ports::{CdbApi, CdbError, MirrorStatus},
};

/// How often an object is asked for that HTTP does not show as new as the stream did, and the rest between: a lag of replicas
/// is bridged, and the stream, which stands meanwhile, is not held up long.
const FRESH_TRIES: u32 = 3;
const FRESH_PAUSE: Duration = Duration::from_secs(1);

/// Everything but the connection.
pub(super) struct Context<S, L, C> {
    pub(super) config: LinkConfig,
    pub(super) by: Arc<str>,
    pub(super) lease_name: Arc<str>,
    pub(super) store: Arc<S>,
    pub(super) leases: Arc<L>,
    pub(super) cdb: Option<Arc<C>>,
    pub(super) governor: Arc<Governor>,
    pub(super) metrics: LinkMetrics,
    pub(super) handle: LinkHandle,
    /// Bytes of frames between the socket and the commit.
    pub(super) budget: Arc<Semaphore>,
    /// One permit: whoever has it may have a socket. Taken back means that the socket is really gone.
    pub(super) place: Arc<Semaphore>,
}

/// What came of fetching one object.
pub(super) enum Fetched {
    /// Here it is.
    Doc(VersionedDoc),
    /// The upstream does not know it.
    Gone,
    /// It came and cannot be used.
    Unfit(Quarantined),
    /// It could not be fetched: owed.
    Owed(CdbError),
}

impl<S, L, C: CdbApi> Context<S, L, C> {
    pub(super) fn update(&self, change: impl FnOnce(&mut MirrorStatus)) {
        self.handle.0.board.update(change);
    }

    /// Shows, and alarms, that a full reconcile is owed, runs, or is not owed.
    pub(super) fn owes(&self, owed: Option<LinkState>) {
        self.metrics.gap.set(i64::from(owed.is_some()));
        self.handle.0.board.owed(&self.metrics, owed);
    }

    /// One call over HTTP under the rules of repeating.
    pub(super) async fn http<T, F: Future<Output = Result<T, CdbError>>>(
        &self,
        mut call: impl FnMut() -> F,
    ) -> Result<T, CdbError> {
        let limit = self.config.limits.http;
        with_retries(|| {
            let call = call();
            async move {
                let answer = timeout(limit, call).await;
                let answer = answer.unwrap_or_else(|_| Err(CdbError::Failed("no answer in time".into())));
                if matches!(answer, Err(CdbError::TooMany)) {
                    self.governor.hold(Duration::from_secs(1));
                }
                answer
            }
        })
        .await
    }

    /// One object over HTTP, ready to be stored.
    pub(super) async fn fetch(&self, api: &C, id: &EntityId) -> Fetched {
        let bytes = match self.http(|| api.object(id)).await {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return Fetched::Gone,
            Err(error) => return Fetched::Owed(error),
        };
        let unfit = |reason, detail| {
            let raw = bytes[..bytes.len().min(64 * 1024)].to_vec();
            Fetched::Unfit(Quarantined { reason, detail, id: Some(id.clone()), raw })
        };
        match serde_json::from_slice::<&RawValue>(&bytes) {
            Err(error) => unfit("malformed", error.to_string()),
            Ok(raw) => match self.config.dialect.document(id.clone(), raw) {
                Ok(doc) => Fetched::Doc(doc),
                Err(fault) => unfit(fault.reason, fault.detail),
            },
        }
    }

    /// The operations of a batch, fetched where needed. The second part is true when an object could not be had as the stream
    /// announced it: a full reconcile is owed then, which survives a restart.
    pub(super) async fn resolve(&self, slots: Vec<Slot>, aside: &mut Vec<Quarantined>) -> (Vec<MirrorOp>, bool) {
        let mut ops = Vec::with_capacity(slots.len());
        let mut owed = false;
        for slot in slots {
            let sought = match slot {
                Slot::Op(op) => {
                    ops.push(op);
                    continue;
                }
                Slot::Fetch(sought) => sought,
            };
            let mut not_fetched = |detail: String| {
                let id = Some(sought.id.clone());
                aside.push(Quarantined { reason: "not_fetched", detail, id, raw: Vec::new() });
            };
            let Some(api) = &self.cdb else {
                not_fetched("no HTTP address is configured to fetch it from".into());
                continue;
            };
            let late = |_| Fetched::Owed(CdbError::Failed("no answer in time".into()));
            let fetched = timeout(self.config.limits.fetch, self.fetch_as_new(api, &sought)).await.unwrap_or_else(late);
            let why = match fetched {
                Fetched::Doc(doc) => {
                    let older = is_older(&doc, &sought);
                    ops.push(MirrorOp::Upsert(doc));
                    older.then(|| "HTTP shows an older version than the stream".to_owned())
                }
                Fetched::Gone => Some("HTTP does not know it".to_owned()),
                Fetched::Unfit(record) => {
                    // What is not even JSON broke on its way; what storage refuses will be refused again.
                    let broken = record.reason == "malformed";
                    let detail = broken.then(|| record.detail.clone());
                    aside.push(record);
                    owed |= broken;
                    self.last_error(detail);
                    continue;
                }
                Fetched::Owed(error) => Some(error.to_string()),
            };
            if let Some(detail) = why {
                not_fetched(detail.clone());
                self.last_error(Some(detail));
                owed = true;
            }
        }
        (ops, owed)
    }

    fn last_error(&self, detail: Option<String>) {
        if detail.is_some() {
            self.update(|status| status.last_error = detail);
        }
    }

    /// One object that is not older than the stream said. HTTP may answer from a replica that lags, so it is asked again.
    async fn fetch_as_new(&self, api: &C, sought: &Sought) -> Fetched {
        for _ in 1..FRESH_TRIES {
            match self.fetch(api, &sought.id).await {
                Fetched::Gone => {}
                Fetched::Doc(doc) if is_older(&doc, sought) => {}
                fetched => return fetched,
            }
            sleep(FRESH_PAUSE).await;
        }
        self.fetch(api, &sought.id).await
    }
}

fn is_older(doc: &VersionedDoc, sought: &Sought) -> bool {
    sought.version.as_ref().is_some_and(|version| doc.version < *version)
}
