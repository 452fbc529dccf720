//! Promise: the files of the tour fit each other and the clone: every file that `compose.yaml` mounts exists, the settings of Lodge are
//! sound, and Prometheus and Grafana find what they are to show.

use std::collections::BTreeSet;
use std::process::Command;

use lodge_base::config::{self, Origin, Source};
use serde_json::Value;

use crate::harness::root;

/// Programs that may have a parser of YAML: Python's, alone or beside that of Kubernetes' schemas.
const PYTHONS: [&str; 3] = ["/opt/lodge-kubernetes/bin/python", "/usr/bin/python3", "python3"];

/// Prints a YAML file as JSON. A key that is there twice is an error.
const TO_JSON: &str = r#"
import json, sys, yaml
class Loader(yaml.SafeLoader): pass
def mapping(loader, node):
    keys = [loader.construct_object(key) for key, _ in node.value]
    assert len(keys) == len(set(keys)), keys
    return yaml.SafeLoader.construct_mapping(loader, node, deep=True)
Loader.add_constructor("tag:yaml.org,2002:map", mapping)
json.dump(yaml.load(open(sys.argv[1]), Loader), sys.stdout)
"#;

/// Reads a file, or returns `None` where no parser is installed, which CI does not accept.
fn yaml(file: &str) -> Option<Value> {
    let has_parser = |python: &&&str| {
        Command::new(python).args(["-c", "import yaml"]).output().is_ok_and(|output| output.status.success())
    };
    let Some(python) = PYTHONS.iter().find(has_parser) else {
        assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "no Python has the module yaml");
        eprintln!("skipped: no Python has the module yaml");
        return None;
    };
    let output = Command::new(python).args(["-c", TO_JSON]).arg(root().join(file)).output().unwrap();
    assert!(output.status.success(), "{file}: {}", String::from_utf8_lossy(&output.stderr));
    Some(serde_json::from_slice(&output.stdout).unwrap())
}

fn strings(value: &Value) -> Vec<&str> {
    value.as_array().into_iter().flatten().map(|item| item.as_str().unwrap()).collect()
}

/// The files of the clone that a service sees, with the paths at which it does.
fn mounts<'a>(compose: &'a Value, service: &str) -> Vec<(&'a str, &'a str)> {
    let all = strings(&compose["services"][service]["volumes"]).into_iter();
    let parts = all.map(|mount| mount.split(':').collect::<Vec<_>>());
    parts.filter(|parts| parts[0].starts_with('.')).map(|parts| (parts[0], parts[1])).collect()
}

#[test]
fn the_services_fit_each_other() {
    let Some(compose) = yaml("compose.yaml") else { return };
    let services = compose["services"].as_object().unwrap();
    let names: BTreeSet<_> = services.keys().map(String::as_str).collect();
    assert_eq!(names, BTreeSet::from(["database", "grafana", "lodge", "prometheus"]));
    let volumes = compose["volumes"].as_object().unwrap();
    for (name, service) in services {
        let image = service["image"].as_str().unwrap();
        let has_tag = image.split_once(':').is_some_and(|(_, tag)| tag != "latest");
        assert!(has_tag || service["build"] == ".", "{name}: {image} is another image tomorrow");
        for port in strings(&service["ports"]) {
            assert!(port.starts_with("127.0.0.1:"), "{name}: {port} is open to other machines");
        }
        for (file, _) in mounts(&compose, name) {
            assert!(root().join(file).is_file(), "{name} mounts {file}, which does not exist");
        }
        for mount in strings(&service["volumes"]) {
            let from = mount.split(':').next().unwrap();
            assert!(from.starts_with("./") && mount.ends_with(":ro") || volumes.contains_key(from), "{name}: {mount}");
        }
        let needed: Vec<&str> = match &service["depends_on"] {
            Value::Object(needed) => needed.keys().map(String::as_str).collect(),
            list => strings(list),
        };
        assert!(needed.iter().all(|needed| names.contains(needed)), "{name} needs {needed:?}");
    }
    assert!(services["database"]["healthcheck"]["test"].is_array(), "lodge waits for it");
}

/// The variables are settings, with the values that the image sets, and lead to the database.
#[test]
fn the_settings_of_lodge_are_sound() {
    let Some(compose) = yaml("compose.yaml") else { return };
    let lodge = &compose["services"]["lodge"];
    let value = |text: &str| match text.strip_prefix("${").and_then(|text| text.strip_suffix('}')) {
        Some(variable) => variable.split_once(":-").expect("a default").1.to_owned(),
        None => text.to_owned(),
    };
    let own = lodge["environment"].as_object().unwrap().iter();
    let own = own.map(|(name, text)| (name.clone(), value(text.as_str().unwrap())));
    let dockerfile = std::fs::read_to_string(root().join("Dockerfile")).unwrap();
    let of_image = dockerfile.split_whitespace().filter_map(|word| word.split_once('='));
    let of_image =
        of_image.filter(|(name, _)| name.starts_with("LODGE_")).map(|(name, text)| (name.into(), text.into()));
    let (environment, unknown) = config::read_environment(of_image.chain(own));
    assert!(unknown.is_empty(), "{unknown:?}");
    let resolved = config::resolve(&[(Origin::Environment, environment as Source)]).unwrap().config;
    let url = resolved.state.url.expect("a database").to_string();
    let database = &compose["services"]["database"]["environment"];
    let [user, password, name] =
        ["POSTGRES_USER", "POSTGRES_PASSWORD", "POSTGRES_DB"].map(|variable| database[variable].as_str().unwrap());
    assert_eq!(url, format!("postgres://{user}:{password}@database/{name}?sslmode=disable"));
    let tour = std::fs::read_to_string(root().join("docs/tour.md")).unwrap();
    let token = resolved.admin_token.expect("a token, since operators come from outside of the container");
    assert!(tour.contains(&format!("`{token}`")), "the page does not name the token");
    let published: Vec<_> =
        strings(&lodge["ports"]).iter().map(|port| port.rsplit(':').next().unwrap().to_owned()).collect();
    let listening = [resolved.listen, resolved.admin.unwrap()].map(|address| address.port().to_string());
    assert_eq!(published, listening);
}

#[test]
fn prometheus_and_grafana_find_what_they_show() {
    let Some(compose) = yaml("compose.yaml") else { return };
    let at = |service: &str, path: &str| {
        let mounted = mounts(&compose, service).into_iter().find(|(_, at)| *at == path);
        mounted.unwrap_or_else(|| panic!("{service} has nothing at {path}")).0.trim_start_matches("./").to_owned()
    };
    let prometheus = yaml(&at("prometheus", "/etc/prometheus/prometheus.yml")).unwrap();
    for rules in strings(&prometheus["rule_files"]) {
        assert_eq!(at("prometheus", &format!("/etc/prometheus/{rules}")), "deploy/alerts.yml");
    }
    let job = &prometheus["scrape_configs"][0];
    assert_eq!((&job["job_name"], &job["static_configs"][0]["targets"][0]), (&"lodge".into(), &"lodge:9090".into()));
    let sources = yaml(&at("grafana", "/etc/grafana/provisioning/datasources/lodge.yml")).unwrap();
    let source = &sources["datasources"][0];
    assert_eq!((&source["type"], &source["url"]), (&"prometheus".into(), &"http://prometheus:9090".into()));
    let provider = yaml(&at("grafana", "/etc/grafana/provisioning/dashboards/lodge.yml")).unwrap();
    let folder = provider["providers"][0]["options"]["path"].as_str().unwrap().to_owned();
    assert_eq!(at("grafana", &format!("{folder}/lodge.json")), "deploy/grafana.json");
    let home = &compose["services"]["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"];
    assert_eq!(home, &format!("{folder}/lodge.json"));
}

/// Docker reads the file, where its `compose` is installed. This needs no engine.
#[test]
fn docker_reads_the_file() {
    let compose = |args: &[&str]| Command::new("docker").arg("compose").args(args).current_dir(root()).output();
    if !compose(&["version"]).is_ok_and(|output| output.status.success()) {
        return eprintln!("skipped: `docker compose` is not installed");
    }
    let output = compose(&["config", "--quiet"]).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
