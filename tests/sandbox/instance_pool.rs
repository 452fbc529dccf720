//! Promise: a component that needs more of the instance pool than others waits for its space; no other service is
//! delayed.

use std::time::Duration;

use crate::harness::{Response, get, host, until, until_metric, wasm};

/// A guest with additional memories and tables that it does not use.
fn grown(guest: &str, memories: usize, tables: usize) -> Vec<u8> {
    let mut bytes = std::fs::read(wasm(guest)).unwrap();
    let payloads = wasmparser::Parser::new(0).parse_all(&bytes);
    let (mut depth, mut modules) = (0, 0_usize);
    for payload in payloads {
        match payload.unwrap() {
            wasmparser::Payload::ModuleSection { .. } => {
                modules += usize::from(depth == 0);
                depth += 1;
            }
            wasmparser::Payload::ComponentSection { .. } => depth += 1,
            wasmparser::Payload::End(_) => depth -= 1,
            _ => {}
        }
    }
    let more = ["(memory 1)"].repeat(memories).into_iter().chain(["(table 1 funcref)"].repeat(tables));
    for (number, item) in more.enumerate() {
        let module = wat::parse_str(format!("(module {item})")).unwrap();
        section(&mut bytes, 1, &module);
        // One core instance of the module just added, which imports nothing.
        let mut instance = vec![1, 0];
        leb128(&mut instance, modules + number);
        instance.push(0);
        section(&mut bytes, 2, &instance);
    }
    bytes
}

fn section(bytes: &mut Vec<u8>, id: u8, content: &[u8]) {
    bytes.push(id);
    leb128(bytes, content.len());
    bytes.extend_from_slice(content);
}

fn leb128(bytes: &mut Vec<u8>, mut number: usize) {
    loop {
        let low = u8::try_from(number & 0x7f).unwrap();
        number >>= 7;
        bytes.push(low | if number > 0 { 0x80 } else { 0 });
        if number == 0 {
            return;
        }
    }
}

/// 30 concurrent requests to a service with 8 memories, in a host for 40 sandboxes. The pool has space for 56 more
/// memories, so 8 requests run and 22 are refused with `Retry-After`. Another service, and a new version of it, are not
/// affected.
#[tokio::test(flavor = "multi_thread")]
async fn large_components_do_not_delay_others() {
    let host = host(&["hello", "users"])
        .file("large.wasm", &grown("sleeper", 7, 0))
        .manifest("large", "limits = { queue_wait = '1s', in_flight = 30 }")
        .set("engine.instances", "40")
        .set("engine.warm", "0")
        .start()
        .await;
    let address = host.address;
    let asked: Vec<_> = (0..30).map(|_| tokio::spawn(async move { get(address, "/large").await })).collect();
    let mut neighbours = 0;
    // Eight of them sleep until their wall time is over.
    while asked.iter().filter(|asked| asked.is_finished()).count() < 22 {
        for path in ["/hello", "/users"] {
            let response = host.get(path).await;
            assert_eq!(response.status, 200, "{path}: {}", response.text());
            neighbours += 1;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(neighbours > 0);
    let (finished, running): (Vec<_>, Vec<_>) = asked.into_iter().partition(|asked| asked.is_finished());
    assert_eq!((finished.len(), running.len()), (22, 8));
    for asked in finished {
        let response: Response = asked.await.unwrap();
        assert_eq!((response.status, response.problem().as_str()), (503, "pool-full"), "{}", response.text());
        assert_eq!(response.header("retry-after"), "1");
    }
    until_metric(host.admin, r#"lodge_refusals_total{service="large",reason="pool-full"}"#, 22).await;
    // Clients that leave free the space.
    running.iter().for_each(tokio::task::JoinHandle::abort);
    std::fs::write(host.directory().join("again.wasm"), grown("echo", 7, 0)).unwrap();
    until("another large service is served", || host.current.snapshot().targets.len() == 4).await;
    assert_eq!(host.get("/again").await.status, 200);
}

/// Idle instances of a large service take places of `engine.warm` in proportion to their space.
#[tokio::test(flavor = "multi_thread")]
async fn idle_large_instances_take_more_places() {
    let host = host(&["users"])
        .manifest("users", "isolation = 'service'")
        .file("large.wasm", &grown("echo", 0, 10))
        .manifest("large", "isolation = 'service'")
        .set("engine.warm", "5")
        .start()
        .await;
    for path in ["/users", "/large"] {
        assert_eq!(host.get(path).await.status, 200);
    }
    let warm = |name: &str| {
        let snapshot = host.current.snapshot();
        snapshot.targets.iter().find(|it| &*it.deployment().name == name).unwrap().backend.guest().unwrap().warm()
    };
    until("the small one stays warm", || warm("users") == 1).await;
    assert_eq!(warm("large"), 0, "it takes the space of six, and there are five places");
}

/// A component that can never fit is refused when it is deployed, with the setting to change.
#[tokio::test(flavor = "multi_thread")]
async fn components_that_never_fit_are_refused() {
    let host = host(&["hello"])
        .file("large.wasm", &grown("echo", 7, 0))
        .file("tables.wasm", &grown("echo", 0, 8))
        .file("fits.wasm", &grown("echo", 3, 6))
        .file("huge.wasm", &grown("echo", 40, 0))
        .set("engine.instances", "4")
        .start()
        .await;
    let refusals = host.refusals();
    for (file, reason, remedy) in [
        ("large.wasm", "its 8 memories and 2 tables take the space of 8 sandboxes, but engine.instances is 4", "to 8"),
        ("tables.wasm", "its 1 memory and 10 tables take the space of 5 sandboxes", "raise engine.instances to 5"),
        ("huge.wasm", "it is larger than a sandbox, which has at most 100 core instances, 32 memories", "split it"),
    ] {
        let line = refusals.iter().find(|line| line.starts_with(&format!("{file}: ")));
        assert!(line.is_some_and(|line| line.contains(reason) && line.contains(remedy)), "{file}: {refusals:#?}");
    }
    assert_eq!(refusals.len(), 3, "{refusals:#?}");
    assert_eq!(host.get("/fits").await.status, 200);
}
