//! What each method does.

use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

use axum::http::StatusCode;
use dzvin_actors::{
    channels::Backwards,
    platform::ports::{Bus, BusError, ReadLimit},
};
use dzvin_protocols::{
    channels::{
        Channel, Position, Publication,
        centrifuge::{ErrorCode, Form, HistoryRequest, HistoryResult, Pub},
    },
    platform::StreamName,
};
use futures_util::{StreamExt, stream};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Refusal, ServerApi, caller::ApiCaller, json, refusal};
use crate::platform::http::Problem;

/// Commands of one batch that are under way at once: what a pipeline to the bus gains from, without a queue of its own.
const CONCURRENCY: usize = 64;
/// Most bytes of one page of history.
const PAGE_BYTES: usize = 512 * 1024;
/// Most bytes of one answer: a batch of histories beyond it is refused.
const MAX_ANSWER: usize = 8 * 1024 * 1024;

/// One call.
pub(super) struct Call<'a> {
    pub(super) api: &'a ServerApi,
    pub(super) caller: &'a ApiCaller,
    pub(super) trace: Option<Arc<str>>,
}

#[derive(Deserialize)]
struct OfChannel {
    channel: String,
}

#[derive(Deserialize)]
struct Batch<'a> {
    #[serde(borrow)]
    commands: Vec<BTreeMap<Cow<'a, str>, &'a RawValue>>,
}

impl Call<'_> {
    /// The answer as JSON. That of a batch has no `result` around it: the replies are what the client libraries look for.
    pub(super) async fn dispatch(&self, method: &str, body: &[u8]) -> Result<String, Refusal> {
        match method {
            "batch" => self.batch(body).await,
            _ => Ok(format!("{{\"result\":{}}}", self.one(method, body).await?)),
        }
    }

    async fn one(&self, method: &str, body: &[u8]) -> Result<String, Refusal> {
        match method {
            "publish" => self.publish(body).await,
            "broadcast" => self.broadcast(body).await,
            "history" => self.history(body).await,
            "history_remove" => self.history_remove(body).await,
            "presence" => self.presence(body).await,
            "presence_stats" => self.presence_stats(body).await,
            "channels" => self.channels(body).await,
            "disconnect" => self.disconnect(body).await,
            "unsubscribe" => self.unsubscribe(body).await,
            "subscribe" => self.subscribe(body).await,
            "refresh" => self.refresh(body).await,
            "info" => self.info().await,
            _ => Err(ErrorCode::MethodNotFound.into()),
        }
    }

    /// Commands for one channel keep their order: they are begun one after the other, and the bus takes them as they come.
    async fn batch(&self, body: &[u8]) -> Result<String, Refusal> {
        let Batch { commands } = parse(body)?;
        if commands.len() > self.api.limits.batch {
            return Err(ErrorCode::LimitExceeded.into());
        }
        let replies = in_order(commands.iter().map(|command| self.command(command)).collect()).await?;
        Ok(format!("{{\"replies\":[{}]}}", replies.join(",")))
    }

    async fn command(&self, command: &BTreeMap<Cow<'_, str>, &RawValue>) -> Result<String, Refusal> {
        let Some((method, body)) = command.first_key_value().filter(|_| command.len() == 1) else {
            return Err(ErrorCode::BadRequest.into());
        };
        let result = self.one(method, body.get().as_bytes()).await?;
        Ok(format!("{{{}:{result}}}", json(method)))
    }

    async fn history(&self, body: &[u8]) -> Result<String, Refusal> {
        let request: HistoryRequest = parse(body)?;
        let stream = self.stream("history", &request.channel)?;
        let most = self.api.limits.page;
        let count = usize::try_from(request.limit).map_or(most, |n| n.min(most));
        let top = self.api.bus.open(&stream).await.map_err(away)?;
        if request.since.as_ref().is_some_and(|s| !s.epoch.is_empty() && s.epoch != top.epoch.as_str()) {
            return Err(ErrorCode::UnrecoverablePosition.into());
        }
        let since = request.since.map(|since| since.offset);
        let (position, publications) = if request.reverse {
            let end = since.map_or(top.offset, |since| since.saturating_sub(1).min(top.offset));
            let newest = self.newest(&stream, &top, end, count).await?;
            (top, newest)
        } else {
            let limit = ReadLimit { count, bytes: PAGE_BYTES };
            let after = since.unwrap_or(0);
            let slice = if count == 0 { None } else { self.api.bus.read(&stream, after, limit).await.map_err(away)? };
            slice.map_or_else(|| (top, Vec::new()), |slice| (slice.position, slice.publications))
        };
        let publications = publications.iter().map(|p: &Publication| Pub::new(p, p.offset)).collect();
        let result = HistoryResult { publications, epoch: position.epoch.as_str(), offset: position.offset };
        let mut out = Vec::new();
        Form::Json.result(&mut out, &result);
        String::from_utf8(out).map_err(|error| Refusal::Problem(Problem::internal(error)))
    }

    /// The last publications up to `end`, newest first.
    async fn newest(
        &self,
        stream: &StreamName,
        top: &Position,
        end: u64,
        count: usize,
    ) -> Result<Vec<Publication>, Refusal> {
        let mut page = Backwards::new(end, count, PAGE_BYTES, |it: &Publication| it.offset);
        while let Some((after, count)) = page.wanted() {
            let limit = ReadLimit { count, bytes: PAGE_BYTES };
            let slice = self.api.bus.read(stream, after, limit).await.map_err(away)?;
            if slice.as_ref().is_some_and(|slice| slice.position.epoch != top.epoch) {
                // It has begun anew meanwhile; whoever asks again is told of that.
                return Err(ErrorCode::Internal.into());
            }
            page.take(slice.map(|slice| slice.publications).unwrap_or_default());
        }
        Ok(page.into_page())
    }

    /// Forgets the past of a channel. Whoever has everything is not disturbed; whoever comes back from before loads anew.
    async fn history_remove(&self, body: &[u8]) -> Result<String, Refusal> {
        let OfChannel { channel } = parse(body)?;
        let stream = self.stream("history_remove", &channel)?;
        self.api.bus.forget(&stream).await.map_err(away)?;
        Ok("{}".to_owned())
    }

    /// The stream of a channel of the application on which the caller may do this.
    pub(super) fn stream(&self, action: &str, channel: &str) -> Result<StreamName, Refusal> {
        match Channel::parse(channel) {
            Ok(Channel::Application(name)) if name.len() > self.api.limits.name => Err(ErrorCode::BadRequest.into()),
            Ok(Channel::Application(name)) if self.caller.permissions.allow("channels", action, &name) => {
                Ok(StreamName::from_checked(&name))
            }
            Ok(_) => Err(ErrorCode::PermissionDenied.into()),
            Err(_) => Err(ErrorCode::BadRequest.into()),
        }
    }
}

/// What an answer of HTTP is among the answers of a batch: others may have been done.
fn among_others(refused: Refusal) -> ErrorCode {
    match refused {
        Refusal::Error(error) => error,
        Refusal::Problem(problem) if problem.status() == StatusCode::TOO_MANY_REQUESTS => ErrorCode::TooManyRequests,
        Refusal::Problem(problem) if problem.status().is_client_error() => ErrorCode::BadRequest,
        Refusal::Problem(_) => ErrorCode::Internal,
    }
}

pub(super) fn parse<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Refusal> {
    serde_json::from_slice(body).map_err(|error| {
        Refusal::Problem(Problem::bad_request("bad_request", format!("the body is no request of this method: {error}")))
    })
}

pub(super) fn away(error: BusError) -> Refusal {
    let text = "the bus did not confirm the publication; try again soon";
    Refusal::Problem(Problem::unavailable("bus_unavailable", text).caused_by(error))
}

/// The answers in the order of what was asked, a refusal among them as an error of the protocol. Where each of them is that the bus is
/// away, that is the answer to all of it: nothing was confirmed, and callers who look at the status alone must see so.
pub(super) async fn in_order<F: Future<Output = Result<String, Refusal>>>(all: Vec<F>) -> Result<Vec<String>, Refusal> {
    let mut answers = stream::iter(all).buffered(CONCURRENCY);
    let (mut done, mut bytes, mut away, mut all_away) = (Vec::new(), 0, None, true);
    while let Some(answer) = answers.next().await {
        let answer = match answer {
            Err(Refusal::Problem(problem)) if problem.status() == StatusCode::SERVICE_UNAVAILABLE => {
                away = Some(problem);
                refusal(ErrorCode::Internal)
            }
            answer => {
                all_away = false;
                answer.unwrap_or_else(|refused| refusal(among_others(refused)))
            }
        };
        bytes += answer.len();
        if bytes > MAX_ANSWER {
            return Err(ErrorCode::LimitExceeded.into());
        }
        done.push(answer);
    }
    match away.filter(|_| all_away) {
        Some(away) => Err(away.into()),
        None => Ok(done),
    }
}
