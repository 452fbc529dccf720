//! Splits a stream of bytes into lines, of bounded length. Pure.

/// What a stream has sent since its last line ended.
pub(super) struct EventLines {
    held: Vec<u8>,
    most: usize,
}

/// A line has more bytes than it may have.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct LongLine;

impl EventLines {
    /// For lines of at most `most` bytes, without their end.
    pub(super) fn new(most: usize) -> Self {
        Self { held: Vec::new(), most }
    }

    /// The bytes of the line that has not ended.
    pub(super) fn held(&self) -> usize {
        self.held.len()
    }

    /// Passes each line that these bytes complete to `take`, without its end. Empty lines are left out.
    ///
    /// # Errors
    /// [`LongLine`], or the first error of `take`. The stream can then not be read on.
    pub(super) fn feed<E: From<LongLine>>(
        &mut self,
        bytes: &[u8],
        mut take: impl FnMut(Vec<u8>) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut parts = bytes.split(|byte| *byte == b'\n');
        // After the last end of a line.
        let rest = parts.next_back().unwrap_or_default();
        for part in parts {
            if self.held.is_empty() {
                self.fits(part)?;
                if !part.is_empty() {
                    take(part.to_vec())?;
                }
            } else {
                self.hold(part)?;
                take(std::mem::take(&mut self.held))?;
            }
        }
        Ok(self.hold(rest)?)
    }

    /// Whether the stream is within a line.
    pub(super) fn is_within(&self) -> bool {
        !self.held.is_empty()
    }

    fn hold(&mut self, part: &[u8]) -> Result<(), LongLine> {
        self.fits(part)?;
        self.held.extend_from_slice(part);
        Ok(())
    }

    fn fits(&self, part: &[u8]) -> Result<(), LongLine> {
        if part.len() > self.most.saturating_sub(self.held.len()) { Err(LongLine) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    impl From<LongLine> for String {
        fn from(_: LongLine) -> Self {
            "too long".into()
        }
    }

    /// The lines of these parts, and whether the stream ended within one.
    fn lines(parts: &[&[u8]], most: usize) -> Result<(Vec<Vec<u8>>, bool), String> {
        let (mut lines, mut found) = (EventLines::new(most), Vec::new());
        for part in parts {
            lines.feed(part, |line| {
                found.push(line);
                Ok::<_, String>(())
            })?;
        }
        Ok((found, lines.is_within()))
    }

    #[test]
    fn lines_are_bounded() {
        assert_eq!(lines(&[b"abc", b"\n\nde\n"], 3), Ok((vec![b"abc".to_vec(), b"de".to_vec()], false)));
        assert_eq!(lines(&[b"a\nb"], 3), Ok((vec![b"a".to_vec()], true)));
        // Also before its end, and when it arrives as a whole.
        for long in [&[&b"ab"[..], b"cd"][..], &[b"abcd"], &[b"abcd\n"], &[b"x\nabcd\n"], &[b"ab", b"cd\n"]] {
            assert_eq!(lines(long, 3), Err("too long".into()), "{long:?}");
        }
        let mut stops = EventLines::new(9);
        assert_eq!(stops.feed(b"a\nb\n", |line| Err::<(), _>(format!("{line:?}"))), Err("[97]".into()));
    }

    proptest! {
        /// However a stream is cut, its lines are those of the whole.
        #[test]
        fn cuts_change_nothing(bytes in "[ab\n]{0,40}", cuts in prop::collection::vec(0usize..41, 0..8), most in 1usize..12) {
            let mut at: Vec<_> = cuts.into_iter().map(|cut| cut.min(bytes.len())).chain([0, bytes.len()]).collect();
            at.sort_unstable();
            let parts: Vec<_> = at.windows(2).map(|cut| &bytes.as_bytes()[cut[0]..cut[1]]).collect();
            let whole: Vec<_> = bytes.split('\n').collect();
            let long = whole.iter().any(|line| line.len() > most);
            let expected: Vec<_> = whole[..whole.len() - 1].iter().filter(|line| !line.is_empty()).collect();
            match lines(&parts, most) {
                Ok((found, within)) => {
                    prop_assert!(!long);
                    prop_assert_eq!(within, !whole.last().unwrap().is_empty());
                    prop_assert!(found.iter().map(Vec::as_slice).eq(expected.iter().map(|line| line.as_bytes())));
                }
                Err(_) => prop_assert!(long),
            }
        }
    }
}
