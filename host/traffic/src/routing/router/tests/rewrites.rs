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
