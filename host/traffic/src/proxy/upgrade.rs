//! Protocol upgrades of a connection (RFC 9110 7.8).

use std::time::SystemTime;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Version, request};
use hyper::upgrade::OnUpgrade;

/// The protocols that a client offers to switch to, in its order of preference (RFC 9110 7.8), at least one. An
/// extension of requests that have some.
#[derive(Clone, Debug)]
pub struct OfferedProtocols {
    names: HeaderValue,
    valid_until: Option<SystemTime>,
}

/// The client's side of an upgrade: what it offers, and its connection once that is free.
pub struct ClientUpgrade {
    offered: HeaderValue,
    valid_until: Option<SystemTime>,
    connection: OnUpgrade,
}

impl OfferedProtocols {
    /// Adds the extension to a request that offers an upgrade, on a connection with a certificate that is valid until then. Must run
    /// before hop-by-hop headers are removed.
    pub fn detect(head: &mut request::Parts, valid_until: Option<SystemTime>) {
        if head.headers.contains_key(header::UPGRADE)
            && head.version == Version::HTTP_11
            && head.method == Method::GET
            && members(&head.headers, &header::CONNECTION).any(|option| option.eq_ignore_ascii_case("upgrade"))
            && let offered = members(&head.headers, &header::UPGRADE).filter(|name| !is_http(name)).collect::<Vec<_>>()
            && !offered.is_empty()
            && let Ok(names) = HeaderValue::try_from(offered.join(", "))
        {
            head.extensions.insert(Self { names, valid_until });
        }
    }
}

impl ClientUpgrade {
    /// Takes the upgrade out of a request; `None` if it offers none.
    pub fn take<B>(request: &mut Request<B>) -> Option<Self> {
        let OfferedProtocols { names: offered, valid_until } = request.extensions_mut().remove()?;
        Some(Self { offered, valid_until, connection: hyper::upgrade::on(request) })
    }

    /// Whether the client offered all protocols of a response with these headers. There are several where one runs on
    /// top of another.
    pub fn allows(&self, headers: &HeaderMap) -> bool {
        let offered = self.offered.to_str().unwrap_or_default();
        let is_offered = |chosen: &str| list(offered).any(|offer| offer.eq_ignore_ascii_case(chosen));
        let mut chosen = members(headers, &header::UPGRADE).peekable();
        chosen.peek().is_some() && chosen.all(is_offered)
    }

    /// Writes the offer into the headers of a request to a replica.
    pub fn write_offer(&self, headers: &mut HeaderMap) {
        write_upgrade(headers, &self.offered);
    }

    /// Returns when the certificate of the client expires, if it has one.
    pub fn valid_until(&self) -> Option<SystemTime> {
        self.valid_until
    }

    /// Returns the client's connection, which is ready once the head of the response is sent.
    pub fn into_connection(self) -> OnUpgrade {
        self.connection
    }
}

/// Returns the members of a header that is a list, over all its lines (RFC 9110 5.6.1). A line that is not text has
/// none.
fn members<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    headers.get_all(name).into_iter().filter_map(|line| line.to_str().ok()).flat_map(list)
}

fn list(line: &str) -> impl Iterator<Item = &str> {
    line.split(',').map(str::trim).filter(|member| !member.is_empty())
}

/// Whether a protocol is another version of HTTP, or TLS: requests inside of it would bypass this host.
fn is_http(protocol: &str) -> bool {
    let name = protocol.split('/').next().unwrap_or_default().trim();
    ["h2c", "h2", "h3", "http", "tls"].iter().any(|known| name.eq_ignore_ascii_case(known))
}

/// Returns the protocols that a replica switches to, as one list.
pub fn chosen(headers: &HeaderMap) -> Option<HeaderValue> {
    HeaderValue::try_from(members(headers, &header::UPGRADE).collect::<Vec<_>>().join(", ")).ok()
}

/// Writes the headers that offer or accept an upgrade to `what`.
pub fn write_upgrade(headers: &mut HeaderMap, what: &HeaderValue) {
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, what.clone());
}

#[cfg(test)]
mod tests {
    use http::Response;

    use super::*;

    fn upgrade(version: Version, lines: &[(HeaderName, &'static str)]) -> Option<ClientUpgrade> {
        let request = lines.iter().fold(Request::get("/"), |request, (name, value)| request.header(name, *value));
        let (mut head, ()) = request.version(version).body(()).unwrap().into_parts();
        OfferedProtocols::detect(&mut head, None);
        ClientUpgrade::take(&mut Request::from_parts(head, ()))
    }

    /// Returns the offer that a replica gets when a client offers these protocols.
    fn offered(lines: &[&'static str]) -> Option<String> {
        let lines =
            lines.iter().map(|line| (header::UPGRADE, *line)).chain([(header::CONNECTION, "keep-alive, Upgrade")]);
        let upgrade = upgrade(Version::HTTP_11, &lines.collect::<Vec<_>>())?;
        let mut headers = HeaderMap::new();
        upgrade.write_offer(&mut headers);
        Some(headers[header::UPGRADE].to_str().unwrap().to_owned())
    }

    #[test]
    fn a_list_is_forwarded_without_http() {
        for (lines, expected) in [
            (&["websocket"][..], Some("websocket")),
            (&["foo/1, WebSocket"], Some("foo/1, WebSocket")),
            (&["websocket", "foo"], Some("websocket, foo")),
            (&["websocket, h2c"], Some("websocket")),
            (&["h2c", "HTTP/2.0, TLS/1.0 ,h2"], None),
            (&[" ,, "], None),
        ] {
            assert_eq!(offered(lines).as_deref(), expected, "{lines:?}");
        }
        let plain = [(header::UPGRADE, "websocket"), (header::CONNECTION, "keep-alive")];
        assert!(upgrade(Version::HTTP_11, &plain).is_none(), "Connection does not name the upgrade");
        let asks = [(header::UPGRADE, "websocket"), (header::CONNECTION, "upgrade")];
        assert!(upgrade(Version::HTTP_10, &asks).is_none() && upgrade(Version::HTTP_11, &asks).is_some());
    }

    #[test]
    fn a_replica_chooses_an_offered_protocol() {
        let asks = [(header::UPGRADE, "foo/1, websocket"), (header::CONNECTION, "upgrade")];
        for (chosen, may) in [
            (&["websocket"][..], true),
            (&["WEBSOCKET"], true),
            (&["foo/1"], true),
            (&["foo/1, websocket"], true),
            (&["foo/1", "websocket"], true),
            (&["foo/2"], false),
            (&["websocket, bar"], false),
            (&["h2c"], false),
            (&[""], false),
            (&[], false),
        ] {
            let response =
                chosen.iter().fold(Response::builder(), |response, line| response.header(header::UPGRADE, *line));
            let upgrade = upgrade(Version::HTTP_11, &asks).unwrap();
            assert_eq!(upgrade.allows(response.body(()).unwrap().headers()), may, "{chosen:?}");
        }
    }
}
