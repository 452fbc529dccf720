//! Which parts of a value are evaluated, for `unevaluatedItems` and `unevaluatedProperties`.

/// The items or properties of a value that a schema has evaluated, by their numbers.
#[derive(Default)]
pub(super) struct EvaluatedParts(Vec<u64>);

impl EvaluatedParts {
    pub(super) fn add(&mut self, at: usize) {
        let (word, bit) = (at / 64, at % 64);
        if self.0.len() <= word {
            self.0.resize(word + 1, 0);
        }
        self.0.iter_mut().skip(word).take(1).for_each(|word| *word |= 1 << bit);
    }

    pub(super) fn has(&self, at: usize) -> bool {
        self.0.get(at / 64).is_some_and(|word| word & 1 << (at % 64) != 0)
    }

    pub(super) fn merge(&mut self, other: &Self) {
        if self.0.len() < other.0.len() {
            self.0.resize(other.0.len(), 0);
        }
        self.0.iter_mut().zip(&other.0).for_each(|(word, other)| *word |= other);
    }
}
