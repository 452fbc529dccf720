//! The values of the interface that a result has. What it cannot say exactly is refused.

use lodge_state::postgres::{PostgresDateTime, PostgresDetail, PostgresValue};

use super::number::{Float, FloatForm};
use super::types::{Date, Mac48, Mac64, Offset, Point, Time, Timestamp, TimestampTz};
use super::values::PgValue;

/// Reads items that are all of one case, and makes of them the case of lists. One item after the other: all of them as values of the
/// interface would need up to 18 times the memory of their list, which nothing counts.
macro_rules! list {
    ($form:ident, $items:ident, $one:ident, $many:ident) => {{
        let mut list = Vec::with_capacity($items.len());
        for item in $items {
            let PgValue::$one(item) = read($form, item?)? else { return None };
            list.push(item);
        }
        Some(PgValue::$many(list))
    }};
}

/// Returns the value of a column in whose form it is; `None` if the interface has no exact form for it.
pub(super) fn read(form: &str, value: PostgresValue) -> Option<PgValue> {
    Some(match (value, form) {
        (PostgresValue::Null, _) => PgValue::Null,
        (PostgresValue::Bool(value), _) => PgValue::Bool(value),
        (PostgresValue::Int8(number), _) => PgValue::Char((1, vec![number.cast_unsigned()])),
        (PostgresValue::Int16(number), _) => PgValue::Int2(number),
        (PostgresValue::Int32(number), _) => PgValue::Int4(number),
        (PostgresValue::Int64(number), _) => PgValue::Int8(number),
        (PostgresValue::Float32(number), _) => PgValue::Float4(Float::of_single(number)?),
        (PostgresValue::Float64(number), _) => PgValue::Float8(Float::of_double(number)?),
        (PostgresValue::Decimal(text), _) => PgValue::Numeric(text),
        (PostgresValue::Bytes(bytes), _) => PgValue::Bytea(bytes),
        (PostgresValue::Uuid(text), _) => PgValue::Uuid(text),
        (PostgresValue::Jsonb(bytes), _) => PgValue::Jsonb(String::from_utf8(bytes).ok()?),
        (PostgresValue::Text(text), "json") => PgValue::Json(text),
        (PostgresValue::Text(text), "xml") => PgValue::Xml(text),
        (PostgresValue::Text(text), "name") => PgValue::Name(text),
        (PostgresValue::Text(text), "varchar") => PgValue::Varchar((None, text.into_bytes())),
        (PostgresValue::Text(text), "bpchar") => PgValue::Char((u32::try_from(text.len()).ok()?, text.into_bytes())),
        (PostgresValue::Text(text), _) => PgValue::Text(text),
        (PostgresValue::Date((year, month, day)), _) => PgValue::Date(Date::Ymd((year, month.into(), day.into()))),
        (PostgresValue::Time((hour, min, sec, nano)), _) => PgValue::Time(time(hour, min, sec, nano)),
        (PostgresValue::DateTime(at), form) => moment(form, timestamp(at))?,
        (PostgresValue::ArrayInt32(items), _) => PgValue::Int4Array(items.into_iter().collect::<Option<_>>()?),
        (PostgresValue::ArrayInt64(items), _) => PgValue::Int8Array(items.into_iter().collect::<Option<_>>()?),
        (PostgresValue::ArrayDecimal(items), _) => PgValue::NumericArray(items.into_iter().collect::<Option<_>>()?),
        (PostgresValue::ArrayStr(items), form) => {
            array(form.strip_prefix('_')?, &mut items.into_iter().map(|item| item.map(PostgresValue::Text)))?
        }
        (PostgresValue::Detailed(detail), form) => detailed(form, *detail)?,
        _ => return None,
    })
}

fn time(hour: u8, min: u8, sec: u8, nano: u32) -> Time {
    Time { hour: hour.into(), min: min.into(), sec: sec.into(), micro: nano / 1_000 }
}

fn timestamp((year, month, day, hour, min, sec, nano): PostgresDateTime) -> Timestamp {
    Timestamp { date: Date::Ymd((year, month.into(), day.into())), time: time(hour, min, sec, nano) }
}

fn moment(form: &str, timestamp: Timestamp) -> Option<PgValue> {
    match form {
        "timestamp" => Some(PgValue::Timestamp(timestamp)),
        // As other hosts have it: in UTC, which is neither east nor west.
        "timestamptz" => Some(PgValue::TimestampTz(TimestampTz { timestamp, offset: Offset::West(0) })),
        _ => None,
    }
}

fn detailed(form: &str, detail: PostgresDetail) -> Option<PgValue> {
    match detail {
        PostgresDetail::Infinity { positive } => {
            let date = if positive { Date::PositiveInfinity } else { Date::NegativeInfinity };
            match form {
                "date" => Some(PgValue::Date(date)),
                _ => moment(form, Timestamp { date, time: Time::default() }),
            }
        }
        PostgresDetail::Bits(count, bytes) if form == "bit" => Some(PgValue::Bit((count, bytes))),
        PostgresDetail::Bits(count, bytes) => Some(PgValue::Varbit((Some(count), bytes))),
        PostgresDetail::Address(text) => match form {
            "inet" => Some(PgValue::Inet(text)),
            "cidr" => Some(PgValue::Cidr(text)),
            "macaddr" => {
                let [a, b, c, d, e, f] = octets(&text)?;
                Some(PgValue::Macaddr(Mac48 { bytes: (a, b, c, d, e, f) }))
            }
            "macaddr8" => {
                let [a, b, c, d, e, f, g, h] = octets(&text)?;
                Some(PgValue::Macaddr8(Mac64 { bytes: (a, b, c, d, e, f, g, h) }))
            }
            _ => None,
        },
        PostgresDetail::Coordinates(numbers) => shape(form, &numbers),
        PostgresDetail::Position(at) => Some(PgValue::PgLsn(at)),
        PostgresDetail::Snapshot(first, end, running) => Some(PgValue::PgSnapshot((first, end, running))),
        PostgresDetail::Pairs(pairs) => Some(PgValue::Hstore(pairs)),
        PostgresDetail::Array(items) if form == "int2vector" => {
            let PgValue::Int2Array(items) = array("int2", &mut items.into_iter())? else { return None };
            Some(PgValue::Int2Vector(items))
        }
        PostgresDetail::Array(items) => array(form.strip_prefix('_')?, &mut items.into_iter()),
    }
}

fn octets<const N: usize>(text: &str) -> Option<[u8; N]> {
    let octets: Option<Vec<u8>> = text.split(':').map(|octet| u8::from_str_radix(octet, 16).ok()).collect();
    octets?.try_into().ok()
}

fn shape(form: &str, numbers: &[f64]) -> Option<PgValue> {
    let numbers = numbers.iter().map(|number| Float::of_double(*number)).collect::<Option<Vec<_>>>()?;
    let points: Vec<Point> = numbers.chunks_exact(2).filter_map(|pair| Some((*pair.first()?, *pair.last()?))).collect();
    match (form, points.as_slice()) {
        ("point", [point]) => Some(PgValue::Point(*point)),
        // The server has the upper right corner first.
        ("box", [high, low]) => Some(PgValue::Box((*low, *high))),
        ("lseg", [start, end]) => Some(PgValue::Lseg((*start, *end))),
        ("circle", [centre]) => Some(PgValue::Circle((*centre, *numbers.last()?))),
        ("polygon", _) => Some(PgValue::Polygon(points)),
        _ => None,
    }
}

/// Returns a list of values; `None` if one of them is NULL, which lists cannot have.
fn array(form: &str, items: &mut dyn ExactSizeIterator<Item = Option<PostgresValue>>) -> Option<PgValue> {
    match form {
        "bool" => list!(form, items, Bool, BoolArray),
        "int2" => list!(form, items, Int2, Int2Array),
        "int2vector" => list!(form, items, Int2Vector, Int2VectorArray),
        "int4" => list!(form, items, Int4, Int4Array),
        "int8" | "oid" => list!(form, items, Int8, Int8Array),
        "float4" => list!(form, items, Float4, Float4Array),
        "float8" => list!(form, items, Float8, Float8Array),
        "numeric" => list!(form, items, Numeric, NumericArray),
        "bit" => list!(form, items, Bit, BitArray),
        "varbit" => list!(form, items, Varbit, VarbitArray),
        "bytea" => list!(form, items, Bytea, ByteaArray),
        "char" | "bpchar" => list!(form, items, Char, CharArray),
        "varchar" => list!(form, items, Varchar, VarcharArray),
        "text" => list!(form, items, Text, TextArray),
        "name" => list!(form, items, Name, NameArray),
        "xml" => list!(form, items, Xml, XmlArray),
        "json" => list!(form, items, Json, JsonArray),
        "jsonb" => list!(form, items, Jsonb, JsonbArray),
        "uuid" => list!(form, items, Uuid, UuidArray),
        "inet" => list!(form, items, Inet, InetArray),
        "cidr" => list!(form, items, Cidr, CidrArray),
        "macaddr" => list!(form, items, Macaddr, MacaddrArray),
        "macaddr8" => list!(form, items, Macaddr8, Macaddr8Array),
        "point" => list!(form, items, Point, PointArray),
        "box" => list!(form, items, Box, BoxArray),
        "lseg" => list!(form, items, Lseg, LsegArray),
        "circle" => list!(form, items, Circle, CircleArray),
        "polygon" => list!(form, items, Polygon, PolygonArray),
        "date" => list!(form, items, Date, DateArray),
        "time" => list!(form, items, Time, TimeArray),
        "timestamp" => list!(form, items, Timestamp, TimestampArray),
        "timestamptz" => list!(form, items, TimestampTz, TimestampTzArray),
        "pg_lsn" => list!(form, items, PgLsn, PgLsnArray),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_exact_form_is_refused() {
        let detail = |detail| PostgresValue::Detailed(Box::new(detail));
        for (form, value) in [
            ("float8", PostgresValue::Float64(f64::NAN)),
            ("_int4", PostgresValue::ArrayInt32(vec![Some(1), None])),
            ("money", PostgresValue::Unsupported(vec![0; 8])),
            ("path", PostgresValue::Unsupported(vec![0])),
            ("line", detail(PostgresDetail::Coordinates(vec![1.0, 2.0, 3.0]))),
            ("point", detail(PostgresDetail::Coordinates(vec![1.0, f64::NAN]))),
            ("_bool", detail(PostgresDetail::Array(vec![Some(PostgresValue::Bool(true)), None]))),
            ("_path", detail(PostgresDetail::Array(vec![Some(PostgresValue::Unsupported(vec![0]))]))),
            ("", PostgresValue::ArrayStr(vec![])),
        ] {
            assert!(read(form, value.clone()).is_none(), "{form} {value:?}");
        }
    }

    /// A line of the memory of this process, in MiB.
    fn memory(line: &str) -> usize {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let found = status.lines().find_map(|text| text.strip_prefix(line)).unwrap();
        found.split_whitespace().next().unwrap().parse::<usize>().unwrap() >> 10
    }

    /// The largest arrays that a result can have need the memory of their lists. In a process of its own, since others use memory, too.
    #[test]
    fn arrays_need_the_memory_of_their_lists() {
        const ALONE: &str = "LODGE_TEST_ALONE";
        if std::env::var_os(ALONE).is_none() {
            let name = std::thread::current().name().unwrap().to_owned();
            let alone = std::process::Command::new(std::env::current_exe().unwrap())
                .args(["--exact", &name, "--nocapture"])
                .env(ALONE, "1")
                .output()
                .unwrap();
            assert!(alone.status.success(), "{}", String::from_utf8_lossy(&alone.stderr));
            return;
        }
        let before = memory("VmRSS:");
        let details = |value| PostgresValue::Detailed(Box::new(PostgresDetail::Array(vec![Some(value); 4 << 15])));
        let values: [(&str, &dyn Fn() -> PostgresValue); 7] = [
            ("_int4", &|| PostgresValue::ArrayInt32(vec![Some(1); 4 << 17])),
            ("_int8", &|| PostgresValue::ArrayInt64(vec![Some(1); 4 << 16])),
            ("_text", &|| PostgresValue::ArrayStr(vec![Some(String::new()); 4 << 15])),
            ("_numeric", &|| PostgresValue::ArrayDecimal(vec![Some(String::new()); 4 << 15])),
            ("_bool", &|| details(PostgresValue::Bool(true))),
            ("_float8", &|| details(PostgresValue::Float64(0.5))),
            ("_date", &|| details(PostgresValue::Date((2000, 1, 1)))),
        ];
        for (form, value) in values {
            let value = value();
            assert!(value.size() <= (4 << 20) + 128, "{form}: no result has it");
            assert!(read(form, value).is_some(), "{form}");
            let more = memory("VmHWM:") - before;
            assert!(more <= 12, "{form}: {more} MiB, of which 4 are what the server has sent");
        }
    }
}
