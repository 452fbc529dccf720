//! `lodge health`: asks a running host whether it is ready, for a container's health check. No shell, no curl needed.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::process::ExitCode;
use std::time::Duration;

/// For each of connecting, sending and receiving.
const PATIENCE: Duration = Duration::from_secs(2);

/// Succeeds if `/readyz` of the host with this admin address answers 200.
pub(super) fn run(admin: Option<SocketAddr>) -> ExitCode {
    let Some(admin) = admin else {
        super::complain("admin is `off`, so there is nobody to ask");
        return ExitCode::FAILURE;
    };
    match ask(reachable(admin)) {
        Ok(answer) if answer.split(' ').nth(1) == Some("200") => ExitCode::SUCCESS,
        Ok(answer) => {
            super::complain(&format!("not ready: {}", answer.lines().next().unwrap_or("no answer")));
            ExitCode::FAILURE
        }
        Err(error) => {
            super::complain(&format!("http://{admin}/readyz: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// Every address is listened on; one has to be asked.
fn reachable(admin: SocketAddr) -> SocketAddr {
    let ip = match admin.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, admin.port())
}

fn ask(address: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(format!("GET /readyz HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    stream.take(1 << 10).read_to_string(&mut answer)?;
    Ok(answer)
}
