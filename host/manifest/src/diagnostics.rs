//! Messages about a manifest that is not TOML, and the lines of keys.

use toml::de::DeTable;

use crate::section;

/// Converts an error of the TOML parser into a message with its line.
pub(super) fn explain(text: &str, error: &toml::de::Error) -> String {
    let at = error.span().map(|span| span.start);
    let line = at.map_or(String::new(), |at| line_of(text, at));
    let begin = at.and_then(|at| text.get(at..)).unwrap_or_default();
    if error.message() == "duplicate key" {
        let key = error.span().and_then(|span| text.get(span)).unwrap_or_default();
        let several = section::find(key).is_some_and(section::Section::is_list);
        let form = if several { format!("; write each one as [[{key}]]") } else { String::new() };
        return format!("{line}`{key}` has a value already{form}");
    }
    if let Some(quote) = begin.chars().next().filter(|first| "“”„‘’".contains(*first)) {
        return format!("{line}{quote} is not a quotation mark of TOML; write \"");
    }
    format!("{line}{}", error.message())
}

/// Returns the page of the docs about the problems of a manifest, as `docs/<page>.md`: that of their section, or the overview.
pub fn page(text: &str, problems: &[String]) -> &'static str {
    let of = |problem: &String| section_of(text, problem).map_or("manifest", |section| section.page);
    let mut pages = problems.iter().map(of);
    let first = pages.next().unwrap_or("manifest");
    if pages.all(|page| page == first) { first } else { "manifest" }
}

/// Finds the section that a problem is about: by the key that it begins with, or by its line.
fn section_of(text: &str, problem: &str) -> Option<&'static section::Section> {
    let (line, said) = match problem.strip_prefix("line ").and_then(|rest| rest.split_once(": ")) {
        Some((line, said)) => (line.parse().ok(), said),
        None => (None, problem),
    };
    let said = said.strip_prefix("unknown key ").unwrap_or(said);
    let key = match said.strip_prefix('`') {
        Some(quoted) => quoted.split('`').next(),
        None => said.split(':').next(),
    };
    let named = key.and_then(|key| key.split('.').next()).and_then(section::find);
    let at_line = || {
        let (line, document): (usize, _) = (line?, DeTable::parse(text).ok()?);
        let keys = document.get_ref().iter().map(|(key, _)| (line_number(text, key.span().start), key.get_ref()));
        let (_, name) = keys.filter(|(start, _)| *start <= line).max_by_key(|(start, _)| *start)?;
        section::find(name)
    };
    // `deny` of a rule is another one than that of clients. Routes have the keys of sections with their meaning.
    let of_list = || at_line().filter(|section| section.is_list() && section.name != "routes");
    of_list().or(named).or_else(at_line)
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
    format!("line {}: ", line_number(text, offset))
}

/// Returns the number of the line with an offset.
fn line_number(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::read;

    #[test]
    fn problems_name_the_page_of_their_section() {
        for (text, expected) in [
            ("zzz = 1", "manifest"),
            ("routes = [", "manifest"),
            ("[schedule]\ncron = 'x'", "messages"),
            ("[schedule]\ncron = '* * * * *'\nzone = 'x'", "messages"),
            ("[[schedule]]\ncron = '* * * * *'\n[[schedule]]\ncron = '* * * * *'", "messages"),
            ("[[schedule]]\n[[schedule]]\n[schedule]", "messages"),
            ("[consume]", "messages"),
            ("[[rules]]\nwhen = 'x'\ndeny = 403", "rules"),
            ("[[rules]]\ndeny = 'client.address == \"\"'", "rules"),
            ("deny = 'x'", "policies"),
            ("[cors]\norigins = ['x']", "cors"),
            ("[cors]\norigins = ['x']\n[consume]", "manifest"),
        ] {
            let problems = read(text).unwrap_err();
            let problems: Vec<_> = problems.lines().map(str::to_owned).collect();
            assert_eq!(page(text, &problems), expected, "{problems:?}");
        }
    }
}
