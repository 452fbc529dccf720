//! Promise: the start of a host says what it has read, and what a newcomer has to do next.

use std::fs::File;
use std::process::Stdio;

use crate::harness::{Leashed, Process, lodge, until, wasm};

/// The log names the file of the settings, and says what an empty directory is for.
#[tokio::test(flavor = "multi_thread")]
async fn the_start_says_what_was_read() {
    let (directory, settings) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    std::fs::write(directory.path().join(".hidden"), "").unwrap();
    let file = settings.path().join("other.toml");
    std::fs::write(&file, "[stop]\ngrace = '1s'\n").unwrap();
    let host = Process::serve(directory.path(), &["--config", &file.display().to_string()]).await;
    let line = format!("settings are those of {}", file.canonicalize().unwrap().display());
    let said = |log: String| log.contains(&line) && log.contains("is empty: copy a component into it");
    until("it says so", || said(host.log())).await;
    drop(host);
    std::fs::copy(wasm("hello"), directory.path().join("hello.wasm")).unwrap();
    let host = Process::serve(directory.path(), &[]).await;
    until("it says so", || host.log().contains("no lodge.toml was read")).await;
    until("it serves", || host.log().contains("hello at /hello")).await;
    assert!(!host.log().contains("is empty"), "{}", host.log());
}

/// The log says what the process may use, and the sizes that follow from it.
#[tokio::test(flavor = "multi_thread")]
async fn the_start_says_what_sizes_follow() {
    let directory = tempfile::tempdir().unwrap();
    let host = Process::serve(directory.path(), &["--memory", "64MiB"]).await;
    let said = "this process may use 64.0 MiB of memory (`memory`) and ";
    until("it says what it may use", || host.log().contains(said)).await;
    let sizes = "engine.instances = 300, engine.warm = 64, engine.resident = 8.0 MiB";
    // The instances are those of the harness.
    until("it says the sizes", || host.log().contains(sizes)).await;
    drop(host);
    let host = Process::serve(directory.path(), &["--memory", "auto"]).await;
    let said = |log: String| {
        log.contains(" of memory (the limit of its cgroup) and ")
            || log.contains(" of memory (that of the machine) and ")
    };
    until("it says what its machine or cgroup has", || said(host.log())).await;
}

/// Without cargo, `lodge dev` says where it looked and what to do.
#[tokio::test(flavor = "multi_thread")]
async fn dev_without_cargo() {
    let directory = tempfile::tempdir().unwrap();
    let source = directory.path().join("guests/orders");
    std::fs::create_dir_all(source.join("src")).unwrap();
    std::fs::write(source.join("Cargo.toml"), "[package]\nname = 'orders'\nversion = '0.1.0'\n").unwrap();
    std::fs::write(source.join("src/lib.rs"), "").unwrap();
    let log = directory.path().join("log");
    let guests = directory.path().join("guests").display().to_string();
    let mut dev = lodge(&["dev", &guests, "--listen", "127.0.0.1:0", "--admin", "off"]);
    dev.env("PATH", "/nowhere").env_remove("CARGO").stdout(Stdio::null()).stderr(File::create(&log).unwrap());
    let dev = Leashed(dev.spawn().unwrap());
    let said = || std::fs::read_to_string(&log).unwrap_or_default();
    until("it says that there is no cargo", || said().contains("there is no `cargo` on PATH; install Rust")).await;
    drop(dev);
}
