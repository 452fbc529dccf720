//! With a real Prometheus, where it is installed: promtool reads the metrics and the rules, Prometheus scrapes a host.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{exhibit, exposed, file, panels, rules, trouble};
use crate::harness::{Leashed, PATIENCE, get, root};

/// Whether a program is installed. Otherwise the test is skipped with a message, and fails in CI.
fn installed(program: &str) -> bool {
    let found = Command::new(program).arg("--version").stdin(Stdio::null()).output().is_ok();
    let ci = std::env::var_os("CI").is_some_and(|text| !text.is_empty());
    assert!(found || !ci, "CI has no `{program}`; install Debian's package `prometheus`, as .ci/run does");
    if !found {
        eprintln!("skipped: there is no `{program}` on this machine; it comes with Debian's package `prometheus`");
    }
    found
}

/// Runs promtool with this input, and checks that it succeeds.
fn promtool(args: &[&str], input: &str) -> String {
    let mut command = Command::new("promtool");
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("promtool starts");
    child.stdin.take().expect("piped").write_all(input.as_bytes()).expect("promtool reads");
    let output = child.wait_with_output().expect("promtool ends");
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "promtool {args:?}: {said}");
    said
}

/// The same in the older text format, which is the only one that `promtool check metrics` reads. There the type and
/// help of a counter belong to its series with `_total`, and `info` is a gauge.
fn classic(text: &str) -> String {
    let heads = || text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    let kinds: BTreeMap<_, _> = heads().collect();
    let mut classic = String::new();
    for line in text.lines().filter(|line| *line != "# EOF") {
        let head: Vec<_> = line.splitn(4, ' ').collect();
        let line = match head[..] {
            ["#", what, name, rest] => match kinds.get(name) {
                Some(&"counter") => format!("# {what} {name}_total {rest}"),
                Some(&"info") => format!("# {what} {name}_info {}", if what == "TYPE" { "gauge" } else { rest }),
                _ => line.to_owned(),
            },
            _ => line.to_owned(),
        };
        classic.push_str(&line);
        classic.push('\n');
    }
    classic
}

/// Names, types and help follow the conventions of Prometheus.
#[tokio::test(flavor = "multi_thread")]
async fn promtool_accepts_the_metrics() {
    if !installed("promtool") {
        return;
    }
    let host = exhibit().start().await;
    exposed(&host).await;
    let text = classic(&get(host.admin, "/metrics").await.text());
    assert_eq!(promtool(&["check", "metrics"], &text), "");
    // promtool would have reported it.
    let slip = text.replace("lodge_connections_accepted_total", "lodge_connections_accepted");
    assert!(std::panic::catch_unwind(|| promtool(&["check", "metrics"], &slip)).is_err());
}

/// Prometheus can read the files, which have as many rules as the other tests read.
#[test]
fn promtool_accepts_the_rules() {
    if !installed("promtool") {
        return;
    }
    let at = |name: &str| root().join("deploy").join(name).display().to_string();
    let said = promtool(&["check", "rules", &at("alerts.yml")], "");
    assert!(said.contains(&format!("{} rules found", rules().len())), "{said}");
    promtool(&["check", "config", &at("prometheus.yml")], "");
}

/// A Prometheus with the files of `deploy/`, changed to scrape this host, and one that does not exist, every 200 ms.
struct Prometheus {
    // Before the directory: it is dropped first.
    _child: Leashed,
    address: SocketAddr,
    log: Arc<Mutex<String>>,
    _directory: tempfile::TempDir,
}

impl Prometheus {
    fn watch(admin: SocketAddr) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let shipped = file("prometheus.yml").replace("interval: 15s", "interval: 200ms");
        // Port 1 is not listened on.
        let targets = format!("- {admin}\n          - 127.0.0.1:1\n");
        let config = shipped.replace("- 127.0.0.1:9090\n", &targets);
        assert!(config.contains(&targets) && config.matches("200ms").count() == 2, "{config}");
        std::fs::write(directory.path().join("prometheus.yml"), config).unwrap();
        std::fs::write(directory.path().join("alerts.yml"), file("alerts.yml")).unwrap();
        let mut command = Command::new("prometheus");
        command.current_dir(directory.path()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        command.args(["--config.file=prometheus.yml", "--storage.tsdb.path=data", "--web.listen-address=127.0.0.1:0"]);
        let mut child = Leashed(command.spawn().expect("prometheus starts"));
        let log = Arc::new(Mutex::new(String::new()));
        let (found, address) = mpsc::channel();
        let lines = BufReader::new(child.0.stderr.take().expect("piped")).lines();
        std::thread::spawn({
            let log = Arc::clone(&log);
            move || {
                for line in lines.map_while(Result::ok) {
                    if line.contains(r#"msg="Listening on""#) {
                        let address = line.split(" address=").nth(1).and_then(|rest| rest.split(' ').next());
                        let _ = found.send(address.and_then(|text| text.parse().ok()).expect("an address"));
                    }
                    log.lock().unwrap().push_str(&(line + "\n"));
                }
            }
        });
        let address = address.recv_timeout(PATIENCE);
        let address = address.unwrap_or_else(|_| panic!("prometheus does not listen: {}", log.lock().unwrap()));
        Self { _child: child, address, log, _directory: directory }
    }

    async fn api(&self, path: &str) -> Value {
        let start = Instant::now();
        loop {
            let response = get(self.address, path).await;
            // Until it has read its storage.
            if response.status == 503 && start.elapsed() < PATIENCE {
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
            let value: Value =
                serde_json::from_slice(&response.body).unwrap_or_else(|_| panic!("{path}: {response:?}"));
            assert_eq!(value["status"], "success", "{path}: {value}");
            return value["data"].clone();
        }
    }

    /// The current values of a query.
    async fn query(&self, query: &str) -> Vec<f64> {
        let encode =
            |byte: u8| if byte.is_ascii_alphanumeric() { char::from(byte).to_string() } else { format!("%{byte:02X}") };
        let query: String = query.bytes().map(encode).collect();
        let data = self.api(&format!("/api/v1/query?query={query}")).await;
        let all = data["result"].as_array().expect("a vector");
        all.iter().map(|one| one["value"][1].as_str().unwrap().parse().unwrap()).collect()
    }

    /// Queries until there is one value, for which `wanted` is true.
    async fn comes_to(&self, query: &str, wanted: impl Fn(f64) -> bool) -> f64 {
        let start = Instant::now();
        loop {
            match self.query(query).await[..] {
                [value] if wanted(value) => return value,
                ref values => {
                    assert!(start.elapsed() < PATIENCE, "{query} is {values:?}\n{}", self.log.lock().unwrap())
                }
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Each rule's name, with its health, its last error and the state of its alert.
    async fn rules(&self) -> BTreeMap<String, [String; 3]> {
        let data = self.api("/api/v1/rules").await;
        let groups = data["groups"].as_array().unwrap();
        let rules = groups.iter().flat_map(|group| group["rules"].as_array().unwrap());
        let word = |rule: &Value, key: &str| rule[key].as_str().unwrap_or_default().to_owned();
        rules.map(|rule| (word(rule, "name"), ["health", "lastError", "state"].map(|key| word(rule, key)))).collect()
    }

    /// Waits until an alert is in this state.
    async fn alert_is(&self, name: &str, state: &str) {
        let start = Instant::now();
        while self.rules().await[name][2] != state {
            assert!(start.elapsed() < PATIENCE, "{name} is not {state}: {:?}", self.rules().await);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// Queries return what was requested, every panel of the dashboard has data, and every rule runs.
#[tokio::test(flavor = "multi_thread")]
async fn a_real_prometheus_reads_everything() {
    if !installed("prometheus") {
        return;
    }
    let host = exhibit().start().await;
    let prometheus = Prometheus::watch(host.admin);
    prometheus.comes_to(&format!("up{{instance='{}'}}", host.admin), |up| up == 1.0).await;
    // An increase needs two scrapes.
    prometheus.comes_to(r#"count_over_time(lodge_services[1m])"#, |looks| looks >= 2.0).await;

    let open: Vec<_> = panels().into_iter().flat_map(|(_, queries)| queries).collect();
    let on_screen =
        |query: &str| query.replace("$instance", ".*").replace("$service", ".+").replace("$__rate_interval", "1m");
    let mut open: Vec<_> = open.iter().map(|query| on_screen(query)).collect();
    let (mut asked, start) = (0.0, Instant::now());
    while !open.is_empty() {
        assert!(start.elapsed() < PATIENCE, "these show nothing: {open:#?}");
        asked += trouble(&host).await;
        let mut empty = Vec::new();
        for query in open {
            if prometheus.query(&query).await.is_empty() {
                empty.push(query);
            }
        }
        open = empty;
    }
    prometheus.comes_to("sum(lodge_requests_total)", |sum| sum == asked).await;
    prometheus.comes_to("sum(http_server_request_duration_seconds_count)", |sum| sum == asked).await;
    prometheus.comes_to(r#"sum(http_server_request_duration_seconds_bucket{le="+Inf"})"#, |sum| sum == asked).await;
    let hello = r#"lodge_requests_total{service="hello",code="2xx"}"#;
    prometheus.comes_to(hello, |sum| sum == 3.0 * asked / 9.0).await;
    // From zero, so all of it is increase; Prometheus extrapolates before the first and after the last scrape.
    prometheus
        .comes_to("sum(increase(lodge_requests_total[5m]))", |sum| sum >= asked * 0.9 && sum <= asked * 1.3)
        .await;
    prometheus.comes_to(&format!("rate({hello}[5m])"), |rate| rate > 0.0).await;
    let quantile = r#"histogram_quantile(0.99, sum by (le) (rate(http_server_request_duration_seconds_bucket[5m])))"#;
    let p99 = prometheus.comes_to(quantile, f64::is_finite).await;
    assert!(p99 > 0.1 && p99 < 30.0, "drip takes 200 ms, and the p99 is {p99}");
    prometheus.comes_to(r#"lodge:error_ratio:rate5m{service="trap"}"#, |ratio| ratio == 1.0).await;
    prometheus.comes_to(r#"lodge:error_ratio:rate5m{service="hello"}"#, |ratio| ratio == 0.0).await;

    let seen = prometheus.rules().await;
    let mut ours: Vec<_> = rules().into_iter().map(|rule| rule.name).collect();
    ours.sort();
    assert!(seen.keys().eq(&ours), "{seen:?} are not {ours:?}");
    for (name, [health, error, _]) in &seen {
        assert_eq!([health.as_str(), error], ["ok", ""], "{name}");
    }
    for name in ["LodgeDown", "LodgeFilesRefused"] {
        prometheus.alert_is(name, "pending").await;
    }
    for name in ["LodgeNotScraped", "LodgeServesNothing", "LodgeReloadsFail", "LodgeDescriptorsLeft"] {
        assert_eq!(prometheus.rules().await[name][2], "inactive", "{name}");
    }
    for file in std::fs::read_dir(host.directory()).unwrap() {
        let file = file.unwrap();
        if file.file_type().unwrap().is_file() {
            std::fs::remove_file(file.path()).unwrap();
        }
    }
    prometheus.alert_is("LodgeServesNothing", "pending").await;
}
