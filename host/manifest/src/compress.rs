//! `[compress]`: which responses the host compresses for clients that accept it, and how.

use std::sync::Arc;

use http::HeaderValue;
use serde_json::{Value, json};

use crate::Manifest;
use crate::schema;
use crate::section::{Owner, Section, View, words};
use crate::written::{Problems, Written, with_defaults};
use lodge_base::config::key::{Key, size};

/// A content coding (RFC 9110, 8.4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    /// Brotli (RFC 7932).
    Brotli,
    /// Zstandard (RFC 8878).
    Zstd,
    /// GZIP (RFC 1952).
    Gzip,
}

/// The codings in the order in which they are preferred by default: Zstandard makes text as small as Brotli does at the levels that
/// are used while a client waits, in a fraction of the time.
const PREFERRED: [Coding; 3] = [Coding::Zstd, Coding::Brotli, Coding::Gzip];

/// The most types in a list.
const MOST: usize = 50;

/// Types that become smaller, besides text and what is written in JSON or XML. Pictures, sound and archives do not.
const TYPES: [&str; 17] = [
    "application/ecmascript",
    "application/javascript",
    "application/json",
    "application/json-seq",
    "application/toml",
    "application/vnd.apple.mpegurl",
    "application/vnd.ms-fontobject",
    "application/wasm",
    "application/x-javascript",
    "application/x-ndjson",
    "application/xml",
    "application/yaml",
    "font/otf",
    "font/ttf",
    "image/bmp",
    "image/vnd.microsoft.icon",
    "image/x-icon",
];

/// The ends of further types.
const SUFFIXES: [&str; 4] = ["+json", "+xml", "+yaml", "+text"];

/// The keys with one value.
const KEYS: &[Key<CompressionRules>] = &[Key {
    name: "min_size",
    default: "1KiB",
    help: "the size from which a response is compressed, if its size is known before",
    set: |rules, text| size(text, 0..=1 << 30).map(|size| rules.min_size = size as u64),
}];

/// `[compress]`.
pub(crate) const SECTION: Section = Section {
    name: "compress",
    page: "front",
    schema: || {
        let mut table = schema::settings(KEYS, &CompressionRules::default(), &[]);
        let names = json!({ "enum": PREFERRED.map(Coding::name) });
        for (name, item, help) in [
            ("algorithms", names, "the codings that are used, the preferred one first; one or a list"),
            ("types", json!({ "type": "string" }), "the types of responses that are compressed; one or a list"),
        ] {
            schema::add(&mut table, name, schema::described(schema::texts(item), help));
        }
        json!({
            "anyOf": [{ "type": "boolean" }, table],
            "default": false,
            "description": "whether responses are compressed for clients that accept it",
        })
    },
    owner: Owner::Route(|settings, written, problems| settings.compress = read(written, problems).map(Arc::new)),
    view: Some(View {
        label: "compress",
        value: |manifest| manifest.compress.as_ref().map(|rules| rules.shown()),
        text: words,
    }),
    ..Section::DEFAULT
};

/// Which responses of a route are compressed, and how. A comparable value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CompressionRules {
    /// The codings, the preferred one first, each once; none if nothing is compressed.
    pub codings: Vec<Coding>,
    /// The least size in bytes of a response whose size is known.
    pub min_size: u64,
    /// The types, in lower case: `text/html`, `text/*` or `+json`; `None` for those that become smaller.
    types: Option<Vec<String>>,
}

impl Coding {
    /// Every coding, the one with the smallest result first.
    pub const ALL: [Self; 3] = [Self::Brotli, Self::Zstd, Self::Gzip];

    /// The name in `Content-Encoding`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Brotli => "br",
            Self::Zstd => "zstd",
            Self::Gzip => "gzip",
        }
    }

    /// The value of `Content-Encoding`.
    pub fn value(self) -> HeaderValue {
        HeaderValue::from_static(self.name())
    }

    /// The end of the name of a compressed file.
    pub const fn extension(self) -> &'static str {
        match self {
            Self::Brotli => ".br",
            Self::Zstd => ".zst",
            Self::Gzip => ".gz",
        }
    }
}

impl CompressionRules {
    /// Whether responses with this `Content-Type` are compressed. Those of gRPC never are: its messages have a compression of their own,
    /// and its clients expect no other.
    pub fn takes(&self, content_type: &str) -> bool {
        let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        if essence == "application/grpc" || essence.starts_with("application/grpc+") {
            return false;
        }
        let Some(types) = &self.types else {
            return essence.starts_with("text/")
                || SUFFIXES.iter().any(|suffix| essence.ends_with(suffix))
                || TYPES.contains(&essence.as_str());
        };
        types.iter().any(|own| match (own.strip_suffix('*'), own.starts_with('+')) {
            (Some(group), _) => essence.starts_with(group),
            (None, true) => essence.ends_with(own),
            (None, false) => *own == essence,
        })
    }

    fn shown(&self) -> Value {
        let size = bytesize::ByteSize(self.min_size).display().iec().to_string();
        let mut shown = json!({ "algorithms": self.codings.iter().map(|coding| coding.name()).collect::<Vec<_>>(), "min_size": size });
        if let (Some(types), Some(shown)) = (&self.types, shown.as_object_mut()) {
            shown.insert("types".into(), types.clone().into());
        }
        shown
    }

    fn is_on(&self) -> bool {
        !self.codings.is_empty()
    }
}

/// Gives every route without rules of its own those of its service.
pub(crate) fn spread(service: Option<Arc<CompressionRules>>, manifest: &mut Manifest) {
    manifest.compress = service.filter(|rules| rules.is_on());
    for route in &mut manifest.routes {
        route.compress = route.compress.take().or_else(|| manifest.compress.clone()).filter(|rules| rules.is_on());
    }
}

fn read(written: &Written<'_>, problems: &mut Problems) -> Option<CompressionRules> {
    let mut rules = with_defaults(KEYS, CompressionRules { codings: PREFERRED.into(), ..CompressionRules::default() });
    if written.table().is_none() {
        let on = problems.take(written.granted())?;
        return Some(if on { rules } else { CompressionRules::default() });
    }
    let known: Vec<_> = KEYS.iter().map(|key| key.name).chain(["algorithms", "types"]).collect();
    for key in written.section(&known, problems)? {
        let read = match key.inside(written) {
            "algorithms" => algorithms(&key).map(|codings| rules.codings = codings),
            "types" => types(&key).map(|types| rules.types = Some(types)),
            _ => key.set(&written.name, KEYS, &mut rules),
        };
        problems.take(read);
    }
    Some(rules)
}

fn algorithms(key: &Written<'_>) -> Result<Vec<Coding>, String> {
    const FORM: &str = "[\"zstd\", \"br\", \"gzip\"]";
    let items = key.items(FORM)?;
    if items.is_empty() {
        return Err(key.error("write at least one, or compress = false"));
    }
    let mut codings = Vec::new();
    for item in &items {
        let text = item.string(&format!("write names of codings, like {FORM}"))?;
        let coding = PREFERRED.into_iter().find(|coding| coding.name() == text);
        let coding = coding.ok_or_else(|| item.error(format!("`{text}` is none of zstd, br and gzip")))?;
        if codings.contains(&coding) {
            return Err(item.error(format!("`{text}` is there twice")));
        }
        codings.push(coding);
    }
    Ok(codings)
}

fn types(key: &Written<'_>) -> Result<Vec<String>, String> {
    const FORM: &str = "[\"text/*\", \"application/json\", \"+json\"]";
    let items = key.items(FORM)?;
    if items.is_empty() || items.len() > MOST {
        return Err(key.error(format!("write 1 to {MOST} types, like {FORM}")));
    }
    let read = |item: &Written<'_>| {
        let text = item.string(&format!("write types, like {FORM}"))?.to_ascii_lowercase();
        let token = |part: &str| {
            !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_graphic() && !b"/;,*\"".contains(&byte))
        };
        let sound = match (text.split_once('/'), text.strip_prefix('+')) {
            (Some((kind, of)), _) => token(kind) && !kind.starts_with('+') && (of == "*" || token(of)),
            (None, suffix) => suffix.is_some_and(token),
        };
        if sound {
            Ok(text)
        } else {
            Err(item.error(format!("`{text}` is not a type like `text/*`, `application/json` or `+json`")))
        }
    };
    items.iter().map(read).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::Coding::{Brotli, Gzip, Zstd};
    use crate::tests::read as manifest;

    #[test]
    fn forms() {
        let shown = |text: &str| {
            let own = manifest(text).unwrap().compress?;
            Some((own.codings.clone(), own.min_size, own.types.clone()))
        };
        assert_eq!((shown(""), shown("compress = false")), (None, None));
        let all = Some((vec![Zstd, Brotli, Gzip], 1 << 10, None));
        assert_eq!((shown("compress = true"), shown("compress = {}")), (all.clone(), all));
        let own = shown(
            "[compress]\nalgorithms = ['gzip', 'br']\nmin_size = '0B'\ntypes = ['Text/*', 'image/svg+xml', '+JSON']",
        );
        let types = ["text/*", "image/svg+xml", "+json"].map(str::to_owned);
        assert_eq!(own, Some((vec![Gzip, Brotli], 0, Some(types.into()))));
        assert_eq!(shown("compress.algorithms = 'zstd'"), Some((vec![Zstd], 1 << 10, None)));
        let view = crate::section::views(&manifest("compress = { algorithms = 'br', types = '+json' }").unwrap());
        assert_eq!(view["compress"], json!({ "algorithms": ["br"], "min_size": "1.0 KiB", "types": ["+json"] }));
        // A route has rules of its own, or none, in place of those of its service.
        let routes = "routes = ['/a', { path = '/b', compress = false }, { path = '/c', compress.min_size = '5B' }]\n\
                      compress = true";
        let routes = manifest(routes).unwrap().routes;
        let sizes: Vec<_> = routes.iter().map(|route| route.compress.as_ref().map(|own| own.min_size)).collect();
        assert_eq!(sizes, [Some(1 << 10), None, Some(5)]);
        let routes = manifest("routes = ['/a', { path = '/b', compress = true }]").unwrap();
        assert_eq!((routes.compress, routes.routes.iter().filter(|it| it.compress.is_some()).count()), (None, 1));
        let check = |text: &str, expected: &str| {
            let problem = manifest(text).unwrap_err();
            assert!(problem.contains(expected), "{text}: {problem}");
        };
        check("compress = 'gzip'", "line 1: compress: write a section [compress], or true");
        check("compress.algorithms = []", "write at least one, or compress = false");
        check("compress.algorithms = ['deflate']", "`deflate` is none of zstd, br and gzip");
        check("compress.algorithms = ['br', 'br']", "`br` is there twice");
        check("compress.algorithms = 5", "write a list");
        check("compress.types = []", "write 1 to 50 types");
        check(&format!("compress.types = [{}]", "'a/b',".repeat(51)), "write 1 to 50 types");
        for wrong in
            ["text", "*", "*/*", "text/*/x", "text/html; charset=utf-8", "a/b,c/d", "/", "te*t/a", "+", "+a/b", ""]
        {
            check(&format!("compress.types = '{wrong}'"), "is not a type like");
        }
        check("compress.minsize = 1", "did you mean `compress.min_size`?");
        check("compress.level = 9", "unknown key `compress.level`");
    }

    #[test]
    fn types_that_become_smaller() {
        let takes = |text: &str, kind: &str| manifest(text).unwrap().compress.unwrap().takes(kind);
        for kind in [
            "text/html; charset=utf-8",
            "TEXT/plain",
            "application/json",
            "application/problem+json",
            "image/svg+xml",
            "text/event-stream",
            "application/javascript",
            "application/wasm",
        ] {
            assert!(takes("compress = true", kind), "{kind}");
        }
        for kind in [
            "image/png",
            "application/octet-stream",
            "application/gzip",
            "video/mp4",
            "font/woff2",
            "",
            "json",
            "application/grpc",
            "application/grpc+json",
        ] {
            assert!(!takes("compress = true", kind), "{kind}");
        }
        let own = "compress.types = ['application/*', 'image/bmp', '+json']";
        for kind in ["image/bmp", "application/octet-stream", "Model/GLTF+json;a=b"] {
            assert!(takes(own, kind), "{kind}");
        }
        for kind in ["text/html", "image/png", "application/grpc; x", "APPLICATION/grpc+proto", "applications/x"] {
            assert!(!takes(own, kind), "{kind}");
        }
    }
}
