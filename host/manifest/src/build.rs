//! `[build]`: how `lodge dev` builds a guest that is not a Rust crate.

use serde_json::json;
use toml::de::DeTable;

use crate::schema;
use crate::section::{Owner, Section};
use crate::written::{Problems, Written};

const KEYS: [&str; 2] = ["command", "directory"];

/// `[build]`.
pub(crate) const SECTION: Section = Section {
    name: "build",
    schema: || {
        let text = json!({ "type": "string" });
        let build = schema::table(&KEYS, json!({ "command": text, "directory": text }));
        let help = "how `lodge dev` builds a guest that is not a Rust crate: a shell command, and its directory";
        schema::described(build, help)
    },
    // Only `lodge dev` uses it, through `Build::of`.
    owner: Owner::All(|_, written, problems| drop(Build::read(written, problems))),
    ..Section::DEFAULT
};

/// The build of a guest that is not a Rust crate.
pub struct Build {
    /// The shell command. It must write the component beside the manifest.
    pub command: String,
    /// The working directory of the command, beside the manifest. Changes in it start a build.
    pub directory: String,
}

impl Build {
    /// Returns the `[build]` section of a manifest, if there is a valid one.
    pub fn of(text: &str) -> Option<Self> {
        let document = DeTable::parse(text).ok()?;
        let keys = Written::keys(text, document.get_ref(), "");
        let build = keys.iter().find(|key| key.name == SECTION.name)?;
        Self::read(build, &mut Problems::default())
    }

    fn read(written: &Written<'_>, problems: &mut Problems) -> Option<Self> {
        let keys = written.section(&KEYS, problems)?;
        let mut value = |name: &str| {
            let key = keys.iter().find(|key| key.inside(written) == name);
            let missing = || written.at(format!("build.{name} is missing"));
            let text = key.ok_or_else(missing).and_then(|key| key.string("write text, between quotes"));
            problems.take(text).map(str::to_owned)
        };
        let (command, directory) = (value("command"), value("directory"));
        Some(Self { command: command?, directory: directory? })
    }
}
