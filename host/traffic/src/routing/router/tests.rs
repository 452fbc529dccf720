mod rewrites;

use proptest::prelude::*;

use super::*;
use lodge_manifest::route::Pattern;

fn route(text: &str) -> Route {
    Route::of(Pattern::read(text).unwrap())
}

fn router(owners: &[(&'static str, &[&str])]) -> Router<&'static str> {
    let mut router = Router::default();
    for (name, paths) in owners {
        let mut routes: Vec<_> = paths.iter().map(|path| route(path)).collect();
        routes.push(Route::host(format!("{name}.localhost")));
        router.insert(routes.iter(), name, false).unwrap();
    }
    router
}

fn found<T: Copy>(router: &Router<T>, authority: &str, path: &str) -> Option<T> {
    router.find(authority, path, &Method::GET, true).ok().map(|found| *found.target)
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
    // Paths arrive here in normal form; escapes that may stand in a segment are decoded.
    check("x", "/users/%40me", Some("users"));
    check("x", "*", None);
    check("x", "", None);
    check("users.localhost", "/anything", Some("users"));
    check("users.localhost", "/", Some("users"));
    check("users.localhost:8080", "/hello", Some("users"));
    check("nobody.localhost", "/hello", Some("hello"));
    check("[::1]:8080", "/users", Some("users"));
}

#[test]
fn a_host_comes_before_a_path_and_methods_last() {
    let mut router = Router::default();
    let get = Route { methods: vec![Method::GET, Method::POST], ..route("/users") };
    let put = Route { methods: vec![Method::PUT], strip_prefix: true, ..route("/users") };
    let api = Route { host: Some("api.example.com".into()), strip_prefix: true, ..route("/v1/{tenant}") };
    router.insert([&get].into_iter(), &"reader", false).unwrap();
    router.insert([&put].into_iter(), &"writer", false).unwrap();
    router.insert([&api].into_iter(), &"api", false).unwrap();
    let find = |authority: &str, path: &str, method: Method| {
        router.find(authority, path, &method, true).map(|found| (*found.target, &**found.route, found.prefix))
    };
    assert_eq!(find("x", "/users", Method::HEAD), Ok(("reader", "/users", 0)));
    assert_eq!(find("x", "/users/1", Method::PUT), Ok(("writer", "/users", 6)));
    assert_eq!(find("x", "/users", Method::DELETE), Err(Missed::Method("GET, HEAD, POST, PUT".into())));
    assert_eq!(find("api.example.com:443", "/v1/acme/x", Method::PATCH), Ok(("api", "/v1/{tenant}", 8)));
    assert_eq!(find("example.com", "/v1/acme", Method::GET), Err(Missed::Route));
    // A path for which the host has no route is looked up among the routes for any host.
    assert_eq!(find("api.example.com", "/users", Method::GET), Ok(("reader", "/users", 0)));
    // Overlapping methods are a conflict, and a route without methods has all of them.
    assert_eq!(router.insert([&route("/users")].into_iter(), &"z", false).unwrap_err(), (&route("/users"), "reader"));
    let clash = Route { methods: vec![Method::PUT], ..route("/users") };
    assert_eq!(router.insert([&clash].into_iter(), &"z", false).unwrap_err().1, "writer");
    assert_eq!(api.to_string(), "api.example.com/v1/{tenant}");
    assert_eq!(get.to_string(), "GET|POST /users");
}

#[test]
fn a_route_has_one_owner() {
    let mut router = router(&[("a", &["/x", "/u/{id}"])]);
    let wanted = [route("/y"), route("/x")];
    let taken = router.insert(wanted.iter(), &"b", false).unwrap_err();
    assert_eq!((taken.0.to_string().as_str(), taken.1), ("/x", "a"));
    // All routes or none: the other route of `b` is still free.
    assert_eq!(found(&router, "", "/y"), None);
    let host = Route::host("a.localhost".into());
    assert_eq!(router.insert([&host].into_iter(), &"c", false).unwrap_err().1, "a");
    // A parameter with another name makes the same route.
    assert_eq!(router.insert([&route("/u/{name}")].into_iter(), &"c", false).unwrap_err().1, "a");
}

#[test]
fn patterns() {
    for good in ["/", "/a", "/a/b", "/a-b_c.d~e", "/%20", "/*", "/{id}", "/a/{b}/c"] {
        assert_eq!(route(good).to_string(), good);
    }
    for (written, same) in
        [("/%61", "/a"), ("/a%40b", "/a@b"), ("/a%2fb", "/a%2Fb"), ("/a|b", "/a%7Cb"), ("/50%", "/50%25")]
    {
        assert_eq!(route(written).to_string(), same);
    }
    for bad in [
        "/.",
        "/a/..",
        "/a/%2e%2e/b",
        "/a%00b",
        "",
        "a",
        "/a/",
        "//",
        "/a//b",
        "/a?b",
        "/a#b",
        "/a b",
        "/a/*",
        "/{}",
        "/{a",
        "/a{b}",
        "/ä",
    ] {
        assert!(Pattern::read(bad).unwrap_err().contains("write it like"), "{bad}");
    }
}

/// The reference: of all patterns that match, the one with the most segments, then the one with names before
/// parameters. Slow and simple.
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
        // Only this path; the wildcard matches everything, with no segments.
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
            router.insert([&route(text)].into_iter(), &index, false).unwrap();
        }
        for path in &paths {
            let found = found(&router, "", path).map(|index| &patterns[index]);
            prop_assert_eq!(found, naive(&patterns, path), "{}", path);
        }
    }

    #[test]
    fn never_panics(authority in ".*", path in ".*") {
        let _ = router(&[("hello", &["/", "/hello"])]).find(&authority, &path, &Method::GET, true);
        let _ = Pattern::read(&path);
    }
}

/// Returns a router for the service `api` with these routes; the flag says whether a route has policies.
fn guarded(routes: &[(&str, bool)]) -> Router<&'static str> {
    let mut router = Router::default();
    let routes: Vec<_> = routes.iter().map(|(path, guarded)| Route { guarded: *guarded, ..route(path) }).collect();
    router.insert(routes.iter(), &"api", false).unwrap();
    router
}

#[test]
fn other_spellings_keep_the_policies() {
    let router = guarded(&[("/api", false), ("/api/admin", true), ("/api/{id}/posts", false), ("/api/@me", true)]);
    let number = |path: &str| {
        let normal = canonical::normal(path).unwrap();
        router.find("x", &normal, &Method::GET, true).map(|found| found.number)
    };
    for (path, expected) in [
        ("/api/admin", Ok(1)),
        ("/api/%61dmin/x", Ok(1)),
        ("/api/x/../admin", Ok(1)),
        ("/api/x/%2e%2E/admin", Ok(1)),
        ("/api/%40me", Ok(3)),
        ("/api//admin", Err(Missed::Ambiguous)),
        ("/api///admin/x", Err(Missed::Ambiguous)),
        ("/api/%2Fadmin", Err(Missed::Ambiguous)),
        ("/api%2fadmin", Err(Missed::Route)),
        ("/api/\\admin", Err(Missed::Ambiguous)),
        ("/api/%5cadmin", Err(Missed::Ambiguous)),
        ("/api/admin;v=1", Err(Missed::Ambiguous)),
        ("/api/admin%3Bv=1", Err(Missed::Ambiguous)),
        ("/api/;/admin", Err(Missed::Ambiguous)),
        ("/api/x/..;/admin", Err(Missed::Ambiguous)),
        ("/api/x%2F..%2Fadmin", Err(Missed::Ambiguous)),
        ("/api/x/..%2F%40me", Err(Missed::Ambiguous)),
        // Another segment is another path, also if only the case of letters differs.
        ("/api/Admin", Ok(0)),
        ("/api/administrators", Ok(0)),
        ("/api/%2561dmin", Ok(0)),
        // The path is served where its other readings have the same rules.
        ("/api//users", Ok(0)),
        ("/api/a%2Fb/posts", Ok(2)),
        ("/api/7;v=1/posts", Ok(2)),
        // A reading leads out of the service's routes.
        ("/api/..%2Fother", Err(Missed::Ambiguous)),
        ("/api/..;/other", Err(Missed::Ambiguous)),
        // Only some separators separate, empty segments count, or parameters are cut off first.
        ("/api//..%2Fadmin", Err(Missed::Ambiguous)),
        ("/api/x%2F%2F..%2F..%2Fadmin", Err(Missed::Ambiguous)),
        ("/api/admin;x%2Fy", Err(Missed::Ambiguous)),
        ("/api/admin;x%5Cy", Err(Missed::Ambiguous)),
        ("/api/http%3A%2F%2Fh%2Fa%2F..%2Fb", Ok(0)),
    ] {
        assert_eq!(number(path), expected, "{path}");
    }
}

#[test]
fn methods_are_restrictions_too() {
    let mut router = Router::default();
    let read_only = Route { methods: vec![Method::GET], ..route("/api/admin") };
    router.insert([&route("/api"), &read_only].into_iter(), &"api", false).unwrap();
    let find = |path: &str, method: Method| router.find("x", path, &method, true).map(|found| found.number);
    assert_eq!(find("/api//admin", Method::GET), Err(Missed::Ambiguous));
    assert_eq!(find("/api//admin", Method::POST), Err(Missed::Ambiguous));
    assert_eq!(find("/api//other", Method::POST), Ok(0));
    // A route for HEAD is not bypassed through one for GET, whichever comes first.
    let get = Route { methods: vec![Method::GET], ..route("/x") };
    let head = Route { methods: vec![Method::HEAD], ..route("/x") };
    for routes in [[&get, &head], [&head, &get]] {
        let mut router = Router::default();
        router.insert(routes.into_iter(), &"x", false).unwrap();
        let number = |method: Method| router.find("x", "/x", &method, true).unwrap().number;
        assert_eq!((routes[number(Method::GET)], routes[number(Method::HEAD)]), (&get, &head));
    }
}

/// Two services may have the same replicas.
#[test]
fn no_other_service_replaces_a_guarded_one() {
    let mut router = Router::default();
    router.insert([&route("/api")].into_iter(), &"api", false).unwrap();
    router.insert([&route("/api/open")].into_iter(), &"open", false).unwrap();
    router.insert([&route("/api/admin")].into_iter(), &"admin", true).unwrap();
    let find = |path: &str| router.find("x", path, &Method::GET, true).map(|found| *found.target);
    assert_eq!(find("/api//open"), Ok("api"));
    assert_eq!(find("/api//admin"), Err(Missed::Ambiguous));
    assert_eq!(find("/api/admin//x"), Ok("admin"));
}

#[test]
fn hosts_by_name_are_for_local_clients() {
    let router = router(&[("users", &["/users"]), ("hello", &["/hello"])]);
    let find =
        |path: &str, names: bool| router.find("users.localhost", path, &Method::GET, names).map(|found| *found.target);
    assert_eq!((find("/any", true), find("/any", false)), (Ok("users"), Err(Missed::Route)));
    assert_eq!((find("/hello", true), find("/hello", false)), (Ok("users"), Ok("hello")), "like any other host");
    let mut router = Router::default();
    let own = Route { host: Some("users.localhost".into()), ..route("/v1") };
    router.insert([&own, &Route::host("users.localhost".into())].into_iter(), &"users", false).unwrap();
    let find = |path: &str| router.find("users.localhost", path, &Method::GET, false).is_ok();
    assert!(find("/v1/x") && !find("/v2"), "routes of the manifest need no host by name");
}

#[test]
fn a_prefix_is_cut_where_it_ends() {
    let mut router = Router::default();
    let strip = Route { strip_prefix: true, ..route("/v1/{tenant}") };
    router.insert([&strip].into_iter(), &"v1", false).unwrap();
    let prefix = |path: &str| router.find("x", path, &Method::GET, true).unwrap().prefix;
    for path in ["/v1/acme", "/v1/%40acme%2Fb", "/v1/a\"b"] {
        assert_eq!((prefix(path), prefix(&format!("{path}/x"))), (path.len(), path.len()), "{path}");
    }
}

/// Returns another spelling of these segments that a service may read as the same path.
fn spelt(segments: &[String], choices: &mut impl Iterator<Item = usize>) -> String {
    let first = ["/", "//", "/./", "/zz/../", "/%2F", "/\\", "/zz%2f..%2F", "/zz/..;q/", "/;/"];
    let between = ["/", "//", "/./", "/zz/../", "%2F", "%5c", "\\", "/zz%2f..%5C", "/zz/..;q/", ";q/", "/%2e/"];
    let mut path = String::new();
    let mut pick = |from: &[&str]| from[choices.next().unwrap_or_default() % from.len()].to_owned();
    for (n, segment) in segments.iter().enumerate() {
        path += &if n == 0 { pick(&first) } else { pick(&between) };
        for letter in segment.chars() {
            let encoded = format!("%{:02x}", u32::from(letter));
            path += &pick(&[&letter.to_string(), &encoded, &letter.to_string()]);
        }
    }
    path + &pick(&["", "", "/", ";q", "/."])
}

/// Returns the path as a service reads it that treats these as separators, drops empty segments or keeps them, and cuts
/// parameters off: 0 never, 1 before it separates segments, 2 after.
fn seen_by(path: &str, slash: bool, backslash: bool, empty: bool, cut: u8) -> String {
    let cut_off =
        |path: &str| path.split('/').map(|segment| segment.split(';').next().unwrap()).collect::<Vec<_>>().join("/");
    let mut path = path.replace('\\', "%5C");
    if cut == 1 {
        path = cut_off(&path);
    }
    path = if slash { path.replace("%2F", "/") } else { path };
    path = if backslash { path.replace("%5C", "/") } else { path };
    if cut == 2 {
        path = cut_off(&path);
    }
    let mut segments = Vec::new();
    for segment in path[1..].split('/').filter(|segment| empty || !segment.is_empty()) {
        match segment {
            "." => {}
            ".." => drop(segments.pop()),
            segment => segments.push(segment),
        }
    }
    format!("/{}", segments.join("/"))
}

proptest! {
    /// No reading of a path leads to a stricter route than the one that serves it.
    #[test]
    fn no_interpretation_bypasses_a_policy(
        patterns in proptest::collection::btree_map("(/([ab]|\\{p\\})){1,3}|/\\*", any::<bool>(), 1..6),
        path in proptest::collection::vec("a|b|/|//|%2F|%5C|\\\\|;|\\.\\.|/a|/b", 1..9),
        (slash, backslash, empty, cut) in (any::<bool>(), any::<bool>(), any::<bool>(), 0..3u8),
    ) {
        let routes: Vec<_> = patterns.iter().map(|(text, guarded)| Route { guarded: *guarded, ..route(text) }).collect();
        let mut router = Router::default();
        router.insert(routes.iter(), &"x", false).unwrap();
        let normal = canonical::normal(&format!("/{}", path.concat())).unwrap();
        if let Ok(found) = router.find("x", &normal, &Method::GET, true) {
            let seen = seen_by(&normal, slash, backslash, empty, cut);
            // Only the names count: what is left of `;` or `%2F` belongs to a segment.
            if let Ok((read, _)) = router.lookup("x", &seen, &Method::GET, true) {
                prop_assert!(read.number == found.number || !routes[read.number].guarded, "{} is {}", normal, seen);
            }
        }
    }

    /// No spelling of a path reaches a route that is less strict than the route of the path itself.
    #[test]
    fn no_spelling_bypasses_a_policy(
        patterns in proptest::collection::btree_map("(/([ab@]|\\{p\\})){1,3}|/|/\\*", (0..3usize, 0..3u8), 1..10),
        under_policies in proptest::array::uniform3(any::<bool>()),
        segments in proptest::collection::vec("[ab@]", 1..4),
        choices in proptest::collection::vec(0..1_000usize, 32),
    ) {
        let mut router = Router::default();
        let mut kinds: [Vec<u8>; 3] = Default::default();
        for (service, kinds) in kinds.iter_mut().enumerate() {
            let mut routes = Vec::new();
            for (text, (_, kind)) in patterns.iter().filter(|(_, (owner, _))| *owner == service) {
                let methods = if *kind == 2 { vec![Method::POST] } else { Vec::new() };
                routes.push(Route { guarded: *kind == 1, methods, ..route(text) });
                kinds.push(*kind);
            }
            router.insert(routes.iter(), &service, under_policies[service]).unwrap();
        }
        let base = format!("/{}", segments.join("/"));
        let spelt = spelt(&segments, &mut choices.into_iter());
        let normal = canonical::normal(&spelt).unwrap();
        let (base, found) = (router.find("x", &base, &Method::GET, true), router.find("x", &normal, &Method::GET, true));
        if let Ok(found) = found {
            let (service, number) = (*found.target, found.number);
            match base {
                Ok(base) if *base.target == service => {
                    prop_assert!(base.number == number || kinds[service][base.number] == 0, "{}", spelt);
                }
                Ok(base) => {
                    let (service, number) = (*base.target, base.number);
                    prop_assert!(kinds[service][number] == 0 && !under_policies[service], "{}", spelt);
                }
                Err(missed) => prop_assert_eq!(missed, Missed::Route, "{}", spelt),
            }
        }
    }
}
