//! The sections about the component: `enabled`, `component`, `digest` and `ready`.

use serde_json::json;

use crate::Manifest;
use crate::digest::Digest;
use crate::reference::{Reference, SCHEME};
use crate::schema;
use crate::section::{Owner, Section, Subject, View, words};
use crate::target;
use crate::written::{Problems, Written};

/// Where a component is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ComponentSource {
    /// In the directory, under this name.
    File(String),
    /// In a registry.
    Registry(Reference),
}

impl ComponentSource {
    /// Returns the reference of a component in a registry.
    pub fn reference(&self) -> Option<&Reference> {
        match self {
            Self::Registry(reference) => Some(reference),
            Self::File(_) => None,
        }
    }
}

/// `enabled`.
pub(crate) const ENABLED: Section = Section {
    name: "enabled",
    schema: || json!({ "type": "boolean", "default": true, "description": "whether the service is served" }),
    owner: Owner::All(|manifest, enabled, problems| {
        manifest.enabled = problems.take(enabled.boolean()).unwrap_or(true);
    }),
    ..Section::DEFAULT
};

/// `component`.
pub(crate) const COMPONENT: Section = Section {
    name: "component",
    schema: || {
        json!({
            "type": "string",
            "pattern": "^([^/\\\\]+\\.wasm|oci://[^/]+/.+)$",
            "description": "file of the component, in the same directory, or its reference in a registry; the default is the \
                            manifest's own name",
        })
    },
    owner: Owner::All(component),
    subject: Subject::File,
    view: Some(View {
        label: "component",
        value: |manifest| Some(json!([manifest.component.as_ref()?.reference()?.to_string()])),
        text: words,
    }),
    ..Section::DEFAULT
};

/// `digest`.
pub(crate) const DIGEST: Section = Section {
    name: "digest",
    schema: || {
        json!({
            "type": "string",
            "pattern": "^sha256:[0-9a-fA-F]{64}$",
            "description": "the SHA-256 of the component",
        })
    },
    owner: Owner::All(digest),
    subject: Subject::File,
    ..Section::DEFAULT
};

/// `ready`.
pub(crate) const READY: Section = Section {
    name: "ready",
    schema: || {
        let ready = schema::table(&["path"], json!({ "path": schema::path() }));
        schema::described(ready, "a path that must respond with 2xx before a version is served")
    },
    owner: Owner::All(ready),
    subject: Subject::Execution,
    ..Section::DEFAULT
};

fn component(manifest: &mut Manifest, written: &Written<'_>, problems: &mut Problems) {
    const FORM: &str =
        "write the name of a file, like \"other.wasm\", or a reference, like \"oci://registry.example/users:1.4\"";
    let read = written.string(FORM).and_then(|text| match text {
        _ if text.starts_with(SCHEME) => {
            Reference::read(text).map(ComponentSource::Registry).map_err(|problem| written.error(problem))
        }
        _ if text.contains("://") || text.starts_with("oci:") => {
            Err(written.error(format!("`{text}` is neither a file nor a reference; {FORM}")))
        }
        _ if text.contains(['/', '\\']) || !text.ends_with(".wasm") => {
            Err(written.error(format!("`{text}` must be the name of a .wasm file in the same directory")))
        }
        _ => Ok(ComponentSource::File(text.to_owned())),
    });
    manifest.component = problems.take(read);
}

fn digest(manifest: &mut Manifest, written: &Written<'_>, problems: &mut Problems) {
    const FORM: &str = "write \"sha256:\" and 64 hexadecimal digits";
    let read = written.string(FORM).and_then(|text| {
        let digest = text.strip_prefix("sha256:").and_then(Digest::read);
        digest.ok_or_else(|| written.error(format!("`{text}` is not a digest; {FORM}")))
    });
    manifest.digest = problems.take(read);
}

fn ready(manifest: &mut Manifest, written: &Written<'_>, problems: &mut Problems) {
    let Some(keys) = written.table() else {
        return problems.push(written.error("write ready.path = \"/health\""));
    };
    for key in &keys {
        if key.name != "ready.path" {
            problems.push(key.unknown("ready", &["path"]));
            continue;
        }
        let path = key.string("write a path, like \"/health\"").and_then(|path| {
            target::check(path, "\"/health\"").map_err(|wrong| key.error(wrong))?;
            Ok(path.to_owned())
        });
        manifest.ready = problems.take(path);
    }
    if !written.has("path") {
        problems.push(written.at("ready.path is missing; write it like \"/health\""));
    }
}
