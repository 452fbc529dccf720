//! The command line: parses arguments and runs commands.

mod args;
mod audit;
mod check;
mod client;
mod cluster;
mod data;
mod deploy;
mod dev;
mod diff;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod health;
mod inspect;
mod keys;
mod logs;
mod machine;
mod manual;
mod new_file;
mod operate;
mod out;
mod ps;
mod registry;
mod rollout;
mod schema;
mod screen;
mod serve;
mod settings;
mod sign;
mod stats;
mod table;
mod units;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::ArgMatches;

use self::client::AdminClient;
use self::out::{CliError, notice};
use crate::guests::blobs;
use crate::guests::stores::misconfigured;
use lodge_base::config::{Origin, Resolved, Tiers};
use lodge_base::files;
use lodge_runtime::compile::{this_program, worker};

/// The exit code for invalid arguments, settings and files (`EX_USAGE` of sysexits.h).
const EX_USAGE: u8 = 64;

/// The most bytes of a file with a token.
const MAX_TOKEN: u64 = 4 << 10;

/// How long a command waits at its end for threads that are blocked by a file system or a resolver.
const EXIT_TIMEOUT: Duration = Duration::from_secs(1);

/// Runs the command that `args` names, and returns its exit code.
pub fn run(args: impl IntoIterator<Item = String>) -> ExitCode {
    let args: Vec<_> = args.into_iter().collect();
    if args.get(1).is_some_and(|argument| argument == worker::ARGUMENT) {
        return worker::run();
    }
    let matches = match args::command().try_get_matches_from(args) {
        Ok(matches) => matches,
        Err(message) => {
            // Help goes to stdout with success, an error to stderr.
            let _ = message.print();
            return if message.use_stderr() { ExitCode::from(EX_USAGE) } else { ExitCode::SUCCESS };
        }
    };
    let Some((mut name, mut matches)) = matches.subcommand() else { return ExitCode::from(EX_USAGE) };
    // The command below `data`, whose arguments have the settings.
    let of_data = matches.subcommand().filter(|_| name == "data");
    if let Some((command, arguments)) = of_data {
        (name, matches) = (command, arguments);
    }
    if let Some(done) = run_without_settings(name, matches) {
        return done;
    }
    let mut resolved = match settings::resolve(matches) {
        Ok(resolved) => resolved,
        Err(problems) => {
            for problem in problems {
                notice(&problem);
            }
            return ExitCode::from(EX_USAGE);
        }
    };
    let program = &mut resolved.config.program;
    program.compiler = this_program().ok();
    (program.tiers, program.explains) = match name {
        "serve" => (Tiers::Both, false),
        "dev" => (Tiers::Baseline, true),
        // `check` and `compile` use the code that serves in the long run.
        _ => (Tiers::Optimised, false),
    };
    if flag(matches, "print-config") {
        return out::exit_code(settings::print(&resolved));
    }
    if of_data.is_some() {
        return out::exit_code(data::run(name, matches, &resolved));
    }
    run_with_settings(name, matches, resolved)
}

/// Runs a command that has no settings; `None` if it has.
fn run_without_settings(name: &str, matches: &ArgMatches) -> Option<ExitCode> {
    let done = match name {
        "schema" => schema::run(),
        "audit" => audit::run(matches),
        "sign" | "verify" => sign::run(name, matches),
        "keys" => {
            let (command, arguments) = matches.subcommand().unwrap_or((name, matches));
            keys::run(command, arguments)
        }
        "completions" => {
            let shell = matches.get_one::<clap_complete::Shell>("shell").copied();
            let Some(shell) = shell else { return Some(EX_USAGE.into()) };
            manual::completions(args::command(), shell)
        }
        "man" => {
            let directory = matches.get_one::<PathBuf>("directory");
            manual::man(args::command(), directory.map(PathBuf::as_path))
        }
        _ => return None,
    };
    Some(out::exit_code(done))
}

fn run_with_settings(name: &str, matches: &ArgMatches, mut resolved: Resolved) -> ExitCode {
    match name {
        "serve" | "dev" => {
            let problem = sign::prepare(&mut resolved.config, name == "dev")
                .or_else(|| misconfigured(&resolved.config))
                .or_else(|| blobs::misconfigured(&resolved.config));
            let https = match problem {
                Some(problem) => Err(problem),
                None if name == "dev" => dev::https(&mut resolved.config, text(matches, "https")).map(Some),
                None => Ok(None),
            };
            let https = https.inspect_err(|problem| notice(problem));
            https.map_or(EX_USAGE.into(), |https| serve::run(resolved.config, https))
        }
        "check" => out::exit_code(check::run(resolved.config, flag(matches, "json"), flag(matches, "grants"))),
        "compile" => {
            let seal = matches.get_one::<PathBuf>("seal").map(PathBuf::as_path);
            out::exit_code(check::compile(resolved.config, seal))
        }
        "pull" | "push" | "copy" => out::exit_code(registry::run(name, matches, &resolved.config)),
        "diff" => diff::run(matches, &resolved),
        _ => out::exit_code(run_client_command(name, matches, &resolved)),
    }
}

/// Runs a command that needs a running host, except that a file is inspected without one.
fn run_client_command(name: &str, matches: &ArgMatches, resolved: &Resolved) -> Result<(), CliError> {
    let config = &resolved.config;
    let json = flag(matches, "json");
    let service = text(matches, "name").map(String::as_str);
    if let ("inspect", Some(path)) = (name, service.and_then(inspect::file)) {
        return inspect::component(config, &path, json);
    }
    if let ("deploy" | "promote" | "rollback", Some(service)) = (name, service) {
        return deploy::run(name, matches, resolved, service);
    }
    let client = required_client(matches, resolved)?;
    let query = || logs::LogQuery {
        service,
        tail: matches.try_get_one("tail").ok().flatten().copied(),
        follow: flag(matches, "follow"),
        json,
    };
    match (name, service) {
        ("ps", _) => ps::run(&client, json),
        ("cluster", _) => cluster::run(&client, json),
        ("logs", _) => logs::logs(&client, &query()),
        ("events", _) => logs::events(&client, &query()),
        ("stats", only) => stats::stats(&client, only, flag(matches, "no-stream"), json),
        ("top", _) => stats::top(&client, json),
        ("inspect", Some(service)) => inspect::service(&client, service, json),
        ("disable" | "enable" | "unload", Some(service)) => operate::service(&client, name, service, json),
        ("purge", Some(service)) => operate::purge(&client, service, text(matches, "path"), json),
        ("log-level", _) => operate::log_level(&client, text(matches, "level"), json),
        ("drain", _) => operate::drain(&client, json),
        ("health", _) => health::run(client, flag(matches, "verbose")),
        _ => Err(CliError::Usage(format!("there is no command `{name}`"))),
    }
}

/// Returns the client of the host that the arguments select; `None` if the setting `admin` is `off`.
fn client(matches: &ArgMatches, resolved: &Resolved) -> Result<Option<AdminClient>, CliError> {
    let config = &resolved.config;
    let origin = resolved.origin("admin_token");
    let named = matches.try_get_one::<PathBuf>("token-file").ok().flatten();
    let (token, source) = match (named, origin) {
        (Some(path), _) => {
            keys::warn_if_shared(path);
            let read = files::read_text(path, MAX_TOKEN).map(|text| text.trim().to_owned());
            let token = read.map_err(|error| CliError::new(format!("{}: {error}", path.display())))?;
            (Some(token), format!("--token-file {}", path.display()))
        }
        (None, Some(Origin::Flag)) => (config.admin_token.clone(), "--admin-token".into()),
        (None, Some(Origin::Environment)) => (config.admin_token.clone(), "LODGE_ADMIN_TOKEN".into()),
        (None, _) => (config.admin_token.clone(), "admin_token in lodge.toml".into()),
    };
    let client = match text(matches, "host") {
        Some(url) => {
            // The token in lodge.toml is that of the host on this machine.
            let of_file = matches!(origin, Some(Origin::File)) && named.is_none();
            if of_file && token.is_some() {
                notice("the admin_token of lodge.toml is not sent elsewhere; give --token-file or LODGE_ADMIN_TOKEN");
            }
            Some(AdminClient::at(url, token.filter(|_| !of_file))?)
        }
        None => config.admin.map(|admin| AdminClient::new(admin, token)).transpose()?,
    };
    Ok(client.map(|client| client.with_token_source(source)))
}

/// Returns the client of the host that the arguments select.
fn required_client(matches: &ArgMatches, resolved: &Resolved) -> Result<AdminClient, CliError> {
    client(matches, resolved)?.ok_or_else(|| {
        CliError::new("the setting admin is `off`, so no host can be reached; set --admin to the host's admin address")
    })
}

/// Returns whether a flag was given. False for commands that do not have it.
fn flag(matches: &ArgMatches, name: &str) -> bool {
    matches.try_get_one(name).ok().flatten().copied().unwrap_or(false)
}

/// Returns the value of an argument. `None` also for commands that do not have it.
fn text<'a>(matches: &'a ArgMatches, name: &str) -> Option<&'a String> {
    matches.try_get_one(name).ok().flatten()
}

/// Runs a future on a runtime with one worker per core, whose CPU clock measures guests.
fn block_on<T>(work: impl Future<Output = T>) -> Result<T, String> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(lodge_base::cpu::scheduler::workers())
        .enable_all()
        .build();
    let runtime = runtime.map_err(|error| format!("cannot start the runtime: {error}"))?;
    let done = runtime.block_on(work);
    // Dropping the runtime would wait for blocked threads, possibly for ever.
    runtime.shutdown_timeout(EXIT_TIMEOUT);
    Ok(done)
}
