use proptest::prelude::*;

use super::*;

#[test]
fn authorities() {
    let http = |given: &str| authority(given.as_bytes(), &Scheme::HTTP).map(|authority| authority.to_string());
    for (given, expected) in [
        ("api.example.com", "api.example.com"),
        ("API.Example.com:8080", "api.example.com:8080"),
        ("api.example.com.", "api.example.com"),
        ("api.example.com.:80", "api.example.com"),
        ("h:", "h"),
        ("h:080", "h"),
        ("h:0443", "h:443"),
        ("h:65535", "h:65535"),
        ("my_service.localhost", "my_service.localhost"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("[::1]", "[::1]"),
        ("[0:0:0:0:0:0:0:1]:80", "[::1]"),
        ("[2001:DB8::0]:81", "[2001:db8::]:81"),
        ("[::ffff:10.0.0.7]:81", "10.0.0.7:81"),
    ] {
        assert_eq!(http(given).as_deref(), Some(expected), "{given}");
    }
    for wrong in [
        "",
        ".",
        ":80",
        "h..",
        "a..b",
        ".h",
        "p:abc",
        "p:80:80",
        "p:65536",
        "p:+1",
        "p:-1",
        "p: 1",
        "::1",
        "[::1",
        "[::1]x",
        "[::1]:x",
        "[::1%25eth0]",
        "[v1.x]",
        "[1.2.3.4]",
        "me@h",
        "%61.example",
        "a b",
        "a/b",
        "a\\b",
        "b\u{fc}cher.example",
    ] {
        assert_eq!(http(wrong), None, "{wrong}");
    }
    assert_eq!(http(&"a".repeat(HOST)).map(|host| host.len()), Some(HOST));
    assert_eq!(http(&"a".repeat(HOST + 1)), None);
    assert_eq!(authority(b"h\xff", &Scheme::HTTP), None);
    let https = |given: &str| authority(given.as_bytes(), &Scheme::HTTPS).unwrap().to_string();
    assert_eq!((https("h:443").as_str(), https("h:80").as_str()), ("h", "h:80"));
}

#[test]
fn hosts_of_authorities() {
    for (authority, expected) in [("a.b:80", "a.b"), ("a.b", "a.b"), ("[::1]:80", "[::1]"), ("[::1]", "[::1]")] {
        assert_eq!(host(authority), expected);
    }
}

#[test]
fn normal_paths() {
    for (path, expected) in [
        ("/", "/"),
        ("/a/b", "/a/b"),
        ("/%61/%7E%2d", "/a/~-"),
        ("/a%2fb", "/a%2Fb"),
        ("/%c3%a4", "/%C3%A4"),
        ("/a/./b/../c", "/a/c"),
        ("/a/%2e/%2E%2e/c", "/c"),
        ("/a/..", "/"),
        ("/a/b/..", "/a/"),
        ("/a/.", "/a/"),
        ("/../..", "/"),
        ("/a//../b", "/a/b"),
        ("//a", "//a"),
        ("/.//a", "//a"),
        ("/...", "/..."),
        ("/a;b/@c:d", "/a;b/@c:d"),
        ("/100%", "/100%25"),
        ("/%zz", "/%25zz"),
        ("/%%36%31", "/%2561"),
        ("/%6", "/%256"),
        ("/%2%31", "/%2521"),
        ("/a\\b", "/a\\b"),
        ("/\u{e4}", "/\u{e4}"),
    ] {
        assert_eq!(normal(path).as_deref(), Some(expected), "{path}");
    }
    assert_eq!(normal("/a%00"), None);
}

#[test]
fn comparable_paths() {
    for (path, expected) in [
        ("/a%40b", "/a@b"),
        ("/a@b", "/a@b"),
        ("/%3B%3D", "/;="),
        ("/a%2Fb", "/a%2Fb"),
        ("/\u{e4}", "/%C3%A4"),
        ("/a\\b\"{}|^", "/a%5Cb%22%7B%7D%7C%5E"),
        ("/%20", "/%20"),
    ] {
        assert_eq!(comparable(path), expected, "{path}");
    }
}

#[test]
fn interpretations_of_a_path() {
    let check = |path: &str, expected: &[(&str, bool)]| {
        let mut read: Vec<_> = readings(path).map(|Reading { path, climbs, .. }| (path, climbs)).collect();
        read.sort();
        read.dedup();
        let mut expected: Vec<_> = expected.iter().map(|(path, climbs)| ((*path).to_owned(), *climbs)).collect();
        expected.sort();
        assert_eq!(read, expected, "{path}");
    };
    check("/a/b", &[("/a/b", false)]);
    check("//a/b", &[("//a/b", false), ("/a/b", false)]);
    check("/a%2Fb%5Cc", &[("/a%2Fb%5Cc", false), ("/a%2Fb/c", false), ("/a/b%5Cc", false), ("/a/b/c", false)]);
    check("/a%2F..%2Fb", &[("/a%2F..%2Fb", false), ("/b", true)]);
    check("/a//..%2Fb", &[("/a//..%2Fb", false), ("/a/..%2Fb", false), ("/a/b", true), ("/b", true)]);
    check("/a/b;c=d/e", &[("/a/b/e", false), ("/a/b;c=d/e", false)]);
    check("/a/..;/b", &[("/a/..;/b", false), ("/b", true)]);
    check("/;/", &[("/", false), ("//", false), ("/;", false)]);
    check("/%252F", &[("/%252F", false)]);
    check("/a;b%2Fc", &[("/a", false), ("/a/c", false), ("/a;b%2Fc", false), ("/a;b/c", false)]);
    assert!(readings("/a;b%2Fc%5Cd;e//f").count() <= 24);
}

#[test]
fn segments_of_both_forms() {
    assert_eq!(same_segments("/v1/%40acme/x", "/v1/@acme/x", "/v1/@acme".len()), "/v1/%40acme".len());
    assert_eq!(same_segments("/v1/%40acme", "/v1/@acme", "/v1/@acme".len()), "/v1/%40acme".len());
    assert_eq!(same_segments("/%40", "/@", 0), 0);
}

proptest! {
    /// Normalization is idempotent, and leaves a plain path as it is.
    #[test]
    fn forms_are_stable(path in "/[a-c./%2F5E61\\\\;@\u{e4}|]{0,24}") {
        if let Some(normal) = normal(&path) {
            prop_assert_eq!(super::normal(&normal), Some(normal.clone()));
            let comparable = comparable(&normal);
            prop_assert_eq!(super::comparable(&comparable), comparable.clone());
            prop_assert_eq!(normal.matches('/').count(), comparable.matches('/').count());
            if is_plain(&path) {
                prop_assert_eq!(&normal, &path);
                prop_assert_eq!(&comparable, &path);
                let read: Vec<_> = readings(&comparable).collect();
                let trimmed = if path == "/" { &path } else { path.trim_end_matches('/') };
                let separators = Separators::default();
                prop_assert_eq!(read, [Reading { path: trimmed.to_owned(), climbs: false, separators }]);
            }
        }
    }

    #[test]
    fn never_panics(given in ".*") {
        let _ = (authority(given.as_bytes(), &Scheme::HTTP), normal(&given), is_plain(&given), host(&given));
        readings(&comparable(&given)).for_each(drop);
        let _ = same_segments(&given, &given, given.len());
    }
}
