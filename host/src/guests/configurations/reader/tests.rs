use std::fs;

use super::*;
use lodge_manifest::config::ConfigDirectory;

fn key(source: ConfigSource) -> ConfigKey {
    ConfigKey { source, secret: false, default: None }
}

fn reader(directory: &Path, keys: &[(&str, ConfigKey)], directories: &[&str]) -> ConfigReader {
    let keys = keys.iter().map(|(name, key)| ((*name).to_owned(), key.clone())).collect();
    let directories = directories.iter().map(|path| ConfigDirectory { path: path.into(), secret: true }).collect();
    ConfigReader { grant: ConfigGrant { keys, directories }, env: BTreeMap::new(), directory: directory.to_owned() }
}

#[test]
fn values_come_from_everywhere() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(directory.path().join(name), text).unwrap();
    write("password", "hunter2\r\n");
    fs::create_dir(directory.path().join("secrets")).unwrap();
    for (name, text) in [("secrets/token", "t\n\n"), ("secrets/..data", "hidden"), ("secrets/name", "from directory")] {
        write(name, text);
    }
    // A directory in it is no value.
    fs::create_dir(directory.path().join("secrets/more")).unwrap();
    let keys = [
        ("name", key(ConfigSource::Literal("Ada".into()))),
        ("password", key(ConfigSource::File("password".into()))),
        ("path", key(ConfigSource::Environment("PATH".into()))),
        ("other", ConfigKey { default: Some("usual".into()), ..key(ConfigSource::File("nowhere".into())) }),
    ];
    let values = reader(directory.path(), &keys, &["secrets"]).read().unwrap().config;
    let text = |name: &str| (values[name].text.as_str(), values[name].secret);
    assert_eq!(text("name"), ("Ada", false));
    assert_eq!(text("password"), ("hunter2", false));
    assert_eq!(text("path"), (std::env::var("PATH").unwrap().as_str(), false));
    assert_eq!(text("other"), ("usual", false));
    assert_eq!(text("token"), ("t\n", true));
    assert_eq!(values.len(), 5);
}

#[test]
fn what_is_missing_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let problem = |key: ConfigKey| reader(directory.path(), &[("a", key)], &[]).read().err().unwrap();
    let file = problem(key(ConfigSource::File("x".into())));
    assert!(file.starts_with("config.a: ") && file.contains("/x cannot be read: "), "{file}");
    let variable = problem(key(ConfigSource::Environment("LODGE_NO_SUCH".into())));
    assert_eq!(variable, "config.a: the host has no environment variable LODGE_NO_SUCH");
    fs::write(directory.path().join("x"), [0xff]).unwrap();
    assert!(problem(key(ConfigSource::File("x".into()))).ends_with("it is not UTF-8"));
    fs::write(directory.path().join("x"), vec![b'x'; 300 << 10]).unwrap();
    assert!(problem(key(ConfigSource::File("x".into()))).contains("cannot be read"));
    let missing = reader(directory.path(), &[], &["nowhere"]).read().err().unwrap();
    assert!(missing.starts_with("config_directories: ") && missing.contains("nowhere cannot be read"), "{missing}");
}

/// As Kubernetes replaces a ConfigMap: the files are symlinks through one that is replaced.
#[cfg(unix)]
#[test]
fn a_swapped_symlink_is_a_new_value() {
    use std::os::unix::fs::symlink;
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    for (version, text) in [("..1", "one"), ("..2", "two")] {
        fs::create_dir(at(version)).unwrap();
        fs::write(at(version).join("name"), text).unwrap();
    }
    symlink("..1", at("..data")).unwrap();
    symlink("..data/name", at("name")).unwrap();
    let reader = reader(directory.path(), &[], &["."]);
    assert_eq!(reader.read().unwrap().config["name"].text, "one");
    symlink("..2", at("..new")).unwrap();
    fs::rename(at("..new"), at("..data")).unwrap();
    assert_eq!(reader.read().unwrap().config["name"].text, "two");
    assert_eq!(reader.read().unwrap().config.len(), 1);
}

#[test]
fn variables_have_the_same_sources() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("token"), "t0ken\n").unwrap();
    let variable = |name: &str, key: ConfigKey| (name.to_owned(), key);
    let secret = ConfigKey { secret: true, ..key(ConfigSource::File("token".into())) };
    let mut reader =
        reader(directory.path(), &[("token", secret), ("region", key(ConfigSource::Literal("eu".into())))], &[]);
    reader.env = BTreeMap::from([
        variable("A", key(ConfigSource::Literal("1".into()))),
        variable("FILE", key(ConfigSource::File("token".into()))),
        variable("REGION", key(ConfigSource::Config("region".into()))),
        variable("TOKEN", key(ConfigSource::Config("token".into()))),
        variable("USUAL", ConfigKey { default: Some("d".into()), ..key(ConfigSource::Config("nothing".into())) }),
        variable("PATH", key(ConfigSource::Environment("PATH".into()))),
    ]);
    assert!(reader.has_files());
    let env = reader.read().unwrap().env;
    let text = |name: &str| (env[name].text.as_str(), env[name].secret);
    assert_eq!((text("A"), text("FILE"), text("REGION")), (("1", false), ("t0ken", false), ("eu", false)));
    // What is secret in the configuration is secret here.
    assert_eq!((text("TOKEN"), text("USUAL")), (("t0ken", true), ("d", false)));
    assert_eq!(text("PATH").0, std::env::var("PATH").unwrap());
    let mut problem = |key: ConfigKey| {
        reader.env = BTreeMap::from([variable("X", key)]);
        reader.read().err().unwrap()
    };
    assert_eq!(problem(key(ConfigSource::Config("other".into()))), "env.X: [config] has no `other`");
    fs::write(directory.path().join("nul"), "a\0b").unwrap();
    assert!(problem(key(ConfigSource::File("nul".into()))).starts_with("env.X: it contains a NUL byte"));
    fs::write(directory.path().join("long"), vec![b'x'; 65 << 10]).unwrap();
    assert!(problem(key(ConfigSource::File("long".into()))).starts_with("env: 66561 bytes are more than"));
}
