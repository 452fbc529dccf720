//! Everything that is derived from a section has every section.

use super::*;
use crate::tests::read;

fn version(text: &str) -> Result<Manifest, String> {
    read("").unwrap().version(text, 1 << 30).map_err(|problems| problems.join("\n"))
}

#[test]
fn a_section_is_in_all_that_derives_from_it() {
    let (schema, listed) = (crate::schema::manifest(), read("zzz = 1").unwrap_err());
    for section in SECTIONS {
        let name = section.name;
        assert!(schema["properties"][name].is_object(), "the schema has no {name}");
        assert!(listed.contains(&format!("`{name}`")), "{listed}");
        let typo = read(&format!("{name}x = 1")).unwrap_err();
        assert_eq!(typo, format!("line 1: unknown key `{name}x`; did you mean `{name}`?"));
        let inside = read(&format!("[build]\n{name} = 1")).unwrap_err();
        assert!(inside.starts_with(&format!("line 2: unknown key `build.{name}`; `{name}` is a ")), "{inside}");
        assert_eq!(SECTIONS.iter().filter(|other| other.name == name).count(), 1, "{name} is there twice");
    }
}

/// Keys of a section: its reader knows those of its schema, and no others.
#[test]
fn a_reader_knows_the_keys_of_its_schema() {
    let mut checked = 0;
    for section in SECTIONS {
        let problems = |key: &str, value: &str| {
            let text = format!("{}.{key} = {value}", section.name);
            let problems = if matches!(section.owner, Owner::Version(_)) { version(&text) } else { read(&text) };
            problems.err().unwrap_or_default()
        };
        let keys = section.keys();
        for (key, default) in &keys {
            assert!(!problems(key, "'no'").contains("unknown key"), "{}.{key}", section.name);
            let value = if default.parse::<f64>().is_ok() { default.clone() } else { format!("'{default}'") };
            let found = problems(key, &value);
            let refused = [format!("{}.{key}: `{default}`", section.name), format!("{}.{key}: must", section.name)];
            assert!(default.is_empty() || !refused.iter().any(|refused| found.contains(refused)), "{found}");
            checked += 1;
        }
        if !keys.is_empty() {
            let unknown = problems("zzzzzz", "1");
            assert!(
                unknown.contains(&format!("unknown key `{}.zzzzzz`, expected one of `", section.name)),
                "{unknown}"
            );
            let (key, _) = &keys[0];
            let near = problems(&format!("{key}x"), "1");
            assert!(near.contains(&format!("; did you mean `{}.", section.name)), "{near}");
        }
    }
    assert!(checked > 50, "{checked} keys");
}

/// A section is refused where it does not belong.
#[test]
fn a_section_has_its_owners() {
    for section in SECTIONS {
        let text = format!("{} = {{}}", section.name);
        let refused =
            |manifest: Result<Manifest, String>, by: &str| manifest.is_err_and(|problem| problem.contains(by));
        let of_service = refused(version(&text), "a version cannot set this");
        let of_version = refused(read(&text), "only a version can set this");
        let wanted = match section.owner {
            Owner::All(_) => (false, false),
            Owner::Service(_) | Owner::Route(_) => (true, false),
            Owner::Version(_) => (false, true),
        };
        assert_eq!((of_service, of_version), wanted, "{}", section.name);
        let route = format!("routes = [{{ path = '/', {text} }}]");
        let of_routes = !refused(read(&route), &format!("unknown key `{}`", section.name));
        assert_eq!(of_routes, matches!(section.owner, Owner::Route(_)), "{}", section.name);
        let elsewhere = refused(read(&format!("{text}\nupstream.replicas = ['http://a']")), "[upstream] says");
        assert_eq!(elsewhere, section.subject != Subject::Service, "{}", section.name);
    }
}

#[test]
fn a_view_is_what_the_manifest_says() {
    let text =
        "calls = ['users', 'hello']\nhttp = 'https://*.example.org'\nisolation = 'service'\nenv.TOKEN = 'secret'";
    let manifest = read(text).unwrap();
    let shown = views(&manifest);
    let calls_and_http = serde_json::json!({ "calls": ["users", "hello"], "http": ["https://*.example.org"] });
    // Of variables the names, without values.
    let mut expected = serde_json::json!({ "env": ["TOKEN"], "isolation": "service" });
    expected.as_object_mut().unwrap().extend(calls_and_http.as_object().unwrap().clone());
    assert_eq!(serde_json::to_value(&shown).unwrap(), expected);
    assert_eq!(
        serde_json::to_value(grants(&manifest)).unwrap(),
        serde_json::json!({ "calls": ["users", "hello"], "env": ["TOKEN"], "http": ["https://*.example.org"] })
    );
    assert_eq!(words(&shown["calls"]), "users, hello");
    assert_eq!(words(&serde_json::json!({ "a": 1, "b": ["x", "y"] })), "a 1, b x, y");
    assert_eq!(views(&read("").unwrap()).into_keys().collect::<Vec<_>>(), ["isolation"]);
    // What a service without guests reaches is granted as well.
    let elsewhere = manifest.version("files.root = 'public'", 1 << 30).unwrap();
    assert_eq!(grants(&elsewhere)["files"]["root"], "public");
    let elsewhere = manifest.version("upstream.replicas = ['http://a']", 1 << 30).unwrap();
    assert_eq!(serde_json::to_value(grants(&elsewhere)).unwrap(), serde_json::json!({ "upstream": ["http://a:80"] }));
    assert!(views(&elsewhere).is_empty(), "an upstream has no sandbox");
}

#[test]
fn a_key_has_its_place() {
    for (name, said) in [
        ("calls", "`calls` is a key of the manifest; write it above the first [section]"),
        ("ready.path", "`ready` is a section of the manifest; write [ready]"),
        ("limits", "`limits` is a section of the manifest; write [limits]"),
    ] {
        assert!(misplaced(name).unwrap().starts_with(said), "{:?}", misplaced(name));
    }
    assert_eq!(misplaced("wal"), None);
    for (text, said) in [
        ("command = 'x'", "line 1: unknown key `command`; `command` is a key of [build]"),
        (
            "[retry]\nattempts = 1",
            "line 1: unknown key `retry`; `retry` is a part of [upstream]; write [upstream.retry]",
        ),
        ("[limit]\nwall = '1s'", "line 1: unknown key `limit`; did you mean `limits`?"),
        (
            "[compress]\nenabled = true",
            "line 2: unknown key `compress.enabled`; a section [compress] is on; to turn it off, write `compress = false` in place of it",
        ),
        (
            "[rate]\nlimit = '1/s'\nenabled = false",
            "line 3: unknown key `rate.enabled`; `enabled` is a key of the manifest; write it above the first [section]",
        ),
        (
            "[headers]\nset = { x-a = '1' }",
            "line 2: unknown key `headers.set`; did you mean `headers.request.set` or `headers.response.set`?",
        ),
        (
            "[tls]\nlisten = ':443'",
            "line 1: unknown key `tls`; [tls] is a section of lodge.toml, the settings of the host",
        ),
        ("[tls]\nca = 'ca.pem'", "line 1: unknown key `tls`; `tls` is a part of [upstream]; write [upstream.tls]"),
        ("listen = ':80'", "line 1: unknown key `listen`; `listen` is a key of lodge.toml, the settings of the host"),
    ] {
        let problem = read(text).unwrap_err();
        assert_eq!(problem, said);
    }
}

/// What is recommended in place of keys of other systems exists, and what it takes the place of does not.
#[test]
fn what_other_systems_call_otherwise_exists() {
    for (names, meant) in OF_OTHER_SYSTEMS {
        for name in names {
            let problem = read(&format!("{name} = 1")).unwrap_err();
            assert!(problem.ends_with(&format!("did you mean {meant}?")), "{problem}");
        }
        for key in meant.split('`').skip(1).step_by(2) {
            let text = match key.split_once(" = ") {
                Some(_) => format!("config.a = {{ default = 'b', {key} }}"),
                None => format!("{key} = 'no'"),
            };
            let problem = |read: Result<Manifest, String>| read.err().unwrap_or_default();
            let found = [problem(read(&text)), problem(version(&text))];
            assert!(found.iter().any(|found| !found.contains("unknown key")), "{key}: {found:?}");
        }
        for name in meant.split('[').skip(1).filter_map(|rest| rest.split_once(']')) {
            assert!(find(name.0).is_some(), "{meant}");
        }
    }
}
