//! The signature of a call: HMAC-SHA256 over method, path and query, the body by its MD5 in the query.

use std::{borrow::Cow, collections::BTreeMap, fmt::Write as _};

use md5::{Digest, Md5};
use subtle::ConstantTimeEq;

use crate::channels::pusher::auth::{AuthError, Credentials, Keyring, hex};

/// By how many seconds the caller's clock may differ from ours, either way.
pub const TIMESTAMP_WINDOW: u64 = 600;
/// Longest query string that is read, in bytes.
pub const MAX_QUERY: usize = 8 * 1024;
/// The only version of the scheme.
const VERSION: &str = "1.0";
const SIGNATURE: &str = "auth_signature";

/// Why a call is refused. The texts name no secret and may be the answer's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// Too long, not UTF-8 when decoded, or one key twice: what is signed would have two meanings.
    #[error("the query string is not valid")]
    Query,
    /// A parameter is absent.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// Another `auth_version`.
    #[error("auth_version must be {VERSION}")]
    Version,
    /// No number, or too far from our clock.
    #[error("auth_timestamp is not within {TIMESTAMP_WINDOW} seconds of the server's clock")]
    Timestamp,
    /// The body is not the one whose sum was signed.
    #[error("body_md5 is not the sum of the body")]
    Body,
    /// Another application, or a key that is no longer alive.
    #[error("the key is unknown")]
    UnknownKey,
    /// The signature is of something else, or by another secret.
    #[error("the signature is wrong")]
    Signature,
}

impl SignatureError {
    /// The HTTP status.
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::Query => 400,
            _ => 401,
        }
    }
}

/// The parameters of a call: values decoded, keys in lower case and in order, each once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Query(BTreeMap<String, String>);

impl Query {
    /// Reads the query string as it stands in the request line, without the question mark.
    ///
    /// # Errors
    /// [`SignatureError::Query`].
    pub fn parse(query: &str) -> Result<Self, SignatureError> {
        if query.len() > MAX_QUERY {
            return Err(SignatureError::Query);
        }
        let mut all = BTreeMap::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let key = unescape(key, true).ok_or(SignatureError::Query)?.to_ascii_lowercase();
            let value = unescape(value, true).ok_or(SignatureError::Query)?.into_owned();
            if all.insert(key, value).is_some() {
                return Err(SignatureError::Query);
            }
        }
        Ok(Self(all))
    }

    /// A parameter by its name in lower case.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    fn need(&self, key: &'static str) -> Result<&str, SignatureError> {
        self.get(key).ok_or(SignatureError::Missing(key))
    }

    /// What is signed: method, path and all parameters but the signature, not escaped.
    fn canonical(&self, method: &str, path: &str) -> String {
        let mut out = format!("{}\n{path}\n", method.to_ascii_uppercase());
        for (n, (key, value)) in self.0.iter().filter(|(key, _)| *key != SIGNATURE).enumerate() {
            // Writing into memory cannot fail.
            let _ = write!(out, "{}{key}={value}", if n == 0 { "" } else { "&" });
        }
        out
    }

    /// Checks who calls. `path` is as it stands in the request line; `now` is in seconds since 1970. A signature may be used
    /// again within the window: the scheme has no nonce.
    ///
    /// # Errors
    /// [`SignatureError`], the first rule that does not hold.
    pub fn verify(
        &self,
        method: &str,
        path: &str,
        body: &[u8],
        keys: &Keyring,
        now: i64,
    ) -> Result<(), SignatureError> {
        let (key, signature) = (self.need("auth_key")?, self.need(SIGNATURE)?);
        if self.need("auth_version")? != VERSION {
            return Err(SignatureError::Version);
        }
        let at: i64 = self.need("auth_timestamp")?.parse().map_err(|_| SignatureError::Timestamp)?;
        if at.abs_diff(now) > TIMESTAMP_WINDOW {
            return Err(SignatureError::Timestamp);
        }
        // The signature before the body: nobody makes us sum megabytes without a secret. Libraries sign the path before it is
        // escaped, so of an escaped one the plain form may be what was signed.
        let check = |path: &str| keys.verify(key, &[self.canonical(method, path).as_bytes()], signature);
        let plain = || unescape(path, false).filter(|plain| plain != path);
        check(path).or_else(|error| plain().map_or(Err(error), |plain| check(&plain))).map_err(
            |error| match error {
                AuthError::UnknownKey => SignatureError::UnknownKey,
                AuthError::Malformed | AuthError::Signature => SignatureError::Signature,
            },
        )?;
        match self.get("body_md5") {
            None if body.is_empty() => Ok(()),
            None => Err(SignatureError::Missing("body_md5")),
            Some(sum) if body_md5(body).as_bytes().ct_eq(sum.as_bytes()).into() => Ok(()),
            Some(_) => Err(SignatureError::Body),
        }
    }
}

/// The query string of a signed call, `parameters` included: the caller's side, for tools and tests. `now` is in seconds
/// since 1970. Parameters have names in lower case, each once.
#[must_use]
pub fn sign_query(
    method: &str,
    path: &str,
    parameters: &[(&str, &str)],
    body: &[u8],
    credentials: &Credentials,
    now: i64,
) -> String {
    let mut all: BTreeMap<String, String> = parameters.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
    all.insert("auth_key".into(), credentials.key().into());
    all.insert("auth_timestamp".into(), now.to_string());
    all.insert("auth_version".into(), VERSION.into());
    if !body.is_empty() {
        all.insert("body_md5".into(), body_md5(body));
    }
    let query = Query(all);
    let signature = credentials.sign(&[query.canonical(method, path).as_bytes()]);
    let mut out = String::new();
    for (key, value) in &query.0 {
        let _ = write!(out, "{}={}&", escape(key), escape(value));
    }
    out + SIGNATURE + "=" + &signature
}

fn body_md5(body: &[u8]) -> String {
    hex(&Md5::digest(body))
}

/// Undoes percent signs, and in a query plus signs for spaces, as forms write them: no parameter of the API has a plus of
/// its own.
fn unescape(text: &str, is_query: bool) -> Option<Cow<'_, str>> {
    let is_plain = |b: u8| b != b'%' && !(is_query && b == b'+');
    if text.bytes().all(is_plain) {
        return Some(text.into());
    }
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        out.push(match byte {
            b'+' if is_query => b' ',
            b'%' => {
                let mut digit = || char::from(rest.next()?).to_digit(16);
                u8::try_from(digit()? << 4 | digit()?).ok()?
            }
            other => other,
        });
    }
    String::from_utf8(out).ok().map(Cow::Owned)
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            out.push(byte.into());
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BODY: &[u8] = br#"{"name":"foo","channels":["project-3"],"data":"{\"some\":\"data\"}"}"#;
    const AT: i64 = 1_353_088_179;
    /// The example of the protocol's documentation.
    const DOCUMENTED: &str = "auth_key=278d425bdf160c739803&auth_timestamp=1353088179&auth_version=1.0&body_md5=ec365a775a4cd0599faeb73354201b6f&auth_signature=da454824c97ba181a32ccc17a72625ba02771f50b50e1e7430e47a1f3f457e6c";

    fn credentials() -> Credentials {
        Credentials::new("278d425bdf160c739803", "7ad3773142a6692b25b8").expect("credentials")
    }

    fn verify(query: &str, body: &[u8], now: i64) -> Result<(), SignatureError> {
        Query::parse(query)?.verify("post", "/apps/3/events", body, &Keyring::new(credentials(), vec![]), now)
    }

    #[test]
    fn the_documented_call_is_accepted() {
        assert_eq!(verify(DOCUMENTED, BODY, AT), Ok(()));
        assert_eq!(sign_query("POST", "/apps/3/events", &[], BODY, &credentials(), AT), DOCUMENTED);
        // Order, case of the keys and escapes are not what is signed.
        let mut pairs: Vec<&str> = DOCUMENTED.split('&').collect();
        pairs.reverse();
        let other = pairs.join("&").replace("auth_key", "Auth_Key").replace("1.0", "1%2e0") + "&";
        assert_eq!(verify(&other, BODY, AT), Ok(()));
    }

    #[test]
    fn whatever_is_changed_is_refused() {
        use SignatureError::{Body, Missing, Query, Signature, Timestamp, UnknownKey, Version};
        let changed = |from: &str, to: &str| verify(&DOCUMENTED.replace(from, to), BODY, AT);
        assert_eq!(changed("auth_key=278", "auth_key=279"), Err(UnknownKey));
        assert_eq!(changed("=da45", "=da46"), Err(Signature));
        assert_eq!(changed("=da45", "=DA45"), Err(Signature));
        assert_eq!(changed("1353088179", "1353088180"), Err(Signature));
        assert_eq!(changed("1353088179", "x"), Err(Timestamp));
        assert_eq!(changed("version=1.0", "version=1.1"), Err(Version));
        assert_eq!(changed("auth_version=1.0&", ""), Err(Missing("auth_version")));
        assert_eq!(changed("auth_key", "key"), Err(Missing("auth_key")));
        assert_eq!(changed("&body_md5=ec365a775a4cd0599faeb73354201b6f", ""), Err(Signature));
        assert_eq!(changed("&auth_v", "&info=x&auth_v"), Err(Signature));
        assert_eq!(changed("&auth_v", "&AUTH_KEY=x&auth_v"), Err(Query));
        assert_eq!(verify(DOCUMENTED, b"{}", AT), Err(Body));
        assert_eq!(verify(DOCUMENTED, b"", AT), Err(Body));
        let unsummed = sign_query("POST", "/apps/3/events", &[], b"", &credentials(), AT);
        assert_eq!(verify(&unsummed, b"", AT), Ok(()));
        assert_eq!(verify(&unsummed, BODY, AT), Err(Missing("body_md5")));
        let ring = Keyring::new(credentials(), vec![]);
        let query = super::Query::parse(DOCUMENTED).expect("a query");
        assert_eq!(query.verify("GET", "/apps/3/events", BODY, &ring, AT), Err(Signature));
        assert_eq!(query.verify("POST", "/apps/4/events", BODY, &ring, AT), Err(Signature));
    }

    /// As the library for node calls: user `a b`, signed before its path is escaped, and a filter that is not escaped.
    #[test]
    fn an_escaped_path_may_be_signed_plain() {
        let query = "auth_key=278d425bdf160c739803&auth_timestamp=1795697843&auth_version=1.0&body_md5=99914b932bd37a50b983c5e7c90ae93b&auth_signature=a2df038f220bcd88bd74ee253d8bbf24f17999af7eaf236a71ea6f57907dd2bd";
        let ring = Keyring::new(credentials(), vec![]);
        let verify = |query: &str, method: &str, path: &str, body: &[u8]| {
            Query::parse(query).and_then(|query| query.verify(method, path, body, &ring, 1_795_697_843))
        };
        let terminate = |user| verify(query, "POST", &format!("/apps/3/users/{user}/terminate_connections"), b"{}");
        assert_eq!((terminate("a%20b"), terminate("a b")), (Ok(()), Ok(())));
        assert_eq!(
            (terminate("a+b"), terminate("a%2520b")),
            (Err(SignatureError::Signature), Err(SignatureError::Signature))
        );
        let filter = "auth_key=278d425bdf160c739803&auth_timestamp=1795697843&auth_version=1.0&filter_by_prefix=presence-a=b@c,d;e&info=user_count&auth_signature=8137fea29e83c75baac994ec6dbd536c3851d3ffce1525d761ca81fd03bc8c82";
        assert_eq!(verify(filter, "GET", "/apps/3/channels", b""), Ok(()));
    }

    #[test]
    fn clocks_may_differ_by_ten_minutes() {
        for (now, good) in [(-600, true), (600, true), (-601, false), (601, false)] {
            assert_eq!(verify(DOCUMENTED, BODY, AT + now).is_ok(), good, "{now}");
        }
        assert_eq!(verify(DOCUMENTED, BODY, i64::MIN), Err(SignatureError::Timestamp));
    }

    #[test]
    fn what_is_no_query_is_refused() {
        for bad in ["a=%", "a=%4", "a=%zz", "a=%ff", "a=%+1", "a=1&A=2", "a&a", &"x".repeat(MAX_QUERY + 1)] {
            assert_eq!(Query::parse(bad), Err(SignatureError::Query), "{bad}");
        }
        let query = Query::parse("INFO=user_count%2Cx&p=a+b&&flag").expect("a query");
        assert_eq!(
            (query.get("info"), query.get("p"), query.get("flag")),
            (Some("user_count,x"), Some("a b"), Some(""))
        );
    }

    proptest! {
        #[test]
        fn what_is_signed_verifies(value in "\\PC{0,40}", body: Vec<u8>, path in "/[ -~]{0,20}", now in 0i64..1 << 40) {
            let query = sign_query("GET", &path, &[("filter_by_prefix", &value)], &body, &credentials(), now);
            let query = Query::parse(&query).unwrap();
            prop_assert_eq!(query.get("filter_by_prefix"), Some(value.as_str()));
            let ring = Keyring::new(Credentials::new("k", "s").unwrap(), vec![credentials()]);
            prop_assert_eq!(query.verify("GET", &path, &body, &ring, now), Ok(()));
        }

        #[test]
        fn any_query_is_a_value(text in "\\PC{0,100}", escapes in "(%[0-9a-f]{0,2}|[a&=+]){0,20}") {
            let _ = (verify(&text, b"", 0), verify(&escapes, b"", 0));
        }
    }
}
