//! Promise: a component is compiled while other services run, within bounds of memory and time, and delays none of
//! them.

use std::path::Path;

use lodge_base::config::Tiers;

use crate::harness::{Process, Response, TestHost, get, host, lodge, metric, output, until, wasm};

/// A guest with additional functions of additional instructions, which are never called.
fn heavy(guest: &str, functions: usize, instructions: usize, more: &str) -> Vec<u8> {
    let step = "local.get 0 i32.mul local.get 1 i32.xor local.tee 0 local.get 1 i32.add ";
    let body = step.repeat(instructions / 7);
    let function = format!("(func (param i32 i32) (result i32) local.get 0 {body})");
    let module = wat::parse_str(format!("(module {} {more})", function.repeat(functions))).unwrap();
    let mut bytes = std::fs::read(wasm(guest)).unwrap();
    // A section with a core module: its id, its length as LEB128, the module.
    bytes.push(1);
    let mut rest = module.len();
    while rest >= 0x80 {
        bytes.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    bytes.push(rest as u8);
    bytes.extend(module);
    bytes
}

/// Seconds for Cranelift, and well below one for Winch.
fn large(guest: &str) -> Vec<u8> {
    heavy(guest, 400, 2_000, "")
}

fn is_baseline(host: &TestHost, name: &str) -> bool {
    host.current.snapshot().target(name).unwrap().backend.guest().unwrap().is_baseline()
}

fn entries(cache: &Path) -> usize {
    let files = std::fs::read_dir(cache).unwrap().map(|file| file.unwrap().path());
    files.filter(|file| file.extension().is_some_and(|extension| extension == "cwasm")).count()
}

fn problem(response: &Response) -> (u16, String) {
    (response.status, response.problem())
}

/// The compilers of a host: its children that are not zombies.
fn compilers(process: &Process) -> Vec<u32> {
    let status = |pid: u32, line: &str| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        Some(status.lines().find_map(|text| text.strip_prefix(line))?.trim().to_owned())
    };
    let pids =
        std::fs::read_dir("/proc").unwrap().filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
    let own = process.id().to_string();
    pids.filter(|pid| {
        status(*pid, "PPid:").as_ref() == Some(&own) && !status(*pid, "State:").unwrap_or_default().starts_with('Z')
    })
    .collect()
}

/// The command line of a process; empty if there is none.
fn read_command(pid: u32) -> Vec<u8> {
    std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default()
}

/// Memory and CPU time are bounded, a component that exceeds them is refused with the reason, and the next one is
/// compiled.
#[tokio::test(flavor = "multi_thread")]
async fn compilation_is_bounded_in_memory_and_time() {
    let cache = tempfile::tempdir().unwrap();
    // One function, since a compiler needs memory for all of a function at once.
    let greedy = heavy("hello", 1, 2_500_000, "");
    for (key, value, reason, remedy) in [
        ("engine.compile_memory", "256MiB", "it needs more than 256.0 MiB to compile", "raise engine.compile_memory"),
        ("engine.compile_time", "1ms", "it took more than 1s of CPU time to compile", "raise engine.compile_time"),
    ] {
        let setup = host(&["hello"]).set("cache.directory", cache.path().to_str().unwrap()).set(key, value);
        let host = setup.file("greedy.wasm", &greedy).start().await;
        assert_eq!(host.refusals(), [format!("greedy.wasm: {reason}; {remedy}")]);
        assert_eq!(host.get("/hello").await.text(), "Hello, World!");
        assert_eq!(problem(&host.get("/greedy").await), (503, "refused".into()));
        // Nothing of it is left that the next one has to wait for. (A second is short for an unoptimised compiler.)
        if key == "engine.compile_memory" {
            std::fs::copy(wasm("users"), host.directory().join("users.wasm")).unwrap();
            until("the next one is served", || host.current.snapshot().target("users").is_some()).await;
        }
    }
}

/// A compiler is a process without privileges: no environment, no writable file, a low priority (the lowest, if its service has
/// code already), the first to be killed when memory is short. If it is killed, it is started again; it ends with its host.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn compilers_are_confined_processes() {
    let (directory, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    std::fs::copy(wasm("hello"), directory.path().join("hello.wasm")).unwrap();
    let at = cache.path().join("c").display().to_string();
    let process = Process::serve_with_cache(directory.path(), &at).await;
    until("the small one is served and its compiler has ended", || {
        process.log().contains("hello at /hello") && compilers(&process).is_empty()
    })
    .await;
    std::fs::write(directory.path().join("large.wasm"), heavy("status", 3_000, 2_000, "")).unwrap();
    // The compiler with another process id, since the previous one may still be ending.
    let compiler = async |process: &Process, before: u32| {
        let mut pid = None;
        until("it compiles", || {
            pid = compilers(process).into_iter().find(|pid| *pid != before);
            pid.is_some()
        })
        .await;
        pid.unwrap()
    };
    let pid = compiler(&process, 0).await;
    let read_of = |pid: u32, file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
    let read = |file: &str| read_of(pid, file);
    let niceness =
        |pid| read_of(pid, "stat").rsplit(") ").next().and_then(|stat| stat.split(' ').nth(16)?.parse().ok());
    // It confines itself before it reads the component.
    until("the compiler is confined", || {
        read("limits").lines().any(|line| line.contains("Max address space") && line.contains("2147483648"))
    })
    .await;
    until("the compiler has a low priority", || niceness(pid) == Some(10)).await;
    let signal = |signal| {
        let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    };
    // It must still run while all of this is checked.
    signal(rustix::process::Signal::STOP);
    let limit = |name: &str| read("limits").lines().find(|line| line.starts_with(name)).unwrap_or_default().to_owned();
    assert!(limit("Max cpu time").contains(" 300 "), "{}", limit("Max cpu time"));
    assert!(limit("Max file size").split_whitespace().nth(3) == Some("0"), "{}", limit("Max file size"));
    assert_eq!(read("environ").trim_end_matches('\0'), "MIMALLOC_ARENA_RESERVE=16384");
    assert_eq!(read("oom_score_adj").trim(), "1000");
    // A failure is reported once the file has not changed for half a second; until then it may be half written.
    tokio::time::sleep(std::time::Duration::from_millis(1_500)).await;
    signal(rustix::process::Signal::KILL);
    until("its end is logged", || process.log().contains("its compiler was killed by another process")).await;
    assert_eq!(get(process.address, "/hello").await.status, 200);
    let again = compiler(&process, pid).await;
    until("it is tried again and serves", || process.log().contains("large at /large")).await;
    assert_eq!(get(process.address, "/large/200").await.status, 200);
    // The optimised code is being compiled. If that is killed, it is tried again and logged.
    let optimiser = compiler(&process, again).await;
    until("the optimiser has the lowest priority", || niceness(optimiser) == Some(19)).await;
    let pid = rustix::process::Pid::from_raw(i32::try_from(optimiser).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    let killed = "attempt 1 to optimise large.wasm failed: its compiler was killed by another process";
    until("its end is logged", || process.log().contains(killed)).await;
    assert!(process.log().contains("trying again in 1s"), "{}", process.log());
    // The second attempt ends with its host.
    let pid = compiler(&process, optimiser).await;
    drop(process);
    until("the compiler is gone", || !Path::new(&format!("/proc/{pid}")).exists()).await;
}

/// Replacing or removing a file ends its compiler, and what follows does not wait.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn removed_files_are_not_compiled() {
    let directory = tempfile::tempdir().unwrap();
    let cache = tempfile::tempdir().unwrap();
    let process = Process::serve_with_cache(directory.path(), &cache.path().join("c").display().to_string()).await;
    std::fs::write(directory.path().join("large.wasm"), heavy("status", 3_000, 2_000, "")).unwrap();
    let mut pid = None;
    until("it compiles", || {
        // A process that is stopped before it executes the compiler would hold the thread that starts it.
        let executes = |pid: &u32| read_command(*pid) != read_command(process.id());
        pid = compilers(&process).into_iter().find(executes);
        pid.is_some()
    })
    .await;
    // The compilation does not end by itself in this time.
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid.unwrap()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    std::fs::remove_file(directory.path().join("large.wasm")).unwrap();
    until("the compilation is cancelled", || compilers(&process).is_empty()).await;
    assert!(!process.log().contains("large at /large"), "{}", process.log());
    assert!(!process.log().contains("REFUSED") && !process.log().contains("refused"), "{}", process.log());
}

/// Cached and small components are served while a large one is compiled, whose clients get 503 `starting`.
#[tokio::test(flavor = "multi_thread")]
async fn large_components_do_not_delay_others() {
    let (directory, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    std::fs::copy(wasm("hello"), directory.path().join("hello.wasm")).unwrap();
    let at = cache.path().join("c").display().to_string();
    let guests = directory.path().display().to_string();
    assert_eq!(output(&mut lodge(&["compile", &guests, "--cache-directory", &at])).0, Some(0));
    let setup = host(&["hello", "users"]).set("cache.directory", &at).set("engine.compile_threads", "1");
    let setup =
        setup.manifest("large", "routes = ['/of/its/own']").file("large.wasm", &heavy("status", 1, 2_500_000, ""));
    let host = setup.begin().await;
    let serves = |name: &str| host.current.snapshot().target(name).is_some();
    until("the small ones are served", || serves("hello") && serves("users")).await;
    // Not before: the order of these two is not defined.
    let starting = host.get("/of/its/own/below").await;
    assert_eq!((problem(&starting), starting.header("retry-after").as_str()), ((503, "starting".into()), "1"));
    assert_eq!(get(host.admin, "/readyz").await.status, 503);
    assert!(!serves("large") && !host.current.snapshot().complete);
    assert_eq!(host.get("/hello").await.text(), "Hello, World!");
    assert_eq!(host.get("/users/1").await.status, 200);
    // Other names are not found.
    assert_eq!(problem(&host.get("/nobody").await), (404, "no-route".into()));
}

/// A catch-all route of another service does not replace a refused service.
#[tokio::test(flavor = "multi_thread")]
async fn a_catch_all_route_does_not_replace_a_refused_service() {
    let host = host(&["hello"]).manifest("hello", "routes = ['/*']").file("bad.wasm", b"bad").start().await;
    assert_eq!(problem(&host.get("/bad/below").await), (503, "refused".into()));
    assert_eq!(host.get("/other").await.status, 200);
    std::fs::remove_file(host.directory().join("bad.wasm")).unwrap();
    until("the refusal is gone", || host.refusals().is_empty()).await;
    assert_eq!(host.get("/bad/below").await.status, 200);
}

/// Clients of a refused service get 503, and only `lodge dev` adds the reason.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_service_is_not_a_404() {
    for explains in [false, true] {
        let mut setup = host(&["hello"]).file("bad.wasm", b"bad").manifest("orphan", "routes = ['/orphan']");
        if explains {
            setup = setup.explaining();
        }
        let host = setup.start().await;
        let response = host.get("/bad/below").await;
        assert_eq!(problem(&response), (503, "refused".into()));
        assert_eq!(response.text().contains("it is not WebAssembly"), explains, "{}", response.text());
        // What a manifest without a component restricts is its own all the same.
        assert_eq!(problem(&host.get("/orphan").await), (503, "refused".into()));
        std::fs::remove_file(host.directory().join("bad.wasm")).unwrap();
        until("the refusal is gone", || host.refusals().len() == 1).await;
        assert_eq!(problem(&host.get("/bad").await), (404, "no-route".into()));
    }
}

/// A large component is served with baseline code first, then with optimised code, without a lost request and as the
/// same version. It runs alone: beside the load of another test, a compiler of the lowest priority gets almost no CPU
/// time.
#[cfg(target_arch = "x86_64")]
#[tokio::test(flavor = "multi_thread")]
async fn large_components_are_compiled_twice() {
    let cache = tempfile::tempdir().unwrap();
    let setup = || {
        let setup = host(&["users"]).set("cache.directory", cache.path().to_str().unwrap()).tiers(Tiers::Both);
        let setup = setup.file("large.wasm", &large("status")).file("new.wasm", &large("hello"));
        setup.manifest("large", "isolation = 'service'").alone()
    };
    let host = setup().start().await;
    assert!(is_baseline(&host, "large") && is_baseline(&host, "new") && !is_baseline(&host, "users"));
    let before = host.current.snapshot().target("large").unwrap().backend.clone();
    let generation = host.current.snapshot().generation;
    let mut requests = 0;
    until("it is optimised", || !is_baseline(&host, "large") || !is_baseline(&host, "new")).await;
    while is_baseline(&host, "large") || is_baseline(&host, "new") {
        for path in ["/large/200", "/new"] {
            let response = host.get(path).await;
            assert_eq!(response.status, 200, "{path} after {requests} requests: {}", response.text());
            requests += 1;
        }
    }
    assert_eq!(host.get("/large/200").await.status, 200);
    assert_eq!(host.get("/new").await.text(), "Hello, World!");
    let snapshot = host.current.snapshot();
    assert!(snapshot.target("large").unwrap().backend.is(&before), "it is another version");
    assert_eq!(snapshot.generation, generation);
    until("the baseline code is removed", || entries(cache.path()) == 3).await;
    drop(host);
    let host = setup().start().await;
    assert!(!is_baseline(&host, "large") && !is_baseline(&host, "new"));
}

/// Optimising that fails for lack of memory is tried again later. Until then the service keeps baseline code, and the
/// API says so.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
#[tokio::test(flavor = "multi_thread")]
async fn optimising_is_tried_again() {
    let (cache, tools) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let at = |name: &str| tools.path().join(name).display().to_string();
    // The first run makes the baseline code, the second fails for lack of memory, the third runs normally.
    let (compiler, runs, lodge) = (at("compiler"), at("runs"), env!("CARGO_BIN_EXE_lodge"));
    let script = format!(
        "#!/bin/sh\necho run >> {runs}\nif [ $(wc -l < {runs}) = 2 ]; then\n\
         echo memory allocation of 8 bytes failed >&2; kill -6 $$\nfi\nexec {lodge} \"$@\"\n"
    );
    std::fs::write(&compiler, script).unwrap();
    std::fs::set_permissions(&compiler, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    let setup = host(&[]).set("cache.directory", cache.path().to_str().unwrap()).tiers(Tiers::Both);
    let setup = setup.compiler(Some(Path::new(&compiler))).file("large.wasm", &large("status"));
    let host = setup.start().await;
    let code = async || {
        let whole: serde_json::Value =
            serde_json::from_slice(&get(host.admin, "/v1/services/large").await.body).unwrap();
        whole["code"].as_str().map(str::to_owned)
    };
    let count = || std::fs::read_to_string(&runs).unwrap().lines().count();
    until("it fails", || count() == 2).await;
    assert_eq!(host.get("/large/200").await.status, 200);
    assert_eq!(code().await.as_deref(), Some("baseline"));
    until("it is optimised", || !is_baseline(&host, "large")).await;
    assert_eq!((count(), code().await.as_deref()), (3, Some("optimised")));
    assert_eq!(host.get("/large/200").await.status, 200);
}

/// Cranelift compiles what Winch cannot. With `dev` nothing is compiled twice.
#[cfg(target_arch = "x86_64")]
#[tokio::test(flavor = "multi_thread")]
async fn some_components_are_compiled_once() {
    let cache = tempfile::tempdir().unwrap();
    let tail = "(func $loop (param i32) local.get 0 return_call $loop)";
    let setup = host(&[]).set("cache.directory", cache.path().to_str().unwrap()).tiers(Tiers::Baseline);
    let setup = setup.file("tail.wasm", &heavy("hello", 400, 2_000, tail)).file("large.wasm", &large("status"));
    let host = setup.start().await;
    assert_eq!(host.refusals(), [""; 0]);
    assert!(!is_baseline(&host, "tail") && is_baseline(&host, "large"));
    assert_eq!(host.get("/tail").await.text(), "Hello, World!");
    assert_eq!(host.get("/large/200").await.status, 200);
    assert_eq!(entries(cache.path()), 2);
}

/// If no process can be started, the host compiles itself.
#[tokio::test(flavor = "multi_thread")]
async fn the_host_can_compile_itself() {
    for program in [None, Some(Path::new("/nowhere/lodge"))] {
        let cache = tempfile::tempdir().unwrap();
        let setup = host(&["hello"]).set("cache.directory", cache.path().to_str().unwrap()).compiler(program);
        let host = setup.start().await;
        assert_eq!(host.get("/hello").await.text(), "Hello, World!");
        assert_eq!(entries(cache.path()), 1);
    }
}

/// A version that is not ready is tried again without compiling it again, even without a cache.
#[tokio::test(flavor = "multi_thread")]
async fn trials_do_not_compile_again() {
    let setup = host(&["status"]).set("cache.directory", "off").set("watch.poll", "50ms");
    let host = setup.manifest("status", "ready.path = '/503'").start().await;
    for (path, status) in [("/404", "404 Not Found"), ("/500", "500 Internal Server Error"), ("/503", "503")] {
        let manifest = format!("ready.path = '{path}'");
        std::fs::write(host.directory().join("status.toml"), manifest).unwrap();
        let reason = format!("it is not ready: GET {path} returned {status}");
        until("the trial is repeated", || host.refusals().iter().any(|refusal| refusal.contains(&reason))).await;
    }
    std::fs::write(host.directory().join("status.toml"), "ready.path = '/204'").unwrap();
    until("it is ready", || host.current.snapshot().target("status").is_some()).await;
    assert_eq!(metric(host.admin, "lodge_compile_seconds_count").await, 1.0);
}
