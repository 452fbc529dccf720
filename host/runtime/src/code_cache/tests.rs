use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::*;

const WAT: &str = "(component (core module (func (export \"f\") (result i32) i32.const 7)))";

fn open(path: &Path, size: usize) -> Result<Directory, String> {
    Directory::open(&config::Cache { directory: CacheDirectory::At(path.to_owned()), sealed: None, size })
}

fn cache(path: &Path, size: usize) -> CodeCache {
    CodeCache { own: Some(open(path, size).expect("a cache")), sealed: None }
}

fn entries(path: &Path) -> Vec<PathBuf> {
    let paths = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
    let mut entries: Vec<_> = paths.filter(|path| path.extension().is_some_and(|e| e == ENTRY)).collect();
    entries.sort();
    entries
}

fn store(cache: &CodeCache, engine: &Engine, text: &str) -> Digest {
    let digest = Digest::of(text.as_bytes());
    let code = engine.precompile_component(&wat::parse_str(WAT).unwrap()).unwrap();
    cache.store(&EngineStamp::of(engine), digest, &code);
    digest
}

fn load(cache: &CodeCache, engine: &Engine, digest: Digest) -> Option<Component> {
    cache.load(&EngineStamp::of(engine), engine, digest)
}

#[test]
fn stored_code_is_loaded_by_hosts_with_the_same_key() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("deep/cache");
    let engine = Engine::default();
    let digest = store(&cache(&path, 1 << 30), &engine, "a");
    assert!(load(&cache(&path, 1 << 30), &engine, digest).is_some());
    assert!(load(&cache(&path, 1 << 30), &engine, Digest::of(b"b")).is_none());
    // Another engine has other code, under another name.
    let other = Engine::new(wasmtime::Config::new().epoch_interruption(true)).unwrap();
    assert!(load(&cache(&path, 1 << 30), &other, digest).is_none());
}

#[test]
fn only_entries_with_a_valid_tag_are_trusted() {
    let directory = tempfile::tempdir().unwrap();
    let (path, engine) = (directory.path(), Engine::default());
    fs::set_permissions(path, fs::Permissions::from_mode(0o700)).unwrap();
    let cache = cache(path, 1 << 30);
    let (a, b) = (store(&cache, &engine, "a"), store(&cache, &engine, "b"));
    let [first, second] = <[PathBuf; 2]>::try_from(entries(path)).unwrap();
    let whole = fs::read(&first).unwrap();
    let mut flipped = whole.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    for bad in [flipped, whole[..whole.len() - 1].to_vec(), whole[..10].to_vec(), Vec::new(), b"rubbish".repeat(99)] {
        fs::write(&first, bad).unwrap();
        // One of the two is the damaged entry, the other one is valid.
        assert_eq!([a, b].iter().filter(|digest| load(&cache, &engine, **digest).is_some()).count(), 1);
    }
    // A valid entry under another's name.
    fs::copy(&second, &first).unwrap();
    assert_eq!([a, b].iter().filter(|digest| load(&cache, &engine, **digest).is_some()).count(), 1);
    // Written by a host with another key.
    fs::write(&first, whole).unwrap();
    fs::remove_file(path.join("key")).unwrap();
    let stranger = self::cache(path, 1 << 30);
    assert!(load(&stranger, &engine, a).is_none() && load(&stranger, &engine, b).is_none());
}

#[test]
fn a_directory_that_others_can_write_is_not_used() {
    let directory = tempfile::tempdir().unwrap();
    let open = || self::open(directory.path(), 1);
    assert!(open().is_ok());
    for mode in [0o777, 0o770] {
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(mode)).unwrap();
        assert!(open().is_err(), "{mode:o}");
    }
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o700)).unwrap();
    fs::set_permissions(directory.path().join("key"), fs::Permissions::from_mode(0o644)).unwrap();
    assert!(open().is_err(), "the key can be read by others");
}

#[test]
fn the_least_recently_used_entry_is_evicted_first() {
    let directory = tempfile::tempdir().unwrap();
    let (path, engine) = (directory.path(), Engine::default());
    let one = {
        store(&cache(path, 1 << 30), &engine, "size");
        let size = fs::metadata(&entries(path)[0]).unwrap().len();
        fs::remove_file(&entries(path)[0]).unwrap();
        size
    };
    let cache = cache(path, usize::try_from(one * 2 + one / 2).unwrap());
    let (a, b) = (store(&cache, &engine, "a"), store(&cache, &engine, "b"));
    // Both entries are old; then one of them is used.
    for entry in entries(path) {
        File::options().append(true).open(entry).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
    }
    assert!(load(&cache, &engine, a).is_some());
    let c = store(&cache, &engine, "c");
    assert_eq!([a, b, c].map(|digest| load(&cache, &engine, digest).is_some()), [true, false, true]);
}

/// Code with the digest in the index is used without a key. Changed code, and an index that others can write, is not.
#[test]
fn sealed_code_is_trusted_by_digest() {
    let directory = tempfile::tempdir().unwrap();
    let (own, path) = (directory.path().join("own"), directory.path().join("sealed"));
    let engine = Engine::default();
    let a = store(&cache(&own, 1 << 30), &engine, "a");
    assert_eq!(seal(&open(&own, 1 << 30).unwrap(), &path), Ok(1));
    assert!(!path.join("key").exists());
    let sealed = || Sealed::open(&path).map(|sealed| CodeCache { own: None, sealed: Some(sealed) });
    assert!(load(&sealed().unwrap(), &engine, a).is_some());
    assert!(load(&sealed().unwrap(), &engine, Digest::of(b"b")).is_none());
    // An image built on another one adds entries.
    let b = store(&cache(&own, 1 << 30), &engine, "b");
    fs::remove_file(own.join(name(&EngineStamp::of(&engine), a))).unwrap();
    assert_eq!(seal(&open(&own, 1 << 30).unwrap(), &path), Ok(1));
    let both = sealed().unwrap();
    assert!(load(&both, &engine, a).is_some() && load(&both, &engine, b).is_some());
    // One changed byte of the code, and an entry that the index does not have.
    let [first, second] = <[PathBuf; 2]>::try_from(entries(&path)).unwrap();
    let whole = fs::read(&first).unwrap();
    let mut flipped = whole.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    fs::write(&first, flipped).unwrap();
    assert_eq!([a, b].iter().filter(|digest| load(&both, &engine, **digest).is_some()).count(), 1);
    fs::write(&first, whole).unwrap();
    let index = fs::read_to_string(path.join("index")).unwrap();
    let second = second.file_name().unwrap().to_str().unwrap();
    let less: String = index.lines().filter(|line| !line.ends_with(second)).map(|line| format!("{line}\n")).collect();
    fs::write(path.join("index"), less).unwrap();
    assert_eq!([a, b].iter().filter(|digest| load(&sealed().unwrap(), &engine, **digest).is_some()).count(), 1);
    // An index or a directory that others can write.
    for place in [path.join("index"), path.clone()] {
        let mode = fs::metadata(&place).unwrap().permissions();
        fs::set_permissions(&place, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(sealed().is_err_and(|why| why.contains("other users can write")), "{}", place.display());
        fs::set_permissions(&place, mode).unwrap();
    }
    assert!(sealed().is_ok());
}

/// A full disk is logged once, and again only after an entry could be written in between.
#[test]
fn an_unwritable_directory_does_not_affect_services() {
    let directory = tempfile::tempdir().unwrap();
    let cache = cache(directory.path(), 1 << 30);
    let engine = Engine::default();
    let own = cache.own.as_ref().unwrap();
    assert!(!own.is_failing());
    fs::remove_dir_all(directory.path()).unwrap();
    store(&cache, &engine, "a");
    assert!(own.is_failing());
    fs::create_dir(directory.path()).unwrap();
    store(&cache, &engine, "a");
    assert!(!own.is_failing());
}
