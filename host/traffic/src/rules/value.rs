//! The values of expressions. Most are borrowed from the request.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::rc::Rc;

use http::HeaderMap;
use serde_json::{Map, Number, Value as Json};

use super::failure::RuleFailure;
use lodge_manifest::expression::node::Literal;

/// What one pair of a query costs to decode, in bytes of text.
const PAIR: usize = 64;

/// A value.
#[derive(Clone, Debug)]
pub(super) enum Value<'a> {
    Null,
    Bool(bool),
    Int(i64),
    /// A whole number in the claims of a token that is too large for [`Self::Int`].
    Large(u64),
    Double(f64),
    Text(Cow<'a, str>),
    /// In microseconds since 1970.
    Timestamp(i64),
    /// In microseconds.
    Duration(i64),
    List(Rc<[Value<'a>]>),
    /// The scopes of an identity.
    Scopes(&'a [String]),
    /// A list in the claims of a token.
    Array(&'a [Json]),
    /// The claims of a token, or a part of them.
    Object(&'a Map<String, Json>),
    Headers(&'a HeaderMap),
    Query(&'a str),
}

/// The value of an expression, or why it has none.
pub(super) type Evaluated<'a> = Result<Value<'a>, RuleFailure>;

impl<'a> Value<'a> {
    pub(super) fn of_literal(literal: &'a Literal) -> Self {
        match literal {
            Literal::Null => Self::Null,
            Literal::Bool(value) => Self::Bool(*value),
            Literal::Int(number) => Self::Int(*number),
            Literal::Double(number) => Self::Double(*number),
            Literal::Text(text) => Self::text(text),
            Literal::Timestamp(at) => Self::Timestamp(*at),
            Literal::Duration(span) => Self::Duration(*span),
        }
    }

    pub(super) fn text(text: &'a str) -> Self {
        Self::Text(Cow::Borrowed(text))
    }

    pub(super) fn of_json(json: &'a Json) -> Self {
        match json {
            Json::Null => Self::Null,
            Json::Bool(value) => Self::Bool(*value),
            Json::Number(number) => Self::of_number(number),
            Json::String(text) => Self::text(text),
            Json::Array(items) => Self::Array(items),
            Json::Object(keys) => Self::Object(keys),
        }
    }

    fn of_number(number: &Number) -> Self {
        let large = || number.as_u64().map(Self::Large).or_else(|| number.as_f64().map(Self::Double));
        number.as_i64().map(Self::Int).or_else(large).unwrap_or(Self::Null)
    }

    /// Returns what comparing it costs.
    pub(super) fn weight(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            // Each pair is decoded.
            Self::Query(text) => {
                let pairs = text.bytes().filter(|byte| *byte == b'&').count().saturating_add(1);
                text.len().saturating_add(pairs.saturating_mul(PAIR))
            }
            Self::List(items) => items.len().saturating_mul(16),
            Self::Scopes(items) => items.len().saturating_mul(16),
            Self::Array(items) => items.len().saturating_mul(16),
            Self::Object(keys) => keys.len().saturating_mul(16),
            Self::Headers(headers) => headers.len().saturating_mul(16),
            _ => 0,
        }
    }

    /// Whether two values are equal; those of different types are not, except for numbers.
    ///
    /// # Errors
    /// If they are lists or maps: comparing those has no bound.
    pub(super) fn equals(&self, other: &Self) -> Result<bool, RuleFailure> {
        Ok(match (self, other) {
            (Self::Text(a), Self::Text(b)) => a == b,
            (Self::Bool(a), Self::Bool(b)) => a == b,
            (Self::Null, Self::Null) => true,
            (Self::Int(_) | Self::Double(_) | Self::Large(_), Self::Int(_) | Self::Double(_) | Self::Large(_))
            | (Self::Timestamp(_), Self::Timestamp(_))
            | (Self::Duration(_), Self::Duration(_)) => self.order(other)? == Ordering::Equal,
            (one, other) if one.is_compound() || other.is_compound() => return Err(RuleFailure::Type),
            _ => false,
        })
    }

    fn is_compound(&self) -> bool {
        !matches!(
            self,
            Self::Null
                | Self::Bool(_)
                | Self::Int(_)
                | Self::Large(_)
                | Self::Double(_)
                | Self::Text(_)
                | Self::Timestamp(_)
                | Self::Duration(_)
        )
    }

    /// Returns the order of two values. Numbers are compared as they are, without rounding one to the type of the other.
    ///
    /// # Errors
    /// If values of these types have no order, or one is no number (NaN).
    pub(super) fn order(&self, other: &Self) -> Result<Ordering, RuleFailure> {
        Ok(match (self, other) {
            (Self::Text(a), Self::Text(b)) => a.cmp(b),
            (Self::Bool(a), Self::Bool(b)) => a.cmp(b),
            (Self::Int(a), Self::Int(b))
            | (Self::Timestamp(a), Self::Timestamp(b))
            | (Self::Duration(a), Self::Duration(b)) => a.cmp(b),
            (Self::Large(a), Self::Large(b)) => a.cmp(b),
            (Self::Large(_), Self::Int(_)) => Ordering::Greater,
            (Self::Int(_), Self::Large(_)) => Ordering::Less,
            (Self::Double(a), Self::Double(b)) => a.partial_cmp(b).ok_or(RuleFailure::Overflow)?,
            (Self::Int(a), Self::Double(b)) => exact((*a).into(), *b)?,
            (Self::Large(a), Self::Double(b)) => exact((*a).into(), *b)?,
            (Self::Double(a), Self::Int(b)) => exact((*b).into(), *a)?.reverse(),
            (Self::Double(a), Self::Large(b)) => exact((*b).into(), *a)?.reverse(),
            _ => return Err(RuleFailure::Type),
        })
    }
}

/// Returns the order of a whole number and another one.
fn exact(whole: i128, other: f64) -> Result<Ordering, RuleFailure> {
    if other.is_nan() {
        return Err(RuleFailure::Overflow);
    }
    #[expect(clippy::cast_possible_truncation, reason = "beyond its range, the bound has the same order")]
    let floor = other.floor() as i128;
    // If it has a fraction, it is greater than what it is rounded down to.
    let rest = if other > other.floor() { Ordering::Less } else { Ordering::Equal };
    Ok(whole.cmp(&floor).then(rest))
}
