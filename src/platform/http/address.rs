//! Who a request comes from, where proxies stand between.
//!
//! A header says what its sender likes, so it is read only when the peer is a proxy of ours, from the right, and only as far
//! as proxies of ours have written it. One header is read and no other: proxies pass on what they do not know, so whoever
//! looks into two believes what a client wrote into the one that its proxy leaves alone.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use axum::http::{HeaderMap, HeaderName, header};

use crate::platform::config::{ClientHeader, Http, Network};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// Proxies in a row that are looked behind; a longer chain is a loop or a joke.
const MAX_HOPS: usize = 16;
/// What of an IPv6 address names a customer: a line gets a /64 and may use any address of it.
const CUSTOMER_BITS: u128 = !0 << 64;

/// The address of the client of a request; an extension of every request that came over a listener of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ClientAddress(IpAddr);

impl ClientAddress {
    /// An IPv4 address in IPv6 clothes is the IPv4 address.
    #[must_use]
    pub const fn new(address: IpAddr) -> Self {
        Self(address.to_canonical())
    }

    /// The address.
    #[must_use]
    pub const fn ip(self) -> IpAddr {
        self.0
    }

    /// What limits count by: an IPv4 address, or the /64 of an IPv6 one.
    #[must_use]
    pub fn counted(self) -> IpAddr {
        match self.0 {
            IpAddr::V4(_) => self.0,
            IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & CUSTOMER_BITS).into(),
        }
    }
}

impl fmt::Display for ClientAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Which proxies are believed, and in what they write.
#[derive(Debug, Clone)]
pub(super) struct Proxies {
    trusted: Arc<[Network]>,
    header: ClientHeader,
}

impl Proxies {
    pub(super) fn new(config: &Http) -> Self {
        Self { trusted: config.trusted_proxies.as_slice().into(), header: config.client_header }
    }

    /// The rightmost address that is no proxy of ours. Behind something that is no address nobody can be believed: then it
    /// is the last of our proxies that was named.
    pub(super) fn client(&self, peer: IpAddr, headers: &HeaderMap) -> ClientAddress {
        let mut client = ClientAddress::new(peer);
        if !self.trusts(client) {
            return client;
        }
        for hop in self.hops(headers).take(MAX_HOPS) {
            let Some(address) = hop else { break };
            client = address;
            if !self.trusts(client) {
                break;
            }
        }
        client
    }

    fn trusts(&self, address: ClientAddress) -> bool {
        self.trusted.iter().any(|network| network.contains(address.ip()))
    }

    /// From the nearest to the furthest. Several headers of one name are one list.
    fn hops<'a>(&self, headers: &'a HeaderMap) -> Box<dyn Iterator<Item = Option<ClientAddress>> + 'a> {
        match self.header {
            ClientHeader::XForwardedFor => {
                let lines = headers.get_all(X_FORWARDED_FOR).iter().rev();
                Box::new(lines.flat_map(|line| line.as_bytes().rsplit(|byte| *byte == b',')).map(address))
            }
            ClientHeader::Forwarded => {
                let lines = headers.get_all(header::FORWARDED).iter().rev();
                Box::new(lines.flat_map(|line| Elements(Some(line.as_bytes()))).map(forwarded_for))
            }
        }
    }
}

/// An address as proxies write it: bare, in brackets, with a port.
fn address(text: &[u8]) -> Option<ClientAddress> {
    let text = std::str::from_utf8(text).ok()?.trim();
    let parsed = text.parse::<IpAddr>().or_else(|_| text.parse::<SocketAddr>().map(|address| address.ip()));
    let bracketed = || text.strip_prefix('[')?.strip_suffix(']')?.parse::<Ipv6Addr>().ok().map(IpAddr::V6);
    parsed.ok().or_else(bracketed).map(ClientAddress::new)
}

/// The elements of a `Forwarded` header from the right. Read in this direction the nearest proxy's own quotes come first: an
/// open quote that a client left in its part cannot swallow what our proxy wrote behind it.
struct Elements<'a>(Option<&'a [u8]>);

impl<'a> Iterator for Elements<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let rest = self.0.take()?;
        let mut quoted = false;
        for (at, byte) in rest.iter().enumerate().rev() {
            match byte {
                b'"' => quoted = !quoted,
                b',' if !quoted => {
                    self.0 = Some(&rest[..at]);
                    return Some(&rest[at + 1..]);
                }
                _ => {}
            }
        }
        Some(rest)
    }
}

/// `for=192.0.2.43`, `for="[2001:db8:cafe::17]:4711"`; `unknown` and made-up names are no addresses.
fn forwarded_for(element: &[u8]) -> Option<ClientAddress> {
    let element = std::str::from_utf8(element).ok()?;
    let (_, value) = element
        .split(';')
        .filter_map(|pair| pair.split_once('='))
        .find(|(name, _)| name.trim().eq_ignore_ascii_case("for"))?;
    let value = value.trim();
    let value = value.strip_prefix('"').map_or(Some(value), |value| value.strip_suffix('"'))?;
    address(value.as_bytes())
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn proxies(header: ClientHeader) -> Proxies {
        let trusted = ["127.0.0.1", "10.0.0.0/8", "fd00::/8"].map(|text| text.parse().expect("a network"));
        Proxies::new(&Http { trusted_proxies: trusted.to_vec(), client_header: header, ..Http::default() })
    }

    fn client(header: ClientHeader, peer: &str, lines: &[(&HeaderName, &str)]) -> String {
        let mut headers = HeaderMap::new();
        for (name, line) in lines {
            headers.append(*name, HeaderValue::from_bytes(line.as_bytes()).expect("a header"));
        }
        proxies(header).client(peer.parse().expect("an address"), &headers).to_string()
    }

    #[test]
    fn the_rightmost_address_that_is_no_proxy_of_ours() {
        let xff = |peer: &str, lines: &[&str]| {
            let name = X_FORWARDED_FOR;
            let lines: Vec<_> = lines.iter().map(|line| (&name, *line)).collect();
            client(ClientHeader::XForwardedFor, peer, &lines)
        };
        for (peer, lines, expected) in [
            ("203.0.113.9", &["198.51.100.7"][..], "203.0.113.9"),
            ("127.0.0.1", &[], "127.0.0.1"),
            ("127.0.0.1", &["198.51.100.7"], "198.51.100.7"),
            ("::ffff:127.0.0.1", &["::ffff:198.51.100.7"], "198.51.100.7"),
            // What stands to the left of the client was written by the client.
            ("127.0.0.1", &["1.1.1.1, 127.0.0.1,198.51.100.7"], "198.51.100.7"),
            ("127.0.0.1", &["1.1.1.1, 198.51.100.7, 10.1.2.3"], "198.51.100.7"),
            // Several lines are one list, and the last was added last.
            ("127.0.0.1", &["1.1.1.1", "198.51.100.7", "10.1.2.3"], "198.51.100.7"),
            ("127.0.0.1", &["198.51.100.7:4711"], "198.51.100.7"),
            ("127.0.0.1", &["[2001:db8::1]:4711"], "2001:db8::1"),
            ("127.0.0.1", &["[2001:db8::1]"], "2001:db8::1"),
            ("fd00::1", &["2001:db8::1"], "2001:db8::1"),
            // All ours: the furthest.
            ("127.0.0.1", &["10.0.0.1, 10.0.0.2"], "10.0.0.1"),
            // No address: nobody to the left of it is believed.
            ("127.0.0.1", &["198.51.100.7, unknown"], "127.0.0.1"),
            ("127.0.0.1", &["198.51.100.7, unknown, 10.0.0.2"], "10.0.0.2"),
            ("127.0.0.1", &["198.51.100.7,"], "127.0.0.1"),
            ("127.0.0.1", &[""], "127.0.0.1"),
            ("127.0.0.1", &["198.51.100.7, 999.1.1.1"], "127.0.0.1"),
            ("127.0.0.1", &["198.51.100.7, \u{43a}"], "127.0.0.1"),
        ] {
            assert_eq!(xff(peer, lines), expected, "{peer} {lines:?}");
        }
        let long = "10.0.0.1,".repeat(3_000);
        assert_eq!(xff("127.0.0.1", &[&format!("198.51.100.7,{long}10.0.0.2")]), "10.0.0.1", "a chain has an end");
    }

    #[test]
    fn the_standard_header_is_read_where_it_is_chosen() {
        let forwarded = |line: &str| client(ClientHeader::Forwarded, "127.0.0.1", &[(&header::FORWARDED, line)]);
        for (line, expected) in [
            ("for=198.51.100.7", "198.51.100.7"),
            ("For=\"198.51.100.7:80\";proto=https;by=203.0.113.43", "198.51.100.7"),
            ("proto=https; for=\"[2001:db8:cafe::17]:4711\"", "2001:db8:cafe::17"),
            ("for=1.1.1.1, for=198.51.100.7, for=10.0.0.1", "198.51.100.7"),
            ("for=198.51.100.7, for=unknown", "127.0.0.1"),
            ("for=198.51.100.7, for=_hidden", "127.0.0.1"),
            ("for=198.51.100.7, proto=https", "127.0.0.1"),
            ("for=\"198.51.100.7", "127.0.0.1"),
            // Quotes that a client leaves open swallow nothing of what our proxy adds.
            ("for=1.1.1.1;x=\", for=198.51.100.7", "198.51.100.7"),
            ("for=1.1.1.1;x=\", for=\"[2001:db8::1]\"", "2001:db8::1"),
            ("for=\"a, for=1.1.1.1\", for=198.51.100.7", "198.51.100.7"),
            ("for=\"\\\", for=1.1.1.1, for=198.51.100.7", "198.51.100.7"),
        ] {
            assert_eq!(forwarded(line), expected, "{line}");
        }
    }

    #[test]
    fn the_other_header_is_nobodys() {
        let both = [(&header::FORWARDED, "for=1.1.1.1"), (&X_FORWARDED_FOR, "198.51.100.7")];
        assert_eq!(client(ClientHeader::XForwardedFor, "127.0.0.1", &both), "198.51.100.7");
        assert_eq!(client(ClientHeader::Forwarded, "127.0.0.1", &both), "1.1.1.1");
        assert_eq!(client(ClientHeader::Forwarded, "127.0.0.1", &both[1..]), "127.0.0.1");
    }

    #[test]
    fn limits_count_lines_and_not_addresses() {
        let counted = |text: &str| ClientAddress::new(text.parse().expect("an address")).counted().to_string();
        assert_eq!(counted("198.51.100.7"), "198.51.100.7");
        assert_eq!(counted("::ffff:198.51.100.7"), "198.51.100.7");
        assert_eq!(counted("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
        assert_eq!(counted("2001:db8:1:2:ffff::"), "2001:db8:1:2::");
        assert_ne!(counted("2001:db8:1:3::"), counted("2001:db8:1:2::"));
    }

    proptest! {
        #[test]
        fn what_a_client_writes_never_hides_it(said in "[ -~]{0,60}", standard: bool) {
            let (header, name, added) = if standard {
                (ClientHeader::Forwarded, header::FORWARDED, "for=198.51.100.7")
            } else {
                (ClientHeader::XForwardedFor, X_FORWARDED_FOR, "198.51.100.7")
            };
            let line = format!("{said}, {added}");
            prop_assert_eq!(client(header, "127.0.0.1", &[(&name, &line)]), "198.51.100.7");
        }
    }
}
