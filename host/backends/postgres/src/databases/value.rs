//! Values in the binary form of PostgreSQL. What cannot be read exactly is unsupported, and never something else.

use std::fmt::Write;

use chrono::{Datelike, Days, NaiveDate};
use lodge_state::postgres::{PostgresKind, PostgresValue};
use tokio_postgres::Row;
use tokio_postgres::types::{FromSql, Kind, Type};

/// The day from which PostgreSQL counts.
pub(super) const EPOCH: NaiveDate = match NaiveDate::from_ymd_opt(2000, 1, 1) {
    Some(day) => day,
    None => panic!("it is a day"),
};

/// Microseconds of a day.
pub(super) const DAY: i64 = 24 * 60 * 60 * 1_000_000;

type DecodeFailure = Box<dyn std::error::Error + Sync + Send>;

/// Returns the form of the values of a type.
pub(super) fn kind(of: &Type) -> PostgresKind {
    match *base(of) {
        Type::BOOL => PostgresKind::Bool,
        Type::CHAR => PostgresKind::Int8,
        Type::INT2 => PostgresKind::Int16,
        Type::INT4 => PostgresKind::Int32,
        Type::INT8 | Type::OID => PostgresKind::Int64,
        Type::FLOAT4 => PostgresKind::Float32,
        Type::FLOAT8 => PostgresKind::Float64,
        Type::BYTEA => PostgresKind::Bytes,
        Type::DATE => PostgresKind::Date,
        Type::TIME => PostgresKind::Time,
        Type::TIMESTAMP | Type::TIMESTAMPTZ => PostgresKind::DateTime,
        Type::NUMERIC | Type::UUID | Type::JSON | Type::JSONB => PostgresKind::Text,
        _ if is_text(of) => PostgresKind::Text,
        _ => PostgresKind::Other,
    }
}

/// Whether the binary form of a type is a text.
fn is_text(of: &Type) -> bool {
    let of = base(of);
    matches!(*of, Type::TEXT | Type::VARCHAR | Type::BPCHAR | Type::NAME | Type::UNKNOWN | Type::XML)
        || of.name() == "citext" && matches!(of.kind(), Kind::Simple)
        || matches!(of.kind(), Kind::Enum(_))
}

/// Returns the type that a domain restricts.
pub(super) fn base(of: &Type) -> &Type {
    let mut of = of;
    while let Kind::Domain(inner) = of.kind() {
        of = inner;
    }
    of
}

/// Returns a value of a row.
///
/// # Errors
/// If the server has sent what is not of its type.
pub(super) fn read(row: &Row, column: usize) -> Result<PostgresValue, tokio_postgres::Error> {
    row.try_get::<_, Binary>(column).map(|Binary(value)| value)
}

/// A value, read.
struct Binary(PostgresValue);

impl FromSql<'_> for Binary {
    fn from_sql(of: &Type, bytes: &[u8]) -> Result<Self, DecodeFailure> {
        decode(of, bytes).map(Self)
    }

    fn from_sql_null(_: &Type) -> Result<Self, DecodeFailure> {
        Ok(Self(PostgresValue::Null))
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}

fn decode(of: &Type, bytes: &[u8]) -> Result<PostgresValue, DecodeFailure> {
    let text = |bytes: &[u8]| std::str::from_utf8(bytes).map(|text| PostgresValue::Text(text.to_owned()));
    Ok(match *base(of) {
        Type::BOOL => PostgresValue::Bool(bool::from_sql(&Type::BOOL, bytes)?),
        Type::CHAR => PostgresValue::Int8(i8::from_sql(&Type::CHAR, bytes)?),
        Type::INT2 => PostgresValue::Int16(i16::from_sql(&Type::INT2, bytes)?),
        Type::INT4 => PostgresValue::Int32(i32::from_sql(&Type::INT4, bytes)?),
        Type::INT8 => PostgresValue::Int64(i64::from_sql(&Type::INT8, bytes)?),
        Type::OID => PostgresValue::Int64(u32::from_sql(&Type::OID, bytes)?.into()),
        Type::FLOAT4 => PostgresValue::Float32(f32::from_sql(&Type::FLOAT4, bytes)?),
        Type::FLOAT8 => PostgresValue::Float64(f64::from_sql(&Type::FLOAT8, bytes)?),
        Type::BYTEA => PostgresValue::Bytes(bytes.to_vec()),
        Type::JSON => text(bytes)?,
        // A byte with the version of the format comes first.
        Type::JSONB => match bytes {
            [1, rest @ ..] => text(rest)?,
            _ => PostgresValue::Unsupported,
        },
        Type::UUID => PostgresValue::Text(uuid(bytes.try_into()?)),
        Type::NUMERIC => numeric(bytes)?.map_or(PostgresValue::Unsupported, PostgresValue::Text),
        Type::DATE => match date(i32::from_be_bytes(bytes.try_into()?).into()) {
            Some((year, month, day)) => PostgresValue::Date(year, month, day),
            None => PostgresValue::Unsupported,
        },
        Type::TIME => match time(i64::from_be_bytes(bytes.try_into()?)) {
            Some((hour, minute, second, nanosecond)) => PostgresValue::Time(hour, minute, second, nanosecond),
            None => PostgresValue::Unsupported,
        },
        Type::TIMESTAMP | Type::TIMESTAMPTZ => {
            let at = i64::from_be_bytes(bytes.try_into()?);
            let parts = date(at.div_euclid(DAY)).zip(time(at.rem_euclid(DAY)));
            parts.map_or(PostgresValue::Unsupported, |(date, time)| PostgresValue::DateTime(date, time))
        }
        _ if is_text(of) => text(bytes)?,
        _ => PostgresValue::Unsupported,
    })
}

fn uuid(bytes: [u8; 16]) -> String {
    let mut text = String::with_capacity(36);
    for (position, byte) in bytes.into_iter().enumerate() {
        if matches!(position, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        for digit in [byte >> 4, byte & 15] {
            text.extend(char::from_digit(digit.into(), 16));
        }
    }
    text
}

/// Returns the day that is so many days after [`EPOCH`]; `None` for infinity, and for years after 262,000.
fn date(days: i64) -> Option<(i32, u8, u8)> {
    let distance = Days::new(days.unsigned_abs());
    let day = if days < 0 { EPOCH.checked_sub_days(distance) } else { EPOCH.checked_add_days(distance) }?;
    Some((day.year(), u8::try_from(day.month()).ok()?, u8::try_from(day.day()).ok()?))
}

/// Returns the time of a day after so many microseconds; `None` for 24:00, which is no time of a day.
fn time(microseconds: i64) -> Option<(u8, u8, u8, u32)> {
    let at = u64::try_from(microseconds).ok().filter(|_| microseconds < DAY)?;
    let (seconds, rest) = (at / 1_000_000, at % 1_000_000);
    let part = |value: u64| u8::try_from(value).ok();
    Some((part(seconds / 3_600)?, part(seconds / 60 % 60)?, part(seconds % 60)?, u32::try_from(rest * 1_000).ok()?))
}

/// Returns the decimal text of a `numeric`, as the server would write it; `None` for what is not finite.
///
/// Its form: the number of digits, the weight of the first one, sign and scale, and then the digits, of base 10,000.
fn numeric(bytes: &[u8]) -> Result<Option<String>, DecodeFailure> {
    let mut words = bytes.chunks_exact(2).map(|pair| pair.try_into().map(u16::from_be_bytes));
    let mut next = || words.next().ok_or("a numeric ends early")?.map_err(DecodeFailure::from);
    let (count, weight, sign, scale) = (next()?, next()?.cast_signed(), next()?, next()?);
    let negative = match sign {
        0 => false,
        0x4000 => true,
        // NaN and both infinities.
        _ => return Ok(None),
    };
    let digits = (0..count).map(|_| next()).collect::<Result<Vec<_>, _>>()?;
    let digit = |position: i32| usize::try_from(position).ok().and_then(|at| digits.get(at)).copied().unwrap_or(0);
    let mut text = String::new();
    if negative {
        text.push('-');
    }
    let weight = i32::from(weight);
    if weight < 0 {
        text.push('0');
    }
    for position in 0..=weight {
        push(&mut text, digit(position), position > 0);
    }
    if scale > 0 {
        text.push('.');
        let whole = text.len();
        let mut position = weight + 1;
        while text.len() - whole < scale.into() {
            // Zeros between the point and the first digit are not stored.
            push(&mut text, digit(position), true);
            position += 1;
        }
        text.truncate(whole + usize::from(scale));
    }
    Ok(Some(text))
}

/// Adds a digit of base 10,000: as four decimal ones, or without zeros before it.
fn push(text: &mut String, digit: u16, whole: bool) {
    // Most digits of the longest numbers are zeros.
    if whole && digit == 0 {
        text.push_str("0000");
    } else {
        let width = if whole { 4 } else { 0 };
        // Writing to a string does not fail.
        let _ = write!(text, "{digit:0width$}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_and_times() {
        assert_eq!([date(0), date(-1), date(59)], [Some((2000, 1, 1)), Some((1999, 12, 31)), Some((2000, 2, 29))]);
        assert_eq!([date(i32::MAX.into()), date(i32::MIN.into()), date(i64::MAX / DAY + 1)], [None; 3]);
        assert_eq!([time(0), time(DAY - 1)], [Some((0, 0, 0, 0)), Some((23, 59, 59, 999_999_000))]);
        assert_eq!([time(DAY), time(-1)], [None; 2]);
    }

    #[test]
    fn numbers_of_any_size() {
        let of = |words: &[u16]| {
            let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
            numeric(&bytes).unwrap()
        };
        assert_eq!(of(&[0, 0, 0, 0]).as_deref(), Some("0"));
        assert_eq!(of(&[0, 0, 0, 2]).as_deref(), Some("0.00"));
        assert_eq!(of(&[2, 0, 0, 2, 12, 3400]).as_deref(), Some("12.34"));
        assert_eq!(of(&[1, 1, 0x4000, 0, 5]).as_deref(), Some("-50000"));
        assert_eq!(of(&[1, 0xffff, 0, 4, 5]).as_deref(), Some("0.0005"));
        assert_eq!(of(&[1, 0xfffe, 0, 9, 12]).as_deref(), Some("0.000000120"));
        assert_eq!(of(&[0, 0, 0xc000, 0]), None);
        assert!(numeric(&[0, 3, 0, 0, 0, 0, 0, 0, 0, 1]).is_err());
    }
}
