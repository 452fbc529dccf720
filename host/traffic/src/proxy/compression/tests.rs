use super::*;
use lodge_base::config;
use lodge_manifest::Manifest;

type Fields<'a> = &'a [(&'static str, &'static str)];

const HTML: (&str, &str) = ("content-type", "text/html");

fn headers(fields: Fields<'_>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        headers.append(*name, HeaderValue::from_static(value));
    }
    headers
}

/// The head of a response to a client, and the coding of its body.
fn response(
    method: &str,
    request: Fields<'_>,
    (status, fields): (u16, Fields<'_>),
    size: Option<u64>,
) -> (HeaderMap, Option<Coding>) {
    let limits = config::resolve(&[]).unwrap().config.limits;
    let rules = Manifest::read("users", "compress = true", &limits, 1 << 30).unwrap().compress.unwrap();
    let request = CompressionRequest::new(&method.parse().unwrap(), &headers(request));
    let (mut head, ()) = http::Response::new(()).into_parts();
    (head.status, head.headers) = (StatusCode::from_u16(status).unwrap(), headers(fields));
    let coding = request.prepare(&rules, &mut head, size).then(|| request.codings(&rules).next()).flatten();
    if let Some(coding) = coding {
        write_head(coding, &mut head.headers);
    }
    (head.headers, coding)
}

fn lines(headers: &HeaderMap, name: &str) -> Vec<String> {
    headers.get_all(name).iter().map(|value| value.to_str().unwrap().to_owned()).collect()
}

#[test]
fn a_compressed_response_says_so() {
    let digests = [("content-md5", "x"), ("digest", "x"), ("content-digest", "x"), ("repr-digest", "x")];
    let mut fields =
        vec![HTML, ("content-length", "5000"), ("etag", "\"a\""), ("accept-ranges", "bytes"), ("vary", "origin")];
    fields.extend(digests);
    fields.extend([("trailer", "Repr-Digest, x-sum"), ("trailer", "grpc-status, digest")]);
    let (head, coding) = response("GET", &[("accept-encoding", "br, gzip")], (200, &fields), None);
    assert_eq!(coding, Some(Coding::Brotli));
    assert_eq!((&head["content-encoding"], &head["etag"]), (&"br".parse().unwrap(), &"W/\"a\"".parse().unwrap()));
    for (name, _) in digests.into_iter().chain([("content-length", ""), ("accept-ranges", "")]) {
        assert!(!head.contains_key(name), "{name}");
    }
    assert_eq!(lines(&head, "vary"), ["origin", "accept-encoding"]);
    assert_eq!(lines(&head, "trailer"), ["x-sum, grpc-status"]);
    // HEAD has the same head, as far as it is known.
    assert_eq!(response("HEAD", &[("accept-encoding", "br, gzip")], (200, &fields), Some(0)).0, head);
    // A client that does not accept it, and caches, know that there is another one.
    for accept in ["deflate", "identity", "*;q=0", "gzip;q=0", "", "gzip;q=0.5, identity"] {
        let (head, coding) = response("GET", &[("accept-encoding", accept)], (200, &fields), None);
        assert!(coding.is_none() && !head.contains_key("content-encoding"), "{accept}");
        assert_eq!((&head["etag"], lines(&head, "vary").len()), (&"\"a\"".parse().unwrap(), 2));
        assert!(head.contains_key("content-length") && head.contains_key("accept-ranges"));
    }
    for known in ["Accept-Encoding, x", "x,ACCEPT-ENCODING", "*"] {
        let (head, _) = response("GET", &[("accept-encoding", "gzip")], (200, &[HTML, ("vary", known)]), None);
        assert_eq!(lines(&head, "vary"), [known]);
    }
    let (head, _) = response("GET", &[("accept-encoding", "gzip")], (200, &[HTML, ("etag", "W/\"a\"")]), None);
    assert_eq!(lines(&head, "etag"), ["W/\"a\""]);
}

/// A client revalidates the response that it has, by the entity tag of that.
#[test]
fn a_304_has_the_tag_that_the_client_knows() {
    let check = |request: Fields<'_>, expected: &str| {
        let (head, coding) = response("GET", request, (304, &[("etag", "\"a\"")]), None);
        assert_eq!((lines(&head, "etag"), coding), (vec![expected.to_owned()], None), "{request:?}");
        assert_eq!(lines(&head, "vary"), ["accept-encoding"], "{request:?}");
        assert!(!head.contains_key("content-encoding"));
    };
    let gzip = ("accept-encoding", "gzip");
    check(&[gzip, ("if-none-match", "W/\"a\"")], "W/\"a\"");
    check(&[gzip, ("if-none-match", "\"b\", W/\"a\"")], "W/\"a\"");
    check(&[gzip, ("if-none-match", "\"a\"")], "\"a\"");
    check(&[gzip, ("if-none-match", "W/\"b\", \"a\"")], "\"a\"");
    check(&[gzip], "\"a\"");
    check(&[("if-none-match", "W/\"a\"")], "\"a\"");
    let (head, _) = response("GET", &[gzip, ("if-none-match", "W/")], (304, &[]), None);
    assert!(!head.contains_key("etag"));
}

#[test]
fn some_responses_stay_as_they_are() {
    let check = |status: u16, fields: Fields<'_>, size: Option<u64>, expected: bool| {
        let (head, coding) = response("GET", &[("accept-encoding", "gzip")], (status, fields), size);
        assert_eq!(coding.is_some(), expected, "{status} {fields:?} {size:?}");
        if !expected {
            assert_eq!(head, headers(fields), "{status} {size:?}");
        }
    };
    check(200, &[HTML], None, true);
    check(200, &[HTML], Some(1_024), true);
    check(404, &[HTML], Some(5_000), true);
    check(500, &[HTML], None, true);
    check(200, &[HTML, ("cache-control", "max-age=5, private")], None, true);
    check(200, &[HTML, ("cache-control", "a=\"no-transform\"")], None, true);
    check(200, &[HTML], Some(1_023), false);
    check(200, &[HTML, ("content-length", "10")], None, false);
    check(200, &[HTML, ("content-length", "1023")], Some(5_000), false);
    check(200, &[HTML], Some(0), false);
    check(200, &[], None, false);
    check(200, &[HTML, ("content-type", "image/png")], None, false);
    for kind in ["image/png", "application/grpc", "application/grpc+proto", "application/zip", "text", "", ";"] {
        check(200, &[("content-type", kind)], None, false);
    }
    for coding in ["br", "gzip", "identity", ""] {
        check(200, &[HTML, ("content-encoding", coding)], None, false);
    }
    for control in [
        "public, No-Transform",
        "no-transform",
        "max-age=1,no-transform=1",
        "no-transform =x",
        "a=\", no-transform",
        "\"",
    ] {
        check(200, &[HTML, ("cache-control", control)], None, false);
    }
    check(200, &[HTML, ("cache-control", "public"), ("cache-control", "no-transform")], None, false);
    check(206, &[HTML, ("content-range", "bytes 0-1/2")], None, false);
    check(206, &[HTML], None, false);
    check(200, &[HTML, ("content-range", "bytes 0-1/2")], None, false);
    check(416, &[HTML, ("content-range", "bytes */5000")], None, false);
    for status in [100, 101, 103, 204, 205] {
        check(status, &[HTML], None, false);
    }
    // The client may forbid it, too.
    let request = [("accept-encoding", "gzip"), ("cache-control", "no-transform")];
    let (head, coding) = response("GET", &request, (200, &[HTML]), None);
    assert_eq!((coding, lines(&head, "vary")), (None, vec!["accept-encoding".to_owned()]));
    // Whether the response to GET is small is not known.
    assert!(response("HEAD", &[("accept-encoding", "gzip")], (200, &[HTML]), Some(0)).1.is_some());
    assert!(
        response("HEAD", &[("accept-encoding", "gzip")], (200, &[HTML, ("content-length", "9")]), Some(0)).1.is_none()
    );
}
