//! Headless Chromium for tests of the page, controlled by the DevTools protocol over two pipes.

use std::io::{BufRead, BufReader, PipeWriter, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{Leashed, PATIENCE};

/// One tab, with its own profile and only this machine's network. Its processes are killed when it is dropped.
pub(crate) struct Browser {
    child: Leashed,
    to: PipeWriter,
    from: Receiver<Value>,
    session: Option<String>,
    number: u64,
    events: Vec<Value>,
    stderr: Arc<Mutex<String>>,
    /// Dropped last.
    _profile: tempfile::TempDir,
}

impl Browser {
    /// Starts Chromium. Without it the test is skipped with a message, and fails in CI.
    pub(crate) fn start() -> Option<Self> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let Some(program) = std::env::split_paths(&path).map(|place| place.join("chromium")).find(|it| it.is_file())
        else {
            assert!(std::env::var_os("CI").is_none(), "there is no `chromium` in PATH: the page is not tested");
            eprintln!("skipped: there is no `chromium` in PATH, so the page is not tested in a browser");
            return None;
        };
        let mut browser = Self::spawn(&program);
        let target = browser.call("Target.createTarget", json!({ "url": "about:blank" }));
        let attach = json!({ "targetId": target["targetId"], "flatten": true });
        let session = browser.call("Target.attachToTarget", attach)["sessionId"].clone();
        browser.session = session.as_str().map(str::to_owned);
        for domain in ["Page", "Runtime", "Log", "Audits"] {
            browser.call(&format!("{domain}.enable"), json!({}));
        }
        Some(browser)
    }

    fn spawn(program: &PathBuf) -> Self {
        let profile = tempfile::tempdir().expect("a temporary directory");
        let (input, to) = std::io::pipe().expect("a pipe");
        let (from, output) = std::io::pipe().expect("a pipe");
        // The protocol uses descriptors 3 and 4.
        let mut command = Command::new("sh");
        command.args(["-c", r#"exec "$0" "$@" 3<&0 4>&1 </dev/null >&2"#]).arg(program);
        command.args(["--headless", "--remote-debugging-pipe", "--no-first-run", "--disable-gpu", "--hide-scrollbars"]);
        command.args(["--disable-dev-shm-usage", "--disable-breakpad", "--disable-extensions", "--mute-audio"]);
        command.args(["--disable-background-networking", "--disable-component-update", "--disable-sync"]);
        command.args(["--no-proxy-server", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]);
        command.arg(format!("--user-data-dir={}", profile.path().join("profile").display()));
        // Its sandbox does not work for root.
        command.args(rustix::process::geteuid().is_root().then_some("--no-sandbox"));
        for name in ["HOME", "TMPDIR", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"] {
            command.env(name, profile.path());
        }
        command.process_group(0).stdin(input).stdout(output).stderr(Stdio::piped());
        let mut child = Leashed(command.spawn().expect("chromium starts"));
        let (sender, messages) = channel();
        std::thread::spawn(move || {
            for message in BufReader::new(from).split(0).map_while(Result::ok) {
                // The last message is truncated when it is killed.
                let Ok(message) = serde_json::from_slice(&message) else { return };
                let _ = sender.send(message);
            }
        });
        let (mut errors, stderr) = (child.0.stderr.take().expect("piped"), Arc::<Mutex<String>>::default());
        std::thread::spawn({
            let stderr = Arc::clone(&stderr);
            move || {
                let mut bytes = [0; 4096];
                while let Ok(read @ 1..) = errors.read(&mut bytes) {
                    stderr.lock().expect("a text").push_str(&String::from_utf8_lossy(&bytes[..read]));
                }
            }
        });
        let (session, number, events) = (None, 0, Vec::new());
        Self { child, to, from: messages, session, number, events, stderr, _profile: profile }
    }

    /// Sends a command, which must succeed, and returns its result.
    pub(crate) fn call(&mut self, method: &str, params: Value) -> Value {
        self.ask(method, params).unwrap_or_else(|error| panic!("{method}: {error}"))
    }

    fn ask(&mut self, method: &str, params: Value) -> Result<Value, Value> {
        self.number += 1;
        let mut message = json!({ "id": self.number, "method": method, "params": params });
        if let Some(session) = &self.session {
            message["sessionId"] = session.as_str().into();
        }
        let sent = self.to.write_all(format!("{message}\0").as_bytes());
        assert!(sent.is_ok(), "chromium is gone: {}", self.stderr());
        let end = Instant::now() + PATIENCE;
        loop {
            let Ok(message) = self.from.recv_timeout(end.saturating_duration_since(Instant::now())) else {
                panic!("chromium does not answer {method}: {}", self.stderr());
            };
            if message["id"] == self.number {
                let error = &message["error"];
                return if error.is_null() { Ok(message["result"].clone()) } else { Err(error.clone()) };
            }
            self.events.push(message);
        }
    }

    /// Opens an address.
    pub(crate) fn open(&mut self, address: &str) {
        let gone = self.call("Page.navigate", json!({ "url": address }));
        assert!(gone["errorText"].is_null(), "{address}: {gone} {}", self.stderr());
    }

    /// The value of an expression in the page. Its clicks count as those of a user.
    pub(crate) fn eval(&mut self, expression: &str) -> Value {
        self.value(expression).unwrap_or_else(|error| panic!("{expression}: {error}"))
    }

    fn value(&mut self, expression: &str) -> Result<Value, Value> {
        let asked = json!({ "expression": expression, "returnByValue": true, "userGesture": true });
        let response = self.ask("Runtime.evaluate", asked)?;
        let thrown = &response["exceptionDetails"];
        if thrown.is_null() { Ok(response["result"]["value"].clone()) } else { Err(thrown.clone()) }
    }

    /// Waits until an expression is true, at most for `bound`, and returns how long that took. An expression that
    /// throws, or a page that is loading, is not true yet.
    pub(crate) fn until(&mut self, expression: &str, bound: Duration) -> Duration {
        let start = Instant::now();
        loop {
            let value = self.value(&format!("Boolean({expression})"));
            if matches!(value, Ok(Value::Bool(true))) {
                return start.elapsed();
            }
            if start.elapsed() > bound {
                let page = self.value("`[${document.body.dataset.state}] ${document.body.innerText}`");
                let page =
                    page.as_ref().map_or_else(ToString::to_string, |page| page.as_str().unwrap_or("").to_owned());
                panic!("waited {bound:?} in vain for {expression}, which is {value:?} in:\n{page}");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// What the browser reported since the last call: exceptions, errors, violations of a policy.
    pub(crate) fn complaints(&mut self) -> Vec<String> {
        // Earlier events are reported before the response to this command.
        self.eval("1");
        let complaint = |event: &Value| {
            let about = &event["params"];
            match event["method"].as_str()? {
                "Runtime.exceptionThrown" => Some(about["exceptionDetails"].to_string()),
                "Runtime.consoleAPICalled" if about["type"] != "log" => Some(about["args"].to_string()),
                "Log.entryAdded" if about["entry"]["level"] != "verbose" => Some(about["entry"].to_string()),
                "Audits.issueAdded" => Some(about["issue"].to_string()),
                _ => None,
            }
        };
        self.events.drain(..).filter_map(|event| complaint(&event)).collect()
    }

    fn stderr(&self) -> String {
        self.stderr.lock().expect("a text").clone()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let group = rustix::process::Pid::from_child(&self.child.0);
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        let _ = self.child.0.wait();
        // None of them may write into a profile that is being removed.
        let end = Instant::now() + Duration::from_secs(2);
        while rustix::process::test_kill_process_group(group).is_ok() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
