//! What the CDB itself writes into a document: its id and its times. Pure text in, text out.

use crate::config::WorldKnobs;
use crate::error::WorldError;
use crate::{clock, json};

/// The id a document names: `_id`, or the first 24 digits of an OpenProcurement `id`.
pub(crate) fn id_of(text: &str) -> Option<String> {
    if let Some(id) = json::get_string(text, &["_id"]) {
        return Some(id);
    }
    let id = json::get_string(text, &["id"])?;
    let hex = id.len() >= 24 && id.is_char_boundary(24) && id[..24].bytes().all(|b| b.is_ascii_hexdigit());
    Some(if hex { id[..24].to_ascii_lowercase() } else { id })
}

/// When a document says it was modified: `dateModified`, then `_meta.systemDateModified`.
pub(crate) fn date_of(text: &str) -> Option<i64> {
    [&["dateModified"][..], &["_meta", "systemDateModified"]]
        .into_iter()
        .find_map(|path| clock::parse(&json::get_string(text, path)?))
        .map(|(micros, _)| micros)
}

/// The members to write for a change at `at`, as `(path, raw value)`.
///
/// `date` is the document's own `dateModified` (whole milliseconds unless it is an OpenProcurement one, which keeps its offset).
pub(crate) fn edits(text: &str, at: i64, date: Option<i64>, knobs: &WorldKnobs) -> Vec<(String, String)> {
    let mut edits = Vec::new();
    if let Some(name) = &knobs.last_modified {
        edits.push((name.clone(), json::quote(&clock::bare(at))));
    }
    if knobs.system_date {
        edits.push(("_meta.systemDateModified".to_owned(), json::quote(&clock::millis_z(at))));
    }
    if let Some(date) = date.filter(|_| knobs.date_modified) {
        let old = json::get_string(text, &["dateModified"]).filter(|old| !old.ends_with('Z'));
        let spelled = match old.and_then(|old| clock::parse(&old)) {
            Some((_, offset)) => clock::with_offset(date, offset),
            None => clock::millis_z(date),
        };
        edits.push(("dateModified".to_owned(), json::quote(&spelled)));
    }
    edits
}

/// Writes the edits into the text.
pub(crate) fn apply(text: &str, edits: &[(String, String)]) -> Result<String, WorldError> {
    let (dotted, flat): (Vec<_>, Vec<_>) = edits.iter().partition(|(path, _)| path.contains('.'));
    let flat: Vec<(&str, &str)> = flat.iter().map(|(path, value)| (path.as_str(), value.as_str())).collect();
    let mut out = json::set(text, &flat)?;
    for (path, value) in dotted {
        out = json::set_path(&out, path, value)?;
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tender_keeps_its_offset_and_its_numbers() {
        let text = r#"{"id":"d6e23faa615b4af499b5483dec2bbe62","dateModified":"2026-10-05T22:53:13.039450+03:00","v":480000.0}"#;
        assert_eq!(id_of(text).as_deref(), Some("d6e23faa615b4af499b5483d"));
        let at = date_of(text).unwrap();
        let out = apply(text, &edits(text, at, Some(at), &WorldKnobs::default())).unwrap();
        assert_eq!(json::get(&out, &["dateModified"]), Some("\"2026-10-05T22:53:13.039450+03:00\""));
        assert_eq!(json::get(&out, &["_lastModified"]), Some("\"2026-10-05T19:53:13.039450\""));
        assert_eq!(json::get(&out, &["_meta", "systemDateModified"]), Some("\"2026-10-05T19:53:13.039000Z\""));
        assert_eq!(json::get(&out, &["v"]), Some("480000.0"));
    }

    #[test]
    fn every_stamp_can_be_left_out_or_renamed() {
        let off = WorldKnobs { last_modified: None, system_date: false, date_modified: false, ..WorldKnobs::default() };
        assert!(edits("{}", 0, Some(0), &off).is_empty());
        let old = WorldKnobs { last_modified: Some("_last_modified".to_owned()), ..WorldKnobs::default() };
        let out = apply("{}", &edits("{}", 0, None, &old)).unwrap();
        assert_eq!(json::get(&out, &["_last_modified"]), Some("\"1970-01-01T00:00:00.000000\""));
        assert_eq!(json::get(&out, &["dateModified"]), None);
    }
}
