//! The types that a parameter may have, by which its text is read.

use super::{DocumentPart, DocumentReader, Result, mistake};
use crate::validation::json::Json;
use crate::validation::schema::node::TypeSet;

/// The most schemas that say which types parameters have, and those of them inside of each other.
const MOST_VISITS: usize = 100_000;
const MOST_LEVELS: usize = 50;

/// The values of an `enum` that count as one schema.
const VALUES_OF_VISIT: usize = 64;

/// The types of a parameter, and those of its items if it may be a list.
#[derive(Clone, Copy, Default)]
pub(super) struct ParameterTypes {
    pub(super) own: TypeSet,
    pub(super) items: Option<TypeSet>,
}

impl ParameterTypes {
    /// Adds the types of another schema.
    fn extend(&mut self, other: Self) {
        self.own.extend(other.own);
        self.items = self.items.or(other.items);
    }
}

impl<'d, 't> DocumentReader<'d, 't> {
    /// Returns the types besides null that the schema of a parameter allows, as far as it says so.
    ///
    /// # Errors
    /// If they cannot be told apart in a text, or there are too many schemas.
    pub(super) fn types_of(&mut self, schema: &DocumentPart<'d, 't>) -> Result<ParameterTypes> {
        self.types(schema, MOST_LEVELS)
    }

    /// They are said by `type`, `enum` or `const`, or by the schemas that it refers to.
    fn types(&mut self, schema: &DocumentPart<'d, 't>, levels: usize) -> Result<ParameterTypes> {
        self.visits += 1;
        let Some(levels) = levels.checked_sub(1).filter(|_| self.visits <= MOST_VISITS) else {
            let why = format!(
                "parameters have more than {MOST_VISITS} schemas, or {MOST_LEVELS} of them inside of each other"
            );
            return mistake(&schema.place, why);
        };
        let mut types = ParameterTypes::default();
        if let Some(value) = schema.value.get("type") {
            let names = if let Json::Array(names) = value { &**names } else { std::slice::from_ref(value) };
            self.visits += names.len() / VALUES_OF_VISIT;
            for name in names.iter().filter_map(Json::text) {
                match name {
                    "object" => return mistake(&schema.place, "parameters that are objects are not supported"),
                    "null" => {}
                    "array" => types.items = Some(self.item_types(schema, levels)?),
                    // The compiler of the schema refuses others.
                    name => drop(types.own.add(name)),
                }
            }
        } else if let Some(values) = values(schema.value) {
            self.visits += values.len() / VALUES_OF_VISIT;
            if values.iter().any(|value| matches!(value, Json::Array(_) | Json::Object(_))) {
                return mistake(&schema.place, "a value in `enum` or `const` of a parameter is no list and no object");
            }
            values.iter().filter(|value| **value != Json::Null).for_each(|value| types.own.extend(TypeSet::of(value)));
        } else {
            if let Some(reference) = schema.value.get("$ref") {
                let target = self.target(&schema.place, reference)?;
                types.extend(self.types(&target, levels)?);
            }
            for keyword in ["anyOf", "oneOf", "allOf"] {
                let Some(all) = schema.get(keyword) else { continue };
                for inner in all.items()? {
                    types.extend(self.types(&inner, levels)?);
                }
            }
        }
        if types.items.is_some() && !types.own.is_empty() {
            return mistake(&schema.place, "a parameter that may be a list has no other type");
        }
        Ok(types)
    }

    fn item_types(&mut self, schema: &DocumentPart<'d, 't>, levels: usize) -> Result<TypeSet> {
        let Some(items) = schema.get("items") else {
            return mistake(&schema.place, "a parameter that is a list needs `items`");
        };
        let types = self.types(&items, levels)?;
        if types.items.is_some() || types.own.is_empty() {
            return mistake(&items.place, "say which `type` the items have; lists of lists are not supported");
        }
        Ok(types.own)
    }
}

/// Returns the values that a schema allows, if it names them.
fn values<'v, 't>(schema: &'v Json<'t>) -> Option<&'v [Json<'t>]> {
    match schema.get("enum") {
        Some(Json::Array(values)) => Some(values),
        // The compiler of the schema refuses it.
        Some(other) => Some(std::slice::from_ref(other)),
        None => schema.get("const").map(std::slice::from_ref),
    }
}
