//! What is sent for the values of the interface. The server reads texts, and only for parameters of the types that are named.
//!
//! A text can be many times as large as its value. So what writes more than a few bytes gets the most bytes that the parameter may have
//! ([`PostgresValue::size`]), and stops at the first one beyond.

use std::fmt::Write;

use lodge_state::postgres::{MAX_TRANSFER, PostgresDateTime, PostgresValue};

use super::number::{Float, FloatForm};
use super::types::{Date, Offset, Point, Time, Timestamp, TimestampTz};

/// A parameter, or why PostgreSQL cannot have the value exactly.
type WrittenValue = Result<PostgresValue, String>;

/// Returns a text that the server reads as one of these types.
pub(super) fn named(types: &'static [&'static str], text: String) -> WrittenValue {
    Ok(PostgresValue::As(types, Box::new(PostgresValue::Text(text))))
}

/// Returns what `bytes` leave of the most that there may be.
fn less(most: usize, bytes: usize) -> Result<usize, String> {
    most.checked_sub(bytes).ok_or_else(|| format!("the parameters up to this one have more than {MAX_TRANSFER} bytes"))
}

/// Returns the items of an array.
pub(super) fn items<T, U>(all: Vec<T>, most: usize, item: fn(T) -> U) -> Result<Vec<Option<U>>, String> {
    less(most, all.len().saturating_mul(size_of::<Option<U>>()))?;
    Ok(all.into_iter().map(|one| Some(item(one))).collect())
}

/// Returns an array of such texts.
pub(super) fn arrays<T>(
    types: &'static [&'static str],
    all: Vec<T>,
    most: usize,
    text: impl Fn(T) -> Result<String, String>,
) -> WrittenValue {
    let mut left = less(most, all.len().saturating_mul(size_of::<Option<String>>()))?;
    let write = |one| {
        let text = text(one)?;
        left = less(left, text.len())?;
        Ok(Some(text))
    };
    let all = all.into_iter().map(write).collect::<Result<_, String>>()?;
    Ok(PostgresValue::As(types, Box::new(PostgresValue::ArrayStr(all))))
}

/// Returns the texts of all, none of which is empty, with `between` between them.
pub(super) fn joined<T>(
    all: impl IntoIterator<Item = T>,
    between: &str,
    most: usize,
    text: impl Fn(T) -> Result<String, String>,
) -> Result<String, String> {
    let mut joined = String::new();
    for one in all {
        if !joined.is_empty() {
            joined.push_str(between);
        }
        joined.push_str(&text(one)?);
        less(most, joined.len())?;
    }
    Ok(joined)
}

/// The refusal of a value for which the interface has a form that says too little.
pub(super) fn no_form(of: &str) -> WrittenValue {
    Err(format!("the interface has no exact form of `{of}`: give a text, and a cast such as `$1::text::{of}`"))
}

pub(super) fn floats(
    types: &'static [&'static str],
    all: Vec<Float>,
    most: usize,
    value: fn(Float) -> Result<f64, String>,
) -> WrittenValue {
    arrays(types, all, most, |number| value(number).map(float))
}

/// The shortest digits that are this number, with an exponent: without it there can be more than 300 zeros.
fn float(number: f64) -> String {
    match number {
        f64::INFINITY => "Infinity".into(),
        f64::NEG_INFINITY => "-Infinity".into(),
        finite => format!("{finite:e}"),
    }
}

/// Returns the digits of bits; of all in the bytes without a `count`.
pub(super) fn bits(count: Option<u32>, bytes: &[u8], most: usize) -> Result<String, String> {
    less(most, bytes.len().saturating_mul(8))?;
    let mut text: String = bytes.iter().fold(String::with_capacity(bytes.len() * 8), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:08b}");
        text
    });
    let Some(count) = count else { return Ok(text) };
    let used = usize::try_from(count).unwrap_or(usize::MAX);
    let rest = text.get(used..).filter(|rest| rest.len() < 8 && !rest.contains('1'));
    if rest.is_none() {
        return Err(format!("{count} bits are not in {} bytes, with zeros after them", bytes.len()));
    }
    text.truncate(used);
    Ok(text)
}

pub(super) fn varying((count, bytes): (Option<u32>, Vec<u8>), most: usize) -> WrittenValue {
    named(&["varbit", "bit"], bits(count, &bytes, most)?)
}

pub(super) fn hex(bytes: &[u8], most: usize) -> Result<String, String> {
    less(most, bytes.len().saturating_mul(2))?;
    Ok(bytes.iter().fold("\\x".to_owned(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    }))
}

/// Returns a text with at most so many bytes.
pub(super) fn varchar(most: Option<u32>, bytes: Vec<u8>) -> Result<String, String> {
    if most.is_some_and(|most| bytes.len() > usize::try_from(most).unwrap_or(usize::MAX)) {
        return Err(format!("it has {} bytes, which is more than the value itself says", bytes.len()));
    }
    String::from_utf8(bytes).map_err(|_| "it is not UTF-8, as texts are: use `bytea` for bytes".into())
}

pub(super) fn chars((count, bytes): (u32, Vec<u8>)) -> WrittenValue {
    if usize::try_from(count).ok() != Some(bytes.len()) {
        return Err(format!("it has {} bytes, and says that it has {count}", bytes.len()));
    }
    match bytes.as_slice() {
        // The type "char" has any byte. It would take the first one of several.
        [byte @ (0 | 128..)] => Ok(PostgresValue::As(&["char"], Box::new(PostgresValue::Int8(byte.cast_signed())))),
        [_] => named(&["char", "bpchar", "varchar", "text"], varchar(None, bytes)?),
        _ => named(&["bpchar", "varchar", "text"], varchar(None, bytes)?),
    }
}

pub(super) fn mac(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":")
}

fn point((x, y): Point) -> Result<String, String> {
    Ok(format!("({},{})", float(x.value()?), float(y.value()?)))
}

/// Returns the text of points, and of a radius after them.
pub(super) fn pairs_of(points: &[Point], radius: Option<Float>, most: usize) -> Result<String, String> {
    let points = joined(points, ",", most, |at| point(*at))?;
    let Some(radius) = radius else { return Ok(points) };
    Ok(format!("<{points},{}>", float(radius.value()?)))
}

/// Returns the text of at least one point.
pub(super) fn polygon(points: &[Point], most: usize) -> Result<String, String> {
    if points.is_empty() {
        return Err("it has no points".into());
    }
    let text = pairs_of(points, None, most)?;
    Ok(if points.len() == 2 { text } else { format!("({text})") })
}

pub(super) fn date(date: Date) -> WrittenValue {
    let Date::Ymd((year, month, day)) = date else { return named(&["date"], self::day(date)?) };
    let part = |number: u32| u8::try_from(number).map_err(|_| format!("{year}-{month}-{day} is not a day"));
    Ok(PostgresValue::Date((year, part(month)?, part(day)?)))
}

/// Returns the text of a day, which the server checks.
pub(super) fn day(date: Date) -> Result<String, String> {
    Ok(match date {
        Date::PositiveInfinity => "infinity".into(),
        Date::NegativeInfinity => "-infinity".into(),
        Date::Ymd((year, month, day)) if year > 0 => format!("{year:04}-{month:02}-{day:02}"),
        // The year before 1 is 1 BC.
        Date::Ymd((year, month, day)) => format!("{:04}-{month:02}-{day:02} BC", 1 - i64::from(year)),
    })
}

fn parts(time: Time) -> Result<(u8, u8, u8, u32), String> {
    let Time { hour, min, sec, micro } = time;
    let wrong = || format!("{hour}:{min}:{sec} and {micro} µs is not a time of a day");
    if hour > 23 || min > 59 || sec > 59 || micro > 999_999 {
        return Err(wrong());
    }
    let part = |number: u32| u8::try_from(number).map_err(|_| wrong());
    Ok((part(hour)?, part(min)?, part(sec)?, micro * 1_000))
}

pub(super) fn time(time: Time) -> WrittenValue {
    parts(time).map(PostgresValue::Time)
}

pub(super) fn time_text(time: Time) -> Result<String, String> {
    let (hour, minute, second, nanosecond) = parts(time)?;
    Ok(format!("{hour:02}:{minute:02}:{second:02}.{:06}", nanosecond / 1_000))
}

/// Returns a day and a time for parameters of these types.
pub(super) fn moment(types: &'static [&'static str], Timestamp { date, time }: Timestamp) -> WrittenValue {
    let PostgresValue::Date((year, month, day)) = self::date(date)? else { return named(types, self::day(date)?) };
    let (hour, minute, second, nanosecond) = parts(time)?;
    let at: PostgresDateTime = (year, month, day, hour, minute, second, nanosecond);
    Ok(PostgresValue::As(types, Box::new(PostgresValue::DateTime(at))))
}

/// Returns the text of a day and a time, with `zone` after them.
pub(super) fn moment_text(Timestamp { date, time }: Timestamp, zone: &str) -> Result<String, String> {
    let (day, time) = (day(date)?, time_text(time)?);
    Ok(match (date, day.strip_suffix(" BC")) {
        (Date::Ymd(_), Some(day)) => format!("{day} {time}{zone} BC"),
        (Date::Ymd(_), None) => format!("{day} {time}{zone}"),
        _ => day,
    })
}

/// Returns a time in UTC. What another offset means, hosts do not agree about.
fn utc(TimestampTz { timestamp, offset }: TimestampTz) -> Result<Timestamp, String> {
    match offset {
        Offset::East(0) | Offset::West(0) => Ok(timestamp),
        _ => Err("its offset is not 0: give the time in UTC".into()),
    }
}

pub(super) fn zoned(at: TimestampTz) -> WrittenValue {
    moment(&["timestamptz"], utc(at)?)
}

pub(super) fn zoned_text(at: TimestampTz) -> Result<String, String> {
    moment_text(utc(at)?, "+00")
}

pub(super) fn document(text: String) -> WrittenValue {
    named(&["json", "jsonb"], text)
}

pub(super) fn position(at: u64) -> String {
    format!("{:X}/{:X}", at >> 32, at & u64::from(u32::MAX))
}

/// The most bytes of a `name`, in servers that are built as they are by default.
const MAX_NAME: usize = 63;

/// Returns a name that the server does not cut.
pub(super) fn name(text: String) -> Result<String, String> {
    match text.len() {
        ..=MAX_NAME => Ok(text),
        long => Err(format!("a name has at most {MAX_NAME} bytes, and it has {long}: give a `text`")),
    }
}

/// Returns the text of the lower left and the upper right corner, as the server keeps them.
pub(super) fn rectangle((low, high): (Point, Point), most: usize) -> Result<String, String> {
    if low.0.value()? > high.0.value()? || low.1.value()? > high.1.value()? {
        return Err("its corners are not the lower left and the upper right one, in this order".into());
    }
    polygon(&[low, high], most)
}

pub(super) fn snapshot((first, end, running): (i64, i64, Vec<i64>), most: usize) -> Result<String, String> {
    if running.is_sorted_by(|one, next| one < next) {
        return written_snapshot((first, end, running), most);
    }
    Err("the numbers of its running transactions are not in order, or one is there twice".into())
}

fn written_snapshot((first, end, running): (i64, i64, Vec<i64>), most: usize) -> Result<String, String> {
    Ok(format!("{first}:{end}:{}", joined(running, ",", most, |number| Ok(number.to_string()))?))
}

pub(super) fn hstore(pairs: &[(String, Option<String>)], most: usize) -> Result<String, String> {
    let mut keys: Vec<&str> = pairs.iter().map(|(key, _)| key.as_str()).collect();
    keys.sort_unstable();
    if keys.windows(2).any(|two| two.first() == two.last()) {
        return Err("it has a key twice, and the server would keep one of them".into());
    }
    let quoted = |text: &str| format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
    joined(pairs, ",", most, |(key, value)| {
        less(less(most, key.len())?, value.as_ref().map_or(0, String::len))?;
        Ok(format!("{}=>{}", quoted(key), value.as_deref().map_or_else(|| "NULL".into(), quoted)))
    })
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn bits_are_as_many_as_they_say() {
        assert_eq!(bits(Some(9), &[0b1010_0000, 0b1000_0000], 16).as_deref(), Ok("101000001"));
        assert_eq!(bits(Some(0), &[], 0).as_deref(), Ok(""));
        assert_eq!(bits(None, &[1], 8).as_deref(), Ok("00000001"));
        for (count, bytes) in [(9, &[0, 1][..]), (9, &[0]), (8, &[0, 0]), (1, &[])] {
            assert!(bits(Some(count), bytes, MAX_TRANSFER).is_err(), "{count} {bytes:?}");
        }
    }

    #[test]
    fn writing_stops_at_the_first_text_too_much() {
        let written = Cell::new(0);
        let text = |_| {
            written.set(written.get() + 1);
            Ok("x".repeat(10))
        };
        let item = size_of::<Option<String>>();
        assert!(arrays(&["_text"], vec![0; 1_000], 1_000 * item - 1, text).is_err());
        assert_eq!(written.take(), 0);
        assert!(arrays(&["_text"], vec![0; 1_000], 1_000 * item + 25, text).is_err());
        assert_eq!(written.take(), 3);
        assert!(joined(0..1_000, ",", 25, text).is_err());
        assert_eq!(written.take(), 3);
        assert_eq!(joined(0..2, ",", 21, text).map(|text| text.len()), Ok(21));
    }

    #[test]
    fn numbers_with_fractions_are_short_and_exact() {
        let mut numbers =
            vec![0.0, 1.0, 0.1, 1e21, 123_456_789.125, f64::MAX, f64::MIN_POSITIVE, 5e-324, f64::INFINITY];
        numbers.extend([f32::MAX, f32::MIN_POSITIVE, 1e-45, 0.1].map(f64::from));
        for number in numbers.iter().flat_map(|number| [*number, -*number]) {
            let text = float(number);
            assert!(text.len() <= 24, "{text}");
            assert_eq!(text.parse().map(f64::to_bits), Ok(number.to_bits()), "{text}");
        }
        assert_eq!([1.0, -0.0, 1.5e-7, 1e300].map(float), ["1e0", "-0e0", "1.5e-7", "1e300"]);
        assert_eq!([f64::INFINITY, f64::NEG_INFINITY].map(float), ["Infinity", "-Infinity"]);
    }

    #[test]
    fn days_before_the_first_year_are_those_of_the_server() {
        let at = |year| Timestamp { date: Date::Ymd((year, 2, 9)), time: Time { hour: 1, ..Time::default() } };
        assert_eq!(day(at(12).date).as_deref(), Ok("0012-02-09"));
        assert_eq!(moment_text(at(0), "+00").as_deref(), Ok("0001-02-09 01:00:00.000000+00 BC"));
        assert_eq!(moment_text(at(-43), "").as_deref(), Ok("0044-02-09 01:00:00.000000 BC"));
    }

    #[test]
    fn what_the_server_would_change_is_refused() {
        assert!(name("x".repeat(63)).is_ok() && name("x".repeat(64)).is_err() && name("\u{e4}".repeat(32)).is_err());
        let at = |x, y| (Float::of_double(x).unwrap(), Float::of_double(y).unwrap());
        let rectangle = |low, high| rectangle((low, high), MAX_TRANSFER);
        assert_eq!(rectangle(at(-1.0, 2.0), at(-1.0, 3.0)).as_deref(), Ok("(-1e0,2e0),(-1e0,3e0)"));
        assert!(rectangle(at(1.0, 2.0), at(0.0, 3.0)).is_err() && rectangle(at(0.0, 4.0), at(1.0, 3.0)).is_err());
        let snapshot = |running: &[i64]| snapshot((10, 20, running.to_vec()), MAX_TRANSFER);
        assert_eq!(snapshot(&[10, 14]).as_deref(), Ok("10:20:10,14"));
        assert!(snapshot(&[14, 14]).is_err() && snapshot(&[14, 10]).is_err());
        let pair = |key: &str, value: &str| (key.to_owned(), Some(value.to_owned()));
        assert!(hstore(&[pair("a", "1"), pair("b", "1")], MAX_TRANSFER).is_ok());
        assert!(hstore(&[pair("a", "1"), pair("b", "1"), pair("a", "1")], MAX_TRANSFER).is_err());
    }

    #[test]
    fn texts_end_where_they_end() {
        let pairs = [("a\"=>\\".to_owned(), None), (String::new(), Some("NULL".to_owned()))];
        assert_eq!(hstore(&pairs, MAX_TRANSFER).as_deref(), Ok(r#""a\"=>\\"=>NULL,""=>"NULL""#));
        assert!(chars((2, b"ab".to_vec())).is_ok() && chars((1, b"ab".to_vec())).is_err());
    }
}
