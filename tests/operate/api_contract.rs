//! Promise: the API, its document `/v1/openapi.json` and the commands that read it agree on every field.

mod samples;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;

use http::Method;
use lodge::admin::contract::{
    ActionResult, DeadCount, DeadList, DeletedKey, DrainResult, EntryPage, FileReport, ImportCount, KeyList,
    LevelRequest, LogLevel, ManifestComparison, Problem, PurgeResult, RefusedFile, STATES, ServiceDetails,
    ServiceStatus, WrittenKey,
};
use lodge_base::telemetry::logs::tail::LineKind;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use self::samples::{
    cluster, dead_message, failed_request, host_status, line, mismatch, policy, replica, schedule, service_activity,
    service_info, store_details, stored_entry, text, upstream,
};
use crate::harness::{Connection, Response, TestHost, get, host};

/// The document of the API.
pub(crate) struct Contract(Value);

/// An object schema: the schema of each field, and the fields that are always present.
struct Fields {
    of: BTreeMap<String, Value>,
    required: BTreeSet<String>,
    /// Whether fields without a schema are forbidden.
    closed: bool,
}

impl Contract {
    pub(crate) async fn of(host: &TestHost) -> Self {
        Self(serde_json::from_slice(&get(host.admin, "/v1/openapi.json").await.body).unwrap())
    }

    fn named(&self, name: &str) -> &Value {
        let schema = &self.0["components"]["schemas"][name];
        assert!(schema.is_object(), "the document has no schema `{name}`");
        schema
    }

    /// Follows a reference, if the schema is one.
    fn resolve<'a>(&'a self, schema: &'a Value) -> &'a Value {
        match schema["$ref"].as_str() {
            Some(path) => self.named(path.strip_prefix("#/components/schemas/").unwrap()),
            None => schema,
        }
    }

    fn fields(&self, schema: &Value) -> Fields {
        let schema = self.resolve(schema);
        if let Some(parts) = schema["allOf"].as_array() {
            let mut all = Fields { of: BTreeMap::new(), required: BTreeSet::new(), closed: false };
            for part in parts {
                let Fields { of, required, .. } = self.fields(part);
                all.of.extend(of);
                all.required.extend(required);
            }
            return all;
        }
        let of = schema["properties"].as_object().unwrap().clone().into_iter().collect();
        let required = schema["required"].as_array().into_iter().flatten();
        let required = required.map(|name| name.as_str().unwrap().to_owned()).collect();
        Fields { of, required, closed: schema["additionalProperties"] == false }
    }

    /// Fails if a value is not what the schema says, or has a field that the schema does not have.
    fn check(&self, schema: &Value, value: &Value, at: &str) {
        let schema = self.resolve(schema);
        if let Some(either) = schema["anyOf"].as_array() {
            let [one, null] = either.as_slice() else { panic!("{at}: {schema}") };
            assert_eq!(null, &json!({ "type": "null" }), "{at}");
            if !value.is_null() {
                self.check(one, value, at);
            }
            return;
        }
        let types: Vec<_> = match &schema["type"] {
            Value::Array(types) => types.iter().map(|name| name.as_str().unwrap()).collect(),
            Value::String(name) => vec![name],
            Value::Null if schema["allOf"].is_array() => vec!["object"],
            other => panic!("{at}: the type is {other}"),
        };
        let actual = match value {
            Value::Null => "null",
            Value::Bool(_) => "boolean",
            Value::Number(number) if number.is_f64() => "number",
            Value::Number(_) => "integer",
            Value::String(_) => "string",
            Value::Array(_) => "array",
            Value::Object(_) => "object",
        };
        assert!(types.contains(&actual), "{at} is {value}, and not of type {types:?}");
        let listed = schema["enum"].as_array();
        assert!(listed.is_none_or(|listed| listed.contains(value)), "{at} is {value}, and not one of {listed:?}");
        if let Some(text) = value.as_str().filter(|_| schema["format"] == "date-time") {
            assert!(text.ends_with('Z') && humantime::parse_rfc3339(text).is_ok(), "{at} is {text:?}, and not a time");
        }
        for (n, item) in value.as_array().into_iter().flatten().enumerate() {
            self.check(&schema["items"], item, &format!("{at}[{n}]"));
        }
        let Some(object) = value.as_object() else { return };
        if schema["additionalProperties"] == true {
            return;
        }
        if schema["additionalProperties"].is_object() {
            for (name, value) in object {
                self.check(&schema["additionalProperties"], value, &format!("{at}.{name}"));
            }
            return;
        }
        let Fields { of, required, .. } = self.fields(schema);
        for name in required {
            assert!(object.contains_key(&name), "{at}.{name} is required, and missing in {value}");
        }
        for (name, value) in object {
            let schema = of.get(name).unwrap_or_else(|| panic!("{at}.{name} is not in the document"));
            self.check(schema, value, &format!("{at}.{name}"));
        }
    }

    /// Fails if a response is not what the document says of this request.
    pub(crate) fn check_response(&self, method: &str, path: &str, response: &Response) {
        let at = format!("{method} {path}");
        let mut expected = &self.0["paths"][path][method]["responses"][response.status.to_string()];
        if expected["$ref"].is_string() {
            assert_eq!(expected["$ref"], "#/components/responses/Problem", "{at}");
            expected = &self.0["components"]["responses"]["Problem"];
        }
        let content = &expected["content"][response.header("content-type")];
        assert!(
            content.is_object(),
            "{at}: {} {} is not in the document",
            response.status,
            response.header("content-type")
        );
        let value = serde_json::from_slice(&response.body).unwrap();
        self.check(&content["schema"], &value, &at);
    }
}

/// Compares a type with its schema, in both directions. `full` has a value in every field; `least` has none where there
/// may be none.
fn compare<T>(contract: &Contract, name: &str, full: &T, least: &T)
where
    T: Serialize + DeserializeOwned + PartialEq + Debug,
{
    let fields = contract.fields(contract.named(name));
    let [full_json, least_json] = [full, least].map(|sample| serde_json::to_value(sample).unwrap());
    contract.check(contract.named(name), &full_json, name);
    let names = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<BTreeSet<_>>();
    let documented: BTreeSet<_> = fields.of.keys().cloned().collect();
    assert_eq!(names(&full_json), documented, "{name}: the fields of the type, and those of the document");
    assert_eq!(names(&least_json), fields.required, "{name}: the fields that are always sent, and `required`");
    for (field, schema) in &fields.of {
        let nullable = schema["anyOf"].is_array() || schema["type"].is_array();
        let is_null = least_json.get(field).is_some_and(Value::is_null);
        assert_eq!(is_null, nullable, "{name}.{field}: whether it can be null, and whether the document says so");
        let is_empty = [json!(null), json!([]), json!({}), json!("")].contains(&full_json[field]);
        assert!(!is_empty, "{name}.{field} has no value in the sample, so its type is not checked");
    }
    // What is written can be read, by hosts and commands of other versions, too.
    assert_eq!(&serde_json::from_value::<T>(full_json.clone()).unwrap(), full, "{name}");
    let reads = |change: &dyn Fn(&mut Map<String, Value>)| {
        let mut changed = full_json.clone();
        change(changed.as_object_mut().unwrap());
        serde_json::from_value::<T>(changed).is_ok()
    };
    let unknown = reads(&|object| drop(object.insert("of_a_newer_version".into(), json!({ "a": [1] }))));
    assert_eq!(unknown, !fields.closed, "{name}: whether an unknown field can be read");
    for field in fields.of.keys() {
        assert_eq!(reads(&|object| drop(object.remove(field))), !fields.closed, "{name} without {field}");
    }
}

/// Every type of the API has the fields, types and optional fields of its schema, and every schema has a type.
#[tokio::test(flavor = "multi_thread")]
async fn every_type_is_documented() {
    let host = host(&[]).start().await;
    let contract = &Contract::of(&host).await;
    let status = ServiceStatus { info: service_info(), activity: service_activity() };
    let refused = RefusedFile { reason: text("it is empty"), remedy: text("copy it again"), digest: Some(text("0f")) };
    let report = FileReport { file: text("a.wasm"), service: Some(status.clone()), refused: Some(refused.clone()) };
    let limits = [("cpu".into(), text("5s"))].into();
    let details = ServiceDetails {
        refused: vec![text("users.wasm: it is empty; copy it again")],
        status: status.clone(),
        limits,
        policies: vec![policy()],
        schedules: vec![schedule()],
        response_mismatches: vec![mismatch()],
        recent_errors: vec![failed_request()],
    };
    let share = service_info().share.unwrap();
    let problem =
        Problem { kind: Some(text("urn:a")), title: Some(text("b")), status: Some(400), detail: Some(text("c")) };
    let mut compared = BTreeSet::from(["State".to_owned()]);
    macro_rules! compare {
        ($($name:ident: $full:expr),* $(,)?) => {$(
            compare(contract, stringify!($name), &$full, &Default::default());
            compared.insert(stringify!($name).to_owned());
        )*};
    }
    compare! {
        FileReport: report,
        RefusedFile: refused,
        ServiceStatus: status,
        ServiceDetails: details,
        RollbackMargins: share.rollback.clone().unwrap(),
        VersionShare: share,
        VersionStatus: service_activity().versions[0],
        Judgement: service_activity().judged.unwrap(),
        CacheCounts: service_activity().cached.unwrap(),
        StoredCounts: service_activity().stored.unwrap(),
        MessageCounts: service_activity().messages.unwrap(),
        LastRefusal: service_activity().last_refusal.unwrap(),
        ReplicaStatus: replica(),
        UpstreamStatus: upstream(),
        SourceStatus: upstream().sources[0],
        UpstreamCertificate: upstream().certificate.unwrap(),
        PolicyStatus: policy(),
        RemoteCall: service_info().remote_calls[0],
        CodePart: service_info().parts[0],
        ScheduleStatus: schedule(),
        ScheduledCall: schedule().last.unwrap(),
        FailedRequest: failed_request(),
        ResponseMismatch: mismatch(),
        Line: line(),
        HostStatus: host_status(),
        CertificateStatus: host_status().certificates[0],
        ClusterStatus: cluster(),
        ClusterMember: cluster().members[0],
        ClusterCall: cluster().calls[0],
        ActionResult: ActionResult {
            service: text("users"),
            state: "disabled".into(),
            digest: Some(text("00")),
            version: Some(text("cd")),
            unchanged: true,
            judged: service_activity().judged,
        },
        ManifestComparison: ManifestComparison { keys: vec![text("limits.cpu")] },
        PurgeResult: PurgeResult { service: text("users"), path: text("/"), purged: 1 },
        LogLevel: LogLevel { level: text("info") },
        DrainResult: DrainResult { stopping: true },
        StoreStatus: store_details().status,
        StoreDetails: store_details(),
        KeyList: KeyList { bucket: text("b"), keys: vec![text("k")], next: Some(text("k")) },
        EntryPage: EntryPage { entries: vec![stored_entry()], next: Some(text("k")) },
        StoredEntry: stored_entry(),
        WrittenKey: WrittenKey { bucket: text("b"), key: text("k"), version: 1 },
        DeletedKey: DeletedKey { bucket: text("b"), key: text("k"), deleted: true },
        ImportCount: ImportCount { stored: 1, expired: 2 },
        DeadEntry: dead_message().entry,
        DeadList: DeadList { messages: vec![dead_message().entry], next: Some(text("7")) },
        DeadContent: dead_message(),
        DeadCount: DeadCount { ended: 1, left: 2 },
        Problem: problem,
    }
    let request = LevelRequest { level: text("info") };
    compare(contract, "LevelRequest", &request, &request);
    compared.insert("LevelRequest".into());
    let schemas = contract.0["components"]["schemas"].as_object().unwrap();
    assert_eq!(compared, schemas.keys().cloned().collect(), "a schema without a type, or the other way round");
    assert_eq!(contract.named("State")["enum"], json!(STATES));
    assert_eq!(contract.named("ClusterStatus")["properties"]["state"]["enum"], json!(lodge::cluster::STATES));
    let kinds = [LineKind::Guest, LineKind::Request, LineKind::Host, LineKind::Change].map(LineKind::name);
    assert_eq!(contract.named("Line")["properties"]["kind"]["enum"], json!(kinds));
}

/// An entry as an import has it.
const ENTRY: &str = r#"{"bucket":"default","key":"imported","value":"eA=="}"#;

/// The path of a component.
const COMPONENT: &str = "/v1/services/{name}/component";

/// The path of a comparison.
const COMPARE: &str = "/v1/services/{name}/compare";

/// Paths of data.
const DATA: [&str; 3] =
    ["/v1/services/{name}/data/keys", "/v1/services/{name}/data/entries", "/v1/services/{name}/data/entry"];

/// Every request of the document gets a response that the document describes, and other methods are refused.
#[tokio::test(flavor = "multi_thread")]
async fn every_path_is_documented() {
    let host = host(&["hello", "trap", "cacheable"])
        .manifest(
            "hello",
            "keyvalue = true\nsticky = 'cookie:sid'\ncalls = '*'\nhttp = ['https://*.example.org']\nrate = '9/s'",
        )
        .named("hello", "hello@2")
        .manifest("hello@2", "percent = 10\nmirror = 5\nrollback.errors = 2\nmatch = ['header:a=b']")
        .manifest("cacheable", "cache.ttl = '1m'")
        .manifest("far", "[upstream]\nreplicas = ['http://127.0.0.1:1']\nreplicas_file = 'lost.list'")
        .file("broken.wasm", b"\0asm nonsense")
        .start()
        .await;
    assert_eq!(host.refusals().len(), 1, "{:?}", host.refusals());
    let contract = Contract::of(&host).await;
    for path in ["/hello", "/trap", "/cacheable", "/far"] {
        host.get(path).await;
    }
    let ask = async |method: Method, path: &str, body: &str| {
        Connection::http1(host.admin).await.ask(method, path, &[("host", "localhost")], body).await
    };
    let paths = contract.0["paths"].as_object().unwrap();
    for (path, methods) in paths {
        for method in methods.as_object().unwrap().keys().filter(|method| *method != "parameters") {
            let asked: Method = method.to_uppercase().parse().unwrap();
            // The first has no end, the second ends the host, and the others change its files.
            let others = ["/v1/stream", "/v1/drain", "/v1/services/{name}/promote", "/v1/services/{name}/rollback"];
            // One sends no JSON, and the other takes none.
            let others = others.into_iter().chain(["/v1/data/backup", COMPONENT]);
            if others.into_iter().any(|other| other == path) {
                continue;
            }
            for name in ["hello", "hello@2", "trap", "cacheable", "far", "nobody"] {
                let mut here = path.replace("{name}", name);
                if path.ends_with("/data/entry") {
                    here += "?key=k";
                }
                let body = match path.rsplit('/').next() {
                    Some("entries") => ENTRY,
                    Some("compare") => "rate = '1/s'",
                    _ => r#"{"level":"info"}"#,
                };
                let response = ask(asked.clone(), &here, body).await;
                contract.check_response(method, path, &response);
                let expected: &[_] = match (name, path.as_str()) {
                    (_, "/v1/services/{name}/compare") => &[200],
                    ("nobody", path) if path.contains("{name}") => &[404],
                    ("far", "/v1/services/{name}/unload") => &[409],
                    // The first request is before the key was set, and those without [keyvalue] have no data.
                    ("hello" | "hello@2", "/v1/services/{name}/data/entry") => &[200, 404],
                    (_, path) if path.starts_with("/v1/services/{name}/data/dead") => &[409],
                    (_, path) if path.starts_with("/v1/services/{name}/data") && !name.starts_with("hello") => &[409],
                    _ => &[200],
                };
                assert!(
                    expected.contains(&response.status),
                    "{method} {here}: {} {}",
                    response.status,
                    response.text()
                );
                if !path.contains("{name}") {
                    break;
                }
            }
        }
        let wrong = ask(Method::PATCH, &path.replace("{name}", "hello"), "").await;
        assert_eq!(wrong.status, 405, "{path}");
    }
    for (method, path, here, body, kind) in [
        (Method::PUT, "/v1/log-level", "/v1/log-level", r#"{"level":"loud"}"#, "bad-level"),
        (Method::PUT, "/v1/log-level", "/v1/log-level", r#"{"level":"info","new":1}"#, "bad-level"),
        (Method::POST, "/v1/services/{name}/purge", "/v1/services/hello/purge?path=a", "", "bad-path"),
        (Method::GET, "/v1/logs", "/v1/logs?tail=all", "", "bad-tail"),
        (Method::GET, DATA[0], "/v1/services/hello/data/keys?limit=0", "", "bad-query"),
        (Method::PUT, DATA[2], "/v1/services/hello/data/entry?key=k&ttl=soon", "x", "bad-query"),
        (Method::PUT, DATA[2], "/v1/services/hello/data/entry?bucket=b", "x", "bad-data"),
        (Method::POST, DATA[1], "/v1/services/hello/data/entries", "x", "bad-body"),
        (Method::PUT, COMPONENT, "/v1/services/hello@2/component", "x", "bad-query"),
        (Method::PUT, COMPONENT, "/v1/services/hello@2/component?percent=x", "x", "bad-query"),
        (Method::PUT, COMPONENT, "/v1/services/-/component", "x", "bad-name"),
        (Method::POST, COMPARE, "/v1/services/-/compare", "", "bad-name"),
    ] {
        let name = method.as_str().to_lowercase();
        let bad = ask(method, here, body).await;
        contract.check_response(&name, path, &bad);
        let problem: Value = serde_json::from_slice(&bad.body).unwrap();
        assert_eq!((bad.status, problem["type"].as_str()), (400, Some(&*format!("urn:lodge:admin:{kind}"))), "{here}");
    }
    contract.check_response("post", "/v1/drain", &ask(Method::POST, "/v1/drain", "").await);
}
