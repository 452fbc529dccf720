use super::*;
use crate::tests::read as manifest;

fn service(text: &str) -> Settings {
    match manifest(text).unwrap().policies.service.auth {
        Some(Auth::Identified(settings)) => *settings,
        other => panic!("{other:?}"),
    }
}

/// What the routes require: nothing of their own, nothing at all, or their scopes.
fn routes(text: &str) -> Vec<Option<Auth>> {
    manifest(text).unwrap().policies.routes.into_iter().map(|(_, policies)| policies.auth).collect()
}

#[test]
fn forms() {
    assert_eq!(manifest("").unwrap().policies.service.auth, None);
    assert_eq!(manifest("auth = false").unwrap().policies.service.auth, Some(Auth::Anyone));
    let plain = service("auth = { api_keys = 'keys.toml' }");
    assert_eq!((plain.api_keys.unwrap(), plain.header.name().as_str()), (PathBuf::from("keys.toml"), "x-api-key"));
    assert_eq!((plain.scopes.len(), plain.claims.len()), (0, 0));
    let all = service(
        "[auth]\napi_keys = 'k'\nheader = 'Authorization'\nscopes = 'a'\nforward = true\ncalls = 'checked'\n\
         claims = { tenant = 'acme', roles = ['x', 'y'] }",
    );
    assert_eq!((all.header.clone(), all.forwards(), all.calls()), (KeyHeader::Bearer, true, CallCredentials::Checked));
    let claims = [("tenant", &["acme"][..]), ("roles", &["x", "y"])];
    assert_eq!((all.scopes, all.claims.len()), (vec!["a".to_owned()], 2));
    for (name, values) in claims {
        assert!(all.claims.iter().any(|claim| claim.0 == name && claim.1 == values), "{name}");
    }
}

/// A route adds to what its service requires, and the order of the file does not matter.
#[test]
fn routes_require_more() {
    let text = "routes = ['/a', { path = '/b', auth = { scopes = 'write' } }, { path = '/c', auth = false }]\n\
                auth = { api_keys = 'keys.toml', header = 'x-key', scopes = 'read', forward = true }";
    let [none, Some(Auth::Identified(more)), Some(Auth::Anyone)] = &*routes(text) else { panic!("{text}") };
    assert_eq!(*none, None);
    assert_eq!((more.api_keys.clone(), more.header.name().as_str()), (Some("keys.toml".into()), "x-key"));
    assert_eq!((more.scopes.clone(), more.forwards()), (vec!["write".to_owned(), "read".to_owned()], true));
    let own = "routes = [{ path = '/b', auth = { api_keys = 'other.toml', forward = false } }]\n\
               auth = { api_keys = 'keys.toml', header = 'x-key', forward = true }";
    let [Some(Auth::Identified(own))] = &*routes(own) else { panic!("{own}") };
    assert_eq!((own.api_keys.clone(), own.header.clone()), (Some("other.toml".into()), KeyHeader::Usual));
    assert!(!own.forwards());
    // Without a route that is open, only routes with policies of their own are guarded.
    let guarded = |text: &str| manifest(text).unwrap().routes.iter().map(|route| route.guarded).collect::<Vec<_>>();
    assert_eq!(guarded(text), [true, true, true]);
    assert_eq!(guarded("routes = ['/a', { path = '/b', auth = { api_keys = 'k' } }]"), [false, true]);
}

#[test]
fn a_version_has_the_credentials_of_its_service() {
    let service = manifest("auth = { api_keys = 'keys.toml' }").unwrap();
    let version = service.version("", 1 << 30).unwrap();
    assert_eq!(version.policies.service.auth, service.policies.service.auth);
    assert!(service.version("auth = false", 1 << 30).unwrap_err()[0].contains("a version cannot set this"));
}

#[test]
fn problems_name_the_way_out() {
    let check = |text: &str, expected: &str| {
        let problem = manifest(text).unwrap_err();
        assert!(problem.contains(expected), "{text}: {problem}");
    };
    check("auth = true", "line 1: auth: write a section [auth], or false");
    check("auth = 'keys.toml'", "line 1: auth: write a section [auth], or false");
    check(
        "[auth]\nscopes = 'a'",
        "auth: it accepts no credentials; name `api_keys`, `passwords`, `client_certificates`, [auth.jwt] or [auth.login]",
    );
    check("routes = [{ path = '/a', auth = { scopes = 'a' } }]", "route /a: auth: it accepts no credentials");
    for wrong in ["'*'", "[]", "'spiffe://*'", "'a b'", "7"] {
        check(&format!("auth = {{ client_certificates = {wrong} }}"), "auth.client_certificates: write ");
    }
    check("auth = { api_keys = '' }", "auth.api_keys: write the path of a file");
    check("auth = { api_key = 'k' }", "unknown key `auth.api_key`; did you mean `auth.api_keys`?");
    check("routes = [{ path = '/a', auth = { api_key = 'k' } }]", "unknown key `auth.api_key`; did you mean");
    for header in
        ["x-forwarded-user", "x-lodge-auth-subject", "x_api_key", "x.api.key", "cookie", "host", "bad name", ""]
    {
        check(&format!("auth = {{ api_keys = 'k', header = '{header}' }}"), "is not a header that can have an API key");
    }
    check("auth = { api_keys = 'k', scopes = 'a b' }", "auth.scopes: write a list, like [\"users:read\"]");
    check("auth = { api_keys = 'k', scopes = [] }", "auth.scopes: write a list");
    check("auth = { api_keys = 'k', claims = 'x' }", "auth.claims: write them like { tenant");
    check("auth = { api_keys = 'k', claims = { a = 7 } }", "auth.claims.a: write a list, like");
    check("auth = { api_keys = 'k', forward = 'yes' }", "auth.forward: `yes` is not one of `true`, `false`");
    let header = "routes = [{ path = '/a', auth = { header = 'x-key' } }]\nauth = { api_keys = 'k' }";
    check(header, "`header` has no effect without `api_keys` beside it");
    let rate = "auth = { api_keys = 'k' }\nrate = { limit = '1/s', by = 'header:x-api-key' }";
    check(rate, "rate.by: the header is removed once it is verified; write another key, `identity` for a rate");
    let route = "routes = [{ path = '/a', rate = { limit = '1/s', by = 'header:authorization' } }]\n\
                 auth = { api_keys = 'k', header = 'authorization' }";
    check(route, "route /a: rate.by: the header is removed");
    let hash = "auth = { api_keys = 'k' }\n[upstream]\nreplicas = ['http://127.0.0.1:1']\npolicy = 'hash'\nhash = 'header:x-api-key'";
    check(hash, "upstream.hash: the header is removed");
    assert!(manifest(&rate.replace("'k'", "'k', forward = true")).is_ok());
    let calls = "routes = [{ path = '/a', auth = { calls = 'checked' } }]\nauth = { api_keys = 'k' }";
    check(calls, "route /a: auth.calls: only the [auth] of the whole service has it");
    let both = "routes = [{ path = '/a', auth = { scopes = 's' } }]\nauth = { api_keys = 'k', calls = 'checked' }";
    check(both, "auth.calls: calls have every path of a service");
}

/// A section that cannot be read does not leave anything open.
#[test]
fn what_is_not_understood_is_refused() {
    for text in ["auth = 7", "auth = []", "[auth]", "auth = { api_keys = ['a'] }", "auth = { api_keys = 'k', x = 1 }"] {
        assert!(manifest(text).is_err(), "{text}");
    }
}

const JWT: &str = "[auth.jwt]\nissuer = 'https://i.example'\naudience = 'users'\nkeys = 'https://i.example/jwks'\n";

#[test]
fn tokens_of_an_issuer() {
    let jwt = service(JWT).jwt.unwrap();
    assert_eq!((&*jwt.issuer, &*jwt.audience), ("https://i.example", &["users".to_owned()][..]));
    assert_eq!(jwt.keys, JwkSource::Url("https://i.example/jwks".parse().unwrap()));
    assert_eq!((jwt.algorithms.len(), jwt.leeway.as_secs(), jwt.refresh.as_secs()), (9, 30, 900));
    let set = |from: &str, to: &str| service(&JWT.replace(from, to)).jwt.unwrap();
    assert!(set("'users'", "'*'").audience.is_empty());
    assert_eq!(set("https://i.example/jwks", "jwks.json").keys, JwkSource::File("jwks.json".into()));
    assert_eq!(set("audience", "algorithms = 'ES256'\naudience").algorithms, [jwt::Algorithm::Es256]);
    for here in ["http://127.0.0.1:8080/jwks", "http://localhost/jwks", "http://[::1]:1/"] {
        set("https://i.example/jwks", here);
    }
    // A route that names no credentials has both of its service.
    let text = format!("routes = [{{ path = '/a', auth = {{ scopes = 's' }} }}]\n[auth]\napi_keys = 'k'\n{JWT}");
    let [Some(Auth::Identified(route))] = &*routes(&text) else { panic!("{text}") };
    assert!(route.jwt.is_some() && route.api_keys.is_some());
}

#[test]
fn problems_of_tokens() {
    let check = |from: &str, to: &str, expected: &str| {
        let problem = manifest(&JWT.replace(from, to)).unwrap_err();
        assert!(problem.contains(expected), "{to}: {problem}");
    };
    check("issuer = 'https://i.example'\n", "", "auth.jwt.issuer is missing: the issuer of the tokens");
    check("audience = 'users'\n", "", "auth.jwt.audience is missing: for whom the tokens are");
    check("keys = 'https://i.example/jwks'\n", "", "auth.jwt.keys is missing: the keys of the issuer");
    check("'https://i.example'", "''", "auth.jwt.issuer: write the issuer as its tokens have it");
    check("https://i.example/jwks", "http://i.example/jwks", "keys are fetched by https; http is for servers");
    check("https://i.example/jwks", "http://127.0.0.1.evil.example/jwks", "keys are fetched by https");
    check("https://i.example/jwks", "https://u:p@i.example/jwks", "must not have a user or password");
    check("https://i.example/jwks", "ftp://i.example/jwks", "is neither a file nor a URL");
    for name in ["none", "None", "HS256", "HS512", "es256", "RS1"] {
        check("audience", &format!("algorithms = '{name}'\naudience"), &format!("`{name}` is not one of `RS256`"));
    }
    check("audience", "leeway = '6m'\naudience", "auth.jwt.leeway: must be between 0s and 5m");
    check("audience", "isuer = 'x'\naudience", "unknown key `auth.jwt.isuer`; did you mean `auth.jwt.issuer`?");
    check(
        "[auth.jwt]",
        "[auth]\napi_keys = 'k'\nheader = 'authorization'\n[auth.jwt]",
        "cannot both be in `authorization`",
    );
}

#[test]
fn certificates_have_no_scopes() {
    let own = "routes = [{ path = '/x', auth = { client_certificates = 'a.test', scopes = 'read' } }]";
    for text in [
        "auth = { client_certificates = 'a.test', scopes = 'read' }",
        "auth = { client_certificates = 'a.test', claims = { tenant = 'acme' } }",
        own,
        "routes = [{ path = '/x', auth = { scopes = 'read' } }]\nauth = { client_certificates = 'a.test' }",
    ] {
        let problems = manifest(text).unwrap_err();
        assert!(problems.contains("a client certificate has neither scopes nor claims"), "{text}: {problems:?}");
    }
    service("auth = { client_certificates = 'a.test', api_keys = 'k', scopes = 'read' }");
    service("auth = { client_certificates = 'a.test' }");
}

#[test]
fn operators_see_what_routes_require() {
    let shown = |text: &str| view(&manifest(text).unwrap()).map(|value| words(&value));
    assert_eq!(shown("routes = ['/a']"), None);
    let text = "routes = ['/a', { path = '/b', auth = { scopes = 'write' } }, { path = '/c', auth = false }]\n\
                auth = { api_keys = 'k' }";
    let shown = shown(text).unwrap();
    for part in ["/b api_keys k, header x-api-key, scopes write", "/c nothing"] {
        assert!(shown.contains(part), "{shown}");
    }
    assert!(!shown.contains("/a"), "{shown}");
}

const LOGIN: &str = "[auth.login]\nissuer = 'https://i.example'\nclient_id = 'shop'\nurl = 'https://Shop.example:443/'\n\
                     cookie_keys = 'cookies.list'\ncallback = '/users/callback'\nlogout = '/users/logout'\n";

#[test]
fn logins_at_a_provider() {
    let login = service(LOGIN).login.unwrap();
    assert_eq!(
        (&*login.issuer, &*login.client_id, &*login.origin),
        ("https://i.example", "shop", "https://shop.example")
    );
    assert_eq!(
        (login.client_secret.clone(), &*login.after_logout, login.scopes.join(" ")),
        (None, "/", "openid".into())
    );
    assert_eq!((login.session.as_secs(), login.idle.as_secs(), login.leeway.as_secs()), (28_800, 3_600, 30));
    let set = |from: &str, to: &str| *service(&LOGIN.replace(from, to)).login.unwrap();
    assert_eq!(set("issuer", "client_secret.file = 's'\nissuer").client_secret, Some("s".into()));
    assert_eq!(set("issuer", "scopes = ['email', 'openid']\nissuer").scopes, ["openid", "email"]);
    for url in ["http://localhost:8080", "http://127.0.0.1", "https://[::1]:8443/"] {
        set("https://Shop.example:443/", url);
    }
    for issuer in ["http://127.0.0.1:9/realms/x", "http://localhost:9", "https://i.example/"] {
        assert_eq!(set("https://i.example", issuer).issuer, issuer);
    }
    let routes = "routes = [{ path = '/users', host = 'shop.example' }, { path = '/users/staff', auth = { claims = { groups = 'x' } } }]";
    let text = format!("{routes}\n{LOGIN}claims = 'groups'");
    let [None, Some(Auth::Identified(staff))] = &*self::routes(&text) else { panic!("{text}") };
    assert_eq!(staff.login.as_ref().unwrap().claims, ["groups"]);
}

#[test]
fn problems_of_logins() {
    let check = |from: &str, to: &str, expected: &str| {
        let problem = manifest(&LOGIN.replacen(from, to, 1)).unwrap_err();
        assert!(problem.contains(expected), "{to}: {problem}");
    };
    for key in ["issuer", "client_id", "url", "cookie_keys"] {
        let line = LOGIN.lines().find(|line| line.starts_with(key)).unwrap();
        check(&format!("{line}\n"), "", &format!("auth.login.{key} is missing: the "));
    }
    for issuer in [
        "",
        "i.example",
        "http://i.example",
        "https://u:p@i.example",
        "https://i.example?a",
        "https://i.example#a",
        "ftp://i",
    ] {
        check("https://i.example", issuer, "auth.login.issuer: write the `issuer` of the provider's configuration");
    }
    for url in [
        "shop.example",
        "https://shop.example/app",
        "https://shop.example/?a",
        "http://shop.example",
        "https://a@b",
        "https://",
    ] {
        check("https://Shop.example:443/", url, "auth.login.url: write an origin such as https://shop.example.com");
    }
    for path in ["callback", "https://evil.example/", "//evil.example", "/a?b", "/a/../b", "/a%2Fb", "", "/a b"] {
        check("'/users/callback'", &format!("'{path}'"), "auth.login.callback: write a path such as /login/callback");
    }
    check(
        "'/users/callback'",
        "'/login/callback'",
        "auth.login.callback: no route of the service has GET /login/callback at shop.example",
    );
    check("logout = '/users/logout'", "", "auth.login.logout: no route of the service has POST /logout");
    check("/users/callback", "/users/logout", "`callback` and `logout` must be two paths");
    let discovery = "https://i.example/.well-known/openid-configuration";
    check(
        "https://i.example",
        discovery,
        "auth.login.issuer: write the `issuer` that the configuration has, without /.well",
    );
    check("issuer", "idle = '9h'\nissuer", "auth.login: `idle` must not be longer than `session`");
    check("issuer", "session = '30s'\nissuer", "auth.login.session: must be between 1m and");
    check(
        "issuer",
        "client_secret = 's3cret'\nissuer",
        "auth.login.client_secret: a manifest contains no secrets; write it into a file",
    );
    check("issuer", "client_secret = { value = 's3cret' }\nissuer", "unknown key `auth.login.client_secret.value`");
    check("issuer", "client_secret = {}\nissuer", "a manifest contains no secrets");
    check("issuer", "algorithms = 'HS256'\nissuer", "`HS256` is not one of");
    check("issuer", "isuer = 'x'\nissuer", "unknown key `auth.login.isuer`; did you mean `auth.login.issuer`?");
    let required = |auth: &str| format!("[auth]\n{auth}\n{LOGIN}");
    let problem = |text: &str| manifest(text).unwrap_err();
    assert!(
        problem(&required("claims = { groups = 'x' }"))
            .contains("auth.claims: no session has the claim `groups`; add it to `auth.login.claims`")
    );
    assert!(
        problem(&required("scopes = 'read'"))
            .contains("auth.scopes: no session has the scope `read`; add it to `auth.login.scopes`")
    );
    assert!(manifest(&required("claims = { sub = 'ann' }\nscopes = 'openid'")).is_ok());
    let route = |auth: &str| format!("routes = ['/users', {{ path = '/users/x', auth = {{ {auth} }} }}]\n{LOGIN}");
    assert!(
        problem(&route("claims = { groups = 'x' }")).contains("route /users/x: auth.claims: no session has the claim")
    );
    let own = LOGIN.replace("[auth.login]\n", "").replace('\n', ", ");
    let own = format!("routes = [{{ path = '/users', auth = {{ login = {{ {} }} }} }}]", own.trim_end_matches(", "));
    assert!(
        problem(&own).contains("route /users: auth.login: only the [auth] of the whole service has it"),
        "{}",
        problem(&own)
    );
    let methods = format!("routes = [{{ path = '/users', methods = 'GET' }}]\n{LOGIN}");
    let most = "auth.login.logout: the route GET /users is the most specific one for /users/logout at shop.example, and does not have POST";
    assert!(problem(&methods).contains(most), "{}", problem(&methods));
    let beside = methods.replace("'GET' }", "'GET' }, '/*'");
    assert!(problem(&beside).contains(most), "{}", problem(&beside));
    assert!(manifest(&beside.replace("'/*'", "{ path = '/users', methods = 'POST' }")).is_ok());
    let host = format!("routes = [{{ path = '/users', host = 'other.example' }}]\n{LOGIN}");
    assert!(
        problem(&host).contains("auth.login.callback: no route of the service has GET /users/callback at shop.example")
    );
}
