//! `lodge check`: what `serve` would do with every file, said before it is asked to.

use std::process::ExitCode;
use std::sync::Arc;

use tokio::task::JoinSet;

use crate::config::Config;
use crate::guests::cache::Cache;
use crate::guests::compile::Compiler;
use crate::guests::load::{Scanner, State};
use crate::guests::report::{self, Report};
use crate::guests::snapshot::Publisher;

/// Checks everything and prints the report. Fails when anything is refused.
#[expect(clippy::print_stdout, reason = "the report is what was asked for")]
pub(super) fn run(config: Config, json: bool) -> ExitCode {
    let reports = match super::block_on(check(Arc::new(config))).and_then(|reports| reports) {
        Ok(reports) => reports,
        Err(problem) => {
            super::complain(&problem);
            return ExitCode::FAILURE;
        }
    };
    if json {
        println!("{}", serde_json::to_string_pretty(&reports).unwrap_or_default());
    } else {
        reports.iter().for_each(print);
    }
    let refused = reports.iter().filter(|report| report.refused.is_some()).count();
    if refused == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Fills the compile cache, for an image or ahead of a restart. Fails when anything is refused, or is not kept.
pub(super) fn compile(config: Config) -> ExitCode {
    let config = Arc::new(config);
    if let Err(problem) = Cache::open(&config.cache) {
        super::complain(&format!("there is no compile cache to fill: {problem}"));
        return ExitCode::FAILURE;
    }
    let reports = match super::block_on(check(Arc::clone(&config))).and_then(|reports| reports) {
        Ok(reports) => reports,
        Err(problem) => {
            super::complain(&problem);
            return ExitCode::FAILURE;
        }
    };
    let refused: Vec<_> = reports.iter().filter(|report| report.refused.is_some()).collect();
    refused.iter().for_each(|report| print(report));
    if refused.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

async fn check(config: Arc<Config>) -> Result<Vec<Report>, String> {
    let found = Scanner::new(&config.guests)
        .scan(&config)
        .map_err(|error| format!("{} cannot be read: {error}", config.guests.display()))?;
    let compiler = Compiler::new(&config)?;
    let compiler = Arc::new(compiler);
    let (mut guests, mut refusals, mut compiling) = (Vec::new(), Vec::new(), JoinSet::new());
    for found in found.into_values() {
        match found.state {
            State::Ready(spec) => {
                let compiler = Arc::clone(&compiler);
                compiling.spawn(async move { compiler.compile(spec).await });
            }
            State::Refused(refusal) | State::Orphan(refusal) => refusals.push(refusal),
        }
    }
    let total = compiling.len();
    while let Some(finished) = compiling.join_next().await {
        match finished.map_err(|crash| format!("compiling: {crash}"))? {
            Ok(guest) => guests.push(guest),
            Err(refusal) => refusals.push(refusal),
        }
        super::complain(&format!("[{}/{total}] compiled", total - compiling.len()));
    }
    let publisher = Publisher::alone(&config);
    publisher.publish(guests, refusals, true);
    let current = publisher.current();
    let reports = report::of(&current.snapshot());
    Ok(reports)
}

#[expect(clippy::print_stdout, reason = "the report is what was asked for")]
fn print(report: &Report) {
    if let Some(service) = &report.service {
        let size = bytesize::ByteSize(service.bytes).display().iec();
        let short = service.digest.get(..12).unwrap_or_default();
        println!("{}  {size}  sha256 {short}", report.file);
        println!("  answers at  {} and {}", service.routes.join(", "), service.host);
        println!("  exports     {}", service.exports.join("\n              "));
        println!("  imports     {}", service.imports.join("\n              "));
    }
    if let Some(refused) = &report.refused {
        println!("{}  REFUSED: {}; {}", report.file, refused.reason, refused.remedy);
    }
}
