//! The format of exports: lines of JSON. The first is a [`Header`], the last a [`Trailer`], and each line between them an
//! entry. The trailer proves that the file is complete.

use std::io::{BufRead, Read};

use lodge_state::limits;
use serde::{Deserialize, Serialize};

use super::StoredEntry;

/// The version of the format.
const VERSION: u32 = 1;

/// The most bytes of a line: the largest value in base64, and names of which every byte is escaped.
const MAX_LINE: u64 = (limits::MAX_VALUE * 4 / 3 + 6 * (limits::MAX_KEY + limits::MAX_BUCKET) + 1024) as u64;

/// The first line.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Header {
    /// The version of the format.
    pub lodge_data: u32,
    /// The service whose data it is.
    pub service: String,
    /// When it was exported, in RFC 3339.
    pub exported: String,
}

impl Header {
    /// The header of an export of `service` at the time `exported`.
    pub fn new(service: &str, exported: String) -> Self {
        Self { lodge_data: VERSION, service: service.to_owned(), exported }
    }
}

/// The last line.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Trailer {
    /// The number of entries before it.
    pub entries: u64,
}

/// A reader of an export. It yields entries until the trailer; whatever else it finds is a problem with its line.
pub struct Dump<R> {
    from: R,
    /// The header.
    pub header: Header,
    line: u64,
    entries: u64,
    ended: bool,
}

impl<R: BufRead> Dump<R> {
    /// Reads the header of an export.
    ///
    /// # Errors
    /// If `from` is no export, or one of a later version.
    pub fn open(from: R) -> Result<Self, String> {
        let header = Header { lodge_data: 0, service: String::new(), exported: String::new() };
        let mut dump = Self { from, header, line: 0, entries: 0, ended: false };
        let first = dump.next_line()?;
        dump.header = first
            .and_then(|line| serde_json::from_slice(&line).ok())
            .ok_or("it is not an export of Lodge: its first line is no header")?;
        if dump.header.lodge_data != VERSION {
            let version = dump.header.lodge_data;
            return Err(format!("it has version {version} of the format, and this program reads version {VERSION}"));
        }
        Ok(dump)
    }

    fn next_line(&mut self) -> Result<Option<Vec<u8>>, String> {
        self.line += 1;
        let (mut bytes, line) = (Vec::new(), self.line);
        let read = self.from.by_ref().take(MAX_LINE).read_until(b'\n', &mut bytes);
        read.map_err(|error| format!("it cannot be read: {error}"))?;
        if bytes.is_empty() {
            return Ok(None);
        }
        if bytes.pop() != Some(b'\n') {
            return Err(match bytes.len() as u64 + 1 < MAX_LINE {
                true => format!("line {line} has no end: the file was cut off"),
                false => format!("line {line} has over {MAX_LINE} bytes"),
            });
        }
        Ok(Some(bytes))
    }

    /// Reads the next entry; `None` after the trailer.
    ///
    /// # Errors
    /// If the line is no entry, or the file is not complete.
    pub fn next_entry(&mut self) -> Result<Option<StoredEntry>, String> {
        if self.ended {
            return Ok(None);
        }
        let Some(text) = self.next_line()? else {
            return Err(format!("it ends after {} entries without its last line: the file was cut off", self.entries));
        };
        let line = self.line;
        if let Ok(Trailer { entries }) = serde_json::from_slice(&text) {
            if entries != self.entries {
                return Err(format!("line {line} says {entries} entries, and there are {}", self.entries));
            }
            if self.next_line()?.is_some() {
                return Err(format!("line {line} is the last one, and more follow"));
            }
            self.ended = true;
            return Ok(None);
        }
        let entry: StoredEntry = serde_json::from_slice(&text).map_err(|error| format!("line {line}: {error}"))?;
        let checked = entry.bytes().map(drop).and_then(|()| entry.expiry().map(drop));
        let named = checked.and_then(|()| lodge_state::Key::new(&entry.bucket, &entry.key).map(drop));
        named.map_err(|error| format!("line {line}: {error}"))?;
        self.entries += 1;
        Ok(Some(entry))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<StoredEntry>, String> {
        let mut dump = Dump::open(text.as_bytes())?;
        let mut entries = Vec::new();
        while let Some(entry) = dump.next_entry()? {
            entries.push(entry);
        }
        Ok(entries)
    }

    const HEADER: &str = r#"{"lodge_data":1,"service":"users","exported":"2026-11-21T10:00:00Z"}"#;
    const ENTRY: &str = r#"{"bucket":"b","key":"k","value":"eA=="}"#;

    #[test]
    fn only_a_complete_file_is_read_to_its_end() {
        let whole = format!("{HEADER}\n{ENTRY}\n{ENTRY}\n{{\"entries\":2}}\n");
        assert_eq!(read(&whole).unwrap().len(), 2);
        for length in 0..whole.len() {
            assert!(read(&whole[..length]).is_err(), "{:?}", &whole[..length]);
        }
    }

    #[test]
    fn problems_name_the_line() {
        let problem = |text: &str| read(text).unwrap_err();
        assert_eq!(problem(""), "it is not an export of Lodge: its first line is no header");
        assert_eq!(problem("{}\n"), "it is not an export of Lodge: its first line is no header");
        let newer = HEADER.replace(":1", ":2");
        assert_eq!(problem(&format!("{newer}\n")), "it has version 2 of the format, and this program reads version 1");
        let after = |lines: &str| problem(&format!("{HEADER}\n{lines}"));
        assert_eq!(after("{\"entries\":1}\n"), "line 2 says 1 entries, and there are 0");
        assert_eq!(after(&format!("{{\"entries\":0}}\n{ENTRY}\n")), "line 2 is the last one, and more follow");
        assert!(
            after("{\"bucket\":\"b\",\"key\":\"k\",\"value\":\"x\"}\n").starts_with("line 2: the value is not base64")
        );
        assert!(after("{\"bucket\":\"b\",\"value\":\"\"}\n").starts_with("line 2: the key is empty"));
        assert!(after(&"x".repeat(MAX_LINE as usize + 1)).contains("bytes"));
    }
}
