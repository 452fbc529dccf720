//! Values of every type, at their bounds: there and back exactly, or refused, or unsupported.

use std::sync::Arc;

use lodge_state::postgres::{
    PostgresError, PostgresInterval, PostgresKind as Kind, PostgresRange, PostgresSession, PostgresValue as Value,
};

use crate::databases::{pool, run};
use crate::server;

fn text(text: &str) -> Value {
    Value::Text(text.to_owned())
}

fn decimal(text: &str) -> Value {
    Value::Decimal(text.to_owned())
}

/// A value of the server that has no form here, whatever its bytes are.
fn no_form() -> Value {
    Value::Unsupported(Vec::new())
}

fn range<T>(lower: Option<(T, bool)>, upper: Option<(T, bool)>) -> Box<PostgresRange<T>> {
    Box::new(PostgresRange { lower, upper })
}

fn decimals(lower: Option<(&str, bool)>, upper: Option<(&str, bool)>) -> Value {
    let owned = |bound: Option<(&str, bool)>| bound.map(|(text, is_part)| (text.to_owned(), is_part));
    Value::RangeDecimal(range(owned(lower), owned(upper)))
}

fn texts(items: &[Option<&str>]) -> Vec<Option<String>> {
    items.iter().map(|item| item.map(str::to_owned)).collect()
}

fn interval(micros: i64, days: i32, months: i32) -> Value {
    Value::Interval(PostgresInterval { micros, days, months })
}

/// A value: its type, the parameter, what is read of it, and what the server writes of it.
type Case = (&'static str, Value, Value, &'static str);

/// A value that is read as it was sent.
fn same(of: &'static str, value: Value, written: &'static str) -> Case {
    (of, value.clone(), value, written)
}

fn numbers() -> Vec<Case> {
    let oid = u32::MAX.into();
    vec![
        same("boolean", Value::Bool(true), "true"),
        same("boolean", Value::Bool(false), "false"),
        same("\"char\"", Value::Int8(i8::MAX), "\u{7f}"),
        same("smallint", Value::Int16(i16::MIN), "-32768"),
        ("smallint", Value::Int64(32_767), Value::Int16(i16::MAX), "32767"),
        same("integer", Value::Int32(i32::MIN), "-2147483648"),
        ("integer", Value::Int8(7), Value::Int32(7), "7"),
        same("bigint", Value::Int64(i64::MIN), "-9223372036854775808"),
        same("bigint", Value::Int64(i64::MAX), "9223372036854775807"),
        ("oid", Value::Unsigned(oid), Value::Int64(u32::MAX.into()), "4294967295"),
        same("real", Value::Float32(0.1), "0.1"),
        same("real", Value::Float32(f32::from_bits(1)), "1e-45"),
        same("real", Value::Float32(-0.0), "-0"),
        same("real", Value::Float32(f32::NAN), "NaN"),
        same("double precision", Value::Float64(0.1), "0.1"),
        same("double precision", Value::Float64(f64::MAX), "1.7976931348623157e+308"),
        same("double precision", Value::Float64(f64::from_bits(1)), "5e-324"),
        same("double precision", Value::Float64(f64::NEG_INFINITY), "-Infinity"),
        same("numeric", decimal("-123456789012345678901234.000000012"), "-123456789012345678901234.000000012"),
        same("numeric", decimal("0.00001"), "0.00001"),
        ("numeric", decimal("12e3"), decimal("12000"), "12000"),
        ("numeric", text("1.50"), decimal("1.50"), "1.50"),
        ("numeric(40,20)", Value::Int64(3), decimal("3.00000000000000000000"), "3.00000000000000000000"),
        ("numeric", decimal("NaN"), no_form(), "NaN"),
        ("numeric", decimal("-Infinity"), no_form(), "-Infinity"),
        ("age", Value::Int64(42), Value::Int16(42), "42"),
    ]
}

fn words() -> Vec<Case> {
    let uuid = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11";
    vec![
        same("text", text("'; DROP TABLE t; --"), "'; DROP TABLE t; --"),
        same("text", text(""), ""),
        same("varchar(9)", text("grün\u{10ffff}"), "grün\u{10ffff}"),
        ("char(3)", text("a"), text("a  "), "a"),
        same("mood", text("sad"), "sad"),
        same("bytea", Value::Bytes(vec![0, 255]), "\\x00ff"),
        same("bytea", Value::Bytes(Vec::new()), "\\x"),
        same("uuid", Value::Uuid(uuid.into()), uuid),
        ("uuid", text("A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11"), Value::Uuid(uuid.into()), uuid),
        same("json", text("{ \"a\":1}"), "{ \"a\":1}"),
        ("json", Value::Jsonb(b"[]".into()), text("[]"), "[]"),
        ("jsonb", Value::Jsonb(b"{ \"a\":1}".into()), Value::Jsonb(b"{\"a\": 1}".into()), "{\"a\": 1}"),
        // That is a value, and not the absence of one.
        same("jsonb", Value::Jsonb(b"null".into()), "null"),
        ("inet", text("10.0.0.0/8"), no_form(), "10.0.0.0/8"),
        ("timetz", text("12:00+02"), no_form(), "12:00:00+02"),
        ("daterange", text("[2024-01-01,)"), no_form(), "[2024-01-01,)"),
        ("int4multirange", text("{[1,3)}"), no_form(), "{[1,3)}"),
    ]
}

fn times() -> Vec<Case> {
    vec![
        same("date", Value::Date((2024, 2, 29)), "2024-02-29"),
        same("date", Value::Date((-4713, 11, 24)), "4714-11-24 BC"),
        same("date", Value::Date((262_142, 12, 31)), "262142-12-31"),
        ("date", text("5874897-12-31"), no_form(), "5874897-12-31"),
        ("date", text("infinity"), no_form(), "infinity"),
        ("date", text("-infinity"), no_form(), "-infinity"),
        same("time", Value::Time((0, 0, 0, 0)), "00:00:00"),
        same("time", Value::Time((23, 59, 59, 999_999_000)), "23:59:59.999999"),
        ("time", text("24:00"), no_form(), "24:00:00"),
        same("timestamp", Value::DateTime((1969, 12, 31, 23, 59, 59, 1_000)), "1969-12-31 23:59:59.000001"),
        same("timestamp", Value::DateTime((-4713, 11, 24, 0, 0, 0, 0)), "4714-11-24 00:00:00 BC"),
        ("timestamp", text("294276-12-31 23:59:59.999999"), no_form(), "294276-12-31 23:59:59.999999"),
        ("timestamp", text("-infinity"), no_form(), "-infinity"),
        ("timestamptz", Value::Timestamp(0), Value::DateTime((1970, 1, 1, 0, 0, 0, 0)), "1970-01-01 02:00:00+02"),
        ("timestamptz", text("infinity"), no_form(), "infinity"),
        same("interval", interval(0, 0, 0), "00:00:00"),
        same("interval", interval(-1, 1, -13), "-1 years -1 mons +1 day -00:00:00.000001"),
        same("interval", interval(i64::MAX, i32::MIN, 0), "-2147483648 days +2562047788:00:54.775807"),
        // Infinity, from PostgreSQL 17 on.
        (
            "interval",
            text("178956970 years 7 mons 2147483647 days 2562047788:00:54.775807"),
            no_form(),
            "178956970 years 7 mons 2147483647 days 2562047788:00:54.775807",
        ),
    ]
}

fn ranges() -> Vec<Case> {
    let (least, most) = ((i32::MIN, true), (i32::MAX, false));
    vec![
        same("int4range", Value::RangeInt32(range(Some(least), Some(most))), "[-2147483648,2147483647)"),
        same("int4range", Value::RangeInt32(range(None, None)), "(,)"),
        // The server writes each range of whole numbers in one form.
        (
            "int4range",
            Value::RangeInt32(range(Some((1, false)), Some((5, true)))),
            Value::RangeInt32(range(Some((2, true)), Some((6, false)))),
            "[2,6)",
        ),
        // An empty range is not one without bounds.
        ("int4range", Value::RangeInt32(range(Some((5, true)), Some((5, false)))), no_form(), "empty"),
        same("int8range", Value::RangeInt64(range(Some((i64::MIN, true)), None)), "[-9223372036854775808,)"),
        (
            "int8range",
            Value::RangeInt32(range(None, Some((5, false)))),
            Value::RangeInt64(range(None, Some((5, false)))),
            "(,5)",
        ),
        same(
            "numrange",
            decimals(Some(("-1.50", false)), Some(("1000000000000000000000", true))),
            "(-1.50,1000000000000000000000]",
        ),
        same("numrange", decimals(None, Some(("0.0", false))), "(,0.0)"),
        ("numrange", text("[1,NaN)"), no_form(), "[1,NaN)"),
        ("numrange", Value::RangeInt64(range(Some((1, true)), None)), decimals(Some(("1", true)), None), "[1,)"),
    ]
}

fn arrays() -> Vec<Case> {
    let hard = [Some("a"), None, Some(""), Some("NULL"), Some("}\",\\ '\n")];
    vec![
        same(
            "integer[]",
            Value::ArrayInt32(vec![Some(i32::MIN), None, Some(i32::MAX)]),
            "{-2147483648,NULL,2147483647}",
        ),
        same("integer[]", Value::ArrayInt32(Vec::new()), "{}"),
        same("ids", Value::ArrayInt32(vec![Some(1)]), "{1}"),
        ("integer[]", text("{{1,2},{3,4}}"), no_form(), "{{1,2},{3,4}}"),
        ("integer[]", text("[0:1]={1,2}"), no_form(), "[0:1]={1,2}"),
        same(
            "bigint[]",
            Value::ArrayInt64(vec![Some(i64::MIN), Some(i64::MAX)]),
            "{-9223372036854775808,9223372036854775807}",
        ),
        ("bigint[]", Value::ArrayInt32(vec![Some(7)]), Value::ArrayInt64(vec![Some(7)]), "{7}"),
        ("smallint[]", Value::ArrayInt32(vec![Some(7), None]), no_form(), "{7,NULL}"),
        same("numeric[]", Value::ArrayDecimal(texts(&[Some("0.10"), None, Some("-3")])), "{0.10,NULL,-3}"),
        ("numeric[]", Value::ArrayDecimal(texts(&[Some("1"), Some("NaN")])), no_form(), "{1,NaN}"),
        same("text[]", Value::ArrayStr(texts(&hard)), "{a,NULL,\"\",\"NULL\",\"}\\\",\\\\ '\n\"}"),
        same("varchar(3)[]", Value::ArrayStr(texts(&[Some("abc")])), "{abc}"),
        same("mood[]", Value::ArrayStr(texts(&[Some("happy"), None])), "{happy,NULL}"),
        ("date[]", Value::ArrayStr(texts(&[Some("2024-02-29")])), no_form(), "{2024-02-29}"),
    ]
}

/// Compares values, also those that equal nothing. Bytes without a form are there, whatever they are.
fn is_same(read: &Value, expected: &Value) -> bool {
    match (read, expected) {
        (Value::Unsupported(bytes), Value::Unsupported(_)) => !bytes.is_empty(),
        _ => format!("{read:?}") == format!("{expected:?}"),
    }
}

async fn prepare(connection: &Arc<dyn PostgresSession>) {
    for statement in [
        "CREATE TYPE mood AS ENUM ('happy', 'sad')",
        "CREATE DOMAIN age AS smallint CHECK (value >= 0)",
        "CREATE DOMAIN ids AS integer[]",
        "SET timezone = 'Etc/GMT-2'",
    ] {
        run(connection, statement, &[]).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn values_are_exact_or_unsupported() {
    let Some(server) = server::start(&[]) else { return };
    let connection = pool(&server, 2).connection();
    prepare(&connection).await;
    for (of, parameter, read, written) in [numbers(), words(), times(), ranges(), arrays()].concat() {
        let statement = format!("SELECT v, v::text FROM (SELECT $1::{of} AS v) AS one");
        let rows = run(&connection, &statement, std::slice::from_ref(&parameter)).await;
        let row = rows.unwrap_or_else(|error| panic!("{of} of {parameter:?}: {error}")).rows.remove(0);
        assert!(is_same(&row[0], &read), "{of} of {parameter:?}: {row:?}");
        assert_eq!(row[1], text(written), "{of} of {parameter:?}");
        // No value is one, of each type.
        let rows = run(&connection, &statement, &[Value::Null]).await.unwrap().rows;
        assert_eq!(rows, [[Value::Null, Value::Null]], "{of}");
    }
    // The longest number of the server.
    let longest = format!("{}.{}", "9".repeat(131_072), "9".repeat(16_383));
    let rows = run(&connection, "SELECT $1::numeric", &[decimal(&longest)]).await.unwrap().rows;
    assert_eq!(rows, [[decimal(&longest)]]);
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_have_the_type_of_their_values() {
    let Some(server) = server::start(&[]) else { return };
    let connection = pool(&server, 2).connection();
    prepare(&connection).await;
    for (of, kind, name) in [
        ("mood", Kind::Text, "mood"),
        ("age", Kind::Int16, "int2"),
        ("json", Kind::Text, "json"),
        ("jsonb", Kind::Jsonb, "jsonb"),
        ("uuid", Kind::Uuid, "uuid"),
        ("numeric", Kind::Decimal, "numeric"),
        ("numeric[]", Kind::ArrayDecimal, "_numeric"),
        ("mood[]", Kind::ArrayStr, "_mood"),
        ("ids", Kind::ArrayInt32, "_int4"),
        ("smallint[]", Kind::Other, "_int2"),
        ("int2vector", Kind::Other, "int2vector"),
        ("daterange", Kind::Other, "daterange"),
        ("numrange", Kind::RangeDecimal, "numrange"),
        ("interval", Kind::Interval, "interval"),
    ] {
        let column = run(&connection, &format!("SELECT NULL::{of}"), &[]).await.unwrap().columns.remove(0);
        assert_eq!((column.kind, column.type_name.as_str()), (kind, name), "{of}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_is_refused() {
    let Some(server) = server::start(&[]) else { return };
    let connection = pool(&server, 2).connection();
    let most = Value::RangeInt32(range(None, Some((i32::MAX, true))));
    let infinity = interval(i64::MAX, i32::MAX, i32::MAX);
    for (statement, parameter, refusal) in [
        ("SELECT $1::smallint", Value::Int64(32_768), "parameter 1: 32768 does not fit into `int2`"),
        (
            "SELECT $1::text",
            decimal("1"),
            "parameter 1: the statement needs `text` here; give that, or a text, or write a cast",
        ),
        ("SELECT $1::jsonb", Value::Jsonb(b"{".into()), "invalid input syntax for type json"),
        ("SELECT $1::jsonb", Value::Jsonb(vec![255]), "parameter 1: it is not UTF-8"),
        ("SELECT $1::uuid", Value::Uuid("x".into()), "invalid input syntax for type uuid: \"x\" (SQLSTATE 22P02)"),
        ("SELECT $1::numeric", decimal("1,5"), "invalid input syntax for type numeric: \"1,5\""),
        (
            "SELECT $1::numeric[]",
            Value::ArrayDecimal(texts(&[Some("1,2")])),
            "invalid input syntax for type numeric: \"1,2\"",
        ),
        (
            "SELECT $1::numrange",
            decimals(Some(("1,2)", true)), None),
            "invalid input syntax for type numeric: \"1,2)\"",
        ),
        ("SELECT $1::int4range", most, "integer out of range"),
        (
            "SELECT $1::int4range",
            Value::RangeInt32(range(Some((2, true)), Some((1, true)))),
            "must be less than or equal",
        ),
        ("SELECT $1::smallint[]", Value::ArrayInt32(vec![Some(32_768)]), "out of range for type smallint"),
        ("SELECT $1::daterange", Value::RangeInt32(range(None, None)), "parameter 1: the statement needs `daterange`"),
        ("SELECT $1::interval", infinity, "parameter 1: PostgreSQL 17 takes it for infinity"),
        ("SELECT $1::date", Value::Date((-4713, 11, 23)), "date out of range"),
        ("SELECT $1::date", Value::Date((300_000, 1, 1)), "parameter 1: 300000-1-1 is not a day"),
    ] {
        let error = run(&connection, statement, std::slice::from_ref(&parameter)).await.unwrap_err().to_string();
        assert!(error.contains(refusal), "{statement} of {parameter:?}: {error}");
    }
    let few = run(&connection, "SELECT $1::text", &[]).await.unwrap_err();
    assert_eq!(few.to_string(), "parameter 1: the statement has 1, and 0 were given");
    assert_eq!(run(&connection, "SELECT 1; SELECT 2", &[]).await.unwrap_err().outcome(), "failed");
    let Err(PostgresError::Failed(report)) = run(&connection, "SELECT 1/0", &[]).await else { panic!("it fails") };
    assert_eq!(report.to_string(), "division by zero (SQLSTATE 22012)");
    run(&connection, "CREATE TABLE u (id integer CONSTRAINT one UNIQUE)", &[]).await.unwrap();
    let twice = run(&connection, "INSERT INTO u VALUES (1), (1)", &[]).await;
    let Err(PostgresError::Failed(report)) = twice else { panic!("{twice:?}") };
    assert_eq!((report.severity.as_str(), report.code.as_str()), ("ERROR", "23505"));
    assert_eq!(report.detail.as_deref(), Some("Key (id)=(1) already exists."));
    for extra in [("schema", "public"), ("table", "u"), ("constraint", "one")] {
        assert!(report.extras.contains(&(extra.0, extra.1.to_owned())), "{report:?}");
    }
}
