use std::time::Duration;

use proptest::prelude::*;

use super::*;
use lodge_base::config;

pub(crate) fn read(text: &str) -> Result<Manifest, String> {
    let defaults = config::resolve(&[]).unwrap().config.limits;
    Manifest::read("users", text, &defaults, 1 << 30).map_err(|problems| problems.join("\n"))
}

fn routes(manifest: &Manifest) -> Vec<String> {
    manifest.routes.iter().map(ToString::to_string).collect()
}

#[test]
fn no_manifest_is_an_empty_one() {
    let manifest = read("").unwrap();
    assert_eq!(routes(&manifest), ["/users"]);
    assert_eq!(manifest.isolation, Isolation::Request);
    assert_eq!(manifest.limits, config::resolve(&[]).unwrap().config.limits);
}

#[test]
fn says_what_it_says() {
    let text = "routes = ['/', '/u']\nisolation = 'service'\ncpu_weight = 300\n[limits]\nwall = '1m'\nmemory = '64MiB'\nin_flight = 2";
    let manifest = read(text).unwrap();
    assert_eq!(routes(&manifest), ["/", "/u"]);
    assert_eq!(manifest.isolation, Isolation::Service);
    assert_eq!((manifest.cpu_weight, read("").unwrap().cpu_weight), (300, 100));
    assert_eq!(manifest.limits.wall, Duration::from_secs(60));
    assert_eq!((manifest.limits.memory, manifest.limits.in_flight), (64 << 20, 2));
    assert_eq!(manifest.limits.cpu, Duration::from_secs(5), "what it does not say is the default");
}

#[test]
fn every_key() {
    let digest = "0123456789abcdef".repeat(4);
    let text = format!(
        "enabled = false\ncomponent = 'other.wasm'\ndigest = 'sha256:{digest}'\nready.path = '/health?x'\n\
         routes = [{{ path = '/a/{{b}}', host = 'API.example.com', methods = ['GET', 'PUT'], strip_prefix = true }}]\n\
         [env]\nB = '2'\nA = '1'"
    );
    let manifest = read(&text).unwrap();
    assert!(!manifest.enabled);
    assert_eq!(manifest.component, Some(ComponentSource::File("other.wasm".into())));
    assert_eq!(manifest.digest.unwrap().to_string(), digest);
    assert_eq!(manifest.ready.as_deref(), Some("/health?x"));
    assert_eq!(routes(&manifest), ["GET|PUT api.example.com/a/{b}"]);
    assert!(manifest.routes[0].strip_prefix);
    let env: Vec<_> = manifest.env.iter().map(|(name, value)| (name.as_str(), value.text())).collect();
    assert_eq!(env, [("A", Some("1")), ("B", Some("2"))]);
}

#[test]
fn an_upstream() {
    assert_eq!(read("").unwrap().upstream, None);
    let text = "routes = ['/u']\n[upstream]\nreplicas = ['http://10.0.0.7:8080']\nread = '2s'";
    let manifest = read(text).unwrap();
    assert_eq!(manifest.upstream.as_ref().unwrap().read, Duration::from_secs(2));
    assert_eq!(manifest, read(text).unwrap());
    assert_ne!(manifest, read(&text.replace("2s", "3s")).unwrap(), "a change is seen");
    let problem = read("cpu_weight = 0\n[upstream]\nreplica = ['http://10.0.0.7:8080']").unwrap_err();
    assert!(problem.contains("cpu_weight") && problem.contains("line 3: unknown key `upstream.replica`"), "{problem}");
}

#[test]
fn problems_have_lines_and_ways_out() {
    let check = |text: &str, expected: &str| {
        let problem = read(text).unwrap_err();
        assert!(problem.contains(expected), "{problem}");
    };
    check("cpu_weight = 0", "line 1: cpu_weight: write a whole number from 1 to 10000");
    check("\nroute = ['/']", "line 2: unknown key `route`; did you mean `routes`?");
    check("\nzzz = 1", "line 2: unknown key `zzz`, expected one of `enabled`");
    // Words of other systems, also where they resemble another key or are one of lodge.toml.
    for (word, meant) in [
        ("timeout = '1s'", "did you mean `limits.wall`?"),
        ("memory = '64MiB'", "did you mean `limits.memory`?"),
        ("retries = 3", "did you mean `upstream.retry.attempts`?"),
        ("apikey = 'x'", "did you mean `auth.api_keys`?"),
        ("openapi = 'x.yaml'", "did you mean `api.openapi`?"),
        ("host = 'a.example'", "it is a key of a route; write it there"),
    ] {
        check(word, meant);
    }
    check("enabled = true\nenabled = true", "line 2: `enabled` has a value already");
    for section in ["schedule", "rules", "redirects"] {
        check(
            &format!("[{section}]\n[{section}]"),
            &format!("line 2: `{section}` has a value already; write each one as [[{section}]]"),
        );
    }
    check("[schedule]\n[[schedule]]", "`schedule` has a value already; write each one as [[schedule]]");
    check("[[schedule]]\n[schedule]", "`schedule` has a value already; write each one as [[schedule]]");
    check("\nroutes = [“/x”]", "line 2: “ is not a quotation mark of TOML; write \"");
    check("\n\ncache = { ttl = '9000d' }", "line 3: cache.ttl: must be between");
    check("\nmirror = 1", "line 2: mirror: only a version can set this");
    check(
        "\nroutes = ['/',\n { path = '/x', method = ['GET'] }]",
        "line 3: unknown key `method`; did you mean `methods`?",
    );
    check("routes = [{ path = '/x', methods = ['get'] }]", "method `get`: write it like \"GET\"");
    check("routes = [{ path = '/x', host = 'a:80' }]", "host `a:80`: write it like");
    for one in ["routes = { path = '/x' }", "[routes]\npath = '/x'"] {
        check(one, "line 1: routes: write a list, like [{ path = \"/users\" }], or [[routes]]");
    }
    check("routes = [7]", "line 1: routes: a route is a path, or a table");
    check("routes = ['/x', '/x']", "duplicate route `/x`");
    check("component = '../x.wasm'", "must be the name of a .wasm file");
    check(
        "\ndigest = 'sha256:12'",
        "line 2: digest: `sha256:12` is not a digest; write \"sha256:\" and 64 hexadecimal digits",
    );
    check("ready.path = 'x'", "ready.path: `x` is not a path");
    check("ready.path = '/ö#'", "ready.path: `/ö#` has a fragment, which is never sent");
    check("env = { 'A=B' = 'x' }", "env: `A=B` cannot be the name");
    check(&format!("env.A = '{}'", "x".repeat(70_000)), "are more than");
    check("isolation = 'none'", "isolation: `none` is not one of `request`, `service`");
    check("[limits]\nwal = '1s'", "line 2: unknown key `limits.wal`; did you mean `limits.wall`?");
    check("[limits]\nwall = '1s'\nqueue = -1", "line 3: limits.queue: `-1` is not a whole number");
    check("[limits]\nmemory = '2GiB'", "line 2: limits.memory: more than engine.max_memory");
    check("[limits]\ncpu = '40s'", "more than limits.wall");
    check("[limits]\ncpu = '40s'", "lower it, or raise that");
    check("routes = ['users']", "route `users`: write it like");
    check(
        "routes = ['/hello/:id']",
        "line 1: route `/hello/:id`: `:id` would match only itself; write {id} for any segment, or %3Aid for this one",
    );
    assert_eq!(routes(&read("routes = ['/a/%3Aid', '/v1/users:list']").unwrap()), ["/a/:id", "/v1/users:list"]);
    check("limits.memory = '128'", "limits.memory: `128` is 128 bytes; did you mean 128MiB?");
    check("deny = ['10.0.0.5/8']", "deny: `10.0.0.5/8` is a part of the network 10.0.0.0/8; write that, or 10.0.0.5");
    check("http = ['http://10.0.0.5/8']", "`10.0.0.5/8` is a part of the network 10.0.0.0/8; write that, or 10.0.0.5");
    let both = read("routes = ['x']\n[limits]\nwall = 'x'\ncpu = 'y'").unwrap_err();
    assert_eq!(both.lines().count(), 3, "{both}");
}

/// A key after a section belongs to it in TOML. The message says where to write the key.
#[test]
fn keys_in_the_wrong_section() {
    let above = "is a key of the manifest; write it above the first [section]";
    for (text, wanted) in [
        ("[env]\nA = 'b'\nrate = '1/m'", format!("line 3: env: `rate` {above}, or give the variable another name")),
        ("[env]\nroutes = ['/x']", format!("line 2: env: `routes` {above}")),
        ("[limits]\ncalls = ['users']", format!("line 2: unknown key `limits.calls`; `calls` {above}")),
        ("[breaker]\nhttp = []", format!("line 2: unknown key `breaker.http`; `http` {above}")),
        ("[build]\ncommand = 'x'\ndirectory = 'y'\ncache = true", "line 4: unknown key `build.cache`".into()),
        ("[build]\ncommand = 'x'\ndirectory = 'y'\ncache = true", format!("`cache` {above}")),
        ("[health]\npath = '/'", "`health` is a part of [upstream]; write [upstream.health]".into()),
        ("[health]\npath = '/'", "line 1: unknown key `health`".into()),
        ("replicas = []", "`replicas` is a key of [upstream]".into()),
        ("wall = '1s'", "`wall` is a key of [limits]".into()),
    ] {
        let problem = read(text).unwrap_err();
        assert!(problem.contains(&wanted) && !problem.contains('\n'), "{text}: {problem}");
    }
    assert_eq!(read("[env]\nRATE = '1'\nrates = '2'").unwrap().env.len(), 2);
}

#[test]
fn values_of_the_wrong_kind_are_told_by_key() {
    for (text, wanted) in [
        ("routes = 7", "line 1: routes: write a list, like [\"/users\"]"),
        ("\nhttp = true", "line 2: http: write a list, like [\"https://api.example.com\"]"),
        ("methods = 7", "line 1: unknown key `methods`"),
        ("routes = [{ path = '/', methods = 7 }]", "methods: write a list, like [\"GET\"]"),
        ("enabled = 'yes'", "enabled: write true or false"),
        ("ready = '/health'", "ready: write ready.path = \"/health\""),
        ("cpu_weight = -1", "cpu_weight: write a whole number"),
        ("cpu_weight = '7'", "cpu_weight: write a whole number"),
        ("[env]\nPORT = 8080", "line 2: env.PORT: write text, between quotes"),
        ("rate = true", "line 1: rate.limit: `true` is not a rate"),
        ("limits = 5", "limits: write a section [limits]"),
        ("isolation = 'none'", "line 1: isolation: `none` is not one of `request`, `service`"),
    ] {
        let problem = read(text).unwrap_err();
        assert!(problem.starts_with("line ") && problem.contains(wanted), "{text}: {problem}");
    }
}

#[test]
fn a_default_of_cpu_gives_way() {
    let limits = |text: &str| read(text).unwrap().limits;
    assert_eq!(limits("limits.wall = '2s'").cpu, Duration::from_secs(2));
    assert_eq!(limits("limits.wall = '20s'").cpu, Duration::from_secs(5));
    assert!(read("[limits]\nwall = '2s'\ncpu = '3s'").unwrap_err().contains("more than limits.wall (2s)"));
    assert_eq!(version("limits.wall = '1s'").unwrap().limits.cpu, Duration::from_secs(1));
    let source = config::Source::from([("limits.wall".to_owned(), "2s".to_owned())]);
    let resolved = config::resolve(&[(config::Origin::File, source)]).unwrap();
    assert_eq!(resolved.config.limits.cpu, Duration::from_secs(2));
    assert!(resolved.values.iter().any(|(name, text, _)| name == "limits.cpu" && text == "2s"));
}

/// The most routes are accepted; one more is refused.
#[test]
fn routes_have_a_bound() {
    let text = |count: usize| {
        let routes: Vec<_> = (0..count).map(|n| format!("'/r{n}'")).collect();
        format!("routes = [{}]", routes.join(", "))
    };
    assert_eq!(read(&text(1_000)).unwrap().routes.len(), 1_000);
    assert!(read(&text(1_001)).unwrap_err().contains("routes: 1001 are more than 1000"));
}

proptest! {
    #[test]
    fn any_text(text in "\\PC{0,100}|(routes|isolation|limits|\\[|\\]|=|'|\"|\n|[a-z0-9/. ]){0,40}") {
        let _ = read(&text);
    }
}

fn version(text: &str) -> Result<Manifest, String> {
    let service =
        read("routes = [\"/u\"]\nready = { path = \"/health\" }\n[limits]\nwall = \"40s\"\n[env]\nA = \"1\"").unwrap();
    service.version(text, 1 << 30).map_err(|problems| problems.join("\n"))
}

#[test]
fn a_version_begins_with_what_its_service_says() {
    let manifest = version("percent = 2.5\nmatch = [\"header:x-version=2\"]\n[limits]\nmemory = \"8MiB\"").unwrap();
    let share = manifest.share.unwrap();
    assert_eq!((share.percent, share.rules.len(), share.rollback), (percent::Percent(250), 1, None));
    assert!(manifest.routes.is_empty());
    assert_eq!((manifest.limits.wall.as_secs(), manifest.limits.memory), (40, 8 << 20));
    assert_eq!((manifest.env.len(), manifest.ready.as_deref()), (1, Some("/health")));
    assert_eq!(version("[rollback]").unwrap().share.unwrap().rollback, Some(share::Rollback::default()));
    assert_eq!(version("percent = \"10%\"").unwrap().share.unwrap().percent, percent::Percent(1_000));
}

#[test]
fn a_version_is_not_a_service_nor_the_other_way_round() {
    for (text, wanted) in [
        ("routes = [\"/v2\"]", "routes: a version cannot set this"),
        ("sticky = \"client\"", "sticky: a version cannot set this"),
        ("percent = 101", "percent: `101` is not a percentage"),
        ("percent = \"ten\"", "percent: `ten` is not a percentage"),
        ("match = [\"x-version=2\"]", "match: `x-version=2`: write it like"),
        ("match = [\"client=1\"]", "match: `client=1`: write it like"),
        ("rollback = { p99 = 0.5 }", "rollback.p99: 0.5 is not between 1 and 100"),
        ("[rollback]\nminimum = 'x'", "line 2: rollback.minimum: write a whole number"),
        ("percents = 1", "did you mean `percent`?"),
    ] {
        let problem = version(text).unwrap_err();
        assert!(problem.contains(wanted), "{text}: {problem}");
    }
    for (text, wanted) in [
        ("percent = 1", "percent: only a version can set this; write it in a file such as `NAME@2.toml`"),
        ("mirror = 1", "mirror: only a version can set this"),
        ("sticky = \"session\"", "sticky: `session` is not one of `client`"),
    ] {
        let problem = read(text).unwrap_err();
        assert!(problem.contains(wanted), "{text}: {problem}");
    }
}

#[test]
fn routes_rewrite_paths() {
    let routes = |text: &str| read(text).unwrap().routes;
    let text = "routes = [{ path = '/api', rewrite = '/v1/x' }, { path = '/old', rewrite = '/' }, '/new']";
    let paths: Vec<_> = routes(text).into_iter().map(|route| route.rewrite.map(|path| path.to_string())).collect();
    assert_eq!(paths, [Some("/v1/x".into()), Some("/".into()), None]);
    let check = |text: &str, expected: &str| {
        let problem = read(text).unwrap_err();
        assert!(problem.contains(expected), "{text}: {problem}");
    };
    for wrong in ["v1", "", "/v1/", "//", "/a//b", "/a/../b", "/a?b", "/a%2Fb", "/a;b", "https://a/b"] {
        check(&format!("routes = [{{ path = '/api', rewrite = '{wrong}' }}]"), "rewrite: write a path such as \"/v1\"");
    }
    check("routes = [{ path = '/a', rewrite = '/b', strip_prefix = true }]", "takes the place of the prefix already");
    for wrong in ["/users/{id}", "/users/*"] {
        check(
            &format!("routes = [{{ path = '/a', rewrite = '{wrong}' }}]"),
            "rewrite: parameters and `*` are not possible",
        );
    }
    for (key, value) in [("rewrite", "'/v1'"), ("strip_prefix", "true")] {
        check(
            &format!("{key} = {value}"),
            &format!("unknown key `{key}`; it is a key of a route; write it there, as in routes"),
        );
    }
    let shown = section::views(
        &read("routes = [{ path = '/a', rewrite = '/b' }, '/c', { path = '/d', strip_prefix = true }]").unwrap(),
    );
    assert_eq!(shown["routes"], serde_json::json!(["/a to /b", "/d to /"]));
    assert!(!section::views(&read("routes = '/a'").unwrap()).contains_key("routes"));
    check(
        "routes = [{ path = '/a', rewrite = '/b' }]\n[files]\nroot = 'x'",
        "`rewrite` has no effect for a directory of files",
    );
}

/// No route leads around the conditions of another one of its service.
#[test]
fn rewritten_routes_have_the_same_conditions() {
    let (auth, strip) = ("auth = { scopes = 'admin' }", "strip_prefix = true");
    let service = "\nauth = { api_keys = 'k' }";
    for (text, bypass) in [
        (format!("routes = [{{ path = '/api', rewrite = '/' }}, {{ path = '/admin', {auth} }}]{service}"), true),
        (format!("routes = [{{ path = '/api', rewrite = '/admin/x' }}, {{ path = '/admin', {auth} }}]{service}"), true),
        (format!("routes = [{{ path = '/api', rewrite = '/v1' }}, {{ path = '/{{any}}/x', {auth} }}]{service}"), true),
        (format!("routes = ['/inner', {{ path = '/admin', rewrite = '/inner', {auth} }}]{service}"), true),
        (
            "routes = [{ path = '/api', rewrite = '/in' }, { path = '/staff', rewrite = '/in', deny = '10.0.0.0/8' }]"
                .into(),
            true,
        ),
        (format!("routes = [{{ path = '/public', rewrite = '/app', auth = false }}, '/app']{service}"), true),
        ("routes = [{ path = '/a', rewrite = '/in', validate = false }, '/in']\nvalidate.body = 's.json'".into(), true),
        ("routes = [{ path = '/a', rewrite = '/in' }, '/in']\nvalidate.body = 's.json'".into(), false),
        (format!("routes = [{{ path = '/api', rewrite = '/v1' }}, {{ path = '/admin', {auth} }}]{service}"), false),
        (
            format!("routes = [{{ path = '/api', rewrite = '/in', {auth} }}, {{ path = '/in', {auth} }}]{service}"),
            false,
        ),
        (format!("routes = [{{ path = '/api', rewrite = '/in' }}, '/in']{service}"), false),
        ("routes = [{ path = '/a', rewrite = '/in' }, { path = '/b', rewrite = '/in', rate = '1/s' }]".into(), false),
        (format!("routes = [{{ path = '/public', rewrite = '/pages', auth = false }}, '/app']{service}"), false),
        (format!("routes = [{{ path = '/a', {strip} }}, {{ path = '/b', {strip}, {auth} }}]{service}"), true),
        (format!("routes = [{{ path = '/a', {strip} }}, {{ path = '/admin', {auth} }}]{service}"), true),
        (format!("routes = [{{ path = '/a', {strip} }}, {{ path = '/b', {strip} }}, '/c']{service}"), false),
        (format!("routes = [{{ path = '/a', {strip} }}, {{ path = '/open', auth = false }}]{service}"), false),
        // No request is of two methods. One for HEAD may be of a route for GET.
        (
            format!(
                "routes = [{{ path = '/b', methods = 'GET', {strip} }}, {{ path = '/b', methods = ['POST', 'PUT'], {strip}, {auth} }}]{service}"
            ),
            false,
        ),
        (
            format!(
                "routes = [{{ path = '/b', methods = ['GET', 'PUT'], {strip} }}, {{ path = '/b', methods = 'PUT', {strip}, {auth} }}]{service}"
            ),
            true,
        ),
        (
            format!(
                "routes = [{{ path = '/a', methods = 'GET', {strip} }}, {{ path = '/b', methods = 'HEAD', {strip}, {auth} }}]{service}"
            ),
            true,
        ),
        (
            format!(
                "routes = [{{ path = '/a', methods = 'HEAD', {strip} }}, {{ path = '/b', methods = 'GET', {strip}, {auth} }}]{service}"
            ),
            true,
        ),
        (
            format!(
                "routes = [{{ path = '/a', methods = 'GET', {strip} }}, {{ path = '/b', {strip}, {auth} }}]{service}"
            ),
            true,
        ),
    ] {
        let problem = read(&text).err().unwrap_or_default();
        assert_eq!(problem.contains("would not hold"), bypass, "{text}: {problem}");
        assert_eq!(problem.is_empty(), !bypass, "{text}: {problem}");
    }
    let unused = read("routes = ['/a%2Fb', { path = '/*', rewrite = '/a/b', allow = '10.0.0.0/8' }]").unwrap_err();
    assert!(unused.starts_with("route /a%2Fb: a service with a `rewrite` gets no path with"), "{unused}");
    assert!(read("routes = ['/{a;b}', { path = '/*', rewrite = '/x' }]").is_ok());
    assert!(read("routes = ['/a%2Fb', '/c;d']").is_ok());
}
