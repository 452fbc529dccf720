use super::*;
use http::Request;

fn peer(address: &str, proxies: &[&str]) -> Peer {
    let proxies: Vec<IpNet> = proxies.iter().map(|net| net.parse().unwrap()).collect();
    Peer::new(address.parse().unwrap(), "127.0.0.1:8080".parse().unwrap(), &proxies)
}

/// The head as the guest sees it, one line a header, in the order of names.
fn seen(head: Request<()>, peer: &Peer) -> Result<(String, Vec<String>), String> {
    let (mut head, ()) = head.into_parts();
    arrive(&mut head, peer).map_err(|error| error.to_string())?;
    let mut lines: Vec<_> =
        head.headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
    lines.sort();
    Ok((head.uri.to_string(), lines))
}

#[test]
fn a_stranger_is_not_believed() {
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
fn a_trusted_proxy_is() {
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
fn hop_by_hop_stops_here() {
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

/// A coding that nobody takes off must not get lost on the way.
#[test]
fn bodies_are_chunked_once_or_not_at_all() {
    let arrives = |lines: &[&str]| {
        let head = Request::post("/").header("host", "h");
        let head = lines.iter().fold(head, |head, line| head.header("transfer-encoding", *line));
        let (mut head, ()) = head.body(()).unwrap().into_parts();
        match arrive(&mut head, &peer("127.0.0.1:9", &[])) {
            Ok(()) => true,
            Err(RequestError::BadFraming) => false,
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

/// What is asked for as its client has it: what is kept of an answer is kept under that.
#[test]
fn what_is_asked_for_is_by_a_trusted_proxys_word() {
    let proxy = peer("10.1.2.3:9", &["10.0.0.0/8"]);
    let asked = |said: &[(&'static str, &'static str)], peer: &Peer| {
        let mut head = Request::get("/a?b=c").header("host", "inner:8080");
        for (name, value) in said {
            head = head.header(*name, *value);
        }
        let (mut head, ()) = head.body(()).unwrap().into_parts();
        arrive(&mut head, peer).unwrap();
        outer(&head, peer).to_string()
    };
    let all = [("x-forwarded-host", "Shop.example, mid.example"), ("x-forwarded-proto", "https")];
    assert_eq!(asked(&all, &proxy), "https://Shop.example/a?b=c");
    assert_eq!(asked(&all[..1], &proxy), "http://Shop.example/a?b=c");
    assert_eq!(asked(&all[1..], &proxy), "https://inner:8080/a?b=c");
    let prefixed = [all[0], all[1], ("x-forwarded-prefix", "/shop/")];
    assert_eq!(asked(&prefixed, &proxy), "https://Shop.example/shop/a?b=c");
    assert_eq!(asked(&[("x-forwarded-host", "no host")], &proxy), "http://inner:8080/a?b=c");
    // Nobody else makes others find what is kept for a host that is not his, or keeps something there.
    for stranger in [peer("192.0.2.1:9", &["10.0.0.0/8"]), peer("10.1.2.3:9", &[]), Peer::service("hello")] {
        assert_eq!(asked(&prefixed, &stranger), "http://inner:8080/a?b=c", "{stranger:?}");
        // Not even by what the host itself has written there for the guest.
        let head = Request::get("http://inner/a").header("x-forwarded-host", "h").header("x-forwarded-prefix", "/p");
        let (head, ()) = head.body(()).unwrap().into_parts();
        assert_eq!(outer(&head, &stranger).to_string(), "http://inner/a");
    }
}
