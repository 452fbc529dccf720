//! What operators and functions of expressions do with values.

use std::cmp::Ordering;
use std::time::{SystemTime, UNIX_EPOCH};

use super::failure::RuleFailure;
use super::input::is_seen;
use super::value::{Evaluated, Value};
use lodge_manifest::expression::node::{Arithmetic, Comparison, Function};
use lodge_manifest::expression::time::{FIRST, LAST};

/// The most bytes of text that an expression makes.
const TEXT: usize = 16 << 10;

/// Whether any of the results is true. One that is true decides before another one fails.
pub(super) fn any(results: impl Iterator<Item = Result<bool, RuleFailure>>) -> Result<bool, RuleFailure> {
    let mut failed = None;
    for result in results {
        match result {
            Ok(true) => return Ok(true),
            Ok(false) => {}
            Err(failure) => failed = Some(failure),
        }
    }
    failed.map_or(Ok(false), Err)
}

/// Compares two values.
///
/// # Errors
/// If their types have no such comparison.
pub(super) fn compare(by: Comparison, left: &Value<'_>, right: &Value<'_>) -> Result<bool, RuleFailure> {
    let order = |holds: fn(Ordering) -> bool| left.order(right).map(holds);
    match by {
        Comparison::Equal => left.equals(right),
        Comparison::Unequal => left.equals(right).map(|equal| !equal),
        Comparison::Less => order(Ordering::is_lt),
        Comparison::AtMost => order(Ordering::is_le),
        Comparison::Greater => order(Ordering::is_gt),
        Comparison::AtLeast => order(Ordering::is_ge),
    }
}

/// Calculates with two values. Whole numbers and times have no value where they would be out of range.
pub(super) fn calculate<'a>(by: Arithmetic, left: Value<'a>, right: Value<'a>) -> Evaluated<'a> {
    let in_range = |at: Option<i64>| at.filter(|at| (FIRST..=LAST).contains(at)).map(Value::Timestamp);
    let value = match (by, left, right) {
        (Arithmetic::Divide | Arithmetic::Remainder, Value::Int(_), Value::Int(0)) => {
            return Err(RuleFailure::Division);
        }
        (_, Value::Int(a), Value::Int(b)) => match by {
            Arithmetic::Add => a.checked_add(b),
            Arithmetic::Subtract => a.checked_sub(b),
            Arithmetic::Multiply => a.checked_mul(b),
            Arithmetic::Divide => a.checked_div(b),
            Arithmetic::Remainder => a.checked_rem(b),
        }
        .map(Value::Int),
        (_, Value::Double(a), Value::Double(b)) => {
            let number = match by {
                Arithmetic::Add => a + b,
                Arithmetic::Subtract => a - b,
                Arithmetic::Multiply => a * b,
                Arithmetic::Divide => a / b,
                Arithmetic::Remainder => return Err(RuleFailure::Type),
            };
            // No comparison with NaN is true, so that a condition with one would let through what it is to deny.
            Some(number).filter(|number| number.is_finite()).map(Value::Double)
        }
        (Arithmetic::Add, Value::Text(a), Value::Text(b)) => {
            if a.len().saturating_add(b.len()) > TEXT {
                return Err(RuleFailure::TooLarge);
            }
            Some(Value::Text(a + b))
        }
        (Arithmetic::Add, Value::Timestamp(at), Value::Duration(span))
        | (Arithmetic::Add, Value::Duration(span), Value::Timestamp(at)) => in_range(at.checked_add(span)),
        (Arithmetic::Subtract, Value::Timestamp(at), Value::Duration(span)) => in_range(at.checked_sub(span)),
        (Arithmetic::Subtract, Value::Timestamp(a), Value::Timestamp(b)) => a.checked_sub(b).map(Value::Duration),
        (Arithmetic::Add, Value::Duration(a), Value::Duration(b)) => a.checked_add(b).map(Value::Duration),
        (Arithmetic::Subtract, Value::Duration(a), Value::Duration(b)) => a.checked_sub(b).map(Value::Duration),
        _ => return Err(RuleFailure::Type),
    };
    value.ok_or(RuleFailure::Overflow)
}

/// Computes `-value`.
pub(super) fn negated(value: Value<'_>) -> Evaluated<'_> {
    match value {
        Value::Int(number) => number.checked_neg().map(Value::Int).ok_or(RuleFailure::Overflow),
        Value::Duration(span) => span.checked_neg().map(Value::Duration).ok_or(RuleFailure::Overflow),
        Value::Double(number) => Ok(Value::Double(-number)),
        _ => Err(RuleFailure::Type),
    }
}

/// Calls a function of one value.
pub(super) fn call(function: Function, value: Value<'_>) -> Evaluated<'_> {
    let text = |text: String| Ok(Value::Text(text.into()));
    match (function, value) {
        (Function::Size, value) => size(&value),
        (Function::Lower, Value::Text(of)) => text(of.to_ascii_lowercase()),
        (Function::Upper, Value::Text(of)) => text(of.to_ascii_uppercase()),
        (Function::Trim, Value::Text(of)) => text(of.trim().to_owned()),
        (Function::Int, Value::Int(number)) => Ok(Value::Int(number)),
        (Function::Int, Value::Text(of)) => of.parse().map(Value::Int).map_err(|_| RuleFailure::Form),
        (Function::Int, Value::Double(number)) => {
            // The bounds are exact as doubles, and the upper one is not an `i64` itself.
            let fits = (-9_223_372_036_854_775_808.0..9_223_372_036_854_775_808.0).contains(&number);
            #[expect(clippy::cast_possible_truncation, reason = "CEL drops the fraction")]
            if fits { Ok(Value::Int(number as i64)) } else { Err(RuleFailure::Overflow) }
        }
        (Function::Double, Value::Double(number)) => Ok(Value::Double(number)),
        #[expect(clippy::cast_precision_loss, reason = "a large number is rounded, as in CEL")]
        (Function::Double, Value::Int(number)) => Ok(Value::Double(number as f64)),
        (Function::Double, Value::Text(of)) => {
            let number = of.parse().ok().filter(|number: &f64| number.is_finite());
            number.map(Value::Double).ok_or(RuleFailure::Form)
        }
        #[expect(clippy::cast_precision_loss, reason = "a large number is rounded, as in CEL")]
        (Function::Double, Value::Large(number)) => Ok(Value::Double(number as f64)),
        (Function::Int, Value::Large(_)) => Err(RuleFailure::Overflow),
        (Function::Text, Value::Large(number)) => text(number.to_string()),
        (Function::Text, Value::Text(of)) => Ok(Value::Text(of)),
        (Function::Text, Value::Int(number)) => text(number.to_string()),
        (Function::Text, Value::Double(number)) => text(number.to_string()),
        (Function::Text, Value::Bool(value)) => text(value.to_string()),
        _ => Err(RuleFailure::Type),
    }
}

fn size(value: &Value<'_>) -> Evaluated<'static> {
    let count = match value {
        Value::Text(text) => text.chars().count(),
        Value::List(items) => items.len(),
        Value::Scopes(items) => items.len(),
        Value::Array(items) => items.len(),
        Value::Object(keys) => keys.len(),
        Value::Headers(headers) => headers.keys().filter(|name| is_seen(name.as_str())).count(),
        Value::Query(query) => form_urlencoded::parse(query.as_bytes()).count(),
        _ => return Err(RuleFailure::Type),
    };
    i64::try_from(count).map(Value::Int).map_err(|_| RuleFailure::Overflow)
}

/// Returns a time in microseconds since 1970.
pub(super) fn timestamp(now: SystemTime) -> Result<i64, RuleFailure> {
    let since = now.duration_since(UNIX_EPOCH).map_err(|_| RuleFailure::Overflow)?;
    i64::try_from(since.as_micros()).ok().filter(|at| *at <= LAST).ok_or(RuleFailure::Overflow)
}
