//! `lodge audit verify`: checks that no line of an audit trail was changed, removed or added.

use std::io::BufReader;
use std::path::PathBuf;

use clap::ArgMatches;

use super::out::{self, CliError};
use crate::audit::verify::Chain;
use lodge_base::files;

/// Runs `lodge audit verify`.
pub(super) fn run(matches: &ArgMatches) -> Result<(), CliError> {
    let Some((_, matches)) = matches.subcommand() else { return Ok(()) };
    let mut chain = Chain::with(matches.get_many::<String>("contains").into_iter().flatten());
    for path in matches.get_many::<PathBuf>("file").into_iter().flatten() {
        let problem = |why: String| CliError::new(format!("{}: {why}", path.display()));
        let (file, _) = files::open(path).map_err(|error| problem(error.to_string()))?;
        chain.read(BufReader::new(file)).map_err(problem)?;
    }
    let Some([first, last]) = &chain.ends else {
        return Err(CliError::Problem("there is no line in these files".into()));
    };
    if let Some(wanted) = matches.get_one::<String>("ends-with").filter(|wanted| **wanted != last.1) {
        let why = format!("the trail ends with line {}, whose hash is {}, and not with {wanted}", last.0, last.1);
        return Err(CliError::new(why));
    }
    if let Some(wanted) = chain.wanted.first() {
        let why =
            format!("no line from {} to {} has the hash {wanted}: lines were removed or written anew", first.0, last.0);
        return Err(CliError::new(why));
    }
    if matches.get_flag("from-beginning") && !chain.whole {
        let why = format!("these files begin with line {}, and not with the beginning of the trail", first.0);
        return Err(CliError::new(why));
    }
    out::print(&described(&chain, first, last))
}

/// Returns what a check has found, in lines.
fn described(chain: &Chain, first: &(u64, String), last: &(u64, String)) -> String {
    let from = if chain.whole { "the beginning of the trail".to_owned() } else { format!("line {}", first.0) };
    let mut text = format!("{} lines from {from} to line {}, unbroken\n", chain.lines, last.0);
    if !chain.whole {
        text.push_str(&format!("what was before line {} is not in these files\n", first.0));
    }
    if let Some((count, at)) = chain.unstopped {
        text.push_str(&format!(
            "{count} times, the last at line {at}, a host started and the one before had not written that it stopped: it was killed, or \
             its last lines were removed\n"
        ));
    }
    if chain.lost > 0 {
        text.push_str(&format!("{} lines were lost, as the trail says\n", chain.lost));
    }
    if chain.cut_off > 0 {
        text.push_str(&format!("{} lines are cut off, by hosts that ended while they wrote\n", chain.cut_off));
    }
    if chain.ends_cut_off() {
        text.push_str("the last line is cut off\n");
    }
    text.push_str(&format!("the hash of the last line is {}\n", last.1));
    text
}
