//! What expressions can name: variables, operators and loops.

use cel::common::ast::operators;

use crate::expression::cel_type::CelType;
use crate::expression::node::{Arithmetic, Comparison, Loop, Variable};

/// What can be named.
pub(super) const VARIABLES: &[(&str, &str, Variable)] = &[
    ("request", "method", Variable::Method),
    ("request", "path", Variable::Path),
    ("request", "query", Variable::Query),
    ("request", "host", Variable::Host),
    ("request", "scheme", Variable::Scheme),
    ("request", "headers", Variable::Headers),
    ("request", "size", Variable::Size),
    ("identity", "kind", Variable::Kind),
    ("identity", "subject", Variable::Subject),
    ("identity", "issuer", Variable::Issuer),
    ("identity", "scopes", Variable::Scopes),
    ("identity", "claims", Variable::Claims),
    ("client", "address", Variable::Address),
];

/// The first parts of names.
pub(super) const ROOTS: [&str; 4] = ["request", "identity", "client", "now"];

/// Returns the type of a variable.
pub(super) fn kind_of(variable: Variable) -> CelType {
    match variable {
        Variable::Method | Variable::Path | Variable::Host | Variable::Scheme | Variable::Address => CelType::Text,
        Variable::Kind | Variable::Subject | Variable::Issuer => CelType::Text,
        Variable::Query | Variable::Headers => CelType::Map(Box::new(CelType::Text)),
        Variable::Size => CelType::Int,
        Variable::Scopes => CelType::List(Box::new(CelType::Text)),
        Variable::Claims => CelType::Map(Box::new(CelType::Any)),
        Variable::Now => CelType::Timestamp,
    }
}

/// Returns the comparison that an operator of CEL is.
pub(super) fn comparison(name: &str) -> Option<Comparison> {
    Some(match name {
        operators::EQUALS => Comparison::Equal,
        operators::NOT_EQUALS => Comparison::Unequal,
        operators::LESS => Comparison::Less,
        operators::LESS_EQUALS => Comparison::AtMost,
        operators::GREATER => Comparison::Greater,
        operators::GREATER_EQUALS => Comparison::AtLeast,
        _ => return None,
    })
}

/// Returns the calculation that an operator of CEL is.
pub(super) fn operation(name: &str) -> Option<Arithmetic> {
    Some(match name {
        operators::ADD => Arithmetic::Add,
        operators::SUBSTRACT => Arithmetic::Subtract,
        operators::MULTIPLY => Arithmetic::Multiply,
        operators::DIVIDE => Arithmetic::Divide,
        operators::MODULO => Arithmetic::Remainder,
        _ => return None,
    })
}

/// Returns the loop that a macro of CEL is.
pub(super) fn loop_of(name: &str) -> Option<Loop> {
    Some(match name {
        operators::ALL => Loop::All,
        operators::EXISTS => Loop::Exists,
        operators::EXISTS_ONE => Loop::ExistsOne,
        operators::FILTER => Loop::Filter,
        operators::MAP => Loop::Map,
        _ => return None,
    })
}
