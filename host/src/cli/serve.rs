//! `lodge serve` and `lodge dev`: run the host until a signal stops it.

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;

use super::out::notice;
use super::{block_on, dev};
use crate::certificates::local::LocalCertificate;
use crate::host::{Ended, Host};
use lodge_base::config::Config;
use lodge_base::lasting;
use lodge_base::telemetry::logs::Logs;

/// Serves the directory and, with `dev`, builds the guests in it, and renews the certificate in the directory that it names.
pub(super) fn run(config: Config, dev: Option<Option<PathBuf>>) -> ExitCode {
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
