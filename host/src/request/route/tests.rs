use proptest::prelude::*;

use super::*;

fn route(text: &str) -> Route {
    Route::of(Pattern::read(text).unwrap())
}

fn router(owners: &[(&'static str, &[&str])]) -> Router<&'static str> {
    let mut router = Router::default();
    for (name, paths) in owners {
        let mut routes: Vec<_> = paths.iter().map(|path| route(path)).collect();
        routes.push(Route::host(format!("{name}.localhost")));
        router.own(routes.iter(), name).unwrap();
    }
    router
}

fn found<T: Copy>(router: &Router<T>, authority: &str, path: &str) -> Option<T> {
    router.find(authority, path, &Method::GET).ok().map(|found| *found.target)
}

#[test]
fn paths_and_hosts() {
    let router = router(&[
        ("hello", &["/", "/hello"]),
        ("users", &["/users"]),
        ("admin", &["/users/admin"]),
        ("posts", &["/users/{id}/posts"]),
    ]);
    let check = |authority: &str, path: &str, expected: Option<&str>| {
        assert_eq!(found(&router, authority, path), expected, "{authority} {path}");
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
    check("x", "/users/7/posts/1", Some("posts"));
    check("x", "/users/7/post", Some("users"));
    // More segments win over a name.
    check("x", "/users/admin/posts", Some("posts"));
    check("x", "/users//posts", Some("users"));
    check("x", "//users", None);
    check("x", "/%75sers", None);
    check("x", "*", None);
    check("x", "", None);
    check("users.localhost", "/anything", Some("users"));
    check("users.localhost", "/", Some("users"));
    check("USERS.Localhost:8080", "/hello", Some("users"));
    check("nobody.localhost", "/hello", Some("hello"));
    check("[::1]:8080", "/users", Some("users"));
}

#[test]
fn a_host_comes_before_a_path_and_methods_last() {
    let mut router = Router::default();
    let get = Route { methods: vec![Method::GET, Method::POST], ..route("/users") };
    let put = Route { methods: vec![Method::PUT], strip_prefix: true, ..route("/users") };
    let api = Route { host: Some("api.example.com".into()), strip_prefix: true, ..route("/v1/{tenant}") };
    router.own([&get].into_iter(), &"reader").unwrap();
    router.own([&put].into_iter(), &"writer").unwrap();
    router.own([&api].into_iter(), &"api").unwrap();
    let find = |authority: &str, path: &str, method: Method| {
        router.find(authority, path, &method).map(|found| (*found.target, &**found.route, found.prefix))
    };
    assert_eq!(find("x", "/users", Method::HEAD), Ok(("reader", "/users", 0)));
    assert_eq!(find("x", "/users/1", Method::PUT), Ok(("writer", "/users", 6)));
    assert_eq!(find("x", "/users", Method::DELETE), Err(Missed::Method("GET, HEAD, POST, PUT".into())));
    assert_eq!(find("api.example.com:443", "/v1/acme/x", Method::PATCH), Ok(("api", "/v1/{tenant}", 8)));
    assert_eq!(find("example.com", "/v1/acme", Method::GET), Err(Missed::Route));
    // What the host has no route for is looked for at any host.
    assert_eq!(find("api.example.com", "/users", Method::GET), Ok(("reader", "/users", 0)));
    // Methods that overlap are a conflict, and one that says none has all.
    assert_eq!(router.own([&route("/users")].into_iter(), &"z").unwrap_err(), (&route("/users"), "reader"));
    let clash = Route { methods: vec![Method::PUT], ..route("/users") };
    assert_eq!(router.own([&clash].into_iter(), &"z").unwrap_err().1, "writer");
    assert_eq!(api.to_string(), "api.example.com/v1/{tenant}");
    assert_eq!(get.to_string(), "GET|POST /users");
}

#[test]
fn a_route_has_one_owner() {
    let mut router = router(&[("a", &["/x", "/u/{id}"])]);
    let wanted = [route("/y"), route("/x")];
    let taken = router.own(wanted.iter(), &"b").unwrap_err();
    assert_eq!((taken.0.to_string().as_str(), taken.1), ("/x", "a"));
    // All or none: b's other route is still free.
    assert_eq!(found(&router, "", "/y"), None);
    let host = Route::host("a.localhost".into());
    assert_eq!(router.own([&host].into_iter(), &"c").unwrap_err().1, "a");
    // A parameter by another name is the same route.
    assert_eq!(router.own([&route("/u/{name}")].into_iter(), &"c").unwrap_err().1, "a");
}

#[test]
fn patterns() {
    for good in ["/", "/a", "/a/b", "/a-b_c.d~e", "/%20", "/*", "/{id}", "/a/{b}/c"] {
        assert_eq!(route(good).to_string(), good);
    }
    for bad in ["", "a", "/a/", "//", "/a//b", "/a?b", "/a#b", "/a b", "/a/*", "/{}", "/{a", "/a{b}", "/ä"] {
        assert!(Pattern::read(bad).unwrap_err().contains("write it like"), "{bad}");
    }
}

/// Among all patterns that match, the one with the most segments, of those the first by names before parameters: said
/// as slowly and plainly as possible.
fn naive<'a>(patterns: &'a [String], path: &str) -> Option<&'a String> {
    let segments = |text: &str| text.split('/').skip(1).map(str::to_owned).collect::<Vec<_>>();
    let asked = segments(path);
    let matches = |pattern: &&String| match pattern.as_str() {
        "/" => path == "/",
        "/*" => path.starts_with('/'),
        pattern => {
            let own = segments(pattern);
            let same = |(own, asked): (&String, &String)| own == asked || (own.starts_with('{') && !asked.is_empty());
            own.len() <= asked.len() && own.iter().zip(&asked).all(same)
        }
    };
    let rank = |pattern: &&String| match pattern.as_str() {
        // Exactly this path, before everything that is below nothing.
        "/" => (1, vec![]),
        "/*" => (0, vec![]),
        pattern => {
            let own = segments(pattern);
            (own.len(), own.iter().map(|segment| !segment.starts_with('{')).collect())
        }
    };
    patterns.iter().filter(matches).max_by_key(rank)
}

proptest! {
    #[test]
    fn agrees_with_a_naive_matcher(
        patterns in proptest::collection::btree_set("(/([ab]{1,2}|\\{p\\})){1,4}|/|/\\*", 0..12),
        paths in proptest::collection::vec("(/[ab]{0,3}){0,6}", 1..40),
    ) {
        let patterns: Vec<String> = patterns.into_iter().collect();
        let mut router = Router::default();
        for (index, text) in patterns.iter().enumerate() {
            router.own([&route(text)].into_iter(), &index).unwrap();
        }
        for path in &paths {
            let found = found(&router, "", path).map(|index| &patterns[index]);
            prop_assert_eq!(found, naive(&patterns, path), "{}", path);
        }
    }

    #[test]
    fn never_panics(authority in ".*", path in ".*") {
        let _ = router(&[("hello", &["/", "/hello"])]).find(&authority, &path, &Method::GET);
        let _ = Pattern::read(&path);
    }
}
