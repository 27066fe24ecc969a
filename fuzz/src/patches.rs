//! Both patches over any text: what comes of them can be stored where what went in could, and is not more than it may be.

use dzvin_protocols::entities::{JsonPatch, Mask, check, merge_patch};
use serde_json::value::RawValue;

use super::{text, tree::Tree};

/// What a document may become here: small, so that copies reach it.
const LIMIT: usize = 4096;

/// Three texts, one behind the other's first newline: the paths of a mask with bars between them, a patch and a document.
pub fn patches(data: &[u8]) {
    let text = text(data);
    let (paths, rest) = text.split_once('\n').unwrap_or(("", &text));
    let (patch, doc) = rest.split_once('\n').unwrap_or((rest, "{}"));
    let read = |text: &str| RawValue::from_string(text.to_owned()).ok();
    let (Some(patch), Some(doc)) = (read(patch), read(doc)) else { return };
    if check(&doc).is_err() || doc.get().len() > LIMIT {
        return;
    }
    let paths: Vec<&str> = paths.split('|').filter(|path| !path.is_empty()).collect();
    let mask = Mask::parse(&paths).ok().flatten();
    if check(&patch).is_ok() {
        merge(mask.as_ref(), &doc, &patch);
    }
    let Ok(patch) = JsonPatch::read(&patch) else { return };
    let Ok(done) = patch.apply(&doc, LIMIT) else { return };
    assert!(done.get().len() <= LIMIT, "{}", done.get().len());
    assert!(is_json(done.get()), "{done}");
    assert_eq!(patch.apply(&doc, LIMIT).map(|again| again.get().to_owned()), Ok(done.get().to_owned()));
}

fn merge(mask: Option<&Mask>, doc: &RawValue, patch: &RawValue) {
    let done = merge_patch(doc, patch);
    assert!(done.get().len() <= doc.get().len() + patch.get().len() + 2, "nothing is made of nothing: {done}");
    assert!(is_json(done.get()), "{done}");
    assert_eq!(merge_patch(&done, patch).get(), done.get(), "what was merged is merged");
    // Who does not reach what is hidden has not changed it; of equal names a merge leaves one, wherever it leads through.
    let mask = mask.filter(|mask| !mask.is_reached_by(patch.get(), doc.get()));
    if let Some(mask) = mask.filter(|_| Tree::read(doc.get(), true).is_some()) {
        assert_eq!(mask.hidden(doc.get()), mask.hidden(done.get()), "{done}");
    }
}

fn is_json(text: &str) -> bool {
    serde_json::from_str::<&RawValue>(text).is_ok()
}
