//! Checks the chain of audit files.

use std::io::{self, BufRead, Read};

use serde_json::Value;

use super::{BEGINNING, hash, hex};

/// The most bytes of a line.
const MOST_LINE: u64 = 64 << 10;

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
    /// What the next line has to say.
    expected: Option<(u64, [u8; 32])>,
    /// The last line was a part of one.
    part: bool,
}

impl Chain {
    /// Reads a file.
    ///
    /// # Errors
    /// The first line that does not continue the chain, and why; or what cannot be read.
    pub fn read(&mut self, mut file: impl BufRead) -> Result<(), String> {
        let mut number = 0_u64;
        loop {
            number = number.saturating_add(1);
            let mut line = Vec::new();
            let read = file.by_ref().take(MOST_LINE + 1).read_until(b'\n', &mut line);
            if read.map_err(|error: io::Error| error.to_string())? == 0 {
                return Ok(());
            }
            let line = line.strip_suffix(b"\n").unwrap_or(&line);
            if line.len() as u64 > MOST_LINE {
                return Err(format!("line {number} is longer than any line of a trail"));
            }
            self.add(line).map_err(|why| format!("line {number}: {why}"))?;
        }
    }

    fn add(&mut self, line: &[u8]) -> Result<(), String> {
        let Ok(value) = serde_json::from_slice::<Value>(line) else {
            // The next line has its hash, so nobody can pass off another text as one.
            let (next, _) = self.expected.ok_or("it is not a line of a trail")?;
            if std::mem::replace(&mut self.part, true) {
                return Err("it is not a line of a trail".into());
            }
            self.cut_off = self.cut_off.saturating_add(1);
            self.expected = Some((next.saturating_add(1), hash(line)));
            return Ok(());
        };
        let (seq, previous) = (value.get("seq").and_then(Value::as_u64), value.get("previous").and_then(Value::as_str));
        let (Some(seq), Some(previous)) = (seq, previous) else { return Err("it is not a line of a trail".into()) };
        match self.expected {
            Some((_, before)) if previous != hex(&before) => {
                return Err("the line before it was changed, removed or added".into());
            }
            // The number of a part of a line may not be known.
            Some((next, _)) if seq != next && !self.part => {
                return Err(format!("it has the number {seq} in place of {next}"));
            }
            Some(_) => {}
            None => self.whole = previous == hex(&BEGINNING) && seq == 1,
        }
        self.part = false;
        let own = (seq, hex(&hash(line)));
        let first = self.ends.take().map_or_else(|| own.clone(), |[first, _]| first);
        self.ends = Some([first, own]);
        self.lines = self.lines.saturating_add(1);
        if value.get("kind").and_then(Value::as_str) == Some("lost") {
            self.lost = self.lost.saturating_add(value.get("lines").and_then(Value::as_u64).unwrap_or(0));
        }
        self.expected = Some((seq.saturating_add(1), hash(line)));
        Ok(())
    }

    /// Whether the last line is a part of one. It may have been made so, since no line after it has its hash.
    pub fn ends_cut_off(&self) -> bool {
        self.part
    }
}
