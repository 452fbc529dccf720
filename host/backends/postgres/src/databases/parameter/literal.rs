//! Arrays and ranges as texts, which the server reads. Each part is quoted, so that no text of a guest ends its part.

use std::fmt::{Display, Write};

use lodge_state::postgres::PostgresRange;

/// Writes an array.
pub(super) fn array<T: Display>(items: &[Option<T>]) -> String {
    let mut text = String::from("{");
    for (position, item) in items.iter().enumerate() {
        if position > 0 {
            text.push(',');
        }
        match item {
            Some(item) => quote(&mut text, item),
            None => text.push_str("NULL"),
        }
    }
    text.push('}');
    text
}

/// Writes a range.
pub(super) fn range<T: Display>(PostgresRange { lower, upper }: &PostgresRange<T>) -> String {
    let mut text = String::from(if matches!(lower, Some((_, true))) { "[" } else { "(" });
    if let Some((bound, _)) = lower {
        quote(&mut text, bound);
    }
    text.push(',');
    if let Some((bound, _)) = upper {
        quote(&mut text, bound);
    }
    text.push(if matches!(upper, Some((_, true))) { ']' } else { ')' });
    text
}

/// Writes a part between quotes.
fn quote(text: &mut String, part: &impl Display) {
    text.push('"');
    // Writing to a string does not fail.
    let _ = write!(Escaped(text), "{part}");
    text.push('"');
}

/// Writes what stands between quotes.
struct Escaped<'a>(&'a mut String);

impl Write for Escaped<'_> {
    fn write_str(&mut self, part: &str) -> std::fmt::Result {
        for character in part.chars() {
            if matches!(character, '"' | '\\') {
                self.0.push('\\');
            }
            self.0.push(character);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_end_where_they_end() {
        let texts = [Some("a"), None, Some("NULL"), Some(""), Some("}\",\\ \n")].map(|text| text.map(str::to_owned));
        assert_eq!(array(&texts), "{\"a\",NULL,\"NULL\",\"\",\"}\\\",\\\\ \n\"}");
        assert_eq!(array::<i32>(&[]), "{}");
        let of = |lower: Option<(&str, bool)>, upper: Option<(&str, bool)>| {
            let owned = |(text, is_part): (&str, bool)| (text.to_owned(), is_part);
            range(&PostgresRange { lower: lower.map(owned), upper: upper.map(owned) })
        };
        assert_eq!(of(Some(("1", true)), Some(("2", false))), "[\"1\",\"2\")");
        assert_eq!(of(None, Some(("2,3]", true))), "(,\"2,3]\"]");
        assert_eq!(of(None, None), "(,)");
    }
}
