//! `lodge sign` and `lodge verify`.

use std::path::PathBuf;

use clap::{Arg, Command, value_parser};

/// Returns the commands.
pub(super) fn commands() -> [Command; 2] {
    let file = |help| path("file").value_name("FILE").help(help);
    [
        Command::new("sign")
            .about("Sign a component: write FILE.sig, which a host with `trust.keys` asks for")
            .arg_required_else_help(true)
            .arg(file("The component").requires("key"))
            .arg(key("The private key (PEM)").requires("file"))
            .arg(
                path("new-key")
                    .long("new-key")
                    .value_name("KEY")
                    .conflicts_with_all(["file", "key"])
                    .help("Write a new private key to KEY, and the public one beside it, with the extension .pub"),
            ),
        Command::new("verify")
            .about("Check the signature of a component")
            .arg(file("The component").required(true))
            .arg(key("The public key (PEM)").required(true))
            .arg(
                path("signature")
                    .long("signature")
                    .value_name("FILE")
                    .help("The signature [default: FILE.sig, beside the component]"),
            ),
    ]
}

/// Returns the flag `--key`.
pub(super) fn key(help: &'static str) -> Arg {
    path("key").long("key").value_name("KEY").help(help)
}

fn path(name: &'static str) -> Arg {
    Arg::new(name).value_parser(value_parser!(PathBuf))
}
