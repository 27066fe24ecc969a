//! Requests that are ready but for the times in them: publishing must cost the generator next to nothing.

use super::seal::{self, Seal};
use crate::realtime::orders::{Api, Plan};
use crate::realtime::stamp;
use serde_json::json;

/// One request.
#[derive(Debug)]
pub(crate) struct Template {
    /// All of it.
    bytes: Vec<u8>,
    /// Where the times stand.
    places: Vec<usize>,
    /// The numbers of the channels that it publishes to.
    pub(crate) channels: Vec<usize>,
    /// What has to be signed anew with every time.
    seal: Option<Seal>,
}

impl Template {
    /// The request with a time in all its publications.
    pub(crate) fn at(&mut self, due: i64) -> &[u8] {
        for place in &self.places {
            stamp::write(&mut self.bytes, *place, due);
        }
        if let Some(seal) = &self.seal {
            seal.sign(&mut self.bytes);
        }
        &self.bytes
    }

    /// The requests of a plan, to be sent in turn.
    pub(crate) fn all(plan: &Plan) -> Vec<Self> {
        let (channels, batch) = (plan.names.count.max(1), plan.batch.max(1));
        // Every channel is met, and a batch goes round them as often as it can.
        (0..channels.div_ceil(batch))
            .map(|n| Self::of(plan, (0..batch).map(|k| (n * batch + k) % channels).collect()))
            .collect()
    }

    fn of(plan: &Plan, channels: Vec<usize>) -> Self {
        let (path, body) = body(plan, &channels);
        let host = plan.addresses.first().map_or("localhost", String::as_str);
        let authorization =
            plan.authorization.as_ref().map(|it| format!("Authorization: {it}\r\n")).unwrap_or_default();
        let text = format!(
            "POST {path} HTTP/1.1\r\nHost: {host}\r\n{authorization}Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let places = stamp::places(text.as_bytes());
        let seal = (plan.api == Api::Pusher).then(|| Seal::of(text.as_bytes())).flatten();
        Self { bytes: text.into_bytes(), places, channels, seal }
    }
}

fn body(plan: &Plan, channels: &[usize]) -> (String, String) {
    let payload = stamp::payload(plan.payload);
    let names: Vec<String> = channels.iter().map(|n| plan.names.name(*n)).collect();
    let publish = |name: &str| format!("{{\"channel\":{},\"data\":{payload}}}", json!(name));
    match (plan.api, names.as_slice()) {
        (Api::Centrifugo, [name]) => ("/api/publish".to_owned(), publish(name)),
        (Api::Centrifugo, names) => {
            let commands: Vec<_> = names.iter().map(|name| format!("{{\"publish\":{}}}", publish(name))).collect();
            ("/api/batch".to_owned(), format!("{{\"commands\":[{}]}}", commands.join(",")))
        }
        (Api::Raw, [name]) => (format!("/pub/{name}"), payload),
        (Api::Raw, names) => {
            ("/batch".to_owned(), names.iter().map(|name| format!("{name} {payload}\n")).collect::<String>())
        }
        (Api::Pusher, names) => {
            let event = |name| json!({"name": "bench", "channel": name, "data": payload});
            let (path, body) = match names {
                [name] => ("events", event(name)),
                names => ("batch_events", json!({"batch": names.iter().map(event).collect::<Vec<_>>()})),
            };
            (seal::path(path), body.to_string())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::realtime::{orders::Names, wire};

    fn plan(api: Api, channels: usize, batch: usize) -> Plan {
        let names = Names { pattern: "bench.{n}".to_owned(), count: channels };
        let addresses = vec!["127.0.0.1:1".to_owned()];
        Plan { addresses, api, authorization: Some("Bearer t".to_owned()), names, payload: 128, batch, in_flight: 4 }
    }

    #[test]
    fn one_request_for_each_channel_or_a_batch_over_all() {
        let single = Template::all(&plan(Api::Raw, 3, 1));
        assert_eq!(single.iter().map(|it| it.channels.clone()).collect::<Vec<_>>(), [[0], [1], [2]]);
        let mut batch = Template::all(&plan(Api::Centrifugo, 100, 500));
        assert_eq!((batch.len(), batch[0].channels.len(), batch[0].places.len()), (1, 500, 500));
        let bytes = batch[0].at(1_764_160_000_000_000).to_vec();
        let body = &bytes[wire::head_end(&bytes).unwrap()..];
        let body: serde_json::Value = serde_json::from_slice(body).unwrap();
        assert_eq!(body["commands"][101]["publish"]["channel"], "bench.1");
        assert_eq!(body["commands"][499]["publish"]["data"]["x_due"], 1_764_160_000_000_000_i64);
        let many = Template::all(&plan(Api::Raw, 5, 2));
        assert_eq!(many.last().map(|it| it.channels.clone()), Some(vec![4, 0]));
    }

    #[test]
    fn pushers_api_takes_payloads_as_text() {
        let mut one = Template::all(&plan(Api::Pusher, 1, 1));
        let bytes = one[0].at(1_764_160_000_000_000).to_vec();
        let head = wire::head_end(&bytes).unwrap();
        assert!(bytes.starts_with(b"POST /apps/bench/events?auth_key=bench&"));
        let body: serde_json::Value = serde_json::from_slice(&bytes[head..]).unwrap();
        assert!(body["data"].as_str().unwrap().contains("1764160000000000"), "{body}");
        assert_eq!(Template::all(&plan(Api::Pusher, 20, 10)).len(), 2);
    }
}
