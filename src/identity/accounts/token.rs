//! What an API token looks like: `dzv_`, twelve characters by which it is known, `_`, and 256 bits of chance.
//!
//! The beginning tells scanners of sources and logs what they have found.

use dzvin_protocols::identity::base64url;
use rand::{Rng, rng};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

const PREFIX: &str = "dzv_";
const ID: usize = 12;
const ALPHABET: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";
/// 32 bytes in base64.
const SECRET: usize = 43;

/// A token that was just made.
pub(super) struct Fresh {
    pub(super) id: String,
    pub(super) text: String,
    pub(super) digest: [u8; 32],
}

impl Fresh {
    pub(super) fn new() -> Self {
        let mut chance = rng();
        let id: String = (0..ID).map(|_| char::from(ALPHABET[chance.random_range(0..ALPHABET.len())])).collect();
        let text = format!("{PREFIX}{id}_{}", base64url(&chance.random::<[u8; 32]>()));
        let digest = digest(&text);
        Self { id, text, digest }
    }
}

fn digest(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

/// What may be shown of a token.
pub(super) fn shown(id: &str) -> String {
    format!("{PREFIX}{id}")
}

/// Whether this is to be looked for among API tokens, and nowhere else: no JWT begins so.
pub(in crate::identity) fn is_api_token(token: &str) -> bool {
    token.starts_with(PREFIX)
}

/// By what a token is known; `None`: it is none of ours.
pub(in crate::identity) fn id_of(token: &str) -> Option<&str> {
    let (id, secret) = token.strip_prefix(PREFIX)?.split_at_checked(ID)?;
    let formed = id.bytes().all(|byte| ALPHABET.contains(&byte)) && secret.len() == SECRET + 1;
    (formed && secret.starts_with('_')).then_some(id)
}

/// Whether this is the token of that hash. How long it takes tells nothing.
pub(super) fn is(token: &str, known: &[u8]) -> bool {
    digest(token).ct_eq(known).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_known_by_its_id_and_good_by_its_secret() {
        let (one, other) = (Fresh::new(), Fresh::new());
        assert_ne!(one.text, other.text);
        assert_eq!((id_of(&one.text), is_api_token(&one.text)), (Some(&*one.id), true));
        assert!(is(&one.text, &one.digest) && !is(&other.text, &one.digest) && !is(&one.text, &[]));
        assert!(one.text.starts_with(&shown(&one.id)));
        let long = format!("{}x", one.text);
        for bad in
            ["", "dzv_", "dzv_abc", &one.text[..30], &long, &one.text.replace("dzv_", "DZV_"), "dzv_щщщщщщщщщщщщщ"]
        {
            assert_eq!(id_of(bad), None, "{bad}");
        }
    }
}
