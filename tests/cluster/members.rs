//! Promise: hosts with one server for their state know each other, through kills, pauses and partitions, and say what is wrong.

use crate::harness::{lodge, output};

/// A cluster needs a server, and the settings of one need a cluster.
#[test]
fn a_cluster_needs_a_server() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().display().to_string();
    for (args, why) in [
        (&["--cluster-name", "shop"][..], "cluster.name: hosts know each other by the server of their state"),
        (&["--cluster-zone", "a"], "--cluster-zone: it has no effect without `cluster.name`"),
        (&["--cluster-name", "a b"], "--cluster-name: `a b` is not the name of a cluster"),
        (&["--cluster-ttl", "5s"], "cluster.ttl: must be at least 3 times cluster.interval, which is 9s"),
    ] {
        let all = [&["serve", &path, "--listen", "127.0.0.1:0", "--admin", "off"], args].concat();
        let (code, _, problem) = output(&mut lodge(&all));
        assert!(code == Some(64) && problem.contains(why), "{code:?} {problem}");
    }
}

#[cfg(feature = "redis")]
mod with_redis {
    use std::time::{Duration, Instant};

    use rustix::process::Signal;
    use serde_json::Value;
    use tokio::net::{TcpListener, TcpStream};
    use tokio::task::{JoinHandle, JoinSet};

    use crate::harness::{PATIENCE, Process, get, lodge, output, wasm};
    use crate::state::servers::with_redis::Redis;

    fn guests() -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        for name in ["hello", "limited"] {
            std::fs::copy(wasm("hello"), directory.path().join(format!("{name}.wasm"))).unwrap();
        }
        let rate = "rate = { limit = '40/h', by = 'service', scope = 'cluster' }";
        std::fs::write(directory.path().join("limited.toml"), rate).unwrap();
        directory
    }

    /// The way of a host to the server, which can be cut.
    struct Way {
        port: u16,
        server: u16,
        open: Option<JoinHandle<()>>,
    }

    impl Way {
        async fn to(url: &str) -> Self {
            let server = url.rsplit(':').next().unwrap().parse().unwrap();
            let mut way = Self { port: 0, server, open: None };
            way.open().await;
            way
        }

        /// Passes connections on.
        async fn open(&mut self) {
            let listener = TcpListener::bind(("127.0.0.1", self.port)).await.unwrap();
            self.port = listener.local_addr().unwrap().port();
            let server = self.server;
            self.open = Some(tokio::spawn(async move {
                let mut connections = JoinSet::new();
                while let Ok((mut client, _)) = listener.accept().await {
                    connections.spawn(async move {
                        let Ok(mut server) = TcpStream::connect(("127.0.0.1", server)).await else { return };
                        let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
                    });
                }
            }));
        }

        /// Closes all connections, and accepts none.
        async fn cut(&mut self) {
            let open = self.open.take().unwrap();
            open.abort();
            let _ = open.await;
        }
    }

    async fn start(directory: &std::path::Path, url: &str, name: &str, zone: &str) -> Process {
        let cluster = ["--cluster-name", "shop", "--cluster-host", name, "--cluster-zone", zone];
        let times = ["--cluster-interval", "100ms", "--cluster-ttl", "2s", "--cluster-keep", "1s"];
        let address = format!("https://{name}.example:8443");
        let rest = ["--cluster-advertise", &address, "--state-url", url, "--state-timeout", "500ms"];
        Process::serve(directory, &[&cluster[..], &times, &rest].concat()).await
    }

    async fn status(host: &Process) -> Value {
        serde_json::from_slice(&get(host.admin, "/v1/cluster").await.body).unwrap()
    }

    fn names(status: &Value) -> Vec<&str> {
        status["members"].as_array().unwrap().iter().map(|member| member["name"].as_str().unwrap()).collect()
    }

    /// Waits until the cluster of a host is as `expected`.
    async fn until(host: &Process, what: &str, expected: impl Fn(&Value) -> bool) -> Value {
        let start = Instant::now();
        loop {
            let status = status(host).await;
            if expected(&status) {
                return status;
            }
            assert!(start.elapsed() < PATIENCE, "{what}: {status:#}\n{}", host.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn until_known(host: &Process, expected: &[&str]) -> Value {
        until(host, &format!("{expected:?}"), |status| names(status) == expected && status["leader"].is_string()).await
    }

    fn command(host: &Process, args: &[&str]) -> String {
        let admin = host.admin.to_string();
        let (code, text, problem) = output(&mut lodge(&[args, &["--admin", &admin]].concat()));
        assert_eq!(code, Some(0), "{text}{problem}");
        text
    }

    /// Waits until the log has a line after its first `before` bytes, where it is once.
    async fn logged(host: &Process, before: usize, line: &str) {
        let count = || host.log()[before..].matches(line).count();
        crate::harness::until(line, || count() > 0).await;
        assert_eq!(count(), 1, "{line}\n{}", host.log());
    }

    /// Hosts that are killed or suspended are gone when their records expire, one that stops is gone at once, and one host leads.
    #[tokio::test(flavor = "multi_thread")]
    async fn hosts_come_and_go() {
        let Some(redis) = Redis::start() else { return };
        let (directory, url) = (guests(), redis.url());
        let mut hosts = Vec::new();
        for (name, zone) in [("a", "z1"), ("b", "z2"), ("c", "z2")] {
            hosts.push(start(directory.path(), &url, name, zone).await);
        }
        let [a, b, mut c] = <[Process; 3]>::try_from(hosts).ok().unwrap();
        let seen = until_known(&a, &["a", "b", "c"]).await;
        assert_eq!(seen["leader"], "a");
        let serves = |member: &Value| member["services"]["hello"].is_string();
        let all_serve = |status: &Value| status["members"].as_array().unwrap().iter().all(serves);
        for host in [&a, &b, &c] {
            until(host, "all serve", |status| names(status) == ["a", "b", "c"] && all_serve(status)).await;
        }
        let text = command(&b, &["cluster"]);
        assert!(text.starts_with("cluster shop: 3 hosts, a leads; this is b: member\n"), "{text}");
        assert!(text.contains("https://c.example:8443/") && text.contains("   a, b, c\n"), "{text}");
        let json: Value = serde_json::from_str(&command(&b, &["cluster", "--json"])).unwrap();
        assert_eq!(names(&json), ["a", "b", "c"]);
        assert!(command(&a, &["health", "-v"]).contains("cluster shop: 3 hosts, a leads"));
        let metrics = get(a.admin, "/metrics").await.text();
        for line in [
            "lodge_cluster_members 3",
            "lodge_cluster_state 2",
            "lodge_cluster_leader 1",
            "lodge_cluster_failures_total{operation=\"renew\"} 0",
        ] {
            assert!(metrics.contains(line), "{line}: {metrics}");
        }

        // Another host with the name of one that lives.
        let second = start(directory.path(), &url, "b", "z1").await;
        let taken = |status: &Value| status["problem"].as_str().is_some_and(|why| why.contains("give one of the two"));
        let status = until(&second, "the name is taken", taken).await;
        assert_eq!((&status["state"], names(&status)), (&"name-taken".into(), vec!["a", "b", "c"]));
        logged(&second, 0, "another host at https://b.example:8443/ is b in the cluster shop").await;
        drop(second);

        // Suspended, it does not renew its record. When it goes on, it is back.
        b.signal(Signal::STOP);
        until_known(&a, &["a", "c"]).await;
        b.signal(Signal::CONT);
        for host in [&a, &b, &c] {
            until_known(host, &["a", "b", "c"]).await;
        }

        // One that stops leaves before its record expires, and no other one has to find out.
        c.signal(Signal::TERM);
        assert!(c.ended().await.success());
        logged(&c, 0, "left the cluster shop, of which this host was c").await;
        until_known(&a, &["a", "b"]).await;

        // The leader is killed.
        drop(a);
        until(&b, "b leads", |status| status["leader"] == "b" && names(status) == ["b"]).await;
        logged(&b, 0, "this host leads the cluster shop").await;
    }

    /// Sends requests to these hosts in turn until nobody admits any, and returns how many each has admitted.
    async fn use_up(hosts: &[&Process]) -> Vec<usize> {
        let mut admitted = vec![0; hosts.len()];
        let mut refused = 0;
        while refused < 60 {
            for (host, admitted) in hosts.iter().zip(&mut admitted) {
                let response = get(host.address, "/limited").await;
                if response.status == 200 {
                    (refused, *admitted) = (0, *admitted + 1);
                    continue;
                }
                assert_eq!((response.status, response.problem()), (429, "rate-limited".to_owned()), "{}", host.log());
                assert_eq!(response.header("ratelimit-policy"), "\"service\";q=40;w=3600");
                assert!(response.header("retry-after").parse::<u64>().unwrap() > 0);
                refused += 1;
                // Longer than an exchange with the server takes.
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        admitted
    }

    /// Waits until a host has only its share of rates, or shares them again.
    async fn until_divided(host: &Process, divided: u8) {
        let start = Instant::now();
        while !get(host.admin, "/metrics").await.text().contains(&format!("lodge_cluster_rates_divided {divided}\n")) {
            assert!(start.elapsed() < PATIENCE, "{}", host.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// A host that is cut off from the server serves on, knows the others for a time, and says so once; it leads no more.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_partition_degrades_to_local_truth() {
        let Some(redis) = Redis::start() else { return };
        let directory = guests();
        let mut way = Way::to(&redis.url()).await;
        let cut_off = start(directory.path(), &format!("redis://127.0.0.1:{}", way.port), "a", "z1").await;
        until_known(&cut_off, &["a"]).await;
        let other = start(directory.path(), &redis.url(), "b", "z1").await;
        for host in [&cut_off, &other] {
            assert_eq!(until_known(host, &["a", "b"]).await["leader"], "a");
        }
        // Each may be five requests ahead of the server, and has a bucket of its own for five.
        let admitted = use_up(&[&cut_off, &other]).await;
        let sum = admitted.iter().sum::<usize>();
        assert!((40..=60).contains(&sum) && admitted.iter().all(|own| *own > 10), "{admitted:?}");
        // On a loaded machine it may have been away at the start, too.
        let before = cut_off.log().len();
        way.cut().await;
        until(&cut_off, "it is away", |status| status["state"] == "away").await;
        until(&cut_off, "it forgets the other", |status| names(status) == ["a"]).await;
        assert_eq!(get(cut_off.address, "/hello").await.status, 200);
        assert_eq!(get(cut_off.admin, "/readyz").await.status, 200);
        until_divided(&cut_off, 1).await;
        let admitted = use_up(&[&cut_off, &other]).await;
        assert!(
            (20..=21).contains(&admitted[0]) && admitted[1] <= 1,
            "a half for the one that is cut off: {admitted:?}"
        );
        until(&other, "b leads", |status| status["leader"] == "b" && names(status) == ["b"]).await;
        assert!(get(cut_off.admin, "/metrics").await.text().contains("lodge_cluster_leader 0"));
        assert!(command(&cut_off, &["health", "-v"]).contains("this is a: away; for "));
        way.open().await;
        for host in [&cut_off, &other] {
            assert_eq!(until_known(host, &["a", "b"]).await["leader"], "b");
        }
        until_divided(&cut_off, 0).await;
        let share = "rates of all hosts together are divided now: while the server of `state.url` cannot be used, this host takes its \
                     share, 1 of 2";
        for line in [
            "the server of `state.url` can be used again after",
            "cluster shop: this host cannot",
            "the other hosts were not seen for too long",
            share,
            "rates of all hosts together are shared again by",
        ] {
            logged(&cut_off, before, line).await;
        }
    }
}
