//! Promise: a file that cannot be served is refused with one line that names it, the reason and the remedy; all others
//! are served.

use crate::harness::{host, wasm};

#[tokio::test(flavor = "multi_thread")]
async fn bad_files_are_refused_with_reasons() {
    let core = [b"\0asm\x01\0\0\0".as_slice(), &[]].concat();
    let hello = std::fs::read(wasm("hello")).unwrap();
    let mut cut = hello.clone();
    cut.truncate(hello.len() / 2);
    let setup = host(&["hello", "users"])
        .file("core.wasm", &core)
        .file("text.wasm", b"(module)")
        .file("page.wasm", b"<!doctype html>")
        .file("zipped.wasm", &[0x1f, 0x8b, 8, 0])
        .file("program.wasm", b"\x7fELF....")
        .file("empty.wasm", b"")
        .file("rubbish.wasm", b"rubbish")
        .file("cut.wasm", &cut)
        .file("zeros.wasm", &vec![0; 1 << 20])
        .file("bad name.wasm", &hello)
        .file("-x.wasm", &hello)
        .named("counter", "wrong")
        .manifest("wrong", "\nroute = ['/']")
        .named("counter", "greedy")
        .manifest("greedy", "routes = ['/greedy', '/hello']")
        .named("counter", "he-llo")
        .named("counter", "he_llo")
        .set("engine.max_file", "2MiB")
        .file("large.wasm", &vec![1; 3 << 20]);
    let directory = setup.directory.path().to_owned();
    std::os::unix::fs::symlink(directory.join("nowhere"), directory.join("dangling.wasm")).unwrap();
    std::os::unix::fs::symlink(directory.join("loop.wasm"), directory.join("loop.wasm")).unwrap();
    std::fs::create_dir(directory.join("folder.wasm")).unwrap();
    let fifo = directory.join("fifo.wasm");
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let host = setup.start().await;
    let refusals = host.refusals();
    for (file, reason, remedy) in [
        ("core.wasm", "core module", "wasm32-wasip2"),
        ("text.wasm", "text", "wasm-tools parse"),
        ("page.wasm", "HTML", "fetch it again"),
        ("zipped.wasm", "gzip", "unpack"),
        ("program.wasm", "native program", "as a component"),
        ("empty.wasm", "empty", "copy"),
        ("rubbish.wasm", "not WebAssembly", "as a component"),
        ("cut.wasm", "it is cut off: it has", "copy it again"),
        ("zeros.wasm", "not WebAssembly", "as a component"),
        ("bad name.wasm", "name", "rename"),
        ("-x.wasm", "name", "rename"),
        ("wrong.toml", "line 2: unknown key `route`", "manifest"),
        ("hello.wasm", "its route /hello already belongs to greedy", "routes"),
        ("he_llo.wasm", "he-llo.localhost already belongs to he-llo", "name"),
        ("large.wasm", "over 2.0 MiB", "engine.max_file"),
        ("dangling.wasm", "cannot read it", "let the user that runs Lodge read it"),
        ("loop.wasm", "cannot read it", "let the user that runs Lodge read it"),
        ("folder.wasm", "not a regular file", "component"),
        ("fifo.wasm", "not a regular file", "component"),
    ] {
        let line = refusals.iter().find(|line| line.starts_with(&format!("{file}: ")));
        let line = line.unwrap_or_else(|| panic!("{file} is not refused: {refusals:#?}"));
        assert!(line.contains(reason) && line.contains(remedy) && !line.contains('\n'), "{line}");
    }
    assert_eq!(refusals.len(), 19, "{refusals:#?}");
    for path in ["/users", "/greedy", "/he-llo"] {
        assert_eq!(host.get(path).await.status, 200, "{path}");
    }
}

/// A component with another import. The names have the same length, so that nothing else of the binary changes.
pub(crate) fn renamed(bytes: &[u8], from: &str, to: &str) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let mut renamed = bytes.to_vec();
    let mut found = 0;
    for at in 0..bytes.len() - from.len() {
        if bytes[at..].starts_with(from.as_bytes()) {
            renamed[at..at + to.len()].copy_from_slice(to.as_bytes());
            found += 1;
        }
    }
    assert!(found > 0, "the guest does not import {from}");
    renamed
}

/// Components are refused by their imports and exports, with the names of the interfaces.
#[tokio::test(flavor = "multi_thread")]
async fn components_that_are_not_services() {
    let component = |text: &str| wat::parse_str(text).unwrap();
    let users = std::fs::read(wasm("users")).unwrap();
    let handler = "(core module $m (func (export \"h\") (param i32 i32))) (core instance $i (instantiate $m))";
    let exporting = |name: &str| {
        format!(
            "(component {handler} (func $h (param \"a\" u32) (param \"b\" u32) (canon lift (core func $i \"h\")))
             (instance $e (export \"handle\" (func $h))) (export \"{name}\" (instance $e)))"
        )
    };
    let importing = |name: &str| {
        let handler = exporting("wasi:http/incoming-handler@0.2.0");
        format!("(component (import \"{name}\" (instance (export \"get\" (func)))) {}", &handler["(component ".len()..])
    };
    let host = host(&["hello"])
        .file("package.wasm", &component("(component)"))
        .file("command.wasm", &component(&exporting("wasi:cli/run@0.2.0")))
        .file("other.wasm", &component(&exporting("my:own/thing@1.0.0")))
        .file("candidate.wasm", &component(&exporting("wasi:http/handler@0.3.0-rc-2026-03-15")))
        .file("old.wasm", &component(&exporting("wasi:http/incoming-handler@0.2.0-rc-2023-10-18")))
        .file("future.wasm", &component(&exporting("wasi:http/handler@0.4.0")))
        .file("shape.wasm", &component(&exporting("wasi:http/incoming-handler@0.2.0")))
        .file("unknown.wasm", &renamed(&users, "wasi:io/streams@", "wasi:io/strange@"))
        .file("store.wasm", &component(&importing("wasi:keyvalue/store@0.2.0-draft9")))
        .file("lock.wasm", &component(&importing("lodge:lock/locks@0.2.0")))
        .file("config.wasm", &component(&importing("wasi:config/store@0.2.0-rc.9")))
        .file("spin.wasm", &component(&importing("fermyon:spin/mysql@2.0.0")))
        .file("types.wasm", &component(&importing("fermyon:spin/variables@2.0.0")))
        .file("own.wasm", &component(&importing("my:own/part@1.0.0")))
        .file("draft.wasm", &renamed(&users, "environment@0.2.6", "environ@0.2.6-rc1"))
        .start()
        .await;
    let refusals = host.refusals();
    for (file, reason) in [
        ("package.wasm", "it exports nothing"),
        ("command.wasm", "command-line program"),
        ("other.wasm", "no HTTP handler, only my:own/thing@1.0.0"),
        ("candidate.wasm", "wasi:http 0.3.0-rc-2026-03-15, a pre-release"),
        ("old.wasm", "wasi:http 0.2.0-rc-2023-10-18, a pre-release"),
        ("future.wasm", "wasi:http 0.4.0, a version Lodge does not know"),
        ("shape.wasm", "does not have the type of the standard"),
        ("unknown.wasm", "it imports wasi:io/strange@0.2."),
        (
            "store.wasm",
            "it imports wasi:keyvalue/store@0.2.0-draft9, and Lodge has no such version of this interface; rebuild it with \
             wasi:keyvalue@0.2.0-draft",
        ),
        ("store.wasm", "grant it by `keyvalue = true` in its manifest"),
        ("config.wasm", "and put the values under [config] in its manifest"),
        ("lock.wasm", "grant locks by `lock = true` in its manifest"),
        (
            "spin.wasm",
            "it imports fermyon:spin/mysql@2.0.0, and Lodge has no SQL database; reach the database by an HTTP",
        ),
        ("types.wasm", "it imports fermyon:spin/variables@2.0.0 with other types than Lodge has"),
        (
            "own.wasm",
            "it imports my:own/part@1.0.0, which Lodge does not have; compose it with a component that exports",
        ),
        ("draft.wasm", "it imports wasi:cli/environ@0.2.6-rc1, a pre-release"),
    ] {
        let line = refusals.iter().find(|line| line.starts_with(&format!("{file}: ")));
        assert!(line.is_some_and(|line| line.contains(reason)), "{file}: {refusals:#?}");
    }
    assert_eq!(host.get("/hello").await.status, 200);
}
