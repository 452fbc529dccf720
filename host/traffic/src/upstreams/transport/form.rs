//! The form of a request on the wire: origin-form and `Host` in HTTP/1.1, four pseudo-headers in HTTP/2.
//!
//! A request comes in either form, as a server receives it: with an authority in its URI (HTTP/2, or the absolute form
//! of HTTP/1.1) or with a `Host` header. The host that the client named is kept; an authority in the URI has precedence
//! (RFC 9112, 3.2.2). Both conversions are idempotent, so a request that was not sent can go to another replica.

use http::header::{CONTENT_LENGTH, HOST, HeaderValue, TRANSFER_ENCODING, UPGRADE};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Method, Request, Uri, Version};
use http_body::Body;

/// Converts a request for HTTP/1.1. `default_authority` is the host of a request that names none.
pub(super) fn to_http1<B>(request: &mut Request<B>, default_authority: &Authority) -> Result<(), String> {
    refuse_connect(request)?;
    *request.version_mut() = Version::HTTP_11;
    let named = request.uri().authority().cloned();
    if named.is_none() && request.headers().contains_key(HOST) {
        return Ok(());
    }
    let parts = std::mem::take(request.uri_mut()).into_parts();
    *request.uri_mut() = Uri::from(parts.path_and_query.unwrap_or_else(|| PathAndQuery::from_static("/")));
    let host = without_user(named.as_ref().unwrap_or(default_authority));
    if request.headers().get(HOST).is_none_or(|given| given != host) {
        let host = HeaderValue::from_str(host).map_err(|error| format!("host {host:?}: {error}"))?;
        request.headers_mut().insert(HOST, host);
    }
    Ok(())
}

/// Converts a request for HTTP/2 to a replica with this `scheme`.
pub(super) fn to_http2<B>(
    request: &mut Request<B>,
    scheme: Scheme,
    default_authority: &Authority,
) -> Result<(), String> {
    refuse_connect(request)?;
    if request.headers().contains_key(UPGRADE) {
        return Err("HTTP/2 has no upgrades; use HTTP/1.1 for this upstream".into());
    }
    *request.version_mut() = Version::HTTP_2;
    let host = request.headers().get(HOST);
    let authority = match (request.uri().authority(), host) {
        (Some(named), _) if named.as_str().contains('@') => Authority::try_from(without_user(named)),
        (Some(named), _) => Ok(named.clone()),
        (None, Some(host)) => Authority::try_from(host.as_bytes()),
        (None, None) => Ok(default_authority.clone()),
    };
    let authority = authority.map_err(|error| format!("invalid host: {error}"))?;
    if host.is_some() {
        request.headers_mut().remove(HOST);
    }
    let mut parts = request.uri().clone().into_parts();
    parts.scheme = Some(scheme);
    parts.authority = Some(authority);
    parts.path_and_query.get_or_insert_with(|| PathAndQuery::from_static("/"));
    *request.uri_mut() = Uri::from_parts(parts).map_err(|error| format!("invalid URI: {error}"))?;
    Ok(())
}

/// Sets `Transfer-Encoding: chunked` if the length of the body is unknown. Without it, hyper treats a GET as a request
/// without a body.
pub(super) fn set_chunked<B: Body>(request: &mut Request<B>) {
    let body = request.body();
    if !body.is_end_stream() && body.size_hint().exact().is_none() && !request.headers().contains_key(CONTENT_LENGTH) {
        request.headers_mut().insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
}

/// Refuses CONNECT: it asks for a tunnel, and hyper would make one.
fn refuse_connect<B>(request: &Request<B>) -> Result<(), String> {
    if request.method() == Method::CONNECT {
        Err("a CONNECT request cannot be sent to a replica".into())
    } else {
        Ok(())
    }
}

fn without_user(authority: &Authority) -> &str {
    let text = authority.as_str();
    text.rsplit_once('@').map_or(text, |(_, host)| host)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(uri: &str, host: Option<&str>) -> Request<()> {
        let mut request = Request::new(());
        *request.uri_mut() = uri.parse().unwrap();
        if let Some(host) = host {
            request.headers_mut().insert(HOST, host.parse().unwrap());
        }
        request
    }

    #[test]
    fn forms() {
        let default_authority = Authority::from_static("replica:81");
        for (uri, host, path, expected) in [
            ("/a?b", Some("shop.example"), "/a?b", "shop.example"),
            ("http://shop.example/a?b", None, "/a?b", "shop.example"),
            ("https://shop.example:444", Some("other"), "/", "shop.example:444"),
            ("http://me:secret@shop.example/", Some("other"), "/", "shop.example"),
            ("/a", None, "/a", "replica:81"),
            ("*", Some("shop.example"), "*", "shop.example"),
        ] {
            let mut one_first = request(uri, host);
            let mut two_first = request(uri, host);
            for _ in 0..2 {
                to_http1(&mut one_first, &default_authority).unwrap();
                assert_eq!((one_first.uri().to_string().as_str(), one_first.version()), (path, Version::HTTP_11));
                assert_eq!(one_first.headers().get_all(HOST).iter().collect::<Vec<_>>(), [expected]);
                to_http2(&mut two_first, Scheme::HTTP, &default_authority).unwrap();
                assert_eq!(two_first.uri().path_and_query().unwrap(), path);
                assert_eq!(two_first.uri().authority().unwrap(), expected);
                assert_eq!((two_first.uri().scheme_str(), two_first.version()), (Some("http"), Version::HTTP_2));
                assert!(!two_first.headers().contains_key(HOST));
                // Then convert each to the other form.
                std::mem::swap(&mut one_first, &mut two_first);
            }
        }
    }

    #[test]
    fn refuses() {
        let default_authority = Authority::from_static("replica:81");
        let mut tunnel = request("shop.example:443", None);
        *tunnel.method_mut() = Method::CONNECT;
        assert!(
            to_http1(&mut tunnel, &default_authority).is_err()
                && to_http2(&mut tunnel, Scheme::HTTP, &default_authority).is_err()
        );
        assert!(to_http2(&mut request("/", Some("two words")), Scheme::HTTP, &default_authority).is_err());
        let mut upgrade = request("/", Some("a"));
        upgrade.headers_mut().insert(UPGRADE, HeaderValue::from_static("websocket"));
        assert!(to_http1(&mut upgrade, &default_authority).is_ok());
        assert!(to_http2(&mut upgrade, Scheme::HTTP, &default_authority).unwrap_err().contains("HTTP/1.1"));
    }
}
