use super::*;
use crate::tests::read as manifest;

fn rules(text: &str) -> Vec<String> {
    manifest(text).unwrap().policies.service.rules.iter().map(ToString::to_string).collect()
}

#[test]
fn forms() {
    let text = "routes = ['/a', { path = '/b', rules = [{ deny = 404 }] }]\n\
                [[rules]]\nwhen = 'request.method == \"DELETE\"'\ndeny = 403\nmessage = 'no'\n\
                [[rules]]\nwhen = 'true'\nallow = true\nset = { X-Tier = 'gold', x-tenant = { cel = 'identity.claims.tenant' } }\nversion = 'canary'\n\
                [[rules]]\ndeny = true";
    assert_eq!(
        rules(text),
        [
            "deny 403 when request.method == \"DELETE\"",
            "set x-tier, set x-tenant, version canary, allow when true",
            "deny 403"
        ]
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
    for end in ["deny = 404", "allow = true"] {
        check(
            &format!(
                "[[rules]]\nwhen = 'true'\n{end}\n[[rules]]\n{end}\n[[rules]]\nset = {{ x-a = 'a' }}\n[[rules]]\n{end}"
            ),
            "line 6: rules: this one is never evaluated, since the one before has no `when`",
        );
    }
    assert_eq!(rules("[[rules]]\nversion = 'a'\n[[rules]]\nset = { x-a = 'a' }").len(), 2);
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
    check(&patterns, "a manifest has at most 50 calls of matches()");
    let route = |number: usize| {
        format!("[[routes]]\npath = '/{number}'\nrules = [{}]\n", "{ when = 'true', deny = true },".repeat(91))
    };
    check(&(0..11).map(route).collect::<String>(), "rules: there are more than 1000 in all routes");
    check("rate = '1/s'\nversion = 'a'", "`version`");
}

/// What a manifest costs is bounded while it is read: what comes after too much is neither compiled nor parsed.
#[test]
fn a_manifest_is_cheap_to_read() {
    use crate::expression::{Expression, Purpose};
    let pattern = "request.path.matches('^/(a|b)[0-9]{1,20}$')";
    let mut patterns = 48;
    for expected in [true, true, false, false] {
        assert_eq!(Expression::read_counted(pattern, Purpose::Condition, &mut patterns).is_ok(), expected);
    }
    assert_eq!(patterns, 50);
    // A refused expression counts as well.
    let mut patterns = 0;
    assert!(Expression::read_counted(&format!("{pattern} && a"), Purpose::Condition, &mut patterns).is_err());
    assert_eq!(patterns, 1);
    let long = format!("[[rules]]\nwhen = 'request.path == \"/{}\"'\ndeny = true\n", "a".repeat(1_900));
    let problem = manifest(&long.repeat(60)).unwrap_err();
    assert_eq!(problem.matches("all expressions together have more than 65536 bytes").count(), 1, "{problem}");
    assert!(manifest(&long.repeat(30)).is_ok());
    let route = |number: usize| {
        format!("[[routes]]\npath = '/{number}'\nrules = [{}]\n", "{ when = 'a', deny = true },".repeat(100))
    };
    let problem = manifest(&(0..40).map(route).collect::<String>()).unwrap_err();
    assert_eq!(problem.matches("more than 1000 in all routes").count(), 1);
    assert_eq!(problem.matches("unknown variable `a`").count(), 1_000, "rules were read beyond the bound");
}
