//! `[validate]`: what the bodies of requests to a service or a route have to be.

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::Manifest;
use crate::schema;
use crate::section::{Owner, Section, View, words};
use crate::written::{Problems, Written, with_defaults};
use lodge_base::config::key::{Key, size};

/// The keys. A key without a default must be written.
const KEYS: &[Key<BodySchema>] = &[
    Key {
        name: "body",
        default: "",
        help: "the file with the JSON Schema of request bodies; relative to the directory of the manifest",
        set: |of, text| {
            of.schema = text.into();
            if text.is_empty() { Err("write the path of a file".into()) } else { Ok(()) }
        },
    },
    Key {
        name: "size",
        default: "1MiB",
        help: "the most bytes of a body that is validated, which the host holds in memory; `limits.request_body` holds as well",
        set: |of, text| size(text, 1..=16 << 20).map(|value| of.size = value),
    },
];

/// `[validate]`.
pub(crate) const SECTION: Section = Section {
    name: "validate",
    page: "validation",
    schema: || {
        let table = schema::settings(KEYS, &BodySchema::default(), &["body"]);
        json!({ "anyOf": [{ "type": "boolean", "enum": [false] }, table] })
    },
    owner: Owner::Route(|settings, written, problems| settings.policies.validation = read(written, problems)),
    view: Some(View { label: "validate", value: view, text: words }),
    ..Section::DEFAULT
};

/// Which bodies requests may have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Validation {
    /// Any, also where those of the service are validated.
    Off,
    /// Those that meet a schema.
    Body(BodySchema),
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
    let mut settings = with_defaults(KEYS, BodySchema::default());
    problems.take(written.require("body", KEYS));
    let sound = written.settings(KEYS, &mut settings, problems);
    // What is not understood must not leave a route without its schema.
    sound.then_some(Validation::Body(settings))
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

/// Returns the schema of the service, and those of routes that have others.
fn view(manifest: &Manifest) -> Option<Value> {
    let shown = |of: &BodySchema| json!({ "body": of.schema.display().to_string(), "size": of.size });
    let mut all = match &manifest.policies.service.validation {
        Some(Validation::Body(of)) => shown(of),
        Some(Validation::Off) | None => json!({}),
    };
    for (route, policies) in &manifest.policies.routes {
        let own = match &policies.validation {
            Some(Validation::Body(of)) => shown(of),
            Some(Validation::Off) => "nothing".into(),
            None => continue,
        };
        all.as_object_mut()?.insert(route.clone(), own);
    }
    all.as_object().is_some_and(|all| !all.is_empty()).then_some(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use lodge_base::config;

    fn read(text: &str) -> Result<Manifest, String> {
        let limits = config::resolve(&[]).unwrap().config.limits;
        Manifest::read("users", text, &limits, 1 << 30).map_err(|problems| problems.join("\n"))
    }

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
        let all = view(&manifest).unwrap();
        assert_eq!(
            (&all["body"], &all["/a/b"]["size"], &all["/a/c"]),
            (&json!("a.json"), &json!(2048), &json!("nothing"))
        );
        assert_eq!(view(&read("").unwrap()), None);
    }

    #[test]
    fn mistakes_are_refused() {
        for (text, expected) in [
            ("validate = true", "line 1: validate: write a section [validate], or false"),
            ("validate = 'a.json'", "validate: write a section [validate], or false"),
            ("[validate]\nsize = '1KiB'", "validate.body is missing"),
            ("[validate]\nbody = ''", "line 2: validate.body: write the path of a file"),
            ("[validate]\nbody = 'a'\nsize = '1GiB'", "line 3: validate.size: "),
            ("[validate]\nbody = 'a'\nsiez = '1KiB'", "did you mean `validate.size`?"),
        ] {
            let problem = read(text).unwrap_err();
            assert!(problem.contains(expected), "{text}: {problem}");
        }
    }
}
