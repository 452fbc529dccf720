use super::*;
use crate::tests::read as manifest;

fn rules(text: &str) -> Vec<String> {
    manifest(text).unwrap().policies.service.rules.iter().map(ToString::to_string).collect()
}

#[test]
fn forms() {
    let text = "routes = ['/a', { path = '/b', rules = [{ deny = 404 }] }]\n\
                [[rules]]\nwhen = 'request.method == \"DELETE\"'\ndeny = 403\nmessage = 'no'\n\
                [[rules]]\nallow = true\nset = { X-Tier = 'gold', x-tenant = { cel = 'identity.claims.tenant' } }\nversion = 'canary'\n\
                [[rules]]\ndeny = true";
    assert_eq!(
        rules(text),
        ["deny 403 when request.method == \"DELETE\"", "set x-tier, set x-tenant, version canary, allow", "deny 403"]
    );
    let read = manifest(text).unwrap();
    let first = read.policies.service.rules.first().unwrap();
    assert_eq!(first.end, Some(RuleEnd::Deny(StatusCode::FORBIDDEN, Some("no".into()))));
    let of_routes: Vec<_> = read.policies.routes.iter().map(|(_, policies)| policies.rules.len()).collect();
    assert_eq!((of_routes, read.policies.has_routes()), (vec![0, 1], true));
    let shown = crate::section::views(&read).remove("rules").unwrap();
    assert_eq!(shown.as_array().unwrap().last().unwrap(), "/b: deny 404");
    assert_eq!((rules(""), rules("rules = []")), (vec![], vec![]));
}

/// A path that the service reads differently must not lead to a route where everything is allowed.
#[test]
fn a_route_that_allows_guards_the_others() {
    let guarded = |text: &str| manifest(text).unwrap().routes.iter().map(|route| route.guarded).collect::<Vec<_>>();
    let routes = "routes = ['/a', { path = '/b', rules = [{ allow = true }] }]\nrules = [{ deny = true }]";
    assert_eq!(guarded(routes), [true, true]);
    assert_eq!(guarded("routes = ['/a', { path = '/b', rules = [{ deny = true }] }]"), [false, true]);
}

#[test]
fn mistakes() {
    let check = |text: &str, expected: &str| {
        let problem = manifest(text).unwrap_err();
        assert!(problem.contains(expected), "{text}: {problem}");
    };
    check("[[rules]]\nwhen = 'a'\ndeny = 403", "line 2: when: column 1: unknown variable `a`");
    check("[[rules]]\nwhen = 'true'", "line 1: nothing follows from the rule");
    check("[[rules]]\nwhen = true\ndeny = 403", "when: write an expression in quotes");
    check("[[rules]]\ndeny = 403\nallow = true", "a rule with `deny` has no `allow`");
    check("[[rules]]\ndeny = false", "write true");
    check("[[rules]]\nallow = false", "write true");
    check("[[rules]]\nallow = true\nmessage = 'a'", "`message` has no effect without `deny`");
    check("[[rules]]\ndeny = 200", "write a status from 400 to 599");
    check("[[rules]]\ndeny = 401", "[auth] refuses requests without credentials");
    check("[[rules]]\ndeny = 405", "`methods` of a route");
    check("[[rules]]\ndeny = 403\nmessage = \"a\\nb\"", "it is one line of at most 500 bytes");
    check("[[rules]]\nif = 'true'\ndeny = 403", "unknown key `if`");
    check("[rules]\ndeny = 403", "write rules as [[rules]]");
    check("rules = 'true'", "write rules as [[rules]]");
    check("[[rules]]\nversion = 'a b'", "write the label of a version");
    check("[[rules]]\nset = {}", "write a table");
    check("[[rules]]\nset = { x-a = 1 }", "write a table");
    check("[[rules]]\nset = { x-a = { text = 'a' } }", "write a table");
    check("[[rules]]\nset = { x-a = { cel = 'identity.scopes' } }", "its type is list(string), and must be string");
    check("[[rules]]\nset = { x-a = \"a\\nb\" }", "it is not a header value");
    check("[[rules]]\nset = { X-A = 'a', x-a = 'b' }", "the header is there twice");
    for name in ["host", "x-lodge-auth-subject", "x-forwarded-for", "content-length", "x-request-id"] {
        check(&format!("[[rules]]\nset = {{ {name} = 'a' }}"), "cannot be changed");
    }
    check("[[rules]]\nset = { range = 'a' }", "cannot be set");
    check(&"[[rules]]\ndeny = true\n".repeat(101), "101 rules are more than 100");
    let patterns = "[[rules]]\nwhen = \"request.path.matches('a')\"\ndeny = true\n".repeat(51);
    check(&patterns, "51 calls of matches() are more than 50");
    let route =
        |number: usize| format!("[[routes]]\npath = '/{number}'\nrules = [{}]\n", "{ deny = true },".repeat(91));
    check(&(0..11).map(route).collect::<String>(), "1001 in all routes are more than 1000");
    check("rate = '1/s'\nversion = 'a'", "`version`");
}
