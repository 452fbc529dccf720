//! `lodge data` and its commands.

use std::path::PathBuf;

use clap::{Arg, Command, value_parser};

use super::{config_file, flag, json, setting, with_host_args};

/// The settings that say where data is when no host runs.
const PLACES: [(&str, &str, &str); 3] = [
    ("guests", "DIR", "with --offline, the directory of components"),
    ("state.path", "FILE", "with --offline, the file with the state of all services"),
    ("state.url", "URL", "with --offline, the server that keeps the state"),
];

/// Returns the command with its commands.
pub(super) fn command() -> Command {
    Command::new("data")
        .about("Read, change, copy and restore what services store")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommands(commands())
}

fn commands() -> [Command; 9] {
    let name = || Arg::new("name").value_name("NAME").help("Name of a service");
    let named = || name().required(true);
    let bucket = || Arg::new("bucket").value_name("BUCKET").help("Name of a bucket");
    let in_bucket = || bucket().required(true);
    let key = || Arg::new("key").value_name("KEY").required(true).help("Key");
    let file = |help: &'static str| {
        Arg::new("file").value_name("FILE").required(true).value_parser(value_parser!(PathBuf)).help(help)
    };
    [
        of_data("list", "List the services that store data, the buckets of one, or the keys of a bucket")
            .arg(name())
            .arg(bucket())
            .arg(Arg::new("prefix").long("prefix").value_name("TEXT").help("Only keys that begin with this"))
            .arg(
                Arg::new("limit")
                    .long("limit")
                    .value_name("N")
                    .value_parser(value_parser!(u64).range(1..))
                    .help("At most this many [default: 100]"),
            )
            .arg(Arg::new("cursor").long("cursor").value_name("CURSOR").help("Where an earlier list has ended")),
        of_data("get", "Print a value")
            .arg(named())
            .arg(in_bucket())
            .arg(key())
            .arg(flag("raw", "Print the bytes of the value as they are").conflicts_with("json")),
        of_data("set", "Store a value")
            .arg(named())
            .arg(in_bucket())
            .arg(key())
            .arg(Arg::new("value").value_name("VALUE").help("The value [default: what stdin has]"))
            .arg(Arg::new("ttl").long("ttl").value_name("TIME").help("How long the key lives [default: for ever]"))
            .arg(flag("if-absent", "Fail if the key exists")),
        of_data("delete", "Delete a key").arg(named()).arg(in_bucket()).arg(key()),
        of_data("export", "Write all that a service stores to a file, as lines of JSON")
            .arg(named())
            .arg(file("The file, which must not exist; `-` is stdout")),
        of_data("import", "Store all entries of an export, replacing those that exist")
            .arg(named())
            .arg(file("The file, which is checked before anything is stored")),
        with_host_args(
            Command::new("dead").about("List the dead messages of a service, print one, retry or drop them"),
        )
        .arg(named())
        .arg(Arg::new("id").value_name("ID").help("A message, as the list has it"))
        .arg(flag("retry", "Let the message wait again").conflicts_with("drop"))
        .arg(flag("drop", "Remove the message"))
        .arg(flag("all", "Retry or drop all").conflicts_with("id"))
        .arg(flag("raw", "Print the bytes of the message as they are").conflicts_with("json"))
        .arg(json()),
        with_host_args(Command::new("backup").about("Copy the database of a running host to a file"))
            .arg(file("The file, which must not exist"))
            .arg(json()),
        Command::new("restore")
            .about("Put a backup in the place of the database of a host that does not run")
            .arg(file("The backup"))
            .args(PLACES[..2].iter().map(|(name, value, help)| setting(name, value, help.trim_start_matches(OFFLINE))))
            .arg(config_file())
            .arg(flag("force", "Replace a database that exists")),
    ]
}

/// What the help of [`PLACES`] begins with.
const OFFLINE: &str = "with --offline, ";

/// A command for the data of a running host, or of one that does not run.
fn of_data(name: &'static str, about: &'static str) -> Command {
    with_host_args(Command::new(name).about(about))
        .arg(flag("offline", "Use the file or server itself: for a host that does not run"))
        .args(PLACES.map(|(name, value, help)| setting(name, value, help)))
        .arg(json())
}
