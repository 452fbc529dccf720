//! Messages about a manifest that is not TOML, and the lines of keys.

use toml::de::DeTable;

/// Converts an error of the TOML parser into a message with its line.
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
    format!("{line}{}", error.message())
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
