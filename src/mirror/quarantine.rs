//! Records that could not be used, kept for people: bounded in rows and in bytes, secrets masked.

use std::borrow::Cow;

use dzvin_actors::platform::ports::StoreError;
use dzvin_protocols::mirror::{Quarantined, mask_secrets};
use sqlx::PgConnection;

use crate::platform::db::store_error;

/// Bytes of one record that are kept: enough to see what is wrong; an over-limit object is fetched by its id.
pub const MAX_RAW_BYTES: usize = 256 * 1024;
/// Records kept per Mirror: with the bytes above at most 256 MB. The oldest give way.
pub const MAX_QUARANTINED: i64 = 1_000;
/// Characters of the explanation.
const MAX_DETAIL: usize = 500;

/// The bytes as they came, unless they hold a secret: then they are text, and the secret is masked.
fn without_secrets(raw: &[u8]) -> Cow<'_, [u8]> {
    let text = String::from_utf8_lossy(raw);
    let masked = mask_secrets(&text);
    if masked == text { Cow::Borrowed(raw) } else { Cow::Owned(masked.into_bytes()) }
}

/// Keeps the records within the caller's transaction.
pub(super) async fn keep(tx: &mut PgConnection, mirror: &str, records: &[Quarantined]) -> Result<(), StoreError> {
    let doing = "writing quarantine";
    for record in records {
        let raw = without_secrets(&record.raw[..record.raw.len().min(MAX_RAW_BYTES)]);
        let detail: String = mask_secrets(&record.detail).chars().filter(|c| *c != '\0').take(MAX_DETAIL).collect();
        sqlx::query!(
            "INSERT INTO quarantine (mirror, reason, detail, id, raw, bytes) VALUES ($1, $2, $3, $4, $5, $6)",
            mirror,
            record.reason,
            detail,
            record.id.as_ref().map(dzvin_protocols::platform::EntityId::as_str),
            &*raw,
            i64::try_from(record.raw.len()).unwrap_or(i64::MAX)
        )
        .execute(&mut *tx)
        .await
        .map_err(store_error(doing))?;
        tracing::warn!(
            mirror,
            reason = record.reason,
            id = record.id.as_ref().map(tracing::field::display),
            "record quarantined"
        );
    }
    if !records.is_empty() {
        sqlx::query!(
            "DELETE FROM quarantine WHERE mirror = $1 AND number <= (
                 SELECT number FROM quarantine WHERE mirror = $1 ORDER BY number DESC OFFSET $2 LIMIT 1)",
            mirror,
            MAX_QUARANTINED
        )
        .execute(&mut *tx)
        .await
        .map_err(store_error(doing))?;
    }
    Ok(())
}
