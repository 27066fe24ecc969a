//! The past of a channel, page by page.

use dzvin_protocols::{
    channels::{
        Channel, Position, Publication,
        centrifuge::{ErrorCode, HistoryRequest, HistoryResult, Pub},
    },
    entities::{Change, Sight},
    platform::StreamName,
};

use super::commands::{Answer, Conversation, Refusal};
use crate::{
    channels::backwards::{Backwards, weight},
    platform::ports::{Bus, ChangeLog, LogSlice, ReadLimit, Slice},
};

/// Publications that are looked at together for somebody who does not see all of them.
const LOOK: usize = 500;

impl<B: Bus, L: ChangeLog> Conversation<B, L> {
    pub(super) async fn history(&mut self, id: u32, request: &HistoryRequest) -> Answer {
        let channel = self.permitted(&request.channel)?;
        if matches!(channel, Channel::Query(_)) {
            // What was in a query is asked of the query itself, over REST.
            return Err(Refusal::Error(ErrorCode::NotAvailable));
        }
        let limits = self.hub.limits.history;
        let count = usize::try_from(request.limit).map_or(limits.count, |n| n.min(limits.count));
        let viewer = self.viewer(&channel)?;
        let sight = viewer.as_ref().map(|viewer| &*viewer.sight);
        self.sees(&channel, sight).await?;
        let top = match self.page(&channel, u64::MAX, 1).await {
            Err(Refusal::Error(ErrorCode::UnknownChannel)) => self.untouched(&channel).await?,
            page => page?.position,
        };
        let epoch = sight.map_or_else(|| top.epoch.clone(), |sight| sight.epoch(&top.epoch));
        if request.since.as_ref().is_some_and(|s| !s.epoch.is_empty() && s.epoch != epoch.as_str()) {
            return Err(Refusal::Error(ErrorCode::UnrecoverablePosition));
        }
        let by_revision = matches!(channel, Channel::Entity(..));
        let place = |p: &Publication| if by_revision { p.revision } else { p.offset };
        let page = if count == 0 {
            Vec::new()
        } else if request.reverse {
            let end = request.since.as_ref().map_or(top.offset, |since| since.offset.saturating_sub(1).min(top.offset));
            let newest = async {
                match sight {
                    None => self.newest(&channel, end, count, place).await,
                    Some(sight) => self.newest_seen(&channel, end, count, place, sight).await,
                }
            };
            let newest = tokio::time::timeout(self.hub.limits.command, newest).await;
            newest.map_err(|_| Refusal::Error(ErrorCode::Internal))??
        } else {
            let after = request.since.as_ref().map_or(0, |since| since.offset);
            match sight {
                None => self.page(&channel, after, count).await?.publications,
                Some(sight) => {
                    let oldest = self.oldest_seen(&channel, after, count, place, sight);
                    let oldest = tokio::time::timeout(self.hub.limits.command, oldest).await;
                    oldest.map_err(|_| Refusal::Error(ErrorCode::Internal))??
                }
            }
        };
        let publications = page.iter().map(|p| Pub::new(p, place(p))).collect();
        Ok(self.encode(id, &HistoryResult { publications, epoch: epoch.as_str(), offset: top.offset }))
    }

    /// The last publications up to `end`, newest first, as many as the byte limit allows.
    async fn newest(
        &self,
        channel: &Channel,
        end: u64,
        count: usize,
        place: impl Fn(&Publication) -> u64,
    ) -> Result<Vec<Publication>, Refusal> {
        let mut page = Backwards::new(end, count, self.hub.limits.history.bytes, place);
        while let Some((after, wanted)) = page.wanted() {
            page.take(self.page(channel, after, wanted).await?.publications);
        }
        Ok(page.into_page())
    }

    /// The publications after `after` that somebody is shown. As many are looked at, and as many bytes, as a recovery may bring.
    async fn oldest_seen(
        &self,
        channel: &Channel,
        after: u64,
        count: usize,
        place: impl Fn(&Publication) -> u64,
        sight: &Sight,
    ) -> Result<Vec<Publication>, Refusal> {
        let (mut kept, mut bytes, mut at, mut looked) = (Vec::new(), 0, after, 0);
        let (most, mut read) = (self.hub.limits.recovery, 0);
        while looked < most.count && read < most.bytes {
            let slice = self.page(channel, at, LOOK).await?;
            let Some(last) = slice.publications.last().map(&place) else { break };
            (at, looked) = (last, looked + slice.publications.len());
            read += slice.publications.iter().map(weight).sum::<usize>();
            // What does not say enough to tell is not shown.
            for shown in slice.publications.iter().filter_map(|it| sight.tell(it).ok()?) {
                bytes += weight(&shown);
                if kept.len() >= count || (bytes > self.hub.limits.history.bytes && !kept.is_empty()) {
                    return Ok(kept);
                }
                kept.push(shown);
            }
        }
        Ok(kept)
    }

    /// The same up to `end`, newest first.
    async fn newest_seen(
        &self,
        channel: &Channel,
        end: u64,
        count: usize,
        place: impl Fn(&Publication) -> u64,
        sight: &Sight,
    ) -> Result<Vec<Publication>, Refusal> {
        let (mut kept, mut bytes, mut end, mut looked) = (Vec::new(), 0, end, 0);
        let (most, mut read) = (self.hub.limits.recovery, 0);
        while end > 0 && looked < most.count && read < most.bytes {
            let run = self.newest(channel, end, LOOK, &place).await?;
            read += run.iter().map(weight).sum::<usize>();
            for shown in run.iter().filter_map(|it| sight.tell(it).ok()?) {
                bytes += weight(&shown);
                if kept.len() >= count || (bytes > self.hub.limits.history.bytes && !kept.is_empty()) {
                    return Ok(kept);
                }
                kept.push(shown);
            }
            // The byte limit may have cut the oldest of them.
            let below = run.last().map_or(end.saturating_sub(LOOK as u64), |oldest| place(oldest).saturating_sub(1));
            (end, looked) = (below, looked + LOOK);
        }
        Ok(kept)
    }

    /// A page of the past, on the channel's own counting.
    pub(super) async fn page(&self, channel: &Channel, after: u64, count: usize) -> Result<Slice, Refusal> {
        let limit = ReadLimit { count, bytes: self.hub.limits.history.bytes };
        let of_log = |slice: LogSlice| Slice {
            position: slice.position,
            publications: slice.changes.iter().map(Change::publication).collect(),
            complete: slice.complete,
        };
        let read = async {
            Ok(match channel {
                Channel::Entities(kind) => self.hub.log.read(kind, after, limit).await?.map(of_log),
                Channel::Entity(kind, key) => self.hub.log.read_entity(kind, key, after, limit).await?.map(of_log),
                Channel::Query(_) => None,
                Channel::Application(_) | Channel::User(_) | Channel::Online(_) => {
                    self.hub.bus.read(&StreamName::from_checked(&channel.to_string()), after, limit).await?
                }
            })
        };
        let read: Result<Result<_, Box<dyn std::error::Error + Send + Sync>>, _> =
            tokio::time::timeout(self.hub.limits.command, read).await;
        match read {
            Ok(Ok(Some(slice))) => Ok(slice),
            Ok(Ok(None)) => Err(Refusal::Error(ErrorCode::UnknownChannel)),
            Ok(Err(error)) => {
                tracing::warn!(client = %self.session.client, user = self.session.user(), %error, "history could not be read");
                Err(Refusal::Error(ErrorCode::Internal))
            }
            Err(_) => Err(Refusal::Error(ErrorCode::Internal)),
        }
    }

    /// Where a channel of the application begins on which nobody has published or listened yet: its past is empty.
    async fn untouched(&self, channel: &Channel) -> Result<Position, Refusal> {
        let unknown = Refusal::Error(ErrorCode::UnknownChannel);
        let Channel::Application(name) = channel else { return Err(unknown) };
        let stream = StreamName::from_checked(name);
        match tokio::time::timeout(self.hub.limits.command, self.hub.bus.open(&stream)).await {
            Ok(Ok(position)) => Ok(position),
            Ok(Err(error)) => {
                tracing::warn!(client = %self.session.client, user = self.session.user(), %error, "a stream could not be opened");
                Err(Refusal::Error(ErrorCode::Internal))
            }
            Err(_) => Err(Refusal::Error(ErrorCode::Internal)),
        }
    }

    /// Where an entity's own channel stands.
    pub(super) async fn entity_position(&self, channel: &Channel) -> Result<Position, Refusal> {
        self.page(channel, u64::MAX, 1).await.map(|slice| slice.position)
    }
}
