//! What servers ask about channels and their members, and how they send a user away.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use axum::{
    extract::{Path, State},
    response::Response,
};
use dzvin_actors::platform::ports::{Bus, BusError, Presence, ReadLimit};
use dzvin_protocols::{
    channels::{
        Control, Publication, Whose,
        pusher::{
            Guard, Name, UserId,
            http_api::{
                ApiError, Attribute, Cached, ChannelInfo, ChannelsQuery, Info, channel_info, encode_channel,
                encode_channels, encode_users, users_of,
            },
            text_of_data,
        },
    },
    platform::StreamName,
};
use futures_util::{StreamExt, TryStreamExt, stream};

use super::{PusherApi, json, publish::CONCURRENCY, refusal, signed::Signed};
use crate::platform::http::Problem;

/// Most channels of one answer: a megabyte or two. Whoever has more asks by prefix.
const MAX_LISTED: usize = 10_000;
/// Most users of one answer.
const MAX_USERS: usize = 10_000;
/// Channels or members that are read at once.
const PAGE: usize = 1_000;
/// On the Pusher wire this becomes 4009, after which the client stays away.
const FORCED: (u16, &str) = (3503, "force disconnect");

type Api<B, P> = State<Arc<PusherApi<B, P>>>;

/// `GET /apps/{id}/channels`: those that somebody is subscribed to.
pub(super) async fn channels<B: Bus, P: Presence>(State(api): Api<B, P>, signed: Signed) -> Result<Response, Problem> {
    let asked = ChannelsQuery::parse(&signed.query).map_err(refusal::refused)?;
    let found = occupied(&*api.presence, &signed, &asked.prefix).await?;
    let presence = &*api.presence;
    let each = found.into_iter().map(|(inside, name, subscribers)| async move {
        let counts = asked.info.has(Attribute::UserCount);
        let users = if counts { Some(presence.counts(&StreamName::from_checked(&inside)).await?.users) } else { None };
        let subscribers = asked.info.has(Attribute::SubscriptionCount).then_some(subscribers);
        Ok::<_, BusError>((name, ChannelInfo { user_count: users, subscription_count: subscribers, cache: None }))
    });
    let all: Vec<_> = stream::iter(each).buffered(CONCURRENCY).try_collect().await?;
    let all: Vec<_> = all.iter().map(|(name, info)| (name, *info)).collect();
    Ok(json(encode_channels(&all)))
}

/// The application's occupied channels whose names begin so: hub's name, own name, subscribers.
async fn occupied<P: Presence>(
    presence: &P,
    signed: &Signed,
    prefix: &str,
) -> Result<Vec<(Arc<str>, Name, u64)>, Problem> {
    let inside = [&signed.app.prefix(), prefix].concat();
    let (mut found, mut after) = (Vec::new(), None::<Arc<str>>);
    loop {
        let page = presence.channels(&inside, after.as_deref(), PAGE).await?;
        let more = page.len() >= PAGE;
        after = page.last().map(|(channel, _)| Arc::clone(channel));
        for (channel, subscribers) in page {
            let own = signed.app.name_of(&channel).and_then(|name| Name::parse(name).ok());
            // The hub's own channels and those of single users are not the application's to list.
            let Some(name) = own.filter(|name| !name.is_reserved() && name.kind().guard != Guard::User) else {
                continue;
            };
            if found.len() == MAX_LISTED {
                return Err(refusal::too_many(format!("more than {MAX_LISTED} channels; use filter_by_prefix")));
            }
            found.push((channel, name, subscribers));
        }
        if !more || after.is_none() {
            return Ok(found);
        }
    }
}

/// `GET /apps/{id}/channels/{channel}`.
pub(super) async fn channel<B: Bus, P: Presence>(
    State(api): Api<B, P>,
    Path((_, channel)): Path<(String, String)>,
    signed: Signed,
) -> Result<Response, Problem> {
    let (name, inside) = signed.channel(&channel).map_err(refusal::refused)?;
    let asked = channel_info(&signed.query, &name).map_err(refusal::refused)?;
    let (subscribers, mut told) = info(&*api.presence, &inside, name.is_presence(), asked).await?;
    let cached = if asked.has(Attribute::Cache) {
        newest(&*api.bus, &inside, signed.app.rules.cache_age.as_secs()).await?
    } else {
        None
    };
    if asked.has(Attribute::Cache) {
        told.cache = Some(cached.as_ref().map(|(data, ttl)| Cached { data, ttl: *ttl }));
    }
    Ok(json(encode_channel(subscribers > 0, told)))
}

/// How many are subscribed, and what is told of it.
pub(super) async fn info<P: Presence>(
    presence: &P,
    inside: &str,
    has_members: bool,
    asked: Info,
) -> Result<(u64, ChannelInfo<'static>), BusError> {
    // Of all names that begin so the name itself is the first.
    let first = presence.channels(inside, None, 1).await?.into_iter().next();
    let subscribers = first.map_or(0, |(channel, subscribers)| if *channel == *inside { subscribers } else { 0 });
    let counted = asked.has(Attribute::UserCount) && has_members;
    let users = if counted { Some(presence.counts(&StreamName::from_checked(inside)).await?.users) } else { None };
    let subscription_count = asked.has(Attribute::SubscriptionCount).then_some(subscribers);
    Ok((subscribers, ChannelInfo { user_count: users, subscription_count, cache: None }))
}

/// The last event of a cache channel, with the seconds for which it is still shown.
async fn newest<B: Bus>(bus: &B, inside: &str, age: u64) -> Result<Option<(String, u32)>, BusError> {
    let stream = StreamName::from_checked(inside);
    let Some(top) = bus.position(&stream).await?.map(|position| position.offset).filter(|top| *top > 0) else {
        return Ok(None);
    };
    // One that is published in between is newer still.
    let limit = ReadLimit { count: CONCURRENCY, bytes: usize::MAX };
    let slice = bus.read(&stream, top - 1, limit).await?;
    let newest = slice.and_then(|mut slice| slice.publications.pop());
    Ok(newest.and_then(|publication| left(&publication, age).map(|ttl| (text(&publication), ttl))))
}

fn text(publication: &Publication) -> String {
    text_of_data(&publication.data).into_owned()
}

/// Seconds until it is no longer shown.
fn left(publication: &Publication, age: u64) -> Option<u32> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
    let passed = now.saturating_sub(u128::try_from(publication.at).unwrap_or_default()) / 1_000_000;
    let left = u128::from(age).saturating_sub(passed);
    u32::try_from(left).ok().filter(|left| *left > 0)
}

/// `GET /apps/{id}/channels/{channel}/users`.
pub(super) async fn users<B: Bus, P: Presence>(
    State(api): Api<B, P>,
    Path((_, channel)): Path<(String, String)>,
    signed: Signed,
) -> Result<Response, Problem> {
    let (name, inside) = signed.channel(&channel).map_err(refusal::refused)?;
    users_of(&name).map_err(refusal::refused)?;
    let stream = StreamName::from_checked(&inside);
    let (mut found, mut from) = (BTreeSet::new(), 0);
    loop {
        let page = api.presence.members(&stream, from, PAGE).await?;
        // Who is nobody is no member.
        found.extend(page.members.iter().filter_map(|member| UserId::new(&member.info.user).ok()));
        if found.len() > MAX_USERS {
            return Err(refusal::too_many(format!("more than {MAX_USERS} users")));
        }
        match page.next {
            Some(next) => from = next,
            None => return Ok(json(encode_users(&found))),
        }
    }
}

/// `POST /apps/{id}/users/{user}/terminate_connections`: on every node, of either protocol.
pub(super) async fn terminate<B: Bus, P: Presence>(
    State(api): Api<B, P>,
    Path((_, user)): Path<(String, String)>,
    signed: Signed,
) -> Result<Response, Problem> {
    let user = UserId::new(&user).map_err(|error| refusal::refused(ApiError::Body(error.to_string())))?;
    let whose = Whose { user: Some(signed.app.user(&user)), ..Whose::default() };
    let order = Control::Disconnect { whose, code: FORCED.0, reason: FORCED.1.into() };
    api.bus.tell(None, order.encode()).await?;
    Ok(json("{}".to_owned()))
}
