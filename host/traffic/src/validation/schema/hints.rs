//! What a valid schema has that its author may have meant otherwise. Keywords that no version has are ignored, as the standard says, so a
//! slip of the pen lets anything pass.

use lodge_base::config::key::misspelt;

use super::locations::{HOLDERS, Holds, escaped};
use super::{BOUNDS, Json};
use crate::validation::json::shown;

/// The most hints about a file.
pub(in crate::validation) const MOST_HINTS: usize = 10;

/// The most bytes of a keyword that no hint is about.
const SHORT: usize = 4;

/// The bytes by which what is written and what is meant may differ in length.
const SLIPS: usize = 2;

/// Keywords that say what is valid, besides those that have schemas.
const CHECKS: &[&str] = &[
    "$dynamicRef",
    "$recursiveRef",
    "$ref",
    "const",
    "dependentRequired",
    "enum",
    "exclusiveMaximum",
    "exclusiveMinimum",
    "maxContains",
    "maxItems",
    "maxLength",
    "maxProperties",
    "maximum",
    "minContains",
    "minItems",
    "minLength",
    "minProperties",
    "minimum",
    "multipleOf",
    "pattern",
    "required",
    "type",
    "uniqueItems",
];

/// Keywords that say nothing about validity: those of JSON Schema, and those that OpenAPI adds.
const ANNOTATIONS: &[&str] = &[
    "$anchor",
    "$comment",
    "$dynamicAnchor",
    "$id",
    "$recursiveAnchor",
    "$schema",
    "$vocabulary",
    "contentEncoding",
    "contentMediaType",
    "contentSchema",
    "default",
    "deprecated",
    "description",
    "discriminator",
    "example",
    "examples",
    "externalDocs",
    "format",
    "readOnly",
    "title",
    "writeOnly",
    "xml",
];

/// Keywords with schemas that say nothing until something refers to these.
const DEFINITIONS: [&str; 2] = ["$defs", "definitions"];

/// Returns the hints about the text of a schema, a line each; none for a text that is none.
pub(in crate::validation) fn hints(text: &str) -> Vec<String> {
    let Ok(document) = Json::read(text.as_bytes(), BOUNDS) else { return Vec::new() };
    let mut hints = Vec::new();
    let Json::Object(keywords) = &document else { return hints };
    if !keywords.iter().any(|(keyword, _)| checks(keyword)) {
        hints.push("no keyword of it checks anything, so that every body of JSON is valid".to_owned());
    }
    walk(&mut String::new(), &document, &mut hints);
    hints.truncate(MOST_HINTS);
    hints
}

fn holders() -> impl Iterator<Item = &'static str> {
    HOLDERS.iter().map(|(keyword, _)| *keyword)
}

fn checks(keyword: &str) -> bool {
    CHECKS.contains(&keyword) || holders().any(|known| known == keyword) && !DEFINITIONS.contains(&keyword)
}

/// Whether a keyword is an extension by its name.
fn is_of_others(keyword: &str) -> bool {
    keyword.starts_with("x-")
}

/// Adds the hints about the schema at a place, and those inside. A document has few levels.
pub(in crate::validation) fn walk(place: &mut String, schema: &Json<'_>, hints: &mut Vec<String>) {
    let Json::Object(keywords) = schema else { return };
    for (keyword, value) in keywords {
        if hints.len() >= MOST_HINTS {
            return;
        }
        match HOLDERS.iter().find(|(known, _)| *known == &**keyword).map(|(_, holds)| holds) {
            Some(Holds::Named) => {
                let Json::Object(named) = value else { continue };
                at(place, keyword, |place| {
                    named.iter().for_each(|(name, inner)| at(place, name, |place| walk(place, inner, hints)));
                });
            }
            Some(Holds::Schema | Holds::List) => at(place, keyword, |place| match value {
                Json::Array(items) => {
                    for (number, inner) in items.iter().enumerate() {
                        at(place, &number.to_string(), |place| walk(place, inner, hints));
                    }
                }
                inner => walk(place, inner, hints),
            }),
            None if is_of_others(keyword) || CHECKS.contains(&&**keyword) || ANNOTATIONS.contains(&&**keyword) => {}
            None => {
                if let Some(meant) = meant(keyword) {
                    let (place, keyword) = (shown(place), shown(&escaped(keyword)));
                    hints.push(format!("{place}/{keyword} is no keyword; did you mean `{meant}`?"));
                }
            }
        }
    }
}

/// Visits a place inside of another one.
pub(in crate::validation) fn at(place: &mut String, part: &str, visit: impl FnOnce(&mut String)) {
    let outer = place.len();
    place.push('/');
    place.push_str(&escaped(part));
    visit(place);
    place.truncate(outer);
}

/// Returns the keyword that checks something and may be meant by another one. Short ones are a slip away from too many words.
fn meant(keyword: &str) -> Option<&'static str> {
    let similar = |known: &&str| known.len() > SHORT && known.len().abs_diff(keyword.len()) <= SLIPS;
    let known = CHECKS.iter().chain(ANNOTATIONS).copied().chain(holders()).filter(similar);
    misspelt(keyword, known).filter(|meant| !ANNOTATIONS.contains(meant))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_told() {
        let text = r#"{"type": "object", "propertys": {"a": {"typ": 1}}, "require": ["a"],
            "properties": {"b/c": {"minLenght": 1, "x-note": 1, "example": 2, "unit": "m"}}, "anyOf": [true, {"itmes": {}}]}"#;
        let expected = [
            "/propertys is no keyword; did you mean `properties`?",
            "/require is no keyword; did you mean `required`?",
            "/properties/b~1c/minLenght is no keyword; did you mean `minLength`?",
            "/anyOf/1/itmes is no keyword; did you mean `items`?",
        ];
        let mut found = hints(text);
        found.sort_unstable();
        let mut expected: Vec<_> = expected.iter().map(|hint| (*hint).to_owned()).collect();
        expected.sort_unstable();
        assert_eq!(found, expected);
    }

    #[test]
    fn schemas_that_check_nothing_are_told() {
        for text in [
            "{}",
            r#"{"title": "a", "$defs": {"b": {"type": "object"}}}"#,
            r#"{"openapi": "3.1.0", "info": {"title": "a"}, "paths": {"/users": {}}, "components": {"schemas": {}}}"#,
        ] {
            let found = hints(text);
            assert!(found.len() == 1 && found[0].starts_with("no keyword of it checks anything"), "{text}: {found:?}");
        }
        for text in ["true", r##"{"$ref": "#/$defs/a"}"##, r#"{"properties": {}}"#, r#"{"const": 1}"#, "no JSON"] {
            assert_eq!(hints(text), [""; 0], "{text}");
        }
    }

    #[test]
    fn hints_are_bounded() {
        // Words of others, which are a slip away from `not`, `then`, `enum` and `type`.
        assert_eq!(hints(r#"{"type": "object", "note": 1, "when": 1, "enums": 1, "types": 1}"#), [""; 0]);
        let long = "k".repeat(1_000);
        let found = hints(&format!(r#"{{"properties": {{"{long}": {{"itmes": {{}}}}}}}}"#));
        assert!(found.len() == 1 && found[0].starts_with("/properties/kk") && found[0].len() < 300, "{found:?}");
        let slips: Vec<_> = (0..100).map(|number| format!(r#""requird{number}": 1"#)).collect();
        assert_eq!(hints(&format!("{{{}}}", slips.join(","))).len(), MOST_HINTS);
    }

    /// Every keyword that is read is known here.
    #[test]
    fn every_keyword_is_known() {
        let read = include_str!("keywords.rs").split("#[cfg(test)]").next().unwrap();
        for (_, rest) in [
            "self.get(\"",
            "self.list(\"",
            "self.number(\"",
            "self.count(\"",
            "self.text(\"",
            "self.boolean(\"",
            "self.inner(\"",
            "self.inner_list(\"",
            "self.inner_named(\"",
        ]
        .iter()
        .flat_map(|call| read.split(call).skip(1).map(move |rest| (call, rest)))
        {
            let keyword = rest.split('"').next().unwrap();
            assert!(checks(keyword) || ANNOTATIONS.contains(&keyword), "{keyword}");
        }
    }
}
