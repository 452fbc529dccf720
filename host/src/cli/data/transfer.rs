//! `lodge data export` and `import`.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;
use std::time::SystemTime;

use serde::Serialize;

use super::place::DataPlace;
use super::print;
use crate::cli::new_file::NewFile;
use crate::cli::out::{self, CliError};
use crate::cli::units;
use crate::data::dump::{Dump, Header, Trailer};
use crate::data::{ImportCount, StoredEntry};
use lodge_state::limits::MAX_BATCH;

/// The bytes of values, in base64, that an import sends at a time, unless one value is larger.
const PART: usize = 1 << 20;

/// Writes all entries of a service to a file, or to stdout for `-`.
pub(super) fn export(place: &DataPlace, service: &str, path: &Path, json: bool) -> Result<(), CliError> {
    if path == Path::new("-") {
        return write_all(place, service, &mut |line| out::line(&line)).map(drop);
    }
    let mut file = NewFile::create(path)?;
    let entries = write_all(place, service, &mut |line| file.write((line + "\n").as_bytes()))?;
    file.finish()?;
    let shown = path.display();
    print(&Trailer { entries }, json, &format!("{service}: wrote {} to {shown}", units::count(entries, "entry")))
}

/// Writes an export line by line, and returns the number of entries.
fn write_all(
    place: &DataPlace,
    service: &str,
    write: &mut dyn FnMut(String) -> Result<(), CliError>,
) -> Result<u64, CliError> {
    // Before the first line, so that there is no export of a service that stores nothing.
    let mut buckets = place.details(service, "")?;
    write(text(&Header::new(service, lodge_base::time::rfc3339(SystemTime::now()))))?;
    let mut entries = 0;
    loop {
        for bucket in &buckets.buckets {
            let mut cursor = None;
            loop {
                let page = place.entries(service, bucket, cursor.as_deref())?;
                for entry in &page.entries {
                    write(text(entry))?;
                }
                entries += page.entries.len() as u64;
                cursor = page.next;
                if cursor.is_none() {
                    break;
                }
            }
        }
        let Some(after) = buckets.next else { break };
        buckets = place.details(service, &after)?;
    }
    write(text(&Trailer { entries }))?;
    Ok(entries)
}

fn text(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

/// Stores the entries of a file. Reads it twice: nothing is stored from a file that is not sound to its end.
pub(super) fn import(place: &DataPlace, service: &str, path: &Path, json: bool) -> Result<(), CliError> {
    let wrong = |why: String| CliError::new(format!("{}: {why}; nothing was stored", path.display()));
    let mut dump = open(path).map_err(wrong)?;
    while dump.next_entry().map_err(wrong)?.is_some() {}
    if dump.header.service != service {
        out::notice(&format!("this is an export of {}", out::clean(&dump.header.service)));
    }
    let mut dump = open(path).map_err(wrong)?;
    let (mut part, mut size, mut count) = (Vec::new(), 0, ImportCount::default());
    let changed = |why: String| CliError::new(format!("{}: the file was changed: {why}", path.display()));
    while let Some(entry) = dump.next_entry().map_err(changed)? {
        if part.len() >= MAX_BATCH || (size + entry.value.len() > PART && !part.is_empty()) {
            store(place, service, &mut part, &mut count)?;
            size = 0;
        }
        size += entry.value.len();
        part.push(entry);
    }
    store(place, service, &mut part, &mut count)?;
    let ImportCount { stored, expired } = count;
    let expired = if expired == 0 { String::new() } else { format!(" ({expired} had expired)") };
    print(&count, json, &format!("{service}: stored {}{expired}", units::count(stored, "entry")))
}

fn open(path: &Path) -> Result<Dump<BufReader<File>>, String> {
    Dump::open(BufReader::new(File::open(path).map_err(|error| error.to_string())?))
}

/// Stores a part, and empties it.
fn store(
    place: &DataPlace,
    service: &str,
    part: &mut Vec<StoredEntry>,
    count: &mut ImportCount,
) -> Result<(), CliError> {
    if part.is_empty() {
        return Ok(());
    }
    let done = place.import(service, part).map_err(|error| match error {
        CliError::Problem(why) | CliError::Unreachable(why) if count.stored > 0 => {
            let before = count.stored;
            CliError::Problem(format!("{why}; {before} entries were stored before: import the file again to go on"))
        }
        other => other,
    })?;
    count.stored += done.stored;
    count.expired += done.expired;
    part.clear();
    Ok(())
}
