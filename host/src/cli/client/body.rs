//! Reads an HTTP/1.1 response from a blocking socket: its head, and its body in any framing.

use std::io::{self, BufRead, BufReader, Read};

use super::stream::HostStream;

/// The most bytes of a response head, and of a line between chunks.
const HEAD_BYTES: u64 = 64 << 10;
/// The most header fields of a response.
const HEADERS: usize = 64;

/// How an alert of TLS begins, with which a server answers what is not TLS.
const TLS_ALERT: &[u8] = &[0x15, 3];

/// The body of a response, without its framing.
pub(super) struct ResponseBody {
    from: BufReader<HostStream>,
    framing: Framing,
}

enum Framing {
    /// The number of bytes that are left.
    Length(u64),
    /// The number of bytes left of this chunk, and whether a chunk was read before.
    Chunk(u64, bool),
    /// Ends when the connection is closed.
    Close,
    /// The end of the body.
    Over,
}

/// Reads the head of a response. Returns the status and the body.
pub(super) fn head(mut from: BufReader<HostStream>) -> io::Result<(u16, ResponseBody)> {
    let mut bytes = Vec::new();
    loop {
        let before = bytes.len();
        let most = HEAD_BYTES.saturating_sub(before as u64);
        let read = (&mut from).take(most).read_until(b'\n', &mut bytes)?;
        if bytes.is_empty() {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the host closed the connection"));
        }
        if bytes.starts_with(TLS_ALERT) {
            return Err(foreign("it speaks TLS: write https:// in place of http://"));
        }
        if read == 0 || !bytes.ends_with(b"\n") {
            return Err(foreign("the response is not HTTP"));
        }
        if matches!(bytes.get(before..), Some(b"\n" | b"\r\n")) {
            break;
        }
    }
    let mut headers = [httparse::EMPTY_HEADER; HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    let parsed = response.parse(&bytes).map_err(|error| foreign(&format!("the response is not HTTP: {error}")))?;
    let status = response.code.filter(|_| parsed.is_complete()).ok_or_else(|| foreign("the response is not HTTP"))?;
    let header = |name: &str| {
        let found = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name))?;
        std::str::from_utf8(found.value).ok().map(str::trim)
    };
    let framing = match (header("transfer-encoding"), header("content-length")) {
        _ if matches!(status, 204 | 304) => Framing::Over,
        (Some(coding), _) if coding.eq_ignore_ascii_case("chunked") => Framing::Chunk(0, false),
        (Some(_), _) => return Err(foreign("the transfer-encoding is unknown")),
        (None, Some(length)) => {
            Framing::Length(length.parse().map_err(|_| foreign("the response has an invalid content-length"))?)
        }
        (None, None) => Framing::Close,
    };
    Ok((status, ResponseBody { from, framing }))
}

impl ResponseBody {
    /// Removes the deadline, for a stream.
    pub(super) fn clear_timeout(&mut self) {
        self.from.get_mut().set_deadline(None);
    }

    /// Reads a line of the framing, without its end.
    fn line(&mut self) -> io::Result<Vec<u8>> {
        let mut line = Vec::new();
        (&mut self.from).take(HEAD_BYTES).read_until(b'\n', &mut line)?;
        if line.pop() != Some(b'\n') {
            return Err(cut());
        }
        line.pop_if(|last| *last == b'\r');
        Ok(line)
    }

    /// Reads the size of the next chunk; 0 after the last one, whose trailers are skipped.
    fn next_chunk(&mut self, first: bool) -> io::Result<u64> {
        if !first && !self.line()?.is_empty() {
            return Err(foreign("a chunk is longer than its size"));
        }
        let line = self.line()?;
        let digits = line.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
        let size = std::str::from_utf8(digits).ok().filter(|digits| digits.bytes().all(|d| d.is_ascii_hexdigit()));
        let size = size.and_then(|digits| u64::from_str_radix(digits, 16).ok());
        let size = size.ok_or_else(|| foreign("a chunk has no size"))?;
        if size == 0 {
            let mut trailers = HEADERS;
            while !self.line()?.is_empty() {
                trailers = trailers.checked_sub(1).ok_or_else(|| foreign("too many trailers"))?;
            }
        }
        Ok(size)
    }
}

impl Read for ResponseBody {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if into.is_empty() {
            return Ok(0);
        }
        if let Framing::Chunk(0, begun) = self.framing {
            self.framing = match self.next_chunk(!begun)? {
                0 => Framing::Over,
                size => Framing::Chunk(size, true),
            };
        }
        let left = match self.framing {
            Framing::Over | Framing::Length(0) => return Ok(0),
            Framing::Close => return self.from.read(into),
            Framing::Length(left) | Framing::Chunk(left, _) => left,
        };
        let read = (&mut self.from).take(left).read(into)?;
        if read == 0 {
            return Err(cut());
        }
        if let Framing::Length(left) | Framing::Chunk(left, _) = &mut self.framing {
            *left -= read as u64;
        }
        Ok(read)
    }
}

fn foreign(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.to_owned())
}

fn cut() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the connection was closed before the end")
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};
    use std::time::{Duration, Instant};

    use super::*;
    use crate::cli::client::stream::TimedSocket;

    /// Returns the response that is read when its bytes arrive in `pieces` and the connection is then closed.
    fn read(pieces: &[&str]) -> io::Result<(u16, String)> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let pieces: Vec<String> = pieces.iter().map(|piece| (*piece).to_owned()).collect();
        let writing = std::thread::spawn(move || {
            let (mut peer, _) = listener.accept().unwrap();
            peer.set_nodelay(true).unwrap();
            for piece in pieces {
                peer.write_all(piece.as_bytes()).unwrap();
                std::thread::park_timeout(Duration::from_millis(2));
            }
        });
        let until = Instant::now() + Duration::from_secs(10);
        let (status, mut body) = head(BufReader::new(HostStream::Plain(TimedSocket::new(stream, until))))?;
        let mut text = String::new();
        let read = body.read_to_string(&mut text);
        writing.join().unwrap();
        read.map(|_| (status, text))
    }

    fn bytes(text: &str) -> Vec<&str> {
        text.split_inclusive(|_: char| true).collect()
    }

    #[test]
    fn every_framing() {
        let length = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello and more";
        let chunked = "HTTP/1.1 201 \r\ntransfer-encoding: chunked\r\n\r\n3;x=y\r\nhel\r\n2\r\nlo\r\n0\r\na: b\r\n\r\n";
        let close = "HTTP/1.0 404 Not Found\nserver: x\n\nhello";
        for (text, status) in [(length, 200), (chunked, 201), (close, 404)] {
            assert_eq!(read(&[text]).unwrap(), (status, "hello".into()));
            assert_eq!(read(&bytes(text)).unwrap(), (status, "hello".into()));
        }
    }

    #[test]
    fn truncated_body_is_an_error() {
        for text in [
            "",
            "SSH-2.0-x\r\n\r\n",
            "HTTP/1.1 200 OK\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nhello",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n-1\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhello\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: many\r\n\r\n",
        ] {
            assert!(read(&[text]).is_err(), "{text:?}");
        }
    }
}
