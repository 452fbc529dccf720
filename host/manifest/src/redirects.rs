//! `redirects`: paths whose content is elsewhere now.

use std::borrow::Cow;

use http::{HeaderValue, StatusCode, Uri};
use serde_json::{Value, json};

use crate::Manifest;
use crate::route::Segment;
use crate::routes::read_host;
use crate::schema;
use crate::section::{Owner, Section};
use crate::written::{Problems, Written};
use lodge_base::canonical;

/// The most redirects of a service. All of them are compared with the path of a request.
const MOST: usize = 100;

/// The most bytes of a target.
const TARGET: usize = 2_048;

const STATUSES: [u32; 5] = [301, 302, 303, 307, 308];

const KEYS: [&str; 4] = ["from", "to", "status", "host"];

/// `redirects`.
pub(crate) const SECTION: Section = Section {
    name: "redirects",
    page: "front",
    schema: redirects_schema,
    owner: Owner::Service(read),
    ..Section::DEFAULT
};

fn redirects_schema() -> Value {
    let text = |help: &str| json!({ "type": "string", "description": help });
    let from = schema::described(schema::path(), "the path: `{name}` is any segment, and `/*` at its end all below it");
    let item = schema::table(
        &["from", "to"],
        json!({
            "from": from,
            "to": text("a path or URL, with the `{name}` and `*` of `from` in its path"),
            "status": { "enum": STATUSES, "default": 308 },
            "host": text("only requests for this host"),
        }),
    );
    json!({ "type": "array", "maxItems": MOST, "items": item, "description": "paths whose content is elsewhere now" })
}

/// A redirect. A comparable value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// The host that requests must have; `None` for any.
    host: Option<String>,
    from: Vec<Segment>,
    /// Whether all paths below `from` are redirected, and not itself.
    below: bool,
    to: Vec<TargetPart>,
    /// Whether the target has a query of its own, in place of that of the request.
    has_query: bool,
    /// The status of the response.
    pub status: StatusCode,
}

/// A part of a target.
#[derive(Clone, Debug, PartialEq, Eq)]
enum TargetPart {
    Text(String),
    /// The segment with this number in `from`.
    Segment(usize),
    /// What follows `from`.
    Rest,
}

impl Redirect {
    /// Returns the target for a request, whose host and path are in canonical form; `None` if it is not redirected.
    pub fn location(&self, host: &str, path: &str, query: Option<&str>) -> Option<HeaderValue> {
        if self.host.as_deref().is_some_and(|own| own != host) {
            return None;
        }
        let (mut rest, mut found) = (path.strip_prefix('/')?, Vec::new());
        for (at, pattern) in self.from.iter().enumerate() {
            let (segment, after) = rest.split_once('/').map_or((rest, None), |(segment, after)| (segment, Some(after)));
            let same = match pattern {
                Segment::Parameter(_) => !segment.is_empty(),
                Segment::Name(name) if segment.contains('%') => canonical::comparable(segment) == *name,
                Segment::Name(name) => segment == name,
            };
            let last = at + 1 == self.from.len();
            if !same || after.is_none() != (last && !self.below) {
                return None;
            }
            found.push(segment);
            rest = after.unwrap_or_default();
        }
        // Empty: of `/old//x`, nothing is below `/old`. Else the target could begin with the host of another site.
        if (!self.below && !rest.is_empty()) || rest.starts_with('/') {
            return None;
        }
        let mut location = String::new();
        for piece in &self.to {
            match piece {
                TargetPart::Text(text) => location.push_str(text),
                TargetPart::Segment(at) => location.push_str(&encoded(found.get(*at)?)),
                TargetPart::Rest => location.push_str(&encoded(rest)),
            }
        }
        if let Some(query) = query.filter(|_| !self.has_query) {
            location.push('?');
            location.push_str(query);
        }
        HeaderValue::try_from(location).ok()
    }
}

/// Browsers read `\` as `/`.
fn encoded(text: &str) -> Cow<'_, str> {
    if text.contains('\\') { text.replace('\\', "%5C").into() } else { text.into() }
}

fn read(manifest: &mut Manifest, written: &Written<'_>, problems: &mut Problems) {
    const FORM: &str = "write a list, like [{ from = \"/old\", to = \"/new\" }]";
    let items = written.items(FORM).map_err(|_| written.error(FORM));
    let items = problems.take(items).unwrap_or_default();
    if items.len() > MOST {
        problems.push(written.error(format!("{} redirects are more than {MOST}", items.len())));
    }
    manifest.redirects = items.iter().filter_map(|item| redirect(item, problems)).collect();
}

fn redirect(item: &Written<'_>, problems: &mut Problems) -> Option<Redirect> {
    let Some(keys) = item.item() else {
        problems.push(item.error("a redirect is a table, like { from = \"/old\", to = \"/new\" }"));
        return None;
    };
    let (mut from, mut to, mut status, mut host) = (None, None, StatusCode::PERMANENT_REDIRECT, None);
    for key in &keys {
        match key.name.as_str() {
            "from" => from = Some((key, problems.take(key.string("write a path, like \"/old\""))?)),
            "to" => to = Some((key, problems.take(key.string("write a path or URL, like \"/new\""))?)),
            "status" => {
                let number = key.number(300..=399).ok().filter(|number| STATUSES.contains(number));
                let number = number.and_then(|number| StatusCode::from_u16(u16::try_from(number).ok()?).ok());
                status = problems.take(number.ok_or_else(|| key.error("write 301, 302, 303, 307 or 308")))?;
            }
            "host" => host = Some(problems.take(read_host(key))?),
            _ => problems.push(key.unknown("", &KEYS)),
        }
    }
    let (Some((from_key, from)), Some((to_key, to))) = (from, to) else {
        problems.push(item.at("a redirect needs `from` and `to`"));
        return None;
    };
    if from == to {
        problems.push(to_key.at(format!("the redirect from `{from}` leads to itself")));
        return None;
    }
    let (from, below) = problems.take(read_from(from).ok_or_else(|| {
        from_key.error(format!("`{from}` is not a path like \"/old\", \"/old/{{id}}\" or \"/old/*\""))
    }))?;
    let (to, has_query) = problems.take(read_to(to, &from, below).map_err(|wrong| to_key.error(wrong)))?;
    Some(Redirect { host, from, below, to, has_query, status })
}

/// Reads the path of requests, and whether it stands for all below it.
fn read_from(text: &str) -> Option<(Vec<Segment>, bool)> {
    let path = text.strip_prefix('/')?;
    let (path, below) = match path.strip_suffix('*') {
        Some("") => ("", true),
        Some(path) if path.len() > 1 => (path.strip_suffix('/')?, true),
        _ => (path, false),
    };
    let segments = path.split('/').filter(|_| !path.is_empty()).map(Segment::read).collect::<Option<_>>()?;
    Some((segments, below))
}

/// Reads a target, and whether it has a query.
fn read_to(text: &str, from: &[Segment], below: bool) -> Result<(Vec<TargetPart>, bool), String> {
    let wrong = || format!("`{text}` is neither a path like \"/new\" nor a URL like \"https://example.com/new\"");
    let path = match text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")) {
        Some(rest) => rest.find('/').map_or(text.len(), |at| text.len() - rest.len() + at),
        None => 0,
    };
    let plain = text.replace(['{', '}', '*'], "x");
    let sound = plain.parse::<Uri>().is_ok_and(|uri| uri.authority().is_none_or(|own| !own.as_str().contains('@')));
    let doubtful = text.starts_with("//") || text.contains(['\\', '#']) || text.len() > TARGET;
    let (place, tail) = text.split_at_checked(path).ok_or_else(wrong)?;
    if !sound || doubtful || place.contains(['{', '}', '*']) || (path == 0 && !text.starts_with('/')) {
        return Err(wrong());
    }
    let (mut pieces, mut rest) = (vec![TargetPart::Text(place.to_owned())], tail);
    while let Some(at) = rest.find(['{', '*']) {
        let (before, after) = rest.split_at_checked(at).ok_or_else(wrong)?;
        pieces.push(TargetPart::Text(before.to_owned()));
        if let Some(after) = after.strip_prefix('*') {
            if !below || !after.is_empty() {
                return Err(format!("`{text}`: `*` is at the end, and so it must be in `from`"));
            }
            pieces.push(TargetPart::Rest);
            rest = after;
        } else {
            let (name, after) = after.strip_prefix('{').and_then(|after| after.split_once('}')).ok_or_else(wrong)?;
            let same = |segment: &Segment| matches!(segment, Segment::Parameter(own) if own == name);
            let at = from.iter().position(same).ok_or_else(|| format!("`{text}`: there is no {{{name}}} in `from`"))?;
            pieces.push(TargetPart::Segment(at));
            rest = after;
        }
    }
    pieces.push(TargetPart::Text(rest.to_owned()));
    pieces.retain(|piece| *piece != TargetPart::Text(String::new()));
    Ok((pieces, tail.contains('?')))
}

#[cfg(test)]
mod tests {
    use crate::tests::read as manifest;

    fn location(keys: &str, path: &str) -> Option<String> {
        let redirects = manifest(&format!("redirects = [{{ {keys} }}]")).unwrap().redirects;
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
            ("from = '/*', to = '/x/*'", "//evil.test"),
            ("from = '/{a}/*', to = '/{a}/x/*'", "//evil.test/x"),
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
}
