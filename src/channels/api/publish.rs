//! `publish` and `broadcast`.

use std::{borrow::Cow, sync::Arc, time::Duration};

use axum::http::StatusCode;
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use dzvin_actors::{
    channels::Publisher,
    platform::ports::{Bus, Conditions, Offer, Once, Published, Version},
};
use dzvin_protocols::channels::{
    Extra, Message, Word,
    centrifuge::{ErrorCode, Tags, is_json, or_default},
    in_one_line, now_micros,
};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use super::{
    Refusal, json,
    methods::{Call, away, in_order, parse},
};
use crate::{channels::bus::MAX_WORD, platform::http::Problem};

/// Largest data of one publication: what clients of the protocol expect at most, and far below a session's queue.
const MAX_DATA: usize = 64 * 1024;
/// Longest key of a publisher, and name of an epoch of versions: nobody needs more to tell them apart.
const MAX_KEY: usize = 255;

/// What is published: on `channel` by `publish`, on `channels` by `broadcast`. `delta` is taken and changes nothing: patches are
/// made for whoever has asked for them. What is `null` was not given, but for the data.
#[derive(Deserialize)]
struct Given<'a> {
    #[serde(default, deserialize_with = "or_default")]
    channel: Cow<'a, str>,
    #[serde(default, deserialize_with = "or_default")]
    channels: Vec<String>,
    /// `null` is data as good as any.
    #[serde(borrow, default, deserialize_with = "present")]
    data: Option<&'a RawValue>,
    /// The same in base64, which must hold JSON: subscribers of the JSON form can take nothing else.
    #[serde(default, deserialize_with = "or_default")]
    b64data: Cow<'a, str>,
    #[serde(default, deserialize_with = "or_default")]
    tags: Tags,
    #[serde(default, deserialize_with = "or_default")]
    skip_history: bool,
    #[serde(default, deserialize_with = "or_default")]
    idempotency_key: Cow<'a, str>,
    #[serde(default, deserialize_with = "or_default")]
    version: u64,
    #[serde(default, deserialize_with = "or_default")]
    version_epoch: Cow<'a, str>,
}

fn present<'de, D: Deserializer<'de>>(from: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(from).map(Some)
}

/// A publication that waits for its channels.
struct Ready {
    message: Message,
    /// The same as a word, where nothing is to keep it.
    passing: Option<Bytes>,
    once: Option<Once>,
    version: Option<Version>,
}

impl Call<'_> {
    pub(super) async fn publish(&self, body: &[u8]) -> Result<String, Refusal> {
        let given: Given<'_> = parse(body)?;
        self.put(&given.channel, &self.ready(&given)?).await
    }

    /// Answers of the channels stand in their order; one that fails leaves the others alone. When the bus takes none of them the caller
    /// is told so as of a publication.
    pub(super) async fn broadcast(&self, body: &[u8]) -> Result<String, Refusal> {
        let given: Given<'_> = parse(body)?;
        if given.channels.len() > self.api.limits.batch {
            return Err(ErrorCode::LimitExceeded.into());
        }
        let ready = self.ready(&given)?;
        let puts = given.channels.iter().map(|channel| async {
            let result = self.put(channel, &ready).await?;
            Ok(format!("{{\"result\":{result}}}"))
        });
        let responses = in_order(puts.collect()).await?;
        Ok(format!("{{\"responses\":[{}]}}", responses.join(",")))
    }

    fn ready(&self, given: &Given<'_>) -> Result<Ready, Refusal> {
        let data = match (&*given.b64data, given.data) {
            ("", Some(data)) => Bytes::copy_from_slice(data.get().as_bytes()),
            ("", None) => return Err(Problem::bad_request("bad_request", "data is missing").into()),
            (text, _) if text.len() > MAX_DATA / 3 * 4 + 4 => return Err(ErrorCode::LimitExceeded.into()),
            (text, _) => decoded(text).filter(|data| is_json(data)).ok_or(ErrorCode::BadRequest)?,
        };
        if data.len() > MAX_DATA {
            return Err(ErrorCode::LimitExceeded.into());
        }
        let versioned = given.version != 0 || !given.version_epoch.is_empty();
        let long = given.idempotency_key.len() > MAX_KEY || given.version_epoch.len() > MAX_KEY;
        // What nothing keeps replaces nothing, and an epoch of no version says nothing.
        if long || (versioned && (given.skip_history || given.version == 0)) {
            return Err(ErrorCode::BadRequest.into());
        }
        let extra = Extra { tags: given.tags.clone(), ..Extra::default() };
        let extra = (!extra.is_empty()).then(|| Arc::new(extra));
        let message = Message { data: in_one_line(data), at: now_micros(), trace: self.trace.clone(), extra };
        let passing = if given.skip_history { Some(passing(&message)?) } else { None };
        let once = (!given.idempotency_key.is_empty()).then(|| self.once(&given.idempotency_key));
        let version = Version { number: given.version, epoch: (&*given.version_epoch).into() };
        Ok(Ready { message, passing, once, version: versioned.then_some(version) })
    }

    /// Keys are remembered as half a hash: it takes 2^64 of them to find two that are alike.
    fn once(&self, key: &str) -> Once {
        let mut short = [0; 16];
        short.copy_from_slice(&Sha256::digest(key.as_bytes())[..16]);
        Once { key: short, window: self.api.limits.idempotency, publisher: self.caller.publisher }
    }

    async fn put(&self, channel: &str, ready: &Ready) -> Result<String, Refusal> {
        let stream = self.stream("publish", channel)?;
        let rules = self.api.namespaces.of(channel);
        let pace = rules.pace_of(Publisher::Server);
        let offer = match &ready.passing {
            Some(word) => Offer::Passing(word.clone()),
            None => Offer::Kept(ready.message.clone(), self.api.apps.keep(channel, rules)),
        };
        let on = Conditions { once: ready.once, version: ready.version.clone(), pace };
        match self.api.bus.put(&stream, offer, &on).await.map_err(away)? {
            Published::TooMany { wait } => Err(too_many(wait).into()),
            published => Ok(published.position().map_or_else(
                || "{}".to_owned(),
                |at| format!("{{\"offset\":{},\"epoch\":{}}}", at.offset, json(&at.epoch)),
            )),
        }
    }
}

fn decoded(text: &str) -> Option<Bytes> {
    STANDARD.decode(text).ok().map(Bytes::from)
}

/// A word is shorter than what is kept may be: tags and all go with it.
fn passing(message: &Message) -> Result<Bytes, Refusal> {
    let word = Word::of_message(message).map_err(|_| ErrorCode::BadRequest)?.encode();
    if word.len() > MAX_WORD { Err(ErrorCode::LimitExceeded.into()) } else { Ok(word) }
}

/// 429, and when it is worth another try.
fn too_many(wait: Duration) -> Problem {
    let text = "the channel has had as many publications as it may have, or too many idempotency keys are remembered";
    Problem::new(StatusCode::TOO_MANY_REQUESTS, "too_many_publications", text).retry_after(wait)
}
