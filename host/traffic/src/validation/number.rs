//! Numbers of JSON, compared by their value: `1.0` is `1`.

use std::cmp::Ordering;

/// The numbers from here on have no fraction, and are too large for the whole numbers below.
const LARGE: f64 = 1e38;

/// A number. Those of more than 64 bits, and those with a fraction, are as exact as a double.
#[derive(Clone, Copy, Debug)]
pub enum JsonNumber {
    /// A whole number.
    Int(i128),
    /// A number with a fraction, or one of at least 1e38.
    Float(f64),
}

impl JsonNumber {
    /// Whether it is a whole number.
    pub(super) fn is_whole(self) -> bool {
        matches!(self, Self::Int(_)) || matches!(self, Self::Float(number) if number.abs() >= LARGE)
    }

    /// Returns it as a count, if it is one.
    pub(super) fn count(self) -> Option<usize> {
        if let Self::Int(number) = self { usize::try_from(number).ok() } else { None }
    }

    /// Whether it is a multiple of `divisor`, by the decimal digits of both. `None` if `divisor` is not above zero, or has too many digits.
    pub(super) fn is_multiple_of(self, divisor: Self) -> Option<bool> {
        let (number, of) = (Decimal::of(self), Decimal::of(divisor));
        if of.negative || of.digits == 0 || of.digits > u128::from(u64::MAX >> 1) {
            return None;
        }
        if number.digits == 0 {
            return Some(true);
        }
        let apart = number.exponent.abs_diff(of.exponent);
        if number.exponent >= of.exponent {
            // Both factors are less than 2^63.
            let left = (number.digits % of.digits) * power(10 % of.digits, apart, of.digits);
            return Some(left.is_multiple_of(of.digits));
        }
        let scaled = 10_u128.checked_pow(apart).and_then(|scale| scale.checked_mul(of.digits));
        Some(scaled.is_some_and(|of| number.digits.is_multiple_of(of)))
    }
}

/// Returns a power modulo a number of less than 2^63.
fn power(base: u128, mut exponent: u32, modulus: u128) -> u128 {
    let (mut result, mut base) = (1 % modulus, base);
    while exponent > 0 {
        if exponent & 1 == 1 {
            result = result * base % modulus;
        }
        base = base * base % modulus;
        exponent >>= 1;
    }
    result
}

impl From<i64> for JsonNumber {
    fn from(number: i64) -> Self {
        Self::Int(number.into())
    }
}

impl From<u64> for JsonNumber {
    fn from(number: u64) -> Self {
        Self::Int(number.into())
    }
}

impl From<f64> for JsonNumber {
    fn from(number: f64) -> Self {
        let whole = number.fract() == 0.0 && number.abs() < LARGE;
        // A whole number below 1e38 has a place in 128 bits.
        if whole { Self::Int(number as i128) } else { Self::Float(number) }
    }
}

impl Ord for JsonNumber {
    fn cmp(&self, other: &Self) -> Ordering {
        match (*self, *other) {
            (Self::Int(one), Self::Int(other)) => one.cmp(&other),
            (Self::Float(one), Self::Float(other)) => one.total_cmp(&other),
            (Self::Int(one), Self::Float(other)) => whole_and_other(one, other),
            (Self::Float(one), Self::Int(other)) => whole_and_other(other, one).reverse(),
        }
    }
}

/// Compares a whole number with one that is never equal to it.
fn whole_and_other(whole: i128, other: f64) -> Ordering {
    match other {
        _ if other >= LARGE => Ordering::Less,
        _ if other <= -LARGE => Ordering::Greater,
        _ if whole <= other.floor() as i128 => Ordering::Less,
        _ => Ordering::Greater,
    }
}

impl PartialOrd for JsonNumber {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for JsonNumber {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for JsonNumber {}

/// A number as decimal digits, without zeros at the end, and a power of ten.
struct Decimal {
    negative: bool,
    digits: u128,
    exponent: i32,
}

impl Decimal {
    fn of(number: JsonNumber) -> Self {
        let (negative, mut digits, mut exponent) = match number {
            JsonNumber::Int(number) => (number < 0, number.unsigned_abs(), 0),
            JsonNumber::Float(number) => {
                // The shortest digits that read back as this number: at most 17.
                let text = format!("{:e}", number.abs());
                let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
                let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
                let places = i32::try_from(fraction.len()).unwrap_or(0);
                let digits = format!("{whole}{fraction}").parse().unwrap_or(0);
                (number < 0.0, digits, exponent.parse().unwrap_or(0) - places)
            }
        };
        while digits != 0 && digits.is_multiple_of(10) {
            (digits, exponent) = (digits / 10, exponent + 1);
        }
        Self { negative, digits, exponent }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_compared_by_value() {
        let ordered = [-1e300, -1e38, -3.5, -3.0, 0.0, 0.5, 1.0, 1.5, 9_007_199_254_740_992.0, 1e38, 1e300];
        let ordered = ordered.map(JsonNumber::from);
        for (at, one) in ordered.iter().enumerate() {
            for (other_at, other) in ordered.iter().enumerate() {
                assert_eq!(one.cmp(other), at.cmp(&other_at), "{one:?} {other:?}");
            }
        }
        assert_eq!(JsonNumber::from(1.0), JsonNumber::from(1_u64));
        assert_eq!(JsonNumber::from(-0.0), JsonNumber::from(0_i64));
        assert!(JsonNumber::from(u64::MAX) > JsonNumber::from(i64::MAX));
        assert!(JsonNumber::from(u64::MAX) != JsonNumber::from(u64::MAX - 1));
        assert!(
            JsonNumber::from(1e300).is_whole() && JsonNumber::from(2.0).is_whole() && !JsonNumber::from(2.5).is_whole()
        );
    }

    #[test]
    fn multiples_are_exact() {
        let multiple = |number: f64, of: f64| JsonNumber::from(number).is_multiple_of(of.into());
        for (number, of) in
            [(0.0075, 0.0001), (19.99, 0.01), (4.5, 1.5), (0.0, 7.0), (1e308, 0.5), (-9.0, 3.0), (1e20, 1e10)]
        {
            assert_eq!(multiple(number, of), Some(true), "{number} {of}");
        }
        for (number, of) in
            [(0.00751, 0.0001), (35.0, 1.5), (1e308, 0.123_456_789), (7.0, 2.0), (1e-300, 1.0), (0.5, 1e300)]
        {
            assert_eq!(multiple(number, of), Some(false), "{number} {of}");
        }
        assert_eq!([multiple(1.0, 0.0), multiple(1.0, -1.0)], [None, None]);
    }
}
