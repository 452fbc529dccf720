//! `lodge data`: what services store.

mod copies;
mod dead;
mod place;
mod transfer;

use std::io::Read;
use std::path::PathBuf;

use clap::ArgMatches;
use serde::Serialize;

use self::place::DataPlace;
use super::out::{self, CliError, clean};
use super::table::{Side, TextTable};
use super::{flag, text, units};
use crate::data::{StoreStatus, StoredEntry};
use lodge_base::config::Resolved;
use lodge_base::config::key::duration;
use lodge_state::limits::{MAX_PAGE, MAX_TTL, MAX_VALUE};

/// The entries of a list by default.
const LIST: u64 = 100;

/// Runs `lodge data NAME`.
pub(super) fn run(name: &str, matches: &ArgMatches, resolved: &Resolved) -> Result<(), CliError> {
    let json = flag(matches, "json");
    let file = matches.try_get_one::<PathBuf>("file").ok().flatten();
    match (name, file) {
        ("dead", _) => return dead::run(matches, resolved, json),
        ("backup", Some(file)) => return copies::backup(resolved, file, json),
        ("restore", Some(file)) => return copies::restore(&resolved.config, file, flag(matches, "force")),
        _ => {}
    }
    let place = DataPlace::new(resolved, flag(matches, "offline"), matches!(name, "set" | "import"))?;
    let done = run_at(&place, name, matches, json);
    place.close();
    done
}

fn run_at(place: &DataPlace, name: &str, matches: &ArgMatches, json: bool) -> Result<(), CliError> {
    let argument = |name| text(matches, name).map_or("", String::as_str);
    let (service, bucket, key) = (argument("name"), argument("bucket"), argument("key"));
    let file = matches.try_get_one::<PathBuf>("file").ok().flatten();
    match (name, file) {
        ("list", _) if service.is_empty() => list_services(&place.services()?, json),
        ("list", _) => {
            let limit = matches.try_get_one::<u64>("limit").ok().flatten().copied().unwrap_or(LIST);
            let from = text(matches, "cursor").cloned();
            if bucket.is_empty() {
                list_buckets(place, service, from, json)
            } else {
                list_keys(place, (service, bucket, argument("prefix")), (from, limit), json)
            }
        }
        ("get", _) => get(place, (service, bucket, key), flag(matches, "raw"), json),
        ("set", _) => {
            let value = text(matches, "value").map_or_else(read_value, |value| Ok(value.clone().into_bytes()))?;
            let range = std::time::Duration::from_millis(1)..=MAX_TTL;
            let ttl = text(matches, "ttl").map(|ttl| duration(ttl, range)).transpose();
            let ttl = ttl.map_err(|why| CliError::Usage(format!("--ttl: {why}")))?;
            let written = place.set(service, (bucket, key), value, ttl, flag(matches, "if-absent"))?;
            print(&written, json, &format!("{service}: stored {key} in {bucket}"))
        }
        ("delete", _) => {
            let deleted = place.delete(service, bucket, key)?;
            let words = if deleted.deleted { "deleted" } else { "there was no" };
            print(&deleted, json, &format!("{service}: {words} {key} in {bucket}"))
        }
        ("export", Some(file)) => transfer::export(place, service, file, json),
        ("import", Some(file)) => transfer::import(place, service, file, json),
        _ => Err(CliError::Usage(format!("there is no command `data {name}`"))),
    }
}

/// Prints a result, as JSON or in words.
fn print(result: &impl Serialize, json: bool, words: &str) -> Result<(), CliError> {
    if json { out::json(&serde_json::to_string(result).unwrap_or_default()) } else { out::line(&clean(words)) }
}

/// Reads a value from stdin.
fn read_value() -> Result<Vec<u8>, CliError> {
    let mut value = Vec::new();
    let read = std::io::stdin().lock().take(MAX_VALUE as u64 + 1).read_to_end(&mut value);
    read.map_err(|error| CliError::new(format!("stdin cannot be read: {error}")))?;
    if value.len() > MAX_VALUE {
        return Err(CliError::new(format!("stdin has over {MAX_VALUE} bytes, the most of a value")));
    }
    Ok(value)
}

fn list_services(services: &[StoreStatus], json: bool) -> Result<(), CliError> {
    if json {
        return out::json(&serde_json::to_string(services).unwrap_or_default());
    }
    let sides = [Side::Left, Side::Right, Side::Right, Side::Right, Side::Right];
    let names = ["SERVICE", "KEYS", "OF", "BYTES", "OF"];
    let columns: Vec<_> = names.into_iter().zip(sides).collect();
    let mut table = TextTable::new(&columns);
    for status in services {
        let most = |most: Option<u64>, show: &dyn Fn(u64) -> String| most.map_or_else(|| units::UNKNOWN.into(), show);
        table.row([
            status.service.as_str().into(),
            status.keys.to_string().into(),
            most(status.most_keys, &|keys| keys.to_string()).into(),
            units::bytes(status.bytes).into(),
            most(status.most_bytes, &units::bytes).into(),
        ]);
    }
    out::print(&table.text())
}

fn list_buckets(place: &DataPlace, service: &str, after: Option<String>, json: bool) -> Result<(), CliError> {
    let details = place.details(service, after.as_deref().unwrap_or_default())?;
    if json {
        return out::json(&serde_json::to_string(&details).unwrap_or_default());
    }
    out::print(&lines(&details.buckets))?;
    more(details.next.as_deref());
    Ok(())
}

/// Prints up to `limit` keys from `cursor` on, page by page.
fn list_keys(
    place: &DataPlace,
    (service, bucket, prefix): (&str, &str, &str),
    (mut cursor, limit): (Option<String>, u64),
    json: bool,
) -> Result<(), CliError> {
    let mut left = limit;
    loop {
        let size = usize::try_from(left).unwrap_or(MAX_PAGE).min(MAX_PAGE);
        let page = place.keys(service, (bucket, prefix), cursor.as_deref(), size)?;
        if json {
            out::json(&serde_json::to_string(&page).unwrap_or_default())?;
        } else {
            out::print(&lines(&page.keys))?;
        }
        left = left.saturating_sub(page.keys.len() as u64);
        cursor = page.next;
        if left == 0 || cursor.is_none() {
            break;
        }
    }
    if !json {
        more(cursor.as_deref());
    }
    Ok(())
}

fn lines(names: &[String]) -> String {
    names.iter().fold(String::new(), |text, name| text + &clean(name) + "\n")
}

/// Says how a list continues.
fn more(cursor: Option<&str>) {
    if let Some(cursor) = cursor {
        let quoted = clean(cursor).replace('\'', r"'\''");
        out::notice(&format!("there are more: --cursor '{quoted}'"));
    }
}

fn get(place: &DataPlace, (service, bucket, key): (&str, &str, &str), raw: bool, json: bool) -> Result<(), CliError> {
    let entry = place.get(service, bucket, key)?;
    let Some(entry) = entry else {
        return Err(CliError::new(format!("{service}: the bucket {bucket} has no key {key}")));
    };
    if json {
        return out::json(&serde_json::to_string(&entry).unwrap_or_default());
    }
    let value = entry.bytes().map_err(|error| CliError::new(error.to_string()))?;
    if raw {
        return out::bytes(&value);
    }
    out::line(&shown(&value))?;
    expiry(&entry)
}

/// Shows a value to people: text with escaped control characters, or else its bytes with escapes.
fn shown(value: &[u8]) -> String {
    match std::str::from_utf8(value) {
        Ok(text) => clean(text).into_owned(),
        Err(_) => value.escape_ascii().to_string(),
    }
}

fn expiry(entry: &StoredEntry) -> Result<(), CliError> {
    if let Some(expires) = &entry.expires {
        out::notice(&format!("expires at {}", clean(expires)));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::shown;

    #[test]
    fn values_cannot_control_the_terminal() {
        assert_eq!(shown(b"plain"), "plain");
        assert_eq!(shown("ü\x1b[2J\n".as_bytes()), r"ü\u{1b}[2J\n");
        assert_eq!(shown(b"\xff\x1b\0a"), r"\xff\x1b\x00a");
    }
}
