//! The commands for registries, and their flags.

use std::path::PathBuf;

use clap::{Arg, Command, value_parser};

use super::{config_file, setting};

/// The settings of these commands, with their value names and help.
const SETTINGS: [(&str, &str, &str); 5] = [
    ("pull.credentials", "FILE", "credentials as docker stores them"),
    ("pull.ca", "FILE", "certificates (PEM) to trust beside those of the system"),
    ("pull.plain_http", "REGISTRIES", "registries without TLS"),
    ("pull.timeout", "TIME", "the time that all of it may take"),
    ("engine.max_file", "SIZE", "the most bytes of a component"),
];

/// Commands that move components between files and registries. They need no host.
pub(super) fn commands() -> [Command; 3] {
    let reference = |name: &'static str, value: &'static str, help: &'static str| {
        Arg::new(name).value_name(value).required(true).help(help)
    };
    let order = |name: &'static str, about: &'static str| {
        let settings = SETTINGS.map(|(name, value, help)| setting(name, value, help));
        Command::new(name).about(about).args(settings).arg(config_file())
    };
    [
        order("pull", "Pull a component from a registry into a file")
            .arg(reference("reference", "REFERENCE", "registry.example/team/users:1.4, with a tag, a digest or both"))
            .arg(
                Arg::new("output")
                    .long("output")
                    .short('o')
                    .value_name("FILE")
                    .value_parser(value_parser!(PathBuf))
                    .help("The file; it is replaced once the component is complete [default: NAME.wasm, which must be free]"),
            ),
        order("push", "Push a component to a registry, and print its reference with the digest")
            .arg(
                Arg::new("file")
                    .value_name("FILE")
                    .required(true)
                    .value_parser(value_parser!(PathBuf))
                    .help("The component"),
            )
            .arg(reference("reference", "REFERENCE", "registry.example/team/users:1.4, with a tag")),
        order("copy", "Copy a component from one registry or repository to another, with its digest")
            .arg(reference("from", "FROM", "a reference with a tag, a digest or both"))
            .arg(reference("to", "TO", "a reference with a tag")),
    ]
}
