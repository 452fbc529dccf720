//! The values of both interfaces. `2.0.0` has no dates and times: they are unsupported there, and a guest casts them to `text`.

use lodge_state::postgres::{PostgresColumn, PostgresKind, PostgresRows, PostgresValue};
use wasmtime::component::{ComponentType, Lift, Lower};

/// A year, a month and a day.
type Date = (i32, u8, u8);

/// An hour, a minute, a second and a nanosecond.
type Time = (u8, u8, u8, u32);

/// Both of them.
type DateTime = (i32, u8, u8, u8, u8, u8, u32);

/// Defines the types of an interface, of which one has more values than the other.
macro_rules! interface {
    ($module:ident, $($case:ident $name:literal ($payload:ty)),*) => {
        pub(super) mod $module {
            use super::*;

            #[derive(Clone, Copy, Debug, ComponentType, Lift, Lower)]
            #[component(enum)]
            #[repr(u8)]
            #[expect(dead_code, reason = "PostgreSQL has no types for some of them")]
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
                #[component(name = "uint8")]
                Uint8,
                #[component(name = "uint16")]
                Uint16,
                #[component(name = "uint32")]
                Uint32,
                #[component(name = "uint64")]
                Uint64,
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
                Other,
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
                #[component(name = "uint8")]
                Uint8(u8),
                #[component(name = "uint16")]
                Uint16(u16),
                #[component(name = "uint32")]
                Uint32(u32),
                #[component(name = "uint64")]
                Uint64(u64),
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
                Unsupported,
            }

            #[derive(Clone, Debug, ComponentType, Lift, Lower)]
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
                #[component(name = "uint8")]
                Uint8(u8),
                #[component(name = "uint16")]
                Uint16(u16),
                #[component(name = "uint32")]
                Uint32(u32),
                #[component(name = "uint64")]
                Uint64(u64),
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
                    let column = |PostgresColumn { name, kind }| ResultColumn { name, data_type: kind.into() };
                    let row = |values: Vec<PostgresValue>| values.into_iter().map(DbValue::from).collect();
                    Self { columns: columns.into_iter().map(column).collect(), rows: rows.into_iter().map(row).collect() }
                }
            }

            impl DbValue {
                /// Returns the values that both interfaces have; `Err` for the others.
                pub(super) fn common(value: PostgresValue) -> Result<Self, PostgresValue> {
                    Ok(match value {
                        PostgresValue::Null => Self::DbNull,
                        PostgresValue::Bool(value) => Self::Boolean(value),
                        PostgresValue::Int8(number) => Self::Int8(number),
                        PostgresValue::Int16(number) => Self::Int16(number),
                        PostgresValue::Int32(number) => Self::Int32(number),
                        PostgresValue::Int64(number) => Self::Int64(number),
                        PostgresValue::Unsigned(number) => Self::Uint64(number),
                        PostgresValue::Float32(number) => Self::Floating32(number),
                        PostgresValue::Float64(number) => Self::Floating64(number),
                        PostgresValue::Text(text) => Self::Str(text),
                        PostgresValue::Bytes(bytes) => Self::Binary(bytes),
                        PostgresValue::Unsupported => Self::Unsupported,
                        other => return Err(other),
                    })
                }
            }

            impl DataType {
                /// Returns the types that both interfaces have; `None` for the others.
                pub(super) fn common(kind: PostgresKind) -> Option<Self> {
                    Some(match kind {
                        PostgresKind::Bool => Self::Boolean,
                        PostgresKind::Int8 => Self::Int8,
                        PostgresKind::Int16 => Self::Int16,
                        PostgresKind::Int32 => Self::Int32,
                        PostgresKind::Int64 => Self::Int64,
                        PostgresKind::Float32 => Self::Floating32,
                        PostgresKind::Float64 => Self::Floating64,
                        PostgresKind::Text => Self::Str,
                        PostgresKind::Bytes => Self::Binary,
                        PostgresKind::Other => Self::Other,
                        PostgresKind::Date | PostgresKind::Time | PostgresKind::DateTime => return None,
                    })
                }
            }

            impl ParameterValue {
                /// Returns the parameters that both interfaces have; `Err` for the others.
                pub(super) fn common(self) -> Result<PostgresValue, Self> {
                    Ok(match self {
                        Self::Boolean(value) => PostgresValue::Bool(value),
                        Self::Int8(number) => PostgresValue::Int8(number),
                        Self::Int16(number) => PostgresValue::Int16(number),
                        Self::Int32(number) => PostgresValue::Int32(number),
                        Self::Int64(number) => PostgresValue::Int64(number),
                        Self::Uint8(number) => PostgresValue::Unsigned(number.into()),
                        Self::Uint16(number) => PostgresValue::Unsigned(number.into()),
                        Self::Uint32(number) => PostgresValue::Unsigned(number.into()),
                        Self::Uint64(number) => PostgresValue::Unsigned(number),
                        Self::Floating32(number) => PostgresValue::Float32(number),
                        Self::Floating64(number) => PostgresValue::Float64(number),
                        Self::Str(text) => PostgresValue::Text(text),
                        Self::Binary(bytes) => PostgresValue::Bytes(bytes),
                        Self::DbNull => PostgresValue::Null,
                        #[allow(unreachable_patterns, reason = "one of the interfaces has no others")]
                        other => return Err(other),
                    })
                }
            }
        }
    };
}

interface!(v2,);
interface!(
    v3,
    Date "date" (Date), Time "time" (Time), DateTime "datetime" (DateTime), Timestamp "timestamp" (i64)
);

impl From<PostgresValue> for v2::DbValue {
    fn from(value: PostgresValue) -> Self {
        Self::common(value).unwrap_or(Self::Unsupported)
    }
}

impl From<PostgresKind> for v2::DataType {
    fn from(kind: PostgresKind) -> Self {
        Self::common(kind).unwrap_or(Self::Other)
    }
}

impl From<v2::ParameterValue> for PostgresValue {
    fn from(parameter: v2::ParameterValue) -> Self {
        parameter.common().unwrap_or(Self::Unsupported)
    }
}

impl From<PostgresValue> for v3::DbValue {
    fn from(value: PostgresValue) -> Self {
        match Self::common(value) {
            Ok(value) => value,
            Err(PostgresValue::Date(year, month, day)) => Self::Date((year, month, day)),
            Err(PostgresValue::Time(hour, minute, second, nanosecond)) => {
                Self::Time((hour, minute, second, nanosecond))
            }
            Err(PostgresValue::DateTime((year, month, day), (hour, minute, second, nanosecond))) => {
                Self::DateTime((year, month, day, hour, minute, second, nanosecond))
            }
            Err(PostgresValue::Timestamp(seconds)) => Self::Timestamp(seconds),
            Err(_) => Self::Unsupported,
        }
    }
}

impl From<PostgresKind> for v3::DataType {
    fn from(kind: PostgresKind) -> Self {
        Self::common(kind).unwrap_or(match kind {
            PostgresKind::Date => Self::Date,
            PostgresKind::Time => Self::Time,
            PostgresKind::DateTime => Self::DateTime,
            _ => Self::Other,
        })
    }
}

impl From<v3::ParameterValue> for PostgresValue {
    fn from(parameter: v3::ParameterValue) -> Self {
        match parameter.common() {
            Ok(value) => value,
            Err(v3::ParameterValue::Date((year, month, day))) => Self::Date(year, month, day),
            Err(v3::ParameterValue::Time((hour, minute, second, nanosecond))) => {
                Self::Time(hour, minute, second, nanosecond)
            }
            Err(v3::ParameterValue::DateTime((year, month, day, hour, minute, second, nanosecond))) => {
                Self::DateTime((year, month, day), (hour, minute, second, nanosecond))
            }
            Err(v3::ParameterValue::Timestamp(seconds)) => Self::Timestamp(seconds),
            Err(_) => Self::Unsupported,
        }
    }
}
