//! Promise: hosts with one NATS, PostgreSQL or Redis share the messages of a service. A host that is killed loses none, nor does an outage of the server,
//! after which hosts publish and receive again by themselves.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::harness::{PATIENCE, Process, Worker, free_port, get, host, until};

/// The servers that keep messages.
#[derive(Clone, Copy, Debug)]
enum Kind {
    #[cfg(feature = "nats")]
    Nats,
    #[cfg(feature = "postgres")]
    Postgres,
    #[cfg(feature = "redis")]
    Redis,
}

/// A server of this test.
struct Server {
    command: Command,
    child: Child,
    url: String,
    _directory: tempfile::TempDir,
}

impl Kind {
    /// Starts one, or returns `None` where it is not installed, which CI does not accept.
    fn start(self) -> Option<Server> {
        let (port, directory) = (free_port(), tempfile::tempdir().unwrap());
        let command = self.command(port, directory.path());
        let started = command.and_then(|mut command| Some((command.spawn().ok()?, command)));
        let Some((child, command)) = started else {
            assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "{self:?} is not installed");
            eprintln!("skipped: {self:?} is not installed");
            return None;
        };
        Some(Server { command, child, url: self.url(port), _directory: directory })
    }

    /// What starts a server, again and again.
    fn command(self, port: u16, directory: &std::path::Path) -> Option<Command> {
        let (number, path) = (port.to_string(), directory.display().to_string());
        let mut server = match self {
            #[cfg(feature = "nats")]
            Kind::Nats => {
                let mut server = Command::new("/opt/lodge-nats/bin/nats-server");
                server.args(["-a", "127.0.0.1", "-p", &number, "-js", "-sd", &path]);
                server
            }
            #[cfg(feature = "postgres")]
            Kind::Postgres => crate::harness::postgres::initialized(port, directory)?,
            #[cfg(feature = "redis")]
            Kind::Redis => {
                let mut server = Command::new("redis-server");
                server.args(["--bind", "127.0.0.1", "--port", &number, "--dir", &path]);
                server.args(["--save", "", "--appendonly", "yes", "--appendfsync", "always"]);
                server
            }
        };
        server.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Some(server)
    }

    fn url(self, port: u16) -> String {
        match self {
            #[cfg(feature = "nats")]
            Kind::Nats => format!("nats://127.0.0.1:{port}"),
            #[cfg(feature = "postgres")]
            Kind::Postgres => crate::harness::postgres::url(port, "postgres"),
            #[cfg(feature = "redis")]
            Kind::Redis => format!("redis://127.0.0.1:{port}"),
        }
    }
}

impl Server {
    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn restart(&mut self) {
        self.child = self.command.spawn().unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Makes the tests for each kind of server.
macro_rules! shared {
    ($($test:ident)*) => {
        #[cfg(feature = "nats")]
        mod with_nats {
            shared!(super::Kind::Nats; $($test)*);
        }
        #[cfg(feature = "postgres")]
        mod with_postgres {
            shared!(super::Kind::Postgres; $($test)*);
        }
        #[cfg(feature = "redis")]
        mod with_redis {
            shared!(super::Kind::Redis; $($test)*);
        }
    };
    ($kind:expr; $($test:ident)*) => {
        $(
            #[tokio::test(flavor = "multi_thread")]
            async fn $test() {
                if let Some(server) = $kind.start() {
                    super::$test(server).await;
                }
            }
        )*
    };
}

shared! {
    hosts_share_the_messages_of_a_service
    a_killed_host_leaves_its_messages_to_others
    hosts_recover_from_an_outage_of_the_server
    a_subscription_outlives_an_edit
}

/// The time of an operation of the server. One that takes longer may have been done, so a message that is published again then is
/// there twice: only the test of an outage has a short time.
const USUAL: &str = "30s";

/// A host with a publisher, and `worker` as the service `worker`.
async fn serve(server: &Server, worker: &Worker, consume: &str, timeout: &str) -> (Process, tempfile::TempDir) {
    let manifest = format!("[consume]\nsubject = 'work.>'\n{consume}\n{}", worker.upstream());
    let setup = host(&["publisher"]).manifest("publisher", "publish = '>'").manifest("worker", &manifest);
    let args = ["--state-url", &server.url, "--state-timeout", timeout];
    (Process::serve(setup.directory.path(), &args).await, setup.directory)
}

/// Publishes a message, and returns whether that was confirmed, or why not.
async fn publish(address: SocketAddr, body: &str) -> Result<(), String> {
    let answer = get(address, &format!("/publisher/publish/work.x?{body}")).await;
    if answer.status == 200 { Ok(()) } else { Err(answer.text()) }
}

/// Publishes a message as soon as that succeeds.
async fn publish_at_last(address: SocketAddr, body: &str) {
    let start = Instant::now();
    while let Err(why) = publish(address, body).await {
        assert!(start.elapsed() < PATIENCE, "{why}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn sorted(mut bodies: Vec<String>) -> Vec<String> {
    bodies.sort();
    bodies
}

async fn hosts_share_the_messages_of_a_service(server: Server) {
    let workers = [(); 2];
    let [one, two] = workers.map(|()| Worker::start(|_| (200, Duration::from_millis(30))));
    let workers = [one.await, two.await];
    let consume = "concurrency = 2";
    let hosts = [serve(&server, &workers[0], consume, USUAL).await, serve(&server, &workers[1], consume, USUAL).await];
    let numbers: Vec<_> = (100..160).map(|number| number.to_string()).collect();
    for (index, number) in numbers.iter().enumerate() {
        publish_at_last(hosts[index % 2].0.address, number).await;
    }
    let all = || workers.iter().flat_map(|worker| worker.bodies()).collect::<Vec<_>>();
    until("all are delivered", || all().len() >= numbers.len()).await;
    assert_eq!(sorted(all()), numbers, "each once");
    for (worker, (process, _)) in workers.iter().zip(&hosts) {
        let delivered = worker.delivered();
        assert!(!delivered.is_empty(), "both hosts work: {}", process.log());
        assert!(delivered.iter().all(|one| one.concurrent <= 2), "the bound of each host");
    }
    // A host that stops finishes what it has. The other one goes on.
    let [(mut first, _first), (second, _second)] = hosts;
    for number in 0..8 {
        publish_at_last(second.address, &number.to_string()).await;
    }
    first.signal(Signal::TERM);
    assert!(first.ended().await.success(), "{}", first.log());
    until("the rest is delivered", || all().len() >= numbers.len() + 8).await;
    let rest: Vec<_> = sorted(all()).into_iter().filter(|body| body.len() == 1).collect();
    assert_eq!(rest, (0..8).map(|number| number.to_string()).collect::<Vec<_>>(), "each once");
}

/// A message that a killed host was working on is delivered to another one when the time of a request is over.
async fn a_killed_host_leaves_its_messages_to_others(server: Server) {
    let stuck = Worker::start(|_| (200, Duration::from_secs(300))).await;
    let worker = Worker::with(200).await;
    let limits = "concurrency = 3\n[limits]\nwall = '2s'\nqueue_wait = '100ms'";
    let (mut first, _first) = serve(&server, &stuck, limits, USUAL).await;
    for body in ["a", "b", "c"] {
        publish_at_last(first.address, body).await;
    }
    until("they are processed", || stuck.delivered().len() == 3).await;
    first.signal(Signal::KILL);
    first.ended().await;
    let (second, _second) = serve(&server, &worker, limits, USUAL).await;
    until("another host has them", || worker.delivered().len() >= 3).await;
    assert_eq!(sorted(worker.bodies()), ["a", "b", "c"], "{}", second.log());
    assert!(worker.delivered().iter().all(|one| one.attempt() == 2), "the killed host's delivery counts");
}

async fn hosts_recover_from_an_outage_of_the_server(mut server: Server) {
    let worker = Worker::with(200).await;
    let (process, _directory) = serve(&server, &worker, "", "500ms").await;
    publish_at_last(process.address, "before").await;
    until("it is delivered", || !worker.bodies().is_empty()).await;
    server.kill();
    let start = Instant::now();
    // What a killed server has begun may go on for a moment.
    let refused = loop {
        match publish(process.address, "refused").await {
            Err(why) => break why,
            Ok(()) => assert!(start.elapsed() < PATIENCE, "{}", process.log()),
        }
    };
    assert!(refused.contains("unavailable") || refused.contains("not stored in time"), "{refused}");
    assert!(!refused.contains("127.0.0.1"), "{refused}");
    // Other requests are handled meanwhile.
    assert_eq!(get(process.address, "/worker/x").await.status, 200);
    tokio::time::sleep(Duration::from_secs(3)).await;
    let lines = process.log().matches("worker receives no messages").count();
    assert!(lines <= 2, "an outage is a line in the log, not one for each attempt: {}", process.log());
    server.restart();
    publish_at_last(process.address, "after").await;
    until("it is delivered", || worker.bodies().iter().any(|body| body == "after")).await;
    until("the log says so", || process.log().contains("worker receives messages again")).await;
}

/// A host whose manifest has no `[consume]` takes nothing from those that have it. Messages are kept when the last of them has none
/// any more, and are delivered when the section is back.
async fn a_subscription_outlives_an_edit(server: Server) {
    let worker = Worker::start(|_| (500, Duration::ZERO)).await;
    let (first, first_directory) = serve(&server, &worker, "pause = '300ms'\nmax_deliver = 1000", USUAL).await;
    publish_at_last(first.address, "kept").await;
    let setup = host(&["publisher"]).manifest("publisher", "publish = '>'").manifest("worker", &worker.upstream());
    let second = Process::serve(setup.directory.path(), &["--state-url", &server.url]).await;
    // The second one opens the server for its publisher.
    publish_at_last(second.address, "kept").await;
    let before = worker.delivered().len();
    until("they are delivered again", || worker.delivered().len() > before + 4).await;
    let manifest = first_directory.path().join("worker.toml");
    let consuming = std::fs::read_to_string(&manifest).unwrap();
    std::fs::write(&manifest, worker.upstream()).unwrap();
    until("the edit is in force", || first.log().contains("those that wait are kept")).await;
    publish_at_last(second.address, "later").await;
    std::fs::write(&manifest, consuming).unwrap();
    until("what waited is delivered", || worker.bodies().iter().any(|body| body == "later")).await;
    let logs = [first.log(), second.log()];
    assert!(logs.iter().all(|log| !log.contains("discarded")), "{logs:?}");
}
