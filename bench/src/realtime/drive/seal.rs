//! The signature of Pusher's HTTP API: it covers the sum of the body, so it changes with every time that is written into one.
//! (`https://pusher.com/docs/channels/library_auth_reference/rest-api/#authentication`)

use hmac::{Hmac, Mac};
use md5::{Digest, Md5};
use memchr::memmem;
use sha2::Sha256;

use crate::realtime::{stamp, wire};

/// Id, key and secret of the application that peers are given.
pub(crate) const APP: &str = "bench";

const SUM: &[u8] = b"&body_md5=";
const SUM_LEN: usize = 32;
const SIGNATURE: &[u8] = b"&auth_signature=";
const SIGNATURE_LEN: usize = 64;

/// The path of a request with room for what is signed. Good for ten minutes, as the protocol wants it.
pub(crate) fn path(of: &str) -> String {
    let (now, sum, signature) = (stamp::now_us() / 1_000_000, "0".repeat(SUM_LEN), "0".repeat(SIGNATURE_LEN));
    format!(
        "/apps/{APP}/{of}?auth_key={APP}&auth_timestamp={now}&auth_version=1.0&body_md5={sum}&auth_signature={signature}"
    )
}

/// Where in a request the sum and the signature stand.
#[derive(Debug)]
pub(crate) struct Seal {
    path: (usize, usize),
    query: (usize, usize),
    sum: usize,
    signature: usize,
    body: usize,
}

impl Seal {
    /// Of a request whose path is from [`path`].
    pub(crate) fn of(request: &[u8]) -> Option<Self> {
        let begins = memchr::memchr(b'/', request)?;
        let asked = memchr::memchr(b'?', request)?;
        let sum = memmem::find(request, SUM)? + SUM.len();
        let ends = memmem::find(request, SIGNATURE)?;
        let (signature, body) = (ends + SIGNATURE.len(), wire::head_end(request)?);
        Some(Self { path: (begins, asked), query: (asked + 1, ends), sum, signature, body })
    }

    /// Signs the request as it is now.
    pub(crate) fn sign(&self, request: &mut [u8]) {
        let sum = Md5::digest(&request[self.body..]);
        hex(&sum, &mut request[self.sum..self.sum + SUM_LEN]);
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(APP.as_bytes()) else { return };
        for part in [b"POST\n", &request[self.path.0..self.path.1], b"\n", &request[self.query.0..self.query.1]] {
            mac.update(part);
        }
        let signature = mac.finalize().into_bytes();
        hex(&signature, &mut request[self.signature..self.signature + SIGNATURE_LEN]);
    }
}

fn hex(bytes: &[u8], out: &mut [u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for (byte, place) in bytes.iter().zip(out.chunks_exact_mut(2)) {
        place.copy_from_slice(&[DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_and_signatures_are_those_of_the_protocol() {
        let body = r#"{"name":"foo","channels":["project-3"],"data":"{\"some\":\"data\"}"}"#;
        let mut request = format!("POST {} HTTP/1.1\r\nHost: h\r\n\r\n{body}", path("events")).into_bytes();
        Seal::of(&request).unwrap().sign(&mut request);
        let text = String::from_utf8(request).unwrap();
        // The sum is of the example in Pusher's documentation.
        assert!(text.contains("&body_md5=ec365a775a4cd0599faeb73354201b6f&auth_signature="), "{text}");
        let (signed, rest) = text.split_once("&auth_signature=").unwrap();
        let (path, query) = signed["POST ".len()..].split_once('?').unwrap();
        let mut mac = Hmac::<Sha256>::new_from_slice(b"bench").unwrap();
        mac.update(format!("POST\n{path}\n{query}").as_bytes());
        let expected: String = mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(&rest[..64], expected);
    }
}
