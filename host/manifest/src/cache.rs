//! The key `cache` of a manifest.

use std::time::Duration;

use serde_json::{Value, json};

use crate::Manifest;
use crate::schema;
use crate::section::{Owner, Section, View, words};
use crate::written::{Problems, Written};
use lodge_base::config::key;

/// The longest `ttl`: a year, the longest lifetime that HTTP/1.1 recommended (RFC 2616 14.21).
const MOST: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// The cache rules of a route.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// Whether cacheable responses are stored. If not, unsafe requests still invalidate stored responses.
    pub keep: bool,
    /// The freshness lifetime of a 200 response without an explicit one.
    pub ttl: Duration,
}

/// `cache`.
pub(crate) const SECTION: Section = Section {
    name: "cache",
    page: "caching",
    schema: || {
        let ttl = json!({
            "type": "string",
            "description": "the freshness lifetime of a 200 response without one of its own",
        });
        json!({
            "anyOf": [{ "type": "boolean" }, schema::table(&[], json!({ "ttl": ttl }))],
            "default": false,
            "description": "whether responses are cached (RFC 9111)",
        })
    },
    owner: Owner::Route(|settings, written, problems| settings.cache = Rules::read(written, problems)),
    view: Some(View { label: "cache", value: view, text: words }),
    ..Section::DEFAULT
};

/// Returns what is stored, by route where routes differ from their service.
fn view(manifest: &Manifest) -> Option<Value> {
    let shown = |rules: &Option<Rules>| -> Value {
        match rules.filter(|rules| rules.keep) {
            None => "nothing is stored".into(),
            Some(Rules { ttl: Duration::ZERO, .. }) => "responses with a freshness lifetime".into(),
            Some(Rules { ttl, .. }) => format!("ttl {}", humantime::format_duration(ttl)).into(),
        }
    };
    let mut routes = manifest.routes.iter().filter(|route| route.cache != manifest.cache).peekable();
    match (manifest.cache, routes.peek()) {
        (None, None) => None,
        (of_service, None) => Some(shown(&of_service)),
        (_, Some(_)) => Some(manifest.routes.iter().map(|route| (route.to_string(), shown(&route.cache))).collect()),
    }
}

impl Rules {
    /// Reads `true`, `false` or `{ ttl = "1m" }`.
    fn read(written: &Written<'_>, problems: &mut Problems) -> Option<Self> {
        let Some(keys) = written.table() else {
            let read = written.boolean().map_err(|_| written.error("write true, false or { ttl = \"1m\" }"));
            return Some(Self { keep: problems.take(read)?, ttl: Duration::ZERO });
        };
        let mut rules = Self { keep: true, ttl: Duration::ZERO };
        for key in &keys {
            let span = |text: String| key::duration(&text, Duration::ZERO..=MOST).map_err(|wrong| key.error(wrong));
            let read = match key.inside(written) {
                "ttl" => key.plain().and_then(span),
                _ => Err(key.unknown(&written.name, &["ttl"])),
            };
            rules.ttl = problems.take(read)?;
        }
        Some(rules)
    }
}

#[cfg(test)]
mod tests {
    use crate::tests::read;

    #[test]
    fn routes_say_more_than_their_service() {
        let caches = |text: &str| {
            let manifest = read(text).unwrap();
            let routes = manifest.routes.iter().map(|route| route.cache.map(|rules| (rules.keep, rules.ttl.as_secs())));
            (routes.collect::<Vec<_>>(), manifest.cache.map(|rules| rules.keep))
        };
        assert_eq!(caches(""), (vec![None], None));
        assert_eq!(caches("cache = true"), (vec![Some((true, 0))], Some(true)));
        let one = "routes = ['/a', { path = '/b', cache = { ttl = '1m' } }]";
        assert_eq!(caches(one), (vec![Some((false, 0)), Some((true, 60))], Some(false)));
        let but = "cache.ttl = '5s'\nroutes = ['/a', { path = '/b', cache = false }]";
        assert_eq!(caches(but), (vec![Some((true, 5)), Some((false, 0))], Some(true)));
        assert_eq!(caches("routes = [{ path = '/b', cache = false }]"), (vec![None], None));
    }

    #[test]
    fn operators_see_what_is_stored() {
        let shown = |text: &str| super::view(&read(text).unwrap()).as_ref().map(super::words);
        assert_eq!(shown(""), None);
        assert_eq!(shown("cache = true").unwrap(), "responses with a freshness lifetime");
        assert_eq!(shown("cache.ttl = '1m'").unwrap(), "ttl 1m");
        let one = "routes = ['/a', { path = '/b', cache = { ttl = '1m' } }]";
        assert_eq!(shown(one).unwrap(), "/a nothing is stored, /b ttl 1m");
    }

    #[test]
    fn problems_name_the_way_out() {
        let check = |text: &str, expected: &str| {
            let problem = read(text).unwrap_err();
            assert!(problem.contains(expected), "{problem}");
        };
        check("cache = 'yes'", "cache: write true, false or { ttl = \"1m\" }");
        check("cache.tll = '1m'", "line 1: unknown key `cache.tll`; did you mean `cache.ttl`?");
        check("cache.ttl = 'soon'", "cache.ttl: ");
        check("cache.ttl = 600", "cache.ttl: `600` is not a time span; write it like 500ms, 30s or 5m");
        check("routes = [\n'/a',\n{ path = '/b', cache = 1 }]", "line 3: cache: write");
        let version = read("cache = true").unwrap().version("cache = false", 1 << 30);
        assert!(version.unwrap_err()[0].starts_with("line 1: cache: a version cannot set this"));
    }
}
