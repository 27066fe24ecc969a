//! How values are written: secrets that do not print, addresses that hide theirs, networks. Durations (`25s`) and sizes (`1MiB`) are spelled as
//! everywhere: `dzvin_protocols::platform::units`.

use std::{fmt, net::IpAddr, path::Path, str::FromStr};

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// What stands where a secret would be printed.
pub(super) const MASK: &str = "***";
/// Largest file that a `*_file` key may name: secrets are short, anything longer is a mistake.
const MAX_SECRET_FILE: u64 = 64 * 1024;

/// A text that never prints itself.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Hides a text.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself, for the one place that needs it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Reads a secret from a file, without the line end that editors add.
    ///
    /// # Errors
    /// A text for people: unreadable, too large, empty or not UTF-8.
    pub fn read(path: &Path) -> Result<Self, String> {
        let size = std::fs::metadata(path).map_err(|e| format!("{}: {e}", path.display()))?.len();
        if size > MAX_SECRET_FILE {
            return Err(format!("{}: larger than {MAX_SECRET_FILE} bytes", path.display()));
        }
        let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
        match text.trim_end_matches(['\r', '\n']) {
            "" => Err(format!("{}: empty", path.display())),
            secret => Ok(Self::new(secret)),
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MASK)
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(MASK)
    }
}

/// An address that may carry a password or token; prints with user, password and query values masked.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct SecretUrl(String);

impl SecretUrl {
    /// Hides an address.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The address itself, for the one place that needs it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// The part before `://`.
    #[must_use]
    pub fn scheme(&self) -> Option<&str> {
        self.0.split_once("://").map(|(scheme, _)| scheme)
    }

    /// The address without what may be secret.
    #[must_use]
    pub fn masked(&self) -> String {
        let (scheme, rest) = self.0.split_once("://").map_or(("", &*self.0), |(scheme, rest)| (scheme, rest));
        // The last @ of all: a password may contain any character unescaped. Masking too much is no leak.
        let (authority, rest) = rest.split_at(rest.rfind('@').map_or(0, |at| at + 1));
        let user = match authority.split_once(':') {
            Some((user, _)) if user.chars().all(|c| c.is_alphanumeric() || "-_.%".contains(c)) => {
                format!("{user}:{MASK}@")
            }
            None if !authority.contains(['/', '?']) => authority.to_owned(),
            _ => format!("{MASK}@"),
        };
        let separator = if scheme.is_empty() { "" } else { "://" };
        let (path, query) = rest.split_once('?').map_or((rest, None), |(path, query)| (path, Some(query)));
        let query = query.map_or_else(String::new, |query| {
            let masked: Vec<String> = query.split('&').map(mask_parameter).collect();
            format!("?{}", masked.join("&"))
        });
        format!("{scheme}{separator}{user}{path}{query}")
    }
}

/// Keeps the parameters that help to understand an address; any other value is masked.
fn mask_parameter(pair: &str) -> String {
    const HARMLESS: [&str; 8] =
        ["host", "port", "sslmode", "dbname", "user", "application_name", "node", "sentinelServiceName"];
    match pair.split_once('=') {
        Some((name, _)) if !HARMLESS.contains(&name) => format!("{name}={MASK}"),
        _ => pair.to_owned(),
    }
}

impl fmt::Debug for SecretUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.masked())
    }
}

impl fmt::Display for SecretUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.masked())
    }
}

impl Serialize for SecretUrl {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&self.masked())
    }
}

/// A network, `10.0.0.0/8`, or one address of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network(IpNet);

impl Network {
    /// Whether an address is of it.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.contains(&address)
    }
}

impl FromStr for Network {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let network = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        network.map(Self).map_err(|_| "expected a network such as \"10.0.0.0/8\" or an address")
    }
}

impl<'de> Deserialize<'de> for Network {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(de::Error::custom)
    }
}

impl Serialize for Network {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn secrets_do_not_print() {
        let secret = Secret::new("hunter2");
        assert_eq!(format!("{secret:?} {}", serde_json::to_string(&secret).expect("json")), "*** \"***\"");
        for (url, masked) in [
            ("postgres://dzvin:hunter2@db:5432/dzvin", "postgres://dzvin:***@db:5432/dzvin"),
            ("postgres://dzvin:hun@ter2@db/dzvin", "postgres://dzvin:***@db/dzvin"),
            ("postgres:///dzvin?host=/run/pg&password=hunter2", "postgres:///dzvin?host=/run/pg&password=***"),
            ("redis://:hunter2@cache", "redis://:***@cache"),
            (
                "redis-sentinel://u:hunter2@a:1/0?sentinelServiceName=main&node=b:2&sentinelPassword=hunter2",
                "redis-sentinel://u:***@a:1/0?sentinelServiceName=main&node=b:2&sentinelPassword=***",
            ),
            ("wss://mirror/ws?token=hunter2", "wss://mirror/ws?token=***"),
            ("postgres://dzvin@db/dzvin", "postgres://dzvin@db/dzvin"),
            ("/run/redis.sock", "/run/redis.sock"),
        ] {
            assert_eq!(format!("{:?}", SecretUrl::new(url)), masked);
        }
    }

    #[test]
    fn secret_files_lose_their_line_end() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("token");
        std::fs::write(&path, "hunter2\r\n").expect("written");
        assert_eq!(Secret::read(&path).expect("secret").expose(), "hunter2");
        std::fs::write(&path, "\n").expect("written");
        assert!(Secret::read(&path).expect_err("empty").ends_with("empty"));
        assert!(Secret::read(&dir.path().join("none")).is_err());
    }

    proptest! {
        #[test]
        fn a_password_is_never_printed(user in "[a-z]{1,5}", password in "[A-Z0-9@/:?&=]{8,20}") {
            let printed = SecretUrl::new(format!("postgres://{user}:{password}@db/x")).masked();
            prop_assert!(!printed.contains(&password), "{}", printed);
        }
    }
}
