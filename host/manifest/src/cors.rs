//! `[cors]`: the pages of other origins that may use a service or a route from a browser.

use std::sync::Arc;
use std::time::Duration;

use http::header::{HeaderName, HeaderValue};
use http::uri::{PathAndQuery, Uri};
use serde_json::{Value, json};

use crate::Manifest;
use crate::schema;
use crate::section::{Owner, Section, View, words};
use crate::written::{Problems, Written, with_defaults};
use lodge_base::config::key::{Key, duration, word};

/// The most origins and headers of a list.
const MOST: usize = 100;

/// The longest time for which browsers remember a preflight; more than any of them does.
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// The keys with one value.
const KEYS: &[Key<Cors>] = &[
    Key {
        name: "credentials",
        default: "false",
        help: "whether requests of these pages may have cookies and client certificates, and read the response then",
        set: |cors, text| word(text, &[("true", true), ("false", false)]).map(|value| cors.credentials = value),
    },
    Key {
        name: "max_age",
        default: "10m",
        help: "how long browsers may remember the response to a preflight",
        set: |cors, text| duration(text, Duration::ZERO..=DAY).map(|age| cors.max_age = age.as_secs()),
    },
];

/// The lists.
const LISTS: [(&str, &str); 3] = [
    ("origins", "the origins of these pages, such as `https://app.example.com`; `*` for all; one or a list"),
    ("headers", "the headers that their requests may have besides the usual ones; one or a list"),
    ("expose", "the headers of responses that their scripts may read besides the usual ones; one or a list"),
];

/// `[cors]`.
pub(crate) const SECTION: Section = Section {
    name: "cors",
    page: "cors",
    schema: || {
        let mut table = schema::settings(KEYS, &Cors::default(), &["origins"]);
        for (name, help) in LISTS {
            schema::add(&mut table, name, schema::described(schema::texts(json!({ "type": "string" })), help));
        }
        json!({ "anyOf": [{ "type": "boolean", "enum": [false] }, table] })
    },
    owner: Owner::Route(|settings, written, problems| settings.cors = read(written, problems)),
    view: Some(View { label: "CORS", value: view, text: words }),
    ..Section::DEFAULT
};

/// The pages of other origins that may use a route.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cors {
    /// The origins; any if it is `None`.
    pub origins: Option<Vec<HeaderValue>>,
    /// Whether requests may have credentials.
    pub credentials: bool,
    /// The headers that requests may have.
    pub headers: Option<HeaderValue>,
    /// The headers of responses that scripts may read.
    pub expose: Option<HeaderValue>,
    /// How long browsers may remember a preflight, in seconds.
    pub max_age: u64,
}

/// Returns the origins that are allowed, by route where routes differ from their service.
fn view(manifest: &Manifest) -> Option<Value> {
    let shown = |cors: &Option<Arc<Cors>>| -> Value {
        let Some(cors) = cors.as_deref().filter(|cors| cors.is_on()) else { return "no other origin".into() };
        let credentials = if cors.credentials { ", with credentials" } else { "" };
        let Some(origins) = &cors.origins else { return format!("any origin{credentials}").into() };
        let origins: Vec<_> = origins.iter().map(|origin| String::from_utf8_lossy(origin.as_bytes())).collect();
        format!("{}{credentials}", origins.join(", ")).into()
    };
    let mut routes = manifest.routes.iter().filter(|route| route.cors != manifest.cors).peekable();
    match (&manifest.cors, routes.peek()) {
        (None, None) => None,
        (of_service, None) => Some(shown(of_service)),
        (_, Some(_)) => Some(manifest.routes.iter().map(|route| (route.to_string(), shown(&route.cors))).collect()),
    }
}

impl Cors {
    /// Whether pages of any other origin may use the route.
    fn is_on(&self) -> bool {
        self.origins.as_ref().is_none_or(|origins| !origins.is_empty())
    }
}

/// Gives every route without rules of its own those of its service.
pub(crate) fn spread(service: Option<Arc<Cors>>, manifest: &mut Manifest) {
    manifest.cors = service.filter(|cors| cors.is_on());
    for route in &mut manifest.routes {
        route.cors = route.cors.take().or_else(|| manifest.cors.clone()).filter(|cors| cors.is_on());
    }
}

fn read(written: &Written<'_>, problems: &mut Problems) -> Option<Arc<Cors>> {
    const FORM: &str = "write a section [cors], or false";
    if written.table().is_none() {
        let on = problems.take(written.boolean().map_err(|_| written.error(FORM)))?;
        if on {
            problems.push(written.error(FORM));
        }
        return Some(Arc::new(Cors { origins: Some(Vec::new()), ..Cors::default() }));
    }
    let known: Vec<_> = KEYS.iter().map(|key| key.name).chain(LISTS.map(|(name, _)| name)).collect();
    let keys = written.section(&known, problems)?;
    let mut cors = with_defaults(KEYS, Cors::default());
    cors.headers = Some(HeaderValue::from_static("content-type"));
    let mut sound = true;
    for key in &keys {
        let read = match key.inside(written) {
            "origins" => origins(key).map(|origins| cors.origins = origins),
            "headers" => headers(key).map(|headers| cors.headers = headers),
            "expose" => headers(key).map(|headers| cors.expose = headers),
            _ => key.set(&written.name, KEYS, &mut cors),
        };
        sound &= problems.take(read).is_some();
    }
    if !written.has("origins") {
        problems.push(written.error("it lacks `origins`, such as [\"https://app.example.com\"]"));
    }
    // Every page could act as the person in front of the browser.
    let open = |origins: &Vec<HeaderValue>| origins.iter().any(|origin| origin == "null");
    if sound && cors.credentials && cors.origins.as_ref().is_none_or(open) {
        problems.push(written.error("`credentials` needs a list of origins, without `*` and `null`"));
    }
    Some(Arc::new(cors))
}

/// Reads a list of origins; `None` is all of them.
fn origins(key: &Written<'_>) -> Result<Option<Vec<HeaderValue>>, String> {
    const FORM: &str = "[\"https://app.example.com\"]";
    let items = key.items(FORM)?;
    if items.is_empty() || items.len() > MOST {
        return Err(key.error(format!("write 1 to {MOST} origins, like {FORM}")));
    }
    let mut origins = Vec::new();
    for item in &items {
        let text = item.string(&format!("write origins, like {FORM}"))?;
        match text {
            "*" if items.len() == 1 => return Ok(None),
            "*" => return Err(item.error("`*` is all origins; write it alone")),
            text => origins.push(origin(text).map_err(|wrong| item.error(wrong))?),
        }
    }
    Ok(Some(origins))
}

/// Reads an origin in the form in which browsers send it (RFC 6454 6.2).
fn origin(text: &str) -> Result<HeaderValue, String> {
    let wrong = || format!("`{text}` is not an origin: write scheme, host and port, like https://app.example.com");
    if text != "null" {
        let uri: Uri = text.parse().map_err(|_| wrong())?;
        let (scheme, host) = (uri.scheme_str().ok_or_else(wrong)?, uri.host().ok_or_else(wrong)?);
        let usual = matches!((scheme, uri.port_u16()), ("https", Some(443)) | ("http", Some(80)));
        if usual {
            return Err(format!("`{text}` has the usual port, which browsers leave out; write it without"));
        }
        let plain =
            !text.ends_with('/') && uri.path_and_query().map_or("", PathAndQuery::as_str).trim_matches('/').is_empty();
        let is_lower = !text.bytes().any(|byte| byte.is_ascii_uppercase());
        let authority = uri.authority().map_or("", |authority| authority.as_str());
        if !plain || !is_lower || host.contains('*') || authority.contains('@') {
            return Err(wrong());
        }
    }
    HeaderValue::from_str(text).map_err(|_| wrong())
}

/// Reads a list of names of headers, as a header has it; `None` if it is empty.
fn headers(key: &Written<'_>) -> Result<Option<HeaderValue>, String> {
    const FORM: &str = "[\"content-type\"]";
    let items = key.items(FORM)?;
    if items.len() > MOST {
        return Err(key.error(format!("{} headers are more than {MOST}", items.len())));
    }
    let name = |item: &Written<'_>| {
        let text = item.string(&format!("write names of headers, like {FORM}"))?;
        // For requests with credentials, `*` would be the header of this name.
        let name = HeaderName::try_from(text).ok().filter(|_| text != "*");
        name.ok_or_else(|| item.error(format!("`{text}` is not the name of a header")))
    };
    let names: Vec<_> = items.iter().map(name).collect::<Result<_, _>>()?;
    let names: Vec<_> = names.iter().map(HeaderName::as_str).collect();
    Ok(HeaderValue::try_from(names.join(", ")).ok().filter(|_| !names.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::read as manifest;

    fn rules(text: &str) -> Option<Cors> {
        manifest(text).unwrap().cors.map(|cors| (*cors).clone())
    }

    #[test]
    fn forms() {
        assert_eq!((rules(""), rules("cors = false")), (None, None));
        let one = rules("cors.origins = 'https://a.test:8443'").unwrap();
        assert_eq!(one.origins, Some(vec![HeaderValue::from_static("https://a.test:8443")]));
        assert_eq!(
            (one.headers.unwrap(), one.expose, one.credentials, one.max_age),
            ("content-type".parse().unwrap(), None, false, 600)
        );
        assert_eq!(rules("cors.origins = '*'").unwrap().origins, None);
        let all = rules("[cors]\norigins = ['http://[::1]:3000', 'null']\nheaders = ['X-A', 'x-b']\nexpose = 'etag'\nmax_age = '0s'").unwrap();
        assert_eq!(
            (all.headers.unwrap(), all.expose.unwrap(), all.max_age),
            ("x-a, x-b".parse().unwrap(), "etag".parse().unwrap(), 0)
        );
        let routes = "routes = ['/a', { path = '/b', cors = false }, { path = '/c', cors = { origins = 'https://c.test' } }]\n\
                      cors.origins = 'https://a.test'";
        let routes = manifest(routes).unwrap().routes;
        let first = |cors: &Option<Arc<Cors>>| cors.as_ref().map(|cors| cors.origins.clone().unwrap().remove(0));
        let origins: Vec<_> = routes.iter().map(|route| first(&route.cors)).collect();
        assert_eq!(
            origins,
            [Some(HeaderValue::from_static("https://a.test")), None, Some(HeaderValue::from_static("https://c.test"))]
        );
    }

    #[test]
    fn origins_are_exact() {
        let check = |text: &str, expected: &str| {
            let problem = manifest(text).unwrap_err();
            assert!(problem.contains(expected), "{text}: {problem}");
        };
        for wrong in [
            "a.test",
            "https://",
            "https://a.test/",
            "https://a.test/x",
            "https://A.test",
            "HTTPS://a.test",
            "https://*.a.test",
            "https://a.test?x",
            "https://u@a.test",
            "https://a.test, https://b.test",
            "//a.test",
            "",
        ] {
            check(&format!("cors.origins = '{wrong}'"), "is not an origin");
        }
        check("cors.origins = 'https://a.test:443'", "has the usual port");
        check("cors.origins = ['*', 'https://a.test']", "`*` is all origins; write it alone");
        check("cors.origins = []", "write 1 to 100 origins");
        // What is no origin is one problem.
        let one = manifest("cors = { origins = 'https://*.test', credentials = true }").unwrap_err();
        assert!(one.contains("is not an origin") && one.lines().count() == 1, "{one}");
        check("cors = { origins = '*', credentials = true }", "`credentials` needs a list of origins");
        check("cors = { origins = ['null'], credentials = true }", "`credentials` needs a list of origins");
        check("cors = { credentials = true }", "it lacks `origins`");
        check("cors = true", "write a section [cors], or false");
        check("cors = { origins = '*', headers = '*' }", "is not the name of a header");
        check("cors = { origin = '*' }", "unknown key `cors.origin`; did you mean `cors.origins`?");
    }
}
