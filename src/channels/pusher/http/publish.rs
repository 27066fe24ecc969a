//! `events`, `batch_events`, and the older form of one event.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use axum::{
    extract::{Path, State},
    response::Response,
};
use bytes::Bytes;
use dzvin_actors::{
    channels::{App, Publisher, outside},
    platform::ports::{Bus, ChannelPace, Conditions, HistoryLimits, Offer, Presence, Published},
};
use dzvin_protocols::{
    channels::{
        Extra, Message, now_micros,
        pusher::{
            EVENT_TAG, Name, data_of_text,
            http_api::{ApiError, ChannelInfo, Publish, encode_batch, encode_published, parse_batch, parse_events},
        },
    },
    platform::StreamName,
};
use futures_util::{StreamExt, TryStreamExt, stream};

use super::{
    PusherApi, ask, json, refusal,
    signed::{Signed, inside},
};
use crate::platform::http::Problem;

/// Publications of one request that are under way at once. They are begun in their order, and the bus takes them as they come.
pub(super) const CONCURRENCY: usize = 64;

type Api<B, P> = State<Arc<PusherApi<B, P>>>;

/// One event on one channel.
struct Put {
    stream: StreamName,
    message: Message,
    keep: HistoryLimits,
    pace: Option<ChannelPace>,
}

/// `POST /apps/{id}/events`.
pub(super) async fn events<B: Bus, P: Presence>(State(api): Api<B, P>, signed: Signed) -> Result<Response, Problem> {
    let event = parse_events(&signed.body, &api.limits).map_err(refusal::refused)?;
    one(&api, &signed, &event).await
}

/// `POST /apps/{id}/channels/{channel}/events`: the name stands in the query, and the body is the data.
pub(super) async fn legacy<B: Bus, P: Presence>(
    State(api): Api<B, P>,
    Path((_, channel)): Path<(String, String)>,
    signed: Signed,
) -> Result<Response, Problem> {
    let data =
        std::str::from_utf8(&signed.body).map_err(|_| refusal::refused(ApiError::Body("not text".to_owned())))?;
    let get = |key| signed.query.get(key);
    let body = serde_json::json!({
        "name": get("name").unwrap_or_default(), "channel": channel, "data": data,
        "socket_id": get("socket_id"), "info": get("info"),
    });
    let event = parse_events(body.to_string().as_bytes(), &api.limits).map_err(refusal::refused)?;
    one(&api, &signed, &event).await
}

async fn one<B: Bus, P: Presence>(
    api: &PusherApi<B, P>,
    signed: &Signed,
    event: &Publish,
) -> Result<Response, Problem> {
    publish(api, signed, std::slice::from_ref(event)).await?;
    if event.info.is_empty() {
        return Ok(json(encode_published(&[])));
    }
    let infos = infos(api, &signed.app, event.channels.iter().map(|name| (name, event))).await;
    let infos: Vec<_> = event.channels.iter().zip(infos).collect();
    Ok(json(encode_published(&infos)))
}

/// `POST /apps/{id}/batch_events`. One bad event refuses all, before anything is published.
pub(super) async fn batch<B: Bus, P: Presence>(State(api): Api<B, P>, signed: Signed) -> Result<Response, Problem> {
    let events = parse_batch(&signed.body, &api.limits).map_err(refusal::refused)?;
    publish(&api, &signed, &events).await?;
    if events.iter().all(|event| event.info.is_empty()) {
        return Ok(json(encode_batch(&[])));
    }
    let each = events.iter().flat_map(|event| event.channels.first().map(|name| (name, event)));
    let infos = infos(&api, &signed.app, each).await;
    Ok(json(encode_batch(&infos)))
}

/// Puts every event on each of its channels.
async fn publish<B: Bus, P: Presence>(
    api: &PusherApi<B, P>,
    signed: &Signed,
    events: &[Publish],
) -> Result<(), Problem> {
    let mut puts = Vec::new();
    for event in events {
        let message = message(event, signed.trace.clone()).map_err(refusal::refused)?;
        for name in &event.channels {
            let channel = inside(&signed.app, name).map_err(refusal::refused)?;
            let rules = api.namespaces.of(outside(&channel));
            let (keep, pace) = (api.apps.keep(&channel, rules), rules.pace_of(Publisher::Server));
            puts.push(Put { stream: StreamName::from_checked(&channel), message: message.clone(), keep, pace });
        }
    }
    keep_to_paces(&puts)?;
    let puts = puts.into_iter().map(|Put { stream, message, keep, pace }| async move {
        let on = Conditions { pace, ..Conditions::default() };
        match api.bus.put(&stream, Offer::Kept(message, keep), &on).await {
            Ok(Published::TooMany { wait }) => Err(refusal::too_often(wait)),
            Ok(_) => Ok(()),
            Err(error) => Err(refusal::unpublished(error)),
        }
    });
    stream::iter(puts).buffered(CONCURRENCY).try_for_each(|()| std::future::ready(Ok(()))).await
}

/// One request that has more for a channel than it may have in a second is refused before anything is published: however long its
/// sender waits, it would get no further than that, and publish its beginning again each time.
fn keep_to_paces(puts: &[Put]) -> Result<(), Problem> {
    let mut counts: HashMap<&StreamName, u32> = HashMap::new();
    for Put { stream, pace, .. } in puts {
        let Some(pace) = pace else { continue };
        let count = counts.entry(stream).or_default();
        *count += 1;
        if *count > pace.per_second {
            return Err(refusal::above_pace(outside(stream.as_str()), pace.per_second));
        }
    }
    Ok(())
}

fn message(event: &Publish, trace: Option<Arc<str>>) -> Result<Message, ApiError> {
    let tags = BTreeMap::from([(EVENT_TAG.to_owned(), event.name.clone())]).try_into();
    let extra = Extra {
        tags: tags.map_err(|_| ApiError::EventName)?,
        info: None,
        except: event.socket_id.as_ref().map(|id| id.as_str().into()),
        ..Extra::default()
    };
    let data = Bytes::copy_from_slice(data_of_text(&event.data).as_bytes());
    Ok(Message { data, at: now_micros(), trace, extra: Some(Arc::new(extra)) })
}

/// What was asked about channels to which something has been published. What cannot be said is left out: a refusal would have
/// the caller publish again.
async fn infos<'a, B: Bus, P: Presence>(
    api: &PusherApi<B, P>,
    app: &App,
    of: impl Iterator<Item = (&'a Name, &'a Publish)>,
) -> Vec<ChannelInfo<'static>> {
    let asked: Vec<_> = of.map(|(name, event)| (inside(app, name), name.is_presence(), event.info)).collect();
    let each = asked.into_iter().map(|(channel, presence, info)| async move {
        let Ok(channel) = channel else { return ChannelInfo::default() };
        match ask::info(&*api.presence, &channel, presence, info).await {
            Ok((_, info)) => info,
            Err(error) => {
                tracing::debug!(
                    error = &error as &dyn std::error::Error,
                    "an event was published, its channel is not described"
                );
                ChannelInfo::default()
            }
        }
    });
    stream::iter(each).buffered(CONCURRENCY).collect().await
}
