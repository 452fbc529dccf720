//! Values in the binary form of PostgreSQL. What cannot be read exactly is unsupported, and never something else.

mod detail;
mod numeric;
mod parts;

use chrono::{Datelike, Days, NaiveDate};
use lodge_state::postgres::{
    MAX_TRANSFER, PostgresDate, PostgresError, PostgresInterval, PostgresKind, PostgresTime, PostgresValue,
};
use tokio_postgres::Row;
use tokio_postgres::types::{FromSql, Kind, Type};

use numeric::numeric;

/// The day from which PostgreSQL counts.
pub(super) const EPOCH: NaiveDate = match NaiveDate::from_ymd_opt(2000, 1, 1) {
    Some(day) => day,
    None => panic!("it is a day"),
};

/// The error of a result that exceeds its bound.
pub(super) const TOO_LARGE: PostgresError =
    PostgresError::TooLarge { what: "the result", limit: MAX_TRANSFER, unit: "bytes" };

/// Microseconds of a day.
pub(super) const DAY: i64 = 24 * 60 * 60 * 1_000_000;

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
        Type::NUMERIC => PostgresKind::Decimal,
        Type::UUID => PostgresKind::Uuid,
        Type::JSONB => PostgresKind::Jsonb,
        Type::JSON => PostgresKind::Text,
        Type::INTERVAL => PostgresKind::Interval,
        Type::INT4_RANGE => PostgresKind::RangeInt32,
        Type::INT8_RANGE => PostgresKind::RangeInt64,
        Type::NUM_RANGE => PostgresKind::RangeDecimal,
        _ if is_text(of) => PostgresKind::Text,
        _ => elements(of).map_or(PostgresKind::Other, |element| match *base(element) {
            Type::INT4 => PostgresKind::ArrayInt32,
            Type::INT8 => PostgresKind::ArrayInt64,
            Type::NUMERIC => PostgresKind::ArrayDecimal,
            _ if is_text(element) => PostgresKind::ArrayStr,
            _ => PostgresKind::Other,
        }),
    }
}

/// Returns the name of the type of PostgreSQL in whose form the values of a type are; nothing for types that others have made, which
/// may have any name.
pub(super) fn form(of: &Type) -> &str {
    match elements(of) {
        Some(element) if is_text(element) && Type::from_oid(element.oid()).is_none() => "_text",
        _ if is_text(of) && Type::from_oid(base(of).oid()).is_none() => "text",
        _ if base(of).name() == "hstore" && matches!(base(of).kind(), Kind::Simple) => "hstore",
        _ if Type::from_oid(base(of).oid()).is_some() => base(of).name(),
        _ => "",
    }
}

/// Returns the type of the elements of an array.
pub(super) fn elements(of: &Type) -> Option<&Type> {
    match base(of).kind() {
        Kind::Array(element) => Some(element),
        _ => None,
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

/// Returns a value of a row, `in_detail` also what only some interfaces have a form for.
///
/// # Errors
/// [`PostgresError::Lost`] if the server has sent what is not of its type, and [`PostgresError::TooLarge`].
pub(super) fn read(row: &Row, column: usize, in_detail: bool) -> Result<PostgresValue, PostgresError> {
    let of = row.columns().get(column).ok_or_else(malformed)?.type_();
    let Raw(bytes) = row.try_get(column).map_err(|_| malformed())?;
    match bytes {
        None => Ok(PostgresValue::Null),
        Some(bytes) if in_detail => detail::decode(of, bytes),
        Some(bytes) => decode(of, bytes),
    }
}

/// The bytes of a value, if there is one.
struct Raw<'a>(Option<&'a [u8]>);

impl<'a> FromSql<'a> for Raw<'a> {
    fn from_sql(_: &Type, bytes: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Self(Some(bytes)))
    }

    fn from_sql_null(_: &Type) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Self(None))
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}

/// A value that is not of its type, after which nothing that the connection sends is to be trusted.
fn malformed() -> PostgresError {
    PostgresError::Lost
}

fn decode(of: &Type, bytes: &[u8]) -> Result<PostgresValue, PostgresError> {
    let value = match kind(of) {
        PostgresKind::Bool => Some(PostgresValue::Bool(exact(bytes)? != [0])),
        PostgresKind::Int8 => Some(PostgresValue::Int8(i8::from_be_bytes(exact(bytes)?))),
        PostgresKind::Int16 => Some(PostgresValue::Int16(i16::from_be_bytes(exact(bytes)?))),
        PostgresKind::Int32 => int4(bytes)?.map(PostgresValue::Int32),
        PostgresKind::Int64 if *base(of) == Type::OID => {
            Some(PostgresValue::Int64(u32::from_be_bytes(exact(bytes)?).into()))
        }
        PostgresKind::Int64 => int8(bytes)?.map(PostgresValue::Int64),
        PostgresKind::Float32 => Some(PostgresValue::Float32(f32::from_be_bytes(exact(bytes)?))),
        PostgresKind::Float64 => Some(PostgresValue::Float64(f64::from_be_bytes(exact(bytes)?))),
        PostgresKind::Text => text(bytes)?.map(PostgresValue::Text),
        PostgresKind::Bytes => Some(PostgresValue::Bytes(bytes.to_vec())),
        PostgresKind::Date => date(i32::from_be_bytes(exact(bytes)?).into()).map(PostgresValue::Date),
        PostgresKind::Time => time(i64::from_be_bytes(exact(bytes)?)).map(PostgresValue::Time),
        PostgresKind::DateTime => {
            let at = i64::from_be_bytes(exact(bytes)?);
            let parts = date(at.div_euclid(DAY)).zip(time(at.rem_euclid(DAY)));
            parts.map(|((year, month, day), (hour, minute, second, nanosecond))| {
                PostgresValue::DateTime((year, month, day, hour, minute, second, nanosecond))
            })
        }
        PostgresKind::Uuid => Some(PostgresValue::Uuid(uuid(exact(bytes)?))),
        // A byte with the version of the format comes first.
        PostgresKind::Jsonb => match bytes {
            [1, rest @ ..] => text(rest)?.map(|text| PostgresValue::Jsonb(text.into_bytes())),
            _ => None,
        },
        PostgresKind::Decimal => numeric(bytes)?.map(PostgresValue::Decimal),
        PostgresKind::RangeInt32 => parts::range(bytes, int4)?.map(PostgresValue::RangeInt32),
        PostgresKind::RangeInt64 => parts::range(bytes, int8)?.map(PostgresValue::RangeInt64),
        PostgresKind::RangeDecimal => parts::range(bytes, numeric)?.map(PostgresValue::RangeDecimal),
        PostgresKind::ArrayInt32 => parts::array(bytes, int4, |_| 0)?.map(PostgresValue::ArrayInt32),
        PostgresKind::ArrayInt64 => parts::array(bytes, int8, |_| 0)?.map(PostgresValue::ArrayInt64),
        PostgresKind::ArrayDecimal => parts::array(bytes, numeric, String::len)?.map(PostgresValue::ArrayDecimal),
        PostgresKind::ArrayStr => parts::array(bytes, text, String::len)?.map(PostgresValue::ArrayStr),
        PostgresKind::Interval => interval(bytes)?.map(PostgresValue::Interval),
        PostgresKind::Timestamp | PostgresKind::Other => None,
    };
    Ok(value.unwrap_or_else(|| PostgresValue::Unsupported(bytes.to_vec())))
}

/// Returns bytes of a fixed number.
fn exact<const N: usize>(bytes: &[u8]) -> Result<[u8; N], PostgresError> {
    bytes.try_into().map_err(|_| malformed())
}

fn int4(bytes: &[u8]) -> Result<Option<i32>, PostgresError> {
    exact(bytes).map(i32::from_be_bytes).map(Some)
}

fn int8(bytes: &[u8]) -> Result<Option<i64>, PostgresError> {
    exact(bytes).map(i64::from_be_bytes).map(Some)
}

fn text(bytes: &[u8]) -> Result<Option<String>, PostgresError> {
    std::str::from_utf8(bytes).map(|text| Some(text.to_owned())).map_err(|_| malformed())
}

/// Returns an interval; `None` for infinity.
fn interval(bytes: &[u8]) -> Result<Option<PostgresInterval>, PostgresError> {
    let [micros @ .., d0, d1, d2, d3, m0, m1, m2, m3] = exact::<16>(bytes)?;
    let (days, months) = (i32::from_be_bytes([d0, d1, d2, d3]), i32::from_be_bytes([m0, m1, m2, m3]));
    let interval = PostgresInterval { micros: i64::from_be_bytes(micros), days, months };
    Ok(Some(interval).filter(|interval| !is_infinite(interval)))
}

/// Whether PostgreSQL 17 and later take an interval for infinity, which was a finite one before.
pub(super) fn is_infinite(interval: &PostgresInterval) -> bool {
    let of = |micros, days, months| PostgresInterval { micros, days, months };
    [of(i64::MAX, i32::MAX, i32::MAX), of(i64::MIN, i32::MIN, i32::MIN)].contains(interval)
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
fn date(days: i64) -> Option<PostgresDate> {
    let distance = Days::new(days.unsigned_abs());
    let day = if days < 0 { EPOCH.checked_sub_days(distance) } else { EPOCH.checked_add_days(distance) }?;
    Some((day.year(), u8::try_from(day.month()).ok()?, u8::try_from(day.day()).ok()?))
}

/// Returns the time of a day after so many microseconds; `None` for 24:00, which is no time of a day.
fn time(microseconds: i64) -> Option<PostgresTime> {
    let at = u64::try_from(microseconds).ok().filter(|_| microseconds < DAY)?;
    let (seconds, rest) = (at / 1_000_000, at % 1_000_000);
    let part = |value: u64| u8::try_from(value).ok();
    Some((part(seconds / 3_600)?, part(seconds / 60 % 60)?, part(seconds % 60)?, u32::try_from(rest * 1_000).ok()?))
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
}
