//! How values are written: secrets that do not print, durations (`25s`) and sizes (`1MiB`).

use std::{fmt, net::IpAddr, path::Path, str::FromStr, time::Duration};

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

/// Units of time, largest first: what a value is printed with.
const TIMES: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];
/// Units of size, largest first.
const SIZES: [(&str, u64); 4] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("", 1)];
/// Longest duration: a hundred years, so that sums never overflow.
const MAX_TIME_MS: u64 = 36_525 * 86_400_000;

fn parse(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor = units.iter().find(|(name, _)| *name == unit.trim_start())?.1;
    number.parse::<u64>().ok()?.checked_mul(factor)
}

/// Reads a duration as the configuration writes it: `500ms`, `25s`, `10m`, `6h`, `30d`.
#[must_use]
pub fn parse_duration(text: &str) -> Option<Duration> {
    parse(text, &TIMES).filter(|ms| *ms <= MAX_TIME_MS).map(Duration::from_millis)
}

fn print(value: u64, units: &[(&str, u64)]) -> String {
    let fits = |(_, factor): &&(&str, u64)| value != 0 && value.is_multiple_of(*factor);
    let smallest = units.last().map_or(("", 1), |unit| *unit);
    let (name, factor) = units.iter().find(fits).map_or(smallest, |unit| *unit);
    format!("{}{name}", value / factor)
}

/// `#[serde(with = "duration")]`: `500ms`, `25s`, `10m`, `6h`, `30d`.
pub(super) mod duration {
    use super::*;

    pub(in super::super) fn serialize<S: Serializer>(value: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&print(u64::try_from(value.as_millis()).unwrap_or(u64::MAX), &TIMES))
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        let text = String::deserialize(from)?;
        parse_duration(&text).ok_or_else(|| {
            de::Error::custom("expected a duration such as \"500ms\", \"25s\", \"10m\", \"6h\" or \"30d\"")
        })
    }
}

/// `#[serde(with = "size")]`: `65536`, `64KiB`, `1MiB`, `1GiB`.
pub(super) mod size {
    use super::*;

    pub(in super::super) fn serialize<S: Serializer>(value: &usize, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&print(*value as u64, &SIZES))
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<usize, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Size {
            Number(u64),
            Text(String),
        }
        let bytes = match Size::deserialize(from) {
            Ok(Size::Number(bytes)) => Some(bytes),
            Ok(Size::Text(text)) => parse(&text, &SIZES),
            Err(_) => None,
        };
        bytes
            .and_then(|bytes| usize::try_from(bytes).ok())
            .ok_or_else(|| de::Error::custom("expected a size in bytes such as 65536, \"64KiB\" or \"1MiB\""))
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
    fn units_are_read() {
        for (text, ms) in [("500ms", 500), ("25s", 25_000), ("10 m", 600_000), ("0s", 0), ("30d", 2_592_000_000)] {
            assert_eq!(parse(text, &TIMES), Some(ms), "{text}");
        }
        assert_eq!(
            (parse("64KiB", &SIZES), parse("1MiB", &SIZES), parse("7", &SIZES)),
            (Some(65_536), Some(1 << 20), Some(7))
        );
        for bad in
            ["", "s", "-1s", "1.5s", "1 fortnight", "99999999999999999999s", "1kb", "25", "18446744073709551615d"]
        {
            assert_eq!(parse(bad, &TIMES), None, "{bad}");
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
        fn what_is_printed_is_read(value in 0_u64..MAX_TIME_MS) {
            prop_assert_eq!(parse(&print(value, &TIMES), &TIMES), Some(value));
            prop_assert_eq!(parse(&print(value, &SIZES), &SIZES), Some(value));
        }

        #[test]
        fn a_password_is_never_printed(user in "[a-z]{1,5}", password in "[A-Z0-9@/:?&=]{8,20}") {
            let printed = SecretUrl::new(format!("postgres://{user}:{password}@db/x")).masked();
            prop_assert!(!printed.contains(&password), "{}", printed);
        }
    }
}
