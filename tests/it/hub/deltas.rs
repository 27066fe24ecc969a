//! Patches as others read them: npm `fossil-delta` on a crowd of texts, and unmodified clients that ask for patches.

use std::{fmt::Write as _, fs};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use dzvin_protocols::channels::{
    centrifuge::{About, Form, Payload, Pub},
    fossil,
};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};
use serde_json::json;

use super::terms::{rules, run, script};
use crate::support::hub::World;

/// Enough that each kind of edit meets each kind of text, and a second's work.
const PAIRS: usize = 1500;
/// Of how many of these pairs a delta that is made of bytes alone could not be said in JSON, at least: some hundreds are.
const TRAPS: u64 = 100;
/// What texts are made of: scripts, marks that combine, characters of four bytes and of several, what JSON escapes, escapes that
/// are in the text already (half a pair of surrogates too), and what a reader of deltas might take for its own signs.
const PIECES: &[&str] = &[
    "дзвін",
    "їжак",
    "ґанок",
    "é",
    "è",
    "ё",
    "е",
    "e\u{301}",
    "o\u{308}\u{304}",
    "😀",
    "😁",
    "🇺🇦",
    "👩\u{200d}🚀",
    "𐍈",
    "\u{10ffff}",
    "\u{fffd}",
    "\u{feff}",
    "\u{2028}",
    "漢字",
    "中",
    "{\"name\":\"",
    "\",\"value\":",
    "\\\"",
    "\\\\",
    "\\n",
    "\\ud83d\\ude00",
    "\\ud800",
    "\n",
    "\u{1}",
    "\u{7f}",
    "0",
    "904.240",
    "null,",
    "4@0,",
    "3:abc",
    "1CCq3I;",
    "a",
    "status",
];
/// Characters that differ in their last bytes only: what they share is where a careless copy ends.
const NEIGHBOURS: &[(&str, &str)] =
    &[("é", "è"), ("і", "ї"), ("д", "ж"), ("😀", "😁"), ("中", "丮"), ("\u{301}", "\u{300}")];

fn piece(rng: &mut StdRng) -> String {
    let piece = *PIECES.choose(rng).expect("pieces");
    // Now and then a long run of one thing.
    let times = if rng.random_ratio(1, 12) { rng.random_range(20..400) } else { 1 };
    piece.repeat(times)
}

/// A text, and what became of it.
fn pair(rng: &mut StdRng) -> (String, String) {
    let mut pieces: Vec<String> = (0..rng.random_range(1..40)).map(|_| piece(rng)).collect();
    let before = pieces.concat();
    for _ in 0..rng.random_range(0..8) {
        let at = rng.random_range(0..pieces.len());
        match rng.random_range(0..6) {
            0 => pieces[at] = piece(rng),
            1 => pieces.insert(at, piece(rng)),
            2 if pieces.len() > 1 => drop(pieces.remove(at)),
            3 => pieces.swap(0, at),
            4 => pieces.extend_from_within(at..pieces.len().min(at + 5)),
            _ => {
                let (a, b) = NEIGHBOURS.choose(rng).expect("neighbours");
                pieces[at] = pieces[at].replace(a, b);
            }
        }
    }
    let after = pieces.concat();
    let (a, b) = *NEIGHBOURS.choose(rng).expect("neighbours");
    // In half of them one character more differs, in the middle of what stays.
    if rng.random() { (format!("{before}{a}{before}"), format!("{before}{b}{after}")) } else { (before, after) }
}

/// What is sent to a client of the JSON form that knows the base.
fn frame(delta: Option<&[u8]>, target: &str) -> String {
    let data = delta.map_or(Payload::Full(target.as_bytes()), Payload::Patch);
    let mut out = Vec::new();
    Form::Json.push(&mut out, About::Channel("chat.1"), &Pub::of(data));
    String::from_utf8(out).expect("a text, as frames of this form are")
}

#[tokio::test]
async fn deltas_are_read_by_whoever_reads_fossil() {
    let mut rng = StdRng::seed_from_u64(0x647a_7669_6e00);
    let mut lines = String::new();
    for _ in 0..PAIRS {
        let (base, target) = pair(&mut rng);
        let delta = fossil::create(base.as_bytes(), target.as_bytes());
        let shorter = fossil::shorter(base.as_bytes(), target.as_bytes());
        let frame = frame(shorter.as_deref(), &target);
        let line = json!({"base": base, "target": target, "delta": STANDARD.encode(&delta), "frame": frame});
        writeln!(lines, "{line}").expect("written");
    }
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("pairs.jsonl");
    fs::write(&file, lines).expect("written");
    let file = file.to_str().expect("a path");
    let report = script("fossil.mjs", &["--pairs", file]).await;
    assert_eq!((&report["wrong"], &report["pairs"]), (&json!([]), &json!(PAIRS)), "{report}");
    assert!(report["traps"].as_u64() > Some(TRAPS), "these texts prove nothing: {report}");
    assert!(report["patches"].as_u64() > Some(PAIRS as u64 / 2), "{report}");
}

async fn clients(redis: bool) {
    let world = World::new(1, redis).await;
    let hub = world.hub_with("a", &rules("")).await;
    let report = run("deltas.mjs", &hub, &["--sandbox", &world.sandbox.control_url()]).await;
    for form in ["json", "protobuf"] {
        for (who, patches) in [("patched", true), ("whole", false)] {
            let it = &report[form][who];
            assert_eq!(
                (&it["count"], &it["wrong"], &it["faults"]),
                (&json!(240), &json!([]), &json!([])),
                "{form} {who}"
            );
            assert_eq!((&it["recovered"], &it["unrecovered"]), (&json!(3), &json!(0)), "{form} {who}: {it}");
            let got = it["patches"].as_u64();
            assert!(if patches { got > Some(200) } else { got == Some(0) }, "{form} {who}: {it}");
        }
        let saved = report[form]["patched"]["saved"].as_f64();
        assert!(saved > Some(0.8), "{form}: {saved:?} of the bytes");
        let of_entities = &report[format!("{form}_entities")];
        assert_eq!((&of_entities["same"], &of_entities["enough"]), (&json!(true), &json!(true)), "{form}");
        assert!(of_entities["patches"].as_u64() > Some(10), "{form}: {of_entities}");
    }
}

#[tokio::test]
async fn clients_that_ask_for_patches_have_what_was_published_in_memory() {
    clients(false).await;
}

#[tokio::test]
async fn clients_that_ask_for_patches_have_what_was_published_over_redis() {
    clients(true).await;
}
