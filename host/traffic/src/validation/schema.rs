//! A JSON Schema of one file, compiled: what it says is checked once, so that no request meets a mistake in it.
//!
//! * `dialect`: the versions of JSON Schema.
//! * `locations`: where subschemas are, and where references lead.
//! * `keywords` reads the keywords of a schema into a list of checks (`node`).
//! * `pattern`: regular expressions.

mod dialect;
mod keywords;
mod locations;
pub(super) mod node;
pub(super) mod pattern;

use std::collections::HashMap;
use std::fmt;

use self::dialect::Dialect;
use self::keywords::keywords;
use self::locations::Locations;
pub(super) use self::locations::escaped;
use self::node::{NodeId, SchemaNode};
use super::json::{Json, JsonBounds};

/// The bounds of the text of a schema.
const BOUNDS: JsonBounds = JsonBounds { depth: 100, values: 200_000 };

/// The most subschemas of a file.
const MOST_SUBSCHEMAS: usize = 10_000;

/// The most patterns of a file.
const MOST_PATTERNS: usize = 200;

/// A compiled schema.
#[derive(Debug)]
pub struct Schema {
    pub(super) nodes: Vec<SchemaNode>,
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
    fn new(place: &str, why: impl Into<String>) -> Self {
        Self { place: place.to_owned(), why: why.into() }
    }
}

impl fmt::Display for SchemaMistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = if self.place.is_empty() { "the schema" } else { &self.place };
        write!(f, "{}: {}", place.escape_debug(), self.why)
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
        let document = Json::read(text.as_bytes(), BOUNDS).map_err(|fault| fault.to_string())?;
        Self::compile(&document).map_err(|mistake| mistake.to_string())
    }

    fn compile(document: &Json<'_>) -> Result<Self, SchemaMistake> {
        let mut compiler = SchemaCompiler::new(document, Dialect::of(document)?);
        compiler.locations.add("")?;
        let root = compiler.node("");
        Ok(Self { nodes: compiler.finish()?, root })
    }

    /// Returns the number of schemas in it.
    pub fn count(&self) -> usize {
        self.nodes.len()
    }
}

/// Compiles the schemas of a document, as far as they are referred to.
struct SchemaCompiler<'d, 't> {
    locations: Locations<'d, 't>,
    dialect: Dialect,
    nodes: Vec<SchemaNode>,
    /// The numbers of schemas, by their places.
    numbers: HashMap<String, NodeId>,
    /// The places of schemas that are not compiled yet, in the order of their numbers.
    waiting: std::collections::VecDeque<String>,
    patterns: usize,
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
        }
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
    fn finish(mut self) -> Result<Vec<SchemaNode>, SchemaMistake> {
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
