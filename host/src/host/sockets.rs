//! The sockets that the host listens on: its own, or those that systemd has opened for it.
//!
//! A socket of systemd stays open while the host is restarted, so that clients wait instead of being refused (sd_listen_fds(3)).

use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use tokio::net::TcpListener as TokioListener;

use crate::admin::readiness::HostReadiness;
use crate::listener::accept::Socket;
use lodge_base::config::Config;

/// The longest time for which connections at sockets of systemd wait for services that are not compiled yet.
const STARTING: Duration = Duration::from_secs(10);

/// The time between two looks at whether all services are there.
const LOOK: Duration = Duration::from_millis(5);

/// The most sockets that are looked at. There are three that a host can use.
const MOST: usize = 16;

/// Completes when connections are to be accepted: at once, or, where they wait in a `shared` socket instead of being refused, when the host
/// is ready.
pub(super) async fn started(shared: bool, readiness: HostReadiness) {
    let complete = async {
        while shared && readiness.missing().is_some() {
            tokio::time::sleep(LOOK).await;
        }
    };
    let _ = tokio::time::timeout(STARTING, complete).await;
}

/// The sockets of a host.
pub(super) struct Sockets {
    /// For services, without TLS.
    pub(super) plain: Socket,
    /// For services, with TLS.
    pub(super) secure: Option<Socket>,
    /// For operators.
    pub(super) admin: Option<TokioListener>,
    /// What the log is to say of sockets that are not where the settings say.
    pub(super) doubts: Vec<String>,
}

impl Sockets {
    /// Opens what the settings name, or takes what systemd has opened.
    ///
    /// # Errors
    /// One line: which address cannot be had, and which key to change.
    pub(super) async fn open(config: &Config) -> Result<Self, String> {
        let mut given = GivenSockets::from_environment()?;
        let plain = given.listen("listen", config.listen).await?;
        let secure = match config.tls.listen {
            Some(address) => Some(given.listen("tls.listen", address).await?),
            None => None,
        };
        let admin = match config.admin {
            Some(address) => Some(given.listen("admin", address).await?.listener),
            None => None,
        };
        let doubts = given.finish()?;
        Ok(Self { plain, secure, admin, doubts })
    }
}

/// Returns what is to be said of a socket of systemd that is not at the address of its setting, at which the host would have listened.
fn elsewhere(key: &str, wanted: SocketAddr, given: SocketAddr) -> Option<String> {
    let [own, other] = [wanted, given].map(|address| address.ip().to_canonical());
    if own == other || own.is_unspecified() && other.is_unspecified() {
        return None;
    }
    let reach = match (own.is_loopback(), other.is_loopback()) {
        (true, false) => ", where other machines reach it",
        (false, true) => ", where only this machine reaches it",
        _ => "",
    };
    Some(format!(
        "{key}: the setting is {wanted}, and the socket unit of systemd opens {given}{reach}: the host listens there; write the address \
         into `ListenStream=` of the unit, or into `{key}`"
    ))
}

/// The sockets that systemd gave to this process, and that no setting has taken; with what is to be said of those that one has.
struct GivenSockets(Vec<(SocketAddr, TcpListener)>, Vec<String>);

impl GivenSockets {
    /// Takes the sockets that the environment names; none if they are not for this process.
    ///
    /// # Errors
    /// One of them is no TCP socket.
    fn from_environment() -> Result<Self, String> {
        let mut given = listenfd::ListenFd::from_env();
        let mut sockets = Vec::new();
        for number in 0..given.len().min(MOST) {
            let wrong = |error| format!("systemd: socket {} of LISTEN_FDS cannot be used: {error}", number + 1);
            let Some(socket) = given.take_tcp_listener(number).map_err(wrong)? else { continue };
            socket.set_nonblocking(true).map_err(wrong)?;
            sockets.push((socket.local_addr().map_err(wrong)?, socket));
        }
        Ok(Self(sockets, Vec::new()))
    }

    /// Returns the given socket with the port of `address`, or else a new one.
    ///
    /// # Errors
    /// The address cannot be had; with the way out.
    async fn listen(&mut self, key: &str, address: SocketAddr) -> Result<Socket, String> {
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
            Some((at, given)) => {
                self.1.extend(elsewhere(key, address, at));
                TokioListener::from_std(given)
            }
            None => TokioListener::bind(address).await,
        };
        Ok(Socket { listener: listener.map_err(wrong)?, is_shared: same.is_some() })
    }

    /// Ends the search for sockets. Returns what is to be said of those that were taken.
    ///
    /// # Errors
    /// No setting has the port of a socket: its clients would wait for ever.
    fn finish(self) -> Result<Vec<String>, String> {
        let Some((address, _)) = self.0.first() else { return Ok(self.1) };
        Err(format!(
            "systemd: nothing listens on port {}, which the socket unit opens; set `listen`, `tls.listen` or `admin` to it, or remove \
             it from the unit",
            address.port()
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_at_another_address_are_told() {
        for (wanted, given, expected) in [
            ("127.0.0.1:80", "127.0.0.1:80", None),
            ("127.0.0.1:80", "[::ffff:127.0.0.1]:80", None),
            ("0.0.0.0:80", "[::]:80", None),
            ("127.0.0.1:80", "[::]:80", Some("[::]:80, where other machines reach it: ")),
            ("127.0.0.1:80", "0.0.0.0:80", Some("0.0.0.0:80, where other machines reach it: ")),
            ("[::1]:80", "10.0.0.1:80", Some("10.0.0.1:80, where other machines reach it: ")),
            ("0.0.0.0:80", "127.0.0.1:80", Some("127.0.0.1:80, where only this machine reaches it: ")),
            ("10.0.0.1:80", "10.0.0.2:80", Some("opens 10.0.0.2:80: ")),
            ("0.0.0.0:80", "10.0.0.2:80", Some("opens 10.0.0.2:80: ")),
        ] {
            let told = elsewhere("listen", wanted.parse().unwrap(), given.parse().unwrap());
            match expected {
                Some(text) => assert!(told.as_deref().is_some_and(|told| told.contains(text)), "{told:?}"),
                None => assert_eq!(told, None, "{wanted} {given}"),
            }
        }
    }
}
