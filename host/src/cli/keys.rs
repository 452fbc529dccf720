//! `lodge keys`: the API keys in a file.

use std::fs::File;
use std::io::{BufRead as _, ErrorKind, Read as _, Stdin};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use clap::ArgMatches;
use rustix::fs::{FlockOperation, flock};
use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, tcgetattr, tcsetattr};

use super::out::{self, CliError, clean, notice};
use super::table::{Side, TextTable};
use super::{flag, text, units};
use crate::admin::{OPERATOR_SCOPES, is_operator_scope};
use lodge_base::config::key::{duration, nearest};
use lodge_base::files;
use lodge_traffic::auth::api_keys::{KeyEntry, KeyFile, MOST_BYTES};

/// The longest time for which a key is valid, unless it is for ever.
const LONGEST: Duration = Duration::from_secs(100 * 366 * 24 * 60 * 60);

/// The most bytes of a line with a password.
const MOST_LINE: u64 = 4096;

/// What Ctrl-C types.
const INTERRUPT: u8 = 3;

/// Runs `lodge keys NAME`.
pub(super) fn run(command: &str, matches: &ArgMatches) -> Result<(), CliError> {
    let path = matches.get_one::<PathBuf>("file").map_or(Path::new(""), PathBuf::as_path);
    let name = text(matches, "name").map_or("", String::as_str);
    match command {
        "create" => create(path, name, matches),
        "revoke" => revoke(path, name),
        _ => list(&read(path)?.ok_or_else(|| missing(path))?, flag(matches, "json")),
    }
}

fn create(path: &Path, name: &str, matches: &ArgMatches) -> Result<(), CliError> {
    // Such a file would be read as the manifest of a service.
    if path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("toml")) {
        let other = path.with_extension("keys");
        return Err(CliError::Usage(format!(
            "--file: {} would be a manifest beside components; choose another name, such as {}",
            path.display(),
            other.display()
        )));
    }
    let time = |text: &String| duration(text, Duration::from_secs(1)..=LONGEST);
    let valid = text(matches, "expires").map(time).transpose();
    let valid = valid.map_err(|why| CliError::Usage(format!("--expires: {why}")))?;
    let scopes: Vec<_> = matches.get_many::<String>("scope").into_iter().flatten().cloned().collect();
    warn_of_scopes(&scopes);
    let now = SystemTime::now();
    let shown = |time: SystemTime| humantime::format_rfc3339_seconds(time).to_string();
    let expires = valid.and_then(|valid| now.checked_add(valid)).map(shown);
    let entry = KeyEntry { name: name.to_owned(), scopes, created: Some(shown(now)), expires, ..KeyEntry::default() };
    if flag(matches, "password") {
        let password = password()?;
        return change(path, |file| {
            let mut file = file.unwrap_or_default();
            file.create_password(entry, &password).map_err(|why| problem(path, why))?;
            Ok((file, ()))
        });
    }
    let key = change(path, |file| {
        let mut file = file.unwrap_or_default();
        let key = file.create(entry).map_err(|why| problem(path, why))?;
        Ok((file, key))
    })?;
    notice(&format!("{} has the SHA-256 of this key. It cannot be shown again:", path.display()));
    out::line(&key)
}

/// Warns of a file with a token that other users of this machine can read.
pub(super) fn warn_if_shared(path: &Path) {
    if std::fs::metadata(path).is_ok_and(|metadata| metadata.is_file() && metadata.mode() & 0o077 != 0) {
        notice(&format!("others on this machine can read {}: `chmod 600` it", clean(&path.display().to_string())));
    }
}

/// Warns of scopes that look like those of `admin_keys` and are none. A key for a service may have any.
fn warn_of_scopes(scopes: &[String]) {
    for scope in scopes.iter().filter(|scope| !is_operator_scope(scope)) {
        let name = scope.split(':').next().unwrap_or_default();
        if let Some(near) = nearest(name, OPERATOR_SCOPES.into_iter()) {
            notice(&clean(&format!(
                "`{scope}` is no scope of `admin_keys`, and grants nothing there; did you mean `{near}`?"
            )));
        }
    }
}

/// Reads a line from stdin. A terminal does not show it, and has to be given it twice.
fn password() -> Result<String, CliError> {
    let stdin = std::io::stdin();
    let Ok(before) = tcgetattr(&stdin) else { return line(&stdin) };
    let mut hidden = before.clone();
    hidden.local_modes.remove(LocalModes::ECHO | LocalModes::ISIG);
    // Ctrl-C ends the line: as a signal, it would leave the terminal without an echo.
    hidden.special_codes[SpecialCodeIndex::VEOL] = INTERRUPT;
    // What was typed before the question is no answer to it.
    let typed = tcsetattr(&stdin, OptionalActions::Flush, &hidden)
        .map_err(|error| CliError::new(format!("the terminal cannot hide a password: {error}")))
        .and_then(|()| {
            notice("type the password, and Enter:");
            let first = terminal_line(&stdin)?;
            notice("type it again, and Enter:");
            Ok((first, terminal_line(&stdin)?))
        });
    let _ = tcsetattr(&stdin, OptionalActions::Now, &before);
    let (first, second) = typed?;
    if first == second {
        Ok(first)
    } else {
        Err(CliError::new("the two passwords are not the same; nothing was changed"))
    }
}

/// Reads what a terminal gives at once, which is one line.
fn terminal_line(stdin: &Stdin) -> Result<String, CliError> {
    let mut stdin = stdin.lock();
    let line = stdin.fill_buf().map_err(unreadable)?.to_owned();
    stdin.consume(line.len());
    match line.last() {
        Some(&INTERRUPT) | None => Err(CliError::new("interrupted; nothing was changed")),
        Some(_) => {
            let line = String::from_utf8(line).map_err(|_| CliError::new("the password is not UTF-8"))?;
            Ok(line.trim_end_matches(['\n', '\r']).to_owned())
        }
    }
}

fn line(stdin: &Stdin) -> Result<String, CliError> {
    let mut line = String::new();
    stdin.lock().take(MOST_LINE).read_line(&mut line).map_err(unreadable)?;
    Ok(line.trim_end_matches(['\n', '\r']).to_owned())
}

fn unreadable(error: std::io::Error) -> CliError {
    CliError::new(format!("the password cannot be read from stdin: {error}"))
}

fn revoke(path: &Path, name: &str) -> Result<(), CliError> {
    change(path, |file| {
        let mut file = file.ok_or_else(|| missing(path))?;
        if !file.revoke(name) {
            return Err(problem(path, format!("there is no key `{name}`; `lodge keys list` shows all")));
        }
        Ok((file, ()))
    })?;
    out::line(&clean(&format!("revoked {name}")))
}

fn list(file: &KeyFile, json: bool) -> Result<(), CliError> {
    if json {
        // Nobody needs the hash of a password to list it.
        let shown = |key: &KeyEntry| KeyEntry { password: None, ..key.clone() };
        let keys: Vec<_> = file.keys.iter().map(shown).collect();
        return out::json(&serde_json::to_string(&keys).unwrap_or_default());
    }
    let columns = ["NAME", "SCOPES", "CREATED", "EXPIRES"].map(|name| (name, Side::Left));
    let mut table = TextTable::new(&columns);
    let now = SystemTime::now();
    for key in &file.keys {
        let time = |time: &Option<String>| time.clone().unwrap_or_else(|| units::UNKNOWN.into());
        let expires = time(&key.expires) + if key.is_expired(now) { " (expired)" } else { "" };
        let cells = [key.name.clone(), key.scopes.join(" "), time(&key.created), expires];
        table.row(cells.map(Into::into));
    }
    out::print(&table.text())
}

/// Replaces the file by what `change` makes of it. Two commands at a time do not undo what the other one did.
fn change<T>(
    path: &Path,
    change: impl FnOnce(Option<KeyFile>) -> Result<(KeyFile, T), CliError>,
) -> Result<T, CliError> {
    // The file itself, if this is a link to it: otherwise the link would be replaced.
    let file = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let path = &*file;
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // The file is replaced by another one, so it cannot carry the lock.
    let lock = File::open(directory).map_err(|error| problem(directory, error.to_string()))?;
    flock(&lock, FlockOperation::NonBlockingLockExclusive)
        .map_err(|_| problem(path, "another program is changing it; try again".into()))?;
    let (file, result) = change(read(path)?)?;
    files::replace_shared(path, file.text().as_bytes()).map_err(|error| problem(path, error.to_string()))?;
    Ok(result)
}

/// Reads the file; `None` if it does not exist.
fn read(path: &Path) -> Result<Option<KeyFile>, CliError> {
    match files::read_text(path, MOST_BYTES) {
        Ok(text) => KeyFile::read(&text).map(Some).map_err(|why| problem(path, why)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(problem(path, error.to_string())),
    }
}

fn missing(path: &Path) -> CliError {
    problem(path, "there is no such file; `lodge keys create NAME --file FILE` makes one".into())
}

fn problem(path: &Path, why: String) -> CliError {
    CliError::new(format!("{}: {why}", path.display()))
}
