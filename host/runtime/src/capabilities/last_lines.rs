//! The last lines of a stream, for the report of a failure.

use std::collections::VecDeque;

/// The bounds per request: lines of stderr, and their bytes.
const MAX_LINES: usize = 50;
const MAX_BYTES: usize = 4 << 10;

/// The last lines of a stream.
#[derive(Default)]
pub(super) struct LastLines {
    lines: VecDeque<String>,
    bytes: usize,
}

impl LastLines {
    pub(super) fn into_lines(self) -> Vec<String> {
        self.lines.into()
    }

    pub(super) fn push(&mut self, line: &str) {
        let line: String =
            if line.len() > MAX_BYTES { line.chars().take(MAX_BYTES / 4).collect() } else { line.into() };
        self.bytes = self.bytes.saturating_add(line.len());
        self.lines.push_back(line);
        while self.lines.len() > MAX_LINES || self.bytes > MAX_BYTES {
            self.bytes = self.bytes.saturating_sub(self.lines.pop_front().map_or(0, |line| line.len()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_and_size_of_lines_are_bounded() {
        let mut kept = LastLines::default();
        (0..MAX_LINES + 10).for_each(|n| kept.push(&n.to_string()));
        assert_eq!((kept.lines.len(), kept.lines.front().map(String::as_str)), (MAX_LINES, Some("10")));
        kept.push(&"ä".repeat(MAX_BYTES));
        kept.push("last");
        assert!(kept.bytes <= MAX_BYTES && kept.bytes == kept.lines.iter().map(String::len).sum::<usize>());
        assert_eq!(kept.lines.back().map(String::as_str), Some("last"));
    }
}
