//! The sockets that the host listens on: its own, or those that systemd has opened for it.
//!
//! A socket of systemd stays open while the host is restarted, so that clients wait instead of being refused (sd_listen_fds(3)).

use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use crate::guests::snapshot::Current;
use crate::listener::accept::Socket;

/// The longest time for which connections at sockets of systemd wait for services that are not compiled yet.
const STARTING: Duration = Duration::from_secs(10);

/// The time between two looks at whether all services are there.
const LOOK: Duration = Duration::from_millis(5);

/// The most sockets that are looked at. There are three that a host can use.
const MOST: usize = 16;

/// Completes when connections are to be accepted: at once, or, where they wait in a `shared` socket instead of being refused, when every
/// file of the directory is served or refused.
pub(super) async fn started(shared: bool, current: Current) {
    let complete = async {
        while shared && !current.snapshot().complete {
            tokio::time::sleep(LOOK).await;
        }
    };
    let _ = tokio::time::timeout(STARTING, complete).await;
}

/// The sockets that systemd gave to this process, those first that no setting has taken.
pub(super) struct GivenSockets(Vec<(SocketAddr, TcpListener)>);

impl GivenSockets {
    /// Takes the sockets that the environment names; none if they are not for this process.
    ///
    /// # Errors
    /// One of them is no TCP socket.
    pub(super) fn from_environment() -> Result<Self, String> {
        let mut given = listenfd::ListenFd::from_env();
        let mut sockets = Vec::new();
        for number in 0..given.len().min(MOST) {
            let wrong = |error| format!("systemd: socket {} of LISTEN_FDS cannot be used: {error}", number + 1);
            let Some(socket) = given.take_tcp_listener(number).map_err(wrong)? else { continue };
            socket.set_nonblocking(true).map_err(wrong)?;
            sockets.push((socket.local_addr().map_err(wrong)?, socket));
        }
        Ok(Self(sockets))
    }

    /// Returns the given socket with the port of `address`, or else a new one.
    ///
    /// # Errors
    /// The address cannot be had; with the way out.
    pub(super) async fn listen(&mut self, key: &str, address: SocketAddr) -> Result<Socket, String> {
        let wrong = |error: std::io::Error| {
            let way_out = if error.kind() == std::io::ErrorKind::AddrInUse {
                "; another program uses it: choose another port"
            } else {
                ""
            };
            format!("{key}: cannot listen on {address}: {error}{way_out}")
        };
        let same = self.0.iter().position(|(given, _)| given.port() == address.port());
        let listener = match same.map(|at| self.0.remove(at)) {
            Some((_, given)) => tokio::net::TcpListener::from_std(given),
            None => tokio::net::TcpListener::bind(address).await,
        };
        Ok(Socket { listener: listener.map_err(wrong)?, is_shared: same.is_some() })
    }

    /// Ends the search for sockets.
    ///
    /// # Errors
    /// No setting has the port of a socket: its clients would wait for ever.
    pub(super) fn finish(self) -> Result<(), String> {
        let Some((address, _)) = self.0.first() else { return Ok(()) };
        Err(format!(
            "systemd: nothing listens on port {}, which the socket unit opens; set `listen`, `tls.listen` or `admin` to it, or remove \
             it from the unit",
            address.port()
        ))
    }
}
