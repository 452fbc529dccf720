//! Reports the state of the host to systemd, by the protocol of sd_notify(3).
//!
//! A unit with `Type=notify` is started when the host is ready, as `/readyz` says. With `WatchdogSec`, systemd restarts a host
//! whose runtime does not run its tasks any more.

use std::ffi::OsStr;
#[cfg(target_os = "linux")]
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::admin::readiness::HostReadiness;
use lodge_base::drain::StopSignal;

/// The time between two looks whether the host is ready.
const LOOK: Duration = Duration::from_millis(20);

/// The time between two reports of a host that starts.
const START_REPORT: Duration = Duration::from_secs(5);

/// How long systemd waits for the next report of a host that starts, also beyond `TimeoutStartSec`, in microseconds: the first
/// compilation of many components takes minutes.
const START_EXTENSION: u64 = 30_000_000;

/// The time between two reports of a unit without a watchdog.
const REPORT: Duration = Duration::from_secs(60);

/// The socket that systemd gave to the host.
pub(super) struct Systemd {
    socket: UnixDatagram,
    address: SocketAddr,
    /// The time within which systemd wants a sign of life.
    watchdog: Option<Duration>,
}

impl Systemd {
    /// Returns the socket that the environment names; `None` if systemd does not supervise this process.
    pub(super) fn from_environment() -> Option<Self> {
        let address = address(&std::env::var_os("NOTIFY_SOCKET")?)?;
        let socket = UnixDatagram::unbound().ok()?;
        // A report that systemd does not take must not stop the host.
        socket.set_nonblocking(true).ok()?;
        let number = |name| std::env::var(name).ok()?.parse::<u64>().ok();
        let own = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        let watchdog = number("WATCHDOG_USEC").filter(|micros| own && *micros > 0).map(Duration::from_micros);
        Some(Self { socket, address, watchdog })
    }

    /// Reports for as long as the host runs. A task of the runtime, so that a runtime that is stuck reports nothing.
    pub(super) async fn report(self: Arc<Self>, readiness: HostReadiness, stop: StopSignal) {
        let (current, mut reported): (_, Option<Instant>) = (&readiness.current, None);
        while let Some(what) = readiness.missing().filter(|_| !stop.is_stopping()) {
            if reported.is_none_or(|at| at.elapsed() >= START_REPORT) {
                reported = Some(Instant::now());
                let files = current.snapshot().targets.len();
                self.send(&format!(
                    "EXTEND_TIMEOUT_USEC={START_EXTENSION}\nWATCHDOG=1\nSTATUS={what}, {} so far",
                    counted(files)
                ));
            }
            tokio::time::sleep(LOOK).await;
        }
        let interval = self.watchdog.map_or(REPORT, |within| within / 2);
        let mut stopping = std::pin::pin!(stop.clone().stopping());
        while !stop.is_stopping() {
            let services = counted(current.snapshot().targets.len());
            self.send(&format!("READY=1\nWATCHDOG=1\nSTATUS=serving {services}"));
            tokio::select! {
                () = tokio::time::sleep(interval) => {}
                () = &mut stopping => {}
            }
        }
        self.send("STOPPING=1\nSTATUS=finishing requests");
        loop {
            self.send("WATCHDOG=1");
            tokio::time::sleep(interval).await;
        }
    }

    fn send(&self, state: &str) {
        if let Err(error) = self.socket.send_to_addr(state.as_bytes(), &self.address) {
            tracing::debug!("cannot report to systemd: {error}");
        }
    }
}

fn counted(services: usize) -> String {
    match services {
        1 => "1 service or version".into(),
        more => format!("{more} services and versions"),
    }
}

/// Returns the address of a socket: a path, or a name in the abstract namespace after `@`.
fn address(name: &OsStr) -> Option<SocketAddr> {
    match name.as_bytes() {
        [b'/', ..] => SocketAddr::from_pathname(name).ok(),
        #[cfg(target_os = "linux")]
        [b'@', rest @ ..] => SocketAddr::from_abstract_name(rest).ok(),
        _ => None,
    }
}
