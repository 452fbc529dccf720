//! Messages about problems of a manifest, with line and key. The errors of serde name types and not keys.

use toml::Spanned;
use toml::de::DeTable;

use crate::upstream;
use lodge_base::config::key::nearest;
use lodge_base::config::limits::LIMITS;

/// Every manifest key with a syntax hint; empty where the key's parser gives its own.
const KEYS: &[(&str, &str)] = &[
    ("enabled", "write true or false"),
    ("component", "write the name of a file, like \"other.wasm\""),
    ("digest", "write \"sha256:\" and 64 hexadecimal digits"),
    ("routes", "write a list, like [\"/users\"]"),
    ("cache", ""),
    ("isolation", "write \"request\" or \"service\""),
    ("limits", "write a section [limits]"),
    ("cpu_weight", "write a whole number, from 1 to 10000"),
    ("env", "write a section [env], with texts in it"),
    ("ready", "write ready.path = \"/health\""),
    ("sticky", "write \"client\", \"header:NAME\" or \"cookie:NAME\""),
    ("percent", ""),
    ("match", "write a list, like [\"header:x-version=2\"]"),
    ("mirror", ""),
    ("rollback", "write a section [rollback]"),
    ("calls", ""),
    ("http", "write a list, like [\"https://api.example.com\"]"),
    ("upstream", "write a section [upstream]"),
    ("allow", ""),
    ("deny", ""),
    ("priority", ""),
    ("rate", ""),
    ("breaker", "write a section [breaker]"),
    ("adaptive", "write a section [adaptive], with `latency` in it"),
    ("build", "write a section [build]"),
];

/// Syntax hints for keys inside of sections.
const INNER: &[(&str, &str)] = &[
    ("rollback.p99", "write a number, like 1.5"),
    ("rollback.minimum", "write a whole number, like 100"),
    ("ready.path", "write a path, like \"/health\""),
];

/// Keys that are usually written as a section.
const SECTIONS: &[&str] = &["limits", "env", "rollback", "upstream", "breaker", "adaptive", "build"];

/// Converts an error of serde into a message with line, key and hint.
pub(super) fn explain(text: &str, error: &toml::de::Error) -> String {
    let at = error.span().map(|span| span.start);
    let line = at.map_or(String::new(), |at| line_of(text, at));
    let begin = at.and_then(|at| text.get(at..)).unwrap_or_default();
    if error.message() == "duplicate key" {
        let key = error.span().and_then(|span| text.get(span)).unwrap_or_default();
        return format!("{line}`{key}` has a value already");
    }
    if let Some(quote) = begin.chars().next().filter(|first| "“”„‘’".contains(*first)) {
        return format!("{line}{quote} is not a quotation mark of TOML; write \"");
    }
    let message = with_hint(error.message());
    // The message about an unknown key already contains its name.
    let value = at.filter(|_| !message.starts_with("unknown key"));
    let Some(key) = value.and_then(|at| key_at(DeTable::parse(text).ok()?.get_ref(), at)) else {
        return format!("{line}{message}");
    };
    if let Some(problem) = key.strip_prefix("env.").and_then(misplaced) {
        return format!("{line}env: {problem}");
    }
    let is_type = ["invalid type", "invalid value"].iter().any(|kind| message.starts_with(kind));
    match form(&key).filter(|form| is_type && !form.is_empty()) {
        Some(form) => format!("{line}{key}: {form}"),
        None => format!("{line}{key}: {message}"),
    }
}

fn form(key: &str) -> Option<&'static str> {
    if key.starts_with("env.") {
        return Some("write text, between quotes");
    }
    KEYS.iter().chain(INNER).find(|(name, _)| *name == key).map(|(_, form)| *form)
}

/// Returns the dotted name of the innermost key whose value is at this offset.
fn key_at(table: &DeTable<'_>, at: usize) -> Option<String> {
    table.iter().find_map(|(key, value)| {
        let inner = value.get_ref().as_table().and_then(|inner| key_at(inner, at));
        match inner {
            Some(inner) => Some(format!("{}.{inner}", key.get_ref())),
            None => Spanned::span(value).contains(&at).then(|| key.get_ref().to_string()),
        }
    })
}

/// Adds a hint to serde's message about an unknown name, which lists that name and the known ones in backticks. A hint
/// about a key stands in place of that list, which may be long.
pub(super) fn with_hint(message: &str) -> String {
    let mut names = message.split('`').skip(1).step_by(2);
    let hint = names.next().filter(|_| message.starts_with("unknown")).and_then(|wrong| {
        let near = |near| format!("did you mean `{near}`?");
        let elsewhere = || misplaced(wrong).or_else(|| home(wrong));
        let elsewhere = message.starts_with("unknown field").then(elsewhere).flatten();
        elsewhere.or_else(|| nearest(wrong, names).map(near))
    });
    match (message.strip_prefix("unknown field"), hint) {
        (Some(rest), Some(hint)) => format!("unknown key{}; {hint}", rest.split(", expected").next().unwrap_or(rest)),
        (Some(rest), None) => format!("unknown key{rest}"),
        (None, Some(hint)) => format!("{message}; {hint}"),
        (None, None) => message.to_owned(),
    }
}

/// Adds the line to a problem that begins with its key and has no line yet.
pub(super) fn located(text: &str, problem: String) -> String {
    let key = problem.split(':').next().filter(|key| !problem.starts_with("line ") && !key.contains(' '));
    let line = key.map_or(String::new(), |key| position(text, key));
    format!("{line}{problem}")
}

/// Returns the hint for a key that is in a section and belongs to the top level of the manifest.
pub fn misplaced(name: &str) -> Option<String> {
    let first = name.split('.').next().unwrap_or(name);
    let (key, _) = KEYS.iter().find(|(key, _)| *key == first)?;
    Some(match SECTIONS.contains(key) {
        true => format!("`{key}` is a section of the manifest; write [{key}]"),
        false => format!("`{name}` is a key of the manifest; write it above the first [section]"),
    })
}

/// Returns the hint for a key that is at the top level and belongs into a section.
fn home(name: &str) -> Option<String> {
    let inside = format!("{name}.");
    let mut upstream = upstream::KEYS.iter().map(|key| key.name).chain(["replicas"]);
    if upstream.clone().any(|key| key.starts_with(&inside)) {
        return Some(format!("`{name}` is a part of [upstream]; write [upstream.{name}]"));
    }
    let section = match upstream.any(|key| key == name) {
        true => "upstream",
        false => LIMITS.iter().any(|limit| limit.name == name).then_some("limits")?,
    };
    Some(format!("`{name}` is a key of [{section}]"))
}

/// Returns `line N: ` for a key such as `rate.limit`; if the key is absent, for its table.
pub fn position(text: &str, key: &str) -> String {
    let Ok(document) = DeTable::parse(text) else { return String::new() };
    let (mut table, mut line) = (Some(document.get_ref()), String::new());
    for part in key.split('.') {
        let Some((name, value)) = table.and_then(|table| table.iter().find(|(name, _)| *name.get_ref() == part)) else {
            break;
        };
        line = line_of(text, name.span().start);
        table = value.get_ref().as_table();
    }
    line
}

/// Returns `line N: ` for an offset, to begin a message with.
pub fn line_of(text: &str, offset: usize) -> String {
    let line = text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1;
    format!("line {line}: ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table has every key that the reader knows, and no other.
    #[test]
    fn knows_every_key() {
        let error = toml::from_str::<super::super::File>("zzz = 1").err().unwrap();
        let mut known: Vec<_> = error.message().split('`').skip(3).step_by(2).collect();
        let mut here: Vec<_> = KEYS.iter().map(|(key, _)| *key).collect();
        known.sort_unstable();
        here.sort_unstable();
        assert_eq!(known, here);
    }

    #[test]
    fn a_key_has_its_place() {
        for (name, said) in [
            ("calls", "`calls` is a key of the manifest; write it above the first [section]"),
            ("ready.path", "`ready.path` is a key of the manifest; write it above"),
            ("limits", "`limits` is a section of the manifest; write [limits]"),
        ] {
            assert!(misplaced(name).unwrap().starts_with(said), "{:?}", misplaced(name));
        }
        assert_eq!((misplaced("wal"), home("wal")), (None, None));
    }
}
