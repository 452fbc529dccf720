//! A consumer of messages that only counts them: the replica of an upstream.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

/// The longest head of a request.
const HEAD: usize = 16 << 10;

pub(super) struct Sink {
    pub(super) address: SocketAddr,
    counted: Arc<Counted>,
}

struct Counted {
    /// How many have come, and when the last one did.
    received: Mutex<(u64, Instant)>,
    changed: Condvar,
}

impl Sink {
    /// Listens until this program ends.
    pub(super) fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = listener.local_addr().expect("bound");
        let counted = Arc::new(Counted { received: Mutex::new((0, Instant::now())), changed: Condvar::new() });
        let shared = Arc::clone(&counted);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let counted = Arc::clone(&shared);
                std::thread::spawn(move || serve(stream, &counted));
            }
        });
        Self { address, counted }
    }

    pub(super) fn received(&self) -> u64 {
        self.counted.received.lock().expect("no panic").0
    }

    /// Waits until so many messages have come, and returns when the last one did.
    pub(super) fn wait(&self, count: u64, longest: Duration) -> Instant {
        let received = self.counted.received.lock().expect("no panic");
        let waited = self.counted.changed.wait_timeout_while(received, longest, |(received, _)| *received < count);
        let (received, late) = waited.expect("no panic");
        assert!(!late.timed_out(), "{} of {count} messages have come", received.0);
        received.1
    }
}

/// Responds to each request on a connection.
fn serve(mut stream: TcpStream, counted: &Counted) -> Option<()> {
    stream.set_nodelay(true).ok()?;
    let (mut received, mut part) = (Vec::new(), [0; 4096]);
    loop {
        let end = loop {
            if let Some(end) = received.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                break end + 4;
            }
            let size = stream.read(&mut part).ok().filter(|size| *size > 0 && received.len() < HEAD)?;
            received.extend_from_slice(&part[..size]);
        };
        let head = String::from_utf8_lossy(&received[..end]).to_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
        let length: usize = length.and_then(|length| length.trim().parse().ok()).unwrap_or(0);
        while received.len() < end + length {
            let size = stream.read(&mut part).ok().filter(|size| *size > 0)?;
            received.extend_from_slice(&part[..size]);
        }
        received.drain(..end + length);
        {
            let mut count = counted.received.lock().ok()?;
            *count = (count.0 + 1, Instant::now());
            counted.changed.notify_all();
        }
        stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").ok()?;
    }
}
