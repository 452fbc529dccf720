//! `[postgres]`: the databases on PostgreSQL servers that a service may use.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use crate::Manifest;
use crate::config::{ConfigKey, is_config_key};
use crate::schema;
use crate::section::{Capability, Owner, Section, Subject, View, words};
use crate::written::{Problems, Written, with_defaults};
use lodge_base::config::key::{Key, count, duration};

/// The most databases of a service.
const DATABASES: usize = 16;

/// The bounds of the time of a statement.
const TIMEOUT: std::ops::RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(60);

/// The keys with one value.
const KEYS: &[Key<PostgresGrant>] = &[
    Key {
        name: "connections",
        default: "4",
        help: "the most connections to each database; each is a process of the server",
        set: |grant, text| count(text, 1..=16).map(|connections| grant.connections = connections),
    },
    Key {
        name: "timeout",
        default: "5s",
        help: "the longest time that a statement may take, with the wait for a connection",
        set: |grant, text| duration(text, TIMEOUT).map(|timeout| grant.timeout = timeout),
    },
    Key {
        name: "ca",
        default: "",
        help: "file with the authorities (PEM) that sign the certificates of the servers, in place of the system's; relative to the directory of the manifest, and read when the service is loaded",
        set: |grant, text| {
            let is_path = !text.contains('\0');
            grant.ca = (!text.is_empty()).then(|| text.into());
            if is_path { Ok(()) } else { Err("write the path of a file".into()) }
        },
    },
];

/// `[postgres]`.
pub(crate) const SECTION: Section = Section {
    name: "postgres",
    page: "postgres",
    schema: || {
        let mut table = schema::settings(KEYS, &blank(), &[]);
        if let Some(properties) = table.get_mut("properties").and_then(Value::as_object_mut) {
            let names = "the keys of [config] with the URLs of the databases, one or a list; needed";
            properties.insert("databases".into(), schema::described(schema::texts(json!({ "type": "string" })), names));
        }
        table
    },
    owner: Owner::Service(|manifest, written, problems| manifest.postgres = read(written, problems)),
    subject: Subject::Execution,
    view: Some(View {
        label: "postgres",
        value: |manifest| {
            let grant = manifest.postgres.as_ref()?;
            let timeout = humantime::format_duration(grant.timeout).to_string();
            Some(json!({ "databases": grant.databases, "connections": grant.connections, "timeout": timeout }))
        },
        text: words,
    }),
    capability: Some(&Capability {
        what: "PostgreSQL",
        interfaces: &[
            "spin:postgres/postgres",
            "fermyon:spin/postgres",
            "fermyon:spin/rdbms-types",
            "wasmcloud:postgres/",
        ],
        given: "denied unless its manifest has [postgres]",
        grant: Some(
            "[config]\n# database = { file = \"/run/secrets/database\", secret = true }\n[postgres]\n# databases = [\"database\"]\n",
        ),
    }),
};

/// The databases that a service may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PostgresGrant {
    /// The keys of the configuration with their URLs; at least one.
    pub databases: Vec<String>,
    /// The most connections to each.
    pub connections: usize,
    /// The longest time that a statement may take.
    pub timeout: Duration,
    /// The file of the authorities that sign the certificates of their servers. A relative path begins at the directory of the
    /// manifest.
    pub ca: Option<PathBuf>,
}

/// Returns a value for [`KEYS`] to fill in. It is never used as it is.
fn blank() -> PostgresGrant {
    PostgresGrant { databases: Vec::new(), connections: 0, timeout: Duration::ZERO, ca: None }
}

fn read(written: &Written<'_>, problems: &mut Problems) -> Option<PostgresGrant> {
    let mut grant = with_defaults(KEYS, blank());
    let Some(keys) = written.table() else {
        problems.push(written.error("write a section [postgres], with `databases = [\"KEY\"]`"));
        return None;
    };
    let mut sound = true;
    for key in keys {
        if key.inside(written) == "databases" {
            grant.databases = problems.take(databases(&key))?;
        } else {
            let known: Vec<_> = KEYS.iter().map(|key| key.name).chain(["databases"]).collect();
            let set = match known.contains(&key.inside(written)) {
                true => key.set("postgres", KEYS, &mut grant),
                false => Err(key.unknown("postgres", &known)),
            };
            sound &= problems.take(set).is_some();
        }
    }
    if sound && grant.databases.is_empty() {
        problems.push(written.error("`databases` is missing: the keys of [config] with the URLs of the databases"));
        return None;
    }
    sound.then_some(grant)
}

fn databases(key: &Written<'_>) -> Result<Vec<String>, String> {
    let items = key.items("[\"database\"]")?;
    if items.is_empty() || items.len() > DATABASES {
        return Err(key.error(format!("write 1 to {DATABASES} keys of [config]")));
    }
    let mut names: Vec<String> = Vec::with_capacity(items.len());
    for item in items {
        let name = item.string("write keys of [config], between quotes")?;
        if !is_config_key(name) {
            return Err(item.error("that is no key of [config]; its value is the URL of the database"));
        }
        if names.iter().any(|known| known == name) {
            return Err(item.error(format!("`{name}` is there twice")));
        }
        names.push(name.to_owned());
    }
    Ok(names)
}

/// Checks whether the databases have URLs, and that no password is in the manifest.
pub(super) fn check(manifest: &Manifest, problems: &mut Problems) {
    let Some(grant) = &manifest.postgres else { return };
    for name in &grant.databases {
        match manifest.config.keys.get(name) {
            Some(key) if key.text().is_some_and(has_password) => problems.push(format!(
                "config.{name}: a URL with a password is a secret, and not in a manifest; write it into a file, and \
                 `{name} = {{ file = \"PATH\", secret = true }}`"
            )),
            Some(ConfigKey { .. }) => {}
            None if !manifest.config.directories.is_empty() => {}
            None => problems.push(format!(
                "postgres.databases: [config] has no key `{name}`; write the URL of the database into a file, and \
                 `{name} = {{ file = \"PATH\", secret = true }}` there"
            )),
        }
    }
}

/// Whether the URL of a database has a password.
pub fn has_password(url: &str) -> bool {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split('/').next().unwrap_or_default();
    authority.rsplit_once('@').is_some_and(|(user, _)| user.contains(':'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::read as manifest;

    const CONFIG: &str = "config.db = { file = 'db.url', secret = true }\n";

    #[test]
    fn forms() {
        let grant = |text: &str| manifest(&format!("{CONFIG}{text}")).map(|manifest| manifest.postgres);
        let usual =
            PostgresGrant { databases: vec!["db".into()], connections: 4, timeout: Duration::from_secs(5), ca: None };
        assert_eq!(grant(""), Ok(None));
        assert_eq!(grant("postgres.databases = 'db'"), Ok(Some(usual.clone())));
        let full =
            PostgresGrant { connections: 2, timeout: Duration::from_secs(1), ca: Some("ca.pem".into()), ..usual };
        let text = "[postgres]\ndatabases = ['db']\nconnections = 2\ntimeout = '1s'\nca = 'ca.pem'";
        assert_eq!(grant(text), Ok(Some(full)));
        let of_directory = manifest("config_directories = ['/run/config']\npostgres.databases = 'any'");
        assert!(of_directory.is_ok_and(|manifest| manifest.postgres.is_some()));
        let without = manifest("config.db = 'postgres://me@db/shop'\npostgres.databases = 'db'");
        assert!(without.is_ok_and(|manifest| manifest.postgres.is_some()));
    }

    #[test]
    fn problems_name_the_key() {
        let problem = |text: &str| manifest(&format!("{CONFIG}{text}")).unwrap_err();
        for (text, found) in [
            ("postgres = true", "write a section [postgres]"),
            ("[postgres]", "`databases` is missing"),
            ("[postgres]\ndatabases = []", "write 1 to 16 keys"),
            ("[postgres]\ndatabases = ['db', 'db']", "`db` is there twice"),
            ("[postgres]\ndatabases = ['postgres://db/x']", "that is no key of [config]"),
            ("[postgres]\ndatabases = ['other']", "[config] has no key `other`"),
            ("[postgres]\ndatabase = 'db'", "did you mean `postgres.databases`?"),
            ("[postgres]\ndatabases = 'db'\nconnections = 0", "between 1 and 16"),
        ] {
            assert!(problem(text).contains(found), "{text}: {}", problem(text));
        }
        let open = "config.db = 'postgres://me:hunter2@db/shop'\npostgres.databases = 'db'";
        let problem = manifest(open).unwrap_err();
        assert!(problem.contains("is a secret") && !problem.contains("hunter2"), "{problem}");
    }
}
