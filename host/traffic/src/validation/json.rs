//! JSON as it is validated: read within bounds, with every key of an object once.
//!
//! Two programs that read an object with a key twice may see different values, so that one is checked and the other one used. Such
//! a text is not read.

use std::borrow::Cow;
use std::cell::Cell;
use std::cmp::Ordering;
use std::fmt;
use std::ops::Deref;

use serde::Deserializer;
use serde::de::{self, DeserializeSeed, MapAccess, SeqAccess, Visitor};

use super::number::JsonNumber;

/// A value of JSON. The keys of an object are in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Json<'a> {
    /// `null`
    Null,
    /// `true` or `false`
    Bool(bool),
    /// A number.
    Number(JsonNumber),
    /// Text.
    Text(Cow<'a, str>),
    /// A list.
    Array(Vec<Json<'a>>),
    /// Values by their keys.
    Object(Vec<Entry<'a>>),
}

/// The most characters of a text that a message has.
const MOST_SHOWN: usize = 200;

/// A key of an object and its value.
pub type Entry<'a> = (Cow<'a, str>, Json<'a>);

/// Up to so many keys, to compare one after the other with the key that is looked for takes less time than a binary search.
const FEW: usize = 8;

/// Returns what belongs to a key, of entries whose keys are in order.
pub(super) fn find<'e, K: Deref<Target = str>, V>(entries: &'e [(K, V)], key: &str) -> Option<&'e V> {
    let found = if entries.len() <= FEW {
        entries.iter().find(|(known, _)| **known == *key)
    } else {
        let at = entries.binary_search_by(|(known, _)| (**known).cmp(key)).ok()?;
        entries.get(at)
    };
    found.map(|(_, value)| value)
}

/// The bounds of a text.
#[derive(Clone, Copy, Debug)]
pub struct JsonBounds {
    /// The most lists and objects inside of each other.
    pub depth: usize,
    /// The most values, those in lists and objects included.
    pub values: usize,
}

/// Why a text was not read, and where. It says nothing of what is in the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JsonFault {
    /// The cause.
    pub cause: JsonCause,
    /// The line, from 1.
    pub line: usize,
    /// The byte of the line, from 1.
    pub column: usize,
}

/// The cause of a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JsonCause {
    /// It is not JSON.
    Syntax,
    /// It ends before it is complete.
    End,
    /// An object has a key twice.
    Duplicate,
    /// It is nested too deeply, at most this many levels.
    Depth(usize),
    /// It has too many values, at most this many.
    Values(usize),
}

impl fmt::Display for JsonFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The end of a text has no column.
        match self.cause {
            JsonCause::End => return write!(f, "line {}: it ends here, before it is complete", self.line),
            _ => write!(f, "line {}, column {}: ", self.line, self.column)?,
        }
        match self.cause {
            JsonCause::Syntax | JsonCause::End => f.write_str("it is not JSON from here on"),
            JsonCause::Duplicate => f.write_str("the object that ends here has a key twice"),
            JsonCause::Depth(most) => write!(f, "it has more than {most} levels of lists and objects"),
            JsonCause::Values(most) => write!(f, "it has more than {most} values"),
        }
    }
}

impl<'a> Json<'a> {
    /// Reads a text.
    ///
    /// # Errors
    /// If it is not JSON (RFC 8259), or not within the bounds.
    pub fn read(text: &'a [u8], bounds: JsonBounds) -> Result<Self, JsonFault> {
        let state = ReadState { bounds, values: Cell::new(bounds.values), cause: Cell::new(JsonCause::Syntax) };
        let mut reader = serde_json::Deserializer::from_slice(text);
        let seed = ValueSeed { state: &state, depth: bounds.depth };
        let read = seed.deserialize(&mut reader).and_then(|value| reader.end().map(|()| value));
        read.map_err(|error| {
            let cause = if error.is_eof() { JsonCause::End } else { state.cause.get() };
            JsonFault { cause, line: error.line(), column: error.column() }
        })
    }

    /// Returns the object with these entries.
    ///
    /// # Errors
    /// A key that is there twice.
    pub(super) fn object(mut entries: Vec<Entry<'a>>) -> Result<Self, Cow<'a, str>> {
        // As programs write many of them.
        if entries.is_sorted_by(|(one, _), (other, _)| one < other) {
            return Ok(Self::Object(entries));
        }
        entries.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        let mut pairs = entries.iter().zip(entries.iter().skip(1));
        let twice = pairs.find(|((one, _), (other, _))| one == other).map(|((key, _), _)| key.clone());
        twice.map_or(Ok(Self::Object(entries)), Err)
    }

    /// Returns the value of a key, if it is an object that has it.
    pub fn get(&self, key: &str) -> Option<&Self> {
        let Self::Object(entries) = self else { return None };
        find(entries, key)
    }

    /// Returns the text, if it is one.
    pub fn text(&self) -> Option<&str> {
        if let Self::Text(text) = self { Some(text) } else { None }
    }

    /// Returns a copy that borrows nothing.
    pub(super) fn owned(&self) -> Json<'static> {
        match self {
            Self::Null => Json::Null,
            Self::Bool(value) => Json::Bool(*value),
            Self::Number(number) => Json::Number(*number),
            Self::Text(text) => Json::Text(Cow::Owned(text.clone().into_owned())),
            Self::Array(items) => Json::Array(items.iter().map(Json::owned).collect()),
            Self::Object(entries) => Json::Object(
                entries.iter().map(|(key, value)| (Cow::Owned(key.clone().into_owned()), value.owned())).collect(),
            ),
        }
    }

    /// Returns the bytes of memory that a copy takes.
    pub(super) fn bytes(&self) -> usize {
        let inner = match self {
            Self::Null | Self::Bool(_) | Self::Number(_) => 0,
            Self::Text(text) => text.len(),
            Self::Array(items) => items.iter().map(Json::bytes).fold(0, usize::saturating_add),
            Self::Object(entries) => entries
                .iter()
                .map(|(key, value)| size_of_val(key).saturating_add(key.len()).saturating_add(value.bytes()))
                .fold(0, usize::saturating_add),
        };
        size_of_val(self).saturating_add(inner)
    }

    /// Returns the steps that a comparison with this value may take: one for each value, and one for 16 bytes of text.
    pub(super) fn weight(&self) -> usize {
        let of_text = |text: &str| 1 + text.len() / 16;
        match self {
            Self::Null | Self::Bool(_) | Self::Number(_) => 1,
            Self::Text(text) => of_text(text),
            Self::Array(items) => items.iter().map(Json::weight).fold(1, usize::saturating_add),
            Self::Object(entries) => entries
                .iter()
                .map(|(key, value)| of_text(key).saturating_add(value.weight()))
                .fold(1, usize::saturating_add),
        }
    }

    fn rank(&self) -> u8 {
        match self {
            Self::Null => 0,
            Self::Bool(_) => 1,
            Self::Number(_) => 2,
            Self::Text(_) => 3,
            Self::Array(_) => 4,
            Self::Object(_) => 5,
        }
    }
}

/// An order in which equal values are beside each other.
impl Ord for Json<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Json::Bool(one), Json::Bool(other)) => one.cmp(other),
            (Json::Number(one), Json::Number(other)) => one.cmp(other),
            (Json::Text(one), Json::Text(other)) => one.cmp(other),
            (Json::Array(one), Json::Array(other)) => one.cmp(other),
            (Json::Object(one), Json::Object(other)) => one.cmp(other),
            (one, other) => one.rank().cmp(&other.rank()),
        }
    }
}

impl PartialOrd for Json<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// What is left of the bounds.
struct ReadState {
    bounds: JsonBounds,
    values: Cell<usize>,
    cause: Cell<JsonCause>,
}

impl ReadState {
    fn fault<E: de::Error>(&self, cause: JsonCause) -> E {
        self.cause.set(cause);
        E::custom("")
    }

    /// Counts a value.
    fn count<E: de::Error>(&self) -> Result<(), E> {
        let left = self.values.get().checked_sub(1).ok_or_else(|| self.fault(JsonCause::Values(self.bounds.values)))?;
        self.values.set(left);
        Ok(())
    }
}

#[derive(Clone, Copy)]
struct ValueSeed<'s> {
    state: &'s ReadState,
    /// The levels that are left.
    depth: usize,
}

impl ValueSeed<'_> {
    /// The seed of what is inside.
    fn inner<E: de::Error>(self) -> Result<Self, E> {
        let depth = self.depth.checked_sub(1);
        let depth = depth.ok_or_else(|| self.state.fault(JsonCause::Depth(self.state.bounds.depth)))?;
        Ok(Self { depth, ..self })
    }
}

impl<'de> DeserializeSeed<'de> for ValueSeed<'_> {
    type Value = Json<'de>;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Json<'de>, D::Error> {
        self.state.count()?;
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ValueSeed<'_> {
    type Value = Json<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value of JSON")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Json<'de>, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Json<'de>, E> {
        Ok(Json::Bool(value))
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Json<'de>, E> {
        Ok(Json::Number(number.into()))
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Json<'de>, E> {
        Ok(Json::Number(number.into()))
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<Json<'de>, E> {
        Ok(Json::Number(number.into()))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Json<'de>, E> {
        Ok(Json::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Json<'de>, E> {
        Ok(Json::Text(Cow::Borrowed(text)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Json<'de>, A::Error> {
        let (inner, mut items) = (self.inner()?, Vec::new());
        while let Some(item) = access.next_element_seed(inner)? {
            items.push(item);
        }
        Ok(Json::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Json<'de>, A::Error> {
        let (inner, mut entries) = (self.inner()?, Vec::new());
        while let Some(key) = access.next_key_seed(KeySeed)? {
            entries.push((key, access.next_value_seed(inner)?));
        }
        Json::object(entries).map_err(|_| self.state.fault(JsonCause::Duplicate))
    }
}

struct KeySeed;

impl<'de> DeserializeSeed<'de> for KeySeed {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Cow<'de, str>, D::Error> {
        reader.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for KeySeed {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Cow<'de, str>, E> {
        Ok(Cow::Owned(text.to_owned()))
    }

    fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Cow<'de, str>, E> {
        Ok(Cow::Borrowed(text))
    }
}

/// Returns the start of a text of a file, for a message.
pub(super) fn shown(text: &str) -> String {
    let end = text.char_indices().nth(MOST_SHOWN).map_or(text.len(), |(at, _)| at);
    let rest = if end < text.len() { "\u{2026}" } else { "" };
    format!("{}{rest}", text.get(..end).unwrap_or_default().escape_debug())
}

#[cfg(test)]
mod tests;
