//! What a valid document of OpenAPI has that its author may have meant otherwise: fields that OpenAPI does not have, which are ignored, and
//! slips in schemas.

use lodge_base::config::key::misspelt;

use super::document::parsed;
use crate::validation::json::{Json, shown};
use crate::validation::schema::escaped;
use crate::validation::schema::hints::{MOST_HINTS, at, walk};

/// A part of a document: what it is, its fields, and what these have inside.
struct PartKind {
    what: &'static str,
    fields: &'static [(&'static str, Inside)],
}

/// What a field has inside.
enum Inside {
    /// Nothing that says which requests there are.
    Other,
    Part(&'static PartKind),
    List(&'static PartKind),
    Named(&'static PartKind),
    Schema,
    Schemas,
}

use Inside::{List, Named, Other, Part};

static DOCUMENT: PartKind = PartKind {
    what: "a document",
    fields: &[
        ("openapi", Other),
        ("info", Other),
        ("jsonSchemaDialect", Other),
        ("servers", Other),
        ("paths", Named(&PATH)),
        ("webhooks", Other),
        ("components", Part(&COMPONENTS)),
        ("security", Other),
        ("tags", Other),
        ("externalDocs", Other),
    ],
};

static COMPONENTS: PartKind = PartKind {
    what: "`components`",
    fields: &[
        ("schemas", Inside::Schemas),
        ("responses", Other),
        ("parameters", Named(&PARAMETER)),
        ("examples", Other),
        ("requestBodies", Named(&BODY)),
        ("headers", Other),
        ("securitySchemes", Other),
        ("links", Other),
        ("callbacks", Other),
        ("pathItems", Named(&PATH)),
    ],
};

static PATH: PartKind = PartKind {
    what: "a path",
    fields: &[
        ("summary", Other),
        ("description", Other),
        ("servers", Other),
        ("parameters", List(&PARAMETER)),
        ("delete", Part(&OPERATION)),
        ("get", Part(&OPERATION)),
        ("head", Part(&OPERATION)),
        ("options", Part(&OPERATION)),
        ("patch", Part(&OPERATION)),
        ("post", Part(&OPERATION)),
        ("put", Part(&OPERATION)),
        ("trace", Part(&OPERATION)),
    ],
};

static OPERATION: PartKind = PartKind {
    what: "an operation",
    fields: &[
        ("tags", Other),
        ("summary", Other),
        ("description", Other),
        ("externalDocs", Other),
        ("operationId", Other),
        ("parameters", List(&PARAMETER)),
        ("requestBody", Part(&BODY)),
        ("responses", Other),
        ("callbacks", Other),
        ("deprecated", Other),
        ("security", Other),
        ("servers", Other),
    ],
};

static PARAMETER: PartKind = PartKind {
    what: "a parameter",
    fields: &[
        ("name", Other),
        ("in", Other),
        ("description", Other),
        ("required", Other),
        ("deprecated", Other),
        ("allowEmptyValue", Other),
        ("style", Other),
        ("explode", Other),
        ("allowReserved", Other),
        ("schema", Inside::Schema),
        ("example", Other),
        ("examples", Other),
        ("content", Other),
    ],
};

static BODY: PartKind = PartKind {
    what: "a body",
    fields: &[("description", Other), ("content", Named(&MEDIA_TYPE)), ("required", Other)],
};

static MEDIA_TYPE: PartKind = PartKind {
    what: "a media type",
    fields: &[("schema", Inside::Schema), ("example", Other), ("examples", Other), ("encoding", Other)],
};

/// Returns the hints about the text of a document, a line each; none for a text that is none.
pub(super) fn hints(text: &str) -> Vec<String> {
    let mut hints = Vec::new();
    if let Ok(document) = parsed(text) {
        visit(&mut String::new(), &document, &DOCUMENT, &mut hints);
    }
    hints.truncate(MOST_HINTS);
    hints
}

/// Adds the hints about the part at a place, and those inside. A document has few levels.
fn visit(place: &mut String, part: &Json<'_>, kind: &'static PartKind, hints: &mut Vec<String>) {
    let Json::Object(fields) = part else { return };
    // What stands beside a reference describes it.
    if part.get("$ref").is_some() {
        return;
    }
    for (name, value) in fields {
        if hints.len() >= MOST_HINTS {
            return;
        }
        let inside = kind.fields.iter().find(|(known, _)| *known == &**name).map(|(_, inside)| inside);
        match (inside, value) {
            (None, _) if name.starts_with("x-") => {}
            (None, _) => hints.push(unknown(place, name, kind)),
            (Some(Inside::Part(kind)), _) => at(place, name, |place| visit(place, value, kind, hints)),
            (Some(Inside::List(kind)), Json::Array(items)) => at(place, name, |place| {
                for (number, item) in items.iter().enumerate() {
                    at(place, &number.to_string(), |place| visit(place, item, kind, hints));
                }
            }),
            (Some(Inside::Named(kind)), Json::Object(named)) => at(place, name, |place| {
                for (name, item) in named.iter().filter(|(name, _)| !name.starts_with("x-")) {
                    at(place, name, |place| visit(place, item, kind, hints));
                }
            }),
            (Some(Inside::Schema), _) => at(place, name, |place| walk(place, value, hints)),
            (Some(Inside::Schemas), Json::Object(named)) => at(place, name, |place| {
                named.iter().for_each(|(name, schema)| at(place, name, |place| walk(place, schema, hints)));
            }),
            // The reader of the document says what is wrong.
            (Some(_), _) => {}
        }
    }
}

/// Returns the hint about a field that a part of this kind does not have.
fn unknown(place: &str, name: &str, kind: &'static PartKind) -> String {
    let meant = misspelt(name, kind.fields.iter().map(|(known, _)| *known));
    let meant = meant.map_or(String::new(), |meant| format!("; did you mean `{meant}`?"));
    format!("{}/{} is no field of {}{meant}", shown(place), shown(&escaped(name)), kind.what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_told() {
        let yaml = "openapi: 3.1.0\npaths:\n  /users:\n    post:\n      requestBdy:\n        required: true\n    put:\n      parameters:\n      - {name: a, in: query, requird: true, schema: {type: string, maxLenght: 3}}\n      requestBody:\n        requird: true\n        content:\n          application/json: {schema: {type: object, requird: [a]}, x-note: 1}\n      nonsense: 1\ncomponents:\n  schemas:\n    user: {itmes: {}}\n";
        let expected = [
            "/components/schemas/user/itmes is no keyword; did you mean `items`?",
            "/paths/~1users/post/requestBdy is no field of an operation; did you mean `requestBody`?",
            "/paths/~1users/put/nonsense is no field of an operation",
            "/paths/~1users/put/parameters/0/requird is no field of a parameter; did you mean `required`?",
            "/paths/~1users/put/parameters/0/schema/maxLenght is no keyword; did you mean `maxLength`?",
            "/paths/~1users/put/requestBody/content/application~1json/schema/requird is no keyword; did you mean `required`?",
            "/paths/~1users/put/requestBody/requird is no field of a body; did you mean `required`?",
        ];
        assert_eq!(hints(yaml), expected);
        assert_eq!(hints(include_str!("tests/users.json")), [""; 0], "a sound document");
        for text in ["[]", "{", "openapi: 3.1.0\npaths: 7\n"] {
            assert_eq!(hints(text), [""; 0], "{text}");
        }
    }

    #[test]
    fn hints_are_bounded() {
        let slips: Vec<_> = (0..50).map(|number| format!("  /p{number}: {{get: {{paramters: []}}}}\n")).collect();
        assert_eq!(hints(&format!("openapi: 3.1.0\npaths:\n{}", slips.concat())).len(), MOST_HINTS);
    }
}
