//! Tables aligned by the width of text on a terminal.

use std::borrow::Cow;

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use super::out::clean;

/// The spaces between columns.
const GAP: usize = 3;

/// The alignment of a column.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Left,
    Right,
}

/// A table with a header.
pub(super) struct TextTable {
    sides: Vec<Side>,
    rows: Vec<Vec<String>>,
}

impl TextTable {
    /// Creates a table with these columns and no rows.
    pub(super) fn new(columns: &[(&str, Side)]) -> Self {
        let sides = columns.iter().map(|(_, side)| *side).collect();
        Self { sides, rows: vec![columns.iter().map(|(name, _)| (*name).to_owned()).collect()] }
    }

    /// Adds a row. Cells may hold any text; control characters are escaped.
    pub(super) fn row<'a>(&mut self, cells: impl IntoIterator<Item = Cow<'a, str>>) {
        self.rows.push(cells.into_iter().map(|cell| clean(&cell).into_owned()).collect());
    }

    /// Returns the lines, the header first.
    pub(super) fn lines(&self) -> Vec<String> {
        let width = |column: usize| self.rows.iter().filter_map(|row| Some(row.get(column)?.width())).max();
        let widths: Vec<_> = (0..self.sides.len()).map(|column| width(column).unwrap_or(0)).collect();
        let line = |row: &Vec<String>| {
            let mut line = String::new();
            for ((cell, side), width) in row.iter().zip(&self.sides).zip(&widths) {
                let pad = " ".repeat(width.saturating_sub(cell.width()));
                let (before, after) = if *side == Side::Right { (pad.as_str(), "") } else { ("", pad.as_str()) };
                line.extend([before, cell, after, &" ".repeat(GAP)]);
            }
            line.truncate(line.trim_end().len());
            line
        };
        self.rows.iter().map(line).collect()
    }

    /// Returns the whole table as text.
    pub(super) fn text(&self) -> String {
        self.lines().iter().fold(String::new(), |text, line| text + line + "\n")
    }
}

/// Returns as much of the beginning of `line` as fits into `columns`.
pub(super) fn clipped(line: &str, columns: usize) -> &str {
    let mut used = 0;
    let over = line.char_indices().find(|(_, c)| {
        used += c.width().unwrap_or(0);
        used > columns
    });
    over.and_then(|(at, _)| line.get(..at)).unwrap_or(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_align() {
        let mut table = TextTable::new(&[("NAME", Side::Left), ("N", Side::Right), ("REST", Side::Left)]);
        table.row(["日本".into(), "1".into(), "a".into()]);
        table.row(["x\x1b[2J".into(), "1000".into(), "".into()]);
        let expected = "NAME            N   REST\n日本            1   a\nx\\u{1b}[2J   1000\n";
        assert_eq!(table.text(), expected);
    }

    #[test]
    fn lines_are_clipped_between_characters() {
        assert_eq!(clipped("hello", 3), "hel");
        assert_eq!(clipped("日本", 3), "日");
        assert_eq!(clipped("日本", 4), "日本");
        assert_eq!(clipped("", 0), "");
    }
}
