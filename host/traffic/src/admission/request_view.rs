//! The parts of a request that policies use, and the resolution of the client's address.

use std::net::IpAddr;

use http::HeaderMap;
use ipnet::IpNet;

/// A request as policies see it.
#[derive(Clone, Copy, Debug)]
pub struct RequestView<'a> {
    /// The address at the other end of the connection.
    pub peer: IpAddr,
    /// The client address in forwarding headers that are not trusted. `allow`, `deny` and rates by client apply to it
    /// as well as to `peer`.
    pub claimed: Option<IpAddr>,
    /// A guest of this host sent the request. Its own manifest grants the call, and no network is between.
    pub inside: bool,
    /// The networks of all trusted proxies, when `peer` is one of them.
    pub proxies: Option<&'a [IpNet]>,
    /// The request's headers.
    pub headers: &'a HeaderMap,
    /// The number of the service's route that matched, in the order of the manifest; any number that no route has means
    /// none.
    pub route: usize,
}

impl RequestView<'_> {
    /// Returns the client's address: the last one in `X-Forwarded-For` that is not a trusted proxy's, when the peer is
    /// a trusted proxy, else the peer's. An element that cannot be parsed ends the search, because nothing before it
    /// can be trusted.
    pub fn client(&self) -> IpAddr {
        let Some(proxies) = self.proxies else { return self.peer };
        let mut client = self.peer;
        for value in self.headers.get_all("x-forwarded-for").iter().rev() {
            // The value is read as bytes: an element that is not text ends the list there, and hides no element that
            // proxies added after it.
            for hop in value.as_bytes().rsplit(|byte| *byte == b',') {
                let Some(address) = std::str::from_utf8(hop).ok().and_then(|hop| address(hop.trim())) else {
                    return client;
                };
                client = address;
                if !proxies.iter().any(|net| net.contains(&address)) {
                    return client;
                }
            }
        }
        client
    }
}

/// Parses an address. Some proxies add a port, or brackets around an IPv6 address.
fn address(hop: &str) -> Option<IpAddr> {
    let plain = hop.parse::<IpAddr>().ok();
    let with_port = || hop.parse::<std::net::SocketAddr>().ok().map(|address| address.ip());
    let in_brackets = || hop.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
    plain.or_else(with_port).or_else(in_brackets).map(|address: IpAddr| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A client can write anything before the elements that trusted proxies add; only the latter count.
    #[test]
    fn only_proxies_are_believed() {
        let proxies: Vec<IpNet> = vec!["10.0.0.0/8".parse().unwrap()];
        let check = |trusted: bool, lines: &[&str], expected: &str| {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append("x-forwarded-for", http::HeaderValue::from_bytes(line.as_bytes()).unwrap());
            }
            let peer = "10.0.0.1".parse().unwrap();
            let view = RequestView {
                peer,
                claimed: None,
                inside: false,
                proxies: trusted.then_some(&*proxies),
                headers: &headers,
                route: 0,
            };
            assert_eq!(view.client(), expected.parse::<IpAddr>().unwrap(), "{lines:?}");
        };
        check(false, &["192.0.2.1"], "10.0.0.1");
        check(true, &[], "10.0.0.1");
        check(true, &["192.0.2.1, 10.0.0.1"], "192.0.2.1");
        check(true, &["6.6.6.6, 192.0.2.1, 10.0.0.7, 10.0.0.1"], "192.0.2.1");
        check(true, &["6.6.6.6", "192.0.2.1, 10.0.0.1"], "192.0.2.1");
        check(true, &["192.0.2.1:4711, 10.0.0.1"], "192.0.2.1");
        check(true, &["[2001:db8::1]:80, 10.0.0.1"], "2001:db8::1");
        check(true, &["::ffff:192.0.2.1, 10.0.0.1"], "192.0.2.1");
        check(true, &["6.6.6.6, unknown, 10.0.0.2, 10.0.0.1"], "10.0.0.2");
        check(true, &["10.0.0.3, 10.0.0.1"], "10.0.0.3");
        check(true, &["\u{ff}, 192.0.2.1, 10.0.0.1"], "192.0.2.1");
        check(true, &["192.0.2.1, \u{ff}, 10.0.0.2, 10.0.0.1"], "10.0.0.2");
    }
}
