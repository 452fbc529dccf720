//! What a service can tell of how a request came to it, besides its URI: the route, and the headers in which proxies and
//! this host say what was asked for where.
//!
//! A response is stored together with that, and given only to requests of which the same is said: a service may make
//! links of `X-Forwarded-Host`, and a route may be closed to the clients of another. The address of the client alone is
//! left out, or nobody would be given what another has asked for. A response that depends on it has to say so, by
//! `private` or by `Vary`.

use http::header::{self, HeaderMap, HeaderName};

use super::lists::{self, Quoting};
use crate::proxy::headers::is_identity;

/// Equal for requests that a service cannot tell apart by it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Forwarding(Box<[u8]>);

/// Headers that are nothing but an address of the client.
const ADDRESSES: [&str; 2] = ["x-forwarded-for", "x-real-ip"];

/// Parameters of `Forwarded` that are addresses: the client's, and the proxy's towards it (RFC 7239, 5).
const NODES: [&[u8]; 2] = [b"for", b"by"];

impl Forwarding {
    /// Of a request that came by the service's route of this number, with its headers as the service sees them.
    pub(super) fn of(route: usize, headers: &HeaderMap) -> Self {
        let is_told = |name: &HeaderName| is_identity(name.as_str()) && !ADDRESSES.contains(&name.as_str());
        let mut fields: Vec<_> = headers.iter().filter(|(name, _)| is_told(name)).collect();
        // Lines of one name keep their order; that of the names says nothing.
        fields.sort_by_key(|(name, _)| name.as_str());
        let mut text = Vec::with_capacity(128);
        text.extend_from_slice(&route.to_ne_bytes());
        for (name, value) in fields {
            // Neither a name nor a value can have a line break, so no two lists of fields have one text.
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

    /// Bytes that it takes.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

/// Adds a line of `Forwarded` without addresses; as it is, where it is not well-formed.
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
    fn addresses_alone_do_not_count() {
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

    /// What a service sees: the fields that are told, in order within a name, and of `Forwarded` the hosts and schemes.
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

        /// Requests share a response exactly if they came by one route, and a service cannot tell them apart by what
        /// proxies say of them, but for addresses.
        #[test]
        fn what_can_be_told_apart_is_kept_apart((one, first) in request(), (other, second) in request()) {
            prop_assert_eq!(one == other, first == second, "{:?} {:?}", one, other);
        }
    }
}
