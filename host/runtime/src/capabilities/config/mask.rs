//! Masking of secrets in what the host writes.

use std::borrow::Cow;
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use aho_corasick::{AhoCorasick, MatchKind};

use super::ConfigValue;

/// The least bytes of a text that is masked. Shorter ones would mask parts of other words.
const LEAST: usize = 4;

/// The most bytes of a text that is masked as a whole. Log lines have at most 8 KiB, so a longer text is in several.
const LONGEST: usize = 4 << 10;

/// Bytes of the pieces of a longer text, which are masked each.
const PIECE: usize = 32;

/// The most bytes of texts that were secrets before; older ones are forgotten.
const EARLIER: usize = 256 << 10;

/// The text in the place of a secret.
const MASK: &str = "***";

/// The texts that are masked: those of all secrets of a service, and those that were secrets before.
#[derive(Clone, Default)]
pub(super) struct SecretMask {
    current: BTreeSet<Arc<str>>,
    /// The oldest first.
    earlier: VecDeque<Arc<str>>,
    /// Finds all of them at once; `None` if it cannot be built, and then every line is masked.
    searcher: Option<AhoCorasick>,
}

impl SecretMask {
    /// Returns the mask after all values have become `values`.
    pub(super) fn after<'a>(&self, values: impl Iterator<Item = &'a ConfigValue>) -> Self {
        let current: BTreeSet<Arc<str>> = texts(values).map(Arc::from).collect();
        let still = self.earlier.iter().filter(|text| !current.contains(*text));
        let mut earlier: VecDeque<_> = still.chain(self.current.difference(&current)).cloned().collect();
        let mut bytes: usize = earlier.iter().map(|text| text.len()).sum();
        while bytes > EARLIER {
            bytes = bytes.saturating_sub(earlier.pop_front().map_or(bytes, |text| text.len()));
        }
        // The longest: one secret may contain another.
        let builder = AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).clone();
        let searcher = builder.build(current.iter().chain(&earlier).map(|text| text.as_bytes())).ok();
        Self { current, earlier, searcher }
    }

    /// Returns `line` with every secret masked.
    pub(super) fn apply<'a>(&self, line: &'a str) -> Cow<'a, str> {
        if self.current.is_empty() && self.earlier.is_empty() {
            return line.into();
        }
        let Some(searcher) = &self.searcher else { return MASK.into() };
        if !searcher.is_match(line) {
            return line.into();
        }
        let mut masked = String::with_capacity(line.len());
        searcher.replace_all_with(line, &mut masked, |_, _, masked| {
            masked.push_str(MASK);
            true
        });
        masked.into()
    }
}

/// The texts to mask of these values. A secret of several lines, such as a key in PEM, is logged line by line.
fn texts<'a>(values: impl Iterator<Item = &'a ConfigValue>) -> impl Iterator<Item = &'a str> {
    let secrets = values.filter(|value| value.secret).map(|value| value.text.trim());
    let whole = |text: &&str| text.len() <= LONGEST;
    let texts = secrets.flat_map(move |text| Some(text).filter(whole).into_iter().chain(text.lines().flat_map(pieces)));
    texts.filter(|text| text.len() >= LEAST)
}

/// A line, or its pieces if it is long.
fn pieces(line: &str) -> impl Iterator<Item = &str> {
    let mut rest = line.trim();
    let least = if rest.len() > LONGEST { PIECE } else { LONGEST };
    std::iter::from_fn(move || {
        let end = rest.char_indices().map(|(index, _)| index).find(|index| *index >= least).unwrap_or(rest.len());
        let (piece, after) = rest.split_at_checked(end)?;
        rest = after;
        Some(piece).filter(|piece| !piece.is_empty())
    })
}
