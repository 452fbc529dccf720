//! `lodge audit` and its command.

use std::path::PathBuf;

use clap::{Arg, ArgAction, Command, value_parser};

/// Returns the command with its command.
pub(super) fn command() -> Command {
    Command::new("audit")
        .about("Check the audit trail")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(
            Command::new("verify")
                .about("Check that no line was changed, removed or added")
                .arg(
                    Arg::new("file")
                        .value_name("FILE")
                        .required(true)
                        .num_args(1..)
                        .value_parser(value_parser!(PathBuf))
                        .help("The files of the trail, in any order"),
                )
                .arg(
                    Arg::new("ends-with").long("ends-with").value_name("HASH").help(
                        "The hash of the last line, as another place has noted it: finds lines that were cut off",
                    ),
                )
                .arg(
                    Arg::new("contains").long("contains").value_name("HASH").action(ArgAction::Append).help(
                        "A hash that was the last one once: finds lines that were cut off before others followed",
                    ),
                )
                .arg(
                    Arg::new("from-beginning").long("from-beginning").action(ArgAction::SetTrue).help(
                        "Require the first line of the trail: finds first lines and oldest files that were removed",
                    ),
                ),
        )
}
