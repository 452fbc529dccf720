//! Promise: hosts with one `state.url` share state, survive an outage of its server, and say when a build has no backend.

use crate::harness::{lodge, output, wasm};

fn guests() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    std::fs::copy(wasm("keyvalue"), directory.path().join("keyvalue.wasm")).unwrap();
    std::fs::write(directory.path().join("keyvalue.toml"), "keyvalue = true").unwrap();
    directory
}

#[cfg(feature = "redis")]
pub(crate) mod with_redis {
    use std::process::{Child, Command, Stdio};
    use std::time::Duration;

    use super::guests;
    use crate::harness::authority::Authority;
    use crate::harness::{PATIENCE, Process, eventually, free_port, get};

    /// A Redis of this test.
    pub(crate) struct Redis {
        child: Child,
        port: u16,
        directory: tempfile::TempDir,
    }

    impl Drop for Redis {
        fn drop(&mut self) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }

    fn redis(port: u16, directory: &std::path::Path, options: &[&str]) -> Option<Child> {
        let port = port.to_string();
        let ports = match options {
            [] => vec!["--port", &port],
            tls => [&["--port", "0", "--tls-port", &port], tls].concat(),
        };
        let dir = directory.display().to_string();
        let mut server = Command::new("redis-server");
        server.args(["--bind", "127.0.0.1", "--dir", &dir, "--appendonly", "yes", "--appendfsync", "always"]);
        server.args(ports).stdin(Stdio::null()).stdout(Stdio::null()).spawn().ok()
    }

    impl Redis {
        /// Starts one, or returns `None` where it is not installed, which CI does not accept.
        pub(crate) fn start() -> Option<Self> {
            Self::start_with(&[])
        }

        /// The same with TLS, as these options say.
        fn start_with(options: &[&str]) -> Option<Self> {
            let port = free_port();
            let directory = tempfile::tempdir().unwrap();
            let Some(child) = redis(port, directory.path(), options) else {
                assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "redis-server is not installed");
                eprintln!("skipped: redis-server is not installed");
                return None;
            };
            Some(Self { child, port, directory })
        }

        pub(crate) fn url(&self) -> String {
            format!("redis://127.0.0.1:{}", self.port)
        }
    }

    /// A lock of a host that was killed is free when its lease has ended, and not before.
    #[tokio::test(flavor = "multi_thread")]
    async fn the_lease_frees_what_a_killed_host_held() {
        let Some(redis_server) = Redis::start() else { return };
        let directory = tempfile::tempdir().unwrap();
        std::fs::copy(crate::harness::wasm("locker"), directory.path().join("locker.wasm")).unwrap();
        std::fs::write(directory.path().join("locker.toml"), "keyvalue = true\nlock = true").unwrap();
        let url = redis_server.url();
        let args = ["--state-url", url.as_str()];
        let [one, two] = [Process::serve(directory.path(), &args).await, Process::serve(directory.path(), &args).await];
        let (first, second) = (one.address, two.address);
        let holder = tokio::spawn(async move { get(first, "/locker/stall/door?8000").await });
        let asked = async || get(second, "/locker/try/door?1000").await.text();
        eventually("the first host has it", async || asked().await == "busy").await;
        drop(one);
        holder.abort();
        assert_eq!(get(second, "/locker/try/door?1000").await.text(), "busy", "it was freed before its lease");
        // It waits for twenty seconds at most.
        let text = get(second, "/locker/acquire/door?1000,20000").await.text();
        assert!(text.starts_with("token "), "{text}");
    }

    /// Writes an authority, and certificates of it for the server and for the host, into `directory`.
    fn certificates(directory: &std::path::Path) {
        let authority = Authority::new();
        std::fs::write(directory.join("ca.pem"), authority.pem()).unwrap();
        for (name, subject) in [("server", "127.0.0.1"), ("host", "lodge")] {
            let issued = authority.issue(&[subject]);
            std::fs::write(directory.join(format!("{name}.pem")), issued.certificate).unwrap();
            std::fs::write(directory.join(format!("{name}.key")), issued.key).unwrap();
        }
    }

    /// A server with a private authority that demands a certificate of the host; files that are missing are named.
    #[tokio::test(flavor = "multi_thread")]
    async fn certificates_of_both_sides() {
        let files = tempfile::tempdir().unwrap();
        certificates(files.path());
        let at = |name: &str| files.path().join(name).display().to_string();
        let [ca, certificate, key] = ["ca.pem", "server.pem", "server.key"].map(at);
        let options = ["--tls-cert-file", &certificate, "--tls-key-file", &key, "--tls-ca-cert-file", &ca];
        let Some(server) = Redis::start_with(&[&options[..], &["--tls-auth-clients", "yes"]].concat()) else { return };
        let url = format!("rediss://127.0.0.1:{}", server.port);
        let (guests, [certificate, key]) = (guests(), ["host.pem", "host.key"].map(at));
        let args = ["--state-url", &url, "--state-ca", &ca, "--state-certificate", &certificate, "--state-key", &key];
        let host = Process::serve(guests.path(), &args).await;
        let response = get(host.address, "/keyvalue/draft2/increment/default/n?1").await;
        assert_eq!((response.status, response.text().as_str()), (200, "1"), "{}", host.log());
        drop(host);
        let nowhere = at("none.pem");
        for (args, why) in [
            (&["--state-url", &url, "--state-ca", &nowhere][..], "state.ca: "),
            (&["--state-url", &url, "--state-key", &key][..], "state.certificate and state.key belong together"),
            (&["--state-url", &url, "--state-replicas", "3"][..], "are for NATS"),
        ] {
            let guests = guests.path().display().to_string();
            let (code, _, problem) =
                crate::harness::output(&mut crate::harness::lodge(&[&["serve", &guests], args].concat()));
            assert!(code == Some(64) && problem.contains(why), "{code:?} {problem}");
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn two_hosts_share_state() {
        let Some(mut redis_server) = Redis::start() else { return };
        let (one, two) = (guests(), guests());
        let url = redis_server.url();
        let args = ["--state-url", url.as_str(), "--state-timeout", "500ms"];
        let hosts = [Process::serve(one.path(), &args).await, Process::serve(two.path(), &args).await];
        let count = async |host: &Process| {
            let response = get(host.address, "/keyvalue/draft2/increment/default/shared?1").await;
            (response.status, response.text())
        };
        for number in 1..=10 {
            assert_eq!(count(&hosts[number % 2]).await, (200, number.to_string()));
        }
        assert!(!one.path().join(".lodge").exists(), "with a server there is no file");
        // Its server gone, a service gets an error in time, and the host serves on.
        redis_server.child.kill().unwrap();
        redis_server.child.wait().unwrap();
        let (status, text) = count(&hosts[0]).await;
        assert_eq!(status, 500, "{text}");
        // It comes back with all that was confirmed.
        redis_server.child = redis(redis_server.port, redis_server.directory.path(), &[]).unwrap();
        let start = std::time::Instant::now();
        let number: u32 = loop {
            let (status, text) = count(&hosts[0]).await;
            if status == 200 {
                break text.parse().unwrap();
            }
            assert!(start.elapsed() < PATIENCE, "it does not recover: {text}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        // The operation during the outage may have been done, although its result was lost.
        assert!((11..=13).contains(&number), "{number}");
    }
}

/// Without the feature, or with a URL that is none, the host does not start, and says which key to change.
#[test]
fn urls_without_a_backend() {
    let directory = guests();
    let path = directory.path().display().to_string();
    for (url, expected) in [
        ("mysql://localhost", "state.url: this program has no backend for `mysql://`"),
        ("redis:/:canary@localhost", "state.url: it is not a URL such as `redis://HOST:6379`"),
        #[cfg(feature = "redis")]
        ("redis://", "state.url: the URL has no host: write it as redis://localhost:6379"),
        #[cfg(feature = "redis")]
        ("redis://:canary@", "state.url: the URL has no host"),
    ] {
        for command in ["serve", "dev"] {
            let args = [command, &path, "--listen", "127.0.0.1:0", "--admin", "off", "--state-url", url];
            let (code, _, problem) = output(&mut lodge(&args));
            assert!(code == Some(64) && problem.contains(expected), "{code:?} {problem}");
            assert!(!problem.contains("canary"), "{problem}");
        }
    }
    // Settings are printed without it: it can contain a password.
    let (_, stdout, _) =
        output(lodge(&["serve", "--print-config"]).env("LODGE_STATE_URL", "redis://:canary@localhost"));
    assert!(stdout.contains("state.url") && !stdout.contains("canary"), "{stdout}");
}
