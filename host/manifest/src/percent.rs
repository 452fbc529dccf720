//! Percentages, as manifests and `lodge deploy --canary` write them.

use crate::written::Written;

/// A percentage in hundredths of a percent, 0 to 10,000.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Percent(pub u32);

impl Percent {
    /// 100 %.
    pub const ALL: Self = Self(10_000);

    /// Creates a percentage without a fraction, of at most 100.
    pub const fn whole(percent: u32) -> Self {
        Self(if percent < 100 { percent * 100 } else { Self::ALL.0 })
    }

    /// Reads `10`, `2.5` or `"10%"`.
    pub(crate) fn read(written: &Written<'_>) -> Result<Self, String> {
        Self::parse(&written.plain()?).map_err(|wrong| written.error(wrong))
    }

    /// Parses `10%`, `10` or `2.5%`.
    ///
    /// # Errors
    /// What was expected.
    pub fn parse(text: &str) -> Result<Self, String> {
        let number = text.strip_suffix('%').unwrap_or(text).trim();
        let plain = number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
        let number = number.parse().ok().filter(|_| plain).and_then(Self::from_number);
        number.ok_or_else(|| format!("`{text}` is not a percentage; write it like 10% or 2.5%"))
    }

    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to be between 0 and 100")]
    fn from_number(number: f64) -> Option<Self> {
        (0.0..=100.0).contains(&number).then(|| Self((number * 100.0).round() as u32))
    }

    /// Returns this as a fraction of one.
    pub fn part(self) -> f64 {
        f64::from(self.0) / 10_000.0
    }

    /// Returns this percentage of `whole`, rounded down.
    pub fn of(self, whole: u64) -> u64 {
        whole.saturating_mul(u64::from(self.0)) / u64::from(Self::ALL.0)
    }

    /// Whether `part` is at least this percentage of `whole`.
    pub fn is_reached(self, part: u64, whole: u64) -> bool {
        part.saturating_mul(u64::from(Self::ALL.0)) >= whole.saturating_mul(u64::from(self.0))
    }
}

impl std::fmt::Display for Percent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}%", f64::from(self.0) / 100.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_rounded_down() {
        assert_eq!((Percent::whole(20).of(9), Percent(250).of(1_000), Percent::ALL.of(7)), (1, 25, 7));
        assert_eq!(Percent::whole(200), Percent::ALL);
    }

    #[test]
    fn a_part_that_equals_the_percentage_reaches_it() {
        let half = Percent::whole(50);
        assert!(half.is_reached(5, 10) && !half.is_reached(4, 10) && half.is_reached(0, 0));
        assert!(Percent(0).is_reached(0, 10) && !Percent(1).is_reached(0, 10));
    }

    #[test]
    fn shown_as_written() {
        for text in ["0%", "2.5%", "50%", "100%"] {
            assert_eq!(Percent::parse(text).unwrap().to_string(), text);
        }
    }
}
