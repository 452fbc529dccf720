//! The refusal of a component, with a remedy, from the engine's error.

use super::engine::{CORE_INSTANCES, MEMORIES, TABLES};
use super::one_line::one_line;
use crate::exports::{HttpWorld, is_message_handler};
use lodge_base::config::limits::MAX_TABLE_ELEMENTS;
use lodge_manifest::refusal::Refusal;

/// The world of these exports; `None` if they handle messages only.
///
/// # Errors
/// When it is not one that Lodge serves.
pub(super) fn handler_of(exports: &[String], file: &str) -> Result<Option<HttpWorld>, Refusal> {
    let version = |interface: &str| {
        exports.iter().find_map(|export| export.strip_prefix(interface)?.strip_prefix('@').map(str::to_owned))
    };
    let (new, old) = (version("wasi:http/handler"), version("wasi:http/incoming-handler"));
    match (new.as_deref(), old.as_deref()) {
        (Some(new), _) if is_final(new, "0.3.") => Ok(Some(HttpWorld::P3)),
        (_, Some(old)) if is_final(old, "0.2.") => Ok(Some(HttpWorld::P2)),
        (None, None) if exports.iter().any(|export| is_message_handler(export)) => Ok(None),
        (None, None) => Err(no_handler(exports, file)),
        (new, old) => {
            let version = new.or(old).unwrap_or_default();
            let kind = if version.contains('-') { "a pre-release" } else { "a version Lodge does not know" };
            let reason = format!("it exports wasi:http {version}, {kind}");
            Err(Refusal::new(file, reason, "rebuild it with a toolchain for WASI 0.2 or 0.3"))
        }
    }
}

fn no_handler(exports: &[String], file: &str) -> Refusal {
    let offers = |interface: &str| exports.iter().any(|export| export.starts_with(interface));
    let reason = if offers("wasi:cli/run") {
        "it is a command-line program: it exports wasi:cli/run and no HTTP handler".to_owned()
    } else if exports.is_empty() {
        "it exports nothing, so it is a library or a WIT package".to_owned()
    } else {
        format!("it exports no HTTP handler, only {}", exports.join(", "))
    };
    Refusal::new(file, reason, "export wasi:http/handler (0.3) or wasi:http/incoming-handler (0.2)")
}

fn is_final(version: &str, line: &str) -> bool {
    version.starts_with(line) && !version.contains('-')
}

pub(crate) fn misshapen(file: &str, detail: &str) -> Refusal {
    let reason = format!("its wasi:http export does not have the type of the standard: {detail}");
    Refusal::new(file, reason, "rebuild it against the WIT of wasi:http 0.2 or 0.3")
}

/// The refusal of a component that the engine does not compile. wasmtime's pool names what exceeds the size of a
/// sandbox.
pub(super) fn uncompilable(file: &str, text: &str) -> Refusal {
    let (reason, remedy) = if text.contains("which exceeds the configured maximum of") {
        let most = format!("{CORE_INSTANCES} core instances, {MEMORIES} memories and {TABLES} tables");
        (
            format!("it is larger than a sandbox, which has at most {most}: {text}"),
            "split it into services that call each other".into(),
        )
    } else if let Some((_, feature)) = LACKING.iter().find(|(signs, _)| signs.iter().any(|sign| text.contains(sign))) {
        (format!("it uses {feature}, which Lodge's engine does not have: {text}"), "build it without them".into())
    } else if text.contains("memory has a minimum byte size") {
        (format!("its memory is larger than any sandbox: {text}"), "raise engine.max_memory".into())
    } else if text.contains("has a minimum element size") {
        let most = format!("at most {MAX_TABLE_ELEMENTS} elements");
        (format!("its table is larger than that of any sandbox, {most}: {text}"), "split it into services".into())
    } else {
        (format!("it does not compile: {text}"), "rebuild it with a current toolchain".to_owned())
    };
    Refusal::new(file, reason, remedy)
}

/// What wasmtime's errors contain for WebAssembly features that the engine is built without, and the names of these.
const LACKING: [(&[&str], &str); 3] = [
    (&["gc proposal", "the gc feature", "gc support", "gc types are disallowed"], "garbage-collected types (WasmGC)"),
    (&["exceptions proposal"], "exceptions"),
    (&["threads support", "threads must be enabled"], "threads"),
];

/// The packages whose interfaces Lodge implements, or some versions of them.
const OWN: [&str; 8] = [
    "wasi:io",
    "wasi:clocks",
    "wasi:random",
    "wasi:filesystem",
    "wasi:sockets",
    "wasi:cli",
    "wasi:http",
    "wasi:logging",
];

/// Interfaces that other hosts implement, by the beginning of their names, with what Lodge lacks and the alternative.
const FOREIGN: &[(&[&str], &str, &str)] = &[
    (
        &["wasi:keyvalue/", "fermyon:spin/key-value", "spin:key-value/", "wasmcloud:keyvalue/"],
        "such version of this interface",
        "rebuild it with wasi:keyvalue@0.2.0-draft or -draft2, fermyon:spin/key-value@2.0.0, spin:key-value@3.0.0 or \
         wasmcloud:keyvalue@0.2.0, and grant it by `keyvalue = true` in its manifest",
    ),
    (
        &["wasi:config/", "fermyon:spin/variables", "fermyon:spin/config", "spin:variables/", "wasmcloud:secrets/"],
        "such version of this interface",
        "rebuild it with wasi:config/store@0.2.0-rc.1, fermyon:spin/variables@2.0.0, spin:variables@3.0.0 or \
         wasmcloud:secrets@2.1.0, and put the values under [config] in its manifest; or read environment variables, \
         which are under [env]",
    ),
    (
        &["wasi:blobstore/", "wasmcloud:blobstore/"],
        "such version of this interface",
        "rebuild it with wasi:blobstore@0.2.0-draft or wasmcloud:blobstore@0.1.0",
    ),
    (
        &["fermyon:spin/sqlite", "spin:sqlite/"],
        "such version of this interface",
        "rebuild it with an SDK that imports fermyon:spin/sqlite@2.0.0 or spin:sqlite@3, and grant a database by \
         `sqlite = true` in its manifest",
    ),
    (
        &["fermyon:spin/postgres", "fermyon:spin/rdbms", "spin:postgres/", "wasmcloud:postgres/"],
        "such version of this interface",
        "rebuild it with an SDK that imports fermyon:spin/postgres@2.0.0, spin:postgres@3.0.0 or spin:postgres@4 (4.0.0, 4.1.0 or \
         4.2.0), or with wasmcloud:postgres@0.2.0, and grant a database by [postgres] in its manifest",
    ),
    (
        &["wasi:sql/", "fermyon:spin/mysql", "spin:mysql/"],
        "SQL database",
        "reach the database by an HTTP API, which `http = [\"http://HOST:PORT\"]` in its manifest allows",
    ),
    (
        &["wasmcloud:messaging/"],
        "such version of the interface",
        "publish through wasmcloud:messaging/consumer@0.2.0 or 0.3.0 by `publish = [\"SUBJECT\"]` in its manifest, and receive by \
         [consume], as requests or by wasmcloud:messaging/handler@0.2.0 or 0.3.0",
    ),
    (
        &["lodge:lock/"],
        "such version of this interface",
        "rebuild it with lodge:lock@0.1.0, and grant locks by `lock = true` in its manifest",
    ),
    (
        &["wasi:messaging/", "wasmcloud:nats/", "fermyon:spin/redis", "fermyon:spin/mqtt", "spin:redis/", "spin:mqtt/"],
        "message broker",
        "send messages to an HTTP gateway, which `http = [\"http://HOST:PORT\"]` in its manifest lets it reach",
    ),
    (
        &["wasi:nn/", "wasi:webgpu/", "fermyon:spin/llm"],
        "model or GPU to offer",
        "call a model server, which `http = [\"http://HOST:PORT\"]` in its manifest lets it reach",
    ),
    (
        &["wasi:tls/"],
        "TLS for sockets",
        "send requests to https:// URLs, which `http = [\"https://HOST\"]` in its manifest allows: Lodge encrypts them",
    ),
    (&["wasi:otel/"], "such version of this interface", "rebuild it with an SDK that imports wasi:otel@0.2.0-rc.2"),
];

/// The import that the linker does not have, by wasmtime's error, which names it between backticks.
pub(super) fn missing(error: &str) -> Option<&str> {
    let name = error.split('`').nth(1).filter(|name| name.contains(':'));
    name.filter(|_| error.contains("was not found"))
}

/// What Lodge has instead of an interface of which it has this version with other types, for the developer of the guest.
pub(super) const OTHER_TYPES: &str =
    "Lodge has this version with other types, those of released SDKs; rebuild it with one of these";

/// How an import differs from what Lodge has, by wasmtime's error; `None` if Lodge does not have it. `is_linked` tells whether the
/// linker has something of it. It does not find another version that would do, of which the error tells as well.
pub(super) fn difference(error: &str, is_linked: bool) -> Option<&str> {
    let (_, causes) = error.split_once("was not found in the linker: ")?;
    (is_linked || !causes.ends_with("implementation is missing")).then_some(causes)
}

/// What Lodge has instead of an interface that it knows; `None` for interfaces of others.
pub(super) fn instead_of(import: &str) -> Option<String> {
    if let Some((lack, remedy)) = foreign(import) {
        return Some(format!("Lodge has no {lack}; {remedy}"));
    }
    let (name, version) = import.rsplit_once('@')?;
    let older = OWN.contains(&package_of(name)) && version.contains('-');
    older.then(|| "Lodge does not have this pre-release, only WASI 0.2 and 0.3".to_owned())
}

/// What Lodge lacks, and the alternative, if other hosts implement this interface.
fn foreign(import: &str) -> Option<(&'static str, &'static str)> {
    let is = |names: &[&str]| names.iter().any(|beginning| import.starts_with(beginning));
    FOREIGN.iter().find(|(names, ..)| is(names)).map(|(_, lack, remedy)| (*lack, *remedy))
}

fn package_of(interface: &str) -> &str {
    interface.split('/').next().unwrap_or_default()
}

/// The refusal of a component with an import that the linker does not have. `is_linked` tells whether it has something of an
/// interface.
pub(super) fn unlinkable(file: &str, error: &wasmtime::Error, is_linked: impl Fn(&str) -> bool) -> Refusal {
    let text = one_line(error);
    let Some(missing) = missing(&text) else {
        return Refusal::new(
            file,
            format!("it does not link: {text}"),
            "rebuild it against the WIT of WASI 0.2 or 0.3",
        );
    };
    if let Some(causes) = difference(&text, is_linked(missing)) {
        let reason =
            format!("it imports {missing} with other types than Lodge has, which are those of releases: {causes}");
        return Refusal::new(
            file,
            reason,
            "rebuild it with a released SDK, or against the released WIT of this version",
        );
    }
    let (name, version) = missing.rsplit_once('@').unwrap_or((missing, ""));
    if let Some((lack, remedy)) = foreign(missing) {
        return Refusal::new(file, format!("it imports {missing}, and Lodge has no {lack}"), remedy);
    }
    if !OWN.contains(&package_of(name)) {
        let remedy = "compose it with a component that exports this (`wac plug`), or build it without that import";
        return Refusal::new(file, format!("it imports {missing}, which Lodge does not have"), remedy);
    }
    let (kind, remedy) = if version.contains('-') {
        ("a pre-release that Lodge does not have", "rebuild it with a toolchain for WASI 0.2 or 0.3")
    } else {
        ("which Lodge does not have", "rebuild it against the WIT of WASI 0.2 or 0.3")
    };
    Refusal::new(file, format!("it imports {missing}, {kind}"), remedy)
}
