use super::*;

fn condition(text: &str) -> Result<Expression, String> {
    Expression::read(text, Purpose::Condition)
}

#[test]
fn conditions_are_read() {
    for text in [
        "true",
        "request.method == 'DELETE' && !('admin' in identity.scopes)",
        "request.path.startsWith(\"/admin/\") || request.path.matches('^/v[0-9]+/')",
        "request.headers['x-tier'] == 'gold'",
        "has(request.headers.accept) && \"x-a\" in request.headers",
        "request.query.a == '1' && int(request.query['b']) > 3",
        "has(request.size) && request.size <= 1024 * 1024",
        "identity.kind == 'jwt' && identity.claims.tenant == 'acme'",
        "identity.claims.roles.exists(role, role in ['a', 'b'])",
        "identity.claims.level >= 3 && identity.claims.level < 4.5",
        "cidr('10.0.0.0/8').containsIP(client.address)",
        "now >= timestamp('2030-01-31T08:00:00Z') && now.getDayOfWeek('+02:00') in [1, 2, 3, 4, 5]",
        "now - timestamp('2030-01-31T08:00:00Z') < duration('1h30m')",
        "identity.scopes.filter(s, s.startsWith('a')).size() == size(identity.scopes.map(s, s + '!'))",
        "4 in [1, 2].map(n, n > 1, n * 2) || true ? false : 1.5 > 1",
        "request.method\n  == 'GET' // as in comments of CEL",
        "identity.claims.a.b['c'][0].d",
    ] {
        let read = condition(text);
        assert!(read.is_ok(), "{text}: {read:?}");
        assert_eq!(read, condition(text));
    }
    let uses = condition("request.path == client.address && now == now && 'a'.matches('a')").unwrap().uses();
    assert_eq!(uses, Uses { path: true, address: true, clock: true });
    assert_eq!(condition("request.method == 'GET'").unwrap().uses(), Uses::default());
    let text = |text: &str| Expression::read(text, Purpose::Text);
    assert!(text("identity.subject").is_ok() && text("1 + 1").is_ok() && text("identity.claims.a").is_ok());
    assert_eq!(
        text("identity.scopes").unwrap_err(),
        "its type is list(string), and must be string, int, double or bool"
    );
}

/// Whatever is wrong is refused before any request, with its place and the way out.
#[test]
fn mistakes_have_a_place() {
    for (text, expected) in [
        ("request.methd == 'GET'", "column 8: unknown variable `request.methd`; did you mean `request.method`?"),
        ("reqest.method == 'GET'", "column 1: unknown variable `reqest`; did you mean `request`?"),
        ("identity.scopes.exist(s, true)", "unknown function `exist`; did you mean `exists`?"),
        ("request.method ==\n  methd", "line 2 of the text, column 3: unknown variable `methd`"),
        (
            "admin in identity.scopes",
            "column 1: unknown variable `admin`; there are `request`, `identity`, `client`, `now`, and text is quoted",
        ),
        ("request == 'x'", "`request` is not a value; write one of `request.method`"),
        ("request.method = 'GET'", "column 16: it is not an expression from here on; values are compared with `==`"),
        ("request.size > 1MiB", "from here on; sizes are bytes: `1048576` for `1MiB`"),
        ("request.size > 64KiB && 1MiB > 2", "sizes are bytes: `65536` for `64KiB`"),
        ("client.address in '10.0.0.0/8'", "write cidr(\"10.0.0.0/8\").containsIP(client.address)"),
        ("identity.scopes.contains('admin')", "list(string) has no contains(); write `a in list`"),
        ("request.size.startsWith('1')", "the type is int, and must be string"),
        ("request.method in 'GET'", "a text has no items; write a.contains(b)"),
        ("true and not false", "`&&` is written for `and`; `!` is written for `not`"),
        ("true or 'and = or' == 'a'", "from here on; `||` is written for `or`"),
        ("request.method in ('GET', 'PUT')", "a list has square brackets"),
        ("request.headers.user-agent == 'a'", "write request.headers[\"user-agent\"]"),
        ("'a' == '''a'''", "one quote at each end, not three"),
        ("identity.scopes == ['admin']", "lists and maps are not compared; write \"admin\" in identity.scopes"),
        ("identity.claims.roles != ['admin']", "lists and maps are not compared"),
        ("identity.scopes in identity.claims.all", "list(string) is not compared with items"),
        ("request.method == 'get'", "write `GET`"),
        ("'FETCH' != request.method", "there are `GET`"),
        ("request.method in ['GET', 'put']", "write `PUT`"),
        ("request.path == '/a b'", "write `/a%20b`"),
        ("request.path == '/mth/%61'", "write `/mth/a`"),
        ("request.path in ['/a', 'b']", "a path begins with `/`"),
        ("request.path == '/a/../b'", "write `/b`"),
        ("request.path.startsWith('/%61')", "write `/a`"),
        ("request.path.startsWith('a')", "a path begins with `/`"),
        ("identity.kind == 'user'", "there are `anonymous`"),
        ("request.scheme == 'HTTPS'", "it is `http` or `https`"),
        ("request.host == 'A.test'", "write `a.test`"),
        ("request.host == 'a.test:80'", "without a port"),
        ("client.address in ['10.0.0.0/8']", "write cidr("),
        ("client.address == '::ffff:10.0.0.1'", "write `10.0.0.1`"),
        ("1e999 > 1.0", "column 1"),
        ("request.method == 'GET", "column"),
        ("", "column 1"),
        ("1 +", "column"),
        ("request.method", "its type is string, and must be bool"),
        ("request.method == 1", "string cannot be compared with int"),
        ("request.size < '1'", "int cannot be compared with string"),
        ("identity.scopes < identity.scopes", "cannot be compared"),
        ("'a' && true", "column 1: the type is string, and must be bool"),
        ("request.method + 1 == 'a'", "no such operator for string and int"),
        ("1.5 % 2.0 == 0.0", "no such operator"),
        ("request.headers['X-Tier'] == 'a'", "no header is named `X-Tier`: names are in small letters"),
        ("'X-Tier' in request.headers", "names are in small letters"),
        ("has(request.headers.host)", "write request.host"),
        ("'host' in request.headers && request.method == 'GET'", "write request.host"),
        ("request.headers['host'] != 'admin.example'", "HTTP/2 has no such header; write request.host"),
        ("has(request.headers['x-a'])", "has() takes a key after a dot"),
        ("has(request.method)", "every request has this"),
        ("request.method.a == 1", "the type is string, which has no keys"),
        ("'a' in request.path", "write a.contains(b)"),
        ("1 in identity.scopes", "int is never in list(string)"),
        ("request.path.matches(request.query.a)", "a pattern must be quoted here"),
        ("request.path.matches('(a')", "it is not a pattern (RE2): unclosed group"),
        ("request.path.matches('(?=a)')", "look-around"),
        ("request.path.matches('(a)\\\\1')", "backreferences are not supported"),
        ("request.path.matches('((((a{1,99}){1,99}){1,99}){1,99})')", "the compiled pattern is over"),
        ("cidr('10.0.0.0/40').containsIP(client.address)", "column 6: write it quoted, like cidr("),
        ("cidr(request.host).containsIP(client.address)", "write it quoted"),
        ("client.address.containsIP('a')", "write it like cidr("),
        ("cidr('10.0.0.0/8')", "write it like cidr("),
        ("now > timestamp('tomorrow')", "timestamp(\"2030-01-31T08:00:00Z\")"),
        ("now > timestamp('99999-01-01T00:00:00Z')", "write it quoted"),
        ("now > timestamp(request.query.a)", "write it quoted"),
        ("now - now < duration('1y')", "in hours, minutes and seconds"),
        ("now.getHours('Europe/Paris') == 1", "names of zones are not supported"),
        ("duration('1h').getFullYear() == 1", "duration has no getFullYear()"),
        ("1u == 1u", "write a number without `u`"),
        ("b'a' == b'a'", "write text without `b`"),
        ("{'a': 1}['a'] == 1", "rules have no maps of their own"),
        ("Some{a: 1} == 1", "rules have no maps of their own"),
        ("99999999999999999999 > 1", "column"),
        ("[1].exists(now, true)", "`now` has a meaning already"),
        ("[1].exists(x, [1].exists(x, true))", "`x` has a meaning already"),
        ("[1].exists(x.y, true)", "write the name of a variable here"),
        ("[1].exists(true)", "write it like identity.scopes.exists("),
        ("[1].all(a, [1].all(b, [1].all(c, true)))", "more than 2 loops are inside of one another"),
        ("request.path.startsWith('/a', 'b')", "write it like request.path.startsWith("),
        ("size(1) == 1", "int has no size"),
        ("system('rm') == ''", "unknown function `system`"),
        ("a.?b == 1", "column"),
        ("dyn(1) == 1", "unknown function `dyn`"),
    ] {
        let problem = condition(text).unwrap_err();
        assert!(problem.contains(expected) && !problem.contains('\n'), "{text}: {problem}");
    }
}

/// Comments and raw text are no operators and no quotes.
#[test]
fn comments_and_raw_texts_are_known() {
    for text in [
        "true // it's ((((((((((((((((((((((((((((((((((\n && true",
        "request.query.a == r'\\' || request.query.a == '(((((((((((((((((((((((((((((((('",
        "request.path.matches(r'^/a\\.b$') // '",
    ] {
        let read = condition(text);
        assert!(read.is_ok(), "{text}: {read:?}");
    }
    for hides in ["true // '\n", "r'\\' == r'\\' && "] {
        let text = format!("{hides} {}true{}", "(".repeat(30), ")".repeat(30));
        assert!(condition(&text).unwrap_err().contains("brackets inside of one another"), "{text}");
    }
}

/// No expression makes the parser, the check or the evaluation recurse deeply, on the small stack of a test.
#[test]
fn deep_and_long_expressions_are_refused() {
    let nested = |open: &str, close: &str, times: usize| format!("{}true{}", open.repeat(times), close.repeat(times));
    for text in [
        nested("(", ")", 21),
        nested("(", ")", 900),
        nested("[", "]", 900),
        nested("!", "", 1_900),
        nested("-", "", 1_900),
        nested("true ? true : ", "", 130),
        nested("'a' + ", "", 300),
        nested("", " == true", 240),
        nested("", ".a", 200),
        nested("", ".exists(x, true)", 60),
        format!("identity.claims{}", ".a".repeat(240)),
        format!("identity.claims{} == 1", "[0]".repeat(120)),
        format!("{}1 == 1", "1 + ".repeat(200)),
        format!("request.method == '{}'", "a".repeat(2_000)),
        format!("[{}].exists(x, x)", vec!["true"; 201].join(",")),
        "'".repeat(1_000),
        "(".repeat(1_000),
        "\\".repeat(1_000),
        "in ".repeat(600),
    ] {
        let problem = condition(&text).unwrap_err();
        assert!(problem.len() < 2_500 && !problem.contains('\n'), "{text}: {problem}");
    }
    for text in [
        nested("(", ")", 19),
        nested("!", "", 30),
        vec!["request.method == 'GET'"; 60].join(" || "),
        vec!["true"; 240].join(" && "),
    ] {
        let read = condition(&text);
        assert!(read.is_ok(), "{text}: {read:?}");
    }
}
