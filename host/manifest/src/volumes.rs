//! `[volumes]`: directories of the host that guests see.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::json;

use crate::schema;
use crate::section::{Capability, Owner, Section, Subject, View, words};
use crate::written::{Problems, Written};

/// The most volumes of a service.
const VOLUMES: usize = 16;

/// The most bytes of a path in the guest.
const PATH: usize = 255;

/// How a volume is written.
const FORM: &str = "write the path of a directory, or { path = \"PATH\", write = true }";

/// `[volumes]`.
pub(crate) const SECTION: Section = Section {
    name: "volumes",
    page: "files",
    schema: || {
        let write = schema::described(json!({ "type": "boolean", "default": false }), "whether guests may write to it");
        let path = schema::described(json!({ "type": "string" }), "the directory of the host");
        json!({
            "type": "object",
            "propertyNames": { "pattern": "^/" },
            "additionalProperties": {
                "anyOf": [
                    { "type": "string" },
                    {
                        "type": "object",
                        "properties": { "path": path, "write": write },
                        "required": ["path"],
                        "additionalProperties": false,
                    },
                ],
            },
        })
    },
    owner: Owner::All(|manifest, written, problems| manifest.volumes = read(written, problems)),
    subject: Subject::Execution,
    view: Some(View {
        label: "volumes",
        value: |manifest| {
            let shown = |(at, volume): (&String, &Volume)| {
                let access = if volume.write { "read and write" } else { "read" };
                (at.clone(), format!("{} ({access})", volume.path.display()))
            };
            let shown: BTreeMap<_, _> = manifest.volumes.iter().map(shown).collect();
            (!shown.is_empty()).then(|| json!(shown))
        },
        text: words,
    }),
    capability: Some(&Capability {
        what: "files",
        interfaces: &["wasi:filesystem/"],
        given: "imported by its runtime; none except [volumes] of its manifest",
        grant: Some("[volumes]\n# \"/data\" = \"data\"  # a directory of the host; read-only\n"),
    }),
};

/// A directory of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// Its path. A relative one begins at the directory of the manifest.
    pub path: PathBuf,
    /// Whether guests may change what is in it.
    pub write: bool,
}

fn read(written: &Written<'_>, problems: &mut Problems) -> BTreeMap<String, Volume> {
    let Some(keys) = written.table() else {
        problems.push(written.error("write a section [volumes], such as \"/data\" = \"data\""));
        return BTreeMap::new();
    };
    if keys.len() > VOLUMES {
        problems.push(written.error(format!("{} volumes are more than {VOLUMES}", keys.len())));
    }
    let mut volumes = BTreeMap::new();
    for key in &keys {
        let at = key.inside(written);
        if !is_path(at) {
            let form = "a guest sees a volume at a path such as \"/data\", without `.`, `..` and a `/` at its end";
            problems.push(key.error(form));
        } else if let Some(volume) = volume(key, problems) {
            volumes.insert(at.to_owned(), volume);
        }
    }
    volumes
}

/// Whether guests can have a directory at this path.
fn is_path(at: &str) -> bool {
    let part = |part: &str| !matches!(part, "" | "." | "..") && !part.contains('\0');
    at.len() <= PATH && at.strip_prefix('/').is_some_and(|rest| rest.is_empty() || rest.split('/').all(part))
}

fn volume(key: &Written<'_>, problems: &mut Problems) -> Option<Volume> {
    let path = |written: &Written<'_>| {
        let text = written.string(FORM)?;
        let sound = !text.is_empty() && !text.contains('\0');
        sound.then(|| PathBuf::from(text)).ok_or_else(|| written.error(FORM))
    };
    let Some(parts) = key.item() else {
        return Some(Volume { path: problems.take(path(key))?, write: false });
    };
    let (mut of, mut write) = (None, false);
    for part in &parts {
        match part.name.as_str() {
            "path" => of = Some(problems.take(path(part))?),
            "write" => write = problems.take(part.boolean())?,
            _ => {
                problems.push(part.unknown("", &["path", "write"]));
                return None;
            }
        }
    }
    let of = of.ok_or_else(|| key.error("`path` is missing"));
    Some(Volume { path: problems.take(of)?, write })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::read as manifest;

    #[test]
    fn forms() {
        let volumes = |text: &str| manifest(text).map(|manifest| manifest.volumes);
        let volume = |at: &str, path: &str, write| (at.to_owned(), Volume { path: path.into(), write });
        assert_eq!(volumes(""), Ok(BTreeMap::new()));
        let text =
            "[volumes]\n'/site' = 'site'\n'/' = '/srv/all'\n'/a/b' = { path = 'x', write = true }\n'/c'.path = 'y'";
        let all = [
            volume("/", "/srv/all", false),
            volume("/a/b", "x", true),
            volume("/c", "y", false),
            volume("/site", "site", false),
        ];
        assert_eq!(volumes(text), Ok(all.into()));
    }

    #[test]
    fn problems_name_the_volume() {
        let problem = |text: &str| manifest(text).unwrap_err();
        assert!(problem("volumes = 'data'").contains("write a section [volumes]"));
        for at in ["data", "", "/data/", "//", "/./a", "/a/../b", &format!("/{}", "x".repeat(255))] {
            let text = problem(&format!("[volumes]\n'{at}' = 'data'"));
            assert!(text.contains("a guest sees a volume at a path such as"), "{at}: {text}");
        }
        for value in ["7", "''", "{ write = true }", "{ path = 'a', writ = true }", "{ path = 'a', write = 'yes' }"] {
            let text = problem(&format!("[volumes]\n'/data' = {value}"));
            assert!(text.starts_with("line 2: "), "{value}: {text}");
        }
        let many: String = (0..17).map(|number| format!("'/{number}' = 'data'\n")).collect();
        assert!(problem(&format!("[volumes]\n{many}")).contains("17 volumes are more than 16"));
    }
}
