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
    let mut chain = Chain::default();
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
    let from = if chain.whole { "the beginning of the trail".to_owned() } else { format!("line {}", first.0) };
    let mut text = format!("{} lines from {from} to line {}, unbroken\n", chain.lines, last.0);
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
    out::print(&text)
}
