use super::*;
use crate::tests::read;

fn key(source: ConfigSource) -> ConfigKey {
    ConfigKey { source, secret: false, default: None }
}

#[test]
fn forms() {
    let text = "config_directories = ['/etc/a', { path = 'b', secret = true }]\n[config]\nname = 'Ada'\nport = 80\non = true\n\
                url = { env = 'URL', default = 'none' }\npassword = { file = '/run/p', secret = true }";
    let config = read(text).unwrap().config;
    let literal = |text: &str| key(ConfigSource::Literal(text.into()));
    assert_eq!(config.keys["name"], literal("Ada"));
    assert_eq!((config.keys["port"].clone(), config.keys["on"].clone()), (literal("80"), literal("true")));
    let url = key(ConfigSource::Environment("URL".into()));
    assert_eq!(config.keys["url"], ConfigKey { default: Some("none".into()), ..url });
    let password = key(ConfigSource::File("/run/p".into()));
    assert_eq!(config.keys["password"], ConfigKey { secret: true, ..password });
    let directory = |path: &str, secret| ConfigDirectory { path: path.into(), secret };
    assert_eq!(config.directories, [directory("/etc/a", false), directory("b", true)]);
    assert!(read("").unwrap().config.is_empty());
}

#[test]
fn values_are_not_shown() {
    let manifest = read("[config]\nname = 'canary'\npassword = { env = 'P', secret = true }").unwrap();
    let view = (SECTION.view.unwrap().value)(&manifest).unwrap();
    assert_eq!(view, json!({ "name": "manifest", "password": "environment P, secret" }));
}

/// In TOML, a grant that is written after [config] is a value of it, and grants nothing.
#[test]
fn a_key_of_manifests_is_no_value() {
    for text in [
        "keyvalue = true",
        "lock = true",
        "sqlite = true",
        "isolation = 'service'",
        "publish = ['a.*']",
        "calls = ['users']",
        "http = ['https://example.com']",
        "limits.wall = '1s'",
        "enabled = false",
    ] {
        let problem = read(&format!("[config]\ngreeting = 'Hello'\n{text}")).unwrap_err();
        let name = text.split([' ', '.']).next().unwrap();
        assert!(problem.starts_with("line 3: ") && problem.contains(&format!("`{name}")), "{text}: {problem}");
        assert!(problem.contains("of the manifest; write ") && problem.contains("another name"), "{text}: {problem}");
    }
    for text in ["enabled = 'true'", "lock = '/var/lock'", "keyvalue = 'redis'", "ready = { env = 'READY' }"] {
        assert_eq!(read(&format!("[config]\n{text}")).unwrap().config.keys.len(), 1, "{text}");
    }
    assert!(of_text("[config]\nkeyvalue = true").is_ok(), "shared configuration has no grants");
}

#[test]
fn problems_name_the_key() {
    let problem = |text: &str| read(text).unwrap_err();
    assert!(problem("config = 1").starts_with("line 1: config: write a section [config]"));
    assert_eq!(problem("[config]\na = { fil = 'x' }"), "line 2: unknown key `fil`; did you mean `file`?");
    assert_eq!(
        problem("[config]\na = { secret = true }"),
        "line 2: config.a: write one of `file`, `env`, `host` and `service`"
    );
    let both = "[config]\na = { file = 'x', env = 'Y' }";
    assert_eq!(problem(both), "line 2: config.a: write one of `file`, `env`, `host` and `service`");
    let default = "[config]\na = { env = 'Y', secret = true, default = 'z' }";
    assert!(problem(default).contains("a secret has no default"));
    assert!(problem("[config]\n'a/b' = 'x'").contains("a key has letters"));
    assert!(problem("config_directories = [{ secret = true }]").contains("`path` is missing"));
}

#[test]
fn values_of_others() {
    let text = "config_shared = 'a'\n[config]\na = 1\nregion = { host = 'region' }\n\
                url = { service = 'users', key = 'url', default = 'x' }";
    let config = read(text).unwrap().config;
    assert_eq!(config.shared, ["a"]);
    assert_eq!(config.keys["region"], key(ConfigSource::Host("region".into())));
    let url = ConfigSource::Service { service: "users".into(), key: "url".into() };
    assert_eq!(config.keys["url"], ConfigKey { default: Some("x".into()), ..key(url) });
    for (text, wanted) in [
        ("[config]\na = { service = 'users' }", "write the key, too: { service = \"users\", key = \"KEY\" }"),
        ("[config]\na = { service = '../users', key = 'b' }", "`../users` is no name of a service"),
        ("[config]\na = { service = 'users', key = '..' }", "`..` is no key of [config]"),
        ("[config]\na = { host = 'x', key = 'b' }", "`key` belongs to `service`"),
        ("config_shared = ['..']", "that is no key of [config]"),
    ] {
        let problem = read(text).unwrap_err();
        assert!(problem.contains(wanted), "{text}: {problem}");
    }
    let of = of_text("routes = 7\nconfig_shared = ['a']\n[config]\na = 'b'\n[limits]\nwall = 1").unwrap();
    assert_eq!((of.keys["a"].text(), &*of.shared), (Some("b"), &["a".to_owned()][..]));
    assert_eq!(of_text("[config"), Err("it is not TOML".into()));
}
