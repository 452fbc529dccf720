//! `lodge audit verify`: checks that no line of an audit trail was changed, removed or added.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use clap::ArgMatches;

use super::out::{self, CliError, clean, notice};
use super::units::count;
use crate::audit::verify::{Chain, first_number};
use lodge_base::files;

/// Runs `lodge audit verify`.
pub(super) fn run(matches: &ArgMatches) -> Result<(), CliError> {
    let Some((_, matches)) = matches.subcommand() else { return Ok(()) };
    let hashes = |name: &'static str| {
        let given = matches.get_many::<String>(name).into_iter().flatten();
        given.map(move |text| hash(name, text)).collect::<Result<Vec<_>, _>>()
    };
    let (contains, ends_with) = (hashes("contains")?, hashes("ends-with")?);
    let mut chain = Chain::with(&contains);
    for path in ordered(matches.get_many::<PathBuf>("file").into_iter().flatten())? {
        chain.read(open(path)?).map_err(|why| problem(path, &why))?;
    }
    let Some([first, last]) = &chain.ends else {
        return Err(CliError::Problem("there is no line in these files".into()));
    };
    if let Some(wanted) = ends_with.first().filter(|wanted| **wanted != last.1) {
        let why = format!("the trail ends with line {}, whose hash is {}, and not with {wanted}", last.0, last.1);
        return Err(CliError::new(why));
    }
    if let Some(wanted) = chain.wanted.first() {
        let first = first.0;
        let older = if chain.whole {
            String::new()
        } else {
            format!(", or the line is before {first}, in a file that is not given here or was removed by the rotation")
        };
        let last = last.0;
        let why =
            format!("no line from {first} to {last} has the hash {wanted}: lines were removed or written anew{older}");
        return Err(CliError::new(why));
    }
    if matches.get_flag("from-beginning") && !chain.whole {
        let why = format!("these files begin with line {}, and not with the beginning of the trail", first.0);
        return Err(CliError::new(why));
    }
    out::print(&described(&chain, first, last))
}

fn problem(path: &Path, why: &str) -> CliError {
    CliError::new(format!("{}: {why}", path.display()))
}

fn open(path: &Path) -> Result<BufReader<File>, CliError> {
    files::open(path).map(|(file, _)| BufReader::new(file)).map_err(|error| problem(path, &error.to_string()))
}

/// Returns a hash as lines have it.
fn hash(flag: &str, text: &str) -> Result<String, CliError> {
    if text.len() == 64 && text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return Ok(text.to_ascii_lowercase());
    }
    let why = format!(
        "--{flag}: `{}` is no hash of a line, which has 64 hexadecimal digits; `lodge audit verify` prints that of the last line",
        clean(text)
    );
    Err(CliError::Usage(why))
}

/// Returns the files in the order of their lines, and says so if they were named in another one. A file without a line, as one that was
/// just begun, is the last.
fn ordered<'a>(paths: impl Iterator<Item = &'a PathBuf>) -> Result<Vec<&'a Path>, CliError> {
    let mut files = Vec::new();
    for path in paths {
        let first = first_number(open(path)?).map_err(|error| problem(path, &error.to_string()))?;
        files.push((first.unwrap_or(u64::MAX), path.as_path()));
    }
    if !files.is_sorted_by_key(|(first, _)| *first) {
        files.sort_by_key(|(first, _)| *first);
        let names: Vec<_> = files.iter().map(|(_, path)| path.display().to_string()).collect();
        notice(&clean(&format!("the files are read in the order of their lines: {}", names.join(" "))));
    }
    Ok(files.into_iter().map(|(_, path)| path).collect())
}

/// Returns what a check has found, in lines.
fn described(chain: &Chain, first: &(u64, String), last: &(u64, String)) -> String {
    let from = if chain.whole { "the beginning of the trail".to_owned() } else { format!("line {}", first.0) };
    let mut text = format!("{} from {from} to line {}, unbroken\n", count(chain.lines, "line"), last.0);
    if !chain.whole {
        text.push_str(&format!("what was before line {} is not in these files\n", first.0));
    }
    if let Some((times, at)) = chain.unstopped {
        text.push_str(&format!(
            "{}, the last at line {at}, a host started and the one before had not written that it stopped: it was killed, or \
             its last lines were removed\n",
            count(times, "time")
        ));
    }
    if chain.lost > 0 {
        text.push_str(&format!("lost, as the trail says: {}\n", count(chain.lost, "line")));
    }
    if chain.cut_off > 0 {
        text.push_str(&format!("cut off, by hosts that ended while they wrote: {}\n", count(chain.cut_off, "line")));
    }
    if chain.ends_cut_off() {
        text.push_str("the last line is cut off\n");
    }
    text.push_str(&format!("the hash of the last line is {}\n", last.1));
    text
}
