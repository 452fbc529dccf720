//! The values of the interfaces, as released SDKs have them.
//!
//! `2.0.0` has no dates and times: they are unsupported there, and a guest casts them to `text`. `3.0.0` has no unsigned numbers, which
//! PostgreSQL has not either. Both have texts for what `4` has types of its own.

use lodge_state::postgres::{
    PostgresColumn, PostgresDate, PostgresDateTime, PostgresInterval, PostgresKind, PostgresRange, PostgresRows,
    PostgresTime, PostgresValue,
};
use wasmtime::component::{ComponentType, Lift, Lower};

/// A payload of a value, as an interface has it, of what the host has in its place.
trait Payload<Host> {
    fn of_host(host: Host) -> Self;
    fn into_host(self) -> Host;
}

impl<T> Payload<T> for T {
    fn of_host(host: T) -> T {
        host
    }

    fn into_host(self) -> T {
        self
    }
}

/// Where a range begins, and where it ends.
type Range<T> = (Option<(T, RangeBoundKind)>, Option<(T, RangeBoundKind)>);

#[derive(Clone, Copy, Debug, ComponentType, Lift, Lower)]
#[component(enum)]
#[repr(u8)]
pub(super) enum RangeBoundKind {
    #[component(name = "inclusive")]
    Inclusive,
    #[component(name = "exclusive")]
    Exclusive,
}

impl<T> Payload<Box<PostgresRange<T>>> for Range<T> {
    fn of_host(host: Box<PostgresRange<T>>) -> Self {
        let bound =
            |(value, is_part)| (value, if is_part { RangeBoundKind::Inclusive } else { RangeBoundKind::Exclusive });
        (host.lower.map(bound), host.upper.map(bound))
    }

    fn into_host(self) -> Box<PostgresRange<T>> {
        let bound = |(value, kind)| (value, matches!(kind, RangeBoundKind::Inclusive));
        Box::new(PostgresRange { lower: self.0.map(bound), upper: self.1.map(bound) })
    }
}

#[derive(Clone, Copy, Debug, ComponentType, Lift, Lower)]
#[component(record)]
pub(super) struct Interval {
    micros: i64,
    days: i32,
    months: i32,
}

impl Payload<PostgresInterval> for Interval {
    fn of_host(PostgresInterval { micros, days, months }: PostgresInterval) -> Self {
        Self { micros, days, months }
    }

    fn into_host(self) -> PostgresInterval {
        let Self { micros, days, months } = self;
        PostgresInterval { micros, days, months }
    }
}

/// Defines the types of an interface: the values that all have, in their places the unsigned numbers of the first one, and those that it
/// has as the host does; then the form of its `db-data-type`, and what it tells of a value that it cannot hold.
macro_rules! interface {
    (
        $module:ident, [$($unsigned:ident $unsigned_name:literal ($number:ty)),*],
        [$($case:ident $name:literal ($payload:ty)),*],
        [$form:tt $($copy:ident)?], Other $(($type_name:ty))?, Unsupported $(($bytes:ty))?
    ) => {
        pub(super) mod $module {
            use super::*;

            #[derive(Clone, $($copy,)? Debug, ComponentType, Lift, Lower)]
            #[component($form)]
            #[repr(u8)]
            pub(in super::super) enum DataType {
                #[component(name = "boolean")]
                Boolean,
                #[component(name = "int8")]
                Int8,
                #[component(name = "int16")]
                Int16,
                #[component(name = "int32")]
                Int32,
                #[component(name = "int64")]
                Int64,
                $(
                    #[component(name = $unsigned_name)]
                    #[expect(dead_code, reason = "PostgreSQL has no types for them")]
                    $unsigned,
                )*
                #[component(name = "floating32")]
                Floating32,
                #[component(name = "floating64")]
                Floating64,
                #[component(name = "str")]
                Str,
                #[component(name = "binary")]
                Binary,
                $(#[component(name = $name)] $case,)*
                #[component(name = "other")]
                Other $(($type_name))?,
            }

            #[derive(Clone, Debug, ComponentType, Lift, Lower)]
            #[component(variant)]
            pub(in super::super) enum DbValue {
                #[component(name = "boolean")]
                Boolean(bool),
                #[component(name = "int8")]
                Int8(i8),
                #[component(name = "int16")]
                Int16(i16),
                #[component(name = "int32")]
                Int32(i32),
                #[component(name = "int64")]
                Int64(i64),
                $(#[component(name = $unsigned_name)] $unsigned($number),)*
                #[component(name = "floating32")]
                Floating32(f32),
                #[component(name = "floating64")]
                Floating64(f64),
                #[component(name = "str")]
                Str(String),
                #[component(name = "binary")]
                Binary(Vec<u8>),
                $(#[component(name = $name)] $case($payload),)*
                #[component(name = "db-null")]
                DbNull,
                #[component(name = "unsupported")]
                Unsupported $(($bytes))?,
            }

            #[derive(Clone, Debug, ComponentType, Lift)]
            #[component(variant)]
            pub(in super::super) enum ParameterValue {
                #[component(name = "boolean")]
                Boolean(bool),
                #[component(name = "int8")]
                Int8(i8),
                #[component(name = "int16")]
                Int16(i16),
                #[component(name = "int32")]
                Int32(i32),
                #[component(name = "int64")]
                Int64(i64),
                $(#[component(name = $unsigned_name)] $unsigned($number),)*
                #[component(name = "floating32")]
                Floating32(f32),
                #[component(name = "floating64")]
                Floating64(f64),
                #[component(name = "str")]
                Str(String),
                #[component(name = "binary")]
                Binary(Vec<u8>),
                $(#[component(name = $name)] $case($payload),)*
                #[component(name = "db-null")]
                DbNull,
            }

            #[derive(Clone, Debug, ComponentType, Lift, Lower)]
            #[component(record)]
            pub(in super::super) struct ResultColumn {
                name: String,
                #[component(name = "data-type")]
                data_type: DataType,
            }

            #[derive(Clone, Debug, ComponentType, Lift, Lower)]
            #[component(record)]
            pub(in super::super) struct RowSet {
                columns: Vec<ResultColumn>,
                rows: Vec<Vec<DbValue>>,
            }

            impl From<PostgresRows> for RowSet {
                fn from(PostgresRows { columns, rows, .. }: PostgresRows) -> Self {
                    Self { columns: columns.into_iter().map(ResultColumn::from).collect(), rows: rows.into_iter().map(row).collect() }
                }
            }

            impl From<PostgresColumn> for ResultColumn {
                fn from(PostgresColumn { name, kind, type_name, .. }: PostgresColumn) -> Self {
                    Self { name, data_type: DataType::new(kind, type_name) }
                }
            }

            /// Returns a row of the interface.
            pub(in super::super) fn row(values: Vec<PostgresValue>) -> Vec<DbValue> {
                values.into_iter().map(DbValue::from).collect()
            }

            impl From<PostgresValue> for DbValue {
                fn from(value: PostgresValue) -> Self {
                    match value {
                        PostgresValue::Null => Self::DbNull,
                        PostgresValue::Bool(value) => Self::Boolean(value),
                        PostgresValue::Int8(number) => Self::Int8(number),
                        PostgresValue::Int16(number) => Self::Int16(number),
                        PostgresValue::Int32(number) => Self::Int32(number),
                        PostgresValue::Int64(number) => Self::Int64(number),
                        PostgresValue::Float32(number) => Self::Floating32(number),
                        PostgresValue::Float64(number) => Self::Floating64(number),
                        PostgresValue::Text(text) => Self::Str(text),
                        PostgresValue::Bytes(bytes) => Self::Binary(bytes),
                        $(PostgresValue::$case(value) => Self::$case(Payload::of_host(value)),)*
                        other => Self::other(other),
                    }
                }
            }

            impl DataType {
                fn new(kind: PostgresKind, type_name: String) -> Self {
                    match kind {
                        PostgresKind::Bool => Self::Boolean,
                        PostgresKind::Int8 => Self::Int8,
                        PostgresKind::Int16 => Self::Int16,
                        PostgresKind::Int32 => Self::Int32,
                        PostgresKind::Int64 => Self::Int64,
                        PostgresKind::Float32 => Self::Floating32,
                        PostgresKind::Float64 => Self::Floating64,
                        PostgresKind::Text => Self::Str,
                        PostgresKind::Bytes => Self::Binary,
                        $(PostgresKind::$case => Self::$case,)*
                        other => Self::other(other, type_name),
                    }
                }
            }

            impl From<ParameterValue> for PostgresValue {
                fn from(parameter: ParameterValue) -> Self {
                    match parameter {
                        ParameterValue::Boolean(value) => Self::Bool(value),
                        ParameterValue::Int8(number) => Self::Int8(number),
                        ParameterValue::Int16(number) => Self::Int16(number),
                        ParameterValue::Int32(number) => Self::Int32(number),
                        ParameterValue::Int64(number) => Self::Int64(number),
                        $(ParameterValue::$unsigned(number) => Self::Unsigned(number.into()),)*
                        ParameterValue::Floating32(number) => Self::Float32(number),
                        ParameterValue::Floating64(number) => Self::Float64(number),
                        ParameterValue::Str(text) => Self::Text(text),
                        ParameterValue::Binary(bytes) => Self::Bytes(bytes),
                        $(ParameterValue::$case(value) => Self::$case(value.into_host()),)*
                        ParameterValue::DbNull => Self::Null,
                    }
                }
            }
        }
    };
}

interface!(
    v2,
    [Uint8 "uint8" (u8), Uint16 "uint16" (u16), Uint32 "uint32" (u32), Uint64 "uint64" (u64)],
    [],
    [enum Copy], Other, Unsupported
);
interface!(
    v3,
    [],
    [
        Date "date" (PostgresDate),
        Time "time" (PostgresTime),
        DateTime "datetime" (PostgresDateTime),
        Timestamp "timestamp" (i64)
    ],
    [enum Copy], Other, Unsupported
);
interface!(
    v4,
    [],
    [
        Date "date" (PostgresDate),
        Time "time" (PostgresTime),
        DateTime "datetime" (PostgresDateTime),
        Timestamp "timestamp" (i64),
        Uuid "uuid" (String),
        Jsonb "jsonb" (Vec<u8>),
        Decimal "decimal" (String),
        RangeInt32 "range-int32" (Range<i32>),
        RangeInt64 "range-int64" (Range<i64>),
        RangeDecimal "range-decimal" (Range<String>),
        ArrayInt32 "array-int32" (Vec<Option<i32>>),
        ArrayInt64 "array-int64" (Vec<Option<i64>>),
        ArrayDecimal "array-decimal" (Vec<Option<String>>),
        ArrayStr "array-str" (Vec<Option<String>>),
        Interval "interval" (Interval)
    ],
    [variant], Other(String), Unsupported(Vec<u8>)
);

/// Returns the text of a value that older interfaces have no type for.
fn text(value: PostgresValue) -> Option<String> {
    match value {
        PostgresValue::Uuid(text) | PostgresValue::Decimal(text) => Some(text),
        PostgresValue::Jsonb(bytes) => String::from_utf8(bytes).ok(),
        _ => None,
    }
}

/// Whether older interfaces have texts for the values of a type.
fn is_text(kind: PostgresKind) -> bool {
    matches!(kind, PostgresKind::Uuid | PostgresKind::Decimal | PostgresKind::Jsonb)
}

impl v2::DbValue {
    fn other(value: PostgresValue) -> Self {
        match value {
            PostgresValue::Unsigned(number) => Self::Uint64(number),
            other => text(other).map_or(Self::Unsupported, Self::Str),
        }
    }
}

impl v3::DbValue {
    fn other(value: PostgresValue) -> Self {
        text(value).map_or(Self::Unsupported, Self::Str)
    }
}

impl v4::DbValue {
    fn other(value: PostgresValue) -> Self {
        match value {
            PostgresValue::Unsupported(bytes) => Self::Unsupported(bytes),
            // Only a parameter is unsigned.
            _ => Self::Unsupported(Vec::new()),
        }
    }
}

impl v2::DataType {
    fn other(kind: PostgresKind, _: String) -> Self {
        if is_text(kind) { Self::Str } else { Self::Other }
    }
}

impl v3::DataType {
    fn other(kind: PostgresKind, _: String) -> Self {
        if is_text(kind) { Self::Str } else { Self::Other }
    }
}

impl v4::DataType {
    fn other(_: PostgresKind, type_name: String) -> Self {
        Self::Other(type_name)
    }
}
