//! A JSON Schema of one file, compiled: what it says is checked once, so that no request meets a mistake in it.
//!
//! * `dialect`: the versions of JSON Schema.
//! * `locations`: where subschemas are, and where references lead.
//! * `keywords` reads the keywords of a schema into a list of checks (`node`).
//! * `pattern`: regular expressions.
//! * `hints`: what is valid, and may be a slip.

mod dialect;
pub(super) mod hints;
mod keywords;
mod locations;
pub(super) mod node;
pub(super) mod pattern;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use self::dialect::Dialect;
use self::keywords::keywords;
use self::locations::Locations;
pub(super) use self::locations::{check_places, escaped};
use self::node::{NodeId, SchemaNode};
use super::json::{Json, JsonBounds, shown};
use super::yaml;

/// The bounds of the text of a schema.
const BOUNDS: JsonBounds = JsonBounds { depth: 100, values: 200_000 };

/// The most subschemas of a file.
const MOST_SUBSCHEMAS: usize = 10_000;

/// The most patterns of a file.
const MOST_PATTERNS: usize = 200;

/// The most bytes of memory for the values of `enum` and `const` of a file. Schemas inside of such a value have copies of their own.
const MOST_VALUE_BYTES: usize = 32 << 20;

/// A compiled schema. A copy shares what is compiled.
#[derive(Clone, Debug)]
pub struct Schema {
    pub(super) nodes: Arc<[SchemaNode]>,
    pub(super) root: NodeId,
}

/// A mistake in a schema.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SchemaMistake {
    /// A JSON Pointer.
    place: String,
    why: String,
}

impl SchemaMistake {
    pub(super) fn new(place: &str, why: impl Into<String>) -> Self {
        Self { place: place.to_owned(), why: why.into() }
    }

    /// Returns the mistake with its line in the text of the file.
    pub(super) fn located(&self, text: &str) -> String {
        let line = yaml::line_of(text, &self.place).map_or(String::new(), |line| format!("line {line}: "));
        format!("{line}{self}")
    }
}

impl fmt::Display for SchemaMistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = if self.place.is_empty() { "the schema" } else { &self.place };
        write!(f, "{}: {}", shown(place), self.why)
    }
}

impl Schema {
    /// The most bytes of a file.
    pub const MOST_BYTES: u64 = 1 << 20;

    /// Reads the text of a file.
    ///
    /// # Errors
    /// One line: what is wrong, and where.
    pub fn read(text: &str) -> Result<Self, String> {
        let document = yaml::read_json(text, BOUNDS)?;
        check_places(&document).and_then(|()| Self::compile(&document)).map_err(|mistake| mistake.located(text))
    }

    fn compile(document: &Json<'_>) -> Result<Self, SchemaMistake> {
        let mut compiler = SchemaCompiler::new(document, Dialect::of(document)?);
        compiler.locations.add("")?;
        let root = compiler.node("");
        Ok(Self { nodes: compiler.finish()?.into(), root })
    }

    /// Returns the number of schemas in it.
    pub fn count(&self) -> usize {
        self.nodes.len()
    }
}

/// Compiles the schemas of a document, as far as they are referred to.
pub(super) struct SchemaCompiler<'d, 't> {
    locations: Locations<'d, 't>,
    dialect: Dialect,
    nodes: Vec<SchemaNode>,
    /// The numbers of schemas, by their places.
    numbers: HashMap<String, NodeId>,
    /// The places of schemas that are not compiled yet, in the order of their numbers.
    waiting: std::collections::VecDeque<String>,
    patterns: usize,
    /// The bytes of the values of `enum` and `const` so far.
    value_bytes: usize,
}

impl<'d, 't> SchemaCompiler<'d, 't> {
    fn new(document: &'d Json<'t>, dialect: Dialect) -> Self {
        let locations = Locations::new(document, dialect);
        Self {
            locations,
            dialect,
            nodes: Vec::new(),
            numbers: HashMap::new(),
            waiting: Default::default(),
            patterns: 0,
            value_bytes: 0,
        }
    }

    /// Returns a compiler of schemas in a document that is none itself.
    pub(super) fn of_document(document: &'d Json<'t>) -> Self {
        Self::new(document, Dialect::Draft2020)
    }

    /// Returns what is at a place of the document.
    pub(super) fn at(&self, place: &str) -> Option<&'d Json<'t>> {
        self.locations.at(place)
    }

    /// Returns the number of the schema at a place of the document, with all that it has inside.
    ///
    /// # Errors
    /// If there are too many, or their identifiers contradict each other.
    pub(super) fn add(&mut self, place: &str) -> Result<NodeId, SchemaMistake> {
        self.locations.add(place)?;
        Ok(self.node(place))
    }

    /// Returns the number of the schema at this place, which is compiled later.
    fn node(&mut self, place: &str) -> NodeId {
        if let Some(known) = self.numbers.get(place) {
            return *known;
        }
        let number = self.numbers.len();
        self.numbers.insert(place.to_owned(), number);
        self.waiting.push_back(place.to_owned());
        number
    }

    /// Compiles the schemas that have a number, and those that they refer to.
    ///
    /// # Errors
    /// If one of them has a mistake.
    pub(super) fn finish(mut self) -> Result<Vec<SchemaNode>, SchemaMistake> {
        while let Some(place) = self.waiting.pop_front() {
            if self.locations.count() > MOST_SUBSCHEMAS {
                return Err(SchemaMistake::new(&place, format!("there are more than {MOST_SUBSCHEMAS} subschemas")));
            }
            let checks = match self.locations.at(&place) {
                Some(Json::Bool(true)) => Vec::new(),
                Some(Json::Bool(false)) => vec![node::Assertion::Nothing],
                Some(schema @ Json::Object(_)) => keywords(&mut self, &place, schema)?,
                _ => return Err(SchemaMistake::new(&place, "a schema is an object, true or false")),
            };
            self.nodes.push(SchemaNode { checks });
        }
        self.find_circle()?;
        Ok(self.nodes)
    }

    /// Refuses a schema that holds for a value if it holds for the same value: it would be evaluated without end.
    fn find_circle(&self) -> Result<(), SchemaMistake> {
        let inner = |number: NodeId| -> Vec<NodeId> {
            self.nodes
                .get(number)
                .into_iter()
                .flat_map(|node| &node.checks)
                .flat_map(node::Assertion::in_place)
                .collect()
        };
        // Whether the way from here is known to end. Those that are open are on the current way.
        let (mut ends, mut open) = (vec![false; self.nodes.len()], vec![false; self.nodes.len()]);
        let flag = |flags: &mut Vec<bool>, number: NodeId, value| flags.get_mut(number).map(|flag| *flag = value);
        for start in 0..self.nodes.len() {
            let mut way = vec![(start, inner(start))];
            flag(&mut open, start, true);
            while let Some((number, left)) = way.last_mut() {
                let number = *number;
                match left.pop() {
                    Some(next) if open.get(next) == Some(&true) => {
                        let place = self.numbers.iter().find(|(_, known)| **known == next).map(|(place, _)| place);
                        let why = "it refers to itself for the same value, so that it has no meaning";
                        return Err(SchemaMistake::new(place.map_or("", String::as_str), why));
                    }
                    Some(next) if ends.get(next) == Some(&false) => {
                        flag(&mut open, next, true);
                        way.push((next, inner(next)));
                    }
                    Some(_) => {}
                    None => {
                        flag(&mut open, number, false);
                        flag(&mut ends, number, true);
                        way.pop();
                    }
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
