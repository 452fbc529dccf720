//! The files of the trail. Only this process appends to them.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use super::{BEGINNING, Event, MOST_TEXT, hash, hex, is_part, number, older, with_suffix};
use lodge_base::config::audit::Audit as Settings;
use lodge_base::files;
use serde_json::Value;

/// How much of the end of a file is read for its last lines, which are shorter.
const END: u64 = 256 << 10;

/// The time from a rotation that failed to the next one.
const ROTATE_AGAIN: Duration = Duration::from_secs(60);

/// The current file, and where the chain is.
pub(super) struct Trail {
    path: PathBuf,
    file: File,
    /// The bytes of the file.
    length: u64,
    /// The file does not end with a newline.
    ragged: bool,
    head: Head,
    most: u64,
    files: usize,
    /// When a rotation failed.
    unrotated: Option<Instant>,
}

/// Where a chain is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    /// The number of the next line.
    pub(super) next: u64,
    /// What the next line names as `previous`.
    pub(super) hash: [u8; 32],
}

impl Head {
    /// The head of a trail without lines.
    pub(super) const FIRST: Self = Self { next: 1, hash: BEGINNING };

    /// Returns where a chain is after this text, which follows it. A line names what is before it; any other text does not, and
    /// its hash is that of both: a chain that began again after it would prove nothing about the lines before.
    pub(super) fn after(self, text: &[u8]) -> Self {
        match number(text) {
            Some(number) => Self { next: number.saturating_add(1), hash: hash(text) },
            // A line begins with a brace, and no hash does: no line has the same hash.
            None => {
                Self { next: self.next.saturating_add(1), hash: hash(&[hex(&self.hash).as_bytes(), text].concat()) }
            }
        }
    }

    /// Returns where a chain is after these lines: the last one with a number says it, and those after that are counted, as in a check.
    fn after_all(text: &[u8]) -> Self {
        let text = text.strip_suffix(b"\n").unwrap_or(text);
        let lines = text.split(|byte| *byte == b'\n').filter(|_| !text.is_empty());
        lines.fold(Self::FIRST, Self::after)
    }

    /// Returns how the next line begins, up to its time.
    pub(super) fn opening(&self) -> String {
        format!("{{\"seq\":{},\"previous\":\"{}\",\"time\":\"", self.next, hex(&self.hash))
    }
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
            ragged: false,
            head: Head::FIRST,
            most: settings.size as u64,
            files: settings.files,
            unrotated: None,
        };
        trail.resume().map_err(|error| error.to_string())?;
        Ok(trail)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Finds the end of the chain, in this file or in the one before it.
    fn resume(&mut self) -> io::Result<()> {
        self.settle()?;
        let mut end = end(&self.file, self.length)?;
        if !end.split(|byte| *byte == b'\n').any(|line| number(line).is_some()) {
            let before = older(&self.path, 1);
            match files::open(&before) {
                Ok((file, metadata)) => {
                    let mut all = self::end(&file, metadata.len())?;
                    if all.last().is_some_and(|last| *last != b'\n') {
                        all.push(b'\n');
                    }
                    all.append(&mut end);
                    end = all;
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(io::Error::other(format!("{}: {error}", before.display()))),
            }
        }
        self.head = Head::after_all(&end);
        let last = end.strip_suffix(b"\n").unwrap_or(&end).rsplit(|byte| *byte == b'\n').next().unwrap_or_default();
        if !end.is_empty() && number(last).is_none() && !is_part(last) {
            let shown = self.path.display();
            tracing::error!(
                "audit.file: {shown} ends with a text that is no line of a trail; `lodge audit verify` finds it"
            );
        }
        Ok(())
    }

    /// Finds the end of the file. A part of a line stays, since this is append-only, and gets its newline with the next one.
    fn settle(&mut self) -> io::Result<()> {
        self.length = self.file.metadata()?.len();
        self.ragged = self.length > 0 && !ends_in_newline(&self.file)?;
        Ok(())
    }

    /// Appends a line. After an error, the file is as before; or has a part of a line, if it allows nothing but to append.
    ///
    /// # Errors
    /// Those of the file system.
    pub(super) fn append(&mut self, time: SystemTime, event: &Event) -> io::Result<()> {
        self.find_again()?;
        let text = line(self.head, time, event).map_err(io::Error::other)?;
        if self.length > 0 && self.length.saturating_add(text.len() as u64 + 1) > self.most {
            self.rotate();
        }
        let newline = if self.ragged { "\n" } else { "" };
        let written = format!("{newline}{text}\n");
        if let Err(error) = self.file.write_all(written.as_bytes()) {
            self.take_back();
            return Err(error);
        }
        self.length = self.length.saturating_add(written.len() as u64);
        self.ragged = false;
        self.head = self.head.after(text.as_bytes());
        Ok(())
    }

    /// Removes the part of a line that was written. Makes the file never longer, as it would be with NUL bytes.
    pub(super) fn take_back(&mut self) {
        let is_longer = self.file.metadata().is_ok_and(|metadata| metadata.len() > self.length);
        if is_longer && self.file.set_len(self.length).is_err() {
            // As after a host that ended while it wrote.
            let _ = self.resume();
        }
    }

    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// Goes on in the file at the path, if that is another one than before: lines in a file that was removed are lost.
    fn find_again(&mut self) -> io::Result<()> {
        let identity = |metadata: &fs::Metadata| (metadata.dev(), metadata.ino());
        let own = identity(&self.file.metadata()?);
        let (shown, next) = (self.path.display(), self.head.next);
        match fs::metadata(&self.path) {
            Ok(metadata) if identity(&metadata) == own && metadata.len() == self.length => return Ok(()),
            Ok(metadata) if identity(&metadata) == own => {
                let (found, left) = (metadata.len(), self.length);
                tracing::error!(
                    "audit.file: {shown} was changed while the host runs: it has {found} bytes in place of {left}; the trail goes on \
                     at line {next}"
                );
                return self.settle();
            }
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        self.file = create(&self.path)?;
        tracing::error!(
            "audit.file: {shown} was removed or replaced; the trail goes on at line {next} in the file that is there now"
        );
        self.settle()
    }

    /// Begins the next file, in which the chain goes on. If that fails, the trail goes on in this one, and grows.
    fn rotate(&mut self) {
        if self.unrotated.is_some_and(|at| at.elapsed() < ROTATE_AGAIN) {
            return;
        }
        match self.begin_next() {
            Ok(()) => self.unrotated = None,
            Err(why) => {
                if self.unrotated.replace(Instant::now()).is_none() {
                    let shown = self.path.display();
                    tracing::error!(
                        "audit.file: {why}; the trail goes on in {shown}, which grows beyond audit.size until then"
                    );
                }
            }
        }
    }

    /// # Errors
    /// Which file cannot be moved or created, and why; the file that is written to is at its path then.
    fn begin_next(&mut self) -> Result<(), String> {
        // Lines that the disk does not take are the same in a file of another name.
        let _ = self.file.sync_data();
        let shift = |from: &Path, to: &Path| {
            fs::rename(from, to).map_err(|error| {
                (error.kind(), format!("{} cannot be moved to {}: {error}", from.display(), to.display()))
            })
        };
        for number in (1..self.files.saturating_sub(1)).rev() {
            match shift(&older(&self.path, number), &older(&self.path, number.saturating_add(1))) {
                Err((kind, why)) if kind != io::ErrorKind::NotFound => return Err(why),
                _ => {}
            }
        }
        let moved = older(&self.path, 1);
        shift(&self.path, &moved).map_err(|(_, why)| why)?;
        match create(&self.path) {
            Ok(file) => {
                (self.file, self.length, self.ragged) = (file, 0, false);
                Ok(())
            }
            Err(error) => {
                let _ = fs::rename(&moved, &self.path);
                Err(format!("{} cannot be created: {error}", self.path.display()))
            }
        }
    }

    /// The file that says, for the next host, that lines are lost which the trail does not tell of.
    fn lost_file(&self) -> PathBuf {
        with_suffix(&self.path, "lost")
    }

    /// Returns the lines that a host before this one lost without telling, at least.
    pub(super) fn lost_before(&self) -> u64 {
        match files::read_text(&self.lost_file(), 64) {
            // On a full disk, the file could be created, and its text not be written.
            Ok(text) => text.trim().parse().unwrap_or(1),
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(_) => 1,
        }
    }

    /// Notes that lines are lost, if the directory can be written.
    pub(super) fn note_lost(&self, lines: u64) {
        let file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(self.lost_file());
        let _ = file.and_then(|mut file| writeln!(file, "{lines}"));
    }

    /// Removes the note, after a line has told of them.
    pub(super) fn forget_lost(&self) {
        let _ = fs::remove_file(self.lost_file());
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

/// Returns the end of a file of this length.
fn end(mut file: &File, length: u64) -> io::Result<Vec<u8>> {
    file.seek(SeekFrom::Start(length.saturating_sub(END)))?;
    let mut end = Vec::new();
    file.take(END).read_to_end(&mut end)?;
    Ok(end)
}

fn ends_in_newline(mut file: &File) -> io::Result<bool> {
    file.seek(SeekFrom::End(-1))?;
    let mut last = [0];
    file.read_exact(&mut last)?;
    Ok(last == *b"\n")
}

/// The text of a line, without its newline: the number first, which is there if the line is cut off.
pub(super) fn line(head: Head, time: SystemTime, event: &Event) -> Result<String, serde_json::Error> {
    let mut fields = serde_json::to_value(event)?;
    if let Value::Object(fields) = &mut fields {
        fields.values_mut().for_each(shorten);
    }
    let (fields, time) = (serde_json::to_string(&fields)?, humantime::format_rfc3339_millis(time));
    // Every event has a kind, so there is a first field.
    let fields = fields.strip_prefix('{').unwrap_or_default();
    Ok(format!("{}{time}\",{fields}", head.opening()))
}

/// Cuts a text off that a client could make longer than any that is of use.
fn shorten(value: &mut Value) {
    if let Value::String(text) = value
        && text.len() > MOST_TEXT
    {
        let end = (0..=MOST_TEXT).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
}

#[cfg(test)]
impl Trail {
    /// Makes every write fail, as a full disk does.
    pub(super) fn break_for_test(&mut self) {
        self.file = File::open(&self.path).unwrap();
    }

    /// Makes the next rotation due.
    pub(super) fn rotate_again_for_test(&mut self) {
        self.unrotated = self.unrotated.and_then(|at| at.checked_sub(ROTATE_AGAIN));
    }
}
