//! Explains a component's imports: the capability, whether it is granted, and which manifest keys grant it.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;
use serde_json::Value;

use lodge_manifest::section::{Capability, SECTIONS};
use lodge_runtime::compile::{Interfaces, imports_whole_world};

/// A capability that a component imports.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct CapabilityUse {
    /// The capability.
    what: String,
    /// Whether and how it is granted.
    given: Cow<'static, str>,
}

/// Capabilities that no section of a manifest grants. With those of the sections they agree with
/// [`capabilities`](lodge_runtime::capabilities).
const UNGRANTED: [Capability; 8] = [
    Capability {
        what: "sockets",
        interfaces: &["wasi:sockets/"],
        given: "imported by its runtime; denied, and no manifest can grant them yet",
        grant: None,
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
    Capability {
        what: "telemetry",
        interfaces: &["wasi:otel/"],
        given: "granted: spans join the request's trace, log records become log lines, metrics are dropped",
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

/// Returns every capability: those that sections grant, each once, then the others.
fn capabilities() -> impl Iterator<Item = &'static Capability> {
    let of_section = |number: usize| SECTIONS.get(number).and_then(|section| section.capability);
    let is_new = move |(number, capability): &(usize, &Capability)| {
        !(0..*number).any(|before| of_section(before).is_some_and(|before| before.what == capability.what))
    };
    let granted = (0..SECTIONS.len()).filter_map(move |number| Some((number, of_section(number)?)));
    granted.filter(is_new).map(|(_, capability)| capability).chain(&UNGRANTED)
}

/// Whether the import is an interface of the capability.
fn matches(capability: &Capability, import: &str) -> bool {
    capability.interfaces.iter().any(|interface| {
        let rest = import.strip_prefix(interface);
        rest.is_some_and(|rest| interface.ends_with('/') || rest.is_empty() || rest.starts_with('@'))
    })
}

/// Returns how a capability is given to a component whose manifest has these `sections`.
fn given(capability: &Capability, sections: &BTreeMap<String, Value>) -> Cow<'static, str> {
    let grants = SECTIONS.iter().filter(|section| {
        let what = section.capability.is_some_and(|granted| granted.what == capability.what);
        what && sections.contains_key(section.name)
    });
    let names: Vec<_> = grants.map(|section| format!("`{}`", section.name)).collect();
    if names.is_empty() { capability.given.into() } else { format!("granted by {}", names.join(" and ")).into() }
}

/// Returns the capabilities of these imports, each once, followed by the imports that Lodge does not have. `sections` are those of
/// the manifest.
pub(super) fn of(imports: &[String], sections: &BTreeMap<String, Value>) -> Vec<CapabilityUse> {
    let known = capabilities().filter(|capability| !capability.what.is_empty());
    let known = known.filter(|capability| imports.iter().any(|import| matches(capability, import)));
    let mut asks: Vec<_> = known
        .map(|capability| CapabilityUse { what: capability.what.into(), given: given(capability, sections) })
        .collect();
    let foreign = imports.iter().filter(|import| !capabilities().any(|capability| matches(capability, import)));
    let given = if imports_whole_world(imports) {
        "imported with the whole world of an SDK; Lodge does not have it, and calls of it fail"
    } else {
        "imported, but Lodge does not have it"
    };
    asks.extend(foreign.map(|import| CapabilityUse { what: import.clone(), given: given.into() }));
    asks
}

/// Whether any of these interfaces has this name, in whatever version.
fn has(interfaces: &[String], name: &str) -> bool {
    interfaces.iter().any(|of| of.strip_prefix(name).is_some_and(|rest| rest.starts_with('@')))
}

/// Whether a component passes requests on, as only those do that are in front of a service.
pub(super) fn is_middleware(interfaces: &Interfaces) -> bool {
    [&interfaces.imports, &interfaces.exports].iter().all(|of| has(of, "wasi:http/handler"))
}

/// Returns a manifest for the service `name` with the keys that apply to these interfaces; for a middleware, the key of the services
/// that it is to be in front of.
pub(super) fn manifest(name: &str, interfaces: &Interfaces) -> String {
    let Interfaces { imports, exports, .. } = interfaces;
    if is_middleware(interfaces) {
        return format!("middleware = [{}]\n", toml::Value::String(format!("middleware/{name}.wasm")));
    }
    let mut text = String::new();
    let receives = has(exports, "wasmcloud:messaging/handler");
    if !receives || has(exports, "wasi:http/handler") || has(exports, "wasi:http/incoming-handler") {
        text.push_str(&format!("routes = [{}]\n", toml::Value::String(format!("/{name}"))));
    }
    text.push_str("isolation = \"request\"  # \"service\" reuses instances: several, each with its own memory\n");
    let asked = |capability: &&Capability| imports.iter().any(|import| matches(capability, import));
    for grant in capabilities().filter(asked).filter_map(|capability| capability.grant) {
        text.push_str(&format!("\n{grant}"));
    }
    if receives {
        let subject = "subject = \"orders.*\"  # the messages that it receives: one subject, or a list";
        text.push_str(&format!(
            "\n[consume]  # without it, it gets none\n{subject}\n# max_deliver = 10\n# dead_letter = \"dead.orders\"\n"
        ));
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
    fn formats_imports() {
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
        let asks: Vec<_> = of(&imports(&names), &BTreeMap::new()).into_iter().map(|ask| ask.what).collect();
        assert_eq!(asks, ["outgoing HTTP", "files", "clocks", "wasi:http/clients", "acme:queue/push@1.0.0"]);
    }

    /// What the manifest grants is not called denied.
    #[test]
    fn grants_of_the_manifest_are_shown() {
        let limits = config::resolve(&[]).unwrap().config.limits;
        let names = imports(&[
            "wasi:keyvalue/store@0.2.0-draft2",
            "wasi:http/outgoing-handler@0.2.0",
            "lodge:lock/locks@0.1.0",
        ]);
        let text = "keyvalue = true\ncalls = ['users']\nhttp = ['https://example.com']";
        let sections = lodge_manifest::section::views(&Manifest::read("x", text, &limits, 1 << 30).unwrap());
        let lines: Vec<_> = of(&names, &sections).iter().map(ToString::to_string).collect();
        let has = |line: &str| assert!(lines.iter().any(|found| found.contains(line)), "{line}: {lines:?}");
        has("granted by `keyvalue`");
        has("outgoing HTTP: granted by `calls` and `http`");
        has("denied unless its manifest has [lock]");
    }

    /// The suggested manifests are valid, whatever the file is called.
    #[test]
    fn proposed_manifests_are_valid() {
        let limits = config::resolve(&[]).unwrap().config.limits;
        let read = |text: &str| Manifest::read("x", text, &limits, 1 << 30);
        let with = |of: &[&str], exports: &[&str]| Interfaces {
            imports: imports(of),
            exports: imports(exports),
            ..Interfaces::default()
        };
        let text = manifest("users", &with(&["wasi:cli/environment@0.2.3"], &["wasi:http/incoming-handler@0.2.3"]));
        assert!(text.contains("[env]") && text.contains("routes") && read(&text).is_ok(), "{text}");
        let uncommented = text.replace("# GREETING", "GREETING");
        assert_eq!(read(&uncommented).unwrap().env["GREETING"].text(), Some("hi"));
        assert!(!manifest("users", &with(&[], &[])).contains("[env]"));
        assert!(toml::from_str::<toml::Table>(&manifest("a\"b\n", &with(&[], &[]))).is_ok());
        // One that receives messages, also with grants of its own, and one that is in front of others.
        let publishes = ["wasmcloud:messaging/consumer@0.2.0"];
        let text = manifest("mail", &with(&publishes, &["wasmcloud:messaging/handler@0.2.0"]));
        let mail = read(&text).unwrap();
        assert_eq!(mail.consume.unwrap().subjects, ["orders.*"], "{text}");
        assert!(!text.contains("routes"), "{text}");
        assert!(
            read(&text.replace("# dead", "dead").replace("# max", "max").replace("# publish", "publish")).is_ok(),
            "{text}"
        );
        let both = manifest("mail", &with(&[], &["wasmcloud:messaging/handler@0.3.0", "wasi:http/handler@0.3.2"]));
        assert!(both.contains("routes = [\"/mail\"]") && read(&both).is_ok(), "{both}");
        let gate = manifest("gate", &with(&["wasi:http/handler@0.3.2"], &["wasi:http/handler@0.3.2"]));
        assert_eq!(gate, "middleware = [\"middleware/gate.wasm\"]\n");
        assert!(read(&gate).is_ok());
    }
}
