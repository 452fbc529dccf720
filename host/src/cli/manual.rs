//! `lodge completions` and `lodge man`, generated from the command line's definition.

use std::path::Path;

use clap::Command;
use clap_complete::Shell;
use clap_mangen::Man;

use super::out::{self, CliError};

/// Prints the completion script of a shell.
pub(super) fn completions(mut command: Command, shell: Shell) -> Result<(), CliError> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, "lodge", &mut script);
    out::print(&String::from_utf8_lossy(&script))
}

/// Prints every man page or, with a directory, writes each to a file.
pub(super) fn man(command: Command, directory: Option<&Path>) -> Result<(), CliError> {
    let mut command = command.disable_help_subcommand(true);
    command.build();
    if let Some(directory) = directory {
        let written = std::fs::create_dir_all(directory).and_then(|()| clap_mangen::generate_to(command, directory));
        return written.map_err(|error| CliError::new(format!("{}: {error}", directory.display())));
    }
    let subcommands: Vec<_> = command.get_subcommands().cloned().collect();
    let mut pages = Vec::new();
    for command in std::iter::once(command).chain(subcommands) {
        Man::new(command).render(&mut pages)?;
    }
    out::print(&String::from_utf8_lossy(&pages))
}
