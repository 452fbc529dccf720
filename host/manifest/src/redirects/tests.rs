use crate::tests::read as manifest;

fn location(keys: &str, path: &str) -> Option<String> {
    let redirects = manifest(&format!("routes = ['/*']\nredirects = [{{ {keys} }}]")).unwrap().redirects;
    let (path, query) = path.split_once('?').map_or((path, None), |(path, query)| (path, Some(query)));
    redirects[0].location("a.test", path, query).map(|value| value.to_str().unwrap().to_owned())
}

#[test]
fn paths_are_redirected() {
    let check = |keys: &str, cases: &[(&str, Option<&str>)]| {
        for (path, expected) in cases {
            assert_eq!(location(keys, path).as_deref(), *expected, "{keys}: {path}");
        }
    };
    let exact = "from = '/old', to = '/new'";
    check(exact, &[("/old", Some("/new")), ("/old?a=b", Some("/new?a=b")), ("/%6fld", Some("/new"))]);
    check(exact, &[("/old/", None), ("/old/x", None), ("/older", None), ("/", None), ("/x/old", None)]);
    check("from = '/', to = '/home'", &[("/", Some("/home")), ("/a", None)]);
    let below = "from = '/blog/*', to = 'https://blog.test/posts/*'";
    check(
        below,
        &[("/blog/a/b?c", Some("https://blog.test/posts/a/b?c")), ("/blog/", Some("https://blog.test/posts/"))],
    );
    check(below, &[("/blog", None), ("/blog//a", None), ("/blogs/a", None)]);
    check(
        "from = '/*', to = 'https://b.test/*'",
        &[("/", Some("https://b.test/")), ("/a/", Some("https://b.test/a/"))],
    );
    let parts = "from = '/u/{id}/p/{post}', to = '/posts/{post}?by={id}'";
    check(parts, &[("/u/7/p/%C3%A4", Some("/posts/%C3%A4?by=7")), ("/u/7/p/1?x", Some("/posts/1?by=7"))]);
    check(parts, &[("/u//p/1", None), ("/u/7/p/", None), ("/u/7/p/1/2", None), ("/u/7/p", None)]);
    check("from = '/a', to = '/b', host = 'a.test'", &[("/a", Some("/b"))]);
    check("from = '/a', to = '/b', host = 'b.test'", &[("/a", None)]);
}

/// No request decides to which site it is redirected.
#[test]
fn clients_do_not_choose_the_site() {
    for (keys, path) in [
        ("from = '/old/*', to = '/*'", "/old//evil.test"),
        ("from = '/old/*', to = '/*'", "/old///evil.test"),
        ("from = '/*', to = 'https://b.test/*'", "//evil.test"),
        ("from = '/{a}/*', to = '/{a}'", "//evil.test/x"),
    ] {
        assert_eq!(location(keys, path), None, "{keys}: {path}");
    }
    for (path, expected) in [
        ("/old/\\evil.test", "/%5Cevil.test"),
        ("/old/\\/evil.test", "/%5C/evil.test"),
        ("/old/%2Fevil.test", "/%2Fevil.test"),
        ("/old/https://evil.test", "/https://evil.test"),
        ("/old/@evil.test", "/@evil.test"),
    ] {
        assert_eq!(location("from = '/old/*', to = '/*'", path).as_deref(), Some(expected), "{path}");
    }
}

#[test]
fn problems_name_the_key() {
    let check = |keys: &str, expected: &str| {
        let problem = manifest(&format!("redirects = [{{ {keys} }}]")).unwrap_err();
        assert!(problem.contains(expected), "{keys}: {problem}");
    };
    for to in [
        "new",
        "//evil.test",
        "/\\\\evil.test",
        "https://{a}.test/",
        "https://a*",
        "ftp://a/",
        "/a b",
        "/a#b",
        "",
        "/a}{",
        "https://u@a.test/",
    ] {
        assert!(manifest(&format!("redirects = [{{ from = '/{{a}}/*', to = \"{to}\" }}]")).is_err(), "{to}");
    }
    for from in ["old", "", "/a*", "/*/a", "/a/../b", "/a//b", "/a?b", "/a/", "//*", "/a//*", "/**"] {
        check(&format!("from = '{from}', to = '/x'"), "is not a path like");
    }
    check("from = '/a', to = '/*'", "`*` is at the end, and so it must be in `from`");
    check("from = '/a/*', to = '/*/b'", "`*` is at the end");
    check("from = '/{a}', to = '/{b}'", "there is no {b} in `from`");
    check("from = '/a', to = '/a'", "leads to itself");
    check("from = '/a'", "a redirect needs `from` and `to`");
    check("from = '/a', to = '/b', status = 200", "write 301, 302, 303, 307 or 308");
    check("from = '/a', to = '/b', code = 301", "unknown key `code`");
    check("from = '/a', to = '/b', host = 'a b'", "host `a b`");
    let problem = |text: &str| manifest(text).unwrap_err();
    assert!(problem("redirects = '/a'").contains("a redirect is a table"));
    assert!(problem("redirects = true").contains("write a list"));
    let many = "{ from = '/a', to = '/b' },".repeat(101);
    assert!(problem(&format!("redirects = [{many}]")).contains("101 redirects are more than 100"));
    let version = manifest("").unwrap().version("redirects = []", 1 << 30).unwrap_err();
    assert!(version[0].contains("a version cannot set this"), "{version:?}");
}

/// A request cannot add a parameter to the target, nor make it long without bound.
#[test]
fn clients_add_no_parameters() {
    let parts = "from = '/u/{id}/*', to = '/n/{id}?by={id}&safe=1&next=*'";
    for (path, expected) in [
        ("/u/7/a/b", "/n/7?by=7&safe=1&next=a/b"),
        ("/u/7&admin=1/a", "/n/7&admin=1?by=7%26admin%3D1&safe=1&next=a"),
        ("/u/7/a&evil=1;x+y", "/n/7?by=7&safe=1&next=a%26evil%3D1%3Bx%2By"),
        ("/u/%26/%3D", "/n/%26?by=%26&safe=1&next=%3D"),
    ] {
        assert_eq!(location(parts, path).as_deref(), Some(expected), "{path}");
    }
    let often = format!("from = '/{{a}}', to = '/x/{}'", "{a}".repeat(20));
    assert_eq!(location(&often, &format!("/{}", "x".repeat(400))).unwrap().len(), 8_003);
    assert_eq!(location(&often, &format!("/{}", "x".repeat(500))), None);
}

#[test]
fn redirects_come_to_an_end() {
    let problem = |redirects: &str| manifest(&format!("routes = ['/*']\nredirects = [{redirects}]")).err();
    for redirects in [
        "{ from = '/a', to = '/b' }, { from = '/b', to = '/c' }, { from = '/c', to = '/d' }",
        "{ from = '/a/*', to = '/b/*' }",
        "{ from = '/*', to = 'https://b.test/*', host = 'a.test' }",
        "{ from = '/a/{id}', to = '/a/{id}/x' }",
        "{ from = '/', to = '/home' }",
    ] {
        assert_eq!(problem(redirects), None, "{redirects}");
    }
    for redirects in [
        "{ from = '/x', to = '/y' }, { from = '/y', to = '/x' }",
        "{ from = '/q', to = '/q?z=1' }",
        "{ from = '/a/*', to = '/a/b/*' }",
        "{ from = '/{any}', to = '/z' }",
        "{ from = '/*', to = 'https://a.test/x/*', host = 'a.test' }",
    ] {
        let problem = problem(redirects).unwrap_or_else(|| panic!("{redirects}"));
        assert!(problem.contains("leads back to itself"), "{problem}");
    }
}

#[test]
fn redirects_need_a_route() {
    let unreachable = |routes: &str, keys: &str| {
        manifest(&format!("routes = [{routes}]\nredirects = [{{ {keys}, to = \"/new\" }}]")).err()
    };
    for (routes, keys) in [
        ("\"/*\"", "from = \"/old\""),
        ("\"/shop\"", "from = \"/shop/old\""),
        ("\"/shop/cart\"", "from = \"/shop/*\""),
        ("\"/{any}/cart\"", "from = \"/shop/cart\""),
        ("\"/other\", \"/old\"", "from = \"/old\""),
        ("{ path = \"/*\", host = \"a.test\" }", "from = \"/old\""),
        ("", "from = \"/old\""),
    ] {
        assert_eq!(unreachable(routes, keys), None, "{routes}: {keys}");
    }
    for (routes, keys, shown) in [
        ("\"/shop\"", "from = \"/old\"", "`/old`"),
        ("\"/shop/cart\"", "from = \"/shop\"", "`/shop`"),
        ("\"/\"", "from = \"/{a}/*\"", "`/{a}/*`"),
        ("{ path = \"/*\", host = \"a.test\" }", "from = \"/\", host = \"b.test\"", "`b.test/`"),
    ] {
        let problem = unreachable(routes, keys).unwrap_or_else(|| panic!("{routes}: {keys}"));
        assert!(problem.contains(&format!("no route of the service leads to {shown}")), "{problem}");
    }
}

/// A redirect that no request reaches is a mistake, and so is the same one twice.
#[test]
fn redirects_that_are_never_used() {
    let check = |all: &[&str], shadowed: Option<&str>| {
        let item = |(number, from): (usize, &&str)| match from.split_once(' ') {
            Some((host, from)) => format!("{{ host = '{host}', from = '{from}', to = '/t{number}' }}"),
            None => format!("{{ from = '{from}', to = '/t{number}' }}"),
        };
        let items: Vec<_> = all.iter().enumerate().map(item).collect();
        let read = manifest(&format!("routes = ['/*']\nredirects = [{}]", items.join(", ")));
        match shadowed {
            Some(told) => {
                assert!(read.is_err_and(|why| why.contains(&format!("redirects: the one from {told}"))), "{all:?}")
            }
            None => assert!(read.is_ok(), "{all:?}: {read:?}"),
        }
    };
    check(&["/a", "/a"], Some("`/a` is never used, since that from `/a` is before it"));
    check(&["/a/*", "/a/b"], Some("`/a/b` is never used, since that from `/a/*`"));
    check(&["/a/*", "/a/b/*"], Some("`/a/b/*` is never used"));
    check(&["/{x}/b", "/a/b"], Some("`/a/b` is never used, since that from `/{x}/b`"));
    check(&["/{x}", "/{y}"], Some("`/{y}` is never used"));
    check(&["/a", "a.test /a"], Some("`a.test/a` is never used"));
    check(&["/a/*", "/a"], None);
    check(&["/a", "/a/*"], None);
    check(&["/a/b", "/a/*"], None);
    check(&["/a/b", "/{x}/b"], None);
    check(&["a.test /a", "/a"], None);
    check(&["a.test /a", "b.test /a"], None);
    check(&["/a/b", "/a"], None);
}

/// Hints for what others write.
#[test]
fn a_slash_at_the_end_is_explained() {
    let why = manifest("routes = ['/*']\nredirects = [{ from = '/a/', to = '/b' }]").unwrap_err();
    assert!(why.contains("; write `/a` for this path alone, `/a/*` for all below it, also `/a/`"), "{why}");
}
