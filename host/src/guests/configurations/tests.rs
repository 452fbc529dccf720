use std::fs;

use super::*;
use lodge_manifest::config::ConfigDirectory;

fn key(source: ConfigSource) -> ConfigKey {
    ConfigKey { source, secret: false, default: None }
}

fn reader(directory: &Path, keys: &[(&str, ConfigKey)], directories: &[&str]) -> ConfigReader {
    let keys = keys.iter().map(|(name, key)| ((*name).to_owned(), key.clone())).collect();
    let directories = directories.iter().map(|path| ConfigDirectory { path: path.into(), secret: true }).collect();
    ConfigReader { grant: ConfigGrant { keys, directories }, directory: directory.to_owned() }
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
    let values = reader(directory.path(), &keys, &["secrets"]).read().unwrap();
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
    assert_eq!(reader.read().unwrap()["name"].text, "one");
    symlink("..2", at("..new")).unwrap();
    fs::rename(at("..new"), at("..data")).unwrap();
    assert_eq!(reader.read().unwrap()["name"].text, "two");
    assert_eq!(reader.read().unwrap().len(), 1);
}

#[tokio::test]
async fn the_last_good_values_stay() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("name");
    fs::write(&path, "one").unwrap();
    let reader = reader(directory.path(), &[("name", key(ConfigSource::File("name".into())))], &[]);
    let configuration = Arc::new(Configuration::new(reader.read().unwrap()));
    let mut followed =
        Followed { configuration: Arc::downgrade(&configuration), reader, service: "users".into(), problem: None };
    fs::remove_file(&path).unwrap();
    followed.take(&configuration, followed.reader.read());
    assert_eq!(configuration.values()["name"].text, "one");
    assert!(followed.problem.is_some());
    fs::write(&path, "two").unwrap();
    followed.take(&configuration, followed.reader.read());
    assert_eq!((configuration.values()["name"].text.as_str(), followed.problem), ("two", None));
}
