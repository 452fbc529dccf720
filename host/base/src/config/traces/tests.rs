use super::super::{Origin, Source, read_file, resolve};
use super::*;

fn traces(text: &str) -> Traces {
    resolve(&[(Origin::File, read_file(text).unwrap())]).unwrap().config.traces
}

fn problems(text: &str) -> String {
    resolve(&[(Origin::File, read_file(text).unwrap())]).unwrap_err().join("\n")
}

#[test]
fn off_unless_asked_for() {
    let traces = traces("");
    assert_eq!(traces.exporter, Exporter::Off);
    assert_eq!(traces.attributes(), [("service.name".to_owned(), "lodge".to_owned())]);
}

#[test]
fn targets() {
    let check = |exporter: &str, protocol: &str, endpoint: &str, expected: &str| {
        let source: Source =
            [("traces.exporter", exporter), ("traces.protocol", protocol), ("traces.endpoint", endpoint)]
                .map(|(name, text)| (name.to_owned(), text.to_owned()))
                .into();
        let traces = resolve(&[(Origin::Flag, source)]).unwrap().config.traces;
        assert_eq!(traces.target().to_string(), expected, "{exporter} {protocol} {endpoint}");
    };
    const METHOD: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
    check("otlp", "http/protobuf", "", "http://localhost:4318/v1/traces");
    check("otlp", "grpc", "", &format!("http://localhost:4317{METHOD}"));
    check("zipkin", "grpc", "", "http://localhost:9411/api/v2/spans");
    check("otlp", "http/protobuf", "https://x:1", "https://x:1/v1/traces");
    check("otlp", "http/protobuf", "https://x:1/", "https://x:1/");
    check("otlp", "http/protobuf", "https://x/a?b", "https://x/a?b");
    check("otlp", "grpc", "http://[::1]:1/ignored", &format!("http://[::1]:1{METHOD}"));
    check("zipkin", "grpc", "http://x:1/spans", "http://x:1/spans");
    check("zipkin", "grpc", "http://x:1", "http://x:1/api/v2/spans");
}

#[test]
fn headers_and_attributes() {
    let traces =
        traces("traces.headers = 'x-key=a%2Cb, authorization=Basic dTpw==,'\ntraces.resource = 'a=1,b=%e2%82%ac'");
    let said: Vec<_> = traces.headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
    assert_eq!(said, [("x-key", "a,b"), ("authorization", "Basic dTpw==")]);
    // The debug form of a configuration does not reveal an API key.
    assert!(!format!("{traces:?}").contains("dTpw"));
    let attributes: Vec<_> = traces.attributes();
    let attributes: Vec<_> = attributes.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(attributes, [("service.name", "lodge"), ("a", "1"), ("b", "€")]);
}

/// `traces.service` takes precedence over `traces.resource`; the default is lodge.
#[test]
fn names() {
    let name = |text: &str| {
        let attributes = traces(text).attributes();
        let names: Vec<_> = attributes.iter().filter(|(name, _)| name == "service.name").collect();
        assert_eq!(names.len(), 1);
        names[0].1.clone()
    };
    assert_eq!(name("traces.resource = 'service.name=a'"), "a");
    assert_eq!(name("traces.resource = 'service.name=a'\ntraces.service = 'b'"), "b");
}

#[test]
fn refused_in_words() {
    let check = |text: &str, expected: &str| {
        let problems = problems(text);
        assert!(problems.contains(expected), "{problems}");
    };
    check("traces.exporter = 'jaeger'", "traces.exporter: `jaeger` is not one of `off`, `otlp`, `zipkin`");
    check("traces.protocol = 'http/json'", "traces.protocol: `http/json` is not one of");
    check("traces.endpoint = 'collector:4317'", "write it like http://collector:4318");
    check("traces.endpoint = 'unix:///x'", "is not a URL");
    check("traces.endpoint = 'http://u:p@x'", "put credentials into traces.headers");
    check("traces.sample = '2'", "must be between 0 and 1");
    check("traces.sample = 'nan'", "must be between 0 and 1");
    check("traces.sample = 'often'", "is not a number");
    check("traces.headers = 'abc'", "is not `name=value`");
    check("traces.headers = 'ä=b'", "is not the name of a header");
    check("traces.headers = 'a=%0a'", "the value of a cannot be sent");
    check("traces.resource = 'a=%ff'", "the value of a is not percent-encoded text");
}
