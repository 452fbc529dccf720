//! `[trust]`: the keys by one of which components must be signed.

use std::fmt;
use std::path::PathBuf;

use super::key::Key;
use super::keys::words;

/// The most files of keys.
const MOST_FILES: usize = 64;

/// The signatures that components must have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trust {
    /// Files with public keys. Without any, components need no signature.
    pub keys: Vec<TrustedFile>,
}

/// A file with public keys, and the services whose components they may sign.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustedFile {
    /// The services.
    pub services: NamePattern,
    /// The file.
    pub path: PathBuf,
}

/// Names of services: one name or, with `*` at its end, all that begin so.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NamePattern(String);

/// Every setting, in the order of the docs.
pub(super) const KEYS: &[Key<Trust>] = &[Key {
    name: "keys",
    default: "",
    help: "files with public keys (PEM), comma-separated, by one of which components must be signed; read again when they change; `team-a-*=FILE` for services with such names only",
    set: |c, text| {
        c.keys = words(text).map(key_file).collect::<Result<_, _>>()?;
        if c.keys.len() > MOST_FILES { Err(format!("more than {MOST_FILES} files")) } else { Ok(()) }
    },
}];

fn key_file(text: &str) -> Result<TrustedFile, String> {
    // A path with `=` in it can be written with a `./` before it.
    let (services, path) = match text.split_once('=') {
        Some((services, path)) if !services.contains(['/', '.']) => (services.trim(), path.trim()),
        _ => ("*", text),
    };
    if path.is_empty() {
        return Err(format!("`{text}` names no file"));
    }
    let services = NamePattern::read(services).ok_or_else(|| {
        format!("`{services}` is not the name of a service, nor the beginning of some; write it like team-a-*={path}")
    })?;
    Ok(TrustedFile { services, path: path.into() })
}

impl NamePattern {
    /// Reads a pattern; `None` if no service can have such a name.
    pub fn read(text: &str) -> Option<Self> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        let name = text.strip_suffix('*').unwrap_or(text);
        (!text.is_empty() && name.len() <= 63 && name.bytes().all(plain)).then(|| Self(text.to_owned()))
    }

    /// Whether a service has such a name.
    pub fn matches(&self, service: &str) -> bool {
        self.0.strip_suffix('*').map_or(self.0 == service, |start| service.starts_with(start))
    }
}

impl fmt::Display for NamePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<(String, String)>, String> {
        let files: Result<Vec<_>, _> = words(text).map(key_file).collect();
        Ok(files?.iter().map(|file| (file.services.to_string(), file.path.display().to_string())).collect())
    }

    #[test]
    fn files_and_the_services_that_they_are_for() {
        let expected = [("*", "release.pub"), ("team-a-*", "a.pub"), ("users", "u=1.pub"), ("*", "./b=c.pub")];
        let expected: Vec<_> = expected.map(|(services, path)| (services.to_owned(), path.to_owned())).into();
        assert_eq!(read("release.pub, team-a-* = a.pub,users=u=1.pub, ./b=c.pub").as_ref(), Ok(&expected));
        for wrong in ["=a.pub", "a*b=c.pub", "users=", "us ers=a.pub", "**=a.pub"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
        let of = |pattern: &str, name: &str| NamePattern::read(pattern).is_some_and(|pattern| pattern.matches(name));
        for (pattern, name, matches) in [
            ("*", "users", true),
            ("team-a-*", "team-a-users", true),
            ("team-a-*", "team-a", false),
            ("team-a-*", "team-b-users", false),
            ("users", "users", true),
            ("users", "users2", false),
        ] {
            assert_eq!(of(pattern, name), matches, "{pattern} {name}");
        }
    }

    /// A value that names no file is no way to ask for no signatures.
    #[test]
    fn keys_that_are_set_and_name_no_file() {
        use super::super::{Origin, read_file, resolve};
        let value = |text: &str| [("trust.keys".to_owned(), text.to_owned())].into();
        let file = |text: &str| (Origin::File, read_file(text).unwrap());
        for source in [
            (Origin::Environment, value("")),
            (Origin::Flag, value(" , ")),
            file("[trust]"),
            file("[trust]\nkeys = []"),
            file("trust.keys = ''"),
        ] {
            let problems = resolve(&[source]).unwrap_err();
            assert!(problems.len() == 1 && problems[0].contains("it names no file"), "{problems:?}");
        }
        assert!(resolve(&[file("[trust]\nkeys = ['a.pub']")]).is_ok() && resolve(&[]).is_ok());
    }
}
