//! The recorder: the first frames of a connection into a file, secrets masked, for adjusting the dialect to reality.
//!
//! One JSON object a line. It never slows the stream: what it cannot take at once it leaves out and says how much.

use std::{
    io::Write,
    os::unix::fs::OpenOptionsExt,
    sync::atomic::{AtomicUsize, Ordering},
};

use dzvin_protocols::{mirror::mask_secrets, platform::time::rfc3339_millis};
use serde::Serialize;
use time::OffsetDateTime;
use tokio::sync::mpsc;

use super::config::TapRules;

/// Longest part of one frame that is kept.
const MAX_TEXT: usize = 64 * 1024;
/// Frames that wait for the disk.
const QUEUE: usize = 32;

#[derive(Serialize)]
struct Line<'a> {
    at: String,
    direction: &'a str,
    bytes: usize,
    text: &'a str,
    left_out: usize,
}

/// Takes frames until it has enough.
#[derive(Debug)]
pub(super) struct Tap {
    lines: mpsc::Sender<String>,
    left: AtomicUsize,
    missed: AtomicUsize,
}

impl Tap {
    /// Begins the file anew. `None` when no recorder is wanted or the file cannot be made.
    pub(super) fn begin(rules: Option<&TapRules>) -> Option<Self> {
        let rules = rules.filter(|rules| rules.frames > 0)?.clone();
        let (lines, mut queue) = mpsc::channel::<String>(QUEUE);
        let frames = rules.frames;
        tokio::task::spawn_blocking(move || {
            let file =
                std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&rules.path);
            let mut file = match file {
                Ok(file) => file,
                Err(error) => {
                    tracing::warn!(path = %rules.path.display(), %error, "the recorder cannot write its file");
                    return;
                }
            };
            while let Some(line) = queue.blocking_recv() {
                if let Err(error) = writeln!(file, "{line}") {
                    tracing::warn!(path = %rules.path.display(), %error, "the recorder stopped");
                    return;
                }
            }
        });
        Some(Self { lines, left: AtomicUsize::new(frames), missed: AtomicUsize::new(0) })
    }

    /// Records a frame, if there is still room.
    pub(super) fn record(&self, direction: &str, text: &str) {
        let taken = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        if taken.is_err() {
            return;
        }
        let Ok(place) = self.lines.try_reserve() else {
            self.missed.fetch_add(1, Ordering::Relaxed);
            return;
        };
        let cut = text.get(..text.floor_char_boundary(MAX_TEXT)).unwrap_or_default();
        let line = Line {
            at: rfc3339_millis(OffsetDateTime::now_utc()),
            direction,
            bytes: text.len(),
            text: &mask_secrets(cut),
            left_out: self.missed.swap(0, Ordering::Relaxed),
        };
        place.send(serde_json::to_string(&line).unwrap_or_default());
    }
}
