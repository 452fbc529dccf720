//! Keys of `admin_keys` that do less than it seems, which a host tells when it starts.

use std::path::Path;
use std::time::SystemTime;

use super::access::{OPERATOR_SCOPES, is_operator_scope};
use lodge_base::config::key::nearest;
use lodge_base::files;
use lodge_traffic::auth::api_keys::{KeyEntry, KeyFile, MOST_BYTES};

/// The most lines of the log.
const MOST_DOUBTS: usize = 20;

/// Returns what is to be said of keys of a file that do less than its author may think, for a host that starts.
pub fn questionable(file: &Path, now: SystemTime) -> Vec<String> {
    let Ok(text) = files::read_text(file, MOST_BYTES) else { return Vec::new() };
    let Ok(KeyFile { keys }) = KeyFile::read(&text) else { return Vec::new() };
    let said = keys.iter().zip(KeyFile::lines(&text)).flat_map(|(key, line)| {
        let why = doubts(key, now);
        why.into_iter()
            .map(move |why| format!("admin_keys: {} line {line}: the key {} {why}", file.display(), key.name))
    });
    said.take(MOST_DOUBTS).collect()
}

/// Returns what a key of `admin_keys` does not do.
fn doubts(key: &KeyEntry, now: SystemTime) -> Vec<String> {
    let mut doubts = Vec::new();
    if key.password.is_some() {
        doubts.push("is a password, with which nobody can use the API".to_owned());
    } else if key.scopes.is_empty() {
        doubts.push(format!("has no scopes, so it may do nothing; its scopes may be {}", OPERATOR_SCOPES.join(", ")));
    }
    for scope in key.scopes.iter().filter(|scope| !is_operator_scope(scope)) {
        let near = nearest(scope.split(':').next().unwrap_or_default(), OPERATOR_SCOPES.into_iter());
        let hint = near.map_or(String::new(), |near| format!("; did you mean `{near}`?"));
        doubts.push(format!("has the scope `{scope}`, which grants nothing here{hint}"));
    }
    if key.is_expired(now) {
        doubts.push("has expired".into());
    }
    doubts
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A key that does nothing is told with its line.
    #[test]
    fn keys_without_effect_are_told() {
        let directory = tempfile::tempdir().unwrap();
        let (path, now) = (directory.path().join("admin.keys"), SystemTime::now());
        let mut file = KeyFile::default();
        let scopes = |scopes: &[&str]| scopes.iter().map(|scope| (*scope).to_owned()).collect();
        for (name, scopes, expires) in [
            ("good", scopes(&["read", "deploy:users"]), None),
            ("none", Vec::new(), None),
            ("wrong", scopes(&["read", "deplyo:users", "*"]), None),
            ("old", scopes(&["read"]), Some("2020-01-01T00:00:00Z".to_owned())),
        ] {
            file.create(KeyEntry { name: name.into(), scopes, expires, ..KeyEntry::default() }).unwrap();
        }
        std::fs::write(&path, file.text()).unwrap();
        let said = questionable(&path, now);
        let line = |name: &str| file.text().lines().position(|line| line == format!("name = \"{name}\"")).unwrap() + 1;
        let starts = |name: &str| format!("admin_keys: {} line {}: the key {name} has ", path.display(), line(name));
        for (said, (name, end)) in said.iter().zip([
            ("none", "no scopes, so it may do nothing; its scopes may be read, operate, data, deploy"),
            ("wrong", "the scope `deplyo:users`, which grants nothing here; did you mean `deploy`?"),
            ("wrong", "the scope `*`, which grants nothing here"),
            ("old", "expired"),
        ]) {
            assert_eq!(*said, starts(name) + end);
        }
        assert_eq!(said.len(), 4, "{said:?}");
        assert_eq!(questionable(&directory.path().join("missing"), now), Vec::<String>::new());
    }
}
