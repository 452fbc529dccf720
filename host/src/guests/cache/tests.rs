use std::os::unix::fs::PermissionsExt;

use super::*;

const WAT: &str = "(component (core module (func (export \"f\") (result i32) i32.const 7)))";

fn cache(path: &Path, size: usize) -> Cache {
    Cache::open(&config::Cache { directory: CacheDirectory::At(path.to_owned()), size }).expect("a cache")
}

fn entries(path: &Path) -> Vec<PathBuf> {
    let paths = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
    let mut entries: Vec<_> = paths.filter(|path| path.extension().is_some_and(|e| e == ENTRY)).collect();
    entries.sort();
    entries
}

fn store(cache: &Cache, engine: &Engine, text: &str) -> Digest {
    let digest = Digest::of(text.as_bytes());
    let code = engine.precompile_component(&wat::parse_str(WAT).unwrap()).unwrap();
    cache.store(&Stamp::of(engine), digest, &code);
    digest
}

fn load(cache: &Cache, engine: &Engine, digest: Digest) -> Option<Component> {
    cache.load(&Stamp::of(engine), engine, digest)
}

#[test]
fn what_was_stored_is_loaded_by_every_host_with_the_key() {
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
fn nothing_is_trusted_but_what_a_host_wrote() {
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
        // One of the two is the entry that was spoiled, the other is sound.
        assert_eq!([a, b].iter().filter(|digest| load(&cache, &engine, **digest).is_some()).count(), 1);
    }
    // A sound entry under another's name.
    fs::copy(&second, &first).unwrap();
    assert_eq!([a, b].iter().filter(|digest| load(&cache, &engine, **digest).is_some()).count(), 1);
    // Written by a host with another key.
    fs::write(&first, whole).unwrap();
    fs::remove_file(path.join(KEY_FILE)).unwrap();
    let stranger =
        Cache::open(&config::Cache { directory: CacheDirectory::At(path.to_owned()), size: 1 << 30 }).unwrap();
    assert!(load(&stranger, &engine, a).is_none() && load(&stranger, &engine, b).is_none());
}

#[test]
fn a_directory_that_others_write_to_is_not_used() {
    let directory = tempfile::tempdir().unwrap();
    let open = || Cache::open(&config::Cache { directory: CacheDirectory::At(directory.path().to_owned()), size: 1 });
    assert!(open().is_ok());
    for mode in [0o777, 0o770] {
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(mode)).unwrap();
        assert!(open().is_err(), "{mode:o}");
    }
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o700)).unwrap();
    fs::set_permissions(directory.path().join(KEY_FILE), fs::Permissions::from_mode(0o644)).unwrap();
    assert!(open().is_err(), "a key that others can read");
}

#[test]
fn the_longest_unused_goes_first() {
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
    // Both a while ago; then one of them is used.
    for entry in entries(path) {
        File::options().append(true).open(entry).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
    }
    assert!(load(&cache, &engine, a).is_some());
    let c = store(&cache, &engine, "c");
    assert_eq!([a, b, c].map(|digest| load(&cache, &engine, digest).is_some()), [true, false, true]);
}
