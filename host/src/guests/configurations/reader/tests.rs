use std::fs;

use super::*;
use lodge_manifest::config::ConfigDirectory;

fn key(source: ConfigSource) -> ConfigKey {
    ConfigKey { source, secret: false, default: None }
}

fn reader(directory: &Path, keys: &[(&str, ConfigKey)], directories: &[&str]) -> ConfigReader {
    let keys = keys.iter().map(|(name, key)| ((*name).to_owned(), key.clone())).collect();
    let directories = directories.iter().map(|path| ConfigDirectory { path: path.into(), secret: true }).collect();
    ConfigReader {
        grant: ConfigGrant { keys, directories, shared: Vec::new() },
        env: BTreeMap::new(),
        directory: directory.to_owned(),
        host: None,
    }
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
    let values = reader(directory.path(), &keys, &["secrets"]).read().unwrap().reading.config;
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
    // A default is for what does not exist, not for what cannot be read.
    let defaulted = ConfigKey { default: Some("usual".into()), ..key(ConfigSource::File("x".into())) };
    assert!(problem(defaulted.clone()).contains("cannot be read"));
    fs::remove_file(directory.path().join("x")).unwrap();
    let read = reader(directory.path(), &[("a", defaulted)], &[]).read().unwrap().reading;
    assert_eq!(read.config["a"].text, "usual");
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
    assert_eq!(reader.read().unwrap().reading.config["name"].text, "one");
    symlink("..2", at("..new")).unwrap();
    fs::rename(at("..new"), at("..data")).unwrap();
    assert_eq!(reader.read().unwrap().reading.config["name"].text, "two");
    assert_eq!(reader.read().unwrap().reading.config.len(), 1);
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
    let env = reader.read().unwrap().reading.env;
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

#[test]
fn values_of_others_are_shared_by_them() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(directory.path().join(name), text).unwrap();
    write("password", "hunter22");
    write(
        "users.toml",
        "keyvalue = true\nconfig_shared = ['url', 'password', 'further', 'gone']\n[config]\nurl = 'http://users'\n\
         password = { file = 'password', secret = true }\nown = 'canary'\nfurther = { service = 'x', key = 'y' }",
    );
    write("shared.toml", "[config]\nregion = 'eu'\n");
    let of = |key: &str| ConfigSource::Service { service: "users".into(), key: key.into() };
    let keys = [
        ("url", key(of("url"))),
        ("password", key(of("password"))),
        ("region", key(ConfigSource::Host("region".into()))),
        ("usual", ConfigKey { default: Some("d".into()), ..key(of("own")) }),
    ];
    let mut with_host = reader(directory.path(), &keys, &[]);
    with_host.host = Some(directory.path().join("shared.toml"));
    assert!(with_host.has_files());
    let values = with_host.read().unwrap().reading.config;
    let text = |name: &str| (values[name].text.as_str(), values[name].secret);
    // A secret of another service is a secret here.
    assert_eq!((text("url"), text("password")), (("http://users", false), ("hunter22", true)));
    assert_eq!((text("region"), text("usual")), (("eu", false), ("d", false)));
    let problem = |source| reader(directory.path(), &[("a", key(source))], &[]).read().err().unwrap();
    assert_eq!(problem(of("own")), "config.a: users.toml does not share it: add `own` to its `config_shared`");
    assert!(problem(of("further")).ends_with("`further` is itself a reference to another service or to the host"));
    assert!(problem(of("gone")).ends_with("users.toml has no `gone` in [config]"));
    assert!(problem(ConfigSource::Host("region".into())).contains("set `shared_config` in lodge.toml"));
    let missing = problem(ConfigSource::Service { service: "nobody".into(), key: "a".into() });
    assert!(missing.contains("nobody.toml cannot be read"), "{missing}");
    write("users.toml", "[config\nown = 'canary'");
    let broken = problem(of("url"));
    assert!(broken.ends_with("users.toml: it is not TOML"), "{broken}");
}

/// Before all of it is in memory: 2,048 files of 256 KiB are half a gigabyte.
#[test]
fn a_large_directory_is_not_read_to_its_end() {
    let directory = tempfile::tempdir().unwrap();
    for number in 0..5 {
        fs::write(directory.path().join(format!("key-{number}")), vec![b'x'; MOST_VALUE as usize]).unwrap();
    }
    let problem = reader(directory.path(), &[], &["."]).read().err().unwrap();
    assert!(problem.contains("has more than 1048576 bytes"), "{problem}");
}
