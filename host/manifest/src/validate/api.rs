//! `[api]`: the operations that a service or a route has, by a document of OpenAPI.

use std::path::PathBuf;

use serde_json::json;

use super::{Validation, shown_size};
use crate::schema;
use crate::section::{Owner, Section, View, words};
use crate::written::{Problems, Written, with_defaults};
use lodge_base::canonical;
use lodge_base::config::key::{Key, size};

/// The most bytes of `base`.
const MOST_BASE: usize = 1_000;

/// The keys. A key without a default must be written.
const KEYS: &[Key<ApiDocument>] = &[
    Key {
        name: "openapi",
        default: "",
        help: "the file with the document of OpenAPI 3.1, in YAML or JSON; relative to the directory of the manifest",
        set: |of, text| {
            of.file = text.into();
            if text.is_empty() { Err("write the path of a file".into()) } else { Ok(()) }
        },
    },
    Key {
        name: "base",
        default: "/",
        help: "the path that the paths of the document are below, as the service sees it",
        set: |of, text| {
            of.base = text.strip_suffix('/').unwrap_or(text).into();
            let plain = text.starts_with('/') && text.len() <= MOST_BASE && canonical::is_plain(text);
            if plain { Ok(()) } else { Err("write a path such as \"/v1\", without a query".into()) }
        },
    },
    Key {
        name: "size",
        default: "1MiB",
        help: "the most bytes of a body of JSON, which the host holds in memory; `limits.request_body` holds as well",
        set: |of, text| size(text, 1..=16 << 20).map(|value| of.size = value),
    },
];

/// `[api]`.
pub(crate) const SECTION: Section = Section {
    name: "api",
    page: "validation",
    schema: || schema::settings(KEYS, &ApiDocument::default(), &["openapi"]),
    owner: Owner::Route(|settings, written, problems| {
        let read = read(written, problems);
        super::set(&mut settings.policies.validation, read, written, problems);
    }),
    view: Some(View {
        label: "api",
        value: |manifest| {
            super::view(manifest, |of| match of {
                Validation::Api(of) => {
                    Some(json!({ "openapi": of.file.display().to_string(), "size": shown_size(of.size) }))
                }
                Validation::Off | Validation::Body(_) => None,
            })
        },
        text: words,
    }),
    ..Section::DEFAULT
};

/// The document of an API.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ApiDocument {
    /// The file, relative to the directory of the manifest.
    pub file: PathBuf,
    /// What requests have before the paths of the document: plain, and without a slash at the end.
    pub base: String,
    /// The most bytes of a body of JSON.
    pub size: usize,
}

fn read(written: &Written<'_>, problems: &mut Problems) -> Option<Validation> {
    if written.boolean() == Ok(false) {
        problems.push(written.error("write `validate = false` for a route whose requests are not checked"));
        return None;
    }
    let mut settings = with_defaults(KEYS, ApiDocument::default());
    problems.take(written.require("openapi", KEYS));
    let sound = written.settings(KEYS, &mut settings, problems);
    // What is not understood must not leave a route without its document.
    sound.then_some(Validation::Api(settings))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::read;

    #[test]
    fn documents_are_of_services_and_routes() {
        let text = "routes = ['/a', { path = '/b', api = { openapi = 'b.json', base = '/v1/', size = '2KiB' } }, \
                    { path = '/c', validate = false }, { path = '/d', validate.body = 'd.json' }]\napi.openapi = 'a.json'";
        let manifest = read(text).unwrap();
        let api = |file: &str, base: &str, size| {
            Some(Validation::Api(ApiDocument { file: file.into(), base: base.into(), size }))
        };
        assert_eq!(manifest.policies.service.validation, api("a.json", "", 1 << 20));
        let of_routes: Vec<_> =
            manifest.policies.routes.iter().map(|(_, policies)| policies.validation.clone()).collect();
        assert_eq!(of_routes[..3], [None, api("b.json", "/v1", 2 << 10), Some(Validation::Off)]);
        assert!(matches!(of_routes[3], Some(Validation::Body(_))));
        assert!(manifest.routes.iter().all(|route| route.guarded));
        let shown = (SECTION.view.unwrap().value)(&manifest).unwrap();
        assert_eq!((&shown["openapi"], &shown["/b"]["size"]), (&json!("a.json"), &json!("2.0 KiB")));
        assert_eq!((shown.get("/c"), shown.get("/d")), (None, None));
    }

    #[test]
    fn mistakes_are_refused() {
        for (text, expected) in [
            ("api = false", "line 1: api: write `validate = false`"),
            ("api = 'a.json'", "api: write a section [api]"),
            ("[api]\nsize = '1KiB'", "api.openapi is missing"),
            ("[api]\nopenapi = ''", "line 2: api.openapi: write the path of a file"),
            ("[api]\nopenapi = 'a'\nbase = 'v1'", "line 3: api.base: write a path such as"),
            ("[api]\nopenapi = 'a'\nbase = '/v1/../v2'", "line 3: api.base: write a path such as"),
            ("[api]\nopenapi = 'a'\nsize = '1GiB'", "line 3: api.size: "),
            ("[api]\nopenapi = 'a'\n[validate]\nbody = 'b'", "`validate` and `api` stand for each other; remove one"),
            ("[validate]\nbody = 'b'\n[api]\nopenapi = 'a'", "`validate` and `api` stand for each other; remove one"),
        ] {
            let problem = read(text).unwrap_err();
            assert!(problem.contains(expected), "{text}: {problem}");
        }
    }
}
