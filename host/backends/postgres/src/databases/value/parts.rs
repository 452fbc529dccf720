//! Values that consist of others: arrays and ranges.

use lodge_state::postgres::{MAX_TRANSFER, PostgresError, PostgresRange};

use super::{TOO_LARGE, malformed};

/// The flags of a range.
const EMPTY: u8 = 0x01;
const LOWER_IS_PART: u8 = 0x02;
const UPPER_IS_PART: u8 = 0x04;
const NO_LOWER: u8 = 0x08;
const NO_UPPER: u8 = 0x10;

/// Reads an element. Returns `None` if it has no form here.
type Element<T> = fn(&[u8]) -> Result<Option<T>, PostgresError>;

/// Bytes that are not read yet.
pub(super) struct PartReader<'a>(pub(super) &'a [u8]);

impl<'a> PartReader<'a> {
    pub(super) fn number(&mut self) -> Result<i32, PostgresError> {
        self.chunk().map(i32::from_be_bytes)
    }

    /// Reads bytes of a fixed number.
    pub(super) fn chunk<const N: usize>(&mut self) -> Result<[u8; N], PostgresError> {
        let (bytes, rest) = self.0.split_first_chunk().ok_or_else(malformed)?;
        self.0 = rest;
        Ok(*bytes)
    }

    /// Reads a value with its length before it; `None` for no value.
    pub(super) fn value(&mut self) -> Result<Option<&'a [u8]>, PostgresError> {
        let length = self.number()?;
        if length == -1 {
            return Ok(None);
        }
        let length = usize::try_from(length).map_err(|_| malformed())?;
        let (value, rest) = self.0.split_at_checked(length).ok_or_else(malformed)?;
        self.0 = rest;
        Ok(Some(value))
    }
}

/// Reads an array. Returns `None` if a list does not hold it: with several dimensions, with indexes that do not begin at 1, or with an
/// element that has no form.
///
/// # Errors
/// If it is more than a result may have. A few bytes can be a long number, and four can be no element.
pub(super) fn array<T>(
    bytes: &[u8],
    element: impl Fn(&[u8]) -> Result<Option<T>, PostgresError>,
    size: fn(&T) -> usize,
) -> Result<Option<Vec<Option<T>>>, PostgresError> {
    array_from(1, bytes, element, size)
}

/// The same of an array whose indexes begin at `first`.
///
/// # Errors
/// As [`array`].
pub(super) fn array_from<T>(
    first: i32,
    bytes: &[u8],
    element: impl Fn(&[u8]) -> Result<Option<T>, PostgresError>,
    size: fn(&T) -> usize,
) -> Result<Option<Vec<Option<T>>>, PostgresError> {
    let mut rest = PartReader(bytes);
    let (dimensions, _has_nulls, _type) = (rest.number()?, rest.number()?, rest.number()?);
    let count = match dimensions {
        0 => 0,
        1 => {
            let (count, begins) = (rest.number()?, rest.number()?);
            if begins != first {
                return Ok(None);
            }
            count
        }
        _ => return Ok(None),
    };
    let (mut items, mut total) = (Vec::new(), 0_usize);
    for _ in 0..count {
        let item = match rest.value()? {
            None => None,
            Some(value) => match element(value)? {
                None => return Ok(None),
                item => item,
            },
        };
        total = total.saturating_add(size_of::<Option<T>>()).saturating_add(item.as_ref().map_or(0, size));
        if total > MAX_TRANSFER {
            return Err(TOO_LARGE);
        }
        items.push(item);
    }
    Ok(Some(items))
}

/// Reads a range. Returns `None` if it is empty, which is not the range without bounds, or if a bound has no form.
pub(super) fn range<T>(bytes: &[u8], element: Element<T>) -> Result<Option<Box<PostgresRange<T>>>, PostgresError> {
    let (&flags, rest) = bytes.split_first().ok_or_else(malformed)?;
    if flags & EMPTY != 0 {
        return Ok(None);
    }
    let mut rest = PartReader(rest);
    let mut bound = |none: u8, is_part: u8| {
        if flags & none != 0 {
            return Ok(Some(None));
        }
        let value = element(rest.value()?.ok_or_else(malformed)?)?;
        Ok::<_, PostgresError>(value.map(|value| Some((value, flags & is_part != 0))))
    };
    let lower = bound(NO_LOWER, LOWER_IS_PART)?;
    let upper = bound(NO_UPPER, UPPER_IS_PART)?;
    Ok(lower.zip(upper).map(|(lower, upper)| Box::new(PostgresRange { lower, upper })))
}

#[cfg(test)]
mod tests {
    use super::super::int4;
    use super::*;

    /// Numbers, and bytes of values.
    fn words(words: &[i32]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_be_bytes()).collect()
    }

    #[test]
    fn arrays_that_are_lists() {
        let of = |words: &[i32]| array(&self::words(words), int4, |_| 0);
        assert_eq!(of(&[0, 0, 23]), Ok(Some(vec![])));
        assert_eq!(of(&[1, 1, 23, 3, 1, 4, 7, -1, 4, -1]), Ok(Some(vec![Some(7), None, Some(-1)])));
        // Two dimensions, and indexes from 0.
        assert_eq!(of(&[2, 0, 23, 1, 1, 1, 1, 4, 7]), Ok(None));
        assert_eq!(of(&[1, 0, 23, 1, 0, 4, 7]), Ok(None));
        for wrong in [&[][..], &[1, 0, 23, 1], &[1, 0, 23, 1, 1], &[1, 0, 23, 1, 1, 8, 7], &[1, 0, 23, 1, 1, -2]] {
            assert_eq!(of(wrong), Err(PostgresError::Lost), "{wrong:?}");
        }
    }

    #[test]
    fn arrays_are_bounded() {
        let many = i32::try_from(MAX_TRANSFER / size_of::<Option<i32>>()).unwrap();
        let of = |count: i32, size| {
            let nulls = std::iter::repeat_n(-1, usize::try_from(count).unwrap());
            array(&words(&[1, 1, 23, count, 1].into_iter().chain(nulls).collect::<Vec<_>>()), int4, size)
        };
        assert!(of(many, |_| 0).is_ok());
        assert_eq!(of(many + 1, |_| 0), Err(TOO_LARGE));
        let one = words(&[1, 0, 23, 1, 1, 4, 7]);
        assert_eq!(array(&one, int4, |_| MAX_TRANSFER), Err(TOO_LARGE));
    }

    #[test]
    fn ranges_with_and_without_bounds() {
        let of = |flags: u8, words: &[i32]| {
            let bytes: Vec<u8> = [flags].into_iter().chain(self::words(words)).collect();
            range(&bytes, int4).map(|range| range.map(|range| (range.lower, range.upper)))
        };
        assert_eq!(of(LOWER_IS_PART, &[4, 1, 4, 5]), Ok(Some((Some((1, true)), Some((5, false))))));
        assert_eq!(of(NO_LOWER | UPPER_IS_PART, &[4, 5]), Ok(Some((None, Some((5, true))))));
        assert_eq!(of(NO_LOWER | NO_UPPER, &[]), Ok(Some((None, None))));
        assert_eq!(of(EMPTY, &[]), Ok(None));
        assert_eq!(of(LOWER_IS_PART, &[4, 1]), Err(PostgresError::Lost));
        assert_eq!(of(NO_UPPER, &[-1]), Err(PostgresError::Lost));
    }
}
