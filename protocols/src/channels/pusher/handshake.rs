//! What a client says of itself when it connects: `/app/{key}?protocol=7&client=js&version=8.6.0&flash=false`.

use super::codes::Close;

/// The oldest protocol whose clients we can serve.
pub const OLDEST_PROTOCOL: u8 = 5;
/// The protocol that is spoken.
pub const NEWEST_PROTOCOL: u8 = 7;

/// Checks the query of the connection's URL and answers with the client's protocol. Keys that we do not know are ignored,
/// and so is the version, but for its spelling.
///
/// # Errors
/// The code with which the socket is closed.
pub fn check_handshake(query: &str) -> Result<u8, Close> {
    let value = |key| query.split('&').filter_map(|pair| pair.split_once('=')).find(|(k, _)| *k == key).map(|(_, v)| v);
    let spelled = |version: &str| version.len() <= 64 && version.bytes().all(|b| b.is_ascii_graphic());
    if !value("version").is_none_or(spelled) {
        return Err(Close::BadVersion);
    }
    let protocol = value("protocol").filter(|text| !text.is_empty()).ok_or(Close::NoProtocol)?;
    let known = protocol.parse().ok().filter(|n| (OLDEST_PROTOCOL..=NEWEST_PROTOCOL).contains(n));
    known.ok_or(Close::UnsupportedProtocol)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_to_seven_are_served() {
        for (query, answer) in [
            ("protocol=7&client=js&version=8.6.0&flash=false", Ok(7)),
            ("client=x&x&protocol=5", Ok(5)),
            ("protocol=6&version=", Ok(6)),
            ("", Err(Close::NoProtocol)),
            ("client=js&version=8.6.0", Err(Close::NoProtocol)),
            ("protocol=", Err(Close::NoProtocol)),
            ("protocol=4", Err(Close::UnsupportedProtocol)),
            ("protocol=8", Err(Close::UnsupportedProtocol)),
            ("protocol=300", Err(Close::UnsupportedProtocol)),
            ("protocol=js", Err(Close::UnsupportedProtocol)),
            ("protocol=7&version=\u{7}", Err(Close::BadVersion)),
        ] {
            assert_eq!(check_handshake(query), answer, "{query}");
        }
    }
}
