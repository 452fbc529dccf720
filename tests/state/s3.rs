//! Promise: hosts with one `state.blobs` share the objects of services in S3, hold no object in memory as a whole, survive an outage of
//! the server, and show its key nowhere.

use crate::harness::{lodge, output};

#[cfg(feature = "s3")]
mod with_s3 {
    use std::io::{Read, Write};
    use std::net::{Ipv4Addr, TcpListener, TcpStream};
    use std::path::Path;
    use std::process::{Child, Command, Stdio};

    use bytes::Bytes;
    use http::{Method, Request};
    use http_body::Frame;
    use http_body_util::{BodyExt, Full};

    use crate::harness::{AnyBody, Connection, Process, Response, fed, get, lodge, output, until, wasm};

    const WEED: &str = "/opt/lodge-s3/bin/weed";
    const SECRET: &str = "canary-of-the-access-key";
    const LIMITS: &str = "limits = { wall = '2m', cpu = '1m', request_body = '200MiB' }";

    /// A server of this test.
    struct Weed {
        child: Child,
        ports: Vec<u16>,
        directory: tempfile::TempDir,
    }

    impl Drop for Weed {
        fn drop(&mut self) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }

    fn run(directory: &Path, ports: &[u16]) -> Child {
        let at = directory.display();
        let mut command = Command::new(WEED);
        command.arg("-logtostderr").arg("server").arg(format!("-dir={at}")).arg(format!("-s3.config={at}/users.json"));
        command.args([
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            "-filer",
            "-s3",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
        ]);
        command.args(["-master.telemetry=false", "-master.volumeSizeLimitMB=64", "-volume.max=100"]);
        let names = ["s3.port", "master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port"];
        for (name, port) in names.iter().chain(&["filer.port.grpc", "s3.port.grpc"]).zip(ports) {
            command.arg(format!("-{name}={port}"));
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }

    impl Weed {
        async fn start() -> Option<Self> {
            if !Path::new(WEED).is_file() {
                assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "{WEED} is not installed");
                eprintln!("skipped: {WEED} is not installed: .ci/servers installs it");
                return None;
            }
            let directory = tempfile::tempdir().unwrap();
            let users = format!(
                r#"{{"identities":[{{"name":"lodge","credentials":[{{"accessKey":"id","secretKey":"{SECRET}"}}],"actions":["Admin"]}}]}}"#
            );
            std::fs::write(directory.path().join("users.json"), users).unwrap();
            let listeners: Vec<_> = (0..8).map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap()).collect();
            let ports: Vec<_> = listeners.iter().map(|listener| listener.local_addr().unwrap().port()).collect();
            drop(listeners);
            let server = Self { child: run(directory.path(), &ports), ports, directory };
            server.ready().await;
            Some(server)
        }

        async fn ready(&self) {
            let at = |port: u16| TcpStream::connect((Ipv4Addr::LOCALHOST, port));
            until("the server accepts connections", || at(self.ports[0]).is_ok() && at(self.ports[5]).is_ok()).await;
            // A bucket is a directory of the server.
            let head = "POST /buckets/lodge/ HTTP/1.1\r\nHost: filer\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
            let mut made = String::new();
            at(self.ports[5])
                .and_then(|mut filer| {
                    filer.write_all(head.as_bytes())?;
                    filer.read_to_string(&mut made)
                })
                .unwrap();
            assert!(["HTTP/1.1 201", "HTTP/1.1 409"].iter().any(|status| made.starts_with(status)), "{made}");
        }

        fn kill(&mut self) {
            self.child.kill().unwrap();
            self.child.wait().unwrap();
        }

        async fn restart(&mut self) {
            self.child = run(self.directory.path(), &self.ports);
            self.ready().await;
        }

        fn url(&self) -> String {
            format!("s3://lodge/shop?endpoint=http://127.0.0.1:{}", self.ports[0])
        }
    }

    /// A directory of guests, and the file with the key.
    fn guests() -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        for name in ["blobs", "blobs3", "echo"] {
            std::fs::copy(wasm(name), directory.path().join(format!("{name}.wasm"))).unwrap();
            let grant = if name == "echo" { "" } else { "blobstore = true" };
            std::fs::write(directory.path().join(format!("{name}.toml")), format!("{grant}\n{LIMITS}")).unwrap();
        }
        let key = format!("[default]\naws_access_key_id = id\naws_secret_access_key = {SECRET}\n");
        std::fs::write(directory.path().join("key"), key).unwrap();
        directory
    }

    async fn serve(directory: &Path, server: &Weed) -> Process {
        let (url, key) = (server.url(), directory.join("key").display().to_string());
        let args = ["--state-blobs", url.as_str(), "--state-blobs-credentials", &key];
        Process::serve(directory, &args).await
    }

    async fn send(host: &Process, path: &str, body: AnyBody) -> Response {
        let request = Request::builder().method(Method::PUT).uri(path).body(body).unwrap();
        Response::read(Connection::http1(host.address).await.send(request).await.unwrap()).await
    }

    async fn put(host: &Process, path: &str, content: &[u8]) -> (u16, String) {
        let response = send(host, path, Full::new(Bytes::copy_from_slice(content)).boxed_unsync()).await;
        (response.status, response.text())
    }

    /// Repeats an operation until it succeeds: parts of the server begin after others, and services are tried again.
    async fn succeeds(host: &Process, path: &str) {
        let begin = std::time::Instant::now();
        loop {
            let response = get(host.address, path).await;
            let text = response.text();
            if response.status == 200 || text.contains("exists") || text.contains("AlreadyExists") {
                return;
            }
            assert!(begin.elapsed().as_secs() < 120, "{path}: {text} {}", host.log());
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    }

    fn content(bytes: usize) -> Vec<u8> {
        (0..bytes).map(|at| (at % 251) as u8).collect()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn two_hosts_share_objects() {
        let Some(mut server) = Weed::start().await else { return };
        let (one, two) = (guests(), guests());
        let hosts = [serve(one.path(), &server).await, serve(two.path(), &server).await];
        let large = content(7_000_000);
        for service in ["blobs", "blobs3"] {
            for host in &hosts {
                succeeds(host, &format!("/{service}/create/c")).await;
            }
            for (writer, reader) in [(0, 1), (1, 0)] {
                for (name, content) in [("large", &large[..]), ("small", b"x"), ("empty", b"")] {
                    let at = format!("/{service}/put/c/{name}{writer}");
                    assert_eq!(put(&hosts[writer], &at, content).await, (200, "stored".into()), "{at}");
                    let read = get(hosts[reader].address, &format!("/{service}/get/c/{name}{writer}")).await;
                    assert!(!read.broken && read.body == content, "{at}");
                }
            }
            let part = get(hosts[0].address, &format!("/{service}/get/c/large1?5242870-5242890")).await;
            assert_eq!(part.body, &large[5_242_870..=5_242_890]);
            // A client that leaves stores nothing.
            let (sender, body) = fed();
            let request = Request::builder().method(Method::PUT).uri(format!("/{service}/put/c/small0")).body(body);
            let mut client = Connection::http1(hosts[0].address).await;
            let sending = tokio::spawn(async move { client.send(request.unwrap()).await.map(drop) });
            for piece in large.chunks(500_000) {
                sender.send(Frame::data(Bytes::copy_from_slice(piece))).await.unwrap();
            }
            sending.abort();
            let _ = sending.await;
            drop(sender);
            assert_eq!(get(hosts[1].address, &format!("/{service}/get/c/small0")).await.text(), "x");
        }
        // No service has those of the other.
        assert_eq!(
            get(hosts[0].address, "/blobs/list/c").await.text(),
            get(hosts[1].address, "/blobs/list/c").await.text()
        );
        succeeds(&hosts[0], "/blobs/delete-container/c").await;
        assert_eq!(get(hosts[1].address, "/blobs/exists/c").await.text(), "false");
        assert_eq!(get(hosts[1].address, "/blobs3/exists/c").await.text(), "true");
        assert!(!one.path().join(".lodge/blobs").exists(), "with a server there is no directory");
        // Its server gone, a service gets an error in time, and others serve on.
        server.kill();
        assert_eq!(put(&hosts[0], "/blobs3/put/c/small0", b"new").await, (500, "Error::StoreUnavailable".into()));
        let unavailable = get(hosts[0].address, "/blobs/create/c").await.text();
        assert_eq!(unavailable, "the store is unavailable: try again later; the log of the host says why");
        assert_eq!(get(hosts[0].address, "/echo").await.status, 200);
        server.restart().await;
        succeeds(&hosts[0], "/blobs3/info/c").await;
        let begin = std::time::Instant::now();
        while put(&hosts[0], "/blobs3/put/c/small0", b"new").await.0 != 200 {
            assert!(begin.elapsed().as_secs() < 120, "it does not recover: {}", hosts[0].log());
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        assert_eq!(get(hosts[1].address, "/blobs3/get/c/small0").await.text(), "new");
        assert!(get(hosts[1].address, "/blobs3/get/c/large0").await.body == large, "what was confirmed is there");
        let (url, key) = (server.url(), one.path().join("key").display().to_string());
        let printed = ["serve", "--print-config", "--state-blobs", url.as_str(), "--state-blobs-credentials", &key];
        let (_, printed, _) = output(&mut lodge(&printed));
        let metrics = get(hosts[0].admin, "/metrics").await.text();
        let status = get(hosts[0].admin, "/v1/services").await.text();
        for (place, text) in [("log", hosts[0].log()), ("settings", printed), ("metrics", metrics), ("API", status)] {
            assert!(!text.contains(SECRET), "{place}: {text}");
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn no_object_is_in_memory_as_a_whole() {
        let Some(server) = Weed::start().await else { return };
        let directory = guests();
        let host = serve(directory.path(), &server).await;
        let piece = Bytes::from(content(1 << 20));
        let mut before = 0;
        for (name, mebibytes) in ["blobs", "blobs3"].into_iter().flat_map(|name| [(name, 6), (name, 96)]) {
            if mebibytes == 6 {
                succeeds(&host, &format!("/{name}/create/c")).await;
            } else {
                before = host.memory("VmHWM");
            }
            let (sender, body) = fed();
            let path = format!("/{name}/put/c/large");
            let sending = send(&host, &path, body);
            let feeding = async {
                for _ in 0..mebibytes {
                    sender.send(Frame::data(piece.clone())).await.unwrap();
                }
                drop(sender);
            };
            let (stored, ()) = tokio::join!(sending, feeding);
            assert_eq!(stored.text(), "stored");
            let read = get(host.address, &format!("/{name}/get/c/large")).await;
            assert_eq!(read.body.len(), mebibytes << 20);
            if mebibytes > 6 {
                let grown = (host.memory("VmHWM") - before) >> 10;
                assert!(grown < 48, "{name}: {grown} MiB more for an object of {mebibytes} MiB");
            }
        }
    }
}

/// A bucket that can never be used ends the start, and the message says which key to change.
#[test]
fn settings_that_cannot_be_used_end_the_start() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().display().to_string();
    let start = |settings: &[&str], key: bool| {
        let fixed = ["serve", &path, "--listen", "127.0.0.1:0", "--admin", "off"];
        let mut command = lodge(&[&fixed, settings].concat());
        for name in ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"] {
            command.env_remove(name);
            if key {
                command.env(name, "canary");
            }
        }
        let (code, _, problem) = output(&mut command);
        assert!(code == Some(64) && !problem.contains("canary"), "{settings:?}: {code:?} {problem}");
        problem
    };
    let without = start(&["--state-blobs", "s3://bucket"], false);
    #[cfg(not(feature = "s3"))]
    assert!(
        without.contains("state.blobs: this program has no backend for S3; build it with `--features s3`"),
        "{without}"
    );
    #[cfg(feature = "s3")]
    {
        assert!(without.contains("state.blobs: there is no access key"), "{without}");
        for (settings, expected) in [
            (&["--state-blobs", "https://bucket"][..], "state.blobs: the URL must begin with s3://"),
            (&["--state-blobs", "s3://id:canary@bucket"], "state.blobs: the URL must not contain credentials"),
            (&["--state-blobs", "s3://bucket?endpoint=http://minio:9000"], "insecure=true"),
            (
                &["--state-blobs", "s3://bucket", "--state-blobs-credentials", "/nowhere"],
                "state.blobs_credentials: /nowhere: ",
            ),
            (
                &["--state-blobs", "s3://bucket", "--state-blobs-ca", "/nowhere"],
                "state.blobs_ca: /nowhere cannot be read",
            ),
        ] {
            let problem = start(settings, true);
            assert!(problem.contains(expected), "{settings:?}: {problem}");
        }
    }
}
