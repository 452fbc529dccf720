//! `[validate]`: what the bodies of requests to a service or a route have to be; and what it has in common with `[api]`.

pub mod api;

use std::path::PathBuf;

use serde_json::{Value, json};

use self::api::ApiDocument;
use crate::Manifest;
use crate::schema;
use crate::section::{Owner, Section, View, words};
use crate::written::{Problems, Written, with_defaults};
use lodge_base::config::key::{Key, size};

/// What is said of a schema in a manifest.
const OF_FILE: &str = "a schema is a file of JSON, of which this is the name: write `body = \"user.json\"`";

/// The keys. A key without a default must be written.
const KEYS: &[Key<BodySchema>] = &[
    Key {
        name: "body",
        default: "",
        help: "the file with the JSON Schema of request bodies; relative to the directory of the manifest",
        set: |of, text| {
            of.schema = text.into();
            match text.trim_start() {
                "" => Err("write the path of a file".into()),
                text if text.starts_with('{') => Err(OF_FILE.into()),
                _ => Ok(()),
            }
        },
    },
    Key {
        name: "size",
        default: "1MiB",
        help: "the most bytes of a body that is validated, which the host holds in memory; `limits.request_body` holds as well",
        set: |of, text| size(text, 1..=16 << 20).map(|value| of.size = value),
    },
];

/// Returns a size as operators see all others.
fn shown_size(bytes: usize) -> String {
    bytesize::ByteSize(bytes as u64).display().iec().to_string()
}

/// `[validate]`.
pub(crate) const SECTION: Section = Section {
    name: "validate",
    page: "validation",
    schema: || {
        let table = schema::settings(KEYS, &BodySchema::default(), &["body"]);
        json!({ "anyOf": [{ "type": "boolean", "enum": [false] }, table] })
    },
    owner: Owner::Route(|settings, written, problems| {
        let read = read(written, problems);
        set(&mut settings.policies.validation, read, written, problems);
    }),
    view: Some(View {
        label: "validate",
        value: |manifest| {
            view(manifest, |of| match of {
                Validation::Off => Some("nothing".into()),
                Validation::Body(of) => {
                    Some(json!({ "body": of.schema.display().to_string(), "size": shown_size(of.size) }))
                }
                Validation::Api(_) => None,
            })
        },
        text: words,
    }),
    ..Section::DEFAULT
};

/// What requests have to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Validation {
    /// Anything, also where those of the service are validated.
    Off,
    /// Their bodies meet a schema.
    Body(BodySchema),
    /// They are operations of an API.
    Api(ApiDocument),
}

/// The schema of bodies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BodySchema {
    /// The file with the schema, relative to the directory of the manifest.
    pub schema: PathBuf,
    /// The most bytes of a body.
    pub size: usize,
}

fn read(written: &Written<'_>, problems: &mut Problems) -> Option<Validation> {
    const FORM: &str = "write a section [validate], or false";
    if written.table().is_none() {
        let on = problems.take(written.boolean().map_err(|_| written.error(FORM)))?;
        if on {
            problems.push(written.error(FORM));
        }
        return Some(Validation::Off);
    }
    let inline =
        written.table().into_iter().flatten().find(|key| key.inside(written) == "body" && key.table().is_some());
    if let Some(body) = inline {
        problems.push(body.error(OF_FILE));
        return None;
    }
    let mut settings = with_defaults(KEYS, BodySchema::default());
    problems.take(written.require("body", KEYS));
    let sound = written.settings(KEYS, &mut settings, problems);
    // What is not understood must not leave a route without its schema.
    sound.then_some(Validation::Body(settings))
}

/// Sets what requests have to be, which `validate` and `api` both say.
fn set(validation: &mut Option<Validation>, read: Option<Validation>, written: &Written<'_>, problems: &mut Problems) {
    if validation.is_some() {
        problems.push(written.error("`validate` and `api` stand for each other; remove one of them"));
    }
    *validation = read;
}

/// Makes other spellings of a path lead nowhere, where they could lead from a route without validation to one with it.
pub(crate) fn settle(manifest: &mut Manifest) {
    let routes = &manifest.policies.routes;
    if routes.iter().any(|(_, policies)| policies.validation == Some(Validation::Off)) {
        for (route, (_, policies)) in manifest.routes.iter_mut().zip(&manifest.policies.routes) {
            route.guarded |= policies.validation != Some(Validation::Off);
        }
    }
}

/// Returns what `shown` says of the service, and of routes that have something else.
fn view(manifest: &Manifest, shown: impl Fn(&Validation) -> Option<Value>) -> Option<Value> {
    let of_service = manifest.policies.service.validation.as_ref().and_then(&shown);
    let mut all = of_service.filter(Value::is_object).unwrap_or_else(|| json!({}));
    for (route, policies) in &manifest.policies.routes {
        if let Some(own) = policies.validation.as_ref().and_then(&shown) {
            all.as_object_mut()?.insert(route.clone(), own);
        }
    }
    all.as_object().is_some_and(|all| !all.is_empty()).then_some(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::read;

    #[test]
    fn schemas_are_of_services_and_routes() {
        let text = "routes = ['/a', { path = '/a/b', validate = { body = 'b.json', size = '2KiB' } }, { path = '/a/c', validate = false }]\n\
                    [validate]\nbody = 'a.json'";
        let manifest = read(text).unwrap();
        let body = |schema: &str, size| Some(Validation::Body(BodySchema { schema: schema.into(), size }));
        assert_eq!(manifest.policies.service.validation, body("a.json", 1 << 20));
        let of_routes: Vec<_> =
            manifest.policies.routes.iter().map(|(_, policies)| policies.validation.clone()).collect();
        assert_eq!(of_routes, [None, body("b.json", 2 << 10), Some(Validation::Off)]);
        // No spelling leads from the last route to one whose bodies are validated.
        assert_eq!(manifest.routes.iter().map(|route| route.guarded).collect::<Vec<_>>(), [true, true, true]);
        let view = SECTION.view.unwrap().value;
        let all = view(&manifest).unwrap();
        assert_eq!(
            (&all["body"], &all["/a/b"]["size"], &all["/a/c"]),
            (&json!("a.json"), &json!("2.0 KiB"), &json!("nothing"))
        );
        assert_eq!(view(&read("").unwrap()), None);
    }

    #[test]
    fn mistakes_are_refused() {
        for (text, expected) in [
            ("validate = true", "line 1: validate: write a section [validate], or false"),
            ("validate = 'a.json'", "validate: write a section [validate], or false"),
            ("[validate]\nsize = '1KiB'", "validate.body is missing"),
            ("[validate.body]\ntype = 'object'\nrequired = ['a']", "validate.body: a schema is a file of JSON"),
            ("validate.body = ' {\"type\":\"object\"}'", "validate.body: a schema is a file of JSON"),
            ("[validate]\nbody = ''", "line 2: validate.body: write the path of a file"),
            ("[validate]\nbody = 'a'\nsize = '1GiB'", "line 3: validate.size: "),
            ("[validate]\nbody = 'a'\nsiez = '1KiB'", "did you mean `validate.size`?"),
        ] {
            let problem = read(text).unwrap_err();
            assert!(problem.contains(expected), "{text}: {problem}");
        }
    }
}
