//! A checked expression as a tree, whose evaluation needs no look-up by name.

use ipnet::IpNet;
use regex::Regex;

use super::time::TimePart;

/// An expression. Its depth is at most `DEPTH` of `check`, and so is that of its evaluation.
#[derive(Debug)]
pub enum CelNode {
    /// A constant.
    Literal(Literal),
    /// A part of the request, or the time.
    Variable(Variable),
    /// The variable of a loop around it, by the number of the loop from the outside.
    Local(usize),
    /// A list.
    List(Vec<CelNode>),
    /// The value of a key.
    Field(Box<CelNode>, String),
    /// The value of a key, or the item with this number.
    Index(Box<CelNode>, Box<CelNode>),
    /// Whether there is this key.
    Has(Box<CelNode>, String),
    /// Whether the size of the body is known.
    HasSize,
    /// `!a`
    Not(Box<CelNode>),
    /// `-a`
    Negate(Box<CelNode>),
    /// `a && b`
    And(Box<CelNode>, Box<CelNode>),
    /// `a || b`
    Or(Box<CelNode>, Box<CelNode>),
    /// `a ? b : c`
    If(Box<[CelNode; 3]>),
    /// A comparison.
    Compare(Comparison, Box<CelNode>, Box<CelNode>),
    /// `a in b`
    In(Box<CelNode>, Box<CelNode>),
    /// A calculation.
    Calculate(Arithmetic, Box<CelNode>, Box<CelNode>),
    /// Whether text has a part that the pattern describes.
    Matches(Box<CelNode>, Pattern),
    /// Whether an address is in a network.
    Within(Box<CelNode>, IpNet),
    /// A part of a time, in a zone that is so many seconds east of UTC.
    Part(TimePart, i32, Box<CelNode>),
    /// A call of a function with one argument.
    Call(Function, Box<CelNode>),
    /// A call of a function with two arguments.
    Search(Search, Box<CelNode>, Box<CelNode>),
    /// A loop over a list, or over the keys of a map.
    Loop(Loop, Box<CelNode>, Box<CelNode>),
}

/// A compiled pattern.
#[derive(Debug)]
pub struct Pattern {
    /// The pattern.
    pub regex: Regex,
    /// The most bytes of memory that its states take, up to 64 KiB.
    pub size: usize,
}

/// A constant.
#[derive(Clone, Debug, PartialEq)]
pub enum Literal {
    /// `null`
    Null,
    /// `true` or `false`
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A number.
    Double(f64),
    /// Text.
    Text(String),
    /// A timestamp in microseconds since 1970.
    Timestamp(i64),
    /// A time span in microseconds.
    Duration(i64),
}

/// What an expression can name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variable {
    /// `request.method`
    Method,
    /// `request.path`: in normal form, as the service sees it.
    Path,
    /// `request.query`: the parameters in the query.
    Query,
    /// `request.host`: without the port.
    Host,
    /// `request.scheme`
    Scheme,
    /// `request.headers`
    Headers,
    /// `request.size`: the bytes of the body, if they are known.
    Size,
    /// `identity.kind`
    Kind,
    /// `identity.subject`
    Subject,
    /// `identity.issuer`
    Issuer,
    /// `identity.scopes`
    Scopes,
    /// `identity.claims`
    Claims,
    /// `client.address`
    Address,
    /// `now`
    Now,
}

/// A comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// `==`
    Equal,
    /// `!=`
    Unequal,
    /// `<`
    Less,
    /// `<=`
    AtMost,
    /// `>`
    Greater,
    /// `>=`
    AtLeast,
}

/// A calculation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arithmetic {
    /// `+`, also of texts.
    Add,
    /// `-`
    Subtract,
    /// `*`
    Multiply,
    /// `/`
    Divide,
    /// `%`
    Remainder,
}

/// A function of one value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Function {
    /// The number of characters, items or keys.
    Size,
    /// ASCII letters become small.
    Lower,
    /// ASCII letters become capital.
    Upper,
    /// Without space at its ends.
    Trim,
    /// As a whole number.
    Int,
    /// As a number.
    Double,
    /// As text.
    Text,
}

/// A function that looks for a text in another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Search {
    /// Anywhere.
    Contains,
    /// At its start.
    StartsWith,
    /// At its end.
    EndsWith,
}

/// What a loop computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loop {
    /// Whether it holds for every item.
    All,
    /// Whether it holds for any item.
    Exists,
    /// Whether it holds for exactly one item.
    ExistsOne,
    /// The items for which it holds.
    Filter,
    /// What becomes of each item.
    Map,
}
