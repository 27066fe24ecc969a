//! The key of `dzvin dev`: made once, kept beside the data, readable for its owner only.

use std::{
    fmt::Write as _,
    fs::{self, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use super::DevError;
use crate::platform::config::{KeyConfig, Secret};

/// The id of the key in tokens.
const KEY_ID: &str = "dev";

/// 256 random bits as 64 hex digits.
pub(super) fn random_hex() -> String {
    rand::random::<[u8; 32]>().iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Reads a secret, or makes it: written whole under another name first, so that a crash leaves none or a whole one.
pub(super) fn secret(dir: &Path, name: &str) -> Result<Secret, DevError> {
    let path = dir.join(name);
    match fs::read_to_string(&path) {
        Ok(text) if text.trim().len() >= 64 => return Ok(Secret::new(text.trim())),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(DevError::file("read", &path)(error)),
    }
    let text = random_hex();
    let draft = dir.join(format!("{name}.new"));
    let write = || {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&draft, &path)
    };
    write().map_err(DevError::file("write", &path))?;
    Ok(Secret::new(text))
}

/// The signing key for tokens.
pub(super) fn load_or_make(dir: &Path) -> Result<KeyConfig, DevError> {
    Ok(KeyConfig::new(KEY_ID, secret(dir, "key")?))
}

/// The signing key, if one was made.
pub(super) fn read(dir: &Path) -> Option<KeyConfig> {
    let text = fs::read_to_string(dir.join("key")).ok()?;
    Some(KeyConfig::new(KEY_ID, Secret::new(text.trim())))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_key_is_made_once_and_private() {
        let dir = tempfile::tempdir().expect("dir");
        let first = load_or_make(dir.path()).expect("made").secret.expect("secret");
        let second = load_or_make(dir.path()).expect("read").secret.expect("secret");
        assert_eq!(first, second);
        assert_eq!(first.expose().len(), 64);
        let mode = fs::metadata(dir.path().join("key")).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        fs::write(dir.path().join("key"), "torn").expect("written");
        assert_ne!(load_or_make(dir.path()).expect("made").secret.expect("secret"), first, "a torn file is no key");
    }
}
