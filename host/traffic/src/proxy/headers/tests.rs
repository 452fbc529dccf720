use super::*;
use crate::auth::certificate::ClientCertificate;
use http::Request;
use ipnet::IpNet;
use lodge_base::headers::HeaderFate;
use proptest::prelude::*;
use std::time::SystemTime;

fn peer(address: &str, proxies: &[&str]) -> Peer {
    let proxies: Vec<IpNet> = proxies.iter().map(|net| net.parse().unwrap()).collect();
    Peer::new(address.parse().unwrap(), "127.0.0.1:8080".parse().unwrap(), &proxies)
}

/// Returns the head as the guest sees it, one line per header, ordered by name.
fn seen(head: Request<()>, peer: &Peer) -> Result<(String, Vec<String>), String> {
    let (mut head, ()) = head.into_parts();
    normalize(&mut head, peer).map_err(|error| error.to_string())?;
    let mut lines: Vec<_> =
        head.headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
    lines.sort();
    Ok((head.uri.to_string(), lines))
}

#[test]
fn untrusted_forwarding_headers_are_replaced() {
    let head = Request::get("/a?b=c")
        .header("host", "h:1")
        .header("x-forwarded-for", "6.6.6.6")
        .header("x-forwarded-proto", "https")
        .header("x-forwarded-host", "evil")
        .header("x-real-ip", "6.6.6.6")
        .header("forwarded", "for=6.6.6.6");
    let (uri, lines) = seen(head.body(()).unwrap(), &peer("[2001:db8::1]:9", &[])).unwrap();
    assert_eq!(uri, "http://h:1/a?b=c");
    let expected = [
        "forwarded: for=\"[2001:db8::1]\";host=\"h:1\";proto=http",
        "host: h:1",
        "x-forwarded-for: 2001:db8::1",
        "x-forwarded-host: h:1",
        "x-forwarded-proto: http",
    ];
    assert_eq!(lines, expected);
}

#[test]
fn trusted_forwarding_headers_are_extended() {
    let head = Request::get("/")
        .header("host", "h")
        .header("x-forwarded-for", "6.6.6.6")
        .header("x-forwarded-proto", "https")
        .header("forwarded", "for=6.6.6.6");
    let (uri, lines) = seen(head.body(()).unwrap(), &peer("10.1.2.3:9", &["10.0.0.0/8"])).unwrap();
    assert_eq!(uri, "https://h/");
    let expected = [
        "forwarded: for=6.6.6.6, for=10.1.2.3;host=\"h\";proto=https",
        "host: h",
        "x-forwarded-for: 6.6.6.6, 10.1.2.3",
        "x-forwarded-host: h",
        "x-forwarded-proto: https",
    ];
    assert_eq!(lines, expected);
}

/// A request with the mark of a guest may be of anybody behind the proxy, whose certificate is not that of the client.
#[test]
fn a_proxy_lends_its_certificate_to_no_mark() {
    let end = SystemTime::UNIX_EPOCH;
    let certificate = ClientCertificate::new(HeaderValue::from_static("URI=spiffe://a.test/proxy"), &[], &[], end);
    let proxy = peer("10.1.2.3:9", &["10.0.0.0/8"]).over_tls(Some(certificate));
    let marked = proxy.distrusted("192.0.2.1".parse().unwrap());
    assert!(proxy.client_certificate().is_none() && marked.client_certificate().is_none());
    let request = || Request::get("/").header("host", "h").body(()).unwrap();
    let (uri, lines) = seen(request(), &marked).unwrap();
    assert!(uri == "https://h/" && !lines.iter().any(|line| line.contains("client-cert")), "{lines:?}");
    // The connection ends with it all the same.
    assert_eq!(marked.valid_until(), Some(end));
}

#[test]
fn only_a_trusted_proxy_names_requests() {
    let mut headers = HeaderMap::new();
    headers.insert(REQUEST_ID, HeaderValue::from_static("abc-1"));
    assert_eq!(peer("127.0.0.1:9", &["127.0.0.1"].map(|_| "127.0.0.1/32")).request_id(&headers), Some("abc-1"));
    assert_eq!(peer("127.0.0.1:9", &[]).request_id(&headers), None);
    headers.insert(REQUEST_ID, HeaderValue::from_static("a b"));
    assert_eq!(peer("127.0.0.1:9", &["127.0.0.1/32"]).request_id(&headers), None);
}

#[test]
fn hop_by_hop_headers_are_removed() {
    let head = Request::get("/")
        .header("host", "h")
        .header("connection", "close, X-Mine")
        .header("x-mine", "1")
        .header("x-yours", "2")
        .header("keep-alive", "5")
        .header("te", "gzip, trailers")
        .header("transfer-encoding", "chunked")
        .header("upgrade", "websocket")
        .header("proxy-authorization", "secret");
    let (_, lines) = seen(head.body(()).unwrap(), &peer("127.0.0.1:9", &[])).unwrap();
    let own = |line: &&String| !line.starts_with("x-forwarded") && !line.starts_with("forwarded");
    assert_eq!(lines.iter().filter(own).collect::<Vec<_>>(), ["host: h", "te: trailers", "x-yours: 2"]);
}

#[test]
fn heads_that_are_refused() {
    let stranger = peer("127.0.0.1:9", &[]);
    let refused = |head: http::request::Builder| seen(head.body(()).unwrap(), &stranger).unwrap_err();
    assert!(refused(Request::get("/")).contains("missing"));
    assert!(refused(Request::get("/").header("host", "a").header("host", "b")).contains("more than one"));
    assert!(refused(Request::get("/").header("host", "a b")).contains("not valid"));
    assert!(refused(Request::get("/").header("host", "me@h")).contains("not valid"));
    assert!(refused(Request::connect("h:1").header("host", "h")).contains("CONNECT"));
    let old = Request::get("/").version(Version::HTTP_10).body(()).unwrap();
    assert_eq!(seen(old, &stranger).unwrap().0, "http://127.0.0.1:8080/");
}

/// A coding that this host does not decode must not disappear on the way.
#[test]
fn bodies_are_chunked_at_most_once() {
    let arrives = |lines: &[&str]| {
        let head = Request::post("/").header("host", "h");
        let head = lines.iter().fold(head, |head, line| head.header("transfer-encoding", *line));
        let (mut head, ()) = head.body(()).unwrap().into_parts();
        match normalize(&mut head, &peer("127.0.0.1:9", &[])) {
            Ok(_) => true,
            Err(Malformed::Framing) => false,
            Err(other) => panic!("{other}"),
        }
    };
    let plain: [&[&str]; 4] = [&[], &["chunked"], &["Chunked"], &[" chunked "]];
    assert!(plain.into_iter().all(arrives));
    let others: [&[&str]; 7] = [
        &["gzip, chunked"],
        &["chunked, chunked"],
        &["chunked", "chunked"],
        &["gzip", "chunked"],
        &["chunked", "gzip"],
        &["gzip"],
        &[""],
    ];
    for lines in others {
        assert!(!arrives(lines), "{lines:?}");
    }
}

/// Returns the target and the host that a guest sees.
fn shown(target: &str, host: &str) -> Result<(String, String), String> {
    let head = Request::get(target).header("host", host).body(()).unwrap();
    let (mut head, ()) = head.into_parts();
    normalize(&mut head, &peer("192.0.2.1:9", &[])).map_err(|error| error.to_string())?;
    let host = head.headers[header::HOST].to_str().unwrap().to_owned();
    assert_eq!(head.headers[HOST], host);
    assert!(head.headers[FORWARDED].to_str().unwrap().contains(&format!("host=\"{host}\"")));
    Ok((head.uri.to_string(), host))
}

#[test]
fn one_form_of_host_and_path() {
    let check = |target: &str, host: &str, uri: &str| {
        let expected = uri.parse::<Uri>().unwrap().authority().unwrap().to_string();
        assert_eq!(shown(target, host), Ok((uri.to_owned(), expected)), "{target} {host}");
    };
    check("/a?b=%61", "Api.Example.COM.:80", "http://api.example.com/a?b=%61");
    check("/a/%7euser/../b%2fc?d/../e", "h:8080", "http://h:8080/a/b%2Fc?d/../e");
    check("http://h?a=1", "h", "http://h/?a=1");
    check("http://h", "h", "http://h/");
    // The target's host wins over the header (RFC 9112 3.2.2).
    check("http://one.example/", "two.example", "http://one.example/");
    for (target, host) in
        [("/", "p:abc"), ("/", "p:80:80"), ("/", "%61.example"), ("/a%00b", "h"), ("http://h/", "p:abc")]
    {
        assert!(shown(target, host).unwrap_err().contains("not valid"), "{target} {host}");
    }
    assert!(shown("*", "h").unwrap_err().contains("target"));
    let request_host = |version: Version, host: &str| {
        let head = Request::options("http://h/").version(version).header("host", host);
        seen(head.body(()).unwrap(), &peer("192.0.2.1:9", &[])).map(drop)
    };
    assert_eq!(request_host(Version::HTTP_2, "H."), Ok(()));
    assert!(
        request_host(Version::HTTP_2, "other").unwrap_err().contains("differs from the host of the request target")
    );
    assert_eq!(request_host(Version::HTTP_11, "other"), Ok(()));
    let star = Request::builder().method(Method::OPTIONS).uri("*").header("host", "h").body(()).unwrap();
    assert_eq!(seen(star, &peer("192.0.2.1:9", &[])).unwrap().0, "http://h*");
    let target_only = Request::get("http://h/").body(()).unwrap();
    assert!(seen(target_only, &peer("192.0.2.1:9", &[])).unwrap_err().contains("missing"), "RFC 9112 3.2");
    let call = Request::get("http://h.internal?a").body(()).unwrap();
    assert_eq!(seen(call, &Peer::service("me")).unwrap().0, "http://h.internal/?a");
}

#[test]
fn a_default_port_is_the_schemes() {
    let uri = |proto: &str, host: &str| {
        let head = Request::get("/").header("host", host).header("x-forwarded-proto", proto);
        seen(head.body(()).unwrap(), &peer("10.1.2.3:9", &["10.0.0.0/8"])).unwrap().0
    };
    assert_eq!([uri("https", "h:443"), uri("HTTPS", "h:443")], ["https://h/", "https://h/"]);
    assert_eq!([uri("http", "h:443"), uri("https", "h:80")], ["http://h:443/", "https://h:80/"]);
    assert_eq!([uri("https , http", "h"), uri("http,https", "h")], ["https://h/", "http://h/"]);
}

/// The host's own headers are written after a client's `Connection` is applied, and under no other spelling.
#[test]
fn clients_cannot_remove_the_hosts_headers() {
    let own = ["x-request-id", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "forwarded", "via"];
    for peer in [peer("192.0.2.1:9", &[]), peer("10.1.2.3:9", &["10.0.0.0/8"])] {
        let head = Request::get("/")
            .header("host", "h")
            .header("connection", format!("close, {}, traceparent, b3, host, x-mine", own.join(", ")))
            .header("x-request-id", "1")
            .header("traceparent", "00-1")
            .header("via", "1.1 front")
            .header("x-forwarded-for", "192.0.2.9")
            .header("x-mine", "1");
        let (_, lines) = seen(head.body(()).unwrap(), &peer).unwrap();
        for name in own.into_iter().chain(["traceparent", "host"]) {
            assert!(lines.iter().any(|line| line.starts_with(&format!("{name}: "))), "{name} {lines:?}");
        }
        assert!(!lines.iter().any(|line| line.starts_with("x-mine")), "{lines:?}");
        assert_eq!(lines.iter().any(|line| line.contains("192.0.2.9")), peer.is_trusted());
    }
}

#[test]
fn other_spellings_are_removed() {
    let aliases = "x_forwarded_for X_Forwarded-Proto x-real_ip x_request_id x_b3_traceid transfer_encoding x.forwarded.for \
        x-lodge-auth.subject x!lodge~auth|scopes";
    for peer in [peer("192.0.2.1:9", &[]), peer("10.1.2.3:9", &["10.0.0.0/8"])] {
        let head = Request::get("/")
            .header("host", "h")
            .header("x_own", "1")
            .header("x.own", "1")
            .header("content_length", "5");
        let head = aliases.split(' ').fold(head, |head, name| head.header(name, "6.6.6.6"));
        let (_, lines) = seen(head.body(()).unwrap(), &peer).unwrap();
        let mut with: Vec<_> =
            lines.iter().filter(|line| line.split(':').next().unwrap().contains(['_', '.', '!'])).collect();
        with.sort_unstable();
        assert_eq!(with, ["x.own: 1", "x_own: 1"]);
    }
}

/// Every header is classified correctly, whatever its first letter is.
#[test]
fn kinds_of_headers() {
    let of = |name: &'static str| kind(&HeaderName::from_static(name));
    for hop in [
        "connection",
        "keep-alive",
        "proxy",
        "proxy-connection",
        "proxy-authenticate",
        "proxy-authorization",
        "te",
        "transfer-encoding",
        "upgrade",
        "http2-settings",
    ] {
        assert!(is_hop_by_hop(hop) && matches!(of(hop), FieldKind::Hop), "{hop}");
        let alias = hop.replace('-', "_");
        let alias = HeaderName::from_bytes(alias.as_bytes()).unwrap();
        assert!(!alias.as_str().contains('_') || matches!(kind(&alias), FieldKind::Alias), "{alias}");
    }
    for forwarding in ["forwarded", "via", "x-real-ip", "x-forwarded-for", "x-forwarded-prefix", "x-forwarded-new"] {
        assert!(matches!(of(forwarding), FieldKind::Forwarding), "{forwarding}");
    }
    let aliases = ["content_length", "x_forwarded_for", "x-forwarded_new", "x_real-ip", "x_request_id", "x_b3_sampled"];
    for alias in aliases.into_iter().chain(["x-request.id", "x-lodge-auth.subject", "x^forwarded`for"]) {
        assert!(matches!(of(alias), FieldKind::Alias), "{alias}");
    }
    for other in
        ["accept", "cookie", "x-own", "x_own", "content-length", "host", "x-request-id", "traceparent", "_", "x-real"]
    {
        assert!(matches!(of(other), FieldKind::Other), "{other}");
    }
}

#[test]
fn forbidden_trailers_are_removed() {
    let names = [
        "x-sum",
        "x-forwarded-for",
        "forwarded",
        "x_forwarded_for",
        "x-request-id",
        "host",
        "content-length",
        "transfer-encoding",
        "te",
        "traceparent",
        "via",
        "grpc-status",
        "content-type",
        "content_encoding",
        "x_api-key",
        "x.api.key",
    ];
    let trailers = names.iter().map(|name| (HeaderName::from_static(name), HeaderValue::from_static("1")));
    let kept = filter_trailers(Frame::trailers(trailers.collect())).into_trailers().unwrap();
    assert_eq!(kept.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["x-sum", "grpc-status"]);
    let data = filter_trailers(Frame::data(Bytes::from_static(b"data"))).into_data().unwrap();
    assert_eq!(data, "data");
}

/// Clients on this machine are recognized by a loopback address, unless a header shows that a proxy is between.
#[test]
fn local_clients() {
    let local = |peer: &Peer, more: Option<(&'static str, &'static str)>| {
        let head =
            more.iter().fold(Request::get("/").header("host", "h"), |head, (name, value)| head.header(*name, *value));
        let (mut head, ()) = head.body(()).unwrap().into_parts();
        normalize(&mut head, peer).unwrap().local
    };
    for own in ["127.0.0.1:9", "127.1.2.3:9", "[::1]:9", "[::ffff:127.0.0.1]:9"] {
        let peer = peer(own, &[]);
        assert!(local(&peer, None) && local(&peer, Some(("x-other", "1"))), "{own}");
        for forwarded in
            [("x-forwarded-for", "127.0.0.1"), ("forwarded", "for=x"), ("via", "1.1 a"), ("x-real-ip", "::1")]
        {
            assert!(!local(&peer, Some(forwarded)), "{own} {forwarded:?}");
        }
    }
    assert!(!local(&peer("192.0.2.1:9", &[]), None) && !local(&peer("[::2]:9", &[]), None));
    assert!(!local(&peer("127.0.0.1:9", &["127.0.0.0/8"]), None), "a trusted proxy is not a local client");
    assert!(!local(&peer("127.0.0.1:9", &[]).relayed(), None), "a proxy elsewhere has a loopback address, too");
    assert!(!local(&Peer::service("me"), None));
}

/// Names of headers: those that the host knows, those that differ from them a little, and any others.
fn any_name() -> impl Strategy<Value = String> {
    let known = prop::sample::select(vec![
        "forwarded",
        "host",
        "x-real-ip",
        "via",
        "te",
        "upgrade",
        "connection",
        "keep-alive",
        "proxy-connection",
        "proxy-authorization",
        "proxy-authenticate",
        "http2-settings",
        "traceparent",
        "tracestate",
        "b3",
        "x-b3-sampled",
        "x-forwarded-for",
        "x-forwarded-proto",
        "x-forwarded-host",
        "x-forwarded-prefix",
        "x-forwarded-client-cert",
        "x-forwarded-port",
        "x-lodge-auth-subject",
        "content-length",
        "accept",
        "cookie",
        "x-own",
    ]);
    let spelt = |name: &str, at: usize| match name.match_indices('-').nth(at) {
        Some((at, _)) => format!("{}{}{}", &name[..at], ["_", ".", "~"][name.len() % 3], &name[at + 1..]),
        None => name.to_owned(),
    };
    prop_oneof![
        4 => (known.clone(), 0..4usize).prop_map(move |(name, at)| spelt(name, at)),
        2 => (known, "[a-z0-9_-]{1,3}").prop_map(|(name, end)| format!("{name}{end}")),
        1 => "[a-z][a-z0-9_.-]{0,12}",
    ]
}

proptest! {
    /// No layer takes for the host's own what the client has sent: the host does with a header what the list says that all of them use.
    #[test]
    fn headers_fare_as_listed(name in any_name()) {
        // Others write these two.
        prop_assume!(!["x-request-id", "lodge-call", "transfer-encoding"].contains(&&*name));
        let fate = HeaderFate::of(&name);
        let arrives = |peer: &Peer| {
            let head = Request::get("/").header("host", "h");
            let head = if name == "host" { head } else { head.header(&name, "sent") };
            let (mut head, ()) = head.body(()).unwrap().into_parts();
            normalize(&mut head, peer).unwrap();
            head.headers.get_all(&name).iter().any(|value| value.to_str().unwrap().split(", ").any(|value| value == "sent"))
        };
        let (stranger, proxy) = (arrives(&peer("192.0.2.1:9", &[])), arrives(&peer("10.1.2.3:9", &["10.0.0.0/8"])));
        match fate {
            HeaderFate::Kept if name == "te" => prop_assert!(!stranger && !proxy),
            HeaderFate::Kept => prop_assert!(stranger && proxy, "{name} is removed"),
            HeaderFate::Removed => prop_assert!(!stranger, "{name} arrives"),
            HeaderFate::Written => {
                prop_assert!(!stranger, "{name} arrives");
                prop_assert!(!proxy || name.starts_with("x-forwarded-") || name == "forwarded", "{name} arrives from a proxy");
            }
        }
    }
}
