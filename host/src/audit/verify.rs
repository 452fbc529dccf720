//! Checks the chain of audit files.

use std::collections::BTreeSet;
use std::io::{self, BufRead, Read};

use serde_json::Value;

use super::trail::Head;
use super::{hash, hex, is_part, number, without_end};

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

/// Why nothing but the start of a host can follow the end of one.
const AFTER_END: &str = "it follows the end of a host, which wrote no more lines";

/// What a line has between its number and the hash.
const PREVIOUS: &str = ",\"previous\":\"";

/// A chain that is being checked, over one file or several, the oldest first.
#[derive(Debug)]
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
    /// Where the chain is; `None` while nothing says it: before the first line, and parts before that which are too short.
    head: Option<Head>,
    /// Where the chain would be if the files begin with the beginning of the trail, before the first line.
    beginning: Option<Head>,
    /// Whether the last host has stopped; `None` before the first line.
    stopped: Option<bool>,
    /// The last line was a part of one.
    part: bool,
}

impl Default for Chain {
    fn default() -> Self {
        Self {
            lines: 0,
            lost: 0,
            cut_off: 0,
            ends: None,
            whole: false,
            wanted: BTreeSet::new(),
            unstopped: None,
            head: None,
            beginning: Some(Head::FIRST),
            stopped: None,
            part: false,
        }
    }
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
            return if is_part(line) { self.add_part(line) } else { Err(NONE.into()) };
        };
        let text = |name: &str| value.get(name).and_then(Value::as_str);
        let number = |name: &str| value.get(name).and_then(Value::as_u64);
        let (Some(seq), Some(previous)) = (number("seq"), text("previous")) else { return Err(NONE.into()) };
        match self.head {
            Some(head) if previous != hex(&head.hash) => {
                return Err("the line before it was changed, removed or added".into());
            }
            Some(Head { next, .. }) if seq != next => {
                return Err(format!("it has the number {seq} in place of {next}"));
            }
            _ => {}
        }
        if self.ends.is_none() {
            self.whole = self.beginning.is_some_and(|head| head.next == seq && hex(&head.hash) == previous);
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
        self.head = Some(Head::FIRST.after(line));
        Ok(())
    }

    /// Adds a part of a line. It has to be one of the line that would follow: the next one has the hash of what is before the part,
    /// and of the part, so nobody can pass off another text as one.
    fn add_part(&mut self, part: &[u8]) -> Result<(), String> {
        let known = self.head;
        let begins = |head: &Head| {
            let (opening, written) = (head.opening(), without_end(part));
            written.starts_with(opening.as_bytes()) || opening.as_bytes().starts_with(written)
        };
        // Before the first line, only the part itself says what is before it, if it is long enough.
        let head = known.or_else(|| written_head(part));
        match head {
            Some(head) if begins(&head) => self.head = Some(head.after(part)),
            None if has_no_content(part) => {}
            _ => return Err("it is not a part of the line that would follow what is before it".into()),
        }
        if self.stopped == Some(true) && !begins_host(part) {
            return Err(AFTER_END.into());
        }
        self.beginning = self.beginning.filter(begins).map(|head| head.after(part));
        self.part = true;
        self.cut_off = self.cut_off.saturating_add(1);
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
            (_, Some(true)) => return Err(AFTER_END.into()),
        }
        self.stopped = Some(kind == Some("stopped"));
        Ok(())
    }

    /// Whether the last line is a part of one. It may have been made so, since no line after it has its hash.
    pub fn ends_cut_off(&self) -> bool {
        self.part
    }
}

/// Splits the beginning of a line after its number, which is there up to its last digit or to the end of a part.
fn split_number(part: &[u8]) -> Option<(&str, &str)> {
    let text = std::str::from_utf8(without_end(part)).ok()?.strip_prefix("{\"seq\":")?;
    Some(text.split_at(text.find(|digit: char| !digit.is_ascii_digit()).unwrap_or(text.len())))
}

/// Returns what a part says is before it, if it is long enough.
fn written_head(part: &[u8]) -> Option<Head> {
    let (number, rest) = split_number(part)?;
    let digits = rest.strip_prefix(PREVIOUS)?.get(..64)?;
    let mut hash = [0; 32];
    for (at, byte) in hash.iter_mut().enumerate() {
        *byte = u8::from_str_radix(digits.get(at * 2..at * 2 + 2)?, 16).ok()?;
    }
    Some(Head { next: number.parse().ok()?, hash })
}

/// Whether a part ends before or in the hash: it says nothing that would need a proof.
fn has_no_content(part: &[u8]) -> bool {
    let Some((_, rest)) = split_number(part) else { return b"{\"seq\":".starts_with(without_end(part)) };
    match rest.strip_prefix(PREVIOUS) {
        Some(hash) => hash.len() < 64 && hash.bytes().all(|digit| digit.is_ascii_hexdigit()),
        None => PREVIOUS.starts_with(rest),
    }
}

/// Whether a part can be one of a line with which a host begins: fields are in the order of their names.
fn begins_host(part: &[u8]) -> bool {
    let text = String::from_utf8_lossy(without_end(part));
    let fields = text.split_once("\"time\":\"").and_then(|(_, rest)| rest.split_once("\","));
    let Some((_, fields)) = fields else { return true };
    ["\"directory\":\"", "\"kind\":\"lost\""].iter().any(|begun| fields.starts_with(begun) || begun.starts_with(fields))
}
