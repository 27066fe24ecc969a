//! Who may: tokens `KEY:HEX` of HMAC-SHA256 over a socket's id and what is asked for, socket ids, and the secret of an
//! encrypted channel.
//!
//! Several credentials may be alive at once, so that a secret is changed without a moment in which clients are refused.

use std::{fmt, sync::Arc};

use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

/// Longest socket id that is read: twice 20 digits and a dot are ours, other servers' are shorter.
const MAX_SOCKET_ID: usize = 64;
/// Longest application key.
const MAX_KEY: usize = 100;

/// The id of a connection, `[0-9]+.[0-9]+`: every server library refuses anything else. It is part of what is signed.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SocketId(Arc<str>);

impl SocketId {
    /// An id from two numbers drawn at random over their whole range: it must be unique in the cluster, and nobody should
    /// guess it.
    #[must_use]
    pub fn from_random(first: u64, second: u64) -> Self {
        Self(format!("{first}.{second}").into())
    }

    /// Reads an id that a publisher sends.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        let (first, second) = text.split_once('.')?;
        (text.len() <= MAX_SOCKET_ID && digits(first) && digits(second)).then(|| Self(text.into()))
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SocketId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Credentials that cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CredentialsError {
    /// The key stands in paths and before the colon of a token.
    #[error("an application key is 1 to {MAX_KEY} characters of A-Z a-z 0-9 _ -")]
    Key,
    /// Everybody can sign with an empty secret.
    #[error("the application secret is empty")]
    Secret,
}

/// Why a token is refused. Clients are told only that it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// It is not `KEY:HEX`.
    #[error("the token is not KEY:SIGNATURE")]
    Malformed,
    /// It is of another application, or of a key that is no longer alive.
    #[error("the token is of an unknown key")]
    UnknownKey,
    /// The signature is not that of this socket and this channel or user.
    #[error("the signature is wrong")]
    Signature,
}

/// An application's key, which is public, and its secret, which signs.
#[derive(Clone)]
pub struct Credentials {
    key: Arc<str>,
    /// The secret, already worked into the first block of the hash.
    mac: Hmac<Sha256>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("key", &self.key).finish_non_exhaustive()
    }
}

impl Credentials {
    /// Takes a key and its secret.
    ///
    /// # Errors
    /// [`CredentialsError`] when the key has other characters than letters, digits, `_` and `-`, or the secret is empty.
    pub fn new(key: &str, secret: &str) -> Result<Self, CredentialsError> {
        let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-');
        if !(1..=MAX_KEY).contains(&key.len()) || !key.bytes().all(legal) {
            return Err(CredentialsError::Key);
        }
        if secret.is_empty() {
            return Err(CredentialsError::Secret);
        }
        let mac = Hmac::new_from_slice(secret.as_bytes()).map_err(|_| CredentialsError::Secret)?;
        Ok(Self { key: key.into(), mac })
    }

    /// The public key.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    /// HMAC-SHA256 of the parts, one after the other, in lower-case hexadecimal.
    #[must_use]
    pub fn sign(&self, parts: &[&[u8]]) -> String {
        let mut mac = self.mac.clone();
        parts.iter().for_each(|part| mac.update(part));
        hex(&mac.finalize().into_bytes())
    }

    /// The token for a private, encrypted or presence channel; `channel_data` is signed as the exact text that the client
    /// will send.
    #[must_use]
    pub fn channel_token(&self, socket: &SocketId, channel: &str, channel_data: Option<&str>) -> String {
        self.token(&channel_parts(socket, channel, channel_data))
    }

    /// The token with which a user signs in; `user_data` is signed as the exact text that the client will send.
    #[must_use]
    pub fn user_token(&self, socket: &SocketId, user_data: &str) -> String {
        self.token(&user_parts(socket, user_data))
    }

    fn token(&self, parts: &[&[u8]]) -> String {
        format!("{}:{}", self.key, self.sign(parts))
    }

    /// Whether `signature` is that of the parts; it takes equally long wherever they differ.
    #[must_use]
    pub fn verify(&self, parts: &[&[u8]], signature: &str) -> bool {
        self.sign(parts).as_bytes().ct_eq(signature.as_bytes()).into()
    }
}

fn channel_parts<'a>(socket: &'a SocketId, channel: &'a str, channel_data: Option<&'a str>) -> Vec<&'a [u8]> {
    let mut parts = vec![socket.as_str().as_bytes(), b":", channel.as_bytes()];
    if let Some(data) = channel_data {
        parts.extend([b":", data.as_bytes()]);
    }
    parts
}

fn user_parts<'a>(socket: &'a SocketId, user_data: &'a str) -> [&'a [u8]; 3] {
    [socket.as_str().as_bytes(), b"::user::", user_data.as_bytes()]
}

/// The credentials of an application that are alive: the first signs, all verify.
#[derive(Debug, Clone)]
pub struct Keyring {
    first: Credentials,
    others: Vec<Credentials>,
}

impl Keyring {
    /// The credentials that sign, and those that are still accepted.
    #[must_use]
    pub fn new(first: Credentials, others: Vec<Credentials>) -> Self {
        Self { first, others }
    }

    /// What signs: tokens, webhooks.
    #[must_use]
    pub fn signer(&self) -> &Credentials {
        &self.first
    }

    /// The credentials that may belong to this key. Two secrets of one key may be alive at once.
    fn of<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a Credentials> {
        let all = std::iter::once(&self.first).chain(&self.others);
        all.filter(move |one| one.key.as_bytes().ct_eq(key.as_bytes()).into())
    }

    /// Whether any credentials have this key: who connects to `/app/{key}`.
    #[must_use]
    pub fn has(&self, key: &str) -> bool {
        self.of(key).next().is_some()
    }

    /// Checks the `auth` of a subscription. `channel_data` is the text as it was sent; `None` for a private or encrypted
    /// channel, and for a presence channel that a signed-in user joins as that user.
    ///
    /// # Errors
    /// [`AuthError`] says what is wrong, for the log.
    pub fn verify_channel(
        &self,
        token: &str,
        socket: &SocketId,
        channel: &str,
        channel_data: Option<&str>,
    ) -> Result<(), AuthError> {
        self.verify_token(token, &channel_parts(socket, channel, channel_data))
    }

    /// Checks the `auth` of a sign-in. `user_data` is the text as it was sent.
    ///
    /// # Errors
    /// [`AuthError`] says what is wrong, for the log.
    pub fn verify_user(&self, token: &str, socket: &SocketId, user_data: &str) -> Result<(), AuthError> {
        self.verify_token(token, &user_parts(socket, user_data))
    }

    fn verify_token(&self, token: &str, parts: &[&[u8]]) -> Result<(), AuthError> {
        let (key, signature) = token.split_once(':').ok_or(AuthError::Malformed)?;
        self.verify(key, parts, signature)
    }

    /// Checks a bare signature of a named key.
    ///
    /// # Errors
    /// [`AuthError::UnknownKey`] or [`AuthError::Signature`].
    pub fn verify(&self, key: &str, parts: &[&[u8]], signature: &str) -> Result<(), AuthError> {
        let mut error = AuthError::UnknownKey;
        let mut good = Choice::from(0);
        for credentials in self.of(key) {
            error = AuthError::Signature;
            good |= credentials.sign(parts).as_bytes().ct_eq(signature.as_bytes());
        }
        if good.into() { Ok(()) } else { Err(error) }
    }
}

/// The secret of one encrypted channel, as the auth endpoint hands it out: base64 of SHA-256 of the channel's name and the
/// application's 32-byte master key. The hub itself never needs it to relay.
#[must_use]
pub fn shared_secret(channel: &str, master_key: &[u8; 32]) -> String {
    base64(&Sha256::new().chain_update(channel).chain_update(master_key).finalize())
}

/// Lower-case hexadecimal.
pub(super) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes.iter().flat_map(|b| [b >> 4, b & 15]).map(|digit| DIGITS[usize::from(digit)] as char).collect()
}

/// Base64 of the usual alphabet, padded.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let bits = three.iter().fold(0u32, |bits, b| bits << 8 | u32::from(*b)) << (8 * (3 - three.len()));
        for digit in 0..4 {
            let is_padding = digit > three.len();
            out.push(if is_padding { '=' } else { DIGITS[(bits >> (18 - 6 * digit)) as usize & 63] as char });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Key and secret of the protocol's documentation.
    fn documented() -> Credentials {
        Credentials::new("278d425bdf160c739803", "7ad3773142a6692b25b8").expect("credentials")
    }

    fn socket() -> SocketId {
        SocketId::parse("1234.1234").expect("a socket id")
    }

    const MEMBER: &str = r#"{"user_id":10,"user_info":{"name":"Mr. Channels"}}"#;

    #[test]
    fn tokens_equal_the_vectors() {
        let (signer, socket) = (documented(), socket());
        for (token, signature) in [
            (
                signer.channel_token(&socket, "private-foobar", None),
                "58df8b0c36d6982b82c3ecf6b4662e34fe8c25bba48f5369f135bf843651c3a4",
            ),
            (
                signer.channel_token(&socket, "presence-foobar", Some(MEMBER)),
                "31935e7d86dba64c2a90aed31fdc61869f9b22ba9d8863bba239c03ca481bc80",
            ),
            (
                signer.user_token(&socket, r#"{"id":"12345"}"#),
                "4708d583dada6a56435fb8bc611c77c359a31eebde13337c16ab43aa6de336ba",
            ),
        ] {
            assert_eq!(token, format!("278d425bdf160c739803:{signature}"));
        }
    }

    #[test]
    fn a_token_is_of_one_socket_one_channel_and_one_key() {
        let old = Credentials::new("278d425bdf160c739803", "the old secret").expect("credentials");
        let other = Credentials::new("other", "7ad3773142a6692b25b8").expect("credentials");
        let ring = Keyring::new(documented(), vec![old.clone()]);
        let socket = socket();
        let check = |token: &str, channel| ring.verify_channel(token, &socket, channel, None);
        let good = documented().channel_token(&socket, "private-foobar", None);
        assert_eq!(check(&good, "private-foobar"), Ok(()));
        assert_eq!(check(&old.channel_token(&socket, "private-foobar", None), "private-foobar"), Ok(()));
        assert_eq!(check(&good, "private-foobaz"), Err(AuthError::Signature));
        assert_eq!(check(&good.to_uppercase(), "private-foobar"), Err(AuthError::UnknownKey));
        assert_eq!(check(&good[..good.len() - 1], "private-foobar"), Err(AuthError::Signature));
        assert_eq!(
            check(&other.channel_token(&socket, "private-foobar", None), "private-foobar"),
            Err(AuthError::UnknownKey)
        );
        assert_eq!(check("", "private-foobar"), Err(AuthError::Malformed));
        let elsewhere = SocketId::from_random(1, 2);
        assert_eq!(ring.verify_channel(&good, &elsewhere, "private-foobar", None), Err(AuthError::Signature));
        assert!(ring.has("278d425bdf160c739803") && !ring.has("other") && !ring.has(""));
    }

    #[test]
    fn the_member_is_part_of_what_is_signed() {
        let (ring, socket) = (Keyring::new(documented(), vec![]), socket());
        let token = documented().channel_token(&socket, "presence-foobar", Some(MEMBER));
        assert_eq!(ring.verify_channel(&token, &socket, "presence-foobar", Some(MEMBER)), Ok(()));
        let spaced = MEMBER.replace(':', ": ");
        for data in [None, Some(spaced.as_str())] {
            assert_eq!(ring.verify_channel(&token, &socket, "presence-foobar", data), Err(AuthError::Signature));
        }
        // A channel has no colon, so data cannot be moved into its name; a token for a user is none for a channel.
        let user = documented().user_token(&socket, MEMBER);
        assert_eq!(ring.verify_user(&user, &socket, MEMBER), Ok(()));
        assert_eq!(ring.verify_channel(&user, &socket, "presence-foobar", Some(MEMBER)), Err(AuthError::Signature));
    }

    #[test]
    fn credentials_are_checked_and_hidden() {
        for key in ["", "a:b", "a/b", "ключ", &"k".repeat(101)] {
            assert_eq!(Credentials::new(key, "s").err(), Some(CredentialsError::Key), "{key}");
        }
        assert_eq!(Credentials::new("k", "").err(), Some(CredentialsError::Secret));
        let shown = format!("{:?}", Credentials::new("k", "a-secret").expect("credentials"));
        assert_eq!(shown, "Credentials { key: \"k\", .. }");
    }

    /// By another implementation: node's crypto.
    #[test]
    fn shared_secrets_equal_the_vector() {
        assert_eq!(shared_secret("private-encrypted-a", &[7; 32]), "Dhj1FoClZczrz/R47X27PbzUv31V0dCJeUOBwc+bxJU=");
    }

    #[test]
    fn base64_pads() {
        // RFC 4648, section 10.
        for (plain, coded) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg=="), ("fooba", "Zm9vYmE=")]
        {
            assert_eq!(base64(plain.as_bytes()), coded);
        }
    }

    #[test]
    fn socket_ids_have_a_form() {
        for good in ["1.2", "123.456", "00.0", &SocketId::from_random(u64::MAX, u64::MAX).to_string()] {
            assert_eq!(SocketId::parse(good).map(|id| id.to_string()).as_deref(), Some(good));
        }
        for bad in ["", ".", "1.", ".1", "1", "1.2.3", "1.a", "-1.2", "1.2\n", "१.२", &format!("1.{}", "1".repeat(63))]
        {
            assert_eq!(SocketId::parse(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn every_drawn_id_is_one(first: u64, second: u64) {
            let id = SocketId::from_random(first, second);
            prop_assert_eq!(SocketId::parse(id.as_str()), Some(id));
        }

        #[test]
        fn what_is_signed_verifies_and_nothing_else(channel in "[a-z-]{1,20}", data in proptest::option::of("\\PC{0,40}"), at in 0usize..64, token in "\\PC{0,80}") {
            let (ring, socket) = (Keyring::new(documented(), vec![]), socket());
            let mut good = documented().channel_token(&socket, &channel, data.as_deref());
            prop_assert_eq!(ring.verify_channel(&good, &socket, &channel, data.as_deref()), Ok(()));
            prop_assert!(ring.verify_channel(&token, &socket, &channel, data.as_deref()).is_err());
            let at = good.len() - 1 - at;
            let other = if good.as_bytes()[at] == b'0' { "1" } else { "0" };
            good.replace_range(at..=at, other);
            prop_assert_eq!(ring.verify_channel(&good, &socket, &channel, data.as_deref()), Err(AuthError::Signature));
        }
    }
}
