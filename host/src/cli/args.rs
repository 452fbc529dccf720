//! The commands and their flags. Flags of settings come from the table of the configuration, so the two cannot differ.

mod audit;
mod data;
mod keys;
mod registry;
mod sign;

use std::path::PathBuf;

use clap::{Arg, ArgAction, Command, value_parser};
use clap_complete::Shell;

use lodge_base::config;
use lodge_runtime::compile::WASMTIME;

/// The settings that select a host, with their value names and help for clients.
const HOST_ARGS: [(&str, &str, &str); 2] =
    [("admin", "ADDRESS", "admin address of the host"), ("admin_token", "TOKEN", "admin token of the host")];

/// Returns the whole command line.
pub(super) fn command() -> Command {
    let version = format!("{} (wasmtime {WASMTIME})", env!("CARGO_PKG_VERSION"));
    Command::new("lodge")
        .about("Microservices as WebAssembly components: drop users.wasm into guests/, and /users answers.")
        .version(version)
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommands(host_commands())
        .subcommands(rollout_commands())
        .subcommands(client_commands())
        .subcommands(registry::commands())
        .subcommand(data::command())
        .subcommand(keys::command())
        .subcommand(audit::command())
        .subcommands(sign::commands())
        .subcommands(meta_commands())
}

/// Commands that run a host, or load its directory as a host would.
fn host_commands() -> [Command; 4] {
    [
        with_settings(Command::new("serve").about("Serve every component in DIR")),
        with_settings(Command::new("dev").about("Build every guest crate under DIR, then serve DIR")).arg(
            Arg::new("https")
                .long("https")
                .value_name("ADDRESS")
                .num_args(0..=1)
                .require_equals(true)
                .default_missing_value("127.0.0.1:8443")
                .help("Serve over HTTPS as well, with a certificate for localhost, at this address or 127.0.0.1:8443"),
        ),
        with_settings(
            Command::new("check")
                .about("Compile every component in DIR, or one file, and report what would be refused"),
        )
        .arg(flag("grants", "List what each manifest grants to its guests, and compile nothing"))
        .arg(json()),
        with_settings(Command::new("compile").about("Compile every component in DIR into the compile cache")).arg(
            Arg::new("seal")
                .long("seal")
                .value_name("DIRECTORY")
                .value_parser(clap::value_parser!(PathBuf))
                .help("Copy the machine code to DIRECTORY, for the cache.sealed setting of an image"),
        ),
    ]
}

/// Commands for a running host.
fn client_commands() -> [Command; 15] {
    let name = || Arg::new("name").value_name("NAME").help("Name of a service");
    let follow = || flag("follow", "Keep printing new lines as they come").short('f');
    let order = |order, about| with_remote(Command::new(order).about(about)).arg(name().required(true)).arg(json());
    [
        with_remote(Command::new("ps").about("List services and refused files")).arg(json()),
        with_remote(Command::new("cluster").about("List the hosts of the cluster, and what they serve")).arg(json()),
        with_remote(Command::new("logs").about("Print recent log lines of the host or of one service"))
            .arg(name())
            .arg(follow())
            .arg(
                Arg::new("tail")
                    .long("tail")
                    .short('n')
                    .value_name("N")
                    .value_parser(value_parser!(u64))
                    .help("At most this many lines [default: all that the host has kept; 10 with --follow]"),
            )
            .arg(json()),
        with_remote(Command::new("stats").about("Show the rates of services every second"))
            .arg(name())
            .arg(flag("no-stream", "Print one sample over a second, which is the default without a terminal"))
            .arg(json()),
        with_remote(
            Command::new("top")
                .about("Show the rates of all services on the whole screen, the busiest first; press q to quit"),
        )
        .arg(json()),
        with_remote(Command::new("inspect").about("Show all about a service, or what a component file imports"))
            .arg(
                Arg::new("name")
                    .value_name("NAME|FILE")
                    .required(true)
                    .help("Name of a service of a running host, or a .wasm file, which needs no host"),
            )
            .arg(json()),
        with_remote(Command::new("diff").about("Compare a directory with what a running host serves"))
            .arg(
                Arg::new("directory")
                    .value_name("DIR")
                    .value_parser(value_parser!(PathBuf))
                    .help("Directory of components [default: the setting guests]"),
            )
            .arg(json()),
        with_remote(Command::new("events").about("Print recent changes of the directory and actions of operators"))
            .arg(follow())
            .arg(json()),
        order("disable", "Stop serving a service until it is enabled"),
        order("enable", "Serve a service that was disabled"),
        order("unload", "Drop the machine code of a service from memory until its next request"),
        order("purge", "Remove the stored responses of a service")
            .arg(Arg::new("path").value_name("PATH").help("Only responses at this path and below [default: /]")),
        with_remote(Command::new("log-level").about("Print the log level, or change it until the host stops"))
            .arg(Arg::new("level").value_name("LEVEL").help("error, warn, info, debug, or a filter"))
            .arg(json()),
        with_remote(
            Command::new("drain").about("Stop the host after requests in flight have finished, as SIGTERM does"),
        )
        .arg(json()),
        with_remote(Command::new("health").about("Check whether a running host is ready"))
            .arg(flag("verbose", "Also print the version, and how sandboxes are reset").short('v')),
    ]
}

/// Commands that change which components a host serves.
fn rollout_commands() -> [Command; 3] {
    let name = || Arg::new("name").value_name("NAME").required(true).help("Name of a service");
    let label = || Arg::new("label").long("label").value_name("LABEL").help("Label of the canary [default: canary]");
    let order = |order, about| {
        let guests = setting("guests", "DIR", "directory of components; must be that of a running host");
        with_remote(Command::new(order).about(about)).arg(name()).arg(label()).arg(guests)
    };
    [
        order("deploy", "Replace the component of a service, or deploy a canary beside it")
            .arg(
                Arg::new("file")
                    .value_name("FILE")
                    .required(true)
                    .value_parser(value_parser!(PathBuf))
                    .help("The component; it is compiled and tested before anything is changed"),
            )
            .arg(Arg::new("canary").long("canary").value_name("PERCENT").help(
                "Deploy a canary with this share of the requests; it is withdrawn if it does worse than the service",
            ))
            .arg(flag("new", "Create the service if it does not exist"))
            .arg(
                Arg::new("wait")
                    .long("wait")
                    .value_name("DURATION")
                    .help("Watch the canary for so long after the host serves it; fail if the host withdraws it (1), or it was not judged (2)"),
            )
            .arg(
                Arg::new("min-requests")
                    .long("min-requests")
                    .value_name("N")
                    .value_parser(value_parser!(u64))
                    .help("With --wait: how many judged requests of the canary suffice; 0: none [default: as many as a comparison with its service needs]"),
            )
            .arg(sign::key(
                "Sign the component with this private key (PEM); without it, a signature beside FILE is used",
            )),
        order("promote", "Give the canary all requests of its service")
            .arg(flag("force", "Even if the host withdrew it because it did worse than its service"))
            .arg(
                Arg::new("digest")
                    .long("digest")
                    .value_name("SHA256")
                    .help("Only this component: fail if another deployment has replaced it meanwhile"),
            ),
        order("rollback", "Remove the canary or, if there is none, restore the previous component")
            .arg(flag("canary-only", "Remove the canary; if there is none, change nothing")),
    ]
}

/// Commands that describe Lodge itself.
fn meta_commands() -> [Command; 3] {
    [
        Command::new("schema").about("Print the JSON Schema of a manifest"),
        Command::new("completions").about("Print the completion script of a shell").arg(
            Arg::new("shell").value_name("SHELL").required(true).value_parser(value_parser!(Shell)).help("The shell"),
        ),
        Command::new("man").about("Print the man pages, or write each to a file").arg(
            Arg::new("directory")
                .value_name("DIR")
                .value_parser(value_parser!(PathBuf))
                .help("Directory for the files [default: print all pages to stdout]"),
        ),
    ]
}

fn flag(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).action(ArgAction::SetTrue).help(help)
}

fn json() -> Arg {
    flag("json", "Print JSON, for machines")
}

/// Returns the flag of a setting.
fn setting(name: &str, value: &'static str, help: &str) -> Arg {
    let default = config::described().find(|(other, ..)| other == name).map_or("", |(_, default, _)| default);
    let default = if default.is_empty() { "none" } else { default };
    let help = format!("{help} [default: {default}] [env: {}]", config::env_name(name));
    Arg::new(name.to_owned()).long(config::flag_name(name)).value_name(value).help(help)
}

fn config_file() -> Arg {
    Arg::new("config")
        .long("config")
        .value_name("FILE")
        .help("Configuration file [default: lodge.toml, if it exists] [env: LODGE_CONFIG]")
}

/// Adds all settings to a command.
fn with_settings(command: Command) -> Command {
    let settings = config::described().filter(|(name, ..)| name != "guests");
    let settings = settings.map(|(name, _, help)| setting(&name, "VALUE", help));
    command
        .arg(Arg::new("guests").value_name("DIR").help("Directory of components [default: guests] [env: LODGE_GUESTS]"))
        .args(settings)
        .arg(config_file())
        .arg(flag("print-config", "Print every setting with its origin, and exit"))
}

/// Adds the arguments that select a host, which may be elsewhere.
fn with_remote(command: Command) -> Command {
    let help = "URL of the admin listener of a host elsewhere, such as https://lodge.example, in place of --admin";
    let token = Arg::new("token-file").long("token-file").value_name("FILE").value_parser(value_parser!(PathBuf));
    with_host_args(command)
        .arg(Arg::new("host").long("host").value_name("URL").help(help))
        .arg(token.conflicts_with("admin_token").help("File with the token, or with a key of the host's `admin_keys`"))
}

/// Adds the settings that select a host.
fn with_host_args(command: Command) -> Command {
    command.args(HOST_ARGS.map(|(name, value, help)| setting(name, value, help))).arg(config_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_valid() {
        command().debug_assert();
    }

    /// Commands for a running host do not show the settings of a host.
    #[test]
    fn client_commands_have_few_flags() {
        let command = command();
        for name in ["ps", "logs", "stats", "top", "inspect", "events", "disable", "drain", "log-level", "health"] {
            let command = command.find_subcommand(name).unwrap();
            let flags: Vec<_> = command.get_arguments().filter_map(Arg::get_long).collect();
            assert!(
                flags.len() <= 8 && flags.contains(&"admin") && flags.contains(&"admin-token"),
                "{name}: {flags:?}"
            );
        }
        assert!(command.find_subcommand("serve").unwrap().get_arguments().count() > 30);
    }
}
