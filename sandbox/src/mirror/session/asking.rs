//! The server asks: requests in the order that chance gives, their answers, and what they mean.

use super::{End, Event, Session, end};
use crate::clock;
use crate::config::{Manner, NullSpelling};
use crate::mirror::frames::{INIT_POINT, PROTOCOL, Speller, TIMESTAMP};
use crate::world::Ts;
use rand::Rng;
use rand::seq::SliceRandom;
use std::collections::HashMap;
use std::time::Duration;
use tokio::time::Instant;

impl Session {
    /// Asks for everything in the order that chance gives; the last answer to each counts.
    pub(super) async fn ask_all(&mut self) -> Result<HashMap<&'static str, String>, End> {
        let knobs = self.knobs.clone();
        let mut script = Vec::new();
        for kind in [PROTOCOL, TIMESTAMP, INIT_POINT] {
            let times = self.rng.random_range(1..=knobs.mirror.repeat_requests.clamp(1, 100));
            script.extend((0..times).map(|_| kind));
        }
        if knobs.mirror.shuffle_requests {
            script.shuffle(&mut self.rng);
        }
        let mut answers = HashMap::new();
        if knobs.mirror.pipeline_requests {
            for kind in &script {
                self.ask(kind, None).await?;
            }
            self.answers(&mut answers).await?;
        } else {
            for kind in script {
                self.ask(kind, None).await?;
                self.answers(&mut answers).await?;
            }
        }
        Ok(answers)
    }

    pub(super) async fn ask(&mut self, kind: &'static str, ts: Option<Ts>) -> Result<(), End> {
        *self.awaited.entry(kind).or_default() += 1;
        self.shared.book.collection(&self.collection, |c| c.answers.entry(kind).or_default().asked += 1);
        let frame = Speller(&self.knobs.mirror).request(kind, ts);
        self.send(&frame).await
    }

    /// Waits until every request that was sent is answered.
    pub(super) async fn answers(&mut self, into: &mut HashMap<&'static str, String>) -> Result<(), End> {
        let until = Instant::now() + Duration::from_millis(self.knobs.mirror.answer_timeout_ms);
        while self.awaited.values().any(|count| *count > 0) {
            match self.event(Some(until)).await? {
                Event::Answer(kind, data) => {
                    into.insert(kind, data);
                }
                Event::Deadline => return end(Manner::Close(1008), "no answer in time"),
                Event::Other => {}
            }
        }
        Ok(())
    }

    pub(super) fn cursor(&self, data: Option<&String>) -> Result<Option<Ts>, End> {
        match self.present(data)? {
            None => Ok(None),
            Some(data) => match serde_json::from_str::<Ts>(data) {
                Ok(ts) => Ok(Some(ts)),
                Err(_) => end(Manner::Close(1008), "the cursor is not a pair of numbers"),
            },
        }
    }

    pub(super) fn point(&self, data: Option<&String>) -> Result<Option<i64>, End> {
        let Some(data) = self.present(data)? else { return Ok(None) };
        match serde_json::from_str::<String>(data).ok().and_then(|text| clock::parse(&text)) {
            Some((micros, _)) => Ok(Some(micros)),
            None => end(Manner::Close(1008), "the init point is not a time"),
        }
    }

    fn present<'a>(&self, data: Option<&'a String>) -> Result<Option<&'a str>, End> {
        let Some(data) = data else { return Ok(None) };
        let spelled = match data.as_str() {
            "null" => NullSpelling::Null,
            "\"\"" => NullSpelling::Empty,
            other => return Ok(Some(other)),
        };
        if self.knobs.mirror.strict_null && spelled != self.knobs.mirror.null {
            return end(Manner::Close(1008), "null is spelled otherwise here");
        }
        Ok(None)
    }
}
