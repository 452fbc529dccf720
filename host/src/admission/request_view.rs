//! What the policies look at of a request, and who its client is.

use std::net::IpAddr;

use http::HeaderMap;
use ipnet::IpNet;

/// A request as the policies see it.
#[derive(Clone, Copy, Debug)]
pub struct RequestView<'a> {
    /// The other end of the connection.
    pub peer: IpAddr,
    /// The client that forwarding headers name which are not believed. `allow`, `deny` and rates by client hold for it as
    /// well as for `peer`.
    pub claimed: Option<IpAddr>,
    /// A guest of this host asks: that it may is in its own manifest, and no network stands between.
    pub inside: bool,
    /// Every proxy that is believed, when `peer` is one of them.
    pub proxies: Option<&'a [IpNet]>,
    /// Its headers.
    pub headers: &'a HeaderMap,
    /// Which of the service's routes it came by, in the order of the manifest; any other number is none of them.
    pub route: usize,
}

impl RequestView<'_> {
    /// Who asks: the last in `X-Forwarded-For` that is none of ours, when the connection is a trusted proxy's, else the
    /// other end of the connection. What cannot be read is not believed, and neither is what stands before it.
    pub fn client(&self) -> IpAddr {
        let Some(proxies) = self.proxies else { return self.peer };
        let mut client = self.peer;
        for value in self.headers.get_all("x-forwarded-for").iter().rev() {
            // As bytes: what is no text ends the list where it stands, and not the elements that proxies added behind it.
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

/// Some proxies write a port, and brackets around what has colons.
fn address(hop: &str) -> Option<IpAddr> {
    let plain = hop.parse::<IpAddr>().ok();
    let with_port = || hop.parse::<std::net::SocketAddr>().ok().map(|address| address.ip());
    let in_brackets = || hop.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
    plain.or_else(with_port).or_else(in_brackets).map(|address: IpAddr| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A client can write what it likes before what a trusted proxy adds; only the latter counts.
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
