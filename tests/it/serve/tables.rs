//! The tables of codes in docs/PROTOCOL.md are the program's: every code stands in one, and says of it what clients do.

use std::{collections::BTreeMap, fs, path::Path};

use dzvin_protocols::channels::{
    centrifuge::{Disconnect, ErrorCode, Unsubscribe, reconnects},
    pusher::{ClientAction, Close, ErrorCode as PusherError},
};

/// One row: its cells after the code.
type Rows = BTreeMap<u16, Vec<String>>;

fn page() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/PROTOCOL.md")).expect("the page")
}

/// The rows below a heading whose first cell is codes: `3000`, `3505, 3508` or `4000–4499`.
fn table(page: &str, heading: &str) -> Rows {
    let section = page.split(&format!("\n{heading}\n")).nth(1).unwrap_or_else(|| panic!("no {heading}"));
    let section = section.split("\n#").next().unwrap_or_default();
    let mut rows = Rows::new();
    for line in section.lines().filter(|line| line.starts_with('|')) {
        let cells: Vec<String> = line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect();
        let number = |text: &str| text.trim().parse::<u16>().ok();
        let codes = match cells[0].split_once('–') {
            Some((first, last)) => number(first).into_iter().chain(number(last)).collect(),
            None => cells[0].split(',').filter_map(number).collect::<Vec<_>>(),
        };
        for code in codes {
            assert!(rows.insert(code, cells[1..].to_vec()).is_none(), "{code} stands twice below {heading}");
        }
    }
    assert!(!rows.is_empty(), "no table below {heading}");
    rows
}

/// Every one is there under its own words, and nothing else is.
fn assert_words(rows: &Rows, all: impl Iterator<Item = (u16, &'static str)>, others: &[u16]) {
    let mut known = others.to_vec();
    for (code, words) in all {
        let row = rows.get(&code).unwrap_or_else(|| panic!("{code} {words} is in no table"));
        assert_eq!(row[0], words, "{code}");
        known.push(code);
    }
    let unknown: Vec<_> = rows.keys().filter(|code| !known.contains(code)).collect();
    assert!(unknown.is_empty(), "in the table, but not in the program: {unknown:?}");
}

#[test]
fn errors_are_those_of_the_program() {
    let rows = table(&page(), "## Errors in replies");
    assert_words(&rows, ErrorCode::ALL.iter().map(|error| (error.code(), error.message())), &[]);
    for error in ErrorCode::ALL {
        let row = &rows[&error.code()];
        assert_eq!(row[1].contains("`temporary: true`"), error.temporary(), "{error:?}: {row:?}");
        // 109 too: with another token.
        let again = error.temporary() || matches!(error, ErrorCode::TokenExpired);
        let last = row.last().expect("cells");
        assert_eq!(last.contains("tries again"), again, "{error:?}: {last}");
    }
}

#[test]
fn disconnects_are_those_of_the_program() {
    let rows = table(&page(), "## Disconnects");
    let others = [1002, 1007, 1009, 4000, 4499, 4500, 4999];
    assert_words(&rows, Disconnect::ALL.iter().map(|why| (why.code(), why.reason())), &others);
    assert!(others.iter().all(|code| rows.contains_key(code)));
    for (code, row) in &rows {
        let back = row.last().expect("cells").starts_with("comes back");
        assert!(back || row.last().expect("cells").starts_with("stays away"), "{code}: {row:?}");
        // Which centrifuge-js alone takes for the client's own fault.
        assert_eq!(back, *code != 1009 && reconnects(*code), "{code}: {row:?}");
    }
}

#[test]
fn ends_of_subscriptions_are_those_of_the_program() {
    let rows = table(&page(), "## Ends of one subscription");
    assert_words(&rows, Unsubscribe::ALL.iter().map(|why| (why.code(), why.reason())), &[]);
    for why in Unsubscribe::ALL {
        let last = rows[&why.code()].last().expect("cells");
        assert_eq!(last.starts_with("subscribes again"), why.resubscribe(), "{why:?}: {last}");
    }
}

#[test]
fn closes_of_the_pusher_wire_are_those_of_the_program() {
    let page = page();
    let rows = table(&page, "## Close codes");
    let of_framing = [1002, 1003, 1007, 1009];
    for code in Close::ALL.map(Close::code).into_iter().chain(of_framing) {
        assert!(rows.contains_key(&code), "{code} is in no table");
    }
    assert_eq!(rows.len(), Close::ALL.len() + of_framing.len(), "{rows:?}");
    for (code, row) in &rows {
        let does = match ClientAction::of(*code) {
            ClientAction::Refused => "stays away",
            ClientAction::Backoff | ClientAction::Lost => "back in a second",
            ClientAction::Retry => "back at once",
            ClientAction::SwitchToTls => "switches to TLS",
        };
        assert_eq!(row.last().map(String::as_str), Some(does), "{code}: {row:?}");
    }
    let wire = page.split("# The Pusher protocol").nth(1).expect("its part of the page");
    for error in [PusherError::Unauthorized, PusherError::ClientEventRejected, PusherError::WatchlistTooLong] {
        assert!(
            wire.contains(&format!(" {}", error.code())) || wire.contains(&format!("({}", error.code())),
            "{error:?}"
        );
    }
}
