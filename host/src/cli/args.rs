//! What can be typed. Flags are made from the same table as the configuration, so they cannot disagree with it.

use std::path::PathBuf;

use clap::{Arg, ArgAction, Command, value_parser};
use clap_complete::Shell;

use crate::config;
use crate::runtime::compile::WASMTIME;

/// Settings that say which host is asked, in the words of who asks.
const HOST_ARGS: [(&str, &str, &str); 2] =
    [("admin", "ADDRESS", "admin address of the host to ask"), ("admin_token", "TOKEN", "token that this host wants")];

/// Everything.
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
        .subcommands(meta_commands())
}

/// Commands that run a host, or do with a directory what a host would.
fn host_commands() -> [Command; 4] {
    [
        with_settings(Command::new("serve").about("Serve every component in DIR")),
        with_settings(Command::new("dev").about("Build every guest crate under DIR, then serve DIR")),
        with_settings(Command::new("check").about("Load and compile DIR or one file, and say what each asks for"))
            .arg(json()),
        with_settings(Command::new("compile").about("Compile every component in DIR into the compile cache")).arg(
            Arg::new("seal")
                .long("seal")
                .value_name("DIRECTORY")
                .value_parser(clap::value_parser!(PathBuf))
                .help("Copy the machine code there, for the setting cache.sealed of an image"),
        ),
    ]
}

/// Commands that ask a running host.
fn client_commands() -> [Command; 13] {
    let name = || Arg::new("name").value_name("NAME").help("Name of a service");
    let follow = || flag("follow", "Go on, with what comes from now on").short('f');
    let order = |order, about| with_host_args(Command::new(order).about(about)).arg(name().required(true)).arg(json());
    [
        with_host_args(Command::new("ps").about("List services, and the files that are refused")).arg(json()),
        with_host_args(Command::new("logs").about("Print recent log lines, of the host or of one service"))
            .arg(name())
            .arg(follow())
            .arg(
                Arg::new("tail")
                    .long("tail")
                    .short('n')
                    .value_name("N")
                    .value_parser(value_parser!(u64))
                    .help("How many lines at most [default: all that the host has; with --follow 10]"),
            )
            .arg(json()),
        with_host_args(Command::new("stats").about("Show what services do, every second"))
            .arg(name())
            .arg(flag("no-stream", "Print one sample, taken over a second, as is done without a terminal"))
            .arg(json()),
        with_host_args(
            Command::new("top").about("Show what services do on the whole screen, the busiest first; q leaves"),
        )
        .arg(json()),
        with_host_args(Command::new("inspect").about("Say all about a service, or what a component file asks for"))
            .arg(
                Arg::new("name")
                    .value_name("NAME|FILE")
                    .required(true)
                    .help("Name of a service that a host serves, or a .wasm file, for which no host is needed"),
            )
            .arg(json()),
        with_host_args(Command::new("events").about("Print recent changes of the directory, and what operators did"))
            .arg(follow())
            .arg(json()),
        order("disable", "Stop serving a service, until it is enabled"),
        order("enable", "Serve a service that was disabled"),
        order("unload", "Drop the machine code of a service, until it is asked for again"),
        order("purge", "Drop the answers that are kept of a service")
            .arg(Arg::new("path").value_name("PATH").help("Only those at this path and below [default: /]")),
        with_host_args(Command::new("log-level").about("Say how much is logged, or change it until the host ends"))
            .arg(Arg::new("level").value_name("LEVEL").help("error, warn, info, debug, or a filter"))
            .arg(json()),
        with_host_args(
            Command::new("drain").about("Stop the host once running requests have finished, as SIGTERM does"),
        )
        .arg(json()),
        with_host_args(Command::new("health").about("Ask a running host whether it is ready"))
            .arg(flag("verbose", "Print the version, and how sandboxes are reset").short('v')),
    ]
}

/// Commands that change what a directory has a host serve.
fn rollout_commands() -> [Command; 3] {
    let name = || Arg::new("name").value_name("NAME").required(true).help("Name of a service");
    let label =
        || Arg::new("label").long("label").value_name("LABEL").help("Label of the version on trial [default: canary]");
    let order = |order, about| {
        let guests = setting("guests", "DIR", "directory of components; of a running host, its own");
        with_host_args(Command::new(order).about(about)).arg(name()).arg(label()).arg(guests)
    };
    [
        order("deploy", "Put a component in the place of a service, or give it a part of its requests")
            .arg(
                Arg::new("file")
                    .value_name("FILE")
                    .required(true)
                    .value_parser(value_parser!(PathBuf))
                    .help("The component; it is compiled and tried before anything is touched"),
            )
            .arg(
                Arg::new("canary")
                    .long("canary")
                    .value_name("PERCENT")
                    .help("Only this part of the requests, and none once it does worse than the service"),
            )
            .arg(flag("new", "Make the service if it is not there")),
        order("promote", "Give the version on trial all requests of its service").arg(
            Arg::new("force")
                .long("force")
                .action(ArgAction::SetTrue)
                .help("Even if it did worse than its service and was taken out"),
        ),
        order("rollback", "Take the version on trial away or, without one, go back to the component before"),
    ]
}

/// Commands that describe Lodge itself.
fn meta_commands() -> [Command; 3] {
    [
        Command::new("schema").about("Print the JSON Schema of a manifest"),
        Command::new("completions").about("Print the completions of a shell").arg(
            Arg::new("shell")
                .value_name("SHELL")
                .required(true)
                .value_parser(value_parser!(Shell))
                .help("The shell that runs them"),
        ),
        Command::new("man").about("Print the man pages, or write each into a file").arg(
            Arg::new("directory")
                .value_name("DIR")
                .value_parser(value_parser!(PathBuf))
                .help("Where the files are written [default: all pages go to stdout]"),
        ),
    ]
}

fn flag(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).action(ArgAction::SetTrue).help(help)
}

fn json() -> Arg {
    flag("json", "Print JSON, for machines")
}

/// The flag of a setting.
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
        .help("Configuration file [default: lodge.toml, if it is there] [env: LODGE_CONFIG]")
}

/// With every setting.
fn with_settings(command: Command) -> Command {
    let settings = config::described().filter(|(name, ..)| name != "guests");
    let settings = settings.map(|(name, _, help)| setting(&name, "VALUE", help));
    command
        .arg(Arg::new("guests").value_name("DIR").help("Directory of components [default: guests] [env: LODGE_GUESTS]"))
        .args(settings)
        .arg(config_file())
        .arg(flag("print-config", "Print every setting with its origin, and do nothing else"))
}

/// With the settings that say which host is asked.
fn with_host_args(command: Command) -> Command {
    command.args(HOST_ARGS.map(|(name, value, help)| setting(name, value, help))).arg(config_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_description_is_sound() {
        command().debug_assert();
    }

    /// Who asks a host is not shown how to be one.
    #[test]
    fn clients_have_few_flags() {
        let command = command();
        for name in ["ps", "logs", "stats", "top", "inspect", "events", "disable", "drain", "log-level", "health"] {
            let command = command.find_subcommand(name).unwrap();
            let flags: Vec<_> = command.get_arguments().filter_map(Arg::get_long).collect();
            assert!(
                flags.len() <= 6 && flags.contains(&"admin") && flags.contains(&"admin-token"),
                "{name}: {flags:?}"
            );
        }
        assert!(command.find_subcommand("serve").unwrap().get_arguments().count() > 30);
    }
}
