//! The command line: parses arguments and runs commands.

mod args;
mod audit;
mod check;
mod client;
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
mod sign;
mod stats;
mod table;
mod units;

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::ArgMatches;

use self::client::AdminClient;
use self::out::{CliError, notice};
use crate::certificates::local::LocalCertificate;
use crate::guests::stores::misconfigured;
use crate::host::{Ended, Host};
use lodge_base::config::key::nearest;
use lodge_base::config::{self, Config, Origin, Resolved, Source, Tiers};
use lodge_base::files;
use lodge_base::lasting;
use lodge_base::telemetry::logs::Logs;
use lodge_runtime::code_cache;
use lodge_runtime::compile::{this_program, worker};

/// The exit code for invalid arguments, settings and files (`EX_USAGE` of sysexits.h).
const EX_USAGE: u8 = 64;

/// The most bytes of a configuration file.
const MAX_FILE: u64 = 1 << 20;

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
    let mut resolved = match resolve(matches) {
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
        return out::exit_code(print_config(&resolved));
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
            let problem =
                sign::prepare(&mut resolved.config, name == "dev").or_else(|| misconfigured(&resolved.config));
            let https = match problem {
                Some(problem) => Err(problem),
                None if name == "dev" => dev::https(&mut resolved.config, text(matches, "https")).map(Some),
                None => Ok(None),
            };
            let https = https.inspect_err(|problem| notice(problem));
            https.map_or(EX_USAGE.into(), |https| serve(resolved.config, https))
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
    let token = match matches.try_get_one::<PathBuf>("token-file").ok().flatten() {
        Some(path) => {
            keys::warn_if_shared(path);
            let read = files::read_text(path, MAX_TOKEN).map(|text| text.trim().to_owned());
            Some(read.map_err(|error| CliError::new(format!("{}: {error}", path.display())))?)
        }
        None => config.admin_token.clone(),
    };
    match text(matches, "host") {
        Some(url) => {
            // The token in lodge.toml is that of the host on this machine.
            let of_file = matches!(resolved.origin("admin_token"), Some(Origin::File));
            let named = matches.try_get_one::<PathBuf>("token-file").ok().flatten().is_some();
            if of_file && !named && token.is_some() {
                notice("the admin_token of lodge.toml is not sent elsewhere; give --token-file or LODGE_ADMIN_TOKEN");
            }
            AdminClient::at(url, token.filter(|_| named || !of_file)).map(Some)
        }
        None => config.admin.map(|admin| AdminClient::new(admin, token)).transpose(),
    }
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

fn resolve(matches: &ArgMatches) -> Result<Resolved, Vec<String>> {
    let (environment, unknown) = config::read_environment(std::env::vars());
    for variable in unknown.iter().filter(|variable| *variable != "LODGE_CONFIG") {
        // Without the prefix, which would make every name similar.
        let names: Vec<_> = config::described().map(|(name, ..)| config::env_name(&name)).collect();
        let names = names.iter().filter_map(|name| name.strip_prefix("LODGE_"));
        let near = variable.strip_prefix("LODGE_").and_then(|variable| nearest(variable, names));
        let hint = near.map_or(String::new(), |near| format!("; did you mean LODGE_{near}?"));
        notice(&format!("{variable} is not a setting of Lodge, and is ignored{hint}"));
    }
    let flags: Source =
        config::described().filter_map(|(name, ..)| Some((name.clone(), text(matches, &name)?.clone()))).collect();
    let (file, text, name) = read_file(matches)?;
    let read = (!name.is_empty()).then(|| PathBuf::from(&name));
    let sources = [(Origin::File, file), (Origin::Environment, environment), (Origin::Flag, flags)];
    let (otel, mut problems) = match config::otel::read(std::env::vars(), &sources) {
        Ok(otel) => (otel, Vec::new()),
        Err(problems) => (Source::new(), problems),
    };
    let [file, environment, flags] = sources;
    let known = machine::memory().map(|bytes| ("memory".into(), bytes.max(32 << 20).to_string()));
    let machine = (Origin::Default, known.into_iter().collect());
    match config::resolve(&[machine, (Origin::Otel, otel), file, environment, flags]) {
        Ok(mut resolved) => {
            problems.extend(code_cache::misplaced(&resolved.config));
            resolved.config.program.file = read.map(|path| std::path::absolute(&path).unwrap_or(path));
            if problems.is_empty() { Ok(resolved) } else { Err(problems) }
        }
        Err(more) => {
            problems.extend(more.into_iter().map(|problem| located(&name, &text, problem)));
            Err(problems)
        }
    }
}

/// Adds the line of its key to a problem of `lodge.toml`, the name of the file, and where a key of manifests belongs.
fn located(name: &str, file: &str, problem: String) -> String {
    let Some(rest) = problem.strip_prefix("lodge.toml: ") else { return problem };
    let key = rest.split(':').next().unwrap_or(rest);
    let line = lodge_manifest::position(file, key);
    let of_manifest =
        rest.contains(": unknown key") && !rest.contains("; ") && lodge_manifest::misplaced(key).is_some();
    let hint = if of_manifest {
        format!("; `{key}` is a key of a manifest, such as guests/users.toml")
    } else {
        String::new()
    };
    format!("{name}{}{rest}{hint}", if line.is_empty() { ": ".into() } else { format!(" {line}") })
}

/// Reads `lodge.toml`, or the file that `--config` names. Returns its settings, its text and its name.
fn read_file(matches: &ArgMatches) -> Result<(Source, String, String), Vec<String>> {
    let named = text(matches, "config").cloned().or_else(|| std::env::var("LODGE_CONFIG").ok());
    let path = PathBuf::from(named.as_deref().unwrap_or("lodge.toml"));
    match files::read_text(&path, MAX_FILE) {
        Ok(text) => match config::read_file(&text) {
            Ok(source) => Ok((source, text, path.display().to_string())),
            Err(problem) => Err(vec![format!("{}: {problem}", path.display())]),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && named.is_none() => Ok(Default::default()),
        Err(error) => Err(vec![format!("{}: {error}", path.display())]),
    }
}

fn print_config(resolved: &Resolved) -> Result<(), CliError> {
    let width = resolved.values.iter().map(|(name, text, _)| name.len() + text.len()).max().unwrap_or(0) + 5;
    for (name, text, origin) in &resolved.values {
        let text = if config::is_secret(name) && !text.is_empty() { "(a secret)" } else { text };
        let setting = format!("{name} = \"{text}\"");
        out::line(&format!("{setting:width$} # {origin}"))?;
    }
    Ok(())
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

/// Serves the directory and, with `dev`, builds the guests in it, and renews the certificate in the directory that it names.
fn serve(config: Config, dev: Option<Option<PathBuf>>) -> ExitCode {
    let (logs, logging) = match Logs::init(&config) {
        Ok((logs, flush)) => (logs, Some(flush)),
        Err(_) => (Logs::detached(&config), None),
    };
    lasting::log_panics();
    let served = block_on(async {
        let guests = config.guests.clone();
        let host = Host::bind(config, logs).await?;
        let stop = signals().map_err(|error| format!("cannot register signal handlers: {error}"))?;
        // While it builds, the components that exist are served.
        let mut beside = tokio::task::JoinSet::new();
        if let Some(https) = dev {
            beside.spawn(dev::Projects::new(&guests, host.builds()).keep_building());
            https.map(|directory| beside.spawn(LocalCertificate::follow(directory, move || dev::host_names(&guests))));
        }
        let ended = host.run(stop).await;
        drop(beside);
        Ok(ended)
    });
    // Flushes buffered log lines, so that the messages below come last.
    drop(logging);
    match served.and_then(|served: Result<Ended, String>| served) {
        Ok(Ended::Drained) => ExitCode::SUCCESS,
        Ok(Ended::CutOff) => {
            notice("some requests were cut off after stop.grace; raise it to let them finish");
            ExitCode::FAILURE
        }
        Err(problem) => {
            notice(&problem);
            ExitCode::FAILURE
        }
    }
}

/// Completes at the first SIGTERM or SIGINT; a second one ends the process at once.
///
/// SIGHUP does the same for a host that was started from a terminal, since it means that the terminal was closed.
/// Otherwise SIGHUP is a request to reload the configuration, and is only logged. So are SIGUSR1 and SIGUSR2, whose
/// default action would end the process without a drain.
fn signals() -> std::io::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let catch = |kind| signal(kind);
    let (mut terminate, mut interrupt) = (catch(SignalKind::terminate())?, catch(SignalKind::interrupt())?);
    let mut hangup = catch(SignalKind::hangup())?;
    let (mut first, mut second) = (catch(SignalKind::user_defined1())?, catch(SignalKind::user_defined2())?);
    let from_terminal = std::io::stdin().is_terminal();
    let (told, stop) = tokio::sync::oneshot::channel();
    tokio::spawn(async move {
        let mut told = Some(told);
        loop {
            let ignored = tokio::select! {
                _ = terminate.recv() => None,
                _ = interrupt.recv() => None,
                _ = hangup.recv() => (!from_terminal).then_some("SIGHUP"),
                _ = first.recv() => Some("SIGUSR1"),
                _ = second.recv() => Some("SIGUSR2"),
            };
            match (ignored, told.take()) {
                (Some(name), waiting) => {
                    told = waiting;
                    tracing::info!(
                        "{name} has no effect: changes of guests and manifests are followed without it, and other settings \
                         are read only at the start; send SIGTERM to drain and stop"
                    );
                }
                (None, Some(told)) => drop(told.send(())),
                // 128 + SIGINT, as a shell reports a process that a signal ended.
                (None, None) => std::process::exit(130),
            }
        }
    });
    Ok(async move {
        let _ = stop.await;
    })
}
