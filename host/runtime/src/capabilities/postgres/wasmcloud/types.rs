//! The types that values of the interface consist of.

use wasmtime::component::{ComponentType, Lift, Lower};

use super::number::Float;

/// Two coordinates.
pub(super) type Point = (Float, Float);

#[derive(Clone, Copy, Debug, ComponentType, Lift, Lower)]
#[component(enum)]
#[repr(u8)]
#[expect(dead_code, reason = "a `tsvector` is refused")]
pub(super) enum LexemeWeight {
    #[component(name = "A")]
    A,
    #[component(name = "B")]
    B,
    #[component(name = "C")]
    C,
    #[component(name = "D")]
    D,
}

#[derive(Clone, Debug, ComponentType, Lift, Lower)]
#[component(record)]
pub(super) struct Lexeme {
    position: Option<u16>,
    weight: Option<LexemeWeight>,
    data: String,
}

#[derive(Clone, Copy, Debug, ComponentType, Lift, Lower)]
#[component(variant)]
pub(super) enum Offset {
    #[component(name = "eastern-hemisphere-secs")]
    East(i32),
    #[component(name = "western-hemisphere-secs")]
    West(i32),
}

#[derive(Clone, Copy, Debug, PartialEq, ComponentType, Lift, Lower)]
#[component(variant)]
pub(super) enum Date {
    #[component(name = "positive-infinity")]
    PositiveInfinity,
    #[component(name = "negative-infinity")]
    NegativeInfinity,
    #[component(name = "ymd")]
    Ymd((i32, u32, u32)),
}

#[derive(Clone, Debug, ComponentType, Lift, Lower)]
#[component(record)]
pub(super) struct Interval {
    start: Date,
    #[component(name = "start-inclusive")]
    start_inclusive: bool,
    end: Date,
    #[component(name = "end-inclusive")]
    end_inclusive: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, ComponentType, Lift, Lower)]
#[component(record)]
pub(super) struct Time {
    pub(super) hour: u32,
    pub(super) min: u32,
    pub(super) sec: u32,
    pub(super) micro: u32,
}

#[derive(Clone, Debug, ComponentType, Lift, Lower)]
#[component(record)]
pub(super) struct TimeTz {
    /// As the interface spells it.
    timesonze: String,
    time: Time,
}

#[derive(Clone, Copy, Debug, ComponentType, Lift, Lower)]
#[component(record)]
pub(super) struct Timestamp {
    pub(super) date: Date,
    pub(super) time: Time,
}

#[derive(Clone, Copy, Debug, ComponentType, Lift, Lower)]
#[component(record)]
pub(super) struct TimestampTz {
    pub(super) timestamp: Timestamp,
    pub(super) offset: Offset,
}

#[derive(Clone, Copy, Debug, ComponentType, Lift, Lower)]
#[component(record)]
pub(super) struct Mac48 {
    pub(super) bytes: (u8, u8, u8, u8, u8, u8),
}

#[derive(Clone, Copy, Debug, ComponentType, Lift, Lower)]
#[component(record)]
pub(super) struct Mac64 {
    pub(super) bytes: (u8, u8, u8, u8, u8, u8, u8, u8),
}

impl Mac48 {
    pub(super) fn list(&self) -> [u8; 6] {
        let (a, b, c, d, e, f) = self.bytes;
        [a, b, c, d, e, f]
    }
}

impl Mac64 {
    pub(super) fn list(&self) -> [u8; 8] {
        let (a, b, c, d, e, f, g, h) = self.bytes;
        [a, b, c, d, e, f, g, h]
    }
}
