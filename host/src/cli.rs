//! What was typed. Flags are made from the same table as the configuration, so they cannot disagree with it.

mod check;
mod dev;
mod health;
mod schema;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Arg, ArgAction, ArgMatches, Command};

use crate::config::{self, Config, Origin, Resolved, Source};
use crate::host::{Ended, Host, WASMTIME};
use crate::logs::Logs;

/// The request was understood and refused: a bad value, a bad file.
const EX_USAGE: u8 = 64;

/// Runs what was typed.
pub fn run(args: impl IntoIterator<Item = String>) -> ExitCode {
    let matches = match command().try_get_matches_from(args) {
        Ok(matches) => matches,
        Err(message) => {
            // Help goes to stdout with success, a mistake to stderr.
            let _ = message.print();
            return if message.use_stderr() { ExitCode::from(EX_USAGE) } else { ExitCode::SUCCESS };
        }
    };
    let Some((name, matches)) = matches.subcommand() else { return ExitCode::from(EX_USAGE) };
    if name == "schema" {
        return schema::run();
    }
    let resolved = match resolve(matches) {
        Ok(resolved) => resolved,
        Err(problems) => {
            for problem in problems {
                complain(&problem);
            }
            return ExitCode::from(EX_USAGE);
        }
    };
    if matches.get_flag("print-config") {
        return print_config(&resolved);
    }
    match name {
        "check" => check::run(resolved.config, matches.get_flag("json")),
        "compile" => check::compile(resolved.config),
        "health" => health::run(resolved.config.admin),
        "dev" => serve(resolved.config, true),
        _ => serve(resolved.config, false),
    }
}

fn command() -> Command {
    let version = format!("{} (wasmtime {WASMTIME})", env!("CARGO_PKG_VERSION"));
    Command::new("lodge")
        .about("Microservices as WebAssembly components: drop users.wasm into guests/, and /users answers.")
        .version(version)
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(configured(Command::new("serve").about("Serve every component in DIR")))
        .subcommand(configured(Command::new("dev").about("Build every guest crate under DIR, then serve DIR")))
        .subcommand(
            configured(Command::new("check").about("Load and compile DIR or one file, and say what each asks for"))
                .arg(Arg::new("json").long("json").action(ArgAction::SetTrue).help("Print JSON, for machines")),
        )
        .subcommand(configured(Command::new("compile").about("Compile every component in DIR into the compile cache")))
        .subcommand(Command::new("schema").about("Print the JSON Schema of a manifest"))
        .subcommand(configured(Command::new("health").about("Ask a running host whether it is ready")))
}

fn configured(command: Command) -> Command {
    let flags = config::described().filter(|(name, ..)| name != "guests").map(|(name, default, help)| {
        let shown = if default.is_empty() { "none" } else { default };
        let help = format!("{help} [default: {shown}] [env: {}]", config::env_name(&name));
        Arg::new(name.clone()).long(config::flag_name(&name)).value_name("VALUE").help(help)
    });
    command
        .arg(Arg::new("guests").value_name("DIR").help("Directory of components [default: guests] [env: LODGE_GUESTS]"))
        .args(flags)
        .arg(
            Arg::new("config")
                .long("config")
                .value_name("FILE")
                .help("Configuration file [default: lodge.toml, if it is there] [env: LODGE_CONFIG]"),
        )
        .arg(
            Arg::new("print-config")
                .long("print-config")
                .action(ArgAction::SetTrue)
                .help("Print every setting with its origin, and do nothing else"),
        )
}

fn resolve(matches: &ArgMatches) -> Result<Resolved, Vec<String>> {
    let (environment, unknown) = config::read_environment(std::env::vars());
    for variable in unknown.iter().filter(|variable| *variable != "LODGE_CONFIG") {
        complain(&format!("{variable} is not a setting of Lodge, and is ignored"));
    }
    let flags: Source = config::described()
        .filter_map(|(name, ..)| Some((name.clone(), matches.get_one::<String>(&name)?.clone())))
        .collect();
    let file = read_file(matches)?;
    let sources = [(Origin::File, file), (Origin::Environment, environment), (Origin::Flag, flags)];
    let (otel, mut problems) = match config::otel::read(std::env::vars(), &sources) {
        Ok(otel) => (otel, Vec::new()),
        Err(problems) => (Source::new(), problems),
    };
    let [file, environment, flags] = sources;
    match config::resolve(&[(Origin::Otel, otel), file, environment, flags]) {
        Ok(resolved) if problems.is_empty() => Ok(resolved),
        Ok(_) => Err(problems),
        Err(more) => {
            problems.extend(more);
            Err(problems)
        }
    }
}

fn read_file(matches: &ArgMatches) -> Result<Source, Vec<String>> {
    let named = matches.get_one::<String>("config").cloned().or_else(|| std::env::var("LODGE_CONFIG").ok());
    let path = PathBuf::from(named.as_deref().unwrap_or("lodge.toml"));
    match std::fs::read_to_string(&path) {
        Ok(text) => config::read_file(&text).map_err(|problem| vec![format!("{}: {problem}", path.display())]),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && named.is_none() => Ok(Source::new()),
        Err(error) => Err(vec![format!("{}: {error}", path.display())]),
    }
}

#[expect(clippy::print_stdout, reason = "what was asked for goes to stdout")]
fn print_config(resolved: &Resolved) -> ExitCode {
    let width = resolved.values.iter().map(|(name, text, _)| name.len() + text.len()).max().unwrap_or(0) + 5;
    for (name, text, origin) in &resolved.values {
        let text = if config::is_secret(name) && !text.is_empty() { "(a secret)" } else { text };
        let setting = format!("{name} = \"{text}\"");
        println!("{setting:width$} # {origin}");
    }
    ExitCode::SUCCESS
}

#[expect(clippy::print_stderr, reason = "before there is a log, and for people")]
fn complain(problem: &str) {
    eprintln!("lodge: {problem}");
}

/// The runtime of every command: one thread per core, and the clock of CPU time is theirs.
fn block_on<T>(work: impl Future<Output = T>) -> Result<T, String> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(crate::turns::workers()).enable_all().build();
    Ok(runtime.map_err(|error| format!("the runtime does not start: {error}"))?.block_on(work))
}

/// Serves the directory and, in `dev`, builds what is in it before and meanwhile.
fn serve(config: Config, dev: bool) -> ExitCode {
    let (logs, logging) = match Logs::init(&config) {
        Ok((logs, flush)) => (logs, Some(flush)),
        Err(_) => (Logs::detached(&config), None),
    };
    let served = block_on(async {
        let mut projects = dev::Projects::new(&config.guests);
        if dev {
            projects.build().await?;
            if projects.len() == 0 {
                complain(&format!("{} holds no sources; serving what is there", config.guests.display()));
            }
        }
        let host = Host::bind(config, logs).await?;
        let stop = signals().map_err(|error| format!("signals cannot be caught: {error}"))?;
        let building = dev.then(|| tokio::spawn(projects.keep_building()));
        let ended = host.run(stop).await;
        if let Some(building) = building {
            building.abort();
        }
        Ok(ended)
    });
    // Flushes what is still buffered; the lines below must be the last.
    drop(logging);
    match served.and_then(|served: Result<Ended, String>| served) {
        Ok(Ended::Drained) => ExitCode::SUCCESS,
        Ok(Ended::CutOff) => {
            complain("the grace period is over, and some requests were cut off; stop.grace allows more");
            ExitCode::FAILURE
        }
        Err(problem) => {
            complain(&problem);
            ExitCode::FAILURE
        }
    }
}

/// Ready at the first SIGTERM or SIGINT; the second ends the process at once.
fn signals() -> std::io::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let (told, stop) = tokio::sync::oneshot::channel();
    tokio::spawn(async move {
        let mut told = Some(told);
        loop {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            match told.take() {
                Some(told) => drop(told.send(())),
                // What a shell reports for a process that a signal ended.
                None => std::process::exit(130),
            }
        }
    });
    Ok(async move {
        let _ = stop.await;
    })
}
