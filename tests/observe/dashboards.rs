//! Promise: the dashboard and the alerts of `deploy/` query metrics that `/metrics` has, and a real Prometheus accepts
//! both.

mod prometheus;
mod promql;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use self::promql::Names;
use crate::harness::authority::Authority;
use crate::harness::{Setup, TestHost, get, host, root};

fn file(name: &str) -> String {
    std::fs::read_to_string(root().join("deploy").join(name)).unwrap()
}

/// What can be queried: each series name with its labels and their values.
#[derive(Clone, Debug, Default)]
struct Exposed(BTreeMap<String, BTreeMap<String, BTreeSet<String>>>);

impl Exposed {
    /// Reads the exposition of a host, and adds what Prometheus does: a series and two labels.
    fn read(text: &str) -> Self {
        let mut all = Self::default();
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        for series in lines.filter_map(|line| Some(line.rsplit_once(' ')?.0)).chain(["up"]) {
            // A series has the syntax of a selector.
            let (name, matchers) = Names::of(series).selectors.pop().expect("a series");
            let labels = all.0.entry(name).or_default();
            for (label, value) in matchers {
                labels.entry(label).or_default().insert(value);
            }
            for label in ["job", "instance"] {
                labels.entry(label.into()).or_default();
            }
        }
        all
    }

    /// The series of recording rules can be queried as well.
    fn record(&mut self, name: &str, expression: &str) {
        let labels = Names::of(expression).labels;
        self.0.insert(name.into(), labels.into_iter().map(|label| (label, BTreeSet::new())).collect());
    }

    /// The names in a query that do not exist.
    fn missing(&self, query: &str) -> Vec<String> {
        let names = Names::of(query);
        let mut missing = Vec::new();
        let mut known = BTreeSet::new();
        for (name, matchers) in &names.selectors {
            let Some(labels) = self.0.get(name) else {
                missing.push(format!("there is no `{name}`: {query}"));
                continue;
            };
            known.extend(labels.keys());
            for (label, value) in matchers {
                match labels.get(label) {
                    None => missing.push(format!("`{name}` has no label `{label}`: {query}")),
                    Some(values) if ["code", "reason"].contains(&label.as_str()) => {
                        let words = value.split('|').filter(|word| !values.contains(*word) && !is_reason(word));
                        missing.extend(words.map(|word| format!("`{label}` is never `{word}`: {query}")));
                    }
                    Some(_) => {}
                }
            }
        }
        let strange = names.labels.iter().filter(|label| !known.contains(label));
        missing.extend(strange.map(|label| format!("nothing there has a label `{label}`: {query}")));
        if names.selectors.is_empty() {
            missing.push(format!("it asks for nothing: {query}"));
        }
        missing
    }
}

/// Whether the docs list this reason of a failure. A healthy host shows few of them.
fn is_reason(word: &str) -> bool {
    let page = |name: &str| std::fs::read_to_string(root().join("docs").join(name)).unwrap();
    let (errors, observe) = (page("errors.md"), page("observe.md"));
    !word.is_empty() && errors.contains(&format!("| `{word}` | ")) || observe.contains(&format!("`{word}` is a client"))
}

fn dashboard() -> Value {
    serde_json::from_str(&file("grafana.json")).expect("JSON")
}

/// The panels with queries.
fn panels() -> Vec<(Value, Vec<String>)> {
    let dashboard = dashboard();
    let panels = dashboard["panels"].as_array().unwrap().iter().filter(|panel| panel["type"] != "row");
    let queries = |panel: &Value| {
        let targets = panel["targets"].as_array().unwrap();
        targets.iter().map(|target| target["expr"].as_str().unwrap().to_owned()).collect()
    };
    panels.map(|panel| (panel.clone(), queries(panel))).collect()
}

/// A rule: its name, whether it records, its expression, and its text.
#[derive(Debug)]
struct Rule {
    name: String,
    records: bool,
    expression: String,
    text: String,
}

/// The rules, read line by line: lines with a deeper indent than `expr:` belong to it. The test with a real Prometheus
/// shows that none was missed.
fn rules() -> Vec<Rule> {
    let indent = |line: &str| line.len() - line.trim_start().len();
    let mut rules: Vec<Rule> = Vec::new();
    let mut block = None;
    for line in file("alerts.yml").lines().filter(|line| !line.trim_start().starts_with('#')) {
        let key = line.trim_start().trim_start_matches("- ");
        if let Some((kind @ ("alert" | "record"), name)) = key.split_once(": ") {
            let (name, records) = (name.to_owned(), kind == "record");
            rules.push(Rule { name, records, expression: String::new(), text: String::new() });
        }
        let Some(rule) = rules.last_mut() else { continue };
        rule.text.push_str(line);
        rule.text.push('\n');
        if block.is_some_and(|depth| indent(line) > depth) {
            rule.expression.push_str(line);
            rule.expression.push('\n');
        } else {
            let inline = key.strip_prefix("expr: ");
            block = inline.is_some().then(|| indent(line));
            rule.expression.push_str(inline.unwrap_or_default().trim_end_matches('|'));
        }
    }
    rules
}

/// A host that shows everything, once it was [`trouble`]d.
fn exhibit() -> Setup {
    let host = host(&["hello", "trap", "drip", "echo", "keyvalue", "blobs"]).file("bad.wasm", b"no component");
    let host = host.manifest("keyvalue", "keyvalue = true").manifest("blobs", "blobstore = true");
    let issuer = "[auth.jwt]\nissuer = 'http://127.0.0.1:9'\naudience = 'guarded'\nkeys = 'http://127.0.0.1:9/keys'";
    let host = host.named("hello", "guarded").manifest("guarded", issuer);
    let certificates = host.directory.path().join(".tls");
    std::fs::create_dir(&certificates).unwrap();
    Authority::new().issue(&["localhost"]).write(&certificates, "tls");
    let host = host.set("tls.listen", "127.0.0.1:0").set("tls.certificates", certificates.to_str().unwrap());
    let host = host.manifest("drip", "limits = { wall = '200ms', cpu = '100ms' }");
    host.manifest("echo", "limits.request_body = 10\n[breaker]")
        .manifest("far", "[upstream]\nreplicas = ['http://127.0.0.1:9']")
        .named("echo", "echo@2")
}

/// Sends requests that succeed and requests that fail. Returns their number.
async fn trouble(host: &TestHost) -> f64 {
    let paths = [
        "/hello",
        "/hello",
        "/hello",
        "/trap",
        "/nobody",
        "/drip/10",
        "/keyvalue/draft2/increment/default/n?1",
        "/blobs/create/photos",
    ];
    for path in paths {
        host.get(path).await;
    }
    host.connect().await.ask(http::Method::POST, "/echo", &[], "more than ten bytes").await;
    paths.len() as f64 + 1.0
}

async fn exposed(host: &TestHost) -> Exposed {
    trouble(host).await;
    // A response that broke off is counted a moment after the client has noticed, and stores are read every two seconds.
    let start = std::time::Instant::now();
    loop {
        let seen = Exposed::read(&get(host.admin, "/metrics").await.text());
        if ["lodge_transfers_aborted_total", "lodge_state_keys", "lodge_blob_objects"]
            .iter()
            .all(|name| seen.0.contains_key(*name))
        {
            return seen;
        }
        assert!(start.elapsed() < crate::harness::PATIENCE, "{seen:?}");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

/// A host exposes every series, label, status class and reason that a query names.
#[tokio::test(flavor = "multi_thread")]
async fn every_name_in_a_query_exists() {
    let host = exhibit().start().await;
    let mut exposed = exposed(&host).await;
    let mut missing = Vec::new();
    for rule in rules() {
        missing.extend(exposed.missing(&rule.expression));
        if rule.records {
            exposed.record(&rule.name, &rule.expression);
        }
    }
    let labels: BTreeSet<_> = exposed.0.values().flat_map(BTreeMap::keys).cloned().collect();
    let mut legend = |text: &str, open: &str| {
        for rest in text.split(open).skip(1) {
            let label: String = rest.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            let is_value = label.is_empty();
            if !is_value && !labels.contains(&label) {
                missing.push(format!("nothing has a label `{label}`: {text}"));
            }
        }
    };
    rules().iter().for_each(|rule| legend(&rule.text, "$labels."));
    let dashboard = dashboard();
    for (panel, _) in panels() {
        for target in panel["targets"].as_array().unwrap() {
            legend(target["legendFormat"].as_str().unwrap(), "{{");
        }
    }
    for query in panels().iter().flat_map(|(_, queries)| queries) {
        missing.extend(exposed.missing(query));
    }
    for variable in dashboard["templating"]["list"].as_array().unwrap() {
        if let Some(query) = variable["query"]["query"].as_str() {
            let (series, label) = query.strip_prefix("label_values(").unwrap().rsplit_once(", ").unwrap();
            missing.extend(exposed.missing(&format!("sum by ({label}) ({series})")));
        }
    }
    for annotation in dashboard["annotations"]["list"].as_array().unwrap() {
        if let Some(query) = annotation["expr"].as_str() {
            missing.extend(exposed.missing(query));
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
}

/// What autoscalers of Kubernetes read is exposed.
#[tokio::test(flavor = "multi_thread")]
async fn every_metric_of_the_autoscaler_exists() {
    let host = host(&["hello"]).start().await;
    let exposed = Exposed::read(&get(host.admin, "/metrics").await.text());
    let rules = file("kubernetes/prometheus-adapter.yaml");
    let queries = rules.lines().filter(|line| line.contains("seriesQuery:") || line.contains("metricsQuery:"));
    let words = queries.flat_map(|line| line.split(|c: char| !c.is_ascii_alphanumeric() && c != '_'));
    let names: BTreeSet<_> = words.filter(|word| word.starts_with("lodge_")).collect();
    assert!(names.len() == 3 && names.iter().all(|name| exposed.0.contains_key(*name)), "{names:?}");
    let scaled =
        |name: &str| file("kubernetes/overlays/autoscaling/kustomization.yaml").contains(&format!("name: {name}\n"));
    let served: Vec<_> =
        rules.lines().filter_map(|line| line.trim().strip_prefix("name: {as: ")?.strip_suffix('}')).collect();
    assert!(served.len() == 2 && served.into_iter().all(scaled));
}

/// The query with an additional letter at the first occurrence of this name as a whole word.
fn misspelt(query: &str, name: &str) -> String {
    let inside = |c: char| c.is_ascii_alphanumeric() || "_:$".contains(c);
    let whole =
        |(at, _): &(usize, &str)| !query[..*at].ends_with(inside) && !query[at + name.len()..].starts_with(inside);
    let (at, _) = query.match_indices(name).find(whole).expect("a name of this query");
    format!("{}x{}", &query[..at + name.len()], &query[at + name.len()..])
}

/// The test above notices mistakes: each name of each query, with an additional letter, is missing.
#[tokio::test(flavor = "multi_thread")]
async fn misspelt_names_are_noticed() {
    let host = exhibit().start().await;
    let mut exposed = exposed(&host).await;
    for rule in rules().iter().filter(|rule| rule.records) {
        exposed.record(&rule.name, &rule.expression);
    }
    let queries = panels().into_iter().flat_map(|(_, queries)| queries);
    let queries: Vec<_> = queries.chain(rules().into_iter().map(|rule| rule.expression)).collect();
    let mut slips = 0;
    for query in &queries {
        let names = Names::of(query);
        let matchers = names.selectors.iter().flat_map(|(_, matchers)| matchers).map(|(label, _)| label);
        let series = names.selectors.iter().map(|(name, _)| name);
        for name in series.chain(matchers).chain(&names.labels) {
            let slip = misspelt(query, name);
            assert!(!exposed.missing(&slip).is_empty(), "not noticed:  {name}x in {slip}");
            slips += 1;
        }
    }
    assert!(queries.len() > 60 && slips > 250, "{} queries, {slips} names", queries.len());
    for (query, fits) in [
        ("rate(lodge_requests_total[5m])", true),
        ("rate(lodge_requests[5m])", false),
        ("rate(lodge_request_total[5m])", false),
        ("http_server_request_duration_seconds", false),
        ("http_server_request_duration_seconds_count", true),
        ("lodge_build", false),
        (r#"lodge_build_info{version="1"}"#, true),
        (r#"lodge_build_info{service="hello"}"#, false),
        (r#"lodge_requests_total{code="500"}"#, false),
        (r#"lodge_refusals_total{reason=~"queue-full|queue-timeout"}"#, true),
        (r#"lodge_refusals_total{reason=~"queue-full|queue-time"}"#, false),
        (r#"sum by (le) (http_server_request_duration_seconds_bucket{le="+Inf"})"#, true),
        ("sum by (le) (http_server_request_duration_seconds_sum)", false),
        ("sum(1)", false),
    ] {
        assert_eq!(exposed.missing(query).is_empty(), fits, "{query}");
    }
}

/// The dashboard works in any Grafana, and each panel has a description.
#[test]
fn the_dashboard_is_portable() {
    let dashboard = dashboard();
    let all = dashboard["panels"].as_array().unwrap();
    let ids: BTreeSet<_> = all.iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
    assert_eq!(ids.len(), all.len());
    for (panel, queries) in panels() {
        let title = panel["title"].as_str().unwrap();
        assert!(["stat", "timeseries", "table"].contains(&panel["type"].as_str().unwrap()), "{title}");
        assert!(panel["description"].as_str().is_some_and(|text| text.ends_with('.')), "{title} is not described");
        assert!(!queries.is_empty(), "{title} shows nothing");
        for part in panel["targets"].as_array().unwrap().iter().chain([&panel]) {
            assert_eq!(part["datasource"]["uid"], "${datasource}", "{title} is tied to one data source");
        }
    }
    assert_eq!(dashboard["id"], Value::Null, "the id of one Grafana");
}
