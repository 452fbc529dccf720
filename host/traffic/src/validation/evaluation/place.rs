//! Where a part of a value is.

use crate::validation::schema::escaped;

/// The most bytes of a pointer: it has keys that the client chose.
pub(super) const POINTER: usize = 300;

/// The way from the root of a value to a part of it.
pub(super) enum ValuePlace<'p> {
    Root,
    Key(&'p ValuePlace<'p>, &'p str),
    Item(&'p ValuePlace<'p>, usize),
}

impl ValuePlace<'_> {
    pub(super) fn pointer(&self) -> String {
        let (mut parts, mut place) = (Vec::new(), self);
        loop {
            let (before, part) = match place {
                Self::Root => break,
                Self::Key(before, key) => (before, escaped(key)),
                Self::Item(before, at) => (before, at.to_string()),
            };
            parts.push(part);
            place = before;
        }
        let mut pointer = String::new();
        for part in parts.iter().rev() {
            pointer.push('/');
            pointer.push_str(part);
            if pointer.len() > POINTER {
                let end = (0..=POINTER).rev().find(|end| pointer.is_char_boundary(*end)).unwrap_or(0);
                pointer.truncate(end);
                pointer.push('\u{2026}');
                break;
            }
        }
        pointer
    }
}
