use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use http::{Method, Uri};
use proptest::prelude::*;

use super::*;
use crate::auth::RequestSender;
use crate::auth::identity::{AuthMethod, Claims, Identity};
use lodge_manifest::expression::Purpose;
use lodge_manifest::policies::PolicySettings;

mod costs;
mod spellings;

const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 1, 2, 3));

fn rule(when: &str, set: &[(&'static str, &str)], version: Option<&str>, end: Option<RuleEnd>) -> RequestRule {
    let read = |text: &str, purpose| Expression::read(text, purpose).unwrap_or_else(|why| panic!("{text}: {why}"));
    let set =
        set.iter().map(|(name, text)| (HeaderName::from_static(name), HeaderText::Computed(read(text, Purpose::Text))));
    let when = Some(read(when, Purpose::Condition));
    RequestRule { when, set: set.collect(), version: version.map(str::to_owned), end }
}

fn denies(when: &str) -> RequestRule {
    rule(when, &[], None, Some(RuleEnd::Deny(StatusCode::FORBIDDEN, None)))
}

fn of(service: Vec<RequestRule>, route: Vec<RequestRule>) -> RuleSet {
    let settings = |rules| PolicySettings { rules, ..PolicySettings::default() };
    let routes = vec![("/a".to_owned(), settings(route))];
    RuleSet::new(&Policies { service: settings(service), routes, ..Policies::default() }).unwrap()
}

fn identity() -> Identity {
    let all = serde_json::json!({
        "tenant": "acme", "roles": ["dev", "ops", 7, ["x"]], "mixed": ["x", true, false], "level": 3, "part": 2.5, "staff": true, "none": null,
        "deep": { "a": { "b": "c" } }, "name": "Zo\u{eb} 1\r\n", "big": 18_446_744_073_709_551_615_u64,
        "other_big": 18_446_744_073_709_551_614_u64,
    });
    let serde_json::Value::Object(all) = all else { panic!() };
    Identity::of_token("ann", &["read".into(), "admin".into()], Claims { issuer: "https://i", payload: "e30", all })
}

/// The headers that a request gets, and the version.
type Decided = (Vec<(String, String)>, Option<String>);

/// Evaluates the rules for a request with a token, some headers and a query.
fn decide(rules: &RuleSet, change: impl FnOnce(&mut RuleInput<'_>)) -> Result<Decided, RuleRefusal> {
    let uri = Uri::from_static("https://users.test:8443/a/b?x=1&y=a%20b&x2=&twice=1&twice=2");
    let mut headers = HeaderMap::new();
    headers.append("host", HeaderValue::from_static("users.test"));
    headers.append("x-a", HeaderValue::from_static("1"));
    headers.append("x-a", HeaderValue::from_static("2"));
    headers.append("cookie", HeaderValue::from_static("a=1"));
    headers.append("cookie", HeaderValue::from_static("b=2"));
    headers.append("x-one", HeaderValue::from_static("1"));
    headers.append("x-raw", HeaderValue::from_bytes(b"\xff").unwrap());
    headers.append("x-long", HeaderValue::from_str(&"ab".repeat(8_000)).unwrap());
    headers.append("x-half", HeaderValue::from_str(&"ab".repeat(2_000)).unwrap());
    let identity = identity();
    let mut input = RuleInput {
        method: &Method::DELETE,
        uri: &uri,
        path: uri.path(),
        headers: &headers,
        size: Some(10),
        identity: Some(&identity),
        sender: RequestSender::Client(None),
        client: CLIENT,
        claimed: None,
        // 2026-02-28T23:30:00Z, a Saturday.
        now: UNIX_EPOCH + Duration::from_secs(1_772_321_400),
    };
    change(&mut input);
    rules.decide(0, &input).map(|decision| {
        let set = decision.set.iter();
        let set = set.map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned())).collect();
        (set, decision.version.map(str::to_owned))
    })
}

/// Returns whether a condition is met, or why it has no value.
fn holds(when: &str) -> Result<bool, RuleFailure> {
    match decide(&of(vec![denies(when)], Vec::new()), |_| {}) {
        Ok(_) => Ok(false),
        Err(RuleRefusal { cause: RefusalCause::Denied(..), .. }) => Ok(true),
        Err(RuleRefusal { cause: RefusalCause::Failed(failure), .. }) => Err(failure),
    }
}

#[test]
fn conditions() {
    for (when, expected) in [
        ("request.method == 'DELETE' && !('root' in identity.scopes)", true),
        ("request.path == '/a/b' && request.host == 'users.test' && request.scheme == 'https'", true),
        ("request.path.startsWith('/b') || request.path.endsWith('/b')", true),
        ("request.path.contains('/b') && request.path.matches('^/a/[a-z]$')", true),
        ("request.headers['x-a'].contains('1, 2') && request.headers['x-one'] == '1'", true),
        ("('ho' + 'st') in request.headers || 'x-b' in request.headers", false),
        ("request.headers.exists(n, n == 'host') || size(request.headers) != 6", false),
        ("request.query.x == '1' && request.query['y'] == 'a b' && request.query.x2 == ''", true),
        ("'twice' in request.query && !('z' in request.query) && size(request.query) == 5", true),
        ("has(request.size) && request.size == 10", true),
        ("identity.kind == 'jwt' && identity.subject == 'ann' && identity.issuer == 'https://i'", true),
        ("identity.claims.tenant == 'acme' && identity.claims.staff && identity.claims.none == null", true),
        ("identity.claims.roles[1] == 'ops' && 'dev' in identity.claims.roles && 7 in identity.claims.roles", true),
        ("identity.claims.deep.a.b == 'c' && has(identity.claims.deep.a) && !has(identity.claims.deep.b)", true),
        ("identity.claims.level >= 3 && identity.claims.part > 2 && identity.claims.level != 3.5", true),
        ("identity.claims.big > 9223372036854775807 && identity.claims.big == identity.claims.big", true),
        ("identity.claims.big == identity.claims.other_big", false),
        ("string(identity.claims.big) == '18446744073709551615' && identity.claims.big < 18446744073709551616.0", true),
        ("9007199254740993 == 9007199254740992.0 || 2 >= 2.5 || -1 <= -1.5", false),
        ("identity.claims.level == 'acme'", false),
        ("identity.scopes.exists(s, s == 'admin') && identity.scopes.all(s, size(s) < 6)", true),
        ("identity.scopes.exists_one(s, s.startsWith('a')) && size(identity.scopes.filter(s, s == 'x')) == 0", true),
        ("'read!' in identity.scopes.map(s, s + '!') && [1, 2, 3].map(n, n > 1, n * n)[1] == 9", true),
        ("identity.claims.exists(key, key == 'tenant') && request.headers.exists(n, n == 'x-a')", true),
        ("cidr('10.1.0.0/16').containsIP(client.address) && client.address == '10.1.2.3'", true),
        ("cidr('2001:db8::/32').containsIP('2001:db8::1') && !cidr('10.0.0.0/8').containsIP('::1')", true),
        ("cidr('10.0.0.0/8').containsIP('::ffff:10.1.1.1')", true),
        ("now > timestamp('2026-02-28T23:00:00Z') && now < timestamp('2026-03-01T01:00:00+01:00')", true),
        ("now.getDayOfWeek() == 6 && now.getDayOfWeek('+01:00') == 0 && now.getHours('-01:00') == 22", true),
        (
            "now - timestamp('2026-02-28T23:00:00Z') == duration('30m') && (now + duration('1h')).getMonth('UTC') == 2",
            true,
        ),
        ("duration('90m').getHours() == 1 && -duration('1s') < duration('0s')", true),
        ("7 / 2 == 3 && -7 % 3 == -1 && 1.5 * 2.0 == 3.0 && 2 * 3 - 1 == 5", true),
        ("int('12') + int(2.9) == 14 && double('1.5') == 1.5 && string(12) + string(true) == '12true'", true),
        (
            "'aBc'.lowerAscii() == 'abc' && 'aBc'.upperAscii() == 'ABC' && ' a '.trim() == 'a' && size('Zo\u{eb}') == 3",
            true,
        ),
        ("request.method in ['PUT', 'DELETE'] ? identity.claims.level == 3 : false", true),
        // What decides does so beside what has no value.
        ("identity.claims.missing == 1 || true", true),
        ("true || identity.claims.missing == 1", true),
        ("identity.claims.missing == 1 && false", false),
        ("identity.claims.roles.exists(r, r.startsWith('o'))", true),
        ("[true, true].all(b, b) && identity.claims.mixed.exists(m, m) && !identity.claims.mixed.all(m, m)", true),
        ("has(request.headers.cookie) && request.headers['cookie'].matches('(^|; )b=2(;|$)')", true),
        ("('X-' + 'ONE') in request.headers || has(request.headers.none)", false),
    ] {
        assert_eq!(holds(when), Ok(expected), "{when}");
    }
}

/// What has no value denies the request, whatever the rule would do.
#[test]
fn a_condition_without_a_value_denies() {
    for (when, expected) in [
        ("identity.claims.missing == 1", RuleFailure::MissingKey),
        ("request.headers['x-b'] == ''", RuleFailure::MissingKey),
        ("request.query.z == ''", RuleFailure::MissingKey),
        ("request.query.twice == '1'", RuleFailure::Several),
        ("request.headers['x-a'] == '1, 2'", RuleFailure::Several),
        ("request.headers['x-a'].lowerAscii() == '1'", RuleFailure::Several),
        ("(true ? request.headers['x-a'] : '') == '1' || '1' in [request.headers['x-a']]", RuleFailure::Several),
        ("request.headers.exists(n, n == 'x-a' && request.headers[n] == '1')", RuleFailure::Several),
        ("request.headers['x-a'] + '' != '1' || request.headers['x-a'] < '1'", RuleFailure::Several),
        ("request.headers['ho' + 'st'] == '' || request.headers['X-' + 'A'] == '1'", RuleFailure::MissingKey),
        ("identity.claims.roles.all(r, r)", RuleFailure::Type),
        ("'1' != request.headers['x-a'] || request.headers['x-a'] in ['1']", RuleFailure::Several),
        ("double('nan') > 100.0", RuleFailure::Form),
        ("double('inf') > 100.0 || double('1e999') > 1.0", RuleFailure::Form),
        ("1.0 / 0.0 > 1.0", RuleFailure::Overflow),
        ("0.0 / 0.0 != 0.0", RuleFailure::Overflow),
        ("int(identity.claims.big) == 1", RuleFailure::Overflow),
        ("request.headers['x-raw'] == ''", RuleFailure::Encoding),
        ("identity.claims.roles[9] == 1 || identity.claims.roles[-1] == 1", RuleFailure::MissingItem),
        ("identity.claims.tenant > 1", RuleFailure::Type),
        ("identity.claims.tenant", RuleFailure::Type),
        ("identity.claims.tenant.a == 1", RuleFailure::Type),
        ("identity.claims.level.startsWith('a')", RuleFailure::Type),
        ("identity.claims.deep == identity.claims.deep", RuleFailure::Type),
        ("identity.claims.roles.all(r, r.size() > 0)", RuleFailure::Type),
        ("!identity.claims.tenant", RuleFailure::Type),
        ("9223372036854775807 + 1 > 0", RuleFailure::Overflow),
        ("-9223372036854775807 - 2 < 0", RuleFailure::Overflow),
        ("9223372036854775807 * 2 > 0", RuleFailure::Overflow),
        ("-(-9223372036854775807 - 1) > 0", RuleFailure::Overflow),
        ("(-9223372036854775807 - 1) / -1 > 0", RuleFailure::Overflow),
        ("(-9223372036854775807 - 1) % -1 == 0", RuleFailure::Overflow),
        ("1 / 0 == 1", RuleFailure::Division),
        ("1 % (request.size - 10) == 1", RuleFailure::Division),
        ("int(1e300) == 1", RuleFailure::Overflow),
        ("int(0.0 / 0.0) == 1", RuleFailure::Overflow),
        ("now + duration('99999999h') > now", RuleFailure::Overflow),
        ("timestamp('9999-12-31T23:59:59Z') + duration('1s') > now", RuleFailure::Overflow),
        ("timestamp('0001-01-01T00:00:00Z') - duration('1s') < now", RuleFailure::Overflow),
        ("int('1e3') == 1000", RuleFailure::Form),
        ("cidr('10.0.0.0/8').containsIP(request.host)", RuleFailure::Form),
        ("[1, 2].exists(n, n / 0 == 1)", RuleFailure::Division),
    ] {
        assert_eq!(holds(when), Err(expected), "{when}");
        let allows = rule(when, &[("x-a", "'a'")], None, Some(RuleEnd::Allow));
        let refusal = decide(&of(vec![allows], Vec::new()), |_| {}).unwrap_err();
        assert_eq!(
            (refusal.status(), refusal.cause),
            (StatusCode::FORBIDDEN, RefusalCause::Failed(expected)),
            "{when}"
        );
    }
    let unknown = decide(&of(vec![denies("request.size > 1")], Vec::new()), |input| input.size = None);
    assert_eq!(unknown.unwrap_err().cause, RefusalCause::Failed(RuleFailure::UnknownSize));
}

/// Whatever an expression is, its cost has a bound; and beyond it nothing is decided by what is left.
#[test]
fn the_cost_is_bounded() {
    let twice = format!("[{}]", (0..200).map(|n| n.to_string()).collect::<Vec<_>>().join(","));
    let (text, half) = ("request.headers['x-long']", "request.headers['x-half']");
    for when in [
        format!("{twice}.all(a, {twice}.all(b, a + b >= 0)) || true"),
        format!("{twice}.map(a, {twice}.map(b, string(a) + string(b))).size() > 0 || true"),
        format!("{twice}.exists(a, {text}.contains(string(a) + 'c')) || true"),
        format!("{twice}.filter(a, {text}.matches('(a|ab)*c')).size() > 0 || true"),
        format!("{twice}.map(a, {half} + {half}).size() > 0 || true"),
        format!("[{half} + {half}].map(big, {twice}.map(n, big)).size() > 0 || true"),
    ] {
        let start = Instant::now();
        assert_eq!(holds(&when), Err(RuleFailure::Cost), "{when}");
        // A machine that is busy is no failure; one that computes for a minute is.
        assert!(start.elapsed() < Duration::from_secs(20), "{when}");
    }
    assert_eq!(holds(&format!("{text} + {text} == ''")), Err(RuleFailure::TooLarge));
    // The budget is that of all rules of a request.
    let once = format!("{twice}.all(a, a < 0 || a < 201)");
    assert_eq!(decide(&of(vec![rule(&once, &[], Some("v"), None)], Vec::new()), |_| {}).unwrap().1, Some("v".into()));
    let many = of((0..100).map(|_| rule(&once, &[], Some("v"), None)).collect(), Vec::new());
    assert_eq!(decide(&many, |_| {}).unwrap_err().cause, RefusalCause::Failed(RuleFailure::Cost));
}

/// The rules of the route come first; `allow` and `deny` end the list, and the first rule decides about a header or the version.
#[test]
fn the_first_rule_decides() {
    let sets = |when: &str, text: &str| rule(when, &[("x-tier", text)], None, None);
    let allow = Some(RuleEnd::Allow);
    let route = vec![sets("identity.claims.level > 5", "'gold'"), sets("identity.claims.level > 2", "'silver'")];
    let service = vec![rule("true", &[("x-tier", "'none'"), ("x-who", "identity.claims.name")], Some("canary"), None)];
    let both = of(service.clone(), route);
    let tier = [("x-tier".to_owned(), "silver".to_owned()), ("x-who".to_owned(), "Zo%C3%AB%201%0D%0A".to_owned())];
    assert_eq!(decide(&both, |_| {}), Ok((tier.to_vec(), Some("canary".into()))));
    assert!(both.decide(0, &RuleInput { ..input_of() }).is_ok());
    // `allow` ends all.
    let ended = of(vec![denies("true")], vec![rule("request.method == 'DELETE'", &[], None, allow.clone())]);
    assert_eq!(decide(&ended, |_| {}), Ok((Vec::new(), None)));
    let refusal = decide(&ended, |input| input.method = &Method::GET).unwrap_err();
    assert_eq!((refusal.detail(), refusal.place.of_route), ("rule 1".to_owned(), false));
    // A call has no route, so that only the rules of the service are for it.
    let call = decide(&of(service, vec![denies("true")]), |_| {}).unwrap_err();
    assert_eq!(call.detail(), "rule 1 of the route");
    // What a header cannot have denies the request.
    let long = of(vec![rule("true", &[("x-a", "request.headers['x-long']")], None, None)], Vec::new());
    assert_eq!(decide(&long, |_| {}).unwrap_err().cause, RefusalCause::Failed(RuleFailure::TooLarge));
}

fn input_of() -> RuleInput<'static> {
    static METHOD: Method = Method::GET;
    static PLACE: std::sync::LazyLock<(Uri, HeaderMap, Identity)> =
        std::sync::LazyLock::new(|| (Uri::from_static("http://h/"), HeaderMap::new(), identity()));
    let (uri, headers, identity) = &*PLACE;
    RuleInput {
        method: &METHOD,
        uri,
        path: "/",
        headers,
        size: None,
        identity: Some(identity),
        sender: RequestSender::Host,
        client: CLIENT,
        claimed: None,
        now: UNIX_EPOCH,
    }
}

#[test]
fn senders_without_credentials() {
    let rules = of(
        vec![
            rule("identity.kind == 'call' && identity.subject == 'orders'", &[], Some("call"), Some(RuleEnd::Allow)),
            rule("identity.kind == 'host' && identity.subject == 'lodge'", &[], Some("host"), Some(RuleEnd::Allow)),
            rule(
                "identity.kind == 'anonymous' && identity.subject == '' && identity.issuer == ''",
                &[],
                Some("none"),
                None,
            ),
            denies(
                "size(identity.scopes) > 0 || has(identity.claims.sub) || 'a' in identity.claims || size(identity.claims) > 0",
            ),
        ],
        Vec::new(),
    );
    for (sender, expected) in [
        (RequestSender::Service("orders"), "call"),
        (RequestSender::Host, "host"),
        (RequestSender::Client(None), "none"),
    ] {
        let decided = decide(&rules, |input| (input.identity, input.sender) = (None, sender)).unwrap();
        assert_eq!(decided.1.as_deref(), Some(expected));
    }
    let refusal = decide(&rules, |input| (input.identity, input.sender) = (None, RequestSender::Service("other")));
    assert_eq!(refusal, Ok((Vec::new(), None)));
    for method in AuthMethod::ALL {
        denies(&format!("identity.kind == '{}'", method.name()));
    }
}

/// A request with two addresses needs both of them allowed, if a rule names the address.
#[test]
fn a_claimed_address_counts_as_well() {
    let rules = of(vec![denies("!cidr('10.0.0.0/8').containsIP(client.address)")], Vec::new());
    let claimed =
        |rules: &RuleSet, claimed: &str| decide(rules, |input| input.claimed = Some(claimed.parse().unwrap())).is_ok();
    assert_eq!((claimed(&rules, "10.9.9.9"), claimed(&rules, "192.0.2.1")), (true, false));
    let other = of(vec![denies("request.method == 'GET'")], Vec::new());
    assert!(claimed(&other, "192.0.2.1"));
}

#[test]
fn nobody_else_writes_the_headers_of_rules() {
    let rules = of(vec![rule("false", &[("x-tier", "'a'"), ("x-the-tenant", "'a'")], None, None)], Vec::new());
    let mut headers = HeaderMap::new();
    for name in ["x-tier", "X_Tier", "x_the-tenant", "x-the_tenant", "x-tiers", "xtier", "cookie"] {
        headers.append(HeaderName::try_from(name).unwrap(), HeaderValue::from_static("forged"));
    }
    headers.append("x-tier", HeaderValue::from_static("again"));
    rules.remove_forged(&mut headers);
    let mut left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
    left.sort_unstable();
    assert_eq!(left, ["cookie", "x-tiers", "xtier"]);
}

#[test]
fn failures_are_logged_once_a_minute() {
    let rules = of(vec![denies("true")], Vec::new());
    let at = |second: u64| UNIX_EPOCH + Duration::from_secs(1_000_000 + second);
    assert_eq!([0, 1, 59, 60, 61].map(|second| rules.may_log(at(second))), [true, false, false, true, false]);
}

proptest! {
    /// Any text that is an expression has the same value twice, and none ends the host.
    #[test]
    fn any_text_is_read_and_evaluated(
        parts in proptest::collection::vec(proptest::sample::select(&PARTS[..]), 1..30),
        noise in "[ -~]{0,20}",
    ) {
        for text in [parts.concat(), parts.join(" "), format!("{}{noise}", parts.join(" "))] {
            let seed = format!("http://h.test/a?a=1\nx-a: 1\n\n{text}");
            fuzz::rule(seed.as_bytes());
        }
    }
}

const PARTS: [&str; 40] = [
    "request",
    ".method",
    ".path",
    "request.query",
    "['a']",
    ".a",
    "identity.scopes",
    "identity.claims",
    "client.address",
    "now",
    "(",
    ")",
    "[",
    "]",
    ",",
    "==",
    "!=",
    "<",
    "&&",
    "||",
    "!",
    "-",
    "+",
    "%",
    "/",
    "in",
    "?",
    ":",
    "1",
    "0",
    "1.5",
    "'a'",
    "true",
    ".exists(x, x == ",
    ".map(x, x + ",
    ".matches('a*')",
    "size(",
    ".getHours()",
    "duration('1h')",
    "null",
];
