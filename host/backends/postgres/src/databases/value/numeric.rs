//! `numeric`.

use std::fmt::Write;

use lodge_state::postgres::PostgresError;

use super::malformed;

/// Returns the decimal text of a `numeric`, as the server would write it; `None` for what is not finite.
///
/// Its form: the number of digits, the weight of the first one, sign and scale, and then the digits, of base 10,000.
pub(super) fn numeric(bytes: &[u8]) -> Result<Option<String>, PostgresError> {
    let mut words = bytes.chunks_exact(2).map(|pair| pair.try_into().map(u16::from_be_bytes));
    let mut next = || words.next().and_then(Result::ok).ok_or_else(malformed);
    let (count, weight, sign, scale) = (next()?, next()?.cast_signed(), next()?, next()?);
    let negative = match sign {
        0 => false,
        0x4000 => true,
        // NaN and both infinities.
        _ => return Ok(None),
    };
    let digits = (0..count).map(|_| next()).collect::<Result<Vec<_>, _>>()?;
    let digit = |position: i32| usize::try_from(position).ok().and_then(|at| digits.get(at)).copied().unwrap_or(0);
    let mut text = String::new();
    if negative {
        text.push('-');
    }
    let weight = i32::from(weight);
    if weight < 0 {
        text.push('0');
    }
    for position in 0..=weight {
        push(&mut text, digit(position), position > 0);
    }
    if scale > 0 {
        text.push('.');
        let whole = text.len();
        let mut position = weight + 1;
        while text.len() - whole < scale.into() {
            // Zeros between the point and the first digit are not stored.
            push(&mut text, digit(position), true);
            position += 1;
        }
        text.truncate(whole + usize::from(scale));
    }
    Ok(Some(text))
}

/// Adds a digit of base 10,000: as four decimal ones, or without zeros before it.
fn push(text: &mut String, digit: u16, whole: bool) {
    // Most digits of the longest numbers are zeros.
    if whole && digit == 0 {
        text.push_str("0000");
    } else {
        let width = if whole { 4 } else { 0 };
        // Writing to a string does not fail.
        let _ = write!(text, "{digit:0width$}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_any_size() {
        let of = |words: &[u16]| {
            let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
            numeric(&bytes).unwrap()
        };
        assert_eq!(of(&[0, 0, 0, 0]).as_deref(), Some("0"));
        assert_eq!(of(&[0, 0, 0, 2]).as_deref(), Some("0.00"));
        assert_eq!(of(&[2, 0, 0, 2, 12, 3400]).as_deref(), Some("12.34"));
        assert_eq!(of(&[1, 1, 0x4000, 0, 5]).as_deref(), Some("-50000"));
        assert_eq!(of(&[1, 0xffff, 0, 4, 5]).as_deref(), Some("0.0005"));
        assert_eq!(of(&[1, 0xfffe, 0, 9, 12]).as_deref(), Some("0.000000120"));
        assert_eq!(of(&[0, 0, 0xc000, 0]), None);
        assert!(numeric(&[0, 3, 0, 0, 0, 0, 0, 0, 0, 1]).is_err());
    }
}
