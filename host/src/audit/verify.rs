//! Checks the chain of audit files.

use std::collections::BTreeSet;
use std::io::{self, BufRead, Read};

use serde_json::Value;

use super::{BEGINNING, hash, hex, is_part, number};

/// The most bytes of a line.
const MOST_LINE: u64 = 64 << 10;

/// The most lines at the beginning of a file that may be parts of lines.
const MOST_PARTS: usize = 64;

/// Returns the number of the first line of a file; `None` if it has none.
///
/// # Errors
/// If the file cannot be read.
pub fn first_number(mut file: impl BufRead) -> io::Result<Option<u64>> {
    for _ in 0..MOST_PARTS {
        let mut line = Vec::new();
        if file.by_ref().take(MOST_LINE).read_until(b'\n', &mut line)? == 0 {
            break;
        }
        if let Some(number) = number(&line) {
            return Ok(Some(number));
        }
    }
    Ok(None)
}

/// A chain that is being checked, over one file or several, the oldest first.
#[derive(Debug, Default)]
pub struct Chain {
    /// The lines so far.
    pub lines: u64,
    /// The lines that the trail says are lost.
    pub lost: u64,
    /// The parts of lines that a host left which ended while it wrote.
    pub cut_off: u64,
    /// The number and the hash of the first and the last line.
    pub ends: Option<[(u64, String); 2]>,
    /// Whether the first line is the first of its trail.
    pub whole: bool,
    /// The hashes that a line must have, in lower case, and that none has yet.
    pub wanted: BTreeSet<String>,
    /// The number of hosts that began though the one before had not written that it stopped, and the line of the last of them.
    pub unstopped: Option<(u64, u64)>,
    /// The hash that the next line has to name, and its number if that is known.
    expected: Option<([u8; 32], Option<u64>)>,
    /// Whether the last host has stopped; `None` before the first line.
    stopped: Option<bool>,
    /// The last line was a part of one.
    part: bool,
}

impl Chain {
    /// Returns a chain that is to contain lines with these hashes, in hexadecimal.
    pub fn with<'a>(hashes: impl IntoIterator<Item = &'a String>) -> Self {
        let wanted = hashes.into_iter().map(|hash| hash.to_ascii_lowercase()).collect();
        Self { wanted, ..Self::default() }
    }

    /// Reads a file.
    ///
    /// # Errors
    /// The first line that does not continue the chain, and why; or what cannot be read.
    pub fn read(&mut self, mut file: impl BufRead) -> Result<(), String> {
        let mut at = 0_u64;
        loop {
            at = at.saturating_add(1);
            let mut line = Vec::new();
            let read = file.by_ref().take(MOST_LINE + 1).read_until(b'\n', &mut line);
            if read.map_err(|error: io::Error| error.to_string())? == 0 {
                return Ok(());
            }
            let line = line.strip_suffix(b"\n").unwrap_or(&line);
            if line.len() as u64 > MOST_LINE {
                return Err(format!("line {at} is longer than any line of a trail"));
            }
            self.add(line).map_err(|why| format!("line {at}: {why}"))?;
        }
    }

    fn add(&mut self, line: &[u8]) -> Result<(), String> {
        const NONE: &str = "it is not a line of a trail";
        let Ok(value) = serde_json::from_slice::<Value>(line) else {
            if !is_part(line) {
                return Err(NONE.into());
            }
            // The next line has its hash, so nobody can pass off another text as one.
            self.part = true;
            self.cut_off = self.cut_off.saturating_add(1);
            let next = self.expected.and_then(|(_, next)| next);
            self.expected = Some((hash(line), next.map(|next| next.saturating_add(1))));
            return Ok(());
        };
        let text = |name: &str| value.get(name).and_then(Value::as_str);
        let number = |name: &str| value.get(name).and_then(Value::as_u64);
        let (Some(seq), Some(previous)) = (number("seq"), text("previous")) else { return Err(NONE.into()) };
        match self.expected {
            Some((before, _)) if previous != hex(&before) => {
                return Err("the line before it was changed, removed or added".into());
            }
            Some((_, Some(next))) if seq != next => {
                return Err(format!("it has the number {seq} in place of {next}"));
            }
            _ => {}
        }
        if self.ends.is_none() {
            // Parts may be before the first line.
            self.whole = seq.checked_sub(self.cut_off) == Some(1) && (self.cut_off > 0 || previous == hex(&BEGINNING));
        }
        self.follow(seq, text("kind"))?;
        self.part = false;
        let own = (seq, hex(&hash(line)));
        self.wanted.remove(&own.1);
        let first = self.ends.take().map_or_else(|| own.clone(), |[first, _]| first);
        self.ends = Some([first, own]);
        self.lines = self.lines.saturating_add(1);
        if text("kind") == Some("lost") {
            self.lost = self.lost.saturating_add(number("lines").unwrap_or(0));
        }
        self.expected = Some((hash(line), Some(seq.saturating_add(1))));
        Ok(())
    }

    /// Follows the starts and ends of hosts.
    fn follow(&mut self, seq: u64, kind: Option<&str>) -> Result<(), String> {
        match (kind, self.stopped) {
            // A host says what the one before has lost, before it says that it starts.
            (Some("lost"), Some(_)) => return Ok(()),
            (Some("started"), Some(false)) => {
                self.unstopped = Some((self.unstopped.map_or(1, |(count, _)| count.saturating_add(1)), seq));
            }
            (Some("started"), _) | (_, None | Some(false)) => {}
            (_, Some(true)) => return Err("it follows the end of a host, which wrote no more lines".into()),
        }
        self.stopped = Some(kind == Some("stopped"));
        Ok(())
    }

    /// Whether the last line is a part of one. It may have been made so, since no line after it has its hash.
    pub fn ends_cut_off(&self) -> bool {
        self.part
    }
}
