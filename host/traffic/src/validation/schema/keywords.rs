//! Reads the keywords of a schema.

use super::dialect::Dialect;
use super::node::{Assertion, Branches, Contained, ItemSchemas, NodeId, PropertySchemas, TypeSet};
use super::pattern::Pattern;
use super::{MOST_PATTERNS, MOST_VALUE_BYTES, SchemaCompiler, SchemaMistake, escaped};
use crate::validation::json::{Entry, Json};
use crate::validation::number::JsonNumber;

type KeywordResult<T> = Result<T, SchemaMistake>;

/// The keywords of one schema.
struct Keywords<'c, 'd, 't> {
    compiler: &'c mut SchemaCompiler<'d, 't>,
    place: &'c str,
    schema: &'d Json<'t>,
}

/// Returns the checks of a schema, those that cost little first.
///
/// # Errors
/// If a keyword has a value that it cannot have.
pub(super) fn keywords<'d, 't>(
    compiler: &mut SchemaCompiler<'d, 't>,
    place: &str,
    schema: &'d Json<'t>,
) -> KeywordResult<Vec<Assertion>> {
    let dialect = compiler.dialect;
    if dialect == Dialect::Draft7 && schema.get("$ref").is_some() {
        // In draft 7, what stands beside a reference has no meaning.
        return Ok(Keywords { compiler, place, schema }.reference("$ref")?.into_iter().collect());
    }
    dialect.check(place, schema)?;
    if !place.is_empty() && schema.get("$schema").is_some() {
        let same = Dialect::of(schema).is_ok_and(|named| named == dialect);
        let why = "all schemas of a file are of the same version";
        if !same {
            return Err(SchemaMistake::new(&format!("{place}/$schema"), why));
        }
    }
    let mut keywords = Keywords { compiler, place, schema };
    let mut checks = Vec::new();
    keywords.of_values(&mut checks)?;
    keywords.of_items(&mut checks)?;
    keywords.of_properties(&mut checks)?;
    keywords.of_schemas(&mut checks)?;
    // After all others, since what these have evaluated is not evaluated again.
    checks.extend(keywords.inner("unevaluatedItems").map(Assertion::UnevaluatedItems));
    checks.extend(keywords.inner("unevaluatedProperties").map(Assertion::UnevaluatedProperties));
    Ok(checks)
}

impl<'d, 't> Keywords<'_, 'd, 't> {
    fn get(&self, keyword: &str) -> Option<&'d Json<'t>> {
        self.schema.get(keyword)
    }

    fn mistake(&self, keyword: &str, why: impl Into<String>) -> SchemaMistake {
        SchemaMistake::new(&format!("{}/{keyword}", self.place), why)
    }

    /// Checks about any value, numbers and texts.
    fn of_values(&mut self, checks: &mut Vec<Assertion>) -> KeywordResult<()> {
        checks.extend(self.types()?.map(Assertion::Type));
        if let Some(value) = self.get("const") {
            checks.push(Assertion::Enum(vec![self.copied("const", value)?]));
        }
        if let Some(values) = self.list("enum")? {
            let mut values =
                values.iter().map(|value| self.copied("enum", value)).collect::<KeywordResult<Vec<_>>>()?;
            values.sort_unstable();
            values.dedup();
            checks.push(Assertion::Enum(values));
        }
        if let Some(of) = self.number("multipleOf")? {
            if JsonNumber::from(0_i64).is_multiple_of(of).is_none() {
                return Err(self.mistake("multipleOf", "write a number above 0, of at most 18 digits"));
            }
            checks.push(Assertion::MultipleOf(of));
        }
        checks.extend(self.number("maximum")?.map(Assertion::Maximum));
        checks.extend(self.number("exclusiveMaximum")?.map(Assertion::ExclusiveMaximum));
        checks.extend(self.number("minimum")?.map(Assertion::Minimum));
        checks.extend(self.number("exclusiveMinimum")?.map(Assertion::ExclusiveMinimum));
        checks.extend(self.count("maxLength")?.map(Assertion::MaxLength));
        checks.extend(self.count("minLength")?.map(Assertion::MinLength));
        if let Some(text) = self.text("pattern")? {
            let place = format!("{}/pattern", self.place);
            checks.push(Assertion::Pattern(self.pattern(&place, text)?));
        }
        Ok(())
    }

    fn of_items(&mut self, checks: &mut Vec<Assertion>) -> KeywordResult<()> {
        checks.extend(self.count("maxItems")?.map(Assertion::MaxItems));
        checks.extend(self.count("minItems")?.map(Assertion::MinItems));
        let (mut first, mut rest) = (self.inner_list("prefixItems")?.unwrap_or_default(), None);
        match self.get("items") {
            Some(Json::Array(_)) if self.compiler.dialect == Dialect::Draft2020 => {
                return Err(self.mistake("items", "write `prefixItems` for a list of schemas"));
            }
            Some(Json::Array(_)) => {
                first = self.inner_list("items")?.unwrap_or_default();
                rest = self.inner("additionalItems");
            }
            _ => rest = self.inner("items").or(rest),
        }
        if !first.is_empty() || rest.is_some() {
            checks.push(Assertion::Items(ItemSchemas { first, rest }));
        }
        let (least, most) = (self.count("minContains")?.unwrap_or(1), self.count("maxContains")?);
        if let Some(schema) = self.inner("contains") {
            let marks = self.compiler.dialect == Dialect::Draft2020;
            checks.push(Assertion::Contains(Contained { schema, least, most, marks }));
        }
        if self.boolean("uniqueItems")? {
            checks.push(Assertion::UniqueItems);
        }
        Ok(())
    }

    fn of_properties(&mut self, checks: &mut Vec<Assertion>) -> KeywordResult<()> {
        checks.extend(self.count("maxProperties")?.map(Assertion::MaxProperties));
        checks.extend(self.count("minProperties")?.map(Assertion::MinProperties));
        if let Some(names) = self.get("required") {
            checks.push(Assertion::Required(self.names("required", names)?));
        }
        let named = self.inner_named("properties")?;
        let mut patterns = Vec::new();
        for (text, schema) in self.inner_named("patternProperties")? {
            let place = format!("{}/patternProperties/{}", self.place, escaped(&text));
            patterns.push((self.pattern(&place, &text)?, schema));
        }
        let rest = self.inner("additionalProperties");
        if !named.is_empty() || !patterns.is_empty() || rest.is_some() {
            checks.push(Assertion::Properties(PropertySchemas { named, patterns, rest }));
        }
        checks.extend(self.inner("propertyNames").map(Assertion::PropertyNames));
        let (mut required, mut schemas) = (Vec::new(), self.inner_named("dependentSchemas")?);
        for keyword in ["dependentRequired", "dependencies"] {
            for (name, value) in self.table(keyword)?.into_iter().flatten() {
                let inside = format!("{keyword}/{}", escaped(name));
                if keyword == "dependentRequired" || matches!(value, Json::Array(_)) {
                    required.push((name.as_ref().into(), self.names(&inside, value)?));
                } else {
                    let place = format!("{}/{inside}", self.place);
                    schemas.push((name.as_ref().into(), self.compiler.node(&place)));
                }
            }
        }
        if !required.is_empty() {
            checks.push(Assertion::DependentRequired(required));
        }
        if !schemas.is_empty() {
            checks.push(Assertion::DependentSchemas(schemas));
        }
        Ok(())
    }

    /// Checks by other schemas for the same value.
    fn of_schemas(&mut self, checks: &mut Vec<Assertion>) -> KeywordResult<()> {
        checks.extend(self.reference("$ref")?);
        for (keyword, anchored) in [("$dynamicRef", "$dynamicAnchor"), ("$recursiveRef", "$recursiveAnchor")] {
            let Some(reference) = self.text(keyword)? else { continue };
            let anchor = reference.split_once('#').map_or("", |(_, anchor)| anchor);
            // A pointer always leads to the same place.
            if !anchor.starts_with('/') && !self.compiler.locations.is_static(anchor) {
                let why =
                    format!("there are several schemas with this `{anchored}`, which is not supported; write `$ref`");
                return Err(self.mistake(keyword, why));
            }
            checks.extend(self.reference(keyword)?);
        }
        checks.extend(self.inner_list("allOf")?.map(Assertion::AllOf));
        checks.extend(self.inner_list("anyOf")?.map(Assertion::AnyOf));
        checks.extend(self.inner_list("oneOf")?.map(Assertion::OneOf));
        checks.extend(self.inner("not").map(Assertion::Not));
        if let Some(condition) = self.inner("if") {
            let (then, otherwise) = (self.inner("then"), self.inner("else"));
            checks.push(Assertion::If(Branches { condition, then, otherwise }));
        }
        Ok(())
    }

    fn reference(&mut self, keyword: &str) -> KeywordResult<Option<Assertion>> {
        let Some(reference) = self.text(keyword)? else { return Ok(None) };
        let target = self.compiler.locations.resolve(self.place, reference);
        let target = target.map_err(|mistake| self.mistake(keyword, mistake.why))?;
        Ok(Some(Assertion::Reference(self.compiler.node(&target))))
    }

    fn types(&self) -> KeywordResult<Option<TypeSet>> {
        const FORM: &str = "write one of null, boolean, integer, number, string, array and object, or a list of them";
        let Some(value) = self.get("type") else { return Ok(None) };
        let mut set = TypeSet::default();
        let names = if let Json::Array(names) = value { &**names } else { std::slice::from_ref(value) };
        let known = names.iter().all(|name| name.text().is_some_and(|name| set.add(name)));
        if known && !names.is_empty() { Ok(Some(set)) } else { Err(self.mistake("type", FORM)) }
    }

    fn number(&self, keyword: &str) -> KeywordResult<Option<JsonNumber>> {
        match self.get(keyword) {
            None => Ok(None),
            Some(Json::Number(number)) => Ok(Some(*number)),
            Some(_) => Err(self.mistake(keyword, "write a number")),
        }
    }

    fn count(&self, keyword: &str) -> KeywordResult<Option<usize>> {
        let count = self.number(keyword)?.map(|number| number.count());
        let wrong = || self.mistake(keyword, "write a whole number from 0");
        count.map(|count| count.ok_or_else(wrong)).transpose()
    }

    fn boolean(&self, keyword: &str) -> KeywordResult<bool> {
        match self.get(keyword) {
            None => Ok(false),
            Some(Json::Bool(value)) => Ok(*value),
            Some(_) => Err(self.mistake(keyword, "write true or false")),
        }
    }

    fn text(&self, keyword: &str) -> KeywordResult<Option<&'d str>> {
        let text = self.get(keyword).map(|value| value.text().ok_or_else(|| self.mistake(keyword, "write a text")));
        text.transpose()
    }

    fn list(&self, keyword: &str) -> KeywordResult<Option<&'d [Json<'t>]>> {
        match self.get(keyword) {
            None => Ok(None),
            Some(Json::Array(items)) => Ok(Some(items)),
            Some(_) => Err(self.mistake(keyword, "write a list")),
        }
    }

    fn table(&self, keyword: &str) -> KeywordResult<Option<&'d [Entry<'t>]>> {
        match self.get(keyword) {
            None => Ok(None),
            Some(Json::Object(entries)) => Ok(Some(entries)),
            Some(_) => Err(self.mistake(keyword, "write an object")),
        }
    }

    fn names(&self, inside: &str, value: &Json<'_>) -> KeywordResult<Vec<Box<str>>> {
        let wrong = || self.mistake(inside, "write a list of names");
        let Json::Array(items) = value else { return Err(wrong()) };
        items.iter().map(|item| item.text().map(Box::from)).collect::<Option<_>>().ok_or_else(wrong)
    }

    /// Returns a copy of a value of a keyword.
    fn copied(&mut self, keyword: &str, value: &Json<'_>) -> KeywordResult<Json<'static>> {
        let bytes = self.compiler.value_bytes.checked_add(value.bytes());
        let Some(bytes) = bytes.filter(|bytes| *bytes <= MOST_VALUE_BYTES) else {
            let most = MOST_VALUE_BYTES >> 20;
            return Err(self.mistake(keyword, format!("the values of `enum` and `const` take more than {most} MiB")));
        };
        self.compiler.value_bytes = bytes;
        Ok(value.owned())
    }

    fn pattern(&mut self, place: &str, text: &str) -> KeywordResult<Pattern> {
        self.compiler.patterns += 1;
        if self.compiler.patterns > MOST_PATTERNS {
            return Err(SchemaMistake::new(place, format!("there are more than {MOST_PATTERNS} patterns")));
        }
        Pattern::read(text).map_err(|why| SchemaMistake::new(place, why))
    }

    /// Returns the schema that a keyword has.
    fn inner(&mut self, keyword: &str) -> Option<NodeId> {
        self.get(keyword)?;
        Some(self.compiler.node(&format!("{}/{keyword}", self.place)))
    }

    fn inner_list(&mut self, keyword: &str) -> KeywordResult<Option<Vec<NodeId>>> {
        let Some(items) = self.list(keyword)? else { return Ok(None) };
        if items.is_empty() {
            return Err(self.mistake(keyword, "write at least one schema"));
        }
        let place = self.place;
        Ok(Some((0..items.len()).map(|at| self.compiler.node(&format!("{place}/{keyword}/{at}"))).collect()))
    }

    /// Returns the schemas that a keyword has by names, in the order of the names.
    fn inner_named(&mut self, keyword: &str) -> KeywordResult<Vec<(Box<str>, NodeId)>> {
        let (place, entries) = (self.place, self.table(keyword)?.unwrap_or_default());
        let named = entries.iter().map(|(name, _)| {
            let inside = format!("{place}/{keyword}/{}", escaped(name));
            (Box::from(&**name), self.compiler.node(&inside))
        });
        Ok(named.collect())
    }
}
