//! Explains a component's imports: the capability, whether it is granted, and which manifest keys grant it.

use std::fmt;

use serde::Serialize;

/// A capability that a component imports.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct CapabilityUse {
    /// The capability.
    what: String,
    /// Whether and how it is granted.
    given: &'static str,
}

/// A kind of import.
struct Capability {
    what: &'static str,
    /// Prefixes of the interface names.
    interfaces: &'static [&'static str],
    given: &'static str,
    /// The manifest lines that grant it.
    grant: Option<&'static str>,
}

/// Agrees with [`capabilities`](lodge_runtime::capabilities).
const CAPABILITIES: [Capability; 10] = [
    Capability {
        what: "outgoing HTTP",
        interfaces: &["wasi:http/outgoing-handler", "wasi:http/client"],
        given: "imported; denied except what `calls` and `http` of its manifest allow",
        grant: Some(
            "# calls = [\"users\"]                    # services of the same host\n# http = [\"https://api.example.com\"]  # origins of the world\n",
        ),
    },
    Capability {
        what: "sockets",
        interfaces: &["wasi:sockets/"],
        given: "imported by its runtime; denied, and no manifest can grant them yet",
        grant: None,
    },
    Capability {
        what: "files",
        interfaces: &["wasi:filesystem/"],
        given: "imported by its runtime; none exist, and no manifest can grant any yet",
        grant: None,
    },
    Capability {
        what: "environment",
        interfaces: &["wasi:cli/environment"],
        given: "imported by its runtime; empty except [env] of its manifest",
        grant: Some("[env]\n# GREETING = \"hi\"\n"),
    },
    Capability { what: "stdin", interfaces: &["wasi:cli/stdin"], given: "imported by its runtime; empty", grant: None },
    Capability {
        what: "stdout and stderr",
        interfaces: &["wasi:cli/stdout", "wasi:cli/stderr"],
        given: "granted: they become log lines",
        grant: None,
    },
    Capability {
        what: "log messages",
        interfaces: &["wasi:logging/logging"],
        given: "granted: they become log lines",
        grant: None,
    },
    Capability { what: "clocks", interfaces: &["wasi:clocks/"], given: "granted", grant: None },
    Capability { what: "random numbers", interfaces: &["wasi:random/"], given: "granted", grant: None },
    // Interfaces that others are built on.
    Capability {
        what: "",
        interfaces: &["wasi:io/", "wasi:cli/", "wasi:http/types", "wasi:http/handler"],
        given: "",
        grant: None,
    },
];

impl Capability {
    fn matches(&self, import: &str) -> bool {
        self.interfaces.iter().any(|interface| {
            let rest = import.strip_prefix(interface);
            rest.is_some_and(|rest| interface.ends_with('/') || rest.is_empty() || rest.starts_with('@'))
        })
    }
}

/// Returns the capabilities of these imports, each once, followed by the imports that Lodge does not have.
pub(super) fn of(imports: &[String]) -> Vec<CapabilityUse> {
    let known = CAPABILITIES.iter().filter(|capability| !capability.what.is_empty());
    let known = known.filter(|capability| imports.iter().any(|import| capability.matches(import)));
    let mut asks: Vec<_> =
        known.map(|capability| CapabilityUse { what: capability.what.into(), given: capability.given }).collect();
    let foreign = imports.iter().filter(|import| !CAPABILITIES.iter().any(|capability| capability.matches(import)));
    asks.extend(
        foreign.map(|import| CapabilityUse { what: import.clone(), given: "imported, but Lodge does not have it" }),
    );
    asks
}

/// Returns a manifest for the service `name` with the keys that apply to these imports.
pub(super) fn manifest(name: &str, imports: &[String]) -> String {
    let routes = format!("routes = [{}]", toml::Value::String(format!("/{name}")));
    let mut text = format!(
        "{routes}\nisolation = \"request\"  # \"service\" reuses instances: several, each with its own memory\n"
    );
    let asked = |capability: &&Capability| imports.iter().any(|import| capability.matches(import));
    for grant in CAPABILITIES.iter().filter(asked).filter_map(|capability| capability.grant) {
        text.push_str(&format!("\n{grant}"));
    }
    text
}

impl fmt::Display for CapabilityUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.given)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lodge_base::config;
    use lodge_manifest::Manifest;

    fn imports(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn imports_in_words() {
        let names = [
            "wasi:io/streams@0.2.12",
            "wasi:http/types@0.2.12",
            "wasi:filesystem/types@0.2.12",
            "wasi:filesystem/preopens@0.2.12",
            "wasi:http/client@0.3.0",
            "wasi:clocks/wall-clock@0.2.12",
            "wasi:http/clients",
            "acme:queue/push@1.0.0",
        ];
        let asks: Vec<_> = of(&imports(&names)).into_iter().map(|ask| ask.what).collect();
        assert_eq!(asks, ["outgoing HTTP", "files", "clocks", "wasi:http/clients", "acme:queue/push@1.0.0"]);
    }

    /// The suggested manifests are valid, whatever the file is called.
    #[test]
    fn proposals_are_manifests() {
        let limits = config::resolve(&[]).unwrap().config.limits;
        let read = |text: &str| Manifest::read("x", text, &limits, 1 << 30);
        let text = manifest("users", &imports(&["wasi:cli/environment@0.2.3"]));
        assert!(text.contains("[env]") && read(&text).is_ok(), "{text}");
        let uncommented = text.replace("# GREETING", "GREETING");
        assert_eq!(read(&uncommented).unwrap().env, [("GREETING".to_owned(), "hi".to_owned())]);
        assert!(!manifest("users", &[]).contains("[env]"));
        assert!(toml::from_str::<toml::Table>(&manifest("a\"b\n", &[])).is_ok());
    }
}
