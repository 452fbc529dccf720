//! Promise: a component that makes the engine fail ends its own request, never the process.

use crate::harness::{Connection, Process, host};

/// A component whose handler runs `body`. `imports` are those of the core module, `given` those of the component, and
/// `before` makes them.
fn component((before, given, with): (&str, &str, &str), imports: &str, items: &str, body: &str) -> Vec<u8> {
    let types = r#"(instance $types
        (export "incoming-request" (type (sub resource)))
        (export "response-outparam" (type (sub resource))))"#;
    let text = format!(
        r#"(component
            (import "wasi:http/types@0.2.0" {types})
            {before}
            (component $front
                (import "types" {types})
                {given}
                (core module $m
                    {imports}
                    {items}
                    (func (export "handle") (param i32 i32) {body}))
                (core instance $i (instantiate $m {canon}))
                (alias export $types "incoming-request" (type $request))
                (alias export $types "response-outparam" (type $out))
                (func $handle (param "request" (own $request)) (param "response-out" (own $out))
                    (canon lift (core func $i "handle")))
                (instance $h (export "handle" (func $handle)))
                (export "handler" (instance $h)))
            (instance $front (instantiate $front (with "types" (instance $types)) {with}))
            (export "wasi:http/incoming-handler@0.2.0" (instance $front "handler")))"#,
        canon = if imports.is_empty() { "" } else { r#"(with "canon" (instance $canon))"# },
    );
    wat::parse_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// A component that does this with streams or futures. `$h` is a pair of ends, with the readable one in the lower half.
fn transmitting(kind: &str, body: &str) -> Vec<u8> {
    let (ty, copies) = match kind {
        "stream" => ("(type $t (stream u8))", "(param i32 i32 i32) (result i32)"),
        _ => ("(type $t (future u8))", "(param i32 i32) (result i32)"),
    };
    let mut defined = String::new();
    let mut exported = String::new();
    let mut imports = String::new();
    let one = "(param i32) (result i32)";
    for (name, canon, signature) in [
        ("new", format!("{kind}.new $t"), "(result i64)"),
        ("read", format!("{kind}.read $t async (memory (core memory $memory \"memory\"))"), copies),
        ("write", format!("{kind}.write $t async (memory (core memory $memory \"memory\"))"), copies),
        ("cancel-read", format!("{kind}.cancel-read $t"), one),
        ("cancel-write", format!("{kind}.cancel-write $t"), one),
        ("drop-readable", format!("{kind}.drop-readable $t"), "(param i32)"),
        ("drop-writable", format!("{kind}.drop-writable $t"), "(param i32)"),
    ] {
        defined.push_str(&format!("(core func ${name} (canon {canon}))\n"));
        exported.push_str(&format!("(export \"{name}\" (func ${name}))\n"));
        imports.push_str(&format!("(import \"canon\" \"{name}\" (func ${name} {signature}))\n"));
    }
    defined.push_str("(core func $return (canon task.return))");
    exported.push_str("(export \"return\" (func $return))");
    imports.push_str("(import \"canon\" \"return\" (func $return))");
    let copy = if kind == "stream" { "(i32.const 0) (i32.const 8)" } else { "(i32.const 0)" };
    let reader = "(i32.wrap_i64 (local.get $h))";
    let writer = "(i32.wrap_i64 (i64.shr_u (local.get $h) (i64.const 32)))";
    let body = body.replace("READER", reader).replace("WRITER", writer).replace("COPY", copy);
    // Only an asynchronous task may cancel a copy and wait for it, so the handler starts one.
    let extra = format!(
        "(component $inner
            (core module $libc (memory (export \"memory\") 1)) (core instance $memory (instantiate $libc))
            {ty} {defined} (core instance $canon {exported})
            (core module $m {imports}
                (func (export \"go\") (result i32) (local $h i64)
                    (local.set $h (call $new)) {body} (call $return) (i32.const 0))
                (func (export \"callback\") (param i32 i32 i32) (result i32) unreachable))
            (core instance $i (instantiate $m (with \"canon\" (instance $canon))))
            (func (export \"go\") async
                (canon lift (core func $i \"go\") async (callback (core func $i \"callback\")))))
         (instance $inner (instantiate $inner))"
    );
    let given = r#"(import "go" (func $go async)) (core func $go (canon lower (func $go) async))
        (core instance $canon (export "go" (func $go)))"#;
    component(
        (&extra, given, r#"(with "go" (func $inner "go"))"#),
        "(import \"canon\" \"go\" (func $go (result i32)))",
        "",
        "(drop (call $go))",
    )
}

/// Serves these components beside hello, and requests each of them, with hello after each. Returns the refusals, and
/// the status and reason of the responses.
async fn survives(components: &[(String, Vec<u8>)]) -> (Vec<String>, Vec<(u16, String)>) {
    let mut setup = host(&["hello"]);
    for (name, bytes) in components {
        setup = setup.file(&format!("{name}.wasm"), bytes);
    }
    let process = Process::serve(setup.directory.path(), &[]).await;
    let mut responses = Vec::new();
    for (name, _) in components {
        // Both on one connection, so that a panic that ends it is noticed.
        let mut client = Connection::http1(process.address).await;
        let response = client.get(&format!("/{name}")).await;
        responses.push((response.status, response.problem()));
        assert_eq!(client.get("/hello").await.status, 200, "after {name}");
    }
    let refused = process.log().lines().filter(|line| line.contains("refused")).map(str::to_owned).collect();
    (refused, responses)
}

/// wasmtime without its `gc` feature accepts subtypes of function types, and the first call through one with another
/// signature aborts the process (RUSTSEC-2026-0570). Components that need features which the engine does not have are
/// refused, with the reason.
#[tokio::test(flavor = "multi_thread")]
async fn unsupported_features_are_refused() {
    let types = "(type $a (sub (func))) (type $b (sub (func (param i32)))) (func $f (type $b))";
    let call = format!("{types} (table 1 1 funcref) (elem (i32.const 0) $f)");
    let cases = [
        ("subtypes", call.as_str(), "(call_indirect (type $a) (i32.const 0))", "garbage-collected types"),
        (
            "structs",
            "(type $s (struct (field i32)))",
            "(drop (struct.new $s (i32.const 1)))",
            "garbage-collected types",
        ),
        ("small", "", "(drop (ref.i31 (i32.const 1)))", "garbage-collected types"),
        ("extern", "(table 4 externref)", "(drop (table.get (i32.const 1)))", "garbage-collected types"),
        ("exceptions", "(tag $t)", "(throw $t)", "exceptions"),
        ("shared", "(memory 1 1 shared)", "(drop (memory.atomic.notify (i32.const 0) (i32.const 1)))", "threads"),
        ("atomics", "(memory 1)", "(drop (memory.atomic.notify (i32.const 0) (i32.const 1)))", "threads"),
    ];
    let components = cases.map(|(name, items, body, _)| (name.to_owned(), component(("", "", ""), "", items, body)));
    let (refused, responses) = survives(&components).await;
    for (name, _, _, what) in cases {
        let line = refused.iter().find(|line| line.contains(&format!("refused {name}.wasm: ")));
        assert!(line.is_some_and(|line| line.contains(&format!("it uses {what}"))), "{name}: {refused:#?}");
    }
    assert!(responses.iter().all(|(status, _)| [404, 503].contains(status)), "{responses:?}");
}

/// Cancelling a copy on the wrong end of a stream or a future confuses wasmtime (GHSA-xrvr-8678-5wp8); in a build with
/// debug assertions it panics. Each ends its own request only.
#[tokio::test(flavor = "multi_thread")]
async fn cancelled_copies_end_one_request() {
    let [read, write] = ["(drop (call $read READER COPY))", "(drop (call $write WRITER COPY))"];
    let (wrong_read, wrong_write) = ("(drop (call $cancel-read WRITER))", "(drop (call $cancel-write READER))");
    let bodies = [
        format!("{read} {wrong_write}"),
        format!("{read} {wrong_write} (drop (call $write READER COPY))"),
        format!("{read} {wrong_write} {read}"),
        format!("{read} {wrong_write} (call $drop-writable READER)"),
        format!("{read} {wrong_write} (call $drop-writable READER) (call $drop-writable WRITER)"),
        format!("{read} {write} {wrong_write}"),
        format!("{read} (call $drop-writable WRITER) {wrong_write}"),
        format!("{write} {wrong_read}"),
        format!("{write} {wrong_read} (drop (call $read WRITER COPY))"),
        format!("{write} {wrong_read} {write}"),
        format!("{write} {wrong_read} (call $drop-readable WRITER)"),
        format!("{write} {wrong_read} (call $drop-readable WRITER) (call $drop-readable READER)"),
        format!("{write} {read} {wrong_read}"),
        format!("{write} (call $drop-readable READER) {wrong_read}"),
    ];
    let of = |kind: &str| {
        let numbered = bodies.iter().enumerate();
        numbered.map(|(number, body)| (format!("{kind}{number}"), transmitting(kind, body))).collect::<Vec<_>>()
    };
    let (refused, responses) = survives(&[of("stream"), of("future")].concat()).await;
    assert!(refused.is_empty(), "{refused:#?}");
    for (status, reason) in &responses {
        assert!(*status == 502 && ["no-answer", "trapped"].contains(&reason.as_str()), "{responses:?}");
    }
}
