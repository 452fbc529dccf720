use super::super::{Resolved, resolve};
use super::*;

fn sources(lodge: &[(&str, &str)]) -> Vec<(Origin, Source)> {
    let source = lodge.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
    vec![(Origin::File, source)]
}

fn with(otel: &[(&str, &str)], lodge: &[(&str, &str)]) -> Result<Resolved, Vec<String>> {
    let vars = otel.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned()));
    let mut sources = sources(lodge);
    sources.push((Origin::Otel, read(vars, &sources)?));
    resolve(&sources)
}

fn check(otel: &[(&str, &str)], lodge: &[(&str, &str)], expected: &[(&str, &str)]) {
    let resolved = with(otel, lodge).unwrap();
    for (key, expected) in expected {
        let (_, text, _) = resolved.values.iter().find(|(name, ..)| name == &format!("traces.{key}")).unwrap();
        assert_eq!(text, expected, "{key} by {otel:?} and {lodge:?}");
    }
}

const OTLP_ON: (&str, &str) = ("OTEL_TRACES_EXPORTER", "otlp");

#[test]
fn on_and_off() {
    check(&[], &[], &[("exporter", "off")]);
    check(&[("OTEL_SERVICE_NAME", "x")], &[], &[("exporter", "off")]);
    check(&[OTLP_ON], &[], &[("exporter", "otlp"), ("endpoint", "")]);
    check(&[("OTEL_TRACES_EXPORTER", "zipkin")], &[], &[("exporter", "zipkin")]);
    check(
        &[("OTEL_TRACES_EXPORTER", "none"), ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://x")],
        &[],
        &[("exporter", "off")],
    );
    check(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://x")], &[], &[("exporter", "otlp")]);
    check(&[OTLP_ON, ("OTEL_SDK_DISABLED", "true")], &[], &[("exporter", "off")]);
    check(&[OTLP_ON, ("OTEL_SDK_DISABLED", "perhaps")], &[], &[("exporter", "otlp")]);
    // Lodge's own key takes precedence, and an empty variable counts as unset.
    check(&[OTLP_ON], &[("traces.exporter", "off")], &[("exporter", "off")]);
    check(&[("OTEL_TRACES_EXPORTER", "")], &[], &[("exporter", "off")]);
    // While tracing is off, invalid variables are ignored.
    check(&[("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json")], &[], &[("exporter", "off")]);
}

#[test]
fn endpoints() {
    const BASE: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318/base/");
    let grpc = ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc");
    check(&[BASE], &[], &[("endpoint", "http://c:4318/base/v1/traces"), ("protocol", "http/protobuf")]);
    check(&[BASE, grpc], &[], &[("endpoint", "http://c:4318/base"), ("protocol", "grpc")]);
    check(&[BASE], &[("traces.protocol", "grpc")], &[("endpoint", "http://c:4318/base")]);
    check(
        &[BASE, grpc, ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/protobuf")],
        &[],
        &[("protocol", "http/protobuf")],
    );
    check(&[BASE, ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://d:1")], &[], &[("endpoint", "http://d:1/")]);
    check(&[BASE, ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://d:1/p")], &[], &[("endpoint", "http://d:1/p")]);
    check(&[BASE], &[("traces.endpoint", "http://own")], &[("endpoint", "http://own")]);
    let zipkin = ("OTEL_EXPORTER_ZIPKIN_ENDPOINT", "http://z:9411/api/v2/spans");
    check(&[BASE, zipkin], &[("traces.exporter", "zipkin")], &[("endpoint", "http://z:9411/api/v2/spans")]);
    check(&[zipkin, OTLP_ON], &[], &[("endpoint", "")]);
}

#[test]
fn the_rest() {
    let all = [
        OTLP_ON,
        ("OTEL_EXPORTER_OTLP_HEADERS", "api-key=x"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "2500"),
        ("OTEL_SERVICE_NAME", "edge"),
        ("OTEL_RESOURCE_ATTRIBUTES", "a=b"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "100"),
        ("OTEL_BSP_SCHEDULE_DELAY", "1000"),
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "50"),
    ];
    let expected = [
        ("headers", "api-key=x"),
        ("timeout", "2500ms"),
        ("service", "edge"),
        ("resource", "a=b"),
        ("queue", "100"),
        ("delay", "1000ms"),
        ("batch", "50"),
    ];
    check(&all, &[], &expected);
    let over = [OTLP_ON, ("OTEL_EXPORTER_OTLP_TIMEOUT", "1"), ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "2")];
    check(&over, &[], &[("timeout", "2ms")]);
}

#[test]
fn samplers() {
    for (name, ratio, sample, follow) in [
        ("always_on", None, "1", "false"),
        ("always_off", Some("0.5"), "0", "false"),
        ("traceidratio", Some("0.25"), "0.25", "false"),
        ("parentbased_always_on", None, "1", "true"),
        ("parentbased_always_off", None, "0", "true"),
        ("parentbased_traceidratio", Some("0.25"), "0.25", "true"),
        ("parentbased_traceidratio", None, "1", "true"),
    ] {
        let mut vars = vec![OTLP_ON, ("OTEL_TRACES_SAMPLER", name)];
        vars.extend(ratio.map(|ratio| ("OTEL_TRACES_SAMPLER_ARG", ratio)));
        check(&vars, &[], &[("sample", sample), ("follow_parent", follow)]);
    }
    check(&[OTLP_ON, ("OTEL_TRACES_SAMPLER", "always_off")], &[("traces.sample", "0.5")], &[("sample", "0.5")]);
}

#[test]
fn problems_name_the_variable() {
    let problems = with(
        &[
            OTLP_ON,
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s"),
            ("OTEL_TRACES_SAMPLER", "jaeger_remote"),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "0"),
        ],
        &[],
    )
    .unwrap_err();
    let expected = [
        "OTEL_EXPORTER_OTLP_PROTOCOL: `http/json` is not one of `http/protobuf`, `grpc`",
        "OTEL_BSP_MAX_QUEUE_SIZE: must be between 1 and 1000000",
        "OTEL_EXPORTER_OTLP_TIMEOUT: `10s` is not a number of milliseconds",
        "OTEL_EXPORTER_OTLP_ENDPOINT: `collector/v1/traces` is not a URL; write it like http://collector:4318",
        "OTEL_TRACES_SAMPLER: `jaeger_remote` is not one of `always_on`",
    ];
    for expected in expected {
        assert!(problems.iter().any(|problem| problem.starts_with(expected)), "{expected}: {problems:#?}");
    }
    assert_eq!(problems.len(), expected.len());
    let problems = with(&[("OTEL_TRACES_EXPORTER", "jaeger")], &[]).unwrap_err();
    assert_eq!(problems, ["OTEL_TRACES_EXPORTER: `jaeger` is not one of `none`, `otlp`, `zipkin`"]);
}
