//! The types of expressions, as far as they are known before a request arrives.

use std::fmt;

/// The type of an expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum CelType {
    Bool,
    Int,
    Double,
    Text,
    Null,
    Timestamp,
    Duration,
    List(Box<CelType>),
    /// The keys are text.
    Map(Box<CelType>),
    /// Known only when the expression is evaluated: the claims of a token.
    Any,
}

impl CelType {
    /// Whether a value of this type may be one of type `wanted`.
    pub(super) fn fits(&self, wanted: &Self) -> bool {
        match (self, wanted) {
            (Self::Any, _) | (_, Self::Any) => true,
            (Self::List(own), Self::List(wanted)) | (Self::Map(own), Self::Map(wanted)) => own.fits(wanted),
            (own, wanted) => own == wanted,
        }
    }

    /// Whether it may be a number.
    pub(super) fn is_number(&self) -> bool {
        matches!(self, Self::Int | Self::Double | Self::Any)
    }

    /// Whether values of the two types can be equal.
    pub(super) fn may_equal(&self, other: &Self) -> bool {
        self.fits(other) || self.is_number() && other.is_number()
    }

    /// Whether it is a list or a map, which have no `==`: comparing them has no bound.
    pub(super) fn is_compound(&self) -> bool {
        matches!(self, Self::List(_) | Self::Map(_))
    }

    /// Whether values of the type have an order.
    pub(super) fn is_ordered(&self) -> bool {
        !matches!(self, Self::Null | Self::List(_) | Self::Map(_))
    }
}

/// The name of the type in CEL.
impl fmt::Display for CelType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool => f.write_str("bool"),
            Self::Int => f.write_str("int"),
            Self::Double => f.write_str("double"),
            Self::Text => f.write_str("string"),
            Self::Null => f.write_str("null"),
            Self::Timestamp => f.write_str("timestamp"),
            Self::Duration => f.write_str("duration"),
            Self::List(of) => write!(f, "list({of})"),
            Self::Map(of) => write!(f, "map(string, {of})"),
            Self::Any => f.write_str("dyn"),
        }
    }
}
