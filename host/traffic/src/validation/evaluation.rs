//! Evaluates a schema for a value, within a number of steps.
//!
//! The steps bound the time: a schema whose alternatives refer to themselves may need a number of evaluations that doubles with each
//! level of the value, and a client chooses the levels.

mod evaluated;
mod parts;
mod place;

use std::fmt;
use std::sync::Arc;

use self::evaluated::EvaluatedParts;
use self::place::ValuePlace;
use super::json::Json;
use super::schema::Schema;
use super::schema::node::{Assertion, Branches, NodeId};
use super::schema::pattern::Pattern;

/// The most schemas that are evaluated inside of each other. It bounds the stack.
const DEPTH: usize = 300;

/// The most errors that a client is told of.
pub(super) const MOST_ERRORS: usize = 20;

/// The bytes of text that one step reads.
const BYTES: usize = 16;

/// The product of the bytes of a text and those of a pattern's states that one step pays for. A state takes about 32 bytes, and the
/// slowest search looks at each of them for each byte.
const MATCH: usize = 512;

/// What is wrong with a part of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SchemaError {
    /// The parameter that the value is of; `None` for the body.
    pub parameter: Option<ParameterName>,
    /// The part, as a JSON Pointer.
    pub pointer: String,
    /// What it has to be. It says nothing of the value.
    pub message: String,
}

/// The name of a parameter, and its place in a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParameterName {
    /// `path`, `query`, `header` or `cookie`.
    pub place: &'static str,
    /// The name in the document.
    pub name: Arc<str>,
}

impl fmt::Display for ParameterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} parameter {}", self.place, self.name.escape_debug())
    }
}

/// Why a value is not valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Invalid {
    /// It does not meet the schema, in some of these ways.
    Errors(Vec<SchemaError>),
    /// The steps do not suffice to find out.
    Steps,
}

impl Schema {
    /// Checks that a value meets the schema, in so many steps. A step is one check, or the comparison with one value, or 16 bytes of
    /// text; a pattern costs its size times the length of the text, and at least one.
    ///
    /// # Errors
    /// If it does not, or there are too few steps.
    pub fn check(&self, value: &Json<'_>, mut steps: usize) -> Result<(), Invalid> {
        self.check_within(value, &mut steps)
    }

    /// As [`Self::check`], for several values: takes the steps from those that are left.
    pub(super) fn check_within(&self, value: &Json<'_>, steps: &mut usize) -> Result<(), Invalid> {
        let all = *steps;
        let mut quick = SchemaEvaluation::new(self, all, None);
        let valid = quick.meets(self.root, value, &ValuePlace::Root, None);
        *steps = quick.steps;
        if quick.exhausted {
            return Err(Invalid::Steps);
        }
        if valid {
            return Ok(());
        }
        // Once more for the errors, which a valid value does not pay for. If the steps end meanwhile, some were found: it begins with as
        // many as before, and the values that follow have fewer.
        let mut thorough = SchemaEvaluation::new(self, all, Some(Vec::new()));
        thorough.meets(self.root, value, &ValuePlace::Root, None);
        *steps = steps.saturating_sub(all.saturating_sub(thorough.steps));
        Err(Invalid::Errors(thorough.errors.unwrap_or_default()))
    }
}

struct SchemaEvaluation<'s> {
    schema: &'s Schema,
    steps: usize,
    exhausted: bool,
    depth: usize,
    /// The errors that were found; `None` if it suffices to know whether there are any.
    errors: Option<Vec<SchemaError>>,
}

impl<'s> SchemaEvaluation<'s> {
    fn new(schema: &'s Schema, steps: usize, errors: Option<Vec<SchemaError>>) -> Self {
        Self { schema, steps, exhausted: false, depth: 0, errors }
    }

    /// Takes steps. Returns whether there were as many.
    fn spend(&mut self, steps: usize) -> bool {
        match self.steps.checked_sub(steps) {
            Some(left) if !self.exhausted => self.steps = left,
            _ => self.exhausted = true,
        }
        !self.exhausted
    }

    /// Whether it is of no use to go on after an error.
    fn is_done(&self) -> bool {
        self.exhausted || self.errors.as_ref().is_none_or(|errors| errors.len() >= MOST_ERRORS)
    }

    fn fail(&mut self, at: &ValuePlace<'_>, message: impl FnOnce() -> String) -> bool {
        if let Some(errors) = self.errors.as_mut().filter(|errors| errors.len() < MOST_ERRORS) {
            errors.push(SchemaError { parameter: None, pointer: at.pointer(), message: message() });
        }
        false
    }

    /// Whether a value meets a schema. Adds to `evaluated` what it has evaluated, if it does.
    fn meets(
        &mut self,
        node: NodeId,
        value: &Json<'_>,
        at: &ValuePlace<'_>,
        evaluated: Option<&mut EvaluatedParts>,
    ) -> bool {
        let Some(checks) = self.schema.nodes.get(node).map(|node| &node.checks) else { return false };
        if self.depth == DEPTH {
            self.exhausted = true;
        }
        if !self.spend(1) {
            return false;
        }
        let unevaluated =
            |check: &Assertion| matches!(check, Assertion::UnevaluatedItems(_) | Assertion::UnevaluatedProperties(_));
        let mut own = (evaluated.is_some() || checks.last().is_some_and(unevaluated)).then(EvaluatedParts::default);
        self.depth += 1;
        let mut valid = true;
        for check in checks {
            if !self.check(check, value, at, own.as_mut()) {
                valid = false;
                if self.is_done() {
                    break;
                }
            }
        }
        self.depth -= 1;
        if let (true, Some(evaluated), Some(own)) = (valid, evaluated, own) {
            evaluated.merge(&own);
        }
        valid && !self.exhausted
    }

    /// As [`Self::meets`], without an error if it does not.
    fn quietly(
        &mut self,
        node: NodeId,
        value: &Json<'_>,
        at: &ValuePlace<'_>,
        evaluated: Option<&mut EvaluatedParts>,
    ) -> bool {
        let errors = self.errors.take();
        let valid = self.meets(node, value, at, evaluated);
        self.errors = errors;
        valid
    }

    fn check(
        &mut self,
        check: &Assertion,
        value: &Json<'_>,
        at: &ValuePlace<'_>,
        evaluated: Option<&mut EvaluatedParts>,
    ) -> bool {
        if !self.spend(1) {
            return false;
        }
        match (check, value) {
            (Assertion::Reference(node), _) => self.meets(*node, value, at, evaluated),
            (Assertion::AllOf(nodes), _) => self.all_of(nodes, value, at, evaluated),
            (Assertion::AnyOf(nodes), _) => {
                let count = self.alternatives(nodes, usize::MAX, value, at, evaluated);
                count > 0 || self.fail(at, || check.to_string())
            }
            (Assertion::OneOf(nodes), _) => {
                let count = self.alternatives(nodes, 2, value, at, evaluated);
                count == 1 || self.fail(at, || check.to_string())
            }
            (Assertion::Not(node), _) => !self.quietly(*node, value, at, None) || self.fail(at, || check.to_string()),
            (Assertion::If(branches), _) => self.branches(branches, value, at, evaluated),
            (Assertion::DependentSchemas(dependent), Json::Object(_)) => {
                self.dependent_schemas(dependent, value, at, evaluated)
            }
            (Assertion::Items(schemas), Json::Array(items)) => self.items(schemas, items, at, evaluated),
            (Assertion::Contains(contained), Json::Array(items)) => {
                self.contains(contained, items, at, evaluated) || self.fail(at, || check.to_string())
            }
            (Assertion::UnevaluatedItems(node), Json::Array(items)) => self.other_items(*node, items, at, evaluated),
            (Assertion::Properties(schemas), Json::Object(entries)) => self.properties(schemas, entries, at, evaluated),
            (Assertion::UnevaluatedProperties(node), Json::Object(entries)) => {
                self.other_properties(*node, entries, at, evaluated)
            }
            (Assertion::PropertyNames(node), Json::Object(entries)) => self.property_names(*node, entries, at),
            (Assertion::Required(names), Json::Object(_)) => self.required(names, value, at),
            (Assertion::DependentRequired(dependent), Json::Object(_)) => {
                let mut valid = true;
                for (name, names) in dependent {
                    if !self.spend(1) {
                        return false;
                    }
                    valid &= value.get(name).is_none() || self.required(names, value, at);
                }
                valid
            }
            _ => self.plain(check, value) || self.fail(at, || check.to_string()),
        }
    }

    /// Whether a value meets a check that is about nothing else.
    fn plain(&mut self, check: &Assertion, value: &Json<'_>) -> bool {
        match (check, value) {
            (Assertion::Nothing, _) => false,
            (Assertion::Type(types), _) => types.has(value),
            (Assertion::Enum(values), _) => self.is_one_of(values, value),
            (Assertion::MultipleOf(of), Json::Number(number)) => number.is_multiple_of(*of).unwrap_or_default(),
            (Assertion::Maximum(most), Json::Number(number)) => number <= most,
            (Assertion::ExclusiveMaximum(most), Json::Number(number)) => number < most,
            (Assertion::Minimum(least), Json::Number(number)) => number >= least,
            (Assertion::ExclusiveMinimum(least), Json::Number(number)) => number > least,
            (Assertion::MaxLength(most), Json::Text(text)) => {
                self.spend(text.len() / BYTES) && (text.len() <= *most || text.chars().count() <= *most)
            }
            (Assertion::MinLength(least), Json::Text(text)) => {
                self.spend(text.len() / BYTES) && text.chars().count() >= *least
            }
            (Assertion::Pattern(pattern), Json::Text(text)) => self.matches(pattern, text),
            (Assertion::MaxItems(most), Json::Array(items)) => items.len() <= *most,
            (Assertion::MinItems(least), Json::Array(items)) => items.len() >= *least,
            (Assertion::UniqueItems, Json::Array(items)) => self.are_unique(items),
            (Assertion::MaxProperties(most), Json::Object(entries)) => entries.len() <= *most,
            (Assertion::MinProperties(least), Json::Object(entries)) => entries.len() >= *least,
            _ => true,
        }
    }

    fn matches(&mut self, pattern: &Pattern, text: &str) -> bool {
        let steps = text.len().saturating_mul(pattern.size) / MATCH;
        self.spend(steps.saturating_add(1)) && pattern.regex.is_match(text)
    }

    fn is_one_of(&mut self, values: &[Json<'static>], value: &Json<'_>) -> bool {
        let comparisons = values.len().checked_ilog2().unwrap_or(0) as usize + 1;
        self.spend(value.weight().saturating_mul(comparisons))
            && values.binary_search_by(|known| compare(known, value)).is_ok()
    }

    fn are_unique(&mut self, items: &[Json<'_>]) -> bool {
        let weight = items.iter().map(Json::weight).fold(0, usize::saturating_add);
        let comparisons = items.len().checked_ilog2().unwrap_or(0) as usize + 1;
        if !self.spend(weight.saturating_mul(comparisons)) {
            return false;
        }
        let mut sorted: Vec<_> = items.iter().collect();
        sorted.sort_unstable();
        sorted.iter().zip(sorted.iter().skip(1)).all(|(one, other)| one != other)
    }

    fn required(&mut self, names: &[Box<str>], value: &Json<'_>, at: &ValuePlace<'_>) -> bool {
        let mut valid = true;
        for name in names {
            if !self.spend(1) {
                return false;
            }
            if value.get(name).is_none() {
                valid = self.fail(at, || format!("must have the property `{name}`"));
                if self.is_done() {
                    break;
                }
            }
        }
        valid
    }

    fn all_of(
        &mut self,
        nodes: &[NodeId],
        value: &Json<'_>,
        at: &ValuePlace<'_>,
        mut evaluated: Option<&mut EvaluatedParts>,
    ) -> bool {
        let mut valid = true;
        for node in nodes {
            valid &= self.meets(*node, value, at, evaluated.as_deref_mut());
            if !valid && self.is_done() {
                break;
            }
        }
        valid
    }

    /// Returns how many schemas a value meets, up to `most`. All are evaluated if it matters what they evaluate.
    fn alternatives(
        &mut self,
        nodes: &[NodeId],
        most: usize,
        value: &Json<'_>,
        at: &ValuePlace<'_>,
        mut evaluated: Option<&mut EvaluatedParts>,
    ) -> usize {
        let mut count = 0;
        for node in nodes {
            count += usize::from(self.quietly(*node, value, at, evaluated.as_deref_mut()));
            let enough = if most == usize::MAX { count > 0 && evaluated.is_none() } else { count >= most };
            if self.exhausted || enough {
                break;
            }
        }
        count
    }

    fn branches(
        &mut self,
        of: &Branches,
        value: &Json<'_>,
        at: &ValuePlace<'_>,
        mut evaluated: Option<&mut EvaluatedParts>,
    ) -> bool {
        let met = self.quietly(of.condition, value, at, evaluated.as_deref_mut());
        let next = if met { of.then } else { of.otherwise };
        !self.exhausted && next.is_none_or(|next| self.meets(next, value, at, evaluated))
    }

    fn dependent_schemas(
        &mut self,
        dependent: &[(Box<str>, NodeId)],
        value: &Json<'_>,
        at: &ValuePlace<'_>,
        mut evaluated: Option<&mut EvaluatedParts>,
    ) -> bool {
        let mut valid = true;
        for (name, node) in dependent {
            if !self.spend(1) {
                return false;
            }
            valid &= value.get(name).is_none() || self.meets(*node, value, at, evaluated.as_deref_mut());
            if !valid && self.is_done() {
                break;
            }
        }
        valid
    }
}

/// Compares a value of the schema with one of another lifetime.
fn compare<'a>(known: &'a Json<'static>, value: &'a Json<'_>) -> std::cmp::Ordering {
    let known: &Json<'_> = known;
    known.cmp(value)
}

#[cfg(test)]
mod tests;
