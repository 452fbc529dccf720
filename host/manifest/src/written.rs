//! A key of a manifest as it is written: its name, its place and its value, with readers for each type of value.

use std::fmt::Display;
use std::ops::RangeInclusive;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::line_of;
use crate::section::{misplaced, within};
use lodge_base::config::key::{Key, nearest};

/// A key of a manifest, or an item of a list.
pub(crate) struct Written<'a> {
    /// The dotted name, such as `rate.limit`. An item has the name of its list; a key in an item has no prefix.
    pub(crate) name: String,
    text: &'a str,
    at: usize,
    value: &'a DeValue<'a>,
}

/// The problems of a manifest, each with its line where known.
#[derive(Default)]
pub(crate) struct Problems(pub(crate) Vec<String>, pub(crate) Expense);

/// What the rules of a manifest have cost to read so far: it is bounded while they are read, not after.
#[derive(Default)]
pub(crate) struct Expense {
    pub(crate) rules: usize,
    pub(crate) bytes: usize,
    pub(crate) patterns: usize,
}

impl Problems {
    /// Adds a problem.
    pub(crate) fn push(&mut self, problem: String) {
        self.0.push(problem);
    }

    /// Returns the value, or adds the problem.
    pub(crate) fn take<T>(&mut self, read: Result<T, String>) -> Option<T> {
        read.map_err(|problem| self.push(problem)).ok()
    }
}

impl<'a> Written<'a> {
    /// Returns the keys of a table in the order of the text. Their names begin with `prefix`.
    pub(crate) fn keys(text: &'a str, table: &'a DeTable<'a>, prefix: &str) -> Vec<Self> {
        let key = |(key, value): (&'a Spanned<_>, &'a Spanned<DeValue<'a>>)| {
            let name: &std::borrow::Cow<'_, str> = key.get_ref();
            Self { name: format!("{prefix}{name}"), text, at: key.span().start, value: value.get_ref() }
        };
        let mut keys: Vec<_> = table.iter().map(key).collect();
        keys.sort_by_key(|key| key.at);
        keys
    }

    /// Returns the same value under another name, for a short form such as `rate = "100/s"`.
    pub(crate) fn named(&self, name: &str) -> Self {
        Self { name: name.to_owned(), ..*self }
    }

    /// Returns the problem with line and key.
    pub(crate) fn error(&self, problem: impl Display) -> String {
        self.at(format!("{}: {problem}", self.name))
    }

    /// Returns the problem with its line.
    pub(crate) fn at(&self, problem: impl Display) -> String {
        format!("{}{problem}", line_of(self.text, self.at))
    }

    /// Reads `true` or `false`.
    pub(crate) fn boolean(&self) -> Result<bool, String> {
        self.value.as_bool().ok_or_else(|| self.error("write true or false"))
    }

    /// Reads a section that is not written as a table: `true` is short for one without keys.
    pub(crate) fn granted(&self) -> Result<bool, String> {
        self.boolean().map_err(|_| self.error(format_args!("write a section [{}], or true", self.name)))
    }

    /// Reads text. `form` says how it is written.
    pub(crate) fn string(&self, form: &str) -> Result<&'a str, String> {
        self.value.as_str().ok_or_else(|| self.error(form))
    }

    /// Reads a whole number.
    pub(crate) fn number(&self, range: RangeInclusive<u32>) -> Result<u32, String> {
        let number = self.integer().and_then(|number| u32::try_from(number).ok());
        number.filter(|number| range.contains(number)).ok_or_else(|| {
            let (least, most) = (range.start(), range.end());
            self.error(format!("write a whole number from {least} to {most}"))
        })
    }

    /// Reads a value of any type but lists and tables as the text of a flag or variable.
    pub(crate) fn plain(&self) -> Result<String, String> {
        match self.value {
            DeValue::String(text) => Ok(text.to_string()),
            // Without a prefix such as `0x`.
            DeValue::Integer(number) => Ok(self.integer().map_or_else(|| number.to_string(), |n| n.to_string())),
            DeValue::Float(number) => Ok(number.as_str().to_owned()),
            DeValue::Boolean(value) => Ok(value.to_string()),
            DeValue::Datetime(time) => Ok(time.to_string()),
            other => Err(self.error(format!("must be one value, not {}", other.type_str()))),
        }
    }

    fn integer(&self) -> Option<i64> {
        let number = self.value.as_integer()?;
        i64::from_str_radix(number.as_str(), number.radix()).ok()
    }

    /// Reads a list. A single text is a list of one. `form` is an example.
    pub(crate) fn items(&self, form: &str) -> Result<Vec<Self>, String> {
        match self.value {
            DeValue::Array(items) => {
                let item = |item: &'a Spanned<DeValue<'a>>| Self {
                    name: self.name.clone(),
                    text: self.text,
                    at: item.span().start,
                    value: item.get_ref(),
                };
                Ok(items.iter().map(item).collect())
            }
            DeValue::String(_) => Ok(vec![self.named(&self.name)]),
            _ => Err(self.error(format!("write a list, like {form}"))),
        }
    }

    /// Returns the list as it was parsed, if the value is one.
    pub(crate) fn list(&self) -> Option<&'a [Spanned<DeValue<'a>>]> {
        self.value.as_array().map(|items| &**items)
    }

    /// Returns the keys of a table; `None` if the value is none. Their names begin with that of this key and a dot.
    pub(crate) fn table(&self) -> Option<Vec<Self>> {
        self.value.as_table().map(|table| Self::keys(self.text, table, &format!("{}.", self.name)))
    }

    /// Returns the keys of an item that is a table. Their names have no prefix.
    pub(crate) fn item(&self) -> Option<Vec<Self>> {
        self.value.as_table().map(|table| Self::keys(self.text, table, ""))
    }

    /// Reads a section whose keys are all `known`. Returns `None` if there is a problem.
    pub(crate) fn section(&self, known: &[&str], problems: &mut Problems) -> Option<Vec<Self>> {
        let keys = self.table().ok_or_else(|| self.error(format!("write a section [{}]", self.name)));
        let keys = problems.take(keys)?;
        let (keys, unknown): (Vec<_>, Vec<_>) = keys.into_iter().partition(|key| known.contains(&key.inside(self)));
        for key in &unknown {
            problems.push(key.unknown(&self.name, known));
        }
        unknown.is_empty().then_some(keys)
    }

    /// Returns every value in the tables below this key, in the order of the text.
    pub(crate) fn leaves(self) -> Vec<Self> {
        match self.table() {
            Some(keys) => keys.into_iter().flat_map(Self::leaves).collect(),
            None => vec![self],
        }
    }

    /// Sets every key of this section in `settings`, which has the defaults. Returns whether all of them are valid.
    pub(crate) fn settings<T>(&self, keys: &[Key<T>], settings: &mut T, problems: &mut Problems) -> bool {
        let Some(written) = self.table() else {
            problems.push(self.error(format!("write a section [{}]", self.name)));
            return false;
        };
        let leaves = written.into_iter().flat_map(Self::leaves);
        let set = |leaf: Self| problems.take(leaf.set(&self.name, keys, settings)).is_some();
        leaves.map(set).fold(true, |all, one| all & one)
    }

    /// Reads a section whose keys are all in `keys`, and which may be `true` in their place. `blank` is a value for the keys to fill
    /// in.
    pub(crate) fn grant<T>(&self, keys: &[Key<T>], blank: T, problems: &mut Problems) -> Option<T> {
        let mut grant = with_defaults(keys, blank);
        if self.table().is_none() {
            return problems.take(self.granted())?.then_some(grant);
        }
        self.settings(keys, &mut grant, problems).then_some(grant)
    }

    /// Sets this key of a section in `settings`.
    pub(crate) fn set<T>(&self, section: &str, keys: &[Key<T>], settings: &mut T) -> Result<(), String> {
        let name = self.name.strip_prefix(section).and_then(|name| name.strip_prefix('.')).unwrap_or(&self.name);
        let Some(key) = keys.iter().find(|key| key.name == name) else {
            let known: Vec<_> = keys.iter().map(|key| key.name).collect();
            return Err(self.unknown(section, &known));
        };
        (key.set)(settings, &self.plain()?).map_err(|expected| self.error(expected))
    }

    /// Returns the problem that this section lacks a key that it needs.
    pub(crate) fn require<T>(&self, key: &str, keys: &[Key<T>]) -> Result<(), String> {
        let help = keys.iter().find(|known| known.name == key).map_or("", |key| key.help);
        let problem = || self.at(format!("{}.{key} is missing: {help}", self.name));
        if self.table().is_none() || self.has(key) { Ok(()) } else { Err(problem()) }
    }

    /// Whether the section has this key.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.value.as_table().is_some_and(|table| table.iter().any(|(name, _)| name.get_ref() == key))
    }

    /// Returns the problem that a section has no such key. The hint names a similar key, or the place of this one.
    pub(crate) fn unknown(&self, section: &str, known: &[&str]) -> String {
        let dot = if section.is_empty() { "" } else { "." };
        let name = self.name.strip_prefix(&format!("{section}{dot}")).unwrap_or(&self.name);
        let near = || Some(format!("did you mean `{section}{dot}{}`?", resembled(name, known)?));
        self.unknown_with(within(section, name).or_else(|| misplaced(name)).or_else(near), known)
    }

    /// Returns the problem that there is no such key, with a hint or the keys that there are.
    pub(crate) fn unknown_with(&self, hint: Option<String>, known: &[&str]) -> String {
        match hint {
            Some(hint) => self.at(format!("unknown key `{}`; {hint}", self.name)),
            None => self.at(format!("unknown key `{}`, expected one of `{}`", self.name, known.join("`, `"))),
        }
    }

    /// The name within a section.
    pub(crate) fn inside(&self, section: &Self) -> &str {
        self.name.strip_prefix(&section.name).and_then(|name| name.strip_prefix('.')).unwrap_or(&self.name)
    }
}

/// Returns `blank` with the default of every key. A key without a default leaves it unchanged.
pub(crate) fn with_defaults<T>(keys: &[Key<T>], mut blank: T) -> T {
    for key in keys.iter().filter(|key| !key.default.is_empty()) {
        // A test ensures that every default is valid.
        let _ = (key.set)(&mut blank, key.default);
    }
    blank
}

/// Returns the key most similar to a misspelt one; for a group such as `retry`, its first key.
pub(crate) fn resembled<'k>(name: &str, keys: &[&'k str]) -> Option<&'k str> {
    let head = |key: &'k str| key.split('.').next().unwrap_or(key);
    let group = nearest(name, keys.iter().map(|key| head(key))).filter(|_| !name.contains('.'));
    let first = group.and_then(|group| keys.iter().copied().find(|key| head(key) == group));
    first.or_else(|| nearest(name, keys.iter().copied()))
}
