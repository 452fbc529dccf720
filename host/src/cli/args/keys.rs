//! `lodge keys` and its commands.

use std::path::PathBuf;

use clap::{Arg, ArgAction, Command, value_parser};

use super::{flag, json};

/// Returns the command with its commands.
pub(super) fn command() -> Command {
    let name = || Arg::new("name").value_name("NAME").required(true).help("Name of the key: whose it is");
    let file = || {
        Arg::new("file")
            .long("file")
            .value_name("FILE")
            .required(true)
            .value_parser(value_parser!(PathBuf))
            .help("The file of keys that `api_keys` of a manifest names, or `admin_keys` of lodge.toml")
    };
    let scope = Arg::new("scope")
        .long("scope")
        .value_name("SCOPE")
        .action(ArgAction::Append)
        .help("A scope of the key; may be given several times");
    let expires = Arg::new("expires")
        .long("expires")
        .value_name("TIME")
        .help("How long it is valid, such as 90days [default: for ever]");
    Command::new("keys")
        .about("Create, list and revoke API keys")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommands([
            Command::new("create")
                .about("Create an API key, and print it: the file has only its SHA-256")
                .arg(name())
                .arg(file())
                .arg(scope)
                .arg(expires)
                .arg(flag(
                    "password",
                    "Read a password from stdin, for `passwords` of a manifest, in place of making a key",
                )),
            Command::new("list").about("List the keys of a file").arg(file()).arg(json()),
            Command::new("revoke").about("Remove a key: hosts refuse it within seconds").arg(name()).arg(file()),
        ])
}
