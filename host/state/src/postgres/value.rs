//! The values of statements and results, and their types.

/// The types of values that have a form of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PostgresKind {
    /// `boolean`.
    Bool,
    /// `"char"`, a single byte.
    Int8,
    /// `smallint`.
    Int16,
    /// `integer`.
    Int32,
    /// `bigint`, `oid`.
    Int64,
    /// `real`.
    Float32,
    /// `double precision`.
    Float64,
    /// Texts, `json`, enumerations.
    Text,
    /// `bytea`.
    Bytes,
    /// `date`.
    Date,
    /// `time`.
    Time,
    /// `timestamp`, and `timestamptz` in UTC.
    DateTime,
    /// Seconds since 1970. No column has it.
    Timestamp,
    /// `uuid`.
    Uuid,
    /// `jsonb`.
    Jsonb,
    /// `numeric`.
    Decimal,
    /// `int4range`.
    RangeInt32,
    /// `int8range`.
    RangeInt64,
    /// `numrange`.
    RangeDecimal,
    /// `integer[]`.
    ArrayInt32,
    /// `bigint[]`.
    ArrayInt64,
    /// `numeric[]`.
    ArrayDecimal,
    /// Arrays of texts and of enumerations.
    ArrayStr,
    /// `interval`.
    Interval,
    /// All others.
    Other,
}

/// A year, a month and a day.
pub type PostgresDate = (i32, u8, u8);

/// An hour, a minute, a second and a nanosecond.
pub type PostgresTime = (u8, u8, u8, u32);

/// Both of them.
pub type PostgresDateTime = (i32, u8, u8, u8, u8, u8, u32);

/// A range that is not empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PostgresRange<T> {
    /// Where it begins, and whether that is part of it; `None` if it has no lower bound.
    pub lower: Option<(T, bool)>,
    /// Where it ends, and whether that is part of it; `None` if it has no upper bound.
    pub upper: Option<(T, bool)>,
}

/// A time that is not of the same length everywhere: months differ, and days do with the time zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PostgresInterval {
    /// Microseconds.
    pub micros: i64,
    /// Days.
    pub days: i32,
    /// Months.
    pub months: i32,
}

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub enum PostgresValue {
    /// No value.
    Null,
    /// A truth value.
    Bool(bool),
    /// A whole number of 8 bits.
    Int8(i8),
    /// A whole number of 16 bits.
    Int16(i16),
    /// A whole number of 32 bits.
    Int32(i32),
    /// A whole number of 64 bits.
    Int64(i64),
    /// A whole number that is not negative, as a parameter.
    Unsigned(u64),
    /// A number with a fraction, of 32 bits.
    Float32(f32),
    /// A number with a fraction, of 64 bits.
    Float64(f64),
    /// A text. As a parameter of a type that is no text, the server reads it as that type.
    Text(String),
    /// Bytes.
    Bytes(Vec<u8>),
    /// A day.
    Date(PostgresDate),
    /// A time of a day.
    Time(PostgresTime),
    /// A day and a time; of a type with a time zone, in UTC.
    DateTime(PostgresDateTime),
    /// Seconds since 1970, as a parameter.
    Timestamp(i64),
    /// The text of a `uuid`.
    Uuid(String),
    /// The text of a `jsonb`.
    Jsonb(Vec<u8>),
    /// The decimal text of a `numeric`.
    Decimal(String),
    /// A range of numbers of 32 bits.
    RangeInt32(Box<PostgresRange<i32>>),
    /// A range of numbers of 64 bits.
    RangeInt64(Box<PostgresRange<i64>>),
    /// A range of decimal texts.
    RangeDecimal(Box<PostgresRange<String>>),
    /// Numbers of 32 bits.
    ArrayInt32(Vec<Option<i32>>),
    /// Numbers of 64 bits.
    ArrayInt64(Vec<Option<i64>>),
    /// Decimal texts.
    ArrayDecimal(Vec<Option<String>>),
    /// Texts. As a parameter, the server reads each as the type of the elements.
    ArrayStr(Vec<Option<String>>),
    /// An interval.
    Interval(PostgresInterval),
    /// The bytes that the server has sent for a value of a type without a form here, or for one that the form cannot hold, such as
    /// an infinite date. Cast it to `text`.
    Unsupported(Vec<u8>),
    /// One of those, of [`PostgresMode::RunInDetail`](super::PostgresMode::RunInDetail).
    Detailed(Box<PostgresDetail>),
    /// A parameter that only fits the types with these names.
    As(&'static [&'static str], Box<PostgresValue>),
}

/// A value that only some interfaces have a form for.
#[derive(Clone, Debug, PartialEq)]
pub enum PostgresDetail {
    /// A date or a time after all others, or before them.
    Infinity {
        /// Whether it is after all others.
        positive: bool,
    },
    /// A number of bits, and as many bytes as they need. The first bit is the highest of the first byte.
    Bits(u32, Vec<u8>),
    /// The text of an address, of a network, of a MAC address.
    Address(String),
    /// The coordinates of a point, of the corners of a `box`, of the ends of an `lseg`, of the corners of a `polygon`; those of the
    /// centre of a `circle`, and its radius.
    Coordinates(Vec<f64>),
    /// A `pg_lsn`.
    Position(u64),
    /// A `pg_snapshot`: the first transaction that may run, the one after the last that may, and those that do.
    Snapshot(i64, i64, Vec<i64>),
    /// An `hstore`.
    Pairs(Vec<(String, Option<String>)>),
    /// The elements of an array with one dimension, from index 1 on, or of an `int2vector`.
    Array(Vec<Option<PostgresValue>>),
}

impl PostgresDetail {
    fn size(&self) -> usize {
        let sum = |sizes: &mut dyn Iterator<Item = usize>| sizes.fold(0, usize::saturating_add);
        size_of::<Self>().saturating_add(match self {
            Self::Infinity { .. } | Self::Position(_) => 0,
            Self::Bits(_, bytes) => bytes.len(),
            Self::Address(text) => text.len(),
            Self::Coordinates(numbers) => size_of_val(numbers.as_slice()),
            Self::Snapshot(_, _, numbers) => size_of_val(numbers.as_slice()),
            Self::Pairs(pairs) => sum(&mut pairs.iter().map(|(key, value)| {
                key.len().saturating_add(value.as_ref().map_or(0, String::len)).saturating_add(64)
            })),
            Self::Array(items) => sum(&mut items.iter().map(|item| item.as_ref().map_or(32, PostgresValue::size))),
        })
    }
}

impl PostgresValue {
    /// Its bytes, as the bounds of transfers count them.
    pub fn size(&self) -> usize {
        let texts = |items: &[Option<String>]| {
            let text = |item: &Option<String>| item.as_ref().map_or(0, String::len);
            items.iter().map(text).fold(size_of_val(items), usize::saturating_add)
        };
        let content = match self {
            Self::Text(text) | Self::Uuid(text) | Self::Decimal(text) => text.len(),
            Self::Bytes(bytes) | Self::Jsonb(bytes) | Self::Unsupported(bytes) => bytes.len(),
            Self::RangeInt32(range) => size_of_val(&**range),
            Self::RangeInt64(range) => size_of_val(&**range),
            Self::RangeDecimal(range) => {
                let bound = |bound: &Option<(String, bool)>| bound.as_ref().map_or(0, |(text, _)| text.len());
                bound(&range.lower).saturating_add(bound(&range.upper)).saturating_add(size_of_val(&**range))
            }
            Self::ArrayInt32(items) => size_of_val(items.as_slice()),
            Self::ArrayInt64(items) => size_of_val(items.as_slice()),
            Self::ArrayDecimal(items) | Self::ArrayStr(items) => texts(items),
            Self::Detailed(detail) => detail.size(),
            Self::As(_, value) => value.size(),
            _ => 0,
        };
        content.saturating_add(32)
    }
}
