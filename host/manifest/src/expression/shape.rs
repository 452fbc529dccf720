//! The text of an expression before it is parsed: how deep it is, and what somebody may have meant who knows another language.

/// The most brackets inside of one another. The parser is recursive.
const BRACKETS: usize = 20;

/// The most operators, dots and brackets of an expression: what makes the recursion of the parser and of the tree deep.
const OPERATORS: usize = 250;

/// Refuses what would make the parser recurse deeply, before it is called. Quoted text and comments do not count.
pub(super) fn check(text: &str) -> Result<(), String> {
    let bare = bare(text)?;
    let (mut open, mut operators, mut before) = (0_usize, 0_usize, ' ');
    for character in bare.chars() {
        match character {
            '(' | '[' | '{' => open += 1,
            ')' | ']' | '}' => open = open.saturating_sub(1),
            _ => {}
        }
        let is_in = character == 'n' && before == 'i';
        operators += usize::from(is_in || "([{.+-*/%<>=!?".contains(character));
        before = character;
        if open > BRACKETS {
            return Err(format!("it has more than {BRACKETS} brackets inside of one another; write several rules"));
        }
        if operators > OPERATORS {
            return Err(format!("it has more than {OPERATORS} operators; write several rules"));
        }
    }
    Ok(())
}

/// Returns the text without comments and without what is quoted.
fn bare(text: &str) -> Result<String, String> {
    let (mut bare, mut rest, mut before) = (String::with_capacity(text.len()), text, ' ');
    while let Some(character) = rest.chars().next() {
        let after = rest.get(character.len_utf8()..).unwrap_or_default();
        rest = match character {
            '/' if after.starts_with('/') => after.split_once('\n').map_or("", |(_, next)| next),
            '"' | '\'' => {
                let twice = after.strip_prefix(character).is_some_and(|next| next.starts_with(character));
                if twice {
                    return Err("text has one quote at each end, not three".into());
                }
                bare.push('"');
                after_text(after, character, matches!(before, 'r' | 'R'))
            }
            _ => {
                bare.push(character);
                after
            }
        };
        before = character;
    }
    Ok(bare)
}

/// Returns what follows a quoted text, which begins after its first quote. A raw one has no escapes.
fn after_text(text: &str, quote: char, raw: bool) -> &str {
    let mut escaped = false;
    for (at, character) in text.char_indices() {
        match character {
            _ if escaped => escaped = false,
            '\\' if !raw => escaped = true,
            _ if character == quote => return text.get(at + 1..).unwrap_or_default(),
            _ => {}
        }
    }
    ""
}

/// Returns the bytes of a size with a unit, such as `1MiB`.
fn size(word: &str) -> Option<u64> {
    let unit = word.trim_start_matches(|character: char| character.is_ascii_digit() || character == '.');
    let is_size = unit.len() < word.len() && unit.ends_with(['B', 'b', 'k', 'K', 'M', 'G', 'i']);
    lodge_base::config::key::size(word, 1..=usize::MAX).ok().filter(|_| is_size).map(|bytes| bytes as u64)
}

/// Returns what to look for in a text that is no expression.
pub(super) fn hint(text: &str) -> String {
    let bare = bare(text).unwrap_or_default();
    let mut hint = String::new();
    let mut say = |what: &str| {
        hint.push_str(if hint.is_empty() { "" } else { "; " });
        hint.push_str(what);
    };
    let bytes = bare.as_bytes();
    let at = |at: Option<usize>| at.and_then(|at| bytes.get(at)).copied().unwrap_or(b' ');
    let single = |(index, byte): (usize, &u8)| {
        *byte == b'=' && !b"=!<>".contains(&at(index.checked_sub(1))) && at(index.checked_add(1)) != b'='
    };
    if bytes.iter().enumerate().any(single) {
        say("values are compared with `==`");
    }
    let is_word = |character: char| character.is_alphanumeric() || character == '_' || character == '.';
    let words: Vec<_> = bare.split(|character| !is_word(character)).collect();
    for (word, operator) in [("and", "&&"), ("AND", "&&"), ("or", "||"), ("OR", "||"), ("not", "!"), ("NOT", "!")] {
        if words.contains(&word) {
            say(&format!("`{operator}` is written for `{word}`"));
        }
    }
    if let Some((word, bytes)) = words.iter().find_map(|word| Some((word, size(word)?))) {
        say(&format!("sizes are bytes: `{bytes}` for `{word}`"));
    }
    if bare.split(" in").skip(1).any(|next| next.trim_start().starts_with('(')) {
        say("a list has square brackets, like [\"GET\", \"POST\"]");
    }
    if hint.is_empty() {
        "see that brackets and quotes are closed, and that each operator has two sides".into()
    } else {
        hint
    }
}
