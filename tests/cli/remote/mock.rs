//! A mock of a host's admin API, which records its requests.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};

/// The reports of all files.
pub(super) const SERVICES: &str = concat!(
    r#"[{"file":"bad.wasm","refused":{"reason":"it is empty\u001b[2J","remedy":"copy the component again"}},"#,
    r#"{"file":"hello.wasm","service":{"name":"hello","digest":"0123456789abcdef","bytes":1000,"#,
    r#""routes":["/hello","/hi"],"host":"hello.localhost","state":"serving","since":"2001-11-21T10:00:00.000Z","#,
    r#""loaded":true,"requests":1203,"errors":2,"in_flight":1,"queued":0,"p50_ms":0.12,"p99_ms":2.5,"#,
    r#""cpu_seconds":1.25,"memory_bytes":1310720,"bytes_in":1,"bytes_out":2,"last_refusal":null,"#,
    r#""imports":[],"exports":["wasi:http/handler@0.3.0"]}},"#,
    r#"{"file":"users.wasm","service":{"name":"users","digest":"abcdef","bytes":1000,"routes":["/users"],"#,
    r#""host":"users.localhost","state":"disabled","since":"2026-11-21T10:00:00.000Z","loaded":false,"#,
    r#""requests":0,"errors":0,"in_flight":0,"queued":0,"p50_ms":null,"p99_ms":null,"cpu_seconds":0.0,"#,
    r#""memory_bytes":0,"bytes_in":0,"bytes_out":0,"last_refusal":null,"imports":[],"exports":[]}}]"#,
);
const USERS: &str = concat!(
    r#"{"name":"users","digest":"abcdef","bytes":1000,"routes":["/users"],"host":"users.localhost","#,
    r#""state":"disabled","loaded":false,"limits":{"cpu":"5s"},"imports":["wasi:http/outgoing-handler@0.2.12"],"#,
    r#""recent_errors":[{"at":"2026-11-21T10:00:00Z","request_id":"9f","status":502,"reason":"trapped","#,
    r#""detail":null,"backtrace":[]}]}"#,
);
const LINES: [&str; 2] = [
    r#"{"at":"2026-11-21T10:00:00.123Z","level":"INFO","kind":"guest","service":"users","version":"abcdef012345","request_id":"9f","stream":"stdout","message":"one\u001b]0;title\u0007"}"#,
    r#"{"at":"2026-11-21T10:00:00.123Z","level":"WARN","kind":"host","message":"two"}"#,
];
const CHANGE: &str = r#"{"at":"2026-11-21T10:00:00Z","service":"users","message":"replaced"}"#;

/// The mock.
pub(super) struct Mock {
    pub(super) address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    token: Option<String>,
    asked: Mutex<Vec<String>>,
    /// The number of streams that may continue past their first event.
    permits: Mutex<usize>,
    permitted: Condvar,
}

impl Mock {
    /// A mock that accepts all requests.
    pub(super) fn start() -> Self {
        Self::serve(Shared::default())
    }

    /// A mock that only accepts requests with this token.
    pub(super) fn with_token(token: &str) -> Self {
        Self::serve(Shared { token: Some(token.into()), ..Shared::default() })
    }

    fn serve(shared: Shared) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mock = Self { address: listener.local_addr().unwrap(), shared: Arc::new(shared) };
        let shared = Arc::clone(&mock.shared);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let shared = Arc::clone(&shared);
                // The command may have ended before the response.
                std::thread::spawn(move || drop(respond(&shared, stream)));
            }
        });
        mock
    }

    /// The recorded requests: method, path and, if there is one, body.
    pub(super) fn asked(&self) -> Vec<String> {
        self.shared.asked.lock().unwrap().clone()
    }

    /// Lets a stream continue past its first event.
    pub(super) fn go_on(&self) {
        *self.shared.permits.lock().unwrap() += 1;
        self.shared.permitted.notify_all();
    }
}

fn respond(shared: &Shared, mut stream: TcpStream) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let (mut first, mut length, mut token) = (String::new(), 0, None);
    reader.read_line(&mut first)?;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        match line.trim_end().split_once(": ") {
            Some(("content-length", value)) => length = value.parse().unwrap(),
            Some(("authorization", value)) => token = value.strip_prefix("Bearer ").map(str::to_owned),
            Some(_) => {}
            None => break,
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let body = String::from_utf8(body).unwrap();
    let question = first.trim_end().trim_end_matches(" HTTP/1.1");
    shared.asked.lock().unwrap().push(format!("{question} {body}").trim_end().to_owned());
    if shared.token.is_some() && token != shared.token {
        return json(&mut stream, "401 Unauthorized", &problem("who are you?", 401));
    }
    let (path, query) = question.split_once('?').unwrap_or((question, ""));
    let lines = format!("[{}]", LINES.join(",\n"));
    match path {
        "GET /v1/logs" if query.contains("follow=true") => events(shared, &mut stream, "log", &LINES),
        "GET /v1/events" if query.contains("follow=true") => events(shared, &mut stream, "change", &[CHANGE, CHANGE]),
        "GET /v1/services" => json(&mut stream, "200 OK", SERVICES),
        "GET /v1/services/users" => json(&mut stream, "200 OK", USERS),
        "GET /v1/logs" if query.contains("service=usres") => json(&mut stream, "200 OK", "[]"),
        "GET /v1/logs" => json(&mut stream, "200 OK", &lines),
        "GET /v1/events" => json(&mut stream, "200 OK", &format!("[{CHANGE}]")),
        "GET /v1/host" => json(&mut stream, "200 OK", r#"{"version":"0.1.0","uptime_seconds":61}"#),
        "GET /v1/log-level" => json(&mut stream, "200 OK", r#"{"level":"info"}"#),
        "PUT /v1/log-level" if body.contains("loud") => {
            json(&mut stream, "400 Bad Request", &problem("`loud` is no level", 400))
        }
        "PUT /v1/log-level" => json(&mut stream, "200 OK", &body),
        "POST /v1/services/users/disable" => json(&mut stream, "200 OK", r#"{"service":"users","state":"disabled"}"#),
        "POST /v1/drain" => json(&mut stream, "202 Accepted", r#"{"stopping":true}"#),
        _ => json(&mut stream, "404 Not Found", &problem("there is no such thing", 404)),
    }
}

fn problem(title: &str, status: u16) -> String {
    format!(r#"{{"type":"about:blank","title":"{title}","status":{status}}}"#)
}

fn json(stream: &mut TcpStream, status: &str, body: &str) -> std::io::Result<()> {
    let length = body.len();
    stream.write_all(format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\n\r\n{body}").as_bytes())
}

/// A stream of two events, with others in between that a client has to skip. The second event waits for its permit.
fn events(shared: &Shared, stream: &mut TcpStream, kind: &str, data: &[&str; 2]) -> std::io::Result<()> {
    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")?;
    let mut chunk = |text: String| stream.write_all(format!("{:x}\r\n{text}\r\n", text.len()).as_bytes());
    let (begin, end) = data[0].split_at(20);
    chunk(format!(": welcome\n\nevent: other\ndata: {{}}\n\nevent: {kind}\ndata: {begin}"))?;
    chunk(format!("{end}\n\n"))?;
    let mut permits = shared.permitted.wait_while(shared.permits.lock().unwrap(), |permits| *permits == 0).unwrap();
    *permits -= 1;
    chunk(format!("event: {kind}\r\ndata: {}\r\n\r\n", data[1]))?;
    stream.write_all(b"0\r\n\r\n")
}
