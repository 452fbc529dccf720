//! Promise: a service with `consume.at_most_once` gets the messages that NATS passes on without storing them, each once at most, and other
//! servers have none.

use crate::harness::host;

const CONSUME: &str = "[consume]\nsubject = 'work.*'\nat_most_once = true\n";

#[tokio::test(flavor = "multi_thread")]
async fn only_nats_has_such_messages() {
    let host = host(&["echo"]).manifest("echo", CONSUME).start().await;
    let refusals = host.refusals();
    assert!(refusals[0].contains("only NATS") && refusals[0].contains("`consume.at_most_once`"), "{refusals:?}");
}

#[cfg(feature = "nats")]
mod with_nats {
    use std::io::{Read, Write};
    use std::net::TcpStream;
    use std::process::{Child, Command, Stdio};

    use super::CONSUME;
    use crate::harness::{Process, Worker, free_port, host, until};

    struct Nats(Child);

    impl Drop for Nats {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    /// Publishes as any client of NATS does; `false` while there is no server.
    fn publish(port: u16, subject: &str, body: &str) -> bool {
        let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else { return false };
        let message = format!("CONNECT {{\"verbose\":false}}\r\nPUB {subject} {}\r\n{body}\r\nPING\r\n", body.len());
        stream.write_all(message.as_bytes()).unwrap();
        let (mut said, mut buffer) = (String::new(), [0; 1024]);
        while !said.contains("PONG") {
            match stream.read(&mut buffer) {
                Ok(0) | Err(_) => return false,
                Ok(length) => said.push_str(&String::from_utf8_lossy(&buffer[..length])),
            }
        }
        true
    }

    /// A failed message does not come again, and the service has no more after its section is gone.
    #[tokio::test(flavor = "multi_thread")]
    async fn messages_come_once() {
        let (port, directory) = (free_port(), tempfile::tempdir().unwrap());
        let mut server = Command::new("/opt/lodge-nats/bin/nats-server");
        server.args([
            "-a",
            "127.0.0.1",
            "-p",
            &port.to_string(),
            "-js",
            "-sd",
            &directory.path().display().to_string(),
        ]);
        let Ok(child) = server.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn() else {
            assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "NATS is not installed");
            eprintln!("skipped: NATS is not installed");
            return;
        };
        let _server = Nats(child);
        let worker = Worker::with(500).await;
        let setup = host(&[]).manifest("worker", &format!("{CONSUME}{}", worker.upstream()));
        let process =
            Process::serve(setup.directory.path(), &["--state-url", &format!("nats://127.0.0.1:{port}")]).await;
        // Nothing is stored, so the first ones may come too early.
        until("the subscription is there", || {
            publish(port, "work.early", "early");
            !worker.bodies().is_empty()
        })
        .await;
        // A service that fails in succession gets messages with growing pauses.
        for number in 0..8 {
            assert!(publish(port, "work.x", &number.to_string()));
        }
        let seen = || worker.bodies().into_iter().filter(|body| body != "early").collect::<Vec<_>>();
        until("all came", || seen().len() >= 8).await;
        let mut all = seen();
        all.sort_by_key(|body| body.parse::<u32>().unwrap());
        assert_eq!(all, (0..8).map(|number| number.to_string()).collect::<Vec<_>>(), "each once");
        assert!(worker.delivered().iter().all(|one| one.attempt() == 1), "{}", process.log());
        until("the log says that they are dead", || process.log().contains("is dead after 1 delivery to worker")).await;
        assert!(process.log().contains("it is not kept"), "{}", process.log());
    }
}
