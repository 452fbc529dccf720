//! What the engine says of a component that cannot be served, in words that help.

use super::super::load::Refusal;
use crate::error::RequestError;

/// Which of the two HTTP worlds a component exports.
#[derive(Clone, Copy)]
pub(super) enum Handler {
    P2,
    P3,
}

/// The world that these exports belong to.
///
/// # Errors
/// When that is none that Lodge serves.
pub(super) fn handler_of(exports: &[String], file: &str) -> Result<Handler, Refusal> {
    let version = |interface: &str| {
        exports.iter().find_map(|export| export.strip_prefix(interface)?.strip_prefix('@').map(str::to_owned))
    };
    let (new, old) = (version("wasi:http/handler"), version("wasi:http/incoming-handler"));
    match (new.as_deref(), old.as_deref()) {
        (Some(new), _) if is_final(new, "0.3.") => Ok(Handler::P3),
        (_, Some(old)) if is_final(old, "0.2.") => Ok(Handler::P2),
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

pub(super) fn misshapen(file: &str, detail: &str) -> Refusal {
    let reason = format!("its wasi:http export has another shape than the standard's: {detail}");
    Refusal::new(file, reason, "rebuild it against the WIT of wasi:http 0.2 or 0.3")
}

/// A version whose own check says no may only be waiting for something.
pub(super) fn unready(file: &str, path: &str, why: &str) -> Refusal {
    let reason = format!("it is not ready: GET {path} answers {why}");
    Refusal::new(file, reason, "it will be asked again; see what it logs").passing()
}

pub(super) fn unstartable(file: &str, error: &RequestError) -> Refusal {
    let detail = error.detail().unwrap_or_default();
    if matches!(error, RequestError::QueueFull) {
        return Refusal::new(file, "there was no sandbox free to try it in", "it will be tried again").passing();
    }
    // The types of the handler are only compared when it is looked up in an instance.
    if detail.contains("type mismatch") || detail.contains("expected `") {
        return misshapen(file, &detail);
    }
    let reason = format!("it does not start: {error}{}{detail}", if detail.is_empty() { "" } else { ": " });
    Refusal::new(file, reason, "its start code must finish within limits.cpu, limits.wall and limits.memory")
}

/// wasmtime names what is missing between backticks; say what that means here.
pub(super) fn unlinkable(file: &str, error: &wasmtime::Error) -> Refusal {
    let text = one_line(error);
    let missing = text.split('`').nth(1).unwrap_or_default();
    let version = missing.rsplit_once('@').map_or("", |(_, version)| version);
    if missing.starts_with("wasi:") && version.contains('-') {
        let reason = format!("it imports {missing}, a pre-release that Lodge does not have");
        return Refusal::new(file, reason, "rebuild it with a toolchain for WASI 0.2 or 0.3");
    }
    if missing.contains(':') && text.contains("was not found") {
        return Refusal::new(
            file,
            format!("it imports {missing}, which Lodge does not have"),
            "build it without that import",
        );
    }
    Refusal::new(file, format!("it does not link: {text}"), "rebuild it against the WIT of WASI 0.2 or 0.3")
}

/// An error and its causes.
pub(super) fn one_line(error: &wasmtime::Error) -> String {
    format!("{error:#}").split_whitespace().collect::<Vec<_>>().join(" ")
}
