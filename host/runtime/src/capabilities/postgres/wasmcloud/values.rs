//! The values of the interface, each with what is sent for it as a parameter.

use lodge_state::postgres::PostgresValue;
use wasmtime::component::{ComponentType, Lift, Lower};

use super::number::{Float, FloatForm};
use super::types::{Date, Interval, Lexeme, Mac48, Mac64, Point, Time, TimeTz, Timestamp, TimestampTz};
use super::write::{
    arrays, bits, chars, date, day, document, floats, hex, hstore, items, joined, mac, moment, moment_text, name,
    named, no_form, pairs_of, polygon, position, rectangle, snapshot, time, time_text, varchar, varying, zoned,
    zoned_text,
};

/// Defines the cases of values: the name of each in the interface, its payload, and what makes a parameter of that.
macro_rules! values {
    ($($case:ident $name:literal ($payload:ty) = $write:expr;)*) => {
        #[derive(Clone, Debug, ComponentType, Lift, Lower)]
        #[component(variant)]
        pub(super) enum PgValue {
            #[component(name = "null")]
            Null,
            $(#[component(name = $name)] $case($payload),)*
        }

        impl PgValue {
            /// Returns the parameter, which has at most so many bytes.
            ///
            /// # Errors
            /// Why PostgreSQL cannot have it exactly, or that it is larger. Not much more than that has been written then.
            pub(super) fn parameter(self, most: usize) -> Result<PostgresValue, String> {
                match self {
                    Self::Null => Ok(PostgresValue::Null),
                    $(Self::$case(payload) => {
                        let write: fn($payload, usize) -> Result<PostgresValue, String> = $write;
                        write(payload, most)
                    })*
                }
            }
        }
    };
}

values! {
    BigInt "big-int" (i64) = |n, _| Ok(PostgresValue::Int64(n));
    Int8 "int8" (i64) = |n, _| Ok(PostgresValue::Int64(n));
    Int8Array "int8-array" (Vec<i64>) = |all, most| Ok(PostgresValue::ArrayInt64(items(all, most, |one| one)?));
    BigSerial "big-serial" (i64) = |n, _| Ok(PostgresValue::Int64(n));
    Serial8 "serial8" (i64) = |n, _| Ok(PostgresValue::Int64(n));
    Bool "bool" (bool) = |value, _| Ok(PostgresValue::Bool(value));
    Boolean "boolean" (bool) = |value, _| Ok(PostgresValue::Bool(value));
    BoolArray "bool-array" (Vec<bool>) = |all, most| arrays(&["_bool"], all, most, |value| Ok(value.to_string()));
    Double "double" (Float) = |float, _| float.value().map(PostgresValue::Float64);
    Float8 "float8" (Float) = |float, _| float.value().map(PostgresValue::Float64);
    Float8Array "float8-array" (Vec<Float>) = |all, most| floats(&["_float8"], all, most, Float::value);
    Real "real" (Float) = |float, _| float.single().map(PostgresValue::Float64);
    Float4 "float4" (Float) = |float, _| float.single().map(PostgresValue::Float64);
    Float4Array "float4-array" (Vec<Float>) = |all, most| floats(&["_float4", "_float8"], all, most, Float::single);
    Integer "integer" (i32) = |n, _| Ok(PostgresValue::Int32(n));
    Int "int" (i32) = |n, _| Ok(PostgresValue::Int32(n));
    Int4 "int4" (i32) = |n, _| Ok(PostgresValue::Int32(n));
    Int4Array "int4-array" (Vec<i32>) = |all, most| Ok(PostgresValue::ArrayInt32(items(all, most, |one| one)?));
    Numeric "numeric" (String) = |text, _| Ok(PostgresValue::Decimal(text));
    Decimal "decimal" (String) = |text, _| Ok(PostgresValue::Decimal(text));
    NumericArray "numeric-array" (Vec<String>) = |all, most| Ok(PostgresValue::ArrayDecimal(items(all, most, |one| one)?));
    Serial "serial" (u32) = |n, _| Ok(PostgresValue::Unsigned(n.into()));
    Serial4 "serial4" (u32) = |n, _| Ok(PostgresValue::Unsigned(n.into()));
    SmallInt "small-int" (i16) = |n, _| Ok(PostgresValue::Int16(n));
    Int2 "int2" (i16) = |n, _| Ok(PostgresValue::Int16(n));
    Int2Array "int2-array" (Vec<i16>) = |all, most| Ok(PostgresValue::ArrayInt32(items(all, most, i32::from)?));
    Int2Vector "int2-vector" (Vec<i16>) = |all, most| named(&["int2vector"], joined(all, " ", most, |n| Ok(n.to_string()))?);
    Int2VectorArray "int2-vector-array" (Vec<Vec<i16>>) = |all, most| arrays(&["_int2vector"], all, most, |one| joined(one, " ", most, |n| Ok(n.to_string())));
    SmallSerial "small-serial" (i16) = |n, _| Ok(PostgresValue::Int16(n));
    Serial2 "serial2" (i16) = |n, _| Ok(PostgresValue::Int16(n));
    Bit "bit" ((u32, Vec<u8>)) = |(count, bytes), most| named(&["bit", "varbit"], bits(Some(count), &bytes, most)?);
    BitArray "bit-array" (Vec<(u32, Vec<u8>)>) = |all, most| arrays(&["_bit", "_varbit"], all, most, |(count, bytes)| bits(Some(count), &bytes, most));
    BitVarying "bit-varying" ((Option<u32>, Vec<u8>)) = varying;
    Varbit "varbit" ((Option<u32>, Vec<u8>)) = varying;
    VarbitArray "varbit-array" (Vec<(Option<u32>, Vec<u8>)>) = |all, most| arrays(&["_bit", "_varbit"], all, most, |(count, bytes)| bits(count, &bytes, most));
    Bytea "bytea" (Vec<u8>) = |bytes, _| Ok(PostgresValue::Bytes(bytes));
    ByteaArray "bytea-array" (Vec<Vec<u8>>) = |all, most| arrays(&["_bytea"], all, most, |bytes| hex(&bytes, most));
    Char "char" ((u32, Vec<u8>)) = |value, _| chars(value);
    CharArray "char-array" (Vec<(u32, Vec<u8>)>) = |all, most| arrays(&["_bpchar", "_varchar", "_text"], all, most, |(count, bytes)| varchar(Some(count), bytes));
    Varchar "varchar" ((Option<u32>, Vec<u8>)) = |(long, bytes), _| named(&["varchar", "bpchar", "text"], varchar(long, bytes)?);
    VarcharArray "varchar-array" (Vec<(Option<u32>, Vec<u8>)>) = |all, most| arrays(&["_varchar", "_bpchar", "_text"], all, most, |(long, bytes)| varchar(long, bytes));
    Cidr "cidr" (String) = |text, _| named(&["cidr", "inet"], text);
    CidrArray "cidr-array" (Vec<String>) = |all, most| arrays(&["_cidr", "_inet"], all, most, Ok);
    Inet "inet" (String) = |text, _| named(&["inet"], text);
    InetArray "inet-array" (Vec<String>) = |all, most| arrays(&["_inet"], all, most, Ok);
    Macaddr "macaddr" (Mac48) = |mac48, _| named(&["macaddr"], mac(&mac48.list()));
    MacaddrArray "macaddr-array" (Vec<Mac48>) = |all, most| arrays(&["_macaddr"], all, most, |mac48| Ok(mac(&mac48.list())));
    Macaddr8 "macaddr8" (Mac64) = |mac64, _| named(&["macaddr8"], mac(&mac64.list()));
    Macaddr8Array "macaddr8-array" (Vec<Mac64>) = |all, most| arrays(&["_macaddr8"], all, most, |mac64| Ok(mac(&mac64.list())));
    Box "box" ((Point, Point)) = |corners, most| named(&["box"], rectangle(corners, most)?);
    BoxArray "box-array" (Vec<(Point, Point)>) = |all, most| {
        let boxes = joined(all, ";", most, |corners| rectangle(corners, most))?;
        named(&["_box"], format!("{{{boxes}}}"))
    };
    Circle "circle" ((Point, Float)) = |(centre, radius), most| named(&["circle"], pairs_of(&[centre], Some(radius), most)?);
    CircleArray "circle-array" (Vec<(Point, Float)>) = |all, most| arrays(&["_circle"], all, most, |(centre, radius)| pairs_of(&[centre], Some(radius), most));
    Line "line" ((Point, Point)) = |_, _| no_form("line");
    LineArray "line-array" (Vec<(Point, Point)>) = |_, _| no_form("line[]");
    Lseg "lseg" ((Point, Point)) = |(start, end), most| named(&["lseg"], polygon(&[start, end], most)?);
    LsegArray "lseg-array" (Vec<(Point, Point)>) = |all, most| arrays(&["_lseg"], all, most, |(start, end)| polygon(&[start, end], most));
    Path "path" (Vec<Point>) = |_, _| no_form("path");
    PathArray "path-array" (Vec<Vec<Point>>) = |_, _| no_form("path[]");
    Point "point" (Point) = |point, most| named(&["point"], pairs_of(&[point], None, most)?);
    PointArray "point-array" (Vec<Point>) = |all, most| arrays(&["_point"], all, most, |point| pairs_of(&[point], None, most));
    Polygon "polygon" (Vec<Point>) = |points, most| named(&["polygon"], polygon(&points, most)?);
    PolygonArray "polygon-array" (Vec<Vec<Point>>) = |all, most| arrays(&["_polygon"], all, most, |points| polygon(&points, most));
    Date "date" (Date) = |value, _| date(value);
    DateArray "date-array" (Vec<Date>) = |all, most| arrays(&["_date"], all, most, day);
    Interval "interval" (Interval) = |_, _| no_form("interval");
    IntervalArray "interval-array" (Vec<Interval>) = |_, _| no_form("interval[]");
    Time "time" (Time) = |value, _| time(value);
    TimeArray "time-array" (Vec<Time>) = |all, most| arrays(&["_time"], all, most, time_text);
    TimeTz "time-tz" (TimeTz) = |_, _| no_form("timetz");
    TimeTzArray "time-tz-array" (Vec<TimeTz>) = |_, _| no_form("timetz[]");
    Timestamp "timestamp" (Timestamp) = |at, _| moment(&["timestamp"], at);
    TimestampArray "timestamp-array" (Vec<Timestamp>) = |all, most| arrays(&["_timestamp"], all, most, |at| moment_text(at, ""));
    TimestampTz "timestamp-tz" (TimestampTz) = |value, _| zoned(value);
    TimestampTzArray "timestamp-tz-array" (Vec<TimestampTz>) = |all, most| arrays(&["_timestamptz"], all, most, zoned_text);
    Json "json" (String) = |value, _| document(value);
    JsonArray "json-array" (Vec<String>) = |all, most| arrays(&["_json", "_jsonb"], all, most, Ok);
    Jsonb "jsonb" (String) = |value, _| document(value);
    JsonbArray "jsonb-array" (Vec<String>) = |all, most| arrays(&["_json", "_jsonb"], all, most, Ok);
    Money "money" (String) = |_, _| no_form("money");
    MoneyArray "money-array" (Vec<String>) = |_, _| no_form("money[]");
    PgLsn "pg-lsn" (u64) = |at, _| named(&["pg_lsn"], position(at));
    PgLsnArray "pg-lsn-array" (Vec<u64>) = |all, most| arrays(&["_pg_lsn"], all, most, |at| Ok(position(at)));
    PgSnapshot "pg-snapshot" ((i64, i64, Vec<i64>)) = |parts, most| named(&["pg_snapshot"], snapshot(parts, most)?);
    TxidSnapshot "txid-snapshot" (i64) = |_, _| no_form("txid_snapshot");
    Name "name" (String) = |text, _| named(&["name", "text", "varchar"], name(text)?);
    NameArray "name-array" (Vec<String>) = |all, most| arrays(&["_name", "_text", "_varchar"], all, most, name);
    Text "text" (String) = |text, _| Ok(PostgresValue::Text(text));
    TextArray "text-array" (Vec<String>) = |all, most| Ok(PostgresValue::ArrayStr(items(all, most, |one| one)?));
    Xml "xml" (String) = |text, _| named(&["xml"], text);
    XmlArray "xml-array" (Vec<String>) = |all, most| arrays(&["_xml"], all, most, Ok);
    TsQuery "ts-query" (String) = |text, _| named(&["tsquery"], text);
    TsVector "ts-vector" (Vec<Lexeme>) = |_, _| no_form("tsvector");
    Uuid "uuid" (String) = |text, _| Ok(PostgresValue::Uuid(text));
    UuidArray "uuid-array" (Vec<String>) = |all, most| arrays(&["_uuid"], all, most, Ok);
    Hstore "hstore" (Vec<(String, Option<String>)>) = |pairs, most| named(&["hstore"], hstore(&pairs, most)?);
}
