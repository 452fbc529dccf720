//! What a service can know of how a request reached it, besides the URI: the route, and the headers in which proxies
//! and this host describe the original request.
//!
//! A stored response only matches requests with the same values: a service may build links from `X-Forwarded-Host`, and
//! policies can close one route to the clients of another. The client's address is not included, or clients could not
//! share responses at all. A response that depends on the address has to be `private`, or to name the header in `Vary`.

use http::header::{self, HeaderMap, HeaderName};

use crate::proxy::lists::{self, Quoting};
use lodge_base::headers::is_identity;

/// A digest of these values: equal for requests that a service cannot distinguish by them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Forwarding(Box<[u8]>);

/// Headers that contain addresses of clients only.
const ADDRESSES: [&str; 2] = ["x-forwarded-for", "x-real-ip"];

/// The parameters of `Forwarded` with addresses: of the client and of the proxy (RFC 7239, 5).
const NODES: [&[u8]; 2] = [b"for", b"by"];

impl Forwarding {
    /// The values of a request on the service's route with the number `route`, with the headers that the service sees.
    pub(super) fn of(route: usize, headers: &HeaderMap) -> Self {
        let is_told = |name: &HeaderName| is_identity(name.as_str()) && !ADDRESSES.contains(&name.as_str());
        let mut fields: Vec<_> = headers.iter().filter(|(name, _)| is_told(name)).collect();
        // The order of lines with one name matters; the order of names does not.
        fields.sort_by_key(|(name, _)| name.as_str());
        let mut text = Vec::with_capacity(128);
        text.extend_from_slice(&route.to_ne_bytes());
        for (name, value) in fields {
            // Names and values cannot have line breaks, so different fields have different texts.
            text.push(b'\n');
            text.extend_from_slice(name.as_str().as_bytes());
            text.push(b':');
            if *name == header::FORWARDED {
                without_nodes(value.as_bytes(), &mut text);
            } else {
                text.extend_from_slice(value.as_bytes());
            }
        }
        Self(text.into())
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

/// Appends a line of `Forwarded` without addresses; unchanged if it is malformed.
fn without_nodes(line: &[u8], text: &mut Vec<u8>) {
    if !lists::is_closed(line, Quoting::Escapes) {
        return text.extend_from_slice(line);
    }
    for element in lists::parts(line, b',', Quoting::Escapes) {
        for parameter in lists::parts(element, b';', Quoting::Escapes) {
            let name = parameter.split(|byte| *byte == b'=').next().unwrap_or_default();
            if !NODES.iter().any(|node| name.trim_ascii().eq_ignore_ascii_case(node)) {
                text.extend_from_slice(parameter);
                text.push(b';');
            }
        }
        text.push(b',');
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn forwarding(route: usize, fields: &[(&str, &str)]) -> Forwarding {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
        }
        Forwarding::of(route, &headers)
    }

    #[test]
    fn addresses_are_ignored() {
        let check = |one: &[(&str, &str)], other: &[(&str, &str)], same: bool| {
            assert_eq!(forwarding(0, one) == forwarding(0, other), same, "{one:?} {other:?}");
        };
        let of = |forwarded: &'static str| [("forwarded", forwarded)];
        check(&of("for=1.2.3.4;host=\"a\";proto=http"), &of("For=\"[::1]:7\";host=\"a\";proto=http"), true);
        check(&of("for=1.2.3.4;by=_x;host=\"a\""), &of("host=\"a\""), true);
        check(&of("for=1.2.3.4;host=\"a\""), &of("for=1.2.3.4;host=\"b\""), false);
        check(&of("for=1.2.3.4;host=\"a\""), &of("for=1.2.3.4, host=\"a\""), false);
        check(&of("host=\"a;for=b\""), &of("host=\"a;for=c\""), false);
        check(&of("host=\"a, for=b"), &of("host=\"a, for=c"), false);
        check(&[("x-forwarded-for", "1.2.3.4")], &[("x-real-ip", "1.2.3.4"), ("accept", "*/*")], true);
        check(&[("x-forwarded-host", "a")], &[("x-forwarded-host", "A")], false);
        check(&[("x-forwarded-host", "a")], &[("x-forwarded-server", "a")], false);
        check(&[("x-forwarded-user", "ann")], &[], false);
        let two = [("x-forwarded-proto", "http"), ("x-forwarded-host", "a")];
        check(&two, &[two[1], two[0]], true);
        check(&[("x-forwarded-host", "a"), ("x-forwarded-host", "b")], &[("x-forwarded-host", "a, b")], false);
        assert_ne!(forwarding(0, &two), forwarding(1, &two), "another route");
    }

    /// What a service sees: its route, the forwarding headers in order, and the hosts and schemes of `Forwarded`.
    type Seen = (usize, Vec<(String, String)>, Vec<(String, String)>);

    fn request() -> impl Strategy<Value = (Seen, Forwarding)> {
        let names = prop::sample::select(vec![
            "x-forwarded-host",
            "x-forwarded-proto",
            "x-forwarded-prefix",
            "x-forwarded-port",
        ]);
        let values = prop::sample::select(vec!["a", "b", "a, b", "a;b", "\"a", "a\"", "for=a", "https"]);
        let fields = prop::collection::vec((names, values), 0..3);
        let quoted = prop::sample::select(vec!["a", "b", "a,b", "a;for=b", "a\\\"", "a\\\\"]);
        let element = (any::<bool>(), quoted, prop::sample::select(vec!["http", "https"]));
        let elements = prop::collection::vec(element, 0..3);
        (0_usize..2, fields, elements, any::<u8>()).prop_map(|(route, fields, elements, client)| {
            let write = |(node, host, proto): &(bool, &str, &str)| {
                let node = if *node { format!("for=10.0.0.{client};") } else { String::new() };
                format!("{node}host=\"{host}\";proto={proto}")
            };
            let forwarded = elements.iter().map(write).collect::<Vec<_>>().join(", ");
            let address = format!("10.0.0.{client}");
            let mut all = fields.clone();
            all.push(("x-forwarded-for", &*address));
            if !elements.is_empty() {
                all.insert(0, ("forwarded", &*forwarded));
            }
            let found = forwarding(route, &all);
            let owned = |(one, other): (&str, &str)| (one.to_owned(), other.to_owned());
            let mut seen: Vec<_> = fields.into_iter().map(owned).collect();
            seen.sort_by(|a, b| a.0.cmp(&b.0));
            ((route, seen, elements.into_iter().map(|(_, host, proto)| owned((host, proto))).collect()), found)
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        /// Requests share a response exactly if they have the same route, and forwarding headers that are equal but for
        /// addresses.
        #[test]
        fn distinguishable_requests_do_not_share((one, first) in request(), (other, second) in request()) {
            prop_assert_eq!(one == other, first == second, "{:?} {:?}", one, other);
        }
    }
}
