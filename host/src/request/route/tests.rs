use proptest::prelude::*;

use super::*;

fn pattern(text: &str) -> Pattern {
    Pattern::read(text).unwrap()
}

fn router(owners: &[(&'static str, &[&str])]) -> Router<&'static str> {
    let mut router = Router::default();
    for (name, paths) in owners {
        let paths: Vec<_> = paths.iter().map(|path| pattern(path)).collect();
        router.own(&format!("{name}.localhost"), &paths, name).unwrap();
    }
    router
}

#[test]
fn paths_and_hosts() {
    let router = router(&[("hello", &["/", "/hello"]), ("users", &["/users"]), ("admin", &["/users/admin"])]);
    let check = |authority: &str, path: &str, expected: Option<&str>| {
        assert_eq!(router.find(authority, path).copied(), expected, "{authority} {path}");
    };
    check("x", "/", Some("hello"));
    check("x", "/hello", Some("hello"));
    check("x", "/hello/", Some("hello"));
    check("x", "/hello/a/b", Some("hello"));
    check("x", "/hellos", None);
    check("x", "/users/1", Some("users"));
    check("x", "/users/admin", Some("admin"));
    check("x", "/users/admin/1", Some("admin"));
    check("x", "/users/administrator", Some("users"));
    check("x", "//users", None);
    check("x", "/%75sers", None);
    check("x", "*", None);
    check("x", "", None);
    check("users.localhost", "/anything", Some("users"));
    check("USERS.Localhost:8080", "/hello", Some("users"));
    check("nobody.localhost", "/hello", Some("hello"));
    check("[::1]:8080", "/users", Some("users"));
}

#[test]
fn a_route_has_one_owner() {
    let mut router = router(&[("a", &["/x"])]);
    let taken = router.own("b.localhost", &[pattern("/y"), pattern("/x")], &"b").unwrap_err();
    assert_eq!(taken, ("/x".to_owned(), "a"));
    // All or none: b's host and its other route are still free.
    assert_eq!(router.find("b.localhost", "/y"), None);
    assert_eq!(router.own("a.localhost", &[], &"c").unwrap_err().1, "a");
}

#[test]
fn patterns() {
    for good in ["/", "/a", "/a/b", "/a-b_c.d~e", "/%20"] {
        assert_eq!(pattern(good).to_string(), good);
    }
    for bad in ["", "a", "/a/", "//", "/a//b", "/a?b", "/a#b", "/a b", "/*", "/{id}", "/ä"] {
        assert!(Pattern::read(bad).unwrap_err().contains("write it like"), "{bad}");
    }
}

/// Among all patterns that match, the longest: said as slowly and plainly as possible.
fn naive<'a>(patterns: &'a [String], path: &str) -> Option<&'a String> {
    let matches = |pattern: &&String| match pattern.as_str() {
        "/" => path == "/",
        pattern => path == pattern || path.starts_with(&format!("{pattern}/")),
    };
    patterns.iter().filter(matches).max_by_key(|pattern| pattern.len())
}

proptest! {
    #[test]
    fn agrees_with_a_naive_matcher(
        patterns in proptest::collection::btree_set("(/[ab]{1,2}){1,4}|/", 0..12),
        paths in proptest::collection::vec("(/[ab]{0,3}){0,6}", 1..40),
    ) {
        let patterns: Vec<String> = patterns.into_iter().collect();
        let mut router = Router::default();
        for (index, text) in patterns.iter().enumerate() {
            router.own(&format!("h{index}"), &[pattern(text)], &index).unwrap();
        }
        for path in &paths {
            let found = router.find("", path).map(|index| &patterns[*index]);
            prop_assert_eq!(found, naive(&patterns, path), "{}", path);
        }
    }

    #[test]
    fn never_panics(authority in ".*", path in ".*") {
        let _ = router(&[("hello", &["/", "/hello"])]).find(&authority, &path);
        let _ = Pattern::read(&path);
    }
}
