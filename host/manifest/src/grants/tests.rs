use proptest::prelude::*;

use super::*;

fn origin(text: &str) -> Origin {
    Origin::read(text).unwrap_or_else(|problem| panic!("{problem}"))
}

/// Whether these entries allow a request to this URL.
fn asks(entries: &[&str], url: &str) -> bool {
    let uri: http::Uri = url.parse().unwrap();
    let grants = Grants { http: entries.iter().map(|text| origin(text)).collect(), ..Grants::default() };
    let usual = if uri.scheme_str() == Some("https") { 443 } else { 80 };
    grants.asks(uri.scheme().unwrap(), uri.host().unwrap(), uri.port_u16().unwrap_or(usual))
}

#[test]
fn an_entry_is_an_origin() {
    let api = ["https://api.example.com"];
    assert!(asks(&api, "https://api.example.com/a?b"));
    assert!(asks(&api, "https://API.Example.COM:443/"));
    assert!(asks(&api, "https://api.example.com./"), "the name is the same with the root's dot");
    for other in [
        "http://api.example.com/",
        "https://api.example.com:8443/",
        "https://example.com/",
        "https://x.api.example.com/",
        "https://api.example.com.evil.org/",
        "https://evil-api.example.com/",
    ] {
        assert!(!asks(&api, other), "{other}");
    }
    assert!(asks(&["http://api.example.com:8080"], "http://api.example.com:8080/"));
    assert!(!asks(&["http://api.example.com:8080"], "http://api.example.com/"));
    assert!(asks(&["http://api.example.com:*"], "http://api.example.com:9/"));
    assert!(!asks(&[], "https://api.example.com/"));
}

#[test]
fn a_wildcard_is_whole_labels() {
    let below = ["https://*.example.org"];
    assert!(asks(&below, "https://a.example.org/") && asks(&below, "https://a.b.EXAMPLE.org/"));
    for other in
        ["https://example.org/", "https://aexample.org/", "https://a.example.org.evil.com/", "https://.example.org/"]
    {
        if let Ok(uri) = other.parse::<http::Uri>() {
            assert!(!asks(&below, &uri.to_string()), "{other}");
        }
    }
    assert!(asks(&["https://*"], "https://anything.test/") && !asks(&["https://*"], "http://anything.test/"));
}

#[test]
fn addresses_are_allowed_by_address_only() {
    let grants = |text: &str| Grants { http: vec![origin(text)], ..Grants::default() };
    let reaches = |text: &str, address: &str, port| grants(text).reaches(&Scheme::HTTP, address.parse().unwrap(), port);
    assert!(
        reaches("http://10.0.0.7:8080", "10.0.0.7", 8080) && reaches("http://10.0.0.7:8080", "::ffff:10.0.0.7", 8080)
    );
    assert!(!reaches("http://10.0.0.7:8080", "10.0.0.7", 80) && !reaches("http://10.0.0.7:8080", "10.0.0.8", 8080));
    assert!(reaches("http://10.0.0.0/8", "10.200.3.4", 80) && !reaches("http://10.0.0.0/8", "11.0.0.1", 80));
    assert!(reaches("http://10.0.0.0:*/8", "10.200.3.4", 9000));
    assert!(reaches("http://[fd00::]:81/8", "fd12::1", 81) && !reaches("http://[fd00::]:81/8", "fe80::1", 81));
    // Neither a name nor a wildcard grants access to addresses that are not public.
    assert!(!reaches("http://db.test", "10.0.0.7", 80) && !reaches("http://*", "10.0.0.7", 80));
    assert!(asks(&["http://[::1]:81"], "http://[::1]:81/") && asks(&["http://10.0.0.0/8"], "http://10.9.9.9/"));
}

#[test]
fn names_of_services() {
    let limits = lodge_base::config::resolve(&[]).unwrap().config.limits;
    let read = |text: &str| crate::Manifest::read("x", text, &limits, 1 << 30);
    let grants = |text: &str| read(text).unwrap().grants;
    assert!(
        grants("calls = ['users', 'my_orders']").calls("USERS") && grants("calls = ['my_orders']").calls("my-orders")
    );
    assert!(!grants("calls = ['users']").calls("user") && !grants("calls = []").calls("users"));
    assert!(grants("calls = '*'").calls("anything") && grants("calls = ['*']").calls("anything"));
    assert!(grants("calls = []").is_empty() && !grants("calls = '*'").is_empty());
    let problem = |text: &str| read(text).unwrap_err().join("\n");
    // No service has such a name.
    for name in ["a".repeat(64), "-a".to_owned(), "_a".to_owned()] {
        assert!(problem(&format!("calls = ['{name}']")).contains("cannot be the name of a service"), "{name}");
    }
    assert!(problem("calls = ['a.b']").contains("line 1: calls: `a.b` cannot be the name of a service"));
    assert!(problem("calls = [1]").contains("line 1: calls: write it like [\"users\"], or \"*\""));
    assert_eq!(grants("http = 'https://a.test'"), grants("http = ['https://a.test']"), "one stands for a list");
}

#[test]
fn problems_say_how_it_is_written() {
    let check = |text: &str, expected: &str| {
        let problem = Origin::read(text).unwrap_err();
        assert!(problem.contains(expected) && problem.contains("write it like"), "{problem}");
    };
    check("api.example.com", "it has no scheme");
    check("htps://api.example.com", "did you mean `https`?");
    check("https://api.example.com/v1", "it has a path and is not a network");
    check("https://api.*.com", "neither a name nor an address");
    check("https://user@host", "neither a name nor an address");
    check("https://api.example.com:x", "the port is not a number from 0 to 65535");
    check("https://", "neither a name");
    check("*", "it has no scheme");
}

proptest! {
    /// Formatting an entry and parsing it again gives the same entry.
    #[test]
    fn shown_as_it_is_read(text in "https?://(\\*\\.)?[a-z]{1,5}(\\.[a-z]{1,5}){0,2}(:[1-9][0-9]{0,3}|:\\*)?|http://(10\\.0\\.0\\.[0-9]|\\[fd00::[0-9a-f]\\])(:[1-9][0-9]{0,3})?|http://(10\\.0\\.0\\.0|\\[fd00::\\])(:[1-9][0-9]{0,3})?/(8|16|32)") {
        let read = origin(&text);
        prop_assert_eq!(&origin(&read.to_string()), &read, "{}", text);
    }

    #[test]
    fn any_text(text in "\\PC{0,60}|https?://[\\[\\]:/.*a-z0-9]{0,20}") {
        let _ = Origin::read(&text);
    }

    /// A wildcard allows only names below its domain.
    #[test]
    fn below_is_below(host in "[a-z.]{1,20}") {
        let labels = host.split('.').all(|label| !label.is_empty());
        let below = origin("https://*.b.a").names(&host);
        prop_assert!(!below || host.ends_with(".b.a"));
        prop_assert!(!(labels && host.ends_with(".b.a")) || below);
    }
}
