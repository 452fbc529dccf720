//! A compiled schema: checks in a list, which name other schemas by their numbers.

use std::fmt;

use super::pattern::Pattern;
use crate::validation::json::Json;
use crate::validation::number::JsonNumber;

/// The number of a schema in its list.
pub(in crate::validation) type NodeId = usize;

/// A schema, with its checks in the order in which they are made.
#[derive(Debug, Default)]
pub(in crate::validation) struct SchemaNode {
    pub(in crate::validation) checks: Vec<Assertion>,
}

/// What a value has to meet. Each holds for the values of its type, and others meet it.
#[derive(Debug)]
pub(in crate::validation) enum Assertion {
    /// Nothing meets it.
    Nothing,
    Type(TypeSet),
    /// One of these, which are in order.
    Enum(Vec<Json<'static>>),
    MultipleOf(JsonNumber),
    Maximum(JsonNumber),
    ExclusiveMaximum(JsonNumber),
    Minimum(JsonNumber),
    ExclusiveMinimum(JsonNumber),
    MaxLength(usize),
    MinLength(usize),
    Pattern(Pattern),
    MaxItems(usize),
    MinItems(usize),
    UniqueItems,
    Items(ItemSchemas),
    Contains(Contained),
    MaxProperties(usize),
    MinProperties(usize),
    Required(Vec<Box<str>>),
    /// With the first property, an object has the others.
    DependentRequired(Vec<(Box<str>, Vec<Box<str>>)>),
    /// With the property, an object meets the schema.
    DependentSchemas(Vec<(Box<str>, NodeId)>),
    Properties(PropertySchemas),
    PropertyNames(NodeId),
    Reference(NodeId),
    AllOf(Vec<NodeId>),
    AnyOf(Vec<NodeId>),
    OneOf(Vec<NodeId>),
    Not(NodeId),
    If(Branches),
    UnevaluatedItems(NodeId),
    UnevaluatedProperties(NodeId),
}

/// The schemas of items.
#[derive(Debug)]
pub(in crate::validation) struct ItemSchemas {
    /// Those of the first items, one each.
    pub(in crate::validation) first: Vec<NodeId>,
    /// That of the others.
    pub(in crate::validation) rest: Option<NodeId>,
}

/// How many items meet a schema.
#[derive(Debug)]
pub(in crate::validation) struct Contained {
    pub(in crate::validation) schema: NodeId,
    pub(in crate::validation) least: usize,
    pub(in crate::validation) most: Option<usize>,
    /// Whether the items that meet it count as evaluated.
    pub(in crate::validation) marks: bool,
}

/// The schemas of properties.
#[derive(Debug, Default)]
pub(in crate::validation) struct PropertySchemas {
    /// By name, in order.
    pub(in crate::validation) named: Vec<(Box<str>, NodeId)>,
    /// By patterns of names.
    pub(in crate::validation) patterns: Vec<(Pattern, NodeId)>,
    /// That of the others.
    pub(in crate::validation) rest: Option<NodeId>,
}

/// A condition, and what else is met if it is met or not.
#[derive(Debug)]
pub(in crate::validation) struct Branches {
    pub(in crate::validation) condition: NodeId,
    pub(in crate::validation) then: Option<NodeId>,
    pub(in crate::validation) otherwise: Option<NodeId>,
}

/// The types of JSON Schema, by name.
const TYPES: [&str; 7] = ["null", "boolean", "integer", "number", "string", "array", "object"];

/// Some types.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::validation) struct TypeSet(u8);

impl TypeSet {
    /// Adds a type. Returns whether there is one of this name.
    pub(in crate::validation) fn add(&mut self, name: &str) -> bool {
        let at = TYPES.iter().position(|known| *known == name);
        self.0 |= at.map_or(0, |at| 1 << at);
        at.is_some()
    }

    /// Whether a value is of one of the types.
    pub(in crate::validation) fn has(self, value: &Json<'_>) -> bool {
        self.0 & Self::of(value).0 != 0
    }

    /// Adds the types of another set.
    pub(in crate::validation) fn extend(&mut self, other: Self) {
        self.0 |= other.0;
    }

    /// Whether it has no types.
    pub(in crate::validation) fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Returns the types of a value.
    pub(in crate::validation) fn of(value: &Json<'_>) -> Self {
        Self(match value {
            Json::Null => 1,
            Json::Bool(_) => 1 << 1,
            Json::Number(number) if number.is_whole() => 1 << 2 | 1 << 3,
            Json::Number(_) => 1 << 3,
            Json::Text(_) => 1 << 4,
            Json::Array(_) => 1 << 5,
            Json::Object(_) => 1 << 6,
        })
    }
}

impl fmt::Display for TypeSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = TYPES.iter().enumerate().filter(|(at, _)| self.0 & 1 << at != 0);
        let names: Vec<_> = names.map(|(_, name)| *name).collect();
        f.write_str(&names.join(" or "))
    }
}

impl Assertion {
    /// Returns the schemas that hold for the same value.
    pub(super) fn in_place(&self) -> Vec<NodeId> {
        match self {
            Self::Reference(of) | Self::Not(of) => vec![*of],
            Self::AllOf(all) | Self::AnyOf(all) | Self::OneOf(all) => all.clone(),
            Self::DependentSchemas(all) => all.iter().map(|(_, of)| *of).collect(),
            Self::If(branches) => {
                [Some(branches.condition), branches.then, branches.otherwise].into_iter().flatten().collect()
            }
            _ => Vec::new(),
        }
    }
}

/// What a client is told of a value that does not meet it. It says nothing of the value.
impl fmt::Display for Assertion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = |f: &mut fmt::Formatter<'_>, words: &str, number: &JsonNumber| match number {
            JsonNumber::Int(number) => write!(f, "must be {words} {number}"),
            JsonNumber::Float(number) => write!(f, "must be {words} {number}"),
        };
        match self {
            Self::Nothing => f.write_str("must not be there"),
            Self::Type(types) => write!(f, "must be of type {types}"),
            Self::Enum(values) if values.len() == 1 => f.write_str("must be the one value that the schema allows"),
            Self::Enum(values) => write!(f, "must be one of the {} values that the schema allows", values.len()),
            Self::MultipleOf(of) => number(f, "a multiple of", of),
            Self::Maximum(most) => number(f, "at most", most),
            Self::ExclusiveMaximum(most) => number(f, "less than", most),
            Self::Minimum(least) => number(f, "at least", least),
            Self::ExclusiveMinimum(least) => number(f, "more than", least),
            Self::MaxLength(most) => write!(f, "must have at most {most} characters"),
            Self::MinLength(least) => write!(f, "must have at least {least} characters"),
            Self::Pattern(_) => f.write_str("must match the pattern of the schema"),
            Self::MaxItems(most) => write!(f, "must have at most {most} items"),
            Self::MinItems(least) => write!(f, "must have at least {least} items"),
            Self::UniqueItems => f.write_str("must not have an item twice"),
            Self::Contains(Contained { least, most: None, .. }) => {
                write!(f, "must have at least {least} items that meet `contains`")
            }
            Self::Contains(Contained { least, most: Some(most), .. }) => {
                write!(f, "must have {least} to {most} items that meet `contains`")
            }
            Self::MaxProperties(most) => write!(f, "must have at most {most} properties"),
            Self::MinProperties(least) => write!(f, "must have at least {least} properties"),
            Self::AnyOf(_) => f.write_str("must meet one of the schemas in `anyOf`"),
            Self::OneOf(_) => f.write_str("must meet exactly one of the schemas in `oneOf`"),
            Self::Not(_) => f.write_str("must not meet the schema in `not`"),
            _ => f.write_str("must meet the schema"),
        }
    }
}
