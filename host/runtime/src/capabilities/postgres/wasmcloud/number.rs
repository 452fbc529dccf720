//! Numbers with fractions: a mantissa, an exponent of 2 and a sign, as `Float::integer_decode` of the crate `num` makes them.

/// What decodes to infinity in numbers of 64 bits, and in those of 32.
const INFINITY: (u64, i16) = (1 << 52, 972);
const INFINITY_SINGLE: (u64, i16) = (1 << 23, 105);

/// Why a number cannot be a parameter.
const INEXACT: &str = "its mantissa and exponent are not exactly a floating-point number of the type";

/// `hashable-f64`, and `hashable-f32`, which is the same type.
pub(super) type Float = (u64, i16, i8);

/// The numbers of the interface.
pub(super) trait FloatForm: Sized {
    /// Returns the number of 64 bits.
    ///
    /// # Errors
    /// If there is none that is exactly this.
    fn value(self) -> Result<f64, String>;

    /// The same of 32 bits.
    ///
    /// # Errors
    /// As [`value`](Self::value).
    fn single(self) -> Result<f64, String>;

    /// The form of a number of 64 bits; `None` for what is none, which has no form.
    fn of_double(number: f64) -> Option<Self>;

    /// The form of a number of 32 bits.
    fn of_single(number: f32) -> Option<Self>;
}

impl FloatForm for Float {
    fn value(self) -> Result<f64, String> {
        let (mantissa, exponent, sign) = self;
        let sign = match sign {
            1 => 1.0,
            -1 => -1.0,
            _ => return Err("its sign is neither 1 nor -1".into()),
        };
        if (mantissa, exponent) == INFINITY {
            return Ok(sign * f64::INFINITY);
        }
        if mantissa == 0 {
            return Ok(sign * 0.0);
        }
        let zeros = mantissa.trailing_zeros();
        let (digits, exponent) = (mantissa >> zeros, i32::from(exponent) + zeros.cast_signed());
        let length = (u64::BITS - digits.leading_zeros()).cast_signed();
        if length > 53 || exponent < -1074 || exponent + length > 1024 {
            return Err(INEXACT.into());
        }
        // Both factors are exact, and so is their product.
        let power = match u64::try_from(exponent + 1023) {
            Ok(biased @ 1..) => f64::from_bits(biased << 52),
            _ => f64::from_bits(1 << (exponent + 1074)),
        };
        Ok(sign * digits as f64 * power)
    }

    fn single(self) -> Result<f64, String> {
        let (mantissa, exponent, sign) = self;
        if (mantissa, exponent) == INFINITY_SINGLE {
            return (INFINITY.0, INFINITY.1, sign).value();
        }
        let value = self.value()?;
        if f64::from(value as f32) == value { Ok(value) } else { Err(INEXACT.into()) }
    }

    fn of_double(number: f64) -> Option<Self> {
        let bits = number.to_bits();
        let (biased, fraction) = ((bits >> 52) & 0x7ff, bits & ((1 << 52) - 1));
        let mantissa = if biased == 0 { fraction << 1 } else { fraction | 1 << 52 };
        let exponent = i16::try_from(biased).ok()?.checked_sub(1075)?;
        (!number.is_nan()).then_some((mantissa, exponent, if number.is_sign_negative() { -1 } else { 1 }))
    }

    fn of_single(number: f32) -> Option<Self> {
        if number.is_infinite() {
            // The form of 32 bits is a finite number for who reads it with 64.
            return Self::of_double(number.into());
        }
        let bits = number.to_bits();
        let (biased, fraction) = ((bits >> 23) & 0xff, bits & ((1 << 23) - 1));
        let mantissa = if biased == 0 { fraction << 1 } else { fraction | 1 << 23 };
        let exponent = i16::try_from(biased).ok()?.checked_sub(150)?;
        (!number.is_nan()).then_some((mantissa.into(), exponent, if number.is_sign_negative() { -1 } else { 1 }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_goes_there_and_back() {
        let numbers = [0.0, -0.0, 1.0, -0.1, f64::MAX, f64::MIN_POSITIVE, 5e-324, f64::INFINITY, f64::NEG_INFINITY];
        for number in numbers {
            let read = Float::of_double(number).unwrap().value().unwrap();
            assert_eq!(read.to_bits(), number.to_bits(), "{number}");
        }
        for number in [0.0, -0.0, 1.5, -0.1, f32::MAX, f32::MIN_POSITIVE, 1e-45, f32::INFINITY, f32::NEG_INFINITY] {
            let read = Float::of_single(number).unwrap().single().unwrap();
            assert_eq!((read as f32).to_bits(), number.to_bits(), "{number}");
        }
        assert_eq!([Float::of_double(f64::NAN), Float::of_single(f32::NAN)], [None, None]);
        // As other hosts and SDKs have them.
        assert_eq!(Float::of_double(1.0), Some((1 << 52, -52, 1)));
        assert_eq!(Float::of_single(-1.0), Some((1 << 23, -23, -1)));
        assert_eq!((3, -1, 1).value(), Ok(1.5));
        assert_eq!((1 << 23, 105, -1).single(), Ok(f64::NEG_INFINITY));
    }

    #[test]
    fn what_is_no_number_is_refused() {
        for wrong in
            [(u64::MAX, 0, 1), (1, 1024, 1), (1, -1075, 1), (1, i16::MAX, 1), (1, i16::MIN, 1), (1, 0, 0), (1, 0, 2)]
        {
            assert!(wrong.value().is_err(), "{wrong:?}");
        }
        for wrong in [(1 << 24 | 1, 0, 1), (1, 128, 1), (1, -150, 1)] {
            assert!(wrong.value().is_ok() && wrong.single().is_err(), "{wrong:?}");
        }
    }
}
