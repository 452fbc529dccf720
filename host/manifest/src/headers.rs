//! `[headers]`: what the host changes in the heads of requests and responses.

use std::sync::Arc;

use http::header::{self, HeaderName, HeaderValue};
use serde_json::{Value, json};

use crate::Manifest;
use crate::schema;
use crate::section::{Owner, Section, View, words};
use crate::written::{Problems, Written};
use lodge_base::headers::is_same;

/// The most headers in a list or table.
const MOST: usize = 50;

/// The most bytes of a value.
const VALUE: usize = 4 << 10;

/// Headers that belong to a connection, to the framing of a message or to what the host does itself. With [`PREFIXES`].
const OWN: [HeaderName; 24] = [
    header::AGE,
    header::ALLOW,
    HeaderName::from_static("cache-status"),
    header::CONNECTION,
    header::CONTENT_ENCODING,
    header::CONTENT_LENGTH,
    header::CONTENT_RANGE,
    header::DATE,
    header::EXPECT,
    header::FORWARDED,
    header::HOST,
    HeaderName::from_static("http2-settings"),
    HeaderName::from_static("keep-alive"),
    header::LOCATION,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    HeaderName::from_static("proxy-connection"),
    header::RETRY_AFTER,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::VIA,
    header::WWW_AUTHENTICATE,
];

/// Headers by which a client says which form of a response it takes. A response in another form is of no use to it.
const ASKING: [HeaderName; 7] = [
    header::ACCEPT_ENCODING,
    header::IF_MATCH,
    header::IF_MODIFIED_SINCE,
    header::IF_NONE_MATCH,
    header::IF_RANGE,
    header::IF_UNMODIFIED_SINCE,
    header::RANGE,
];

const PREFIXES: [&str; 4] = ["x-lodge-", "x-forwarded-", "access-control-", "x-request-id"];

/// `[headers]`.
pub(crate) const SECTION: Section = Section {
    name: "headers",
    page: "front",
    schema: || {
        let text = json!({ "type": "string" });
        let set = json!({ "type": "object", "additionalProperties": text });
        let add = json!({ "type": "object", "additionalProperties": schema::texts(text.clone()) });
        let remove = schema::texts(text);
        let mut table = schema::table(&[], json!({}));
        let security = json!({ "type": "boolean", "default": false });
        for (name, schema, help) in [
            ("security", security, "whether responses tell browsers to be strict"),
            ("request.set", set.clone(), "headers that requests get in place of those that they have"),
            ("request.remove", remove.clone(), "headers that requests lose, one or a list"),
            ("response.set", set, "headers that responses get in place of those that they have"),
            ("response.add", add, "headers that responses get besides those that they have; values, or lists of them"),
            ("response.remove", remove, "headers that responses lose, one or a list"),
        ] {
            schema::add(&mut table, name, schema::described(schema, help));
        }
        table
    },
    owner: Owner::Route(|settings, written, problems| settings.headers = read(written, problems).map(Arc::new)),
    view: Some(View { label: "headers", value: view, text: words }),
    ..Section::DEFAULT
};

/// The changes to the heads of the requests and responses of a route. A comparable value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderRules {
    /// Whether responses tell browsers to be strict.
    pub security: bool,
    /// The changes to requests.
    pub request: HeaderChanges,
    /// The changes to responses.
    pub response: HeaderChanges,
    /// Whether `security` is that of the service: a route has rules of its own, and none for it. Only while a manifest is read.
    inherits: bool,
}

/// HeaderChanges to the headers of a message, in the order in which they are applied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderChanges {
    /// Headers that are removed.
    pub remove: Vec<HeaderName>,
    /// Headers with one value, in place of those that are there.
    pub set: Vec<(HeaderName, HeaderValue)>,
    /// Headers with a further value.
    pub add: Vec<(HeaderName, HeaderValue)>,
}

impl HeaderChanges {
    /// Whether a service gets a header of a request from these changes alone, or none: also one that is spelled with `_` or `.`
    /// in place of `-`, which some interfaces cannot distinguish.
    pub fn replaces(&self, name: &HeaderName) -> bool {
        let mut names = self.remove.iter().chain(self.set.iter().map(|(name, _)| name));
        names.any(|changed| is_same(changed.as_str(), name.as_str()))
    }
}

impl HeaderRules {
    fn is_on(&self) -> bool {
        *self != Self::default()
    }

    /// Returns the names of the headers that are changed. Values may be secrets.
    fn shown(&self) -> Value {
        let mut shown = serde_json::Map::new();
        if self.security {
            shown.insert("security".into(), true.into());
        }
        for (message, changes) in [("request", &self.request), ("response", &self.response)] {
            let set = changes.set.iter().map(|(name, _)| name).collect();
            let added = changes.add.iter().map(|(name, _)| name).collect();
            let removed = changes.remove.iter().collect::<Vec<_>>();
            for (change, names) in [("set", set), ("add", added), ("remove", removed)] {
                if !names.is_empty() {
                    let names: Vec<_> = names.into_iter().map(HeaderName::as_str).collect();
                    shown.insert(format!("{message}.{change}"), names.into());
                }
            }
        }
        shown.into()
    }
}

/// Gives every route without rules of its own those of its service, and `security` to those whose rules do not mention it: who sets a
/// header for one route does not mean that browsers need not be strict there.
pub(crate) fn spread(service: Option<Arc<HeaderRules>>, manifest: &mut Manifest) {
    let settled = |rules: Arc<HeaderRules>, security: bool| match rules.inherits {
        true => Arc::new(HeaderRules { security, inherits: false, ..(*rules).clone() }),
        false => rules,
    };
    manifest.headers = service.map(|rules| settled(rules, false)).filter(|rules| rules.is_on());
    let security = manifest.headers.as_ref().is_some_and(|rules| rules.security);
    for route in &mut manifest.routes {
        let own = route.headers.take().map(|rules| settled(rules, security));
        route.headers = own.or_else(|| manifest.headers.clone()).filter(|rules| rules.is_on());
    }
}

/// Returns the rules of the service, and those of routes with rules of their own, by route.
fn view(manifest: &Manifest) -> Option<Value> {
    let of_service = manifest.headers.as_ref();
    let mut shown = match of_service.map(|rules| rules.shown()) {
        Some(Value::Object(shown)) => shown,
        _ => serde_json::Map::new(),
    };
    for route in manifest.routes.iter().filter(|route| route.headers.as_ref() != of_service) {
        let own = route.headers.as_ref().map_or_else(|| "nothing".into(), |rules| rules.shown());
        shown.insert(route.to_string(), own);
    }
    if shown.is_empty() { None } else { Some(shown.into()) }
}

fn read(written: &Written<'_>, problems: &mut Problems) -> Option<HeaderRules> {
    let keys = written.section(&["security", "request", "response"], problems)?;
    let mut rules = HeaderRules { inherits: !keys.is_empty(), ..HeaderRules::default() };
    for key in keys {
        match key.inside(written) {
            "security" => {
                (rules.security, rules.inherits) = (problems.take(key.boolean()).unwrap_or_default(), false);
            }
            "request" => rules.request = changes(&key, false, problems),
            _ => rules.response = changes(&key, true, problems),
        }
    }
    Some(rules)
}

fn changes(written: &Written<'_>, of_response: bool, problems: &mut Problems) -> HeaderChanges {
    let known: &[_] = if of_response { &["remove", "set", "add"] } else { &["remove", "set"] };
    let mut changes = HeaderChanges::default();
    for key in written.section(known, problems).into_iter().flatten() {
        match key.inside(written) {
            "remove" => {
                let items = problems.take(key.items("[\"server\"]")).unwrap_or_default();
                bounded(&key, items.len(), problems);
                let name = |item: &Written<'_>| {
                    let text = item.string("write names of headers, like [\"server\"]")?;
                    name(item, text, text.eq_ignore_ascii_case("vary"))
                };
                changes.remove = items.iter().filter_map(|item| problems.take(name(item))).collect();
            }
            "set" => {
                changes.set = fields(&key, of_response, problems);
                for (name, _) in changes.set.iter().filter(|(name, _)| !of_response && ASKING.contains(name)) {
                    problems.push(unsettable(&key, name));
                }
            }
            _ => changes.add = fields(&key, false, problems),
        }
    }
    changes
}

/// Reads a table of headers with their values. `single` is whether each has one, in place of all.
fn fields(written: &Written<'_>, single: bool, problems: &mut Problems) -> Vec<(HeaderName, HeaderValue)> {
    let Some(keys) = written.table() else {
        problems
            .push(written.error("write a table of headers and their values, like { \"x-frame-options\" = \"DENY\" }"));
        return Vec::new();
    };
    let mut fields = Vec::new();
    for key in &keys {
        let text = key.inside(written);
        let Some(name) = problems.take(name(key, text, single && text.eq_ignore_ascii_case("vary"))) else { continue };
        let items = if single { Ok(vec![key.named(&key.name)]) } else { key.items("[\"a\", \"b\"]") };
        for item in problems.take(items).unwrap_or_default() {
            fields.extend(problems.take(value(&item)).map(|value| (name.clone(), value)));
        }
    }
    bounded(written, fields.len(), problems);
    fields
}

fn bounded(key: &Written<'_>, count: usize, problems: &mut Problems) {
    if count > MOST {
        problems.push(key.error(format!("{count} headers are more than {MOST}")));
    }
}

/// Reads the name of a header that may be changed. `varies` is whether it is `Vary` and would be lost.
fn name(key: &Written<'_>, text: &str, varies: bool) -> Result<HeaderName, String> {
    let name = HeaderName::try_from(text).map_err(|_| key.error(format!("`{text}` is not the name of a header")))?;
    let why = match name.as_str() {
        _ if varies => "caches need what a service says in it; use response.add",
        text if text.starts_with("access-control-") => "[cors] decides about it",
        text if OWN.contains(&name) || PREFIXES.iter().any(|prefix| text.starts_with(prefix)) => {
            "the host writes it, or it belongs to the connection"
        }
        _ => return Ok(name),
    };
    Err(key.error(format!("`{name}` cannot be changed: {why}")))
}

/// Reads the name of a header that the host may set in requests.
pub(crate) fn request_name(key: &Written<'_>, text: &str) -> Result<HeaderName, String> {
    let name = name(key, text, text.eq_ignore_ascii_case("vary"))?;
    if ASKING.contains(&name) { Err(unsettable(key, &name)) } else { Ok(name) }
}

fn unsettable(key: &Written<'_>, name: &HeaderName) -> String {
    let why = "a client would get a response in a form that it did not ask for; remove it, if at all";
    key.error(format!("`{name}` cannot be set: {why}"))
}

/// Reads the value of a header.
pub(crate) fn value(key: &Written<'_>) -> Result<HeaderValue, String> {
    let text = key.string("write its value as text, like \"DENY\"")?;
    let value = HeaderValue::from_str(text).ok().filter(|value| value.len() <= VALUE);
    value.ok_or_else(|| key.error(format!("it is not a header value of at most {VALUE} bytes")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::Route;
    use crate::tests::read as manifest;

    fn rules(text: &str) -> Option<HeaderRules> {
        manifest(text).unwrap().headers.map(|rules| (*rules).clone())
    }

    #[test]
    fn forms() {
        assert_eq!((rules(""), rules("headers = {}")), (None, None));
        assert_eq!(rules("headers.security = true").unwrap(), HeaderRules { security: true, ..HeaderRules::default() });
        let all = rules(
            "[headers.request]\nremove = 'Cookie'\nset = { X-Env = 'test' }\n[headers.response]\n\
             remove = ['server', 'x-powered-by']\nset = { x-a = '1' }\nadd = { link = ['</a>', '</b>'], x-b = '' }",
        )
        .unwrap();
        let names = |names: &[&'static str]| names.iter().copied().map(HeaderName::from_static).collect::<Vec<_>>();
        let fields = |fields: &[(&'static str, &'static str)]| -> Vec<_> {
            let field = |(name, value): &(&'static str, &'static str)| {
                (HeaderName::from_static(name), HeaderValue::from_static(value))
            };
            fields.iter().map(field).collect()
        };
        let request = HeaderChanges { remove: names(&["cookie"]), set: fields(&[("x-env", "test")]), add: Vec::new() };
        let response = HeaderChanges {
            remove: names(&["server", "x-powered-by"]),
            set: fields(&[("x-a", "1")]),
            add: fields(&[("link", "</a>"), ("link", "</b>"), ("x-b", "")]),
        };
        assert_eq!(all, HeaderRules { request, response, ..HeaderRules::default() });
    }

    /// A route has rules of its own, or none, in place of those of its service; but `security` until it says otherwise.
    #[test]
    fn routes_are_as_strict_as_their_service() {
        let all = manifest(
            "routes = ['/a', { path = '/b', headers = {} }, { path = '/c', headers.response.remove = 'etag' },\n\
             { path = '/d', headers = { security = false, response.remove = 'etag' } }, { path = '/e', headers.security = false }]\n\
             [headers]\nsecurity = true\nresponse.set = { x-a = '1' }",
        )
        .unwrap();
        let rules = |route: &Route| route.headers.as_ref().map(|rules| (rules.security, rules.response.set.len()));
        let shown: Vec<_> = all.routes.iter().map(rules).collect();
        assert_eq!(shown, [Some((true, 1)), None, Some((true, 0)), Some((false, 0)), None]);
        assert_eq!(
            view(&all).unwrap(),
            json!({
                "security": true, "response.set": ["x-a"], "/b": "nothing", "/d": { "response.remove": ["etag"] }, "/e": "nothing",
                "/c": { "security": true, "response.remove": ["etag"] },
            })
        );
        let without = manifest("routes = ['/a', { path = '/b', headers.response.remove = 'etag' }]").unwrap();
        let strict: Vec<_> =
            without.routes.iter().map(|route| route.headers.as_ref().map(|rules| rules.security)).collect();
        assert_eq!((strict, view(&manifest("").unwrap())), (vec![None, Some(false)], None));
    }

    #[test]
    fn some_headers_are_the_hosts() {
        let check = |text: &str, expected: &str| {
            let problem = manifest(text).unwrap_err();
            assert!(problem.contains(expected), "{text}: {problem}");
        };
        for name in [
            "Connection",
            "Keep-Alive",
            "TE",
            "Trailer",
            "Transfer-Encoding",
            "Upgrade",
            "Content-Length",
            "Host",
            "Via",
            "Forwarded",
            "X-Forwarded-For",
            "X-Forwarded-Client-Cert",
            "X-Lodge-Auth-Subject",
            "x-lodge-x",
            "X-Request-Id",
            "Content-Encoding",
            "Proxy-Authorization",
            "Expect",
            "Access-Control-Allow-Origin",
            "Date",
            "Age",
            "Cache-Status",
            "Allow",
            "Location",
            "Retry-After",
            "WWW-Authenticate",
        ] {
            for key in ["request.set", "response.set", "response.add"] {
                check(&format!("[headers]\n{key}.\"{name}\" = 'x'"), "cannot be changed");
            }
            for key in ["request.remove", "response.remove"] {
                check(&format!("[headers]\n{key} = '{name}'"), "cannot be changed");
            }
        }
        for name in ["Range", "If-Range", "If-None-Match", "if-match", "If-Modified-Since", "Accept-Encoding"] {
            check(&format!("headers.request.set.{name} = 'x'"), "cannot be set: a client would get");
            assert!(manifest(&format!("headers.request.remove = '{name}'")).is_ok(), "{name}");
        }
        check("headers.response.set.vary = 'accept'", "use response.add");
        check("headers.response.remove = 'Vary'", "use response.add");
        assert!(manifest("headers.response.add.vary = 'accept'").is_ok());
        check(
            "headers.response.set.\"a b\" = 'x'",
            "line 1: headers.response.set.a b: `a b` is not the name of a header",
        );
        check("headers.response.set.a = \"x\\ny\"", "it is not a header value of at most 4096 bytes");
        check(&format!("headers.response.set.a = '{}'", "x".repeat(4_097)), "it is not a header value");
        check("headers.response.set.a = ['x', 'y']", "write its value as text");
        check("headers.request.add.a = 'x'", "unknown key `headers.request.add`");
        check("headers.response.sets.a = 'x'", "did you mean `headers.response.set`?");
        check("headers = true", "write a section [headers]");
        let many: String = (0..51).map(|number| format!("x-{number} = 'a'\n")).collect();
        check(&format!("[headers.response.set]\n{many}"), "51 headers are more than 50");
    }
}
