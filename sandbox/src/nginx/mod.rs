//! NGINX as it stands before the CDB: limits of rate and of connections by address, with its HTML answers. It adds no
//! `Retry-After` and no `X-Request-ID`. An upgraded WebSocket is one request in progress for all its life.

mod bucket;

pub use bucket::{Rule, Verdict, Zones};

use crate::config::NginxKnobs;
use axum::body::Body;
use axum::http::{HeaderValue, Response, StatusCode, header};
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

/// Addresses that are remembered.
const MAX_KEYS: usize = 10_000;

#[derive(Debug)]
struct State {
    knobs: NginxKnobs,
    zones: Zones<IpAddr>,
}

/// The gate before the application.
#[derive(Debug)]
pub(crate) struct Gate {
    state: Mutex<State>,
    slots: Arc<Slots>,
}

#[derive(Debug, Default)]
struct Slots(Mutex<HashMap<IpAddr, usize>>);

impl Slots {
    fn change<T>(&self, f: impl FnOnce(&mut HashMap<IpAddr, usize>) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// One request in progress; the place is given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Slot {
    slots: Arc<Slots>,
    address: IpAddr,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.slots.change(|map| {
            if let Some(count) = map.get_mut(&self.address) {
                *count -= 1;
                if *count == 0 {
                    map.remove(&self.address);
                }
            }
        });
    }
}

fn rules(knobs: &NginxKnobs) -> Vec<Rule> {
    let delay = if knobs.nodelay { None } else { Some(knobs.delay) };
    let burst = |rate: u64| rate.saturating_mul(knobs.burst_factor);
    let second = knobs.rate_per_s.map(|rate| Rule::per_second(rate, burst(rate), delay));
    let minute = knobs.rate_per_m.map(|rate| Rule::per_minute(rate, burst(rate), delay));
    second.into_iter().chain(minute).collect()
}

impl Gate {
    pub(crate) fn new(knobs: &NginxKnobs) -> Self {
        let zones = Zones::new(rules(knobs), MAX_KEYS);
        Self { state: Mutex::new(State { knobs: knobs.clone(), zones }), slots: Arc::default() }
    }

    /// Judges by rate. Other knobs than last time start the zones anew, as a reload with renamed zones would.
    pub(crate) fn rate(&self, knobs: &NginxKnobs, address: IpAddr, now_ms: i64) -> Verdict {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.knobs != *knobs {
            *state = State { knobs: knobs.clone(), zones: Zones::new(rules(knobs), MAX_KEYS) };
        }
        state.zones.request(&address, now_ms)
    }

    /// Takes a place for a request in progress, if there is one.
    pub(crate) fn slot(&self, knobs: &NginxKnobs, address: IpAddr) -> Option<Slot> {
        let taken = self.slots.change(|map| {
            let count = map.entry(address).or_insert(0);
            let free = knobs.conn_per_ip.is_none_or(|limit| *count < limit);
            *count += usize::from(free);
            if *count == 0 {
                map.remove(&address);
            }
            free
        });
        taken.then(|| Slot { slots: self.slots.clone(), address })
    }
}

/// The HTML page that NGINX answers by itself.
pub(crate) fn page(status: u16) -> Response<Body> {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
    let title = match status {
        StatusCode::SERVICE_UNAVAILABLE => "503 Service Temporarily Unavailable".to_owned(),
        StatusCode::GATEWAY_TIMEOUT => "504 Gateway Time-out".to_owned(),
        other => other.to_string(),
    };
    let html = format!(
        "<html>\r\n<head><title>{title}</title></head>\r\n<body>\r\n<center><h1>{title}</h1></center>\r\n\
         <hr><center>nginx</center>\r\n</body>\r\n</html>\r\n"
    );
    let mut response = Response::new(Body::from(html));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html"));
    response.headers_mut().insert(header::SERVER, HeaderValue::from_static("nginx"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    #[test]
    fn places_come_back_when_requests_end() {
        let knobs = NginxKnobs { conn_per_ip: Some(2), ..NginxKnobs::default() };
        let gate = Gate::new(&knobs);
        let (here, there) = (IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from([127, 0, 0, 2]));
        let first = gate.slot(&knobs, here).unwrap();
        let _second = gate.slot(&knobs, here).unwrap();
        assert!(gate.slot(&knobs, here).is_none());
        assert!(gate.slot(&knobs, there).is_some());
        drop(first);
        assert!(gate.slot(&knobs, here).is_some());
        assert_eq!(gate.slots.change(|map| map.len()), 1);
        let closed = NginxKnobs { conn_per_ip: Some(0), ..knobs };
        assert!(gate.slot(&closed, there).is_none());
    }

    #[test]
    fn other_knobs_start_anew() {
        let knobs = NginxKnobs { rate_per_s: Some(1), burst_factor: 0, ..NginxKnobs::default() };
        let gate = Gate::new(&knobs);
        let here = IpAddr::from(Ipv4Addr::LOCALHOST);
        assert_eq!(gate.rate(&knobs, here, 0), Verdict::Pass(0));
        assert_eq!(gate.rate(&knobs, here, 0), Verdict::Refuse);
        let wider = NginxKnobs { rate_per_m: Some(60), ..knobs };
        assert_eq!(gate.rate(&wider, here, 0), Verdict::Pass(0));
    }
}
