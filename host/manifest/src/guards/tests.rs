use super::*;
use lodge_base::config;

fn read(text: &str) -> Manifest {
    let limits = config::resolve(&[]).unwrap().config.limits;
    Manifest::read("a", text, &limits, 1 << 30).unwrap_or_else(|problems| panic!("{text}: {problems:?}"))
}

/// Every part of what denies, each on a line that may not have been written yet.
const PARTS: [&str; 24] = [
    "enabled = false",
    "digest = 'sha256:0000000000000000000000000000000000000000000000000000000000000000'",
    "middleware = ['a.wasm']",
    "[[redirects]]\nfrom = '/a'\nto = '/b'\n[[redirects]]\nfrom = '/a/c'\nto = '/d'",
    "routes = []",
    "routes = [{ path = '/a', methods = ['POST'] }]",
    "routes = [{ path = '/a', host = 'a.example' }]",
    "[[routes]]\npath = '/*'\nrewrite = '/public'",
    "[[routes]]\npath = '/a/b'\nstrip_prefix = true",
    "headers.request.remove = ['x-role']",
    "[headers.request]\nset = { x-role = 'guest' }",
    "headers.request.remove = ['x-a']\nheaders.request.set.x-b = '1'\nheaders.request.set.x-c = '2'",
    "[[routes]]\npath = '/a'\n[routes.headers.request]\nremove = ['x-role']",
    "allow = ['10.0.0.0/8']",
    "deny = ['10.0.0.0/8']",
    "rate = '1/h'",
    "[validate]\nbody = 's.json'",
    "[api]\nopenapi = 'a.json'",
    "[auth]\napi_keys = 'k'",
    "[auth]\napi_keys = 'k'\nscopes = ['s']",
    "[auth.jwt]\nissuer = 'https://a.example'\naudience = 'a'\nkeys = 'k'\n[auth]\nclaims = { a = 'b' }",
    "[[rules]]\nwhen = 'true'\ndeny = 403\n[[rules]]\nwhen = 'true'\ndeny = 404",
    "[[routes]]\npath = '/a'\nhost = 'x.example'\nallow = ['10.0.0.0/8']\n[[routes]]\npath = '/a'\nallow = ['10.0.0.0/8']",
    "[[routes]]\npath = '/a'\n[routes.auth]\napi_keys = 'k'\nscopes = ['s']",
];

/// Any first lines of a text, where these are a manifest, may take what the whole denies.
#[test]
fn the_first_part_of_a_manifest_opens_it() {
    for whole in PARTS {
        let before = read(whole);
        assert!(before.denies() && !before.opens(&before), "{whole}");
        assert!(!read(&format!("{whole}\n[env]\nN = '1'")).opens(&before), "{whole}");
        let lines: Vec<_> = whole.lines().collect();
        let limits = config::resolve(&[]).unwrap().config.limits;
        for part in (0..lines.len()).map(|end| lines[..end].join("\n")) {
            let Ok(manifest) = Manifest::read("a", &part, &limits, 1 << 30) else { continue };
            assert!(manifest.opens(&before), "{part}\n--\n{whole}");
        }
    }
}

#[test]
fn more_than_before_denies_at_least_as_much() {
    for (before, after, opens) in [
        ("", "routes = ['/b']", false),
        ("routes = ['/a']", "", false),
        ("deny = ['10.0.0.0/8']", "deny = ['192.0.2.0/24', '10.0.0.0/8']", false),
        ("deny = ['10.0.0.0/8']", "deny = ['192.0.2.0/24']", true),
        ("deny = ['10.0.0.0/8']", "deny = ['10.0.0.0/8']\nallow = ['192.0.2.0/24']", false),
        ("allow = ['10.0.0.0/8']", "allow = ['10.0.0.0/8', '192.0.2.0/24']", true),
        ("allow = ['10.0.0.0/8']", "allow = ['10.0.0.0/8']\n[auth]\napi_keys = 'k'", false),
        (
            "[[rules]]\nwhen = 'true'\ndeny = 403",
            "[[rules]]\nwhen = 'true'\ndeny = 403\n[[rules]]\nwhen = 'true'\ndeny = 404",
            false,
        ),
        (
            "[[rules]]\nwhen = 'true'\ndeny = 403",
            "[[rules]]\nwhen = 'true'\ndeny = 404\n[[rules]]\nwhen = 'true'\ndeny = 403",
            true,
        ),
        ("[auth]\napi_keys = 'k'", "routes = [{ path = '/a', auth = false }]\n[auth]\napi_keys = 'k'", true),
        ("[auth]\napi_keys = 'k'", "[auth]\napi_keys = 'k'\npasswords = 'p'", true),
        ("[auth]\napi_keys = 'k'", "routes = ['/a', '/b']\n[auth]\napi_keys = 'k'", true),
        ("routes = [{ path = '/a', allow = ['10.0.0.0/8'] }, '/*']", "routes = ['/*']", true),
        ("headers.request.remove = ['x-a']", "headers.request = { remove = ['x-b', 'x-a'], set.x-c = '1' }", false),
        ("headers.request.set.x-a = '1'", "headers.request.set = { x-b = '1', x-a = '1' }", false),
        ("headers.request.set.x-a = '1'", "headers.request.set.x-a = '2'", true),
        ("headers.request.set.x-a = '1'", "headers.request.remove = ['x-a']", true),
        (
            "headers.request.remove = ['x-a']",
            "routes = [{ path = '/a', headers = {} }]\nheaders.request.remove = ['x-a']",
            true,
        ),
        ("headers.response.remove = ['x-a']", "", false),
        (
            "routes = [{ path = '/a', rewrite = '/b' }]",
            "routes = [{ path = '/a', rewrite = '/b', deny = ['10.0.0.0/8'] }]",
            false,
        ),
        ("routes = [{ path = '/a', rewrite = '/b' }]", "routes = [{ path = '/a', rewrite = '/c' }]", true),
        (
            "routes = [{ path = '/a', host = 'a.example' }]",
            "routes = [{ path = '/a', host = 'a.example', rewrite = '/c' }]",
            true,
        ),
        ("deny = ['10.0.0.0/8']", "deny = ['10.0.0.0/8']\nroutes = [{ path = '/a', strip_prefix = true }]", true),
        ("enabled = false", "allow = ['10.0.0.0/8']", true),
        (
            "[upstream]\nreplicas = ['https://a.example']\ntls.names = ['b.example']",
            "[upstream]\nreplicas = ['https://a.example']",
            true,
        ),
        (
            "[upstream]\nreplicas = ['https://a.example']\ntls.names = ['b.example']",
            "[upstream]\nreplicas = ['https://c.example']\ntls.names = ['b.example']",
            false,
        ),
        ("[api]\nopenapi = 'a.json'", "[validate]\nbody = 'a.json'", true),
        ("[api]\nopenapi = 'a.json'", "routes = [{ path = '/a', validate = false }]\n[api]\nopenapi = 'a.json'", true),
    ] {
        assert_eq!(read(after).opens(&read(before)), opens, "{before}\n--\n{after}");
    }
}

/// Settings that deny nothing make no route less open, and what a route says counts for it alone.
#[test]
fn a_route_is_as_open_as_its_manifest_says() {
    use Openness::{Clients, Everybody, Nobody, Requests};
    let route = |more: &str| format!("routes = [{{ path = '/a'{more} }}, '/b']");
    for (text, expected) in [
        (route(""), [Everybody; 3]),
        (
            format!("priority = 'high'\nauth = false\nvalidate = false\nbreaker.open = '1s'\n{}", route("")),
            [Everybody; 3],
        ),
        (format!("{}\n[auth]\napi_keys = 'k'", route("")), [Clients; 3]),
        (format!("{}\n[auth]\napi_keys = 'k'", route(", auth = false")), [Everybody, Clients, Clients]),
        (route(", auth = { api_keys = 'k' }"), [Clients, Everybody, Everybody]),
        (route(", allow = '10.0.0.0/8'"), [Clients, Everybody, Everybody]),
        (format!("middleware = ['m.wasm']\n{}", route("")), [Clients; 3]),
        (format!("rate = '1/s'\n{}", route(", deny = '10.0.0.0/8'")), [Requests; 3]),
        (route(", rate = '1/s'"), [Requests, Everybody, Everybody]),
        (route(", methods = ['GET']"), [Requests, Everybody, Everybody]),
        (format!("enabled = false\n{}", route("")), [Nobody; 3]),
    ] {
        let manifest = read(&text);
        assert_eq!([Some(0), Some(1), None].map(|route| manifest.openness(route)), expected, "{text}");
    }
    assert_eq!(Manifest { partial: true, ..read("") }.openness(None), Nobody);
    // Whatever denies anything, except the absence of routes, leaves a route less open.
    for text in PARTS.iter().filter(|text| **text != "routes = []") {
        let manifest = read(text);
        let all = (0..manifest.routes.len()).map(Some).chain([None]);
        assert!(all.map(|route| manifest.openness(route)).min() < Some(Everybody), "{text}");
    }
}
