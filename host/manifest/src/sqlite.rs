//! `[sqlite]`: the SQL databases of a service.

use std::time::Duration;

use serde_json::{Value, json};

use crate::schema;
use crate::section::{Capability, Owner, Section, Subject, View, words};
use crate::written::{Problems, Written, with_defaults};
use lodge_base::config::key::{Key, duration, size};

/// The database without `databases`.
const DEFAULT: &str = "default";

/// The most databases of a service.
const DATABASES: usize = 16;

/// The most bytes of a database's name.
const NAME: usize = 64;

/// The bounds of the quota of a database.
const QUOTA: std::ops::RangeInclusive<usize> = 64 << 10..=1 << 40;

/// The bounds of the time of a statement.
const TIMEOUT: std::ops::RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(60 * 60);

/// The keys with one value.
const KEYS: &[Key<SqliteGrant>] = &[
    Key {
        name: "bytes",
        default: "256MiB",
        help: "the most bytes of the file of each database",
        set: |grant, text| size(text, QUOTA).map(|bytes| grant.bytes = bytes as u64),
    },
    Key {
        name: "timeout",
        default: "5s",
        help: "the longest time that a statement may take",
        set: |grant, text| duration(text, TIMEOUT).map(|timeout| grant.timeout = timeout),
    },
];

/// `[sqlite]`.
pub(crate) const SECTION: Section = Section {
    name: "sqlite",
    page: "sql",
    schema: || {
        let mut table = schema::settings(KEYS, &blank(), &[]);
        if let Some(properties) = table.get_mut("properties").and_then(Value::as_object_mut) {
            let names = schema::described(schema::texts(json!({ "type": "string" })), "the databases, one or a list");
            properties.insert("databases".into(), names);
        }
        json!({ "anyOf": [{ "const": true }, table] })
    },
    owner: Owner::Service(|manifest, written, problems| manifest.sqlite = read(written, problems)),
    subject: Subject::Execution,
    view: Some(View {
        label: "sqlite",
        value: |manifest| {
            let grant = manifest.sqlite.as_ref()?;
            let bytes = bytesize::ByteSize(grant.bytes).display().iec().to_string();
            let timeout = humantime::format_duration(grant.timeout).to_string();
            Some(json!({ "databases": grant.databases, "bytes": bytes, "timeout": timeout }))
        },
        text: words,
    }),
    capability: Some(&Capability {
        what: "SQL databases",
        interfaces: &["spin:sqlite/sqlite", "fermyon:spin/sqlite"],
        given: "denied unless its manifest has [sqlite]",
        grant: Some("[sqlite]\n# databases = [\"default\"]\n"),
    }),
};

/// The databases that a service may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SqliteGrant {
    /// Their names; at least one.
    pub databases: Vec<String>,
    /// The most bytes of each.
    pub bytes: u64,
    /// The longest time that a statement may take.
    pub timeout: Duration,
}

/// Returns a value for [`KEYS`] to fill in. It is never used as it is.
fn blank() -> SqliteGrant {
    SqliteGrant { databases: vec![DEFAULT.into()], bytes: 0, timeout: Duration::ZERO }
}

fn read(written: &Written<'_>, problems: &mut Problems) -> Option<SqliteGrant> {
    let mut grant = with_defaults(KEYS, blank());
    let Some(keys) = written.table() else {
        return problems.take(written.granted())?.then_some(grant);
    };
    let mut sound = true;
    for key in keys {
        if key.inside(written) == "databases" {
            grant.databases = problems.take(databases(&key))?;
        } else {
            let known: Vec<_> = KEYS.iter().map(|key| key.name).chain(["databases"]).collect();
            let set = match known.contains(&key.inside(written)) {
                true => key.set("sqlite", KEYS, &mut grant),
                false => Err(key.unknown("sqlite", &known)),
            };
            sound &= problems.take(set).is_some();
        }
    }
    sound.then_some(grant)
}

fn databases(key: &Written<'_>) -> Result<Vec<String>, String> {
    let items = key.items("[\"default\", \"archive\"]")?;
    if items.is_empty() || items.len() > DATABASES {
        return Err(key.error(format!("write 1 to {DATABASES} names")));
    }
    let mut names: Vec<String> = Vec::with_capacity(items.len());
    for item in items {
        let name = item.string("write names of databases, between quotes")?;
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_');
        if name.is_empty() || name.len() > NAME || !name.bytes().all(plain) {
            let form = format!("1 to {NAME} lower-case letters, digits, `-` and `_`");
            return Err(item.error(format!("`{name}` is not the name of a database: {form}")));
        }
        if names.iter().any(|known| known == name) {
            return Err(item.error(format!("`{name}` is there twice")));
        }
        names.push(name.to_owned());
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::read as manifest;

    #[test]
    fn forms() {
        let grant = |text: &str| manifest(text).map(|manifest| manifest.sqlite);
        let usual =
            SqliteGrant { databases: vec!["default".into()], bytes: 256 << 20, timeout: Duration::from_secs(5) };
        assert_eq!(grant(""), Ok(None));
        assert_eq!(grant("sqlite = true"), Ok(Some(usual.clone())));
        assert_eq!(grant("sqlite = false"), Ok(None));
        assert_eq!(grant("[sqlite]"), Ok(Some(usual.clone())));
        let two = SqliteGrant { databases: vec!["default".into(), "old-1".into()], bytes: 1 << 20, ..usual.clone() };
        assert_eq!(grant("[sqlite]\ndatabases = ['default', 'old-1']\nbytes = '1MiB'"), Ok(Some(two)));
        let one = SqliteGrant { databases: vec!["a".into()], timeout: Duration::from_secs(1), ..usual };
        assert_eq!(grant("sqlite.databases = 'a'\nsqlite.timeout = '1s'"), Ok(Some(one)));
    }

    #[test]
    fn problems_name_the_key() {
        let problem = |text: &str| manifest(text).unwrap_err();
        assert_eq!(problem("sqlite = 1"), "line 1: sqlite: write a section [sqlite], or true");
        assert_eq!(
            problem("[sqlite]\ndatabase = 'a'"),
            "line 2: unknown key `sqlite.database`; did you mean `sqlite.databases`?"
        );
        let form = "is not the name of a database: 1 to 64 lower-case letters, digits, `-` and `_`";
        for name in ["", "../users", "A", "a.db", "a/b", ":memory:"] {
            let text = format!("[sqlite]\ndatabases = ['{name}']");
            assert_eq!(problem(&text), format!("line 2: sqlite.databases: `{name}` {form}"));
        }
        assert_eq!(problem("[sqlite]\ndatabases = ['a', 'a']"), "line 2: sqlite.databases: `a` is there twice");
        assert!(problem("[sqlite]\ndatabases = []").contains("write 1 to 16 names"));
        assert!(problem("[sqlite]\nbytes = '1KiB'").contains("between 64"));
    }
}
