//! Promise: the commands for a running host send the right requests, and print the host's responses.

mod mock;

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};

use serde_json::Value;

use self::mock::{Mock, SERVICES};
use crate::harness::{Leashed, free_port, lodge, output, wasm};

/// Runs a command against the mock. Returns its exit code, stdout and stderr.
fn ask(mock: &Mock, args: &[&str]) -> (Option<i32>, String, String) {
    output(&mut asking(mock, args))
}

fn asking(mock: &Mock, args: &[&str]) -> Command {
    let mut command = lodge(args);
    command.args(["--admin", &mock.address.to_string()]);
    command
}

#[test]
fn ps_lists_services_and_refusals() {
    let mock = Mock::start();
    let (code, stdout, stderr) = ask(&mock, &["ps"]);
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    let lines: Vec<_> = stdout.lines().collect();
    assert!(lines[0].starts_with("NAME    VERSION        STATE      SINCE"), "{stdout}");
    for text in ["0123456789ab", "disabled", "years ago", "1203", "0.12ms", "1.2 MiB", "/hello, /hi"] {
        assert!(stdout.contains(text), "{text} is not in\n{stdout}");
    }
    assert_eq!(lines.last(), Some(&r"bad.wasm: it is empty\u{1b}[2J; copy the component again"));
    // `--json` prints the host's response.
    let (code, stdout, _) = ask(&mock, &["ps", "--json"]);
    assert_eq!((code, stdout.trim_end()), (Some(0), SERVICES));
    assert_eq!(mock.asked().first().map(String::as_str), Some("GET /v1/services"));
}

#[test]
fn past_logs_and_events() {
    let mock = Mock::start();
    let (code, stdout, _) = ask(&mock, &["logs", "users", "--tail", "2"]);
    let guest = r"2026-11-21T10:00:00.123Z INFO  users stdout: one\u{1b}]0;title\u{7} request_id=9f";
    assert_eq!((code, stdout.lines().next()), (Some(0), Some(guest)));
    assert!(mock.asked().contains(&"GET /v1/logs?service=users&tail=2".to_owned()), "{:?}", mock.asked());
    let (_, stdout, _) = ask(&mock, &["logs", "--json"]);
    assert_eq!(serde_json::from_str::<Value>(&stdout).unwrap()[0]["message"], "one\x1b]0;title\x07");
    let (code, stdout, _) = ask(&mock, &["events"]);
    assert_eq!((code, stdout.as_str()), (Some(0), "2026-11-21T10:00:00Z users: replaced\n"));
    // A misspelt name is distinguished from a service without log lines.
    let (code, _, stderr) = ask(&mock, &["logs", "usres"]);
    assert!(code == Some(1) && stderr.contains("did you mean `users`?"), "{stderr}");
}

/// Lines are printed as they arrive, with `--json` one object each; the end of the stream ends the command.
#[test]
fn logs_and_events_can_be_followed() {
    let mock = Mock::start();
    let mut child = asking(&mock, &["logs", "-f"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.next().unwrap().unwrap().contains("users stdout: one"));
    // The mock waits, so lines were printed before the stream ended.
    mock.go_on();
    assert!(lines.next().unwrap().unwrap().ends_with("WARN  lodge host: two"));
    assert!(lines.next().is_none() && child.wait().unwrap().success());
    assert!(mock.asked().contains(&"GET /v1/logs?follow=true&tail=10".to_owned()));
    mock.go_on();
    let (code, stdout, _) = ask(&mock, &["logs", "-f", "--json"]);
    let messages: Vec<Value> = stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((code, messages.len(), &messages[1]["message"]), (Some(0), 2, &"two".into()));
    mock.go_on();
    let (code, stdout, _) = ask(&mock, &["events", "-f"]);
    assert_eq!((code, stdout.lines().next()), (Some(0), Some("2026-11-21T10:00:00Z users: replaced")));
}

#[test]
fn stats_are_rates() {
    let mock = Mock::start();
    let (code, stdout, _) = ask(&mock, &["stats", "users", "--no-stream"]);
    assert_eq!((code, stdout.lines().count()), (Some(0), 2), "{stdout}");
    assert!(stdout.starts_with("NAME    REQ/S   ERR/S"), "{stdout}");
    let (_, stdout, _) = ask(&mock, &["top", "--json"]);
    let rates: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((&rates[0]["name"], &rates[0]["requests_per_second"]), (&"hello".into(), &0.0.into()));
    let (code, _, stderr) = ask(&mock, &["stats", "nobody"]);
    assert!(code == Some(1) && stderr.contains("there is no service `nobody` (there are hello, users)"), "{stderr}");
}

/// On a terminal they are redrawn periodically; `top` restores the terminal.
#[test]
fn terminals_are_redrawn() {
    use rustix::termios::{LocalModes, tcgetattr};
    let mock = Mock::start();
    for (command, drawn_again, key) in [("top", "\x1b[H", &b"q"[..]), ("top", "\x1b[H", b"\x03"), ("stats", "A\r", b"")]
    {
        let (master, slave) = terminal();
        let mut command = asking(&mock, &[command]);
        command.stdin(slave.try_clone().unwrap()).stdout(slave.try_clone().unwrap());
        let mut child = Leashed(command.spawn().unwrap());
        let (mut seen, mut bytes) = (String::new(), [0; 4096]);
        let mut read = |until: &dyn Fn(&str) -> bool| {
            while !until(&seen) {
                let read = rustix::io::read(&master, &mut bytes).unwrap();
                seen.push_str(&String::from_utf8_lossy(&bytes[..read]));
            }
        };
        read(&|seen| seen.matches("hello").count() >= 2 && seen.matches(drawn_again).count() >= 2);
        if key.is_empty() {
            continue;
        }
        assert!(!tcgetattr(&slave).unwrap().local_modes.contains(LocalModes::ICANON));
        rustix::io::write(&master, key).unwrap();
        read(&|seen| seen.ends_with("\x1b[?25h\x1b[?1049l"));
        assert!(child.0.wait().unwrap().success());
        assert!(tcgetattr(&slave).unwrap().local_modes.contains(LocalModes::ICANON | LocalModes::ECHO));
    }
}

/// Both ends of a terminal.
fn terminal() -> (OwnedFd, File) {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let name = ptsname(&master, Vec::new()).unwrap().into_string().unwrap();
    (master, File::options().read(true).write(true).open(name).unwrap())
}

#[test]
fn services_are_inspected() {
    let mock = Mock::start();
    let (code, stdout, _) = ask(&mock, &["inspect", "users"]);
    assert_eq!(code, Some(0));
    for text in ["disabled; its machine code is not in memory", "cpu 5s", "outgoing HTTP: imported; denied", "trapped"]
    {
        assert!(stdout.contains(text), "{text} is not in\n{stdout}");
    }
    let (code, _, stderr) = ask(&mock, &["inspect", "bad"]);
    assert!(code == Some(1) && stderr.contains(r"bad.wasm is refused: it is empty\u{1b}[2J; copy"), "{stderr}");
    let (code, stdout, _) = ask(&mock, &["inspect", "users", "--json"]);
    let service: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((code, &service["limits"]["cpu"]), (Some(0), &"5s".into()));
}

/// Without a host, and with the same result as the compiler's.
#[test]
fn files_are_inspected() {
    let directory = tempfile::tempdir().unwrap();
    for name in ["hello", "users"] {
        let file = directory.path().join(format!("{name}.wasm")).display().to_string();
        std::fs::copy(wasm(name), &file).unwrap();
        let manifest = directory.path().join(format!("{name}.toml"));
        std::fs::write(&manifest, "calls = ['orders', 'hello']\nhttp = ['https://api.example.com']").unwrap();
        let (code, inspected, _) = output(&mut lodge(&["inspect", &file, "--json", "--admin", "off"]));
        assert_eq!(code, Some(0));
        let inspected: Value = serde_json::from_str(&inspected).unwrap();
        let (_, checked, _) = output(&mut lodge(&["check", &file, "--json"]));
        let checked: Value = serde_json::from_str(&checked).unwrap();
        for key in ["imports", "exports", "digest", "bytes", "routes", "sections"] {
            let checked = &checked[0]["service"][key];
            assert!(!checked.is_null() && inspected[key] == *checked, "{key} of {name}: {checked}");
        }
        let (_, text, _) = output(&mut lodge(&["inspect", &file]));
        assert!(text.contains("stdin: imported by its runtime; empty") && text.contains("[env]"), "{text}");
        assert!(text.contains("may call      orders, hello\n"), "{text}");
        let (_, text, _) = output(&mut lodge(&["check", &file]));
        assert!(text.contains("  may call    orders, hello\n  may send to https://api.example.com\n"), "{text}");
        // The proposed text is a valid manifest.
        std::fs::write(&manifest, inspected["manifest"].as_str().unwrap()).unwrap();
        assert_eq!(output(&mut lodge(&["check", &file])).0, Some(0));
    }
    let bad = directory.path().join("bad.wasm").display().to_string();
    std::fs::write(&bad, "\x7fELF").unwrap();
    let (code, stdout, stderr) = output(&mut lodge(&["inspect", &bad]));
    assert_eq!((code, stdout.as_str()), (Some(1), ""));
    assert!(stderr.contains("it is a native program, not WebAssembly; build it"), "{stderr}");
    assert!(output(&mut lodge(&["inspect", "/nowhere.wasm"])).2.contains("/nowhere.wasm: No such file"));
}

/// A name in `calls` that no service has may be a typo, or the name of a service that comes later.
#[test]
fn unknown_callees_are_named() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::copy(wasm("hello"), directory.path().join("hello.wasm")).unwrap();
    std::fs::copy(wasm("hello"), directory.path().join("user_data.wasm")).unwrap();
    std::fs::write(directory.path().join("broken.wasm"), "\x7fELF").unwrap();
    let calls = "calls = ['hello', 'user-data', 'broken', 'orders']";
    std::fs::write(directory.path().join("hello.toml"), calls).unwrap();
    let (_, text, _) = output(&mut lodge(&["check", &directory.path().display().to_string()]));
    let lines: Vec<_> = text.lines().filter(|line| line.contains("no service of this name")).collect();
    assert_eq!(lines, ["  calls       orders: no service of this name (it may come later)"]);
    // Of a single file, the others are not read.
    let (_, text, _) = output(&mut lodge(&["check", &directory.path().join("hello.wasm").display().to_string()]));
    assert!(text.contains("orders") && !text.contains("no service of this name"), "{text}");
}

#[test]
fn commands_send_requests() {
    let mock = Mock::start();
    for (args, said) in [
        (&["disable", "users"][..], "users: disabled\n"),
        (&["log-level"], "info\n"),
        (&["log-level", "debug"], "debug\n"),
        (&["drain"], "stopping; requests in flight may finish within the host's stop.grace\n"),
    ] {
        assert_eq!(ask(&mock, args), (Some(0), said.into(), String::new()), "{args:?}");
    }
    let asked = mock.asked();
    for order in ["POST /v1/services/users/disable", "PUT /v1/log-level {\"level\":\"debug\"}", "POST /v1/drain"] {
        assert!(asked.contains(&order.to_owned()), "{order} is not in {asked:?}");
    }
    let (code, stdout, _) = ask(&mock, &["drain", "--json"]);
    assert_eq!((code, stdout.as_str()), (Some(0), "{\"stopping\":true}\n"));
    let (code, _, stderr) = ask(&mock, &["log-level", "loud"]);
    assert!(code == Some(1) && stderr.contains("`loud` is no level"), "{stderr}");
    let (code, _, stderr) = ask(&mock, &["enable", "hallo"]);
    assert!(
        code == Some(1)
            && stderr.contains("there is no service `hallo` (there are hello, users); did you mean `hello`?"),
        "{stderr}"
    );
    assert_eq!(ask(&mock, &["enable"]).0, Some(64));
}

#[test]
fn tokens_are_sent_and_requested() {
    let mock = Mock::with_token("0123456789abcdef");
    let (code, _, stderr) = ask(&mock, &["ps"]);
    assert!(
        code == Some(1) && stderr.contains("requires a token; set admin_token (--token-file, --admin-token, LODGE"),
        "{stderr}"
    );
    let (code, _, stderr) = ask(&mock, &["ps", "--admin-token", "fedcba9876543210"]);
    assert!(code == Some(1) && stderr.contains("does not accept this token"), "{stderr}");
    assert_eq!(ask(&mock, &["ps", "--admin-token", "0123456789abcdef"]).0, Some(0));
    assert_eq!(output(asking(&mock, &["ps"]).env("LODGE_ADMIN_TOKEN", "0123456789abcdef")).0, Some(0));
}

/// Imports that the host links are recognised.
#[test]
fn linked_imports_are_recognised() {
    let (code, text, _) = output(&mut lodge(&["inspect", &wasm("logger").display().to_string()]));
    assert!(code == Some(0) && text.contains("log messages: granted"), "{text}");
}

#[test]
fn an_unreachable_host_is_reported_with_a_remedy() {
    let free = format!("127.0.0.1:{}", free_port());
    for command in ["ps", "logs", "stats", "top", "events", "drain", "log-level", "health"] {
        let (code, stdout, stderr) = output(&mut lodge(&[command, "--admin", &free]));
        assert_eq!((code, stdout.as_str(), stderr.lines().count()), (Some(1), "", 1), "{stderr}");
        let way_out = "refused (os error 111); is `lodge serve` running? --admin names another address\n";
        assert!(stderr.contains(&format!("cannot reach http://{free}: ")) && stderr.ends_with(way_out), "{stderr}");
    }
    let (code, _, stderr) = output(&mut lodge(&["ps", "--admin", "off"]));
    assert!(code == Some(1) && stderr.contains("admin is `off`"), "{stderr}");
}

/// `lodge ps | head -1`, with a reader that ends before the first line.
#[test]
fn a_closed_pipe_is_not_a_failure() {
    let mock = Mock::start();
    mock.go_on();
    let asking = [&["ps"][..], &["logs"], &["logs", "-f"], &["events", "--json"]].map(|args| asking(&mock, args));
    let others = [&["man"][..], &["completions", "bash"], &["schema"], &["serve", "--print-config"]].map(lodge);
    for mut command in asking.into_iter().chain(others) {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let ended = command.stdout(writer).stderr(Stdio::piped()).output().unwrap();
        assert_eq!((ended.status.code(), ended.stderr.as_slice()), (Some(0), &b""[..]), "{command:?}");
    }
}

#[test]
fn completions_and_man_pages() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let (code, script, _) = output(&mut lodge(&["completions", shell]));
        assert!(code == Some(0) && script.contains("log-level") && script.contains("admin-token"), "{shell}");
    }
    assert_eq!(output(&mut lodge(&["completions", "basic"])).0, Some(64));
    let directory = tempfile::tempdir().unwrap();
    assert_eq!(output(&mut lodge(&["man", &directory.path().display().to_string()])).0, Some(0));
    let page = std::fs::read_to_string(directory.path().join("lodge-logs.1")).unwrap();
    assert!(page.contains(".TH") && page.contains("\\-\\-follow"), "{page}");
    let (code, pages, _) = output(&mut lodge(&["man"]));
    assert!(code == Some(0) && pages.matches(".TH").count() > 15, "{pages}");
}
