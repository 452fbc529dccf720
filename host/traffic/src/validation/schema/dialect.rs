//! The versions of JSON Schema, and which keywords each has.

use super::SchemaMistake;
use crate::validation::json::Json;

/// A version of JSON Schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::validation) enum Dialect {
    /// Draft 7.
    Draft7,
    /// Draft 2019-09.
    Draft2019,
    /// Draft 2020-12, which is also that of OpenAPI 3.1.
    Draft2020,
}

/// The identifiers of versions, without a fragment.
const KNOWN: [(&str, Dialect); 4] = [
    ("https://json-schema.org/draft/2020-12/schema", Dialect::Draft2020),
    ("https://spec.openapis.org/oas/3.1/dialect/base", Dialect::Draft2020),
    ("https://json-schema.org/draft/2019-09/schema", Dialect::Draft2019),
    ("http://json-schema.org/draft-07/schema", Dialect::Draft7),
];

use Dialect::{Draft7, Draft2019, Draft2020};

/// Keywords of some versions only, and what to write in the others. There they would have no effect, and let anything pass.
const VERSIONED: &[(&str, &[Dialect], &str)] = &[
    ("$anchor", &[Draft2019, Draft2020], "write `$id` with a fragment"),
    ("$dynamicAnchor", &[Draft2020], "write `$anchor`"),
    ("$dynamicRef", &[Draft2020], "write `$ref`"),
    ("$recursiveAnchor", &[Draft2019], "write `$dynamicAnchor`"),
    ("$recursiveRef", &[Draft2019], "write `$dynamicRef`"),
    ("additionalItems", &[Draft7, Draft2019], "write `prefixItems` for the first items and `items` for the others"),
    ("dependencies", &[Draft7], "write `dependentRequired` or `dependentSchemas`"),
    ("dependentRequired", &[Draft2019, Draft2020], "write `dependencies`"),
    ("dependentSchemas", &[Draft2019, Draft2020], "write `dependencies`"),
    ("maxContains", &[Draft2019, Draft2020], "name a later version in `$schema`"),
    ("minContains", &[Draft2019, Draft2020], "name a later version in `$schema`"),
    ("prefixItems", &[Draft2020], "write `items` with a list"),
    ("unevaluatedItems", &[Draft2019, Draft2020], "name a later version in `$schema`"),
    ("unevaluatedProperties", &[Draft2019, Draft2020], "name a later version in `$schema`"),
    ("nullable", &[], "it is of OpenAPI 3.0; write `type` with a list that has \"null\""),
];

impl Dialect {
    /// Returns the version that a schema names; 2020-12 if it names none.
    ///
    /// # Errors
    /// If it is not known.
    pub(super) fn of(schema: &Json<'_>) -> Result<Self, SchemaMistake> {
        let Some(named) = schema.get("$schema") else { return Ok(Draft2020) };
        let named = named.text().map(|text| text.strip_suffix('#').unwrap_or(text));
        let known = KNOWN.iter().find(|(known, _)| named == Some(known)).map(|(_, dialect)| *dialect);
        known.ok_or_else(|| {
            let names: Vec<_> = KNOWN.iter().map(|(name, _)| format!("`{name}`")).collect();
            SchemaMistake::new("/$schema", format!("it is none of the versions {}", names.join(", ")))
        })
    }

    /// Checks that no keyword of a schema is one of other versions.
    ///
    /// # Errors
    /// If one is.
    pub(super) fn check(self, place: &str, schema: &Json<'_>) -> Result<(), SchemaMistake> {
        for (keyword, of, instead) in VERSIONED {
            if schema.get(keyword).is_some() && !of.contains(&self) {
                let why = format!("this version of JSON Schema does not have it; {instead}");
                return Err(SchemaMistake::new(&format!("{place}/{keyword}"), why));
            }
        }
        Ok(())
    }
}
