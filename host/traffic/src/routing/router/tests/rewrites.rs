//! Routes whose service gets another path.

use super::*;

/// Routes and their policies are found by the path of the client. One that the service could read in several ways is refused: the
/// readings are compared with routes, and not with what the service gets.
#[test]
fn a_route_with_another_path_for_its_service() {
    let mut router = Router::default();
    let api = Route { rewrite: Some("/v1".into()), ..route("/api") };
    let all = Route { rewrite: Some("/v2".into()), ..route("/*") };
    router.insert([&api, &all, &route("/v1")].into_iter(), &"x", false).unwrap();
    let find = |path: &str| {
        let found = router.find("x", path, &Method::GET, true)?;
        Ok((&**found.route, found.prefix, found.rewrite.map(|path| &**path)))
    };
    assert_eq!(find("/api/users"), Ok(("/api", 4, Some("/v1"))));
    assert_eq!(find("/%61pi/caf%C3%A9"), Ok(("/api", 6, Some("/v1"))));
    assert_eq!(find("/users"), Ok(("/*", 0, Some("/v2"))));
    assert_eq!(find("/v1/users"), Ok(("/v1", 0, None)));
    for path in
        ["/api//users", "/api/%2Fusers", "/api/..%2Fadmin", "/api/..%5Cadmin", "/api;/users", "/api/x;y", "//api"]
    {
        assert_eq!(find(path), Err(Missed::Ambiguous), "{path}");
    }
}

/// The readings of a path by an independent model: the segments that services see which decode, know parameters or drop what is empty.
fn segments(path: &str) -> Vec<Vec<String>> {
    let mut all = Vec::new();
    for choice in 0..16 {
        let [slash, backslash, cut, empty] = [1, 2, 4, 8].map(|bit| choice & bit != 0);
        let without = |path: &str| {
            let names = path.split('/').map(|name| name.split(';').next().unwrap_or_default());
            names.collect::<Vec<_>>().join("/")
        };
        let mut text = if cut { without(path) } else { path.to_owned() };
        for (separates, encoded) in [(slash, "%2F"), (backslash, "%5C")] {
            if separates {
                text = text.replace(encoded, "/");
            }
        }
        let mut seen: Vec<String> = Vec::new();
        for name in if cut { without(&text) } else { text }.split('/').skip(1) {
            match name {
                "." => {}
                "" if empty => {}
                ".." => drop(seen.pop()),
                name => seen.push(name.to_owned()),
            }
        }
        all.push(seen);
    }
    all
}

/// Whether a path with these segments is one that the service gets by a route.
fn leads(route: &Route, path: &[String]) -> bool {
    let inner = match route.rewrite.as_deref() {
        Some("/") => Pattern::read("/*").unwrap(),
        Some(path) => Pattern::read(path).unwrap(),
        None => route.path.clone(),
    };
    let same = |(segment, name): (&Segment, &String)| match segment {
        Segment::Name(own) => own == name,
        Segment::Parameter(_) => !name.is_empty(),
    };
    let ends = inner.below || path.iter().all(String::is_empty);
    path.len() >= inner.segments.len() && ends && inner.segments.iter().zip(path).all(same)
}

/// Returns a path without the empty segments at its end.
fn without_end(path: &[String]) -> &[String] {
    let end = path.iter().rposition(|name| !name.is_empty()).map_or(0, |last| last + 1);
    &path[..end]
}

/// A path of one or two of these segments.
fn path_of(names: &'static [&'static str]) -> impl Strategy<Value = String> {
    let path =
        prop::collection::vec(prop::sample::select(names), 1..3).prop_map(|names| format!("/{}", names.join("/")));
    prop_oneof![1 => Just("/".to_owned()), 3 => path]
}

const PARTS: &[&str] = &[
    "a",
    "b",
    "c",
    "z",
    "%61",
    "..%2Fa",
    "..%2Fb",
    "..%5Ca",
    "..;",
    "a;x",
    "",
    "a%2Fb",
    "%2E%2E",
    ".",
    "..",
    "..%2F..%2Fa",
    "..%2f..%2fb%2Fc",
    "%2F",
    "a%2F..%2Fb",
    "..b",
    "...",
    "%3Bb",
    "b%5C",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    /// Where the paths of a service are rewritten, a client whom the conditions of a route keep out gets none of its paths by
    /// another route, however the service reads them.
    #[test]
    fn conditions_hold_on_every_way(
        described in prop::collection::vec(
            (path_of(&["a", "b", "c", "{x}", "a%2Fb"]), prop::option::weighted(0.6, path_of(&["a", "b", "c"])), prop::bool::weighted(0.35)),
            2..5,
        ),
        all in prop::option::of((path_of(&["a", "b"]), prop::bool::weighted(0.35))),
        paths in prop::collection::vec(prop::collection::vec(prop::sample::select(PARTS), 1..5), 40),
    ) {
        let all = all.map(|(to, guarded)| ("/*".to_owned(), Some(to), guarded));
        let table = |(path, rewrite, guarded): (String, Option<String>, bool)| {
            let rewrite = rewrite.map_or(String::new(), |path| format!(", rewrite = '{path}'"));
            let allow = if guarded { ", allow = '10.9.9.9'" } else { "" };
            format!("{{ path = '{path}'{rewrite}{allow} }}")
        };
        let tables: Vec<_> = described.into_iter().chain(all).map(table).collect();
        let limits = lodge_base::config::resolve(&[]).unwrap().config.limits;
        let read = lodge_manifest::Manifest::read("users", &format!("routes = [{}]", tables.join(", ")), &limits, 1 << 30);
        // Most texts are refused, as the conditions of their routes differ.
        let Ok(routes) = read.map(|manifest| manifest.routes) else { return Ok(()) };
        if routes.iter().all(|route| route.rewrite.is_none()) {
            return Ok(());
        }
        let mut router = Router::default();
        router.insert(routes.iter(), &"users", false).unwrap();
        for path in paths {
            let Some(path) = canonical::normal(&format!("/{}", path.join("/"))) else { continue };
            let Ok(found) = router.find("x", &path, &Method::GET, true) else { continue };
            let by = &routes[found.number];
            let (mut head, ()) = http::Request::get(&path).body(()).unwrap().into_parts();
            if let Some(rewrite) = found.rewrite {
                crate::proxy::headers::rewrite(&mut head, found.prefix, rewrite).unwrap();
            }
            let plain: Vec<_> = head.uri.path().split('/').skip(1).map(str::to_owned).collect();
            for seen in segments(&canonical::comparable(head.uri.path())) {
                // Without a `rewrite`, the route of a path as it is written is the one that the manifest wants. No route distinguishes
                // a path from the one with a `/` at its end.
                let same = without_end(&seen) == without_end(&plain);
                let wants = |route: &Route| same && route.rewrite.is_none() && by.rewrite.is_none();
                let evaded = routes.iter().find(|route| route.guarded && leads(route, &seen) && !wants(route));
                prop_assert!(by.guarded || evaded.is_none(), "{path} is {seen:?} by {by}, and a path of {evaded:?}: {tables:?}");
            }
        }
    }
}
