//! The files of the trail. Only this process appends to them.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::{BEGINNING, Event, Head, hash, line, older};
use lodge_base::config::audit::Audit as Settings;
use lodge_base::files;
use serde_json::Value;

/// How much of the end of a file is read for its last line, which is shorter.
const END: u64 = 256 << 10;

/// The current file, and where the chain is.
pub(super) struct Trail {
    path: PathBuf,
    file: File,
    /// The bytes of whole lines.
    length: u64,
    head: Head,
    most: u64,
    files: usize,
}

impl Trail {
    /// Opens the file, and continues its chain.
    ///
    /// # Errors
    /// One line.
    pub(super) fn open(path: &Path, settings: &Settings) -> Result<Self, String> {
        let file = create(path).map_err(|error| error.to_string())?;
        let mut trail = Self {
            path: path.to_owned(),
            file,
            length: 0,
            head: Head { next: 1, hash: BEGINNING },
            most: settings.size as u64,
            files: settings.files,
        };
        trail.resume().map_err(|error| error.to_string())?;
        Ok(trail)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Finds the end of the chain, in this file or in the one before it.
    fn resume(&mut self) -> io::Result<()> {
        self.length = self.file.metadata()?.len();
        let last = match last_line(&self.file, self.length)? {
            Some(last) => Some(last),
            None => match files::open(&older(&self.path, 1)) {
                Ok((file, metadata)) => last_line(&file, metadata.len())?,
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                Err(error) => return Err(error),
            },
        };
        if let Some(last) = last {
            self.head = Head { next: number(&last).map_or(1, |number| number.saturating_add(1)), hash: hash(&last) };
        }
        // A host that ended while it wrote leaves a part of a line, which stays: this is append-only.
        if self.length > 0 && !ends_in_newline(&self.file)? {
            self.file.write_all(b"\n")?;
            self.length += 1;
        }
        Ok(())
    }

    /// Appends a line. After an error, the file is as before.
    ///
    /// # Errors
    /// Those of the file system.
    pub(super) fn append(&mut self, time: SystemTime, event: &Event) -> io::Result<()> {
        let text = line(self.head, time, event).map_err(io::Error::other)?;
        let size = text.len() as u64 + 1;
        self.find_again()?;
        if self.length > 0 && self.length.saturating_add(size) > self.most {
            self.rotate()?;
        }
        let written = self.file.write_all(format!("{text}\n").as_bytes());
        if let Err(error) = written {
            // A part of a line would not be one.
            self.file.set_len(self.length)?;
            return Err(error);
        }
        self.length = self.length.saturating_add(size);
        self.head = Head { next: self.head.next.saturating_add(1), hash: hash(text.as_bytes()) };
        Ok(())
    }

    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// Goes on in the file at the path, if that is another one than before: lines in a file that was removed are lost.
    fn find_again(&mut self) -> io::Result<()> {
        let identity = |metadata: &fs::Metadata| (metadata.dev(), metadata.ino());
        let own = identity(&self.file.metadata()?);
        match fs::metadata(&self.path) {
            Ok(metadata) if identity(&metadata) == own => return Ok(()),
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        self.file = create(&self.path)?;
        self.length = self.file.metadata()?.len();
        tracing::error!(
            "audit.file: {} was removed or replaced; the trail goes on at line {} in the file that is there now",
            self.path.display(),
            self.head.next
        );
        Ok(())
    }

    /// Begins the next file. The chain goes on in it.
    fn rotate(&mut self) -> io::Result<()> {
        self.file.sync_data()?;
        for number in (1..self.files.saturating_sub(1)).rev() {
            match fs::rename(older(&self.path, number), older(&self.path, number.saturating_add(1))) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        fs::rename(&self.path, older(&self.path, 1))?;
        (self.file, self.length) = (create(&self.path)?, 0);
        Ok(())
    }
}

fn create(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().create(true).append(true).read(true).mode(0o600).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    file.try_lock().map_err(|error| match error {
        TryLockError::WouldBlock => io::Error::other("another host writes to it; give each its own"),
        TryLockError::Error(error) => error,
    })?;
    Ok(file)
}

/// Returns the last line, without its newline, if there is one; also one that is cut off.
fn last_line(mut file: &File, length: u64) -> io::Result<Option<Vec<u8>>> {
    file.seek(SeekFrom::Start(length.saturating_sub(END)))?;
    let mut end = Vec::new();
    file.take(END).read_to_end(&mut end)?;
    let end = end.strip_suffix(b"\n").unwrap_or(&end);
    let last = end.rsplit(|byte| *byte == b'\n').next().unwrap_or_default();
    Ok((!last.is_empty()).then(|| last.to_owned()))
}

fn ends_in_newline(mut file: &File) -> io::Result<bool> {
    file.seek(SeekFrom::End(-1))?;
    let mut last = [0];
    file.read_exact(&mut last)?;
    Ok(last == *b"\n")
}

/// Returns the number of a line; that of one that is cut off, if it is in the part that is there.
fn number(line: &[u8]) -> Option<u64> {
    if let Ok(value) = serde_json::from_slice::<Value>(line) {
        return value.get("seq")?.as_u64();
    }
    let text = std::str::from_utf8(line).ok()?;
    let digits = text.split_once("\"seq\":")?.1;
    digits.split(|char: char| !char.is_ascii_digit()).next()?.parse().ok()
}

#[cfg(test)]
impl Trail {
    /// Makes every write fail, as a full disk does.
    pub(super) fn break_for_test(&mut self) {
        self.file = File::open(&self.path).unwrap();
    }
}
