//! The values of expressions. Most are borrowed from the request.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::rc::Rc;

use http::HeaderMap;
use serde_json::{Map, Number, Value as Json};

use super::failure::RuleFailure;
use lodge_manifest::expression::node::Literal;

/// A value.
#[derive(Clone, Debug)]
pub(super) enum Value<'a> {
    Null,
    Bool(bool),
    Int(i64),
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
        number.as_i64().map_or_else(|| number.as_f64().map_or(Self::Null, Self::Double), Self::Int)
    }

    /// Returns what comparing it costs.
    pub(super) fn weight(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Query(text) => text.len(),
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
            (Self::Int(_) | Self::Double(_), Self::Int(_) | Self::Double(_))
            | (Self::Timestamp(_), Self::Timestamp(_))
            | (Self::Duration(_), Self::Duration(_)) => self.order(other)? == Some(Ordering::Equal),
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
                | Self::Double(_)
                | Self::Text(_)
                | Self::Timestamp(_)
                | Self::Duration(_)
        )
    }

    /// Returns the order of two values; `None` if one of them is no number (NaN).
    ///
    /// # Errors
    /// If values of these types have no order.
    pub(super) fn order(&self, other: &Self) -> Result<Option<Ordering>, RuleFailure> {
        #[expect(
            clippy::cast_precision_loss,
            reason = "a number that is not whole has no exact order with a large one"
        )]
        let double = |number: &i64| *number as f64;
        Ok(match (self, other) {
            (Self::Text(a), Self::Text(b)) => Some(a.cmp(b)),
            (Self::Bool(a), Self::Bool(b)) => Some(a.cmp(b)),
            (Self::Int(a), Self::Int(b))
            | (Self::Timestamp(a), Self::Timestamp(b))
            | (Self::Duration(a), Self::Duration(b)) => Some(a.cmp(b)),
            (Self::Double(a), Self::Double(b)) => a.partial_cmp(b),
            (Self::Int(a), Self::Double(b)) => double(a).partial_cmp(b),
            (Self::Double(a), Self::Int(b)) => a.partial_cmp(&double(b)),
            _ => return Err(RuleFailure::Type),
        })
    }
}
