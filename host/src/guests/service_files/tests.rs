use std::os::unix::fs::{MetadataExt, PermissionsExt};

use lodge_manifest::percent::Percent;

use super::*;
use crate::guests::trust::key::SigningKey;

/// A directory with the files of services.
struct World {
    directory: tempfile::TempDir,
    key: SigningKey,
}

impl World {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let key = SigningKey::new().unwrap().0;
        fs::create_dir(directory.path().join("guests")).unwrap();
        Self { directory, key }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.directory.path().join("guests").join(name)
    }

    fn sign(&self, content: &[u8]) -> Vec<u8> {
        self.key.sign(content).unwrap().into_bytes()
    }

    fn put(&self, name: &str, content: &[u8], signed: bool) {
        fs::write(self.at(name), content).unwrap();
        if signed {
            fs::write(self.at(&format!("{name}.sig")), self.sign(content)).unwrap();
        }
    }

    /// The names and contents of all files.
    fn everything(&self) -> Vec<(String, Vec<u8>)> {
        let entries = fs::read_dir(self.at("")).unwrap().map(|entry| entry.unwrap());
        let read = |entry: fs::DirEntry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap());
        let mut all: Vec<_> = entries.map(read).collect();
        all.sort();
        all
    }
}

/// A service or version that the host refuses is restored completely, also one that was not there.
#[test]
fn what_was_before_is_restored() {
    let world = World::new();
    let directory = world.at("");
    let files = ServiceFiles::new(&directory, "users", 1 << 20).unwrap();
    let (new, signature) = (b"new", world.sign(b"new"));
    let place = |label: Option<&str>| {
        let at = files.component(label);
        let before = (world.everything(), files.before(label).unwrap());
        match label {
            None => files.keep_previous(new).unwrap(),
            Some(label) => files.write(b"percent = 10", &files.manifest_of(label)).unwrap(),
        }
        files.place(new, Some(&signature), &at).unwrap();
        assert_ne!(world.everything(), before.0);
        files.restore(label, before.1).unwrap();
        assert_eq!(world.everything(), before.0, "{label:?}");
    };
    place(None);
    place(Some("canary"));
    world.put("users.wasm", b"now", true);
    world.put("users.wasm.previous", b"before", true);
    world.put("users@canary.wasm", b"canary", false);
    fs::write(world.at("users@canary.toml"), "percent = 1").unwrap();
    place(None);
    place(Some("canary"));
    // On a disk that is full, what did not change is not written again.
    let before = files.before(None).unwrap();
    let inode = || fs::metadata(world.at("users.wasm")).unwrap().ino();
    let same = inode();
    files.restore(None, before).unwrap();
    assert_eq!(inode(), same);
}

/// A manifest of an operator is not one of Lodge, and neither is one of Lodge that an operator edited.
#[test]
fn manifests_of_operators_hold() {
    let world = World::new();
    let directory = world.at("");
    let files = ServiceFiles::new(&directory, "users", 1 << 20).unwrap();
    let write = |text: &str| fs::write(world.at("users@canary.toml"), text).unwrap();
    assert!(files.check_written("canary").is_ok());
    let (share, other) = (canary_manifest("users", Percent(250)), canary_manifest("orders", Percent(250)));
    for edited in [
        "enabled = false\n",
        "",
        &format!("{share}\nhttp = ['https://*']\n"),
        &share.replace("percent = \"2.5%\"", "percent = \"2.5%\"\nhttp = ['https://*']"),
        &share.replace("[rollback]\n", "percent = \"2.5%\"\n"),
        &other,
        "# Written by `lodge deploy`.\n",
    ] {
        write(edited);
        assert!(files.check_written("canary").unwrap_err().to_string().contains("written by an operator"), "{edited}");
    }
    for percent in [Percent(0), Percent(1), Percent(250), Percent::whole(10), Percent::ALL] {
        write(&canary_manifest("users", percent));
        assert!(files.check_written("canary").is_ok(), "{percent}");
    }
    files.disable_version("canary").unwrap();
    assert!(files.check_written("canary").is_ok());
    assert!(fs::read_to_string(world.at("users@canary.toml")).unwrap().ends_with("\nenabled = false\n"));
}

/// A lock is a regular file, and what arrives is removed at the next start unless somebody still receives it.
#[test]
fn locks_and_what_is_left_over() {
    let world = World::new();
    let directory = world.at("");
    let files = ServiceFiles::new(&directory, "users", 1 << 20).unwrap();
    let (left, held) = (files.staging().unwrap(), files.staging().unwrap());
    fs::write(&left, "left").unwrap();
    let holder = fs::File::create(&held).unwrap();
    holder.try_lock().unwrap();
    world.put("users.wasm", b"good", false);
    remove_abandoned(&directory);
    assert_eq!((left.exists(), held.exists(), world.at("users.wasm").exists()), (false, true, true));
    let lock = world.at(".users.lock");
    rustix::fs::mkfifoat(rustix::fs::CWD, &lock, 0o600.into()).unwrap();
    assert!(files.try_lock().is_err());
    fs::remove_file(&lock).unwrap();
    let held = files.try_lock().unwrap().unwrap();
    let of = |path: &Path| fs::metadata(path).map(|metadata| (metadata.uid(), metadata.gid(), metadata.mode() & 0o777));
    let (uid, gid, _) = of(&directory).unwrap();
    assert_eq!(of(&lock).unwrap(), (uid, gid, 0o660), "the host of the directory can use it");
    assert!(files.try_lock().unwrap().is_none());
    // A command that waits for the lock does not get the lock of a file that was removed.
    let waiting = fs::File::open(&lock).unwrap();
    drop(held);
    waiting.try_lock().unwrap();
    let other = files.try_lock().unwrap().expect("another file");
    let stale = FilesLock { file: waiting, path: lock.clone() };
    drop(stale);
    assert!(lock.exists() && files.try_lock().unwrap().is_none());
    drop(other);
    assert!(!lock.exists(), "no lock is left");
}

/// A lock of another user is one of a command that works, or a file that can be read, or the message says whose it is.
#[test]
fn locks_of_other_users() {
    let world = World::new();
    let directory = world.at("");
    let files = ServiceFiles::new(&directory, "users", 1 << 20).unwrap();
    let lock = world.at(".users.lock");
    fs::write(&lock, "").unwrap();
    let with_mode = |mode| fs::set_permissions(&lock, fs::Permissions::from_mode(mode)).unwrap();
    with_mode(0o444);
    assert!(files.try_lock().unwrap().is_some());
    fs::write(&lock, "").unwrap();
    let denied = files.unlockable(&lock, &Error::from(ErrorKind::PermissionDenied));
    let (uid, shown) = (fs::metadata(&lock).unwrap().uid(), lock.display());
    assert!(denied.unwritable && denied.to_string().contains(&format!("{shown} belongs to user {uid} ")), "{denied}");
    assert!(denied.to_string().contains(&format!("`chown --reference={}", directory.display())), "{denied}");
    let other = files.unlockable(&lock, &Error::from(ErrorKind::InvalidInput));
    assert!(!other.to_string().contains("belongs"), "{other}");
}

/// A component that cannot be written leaves the pair before it.
#[test]
fn a_component_that_cannot_be_written_keeps_its_signature() {
    let world = World::new();
    let directory = world.at("");
    let files = ServiceFiles::new(&directory, "users", 1 << 20).unwrap();
    // A directory in its place cannot be replaced.
    fs::create_dir(world.at("users.wasm")).unwrap();
    fs::write(world.at("users.wasm.sig"), world.sign(b"old")).unwrap();
    let before = fs::read(world.at("users.wasm.sig")).unwrap();
    assert!(files.place(b"new", Some(&world.sign(b"new")), &world.at("users.wasm")).is_err());
    assert_eq!(fs::read(world.at("users.wasm.sig")).unwrap(), before);
    fs::remove_dir(world.at("users.wasm")).unwrap();
    fs::remove_file(world.at("users.wasm.sig")).unwrap();
    fs::create_dir(world.at("users.wasm")).unwrap();
    assert!(files.place(b"new", Some(&world.sign(b"new")), &world.at("users.wasm")).is_err());
    assert!(!world.at("users.wasm.sig").exists());
    fs::remove_dir(world.at("users.wasm")).unwrap();
    files.place(b"new", Some(&world.sign(b"new")), &world.at("users.wasm")).unwrap();
    fs::set_permissions(world.at("users.wasm"), fs::Permissions::from_mode(0o640)).unwrap();
    files.place(b"newer", None, &world.at("users.wasm")).unwrap();
    assert!(!world.at("users.wasm.sig").exists());
    assert_eq!(fs::metadata(world.at("users.wasm")).unwrap().permissions().mode() & 0o777, 0o640);
}

/// A component that is a link is replaced by a file; what it leads to stays as it is.
#[test]
fn links_are_replaced_and_not_followed() {
    let world = World::new();
    let (directory, elsewhere) = (world.at(""), world.directory.path().join("release.wasm"));
    fs::write(&elsewhere, b"old").unwrap();
    std::os::unix::fs::symlink(&elsewhere, world.at("users.wasm")).unwrap();
    let files = ServiceFiles::new(&directory, "users", 1 << 20).unwrap();
    files.keep_previous(b"new").unwrap();
    files.place(b"new", None, &world.at("users.wasm")).unwrap();
    assert_eq!(
        (fs::read(&elsewhere).unwrap(), fs::read(files.previous()).unwrap()),
        (b"old".to_vec(), b"old".to_vec())
    );
    assert!(fs::symlink_metadata(world.at("users.wasm")).unwrap().is_file());
    for name in ["..", "../users", "a/b", "", ".users", "users.wasm"] {
        assert!(ServiceFiles::new(&directory, name, 1).is_none(), "{name}");
    }
}
