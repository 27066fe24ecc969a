//! Reading a stream on from where a node stands: the bus answers first, the log has the last word.

use dzvin_protocols::{
    channels::{Epoch, Position, Publication},
    entities::Change,
    platform::{Kind, StreamName},
};

use super::stream::Source;
use crate::platform::ports::{Bus, ChangeLog, ReadLimit};

/// What a reading brought.
#[derive(Debug)]
pub enum Fetched {
    /// The stream is being followed from here.
    Opened(Position),
    /// What follows the position, without a gap.
    Run {
        /// In offset order; empty when nothing is new.
        publications: Vec<Publication>,
        /// The limit cut it: read on.
        more: bool,
    },
    /// What follows the position is lost, or the stream has a new epoch: this is where it stands.
    Lost(Position),
    /// The bus tells nothing of it any more.
    Left,
    /// There is no such stream.
    Unknown,
    /// Neither could be asked.
    Failed,
}

/// Asks for the stream's events and for where it stands.
pub(super) async fn open<B: Bus, L: ChangeLog>(bus: &B, log: &L, source: &Source) -> Fetched {
    match source {
        Source::Durable(kind) => open_durable(bus, log, kind).await,
        Source::Application(name) => open_application(bus, name).await,
        Source::Watched(name) => open_watched(bus, name).await,
    }
}

/// What follows `at`.
pub(super) async fn fetch<B: Bus, L: ChangeLog>(
    bus: &B,
    log: &L,
    source: &Source,
    at: &Position,
    limit: ReadLimit,
) -> Fetched {
    let stream = source.name();
    let answer = bus.read(&stream, at.offset, limit).await;
    if answer.is_err() {
        // After an interruption the bus must be asked for its events again.
        let _ = bus.subscribe(&stream).await;
    }
    if let Ok(Some(slice)) = &answer
        && slice.complete
        && slice.position.epoch == at.epoch
        && slice.position.offset >= at.offset
    {
        let reached = slice.publications.last().map_or(at.offset, |p| p.offset);
        return Fetched::Run { publications: slice.publications.clone(), more: reached < slice.position.offset };
    }
    match (source, answer) {
        (Source::Durable(kind), _) => fetch_log(log, kind, at, limit).await,
        // Nothing is published there.
        (Source::Watched(_), _) => Fetched::Run { publications: Vec::new(), more: false },
        (Source::Application(_), Ok(Some(slice))) => Fetched::Lost(slice.position),
        // The bus forgot it, or another primary has taken over: it begins anew.
        (Source::Application(_), Ok(None)) => bus.open(&stream).await.map_or(Fetched::Failed, Fetched::Lost),
        (Source::Application(_), Err(error)) => {
            tracing::debug!(stream = %stream, %error, "a stream could not be read on");
            Fetched::Failed
        }
    }
}

async fn open_application<B: Bus>(bus: &B, stream: &StreamName) -> Fetched {
    let opened = async {
        bus.subscribe(stream).await?;
        bus.open(stream).await
    };
    match opened.await {
        Ok(position) => Fetched::Opened(position),
        Err(error) => {
            tracing::debug!(stream = %stream, %error, "a stream could not be opened");
            Fetched::Failed
        }
    }
}

/// Words alone are asked for: the bus keeps nothing of such a stream.
async fn open_watched<B: Bus>(bus: &B, stream: &StreamName) -> Fetched {
    match bus.subscribe(stream).await {
        Ok(()) => Fetched::Opened(Position { epoch: Epoch::new(""), offset: 0 }),
        Err(error) => {
            tracing::debug!(stream = %stream, %error, "words of a user cannot be followed");
            Fetched::Failed
        }
    }
}

/// While the bus is away the log is followed alone.
async fn open_durable<B: Bus, L: ChangeLog>(bus: &B, log: &L, kind: &Kind) -> Fetched {
    let stream = kind.stream();
    // Before the bus is asked for events that nobody would ever publish.
    if matches!(log.position(kind).await, Ok(None)) {
        return Fetched::Unknown;
    }
    let subscribed = bus.subscribe(&stream).await;
    if let Err(error) = &subscribed {
        tracing::warn!(stream = %stream, %error, "the bus cannot be followed; the log is read instead");
    }
    // The bus may hold an epoch that the log has left; the log decides which is current.
    match log.position(kind).await {
        Ok(None) => Fetched::Unknown,
        Ok(Some(at)) => match bus.position(&stream).await {
            Ok(Some(known)) if known.epoch == at.epoch && known.offset <= at.offset => Fetched::Opened(known),
            _ => Fetched::Opened(at),
        },
        Err(log_error) => match bus.position(&stream).await {
            Ok(Some(known)) => Fetched::Opened(known),
            _ => {
                tracing::warn!(stream = %stream, error = %log_error, "neither log nor bus knows where a stream stands");
                Fetched::Failed
            }
        },
    }
}

async fn fetch_log<L: ChangeLog>(log: &L, kind: &Kind, at: &Position, limit: ReadLimit) -> Fetched {
    match log.read(kind, at.offset, limit).await {
        Ok(None) => Fetched::Unknown,
        Ok(Some(slice)) if slice.complete && slice.position.epoch == at.epoch && slice.position.offset >= at.offset => {
            let publications: Vec<Publication> = slice.changes.iter().map(Change::publication).collect();
            let reached = publications.last().map_or(at.offset, |p| p.offset);
            Fetched::Run { publications, more: reached < slice.position.offset }
        }
        Ok(Some(slice)) => Fetched::Lost(slice.position),
        Err(error) => {
            tracing::warn!(%kind, %error, "a stream could not be read on");
            Fetched::Failed
        }
    }
}
