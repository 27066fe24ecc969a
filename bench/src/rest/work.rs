//! What is asked for: the requests, as they are written.

use super::line::Place;

/// Entities that are made in one request: with a kilobyte each they fit the hub's largest body.
pub(super) const BULK: usize = 200;
/// What entities say beside their number.
const STATUSES: [&str; 3] = ["new", "open", "won"];

/// A sort of request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Work {
    /// One entity.
    One,
    /// The first page of the list.
    List,
    /// A member of an entity is set to what it never was.
    Patch,
    /// A new entity.
    Create,
}

impl Work {
    pub(super) const ALL: [Self; 4] = [Self::One, Self::List, Self::Patch, Self::Create];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::One => "read one",
            Self::List => "list",
            Self::Patch => "patch",
            Self::Create => "create",
        }
    }

    /// What the request of this number is in the mix: nine of ten read, well stirred.
    pub(super) fn of_mix(n: u64) -> Self {
        // 37 and 100 have no factor in common: a hundred in a row are each of the hundred once.
        match n * 37 % 100 {
            0..80 => Self::One,
            80..90 => Self::List,
            90..99 => Self::Patch,
            _ => Self::Create,
        }
    }

    /// The request of this number.
    pub(super) fn request(self, place: &Place, n: u64) -> String {
        let [entities, document, page] = place.sizes;
        let one = || format!("/api/v1/entities/deal/d{}", spread(n, entities));
        match self {
            Self::One => written(place, "GET", &one(), "", ""),
            Self::List => written(place, "GET", &format!("/api/v1/entities/deal?limit={page}"), "", ""),
            Self::Patch => written(place, "PATCH", &one(), "application/merge-patch+json", &format!("{{\"n\":{n}}}")),
            Self::Create => written(place, "POST", "/api/v1/entities/deal", "application/json", &doc(n, document)),
        }
    }
}

/// So that those that follow each other are not neighbours.
fn spread(n: u64, entities: usize) -> u64 {
    n.wrapping_mul(7919) % entities as u64
}

fn doc(n: u64, bytes: usize) -> String {
    let status = STATUSES[(n % 3) as usize];
    let head = format!("{{\"n\":{n},\"status\":\"{status}\",\"text\":\"");
    let pad = "x".repeat(bytes.saturating_sub(head.len() + 2));
    format!("{head}{pad}\"}}")
}

/// The request that makes these entities.
pub(super) fn creating(place: &Place, numbers: &[usize]) -> String {
    let item = |n: &usize| format!("{{\"op\":\"create\",\"id\":\"d{n}\",\"doc\":{}}}", doc(0, place.sizes[1]));
    let items: Vec<_> = numbers.iter().map(item).collect();
    let body = format!("{{\"items\":[{}]}}", items.join(","));
    written(place, "POST", "/api/v1/entities/deal/bulk", "application/json", &body)
}

/// To the bare handler the path tells how much it is to answer; all else is the same.
fn written(place: &Place, method: &str, path: &str, kind: &str, body: &str) -> String {
    let Place { address, token, answer, .. } = place;
    let path = answer.map_or_else(|| path.to_owned(), |bytes| format!("/{bytes}"));
    let told = if body.is_empty() {
        String::new()
    } else {
        format!("Content-Type: {kind}\r\nContent-Length: {}\r\n", body.len())
    };
    format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {token}\r\n{told}\r\n{body}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mix_is_ninety_to_ten_in_every_hundred() {
        for from in [0, 100, 12_345] {
            let all: Vec<_> = (from..from + 100).map(Work::of_mix).collect();
            let count = |work| all.iter().filter(|it| **it == work).count();
            assert_eq!(Work::ALL.map(count), [80, 10, 9, 1]);
        }
        assert!((0..10).any(|n| matches!(Work::of_mix(n), Work::Patch)), "stirred");
    }

    #[test]
    fn documents_are_as_long_as_is_asked_for() {
        let text = doc(7, 1024);
        assert_eq!(text.len(), 1024);
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap()["n"], 7);
        let hundred: std::collections::BTreeSet<_> = (0..100).map(|n| spread(n, 100)).collect();
        assert_eq!(hundred.len(), 100, "each entity has its turn");
    }
}
