//! Parameters of statements. Each is sent as the type that the statement has for it, exactly, or refused.

mod literal;

use std::borrow::Cow;

use bytes::{BufMut, BytesMut};
use chrono::NaiveDate;
use lodge_state::postgres::{PostgresDate, PostgresInterval, PostgresTime, PostgresValue};
use tokio_postgres::types::{Format, IsNull, ToSql, Type};

use super::value::{DAY, EPOCH, base, elements, form, is_infinite};
use literal::{array, range};

type EncodeFailure = Box<dyn std::error::Error + Sync + Send>;

/// A parameter, as it is sent.
#[derive(Debug)]
pub(super) enum Parameter<'a> {
    Null,
    Bool(bool),
    Char(i8),
    Int2(i16),
    Int4(i32),
    Int8(i64),
    Float4(f32),
    Float8(f64),
    Bytes(&'a [u8]),
    Interval(PostgresInterval),
    /// A text, which the server reads as a value of the type.
    Text(Cow<'a, str>),
}

impl<'a> Parameter<'a> {
    /// Returns the form of a value for a parameter of a type.
    ///
    /// # Errors
    /// If the type cannot have the value.
    pub(super) fn new(value: &'a PostgresValue, of: &Type) -> Result<Self, String> {
        let of = base(of);
        match value {
            PostgresValue::Null => Ok(Self::Null),
            PostgresValue::As(names, value) if names.contains(&form(of)) => Self::new(value, of),
            PostgresValue::As(names, _) => {
                let names = names.join("` or `");
                Err(format!("it is `{names}`, and the statement needs `{}` here; write a cast", of.name()))
            }
            PostgresValue::Bool(value) if *of == Type::BOOL => Ok(Self::Bool(*value)),
            PostgresValue::Int8(number) if *of == Type::CHAR => Ok(Self::Char(*number)),
            PostgresValue::Int8(number) => whole((*number).into(), of),
            PostgresValue::Int16(number) => whole((*number).into(), of),
            PostgresValue::Int32(number) => whole((*number).into(), of),
            PostgresValue::Int64(number) => whole((*number).into(), of),
            PostgresValue::Unsigned(number) => whole((*number).into(), of),
            PostgresValue::Float32(number) => float((*number).into(), of),
            PostgresValue::Float64(number) => float(*number, of),
            PostgresValue::Text(text) => Ok(Self::Text(text.into())),
            PostgresValue::Bytes(bytes) if *of == Type::BYTEA => Ok(Self::Bytes(bytes)),
            PostgresValue::Date(date) if *of == Type::DATE => {
                i32::try_from(days(*date)?).map(Self::Int4).map_err(|_| OUTSIDE.into())
            }
            PostgresValue::Time(at) if *of == Type::TIME => time(*at).map(Self::Int8),
            PostgresValue::DateTime((year, month, day, hour, minute, second, nanosecond)) if is_moment(of) => {
                moment(days((*year, *month, *day))?, time((*hour, *minute, *second, *nanosecond))?)
            }
            PostgresValue::Timestamp(seconds) if is_moment(of) => {
                let at = seconds.checked_mul(1_000_000).and_then(|at| at.checked_add(days((1970, 1, 1)).ok()? * DAY));
                at.map(Self::Int8).ok_or_else(|| OUTSIDE.into())
            }
            PostgresValue::Uuid(text) if *of == Type::UUID => Ok(Self::Text(text.into())),
            PostgresValue::Decimal(text) if *of == Type::NUMERIC => Ok(Self::Text(text.into())),
            PostgresValue::Jsonb(bytes) if matches!(*of, Type::JSONB | Type::JSON) => {
                let text = std::str::from_utf8(bytes).map_err(|_| "it is not UTF-8, as JSON is")?;
                Ok(Self::Text(text.into()))
            }
            PostgresValue::Interval(interval) if *of == Type::INTERVAL => match is_infinite(interval) {
                true => Err("PostgreSQL 17 takes it for infinity: use an interval that is shorter".into()),
                false => Ok(Self::Interval(*interval)),
            },
            value => parts(value, of).map(|text| Self::Text(text.into())).ok_or_else(|| {
                format!("the statement needs `{}` here; give that, or a text, or write a cast", of.name())
            }),
        }
    }
}

/// Returns the text of a range or an array; `None` if the type is not one for it.
fn parts(value: &PostgresValue, of: &Type) -> Option<String> {
    let element = elements(of).map(base);
    let is_whole_range = matches!(*of, Type::INT4_RANGE | Type::INT8_RANGE | Type::NUM_RANGE);
    let is_whole_array = element.is_some_and(|of| matches!(*of, Type::INT2 | Type::INT4 | Type::INT8 | Type::NUMERIC));
    match value {
        PostgresValue::RangeInt32(bounds) if is_whole_range => Some(range(bounds)),
        PostgresValue::RangeInt64(bounds) if is_whole_range => Some(range(bounds)),
        PostgresValue::RangeDecimal(bounds) if *of == Type::NUM_RANGE => Some(range(bounds)),
        PostgresValue::ArrayInt32(items) if is_whole_array => Some(array(items)),
        PostgresValue::ArrayInt64(items) if is_whole_array => Some(array(items)),
        PostgresValue::ArrayDecimal(items) if element == Some(&Type::NUMERIC) => Some(array(items)),
        PostgresValue::ArrayStr(items) if element.is_some() => Some(array(items)),
        _ => None,
    }
}

/// Why a date or a time cannot be sent.
const OUTSIDE: &str = "it is outside of what PostgreSQL has";

/// Whether a type has a day and a time.
fn is_moment(of: &Type) -> bool {
    matches!(*of, Type::TIMESTAMP | Type::TIMESTAMPTZ)
}

/// A whole number of any type that holds it.
fn whole<'a>(number: i128, of: &Type) -> Result<Parameter<'a>, String> {
    let too_large = || format!("{number} does not fit into `{}`", of.name());
    match *of {
        Type::INT2 => number.try_into().map(Parameter::Int2).map_err(|_| too_large()),
        Type::INT4 => number.try_into().map(Parameter::Int4).map_err(|_| too_large()),
        Type::INT8 => number.try_into().map(Parameter::Int8).map_err(|_| too_large()),
        Type::OID if u32::try_from(number).is_err() => Err(too_large()),
        Type::OID | Type::NUMERIC => Ok(Parameter::Text(number.to_string().into())),
        // These have 53 bits for the number.
        Type::FLOAT8 if number.unsigned_abs() <= 1 << 53 => Ok(Parameter::Float8(number as f64)),
        Type::FLOAT4 if number.unsigned_abs() <= 1 << 24 => Ok(Parameter::Float4(number as f32)),
        Type::FLOAT4 | Type::FLOAT8 => Err(too_large()),
        _ => Err(format!("a whole number is not `{}`; write a cast such as `$1::bigint` in the statement", of.name())),
    }
}

/// A number with a fraction of a type that holds it.
fn float<'a>(number: f64, of: &Type) -> Result<Parameter<'a>, String> {
    match *of {
        Type::FLOAT8 => Ok(Parameter::Float8(number)),
        Type::FLOAT4 => {
            let narrow = number as f32;
            let is_exact = f64::from(narrow) == number || number.is_nan();
            is_exact.then_some(Parameter::Float4(narrow)).ok_or_else(|| format!("{number} does not fit into `real`"))
        }
        // The shortest text that is this number.
        Type::NUMERIC if number.is_finite() => Ok(Parameter::Text(number.to_string().into())),
        _ => Err(format!("a number with a fraction is not `{}`; write a cast in the statement", of.name())),
    }
}

/// Returns the days from [`EPOCH`] to a day.
fn days((year, month, day): PostgresDate) -> Result<i64, String> {
    let date = NaiveDate::from_ymd_opt(year, month.into(), day.into());
    let date = date.ok_or_else(|| format!("{year}-{month}-{day} is not a day"))?;
    Ok(date.signed_duration_since(EPOCH).num_days())
}

/// Returns the microseconds of a day before a time.
fn time((hour, minute, second, nanosecond): PostgresTime) -> Result<i64, String> {
    if hour > 23 || minute > 59 || second > 59 || nanosecond > 999_999_999 {
        return Err(format!("{hour}:{minute}:{second} and {nanosecond} ns is not a time of a day"));
    }
    if !nanosecond.is_multiple_of(1_000) {
        return Err("PostgreSQL keeps microseconds, so the nanoseconds must be a multiple of 1,000: round them".into());
    }
    let seconds = i64::from(hour) * 3_600 + i64::from(minute) * 60 + i64::from(second);
    Ok(seconds * 1_000_000 + i64::from(nanosecond / 1_000))
}

fn moment<'a>(days: i64, time: i64) -> Result<Parameter<'a>, String> {
    let at = days.checked_mul(DAY).and_then(|at| at.checked_add(time));
    at.map(Parameter::Int8).ok_or_else(|| OUTSIDE.into())
}

impl ToSql for Parameter<'_> {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, EncodeFailure> {
        match self {
            Self::Null => return Ok(IsNull::Yes),
            Self::Bool(value) => out.put_u8((*value).into()),
            Self::Char(number) => out.put_i8(*number),
            Self::Int2(number) => out.put_i16(*number),
            Self::Int4(number) => out.put_i32(*number),
            Self::Int8(number) => out.put_i64(*number),
            Self::Float4(number) => out.put_f32(*number),
            Self::Float8(number) => out.put_f64(*number),
            Self::Bytes(bytes) => out.put_slice(bytes),
            Self::Interval(PostgresInterval { micros, days, months }) => {
                out.put_i64(*micros);
                out.put_i32(*days);
                out.put_i32(*months);
            }
            Self::Text(text) => out.put_slice(text.as_bytes()),
        }
        Ok(IsNull::No)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    fn to_sql_checked(&self, of: &Type, out: &mut BytesMut) -> Result<IsNull, EncodeFailure> {
        self.to_sql(of, out)
    }

    fn encode_format(&self, _: &Type) -> Format {
        if matches!(self, Self::Text(_)) { Format::Text } else { Format::Binary }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lodge_state::postgres::PostgresRange;

    #[test]
    fn values_fit_exactly_or_are_refused() {
        let taken = |value: PostgresValue, of: &Type| Parameter::new(&value, of).map(|it| format!("{it:?}"));
        let shown = |value, of| taken(value, of).unwrap();
        assert_eq!(shown(PostgresValue::Int64(5), &Type::INT2), "Int2(5)");
        assert_eq!(shown(PostgresValue::Unsigned(5), &Type::INT8), "Int8(5)");
        assert_eq!(shown(PostgresValue::Int8(-5), &Type::NUMERIC), "Text(\"-5\")");
        assert_eq!(shown(PostgresValue::Float64(0.1), &Type::NUMERIC), "Text(\"0.1\")");
        assert_eq!(shown(PostgresValue::Text("5".into()), &Type::UUID), "Text(\"5\")");
        assert_eq!(shown(PostgresValue::Int8(-1), &Type::CHAR), "Char(-1)");
        assert_eq!(shown(PostgresValue::Decimal("1e3".into()), &Type::NUMERIC), "Text(\"1e3\")");
        assert_eq!(shown(PostgresValue::Jsonb(b"{}".into()), &Type::JSON), "Text(\"{}\")");
        assert_eq!(
            shown(PostgresValue::ArrayInt64(vec![Some(-1), None]), &Type::INT2_ARRAY),
            "Text(\"{\\\"-1\\\",NULL}\")"
        );
        assert_eq!(shown(PostgresValue::ArrayStr(vec![]), &Type::UUID_ARRAY), "Text(\"{}\")");
        assert_eq!(shown(PostgresValue::Date((2000, 1, 2)), &Type::DATE), "Int4(1)");
        assert_eq!(shown(PostgresValue::Time((0, 0, 1, 1_000)), &Type::TIME), "Int8(1000001)");
        assert_eq!(shown(PostgresValue::Timestamp(946_684_800), &Type::TIMESTAMPTZ), "Int8(0)");
        assert_eq!(shown(PostgresValue::Timestamp(0), &Type::TIMESTAMP), "Int8(-946684800000000)");
        assert_eq!(shown(PostgresValue::DateTime((1999, 12, 31, 23, 59, 59, 0)), &Type::TIMESTAMP), "Int8(-1000000)");
        for (value, of) in [
            (PostgresValue::Int32(40_000), Type::INT2),
            (PostgresValue::Unsigned(u64::MAX), Type::INT8),
            (PostgresValue::Int8(-1), Type::OID),
            (PostgresValue::Int64((1 << 53) + 1), Type::FLOAT8),
            (PostgresValue::Float64(0.1), Type::FLOAT4),
            (PostgresValue::Float64(1.0), Type::INT4),
            (PostgresValue::Float64(f64::NAN), Type::NUMERIC),
            (PostgresValue::Int32(1), Type::TEXT),
            (PostgresValue::Bool(true), Type::INT4),
            (PostgresValue::Bytes(vec![1]), Type::TEXT),
            (PostgresValue::Date((2001, 2, 29)), Type::DATE),
            (PostgresValue::Date((2001, 2, 28)), Type::TIMESTAMP),
            (PostgresValue::Time((24, 0, 0, 0)), Type::TIME),
            (PostgresValue::Time((0, 0, 0, 1)), Type::TIME),
            (PostgresValue::Timestamp(i64::MAX), Type::TIMESTAMP),
            (PostgresValue::Uuid("5".into()), Type::TEXT),
            (PostgresValue::Decimal("5".into()), Type::FLOAT8),
            (PostgresValue::Decimal("5".into()), Type::INT4),
            (PostgresValue::Jsonb(b"{}".into()), Type::TEXT),
            (PostgresValue::Jsonb(vec![0xff]), Type::JSONB),
            (PostgresValue::ArrayInt32(vec![Some(1)]), Type::FLOAT8_ARRAY),
            (PostgresValue::ArrayInt32(vec![Some(1)]), Type::TEXT_ARRAY),
            (PostgresValue::ArrayDecimal(vec![Some("1".into())]), Type::INT4_ARRAY),
            (PostgresValue::ArrayStr(vec![Some("1".into())]), Type::TEXT),
            (PostgresValue::RangeInt32(Box::new(PostgresRange { lower: None, upper: None })), Type::DATE_RANGE),
            (PostgresValue::RangeInt32(Box::new(PostgresRange { lower: None, upper: None })), Type::INT4_ARRAY),
            (
                PostgresValue::Interval(PostgresInterval { micros: i64::MAX, days: i32::MAX, months: i32::MAX }),
                Type::INTERVAL,
            ),
        ] {
            assert!(taken(value.clone(), &of).is_err(), "{value:?} as {of}");
        }
    }
}
