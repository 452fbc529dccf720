use std::os::unix::fs::symlink;
use std::process::Command;

use super::*;

/// Other entries are refused without delay: opening a FIFO would wait for a writer, and a device may have no end.
#[test]
fn only_regular_files_are_opened() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    assert!(Command::new("mkfifo").arg(at("fifo")).status().unwrap().success());
    symlink(at("fifo"), at("link")).unwrap();
    symlink("/dev/zero", at("zero")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
    for name in ["fifo", "link", "zero", "socket", "."] {
        let error = read(&at(name), 10).unwrap_err();
        assert_eq!((error.kind(), error.to_string().as_str()), (ErrorKind::InvalidInput, IRREGULAR), "{name}");
    }
    fs::write(at("file"), "0123456789").unwrap();
    symlink("file", at("good")).unwrap();
    assert_eq!(read(&at("good"), 10).unwrap(), b"0123456789");
    assert_eq!(read(&at("file"), 9).unwrap_err().kind(), ErrorKind::FileTooLarge);
    // Its metadata give a size of 0.
    assert!(read(Path::new("/proc/self/status"), 1 << 20).unwrap().len() > 100);
    assert_eq!(read(Path::new("/proc/self/status"), 10).unwrap_err().kind(), ErrorKind::FileTooLarge);
    assert_eq!(read(&at("none"), 9).unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn encodings_have_names() {
    let wide = |text: &str, to: fn(u16) -> [u8; 2]| text.encode_utf16().flat_map(to).collect::<Vec<_>>();
    assert_eq!(text(b"\xef\xbb\xbfa = 1".to_vec()).as_deref(), Ok("a = 1"));
    assert_eq!(text("ä = 1".into()).as_deref(), Ok("ä = 1"));
    for bytes in [wide("\u{feff}a = 1", u16::to_le_bytes), wide("\u{feff}a = 1", u16::to_be_bytes)] {
        assert_eq!(text(bytes).unwrap_err(), "it is UTF-16; save it as UTF-8");
    }
    for bytes in [wide("a = 1", u16::to_le_bytes), wide("a = 1", u16::to_be_bytes)] {
        assert_eq!(text(bytes).unwrap_err(), "it looks like UTF-16; save it as UTF-8");
    }
    assert!(text(vec![0xff, 0xfe, 0, 0, b'a', 0, 0, 0]).unwrap_err().contains("UTF-32"));
    assert_eq!(text(b"a = 1\nb = '\xe4'\n".to_vec()).unwrap_err(), "line 2 is not UTF-8; save it as UTF-8");
    assert_eq!(text(Vec::new()).as_deref(), Ok(""));
}

/// Concurrent replacements: the file is complete at every moment, and no temporary file stays behind.
#[test]
fn several_files_are_replaced_atomically() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.wasm");
    let size = 64 << 10;
    replace(&path, &vec![b'0'; size]).unwrap();
    std::thread::scope(|scope| {
        for letter in b'a'..b'h' {
            let path = &path;
            scope.spawn(move || (0..20).for_each(|_| replace(path, &vec![letter; size]).unwrap()));
        }
        for _ in 0..200 {
            let content = fs::read(&path).unwrap();
            assert!(content.len() == size && content.iter().all(|byte| *byte == content[0]));
        }
    });
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    assert!(replace(&directory.path().join("none/a"), b"").is_err());
    fs::create_dir(directory.path().join("b")).unwrap();
    assert!(replace(&directory.path().join("b"), b"").is_err(), "a directory is in its place");
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2);
}

/// The new file has the mode of the old one, whatever the umask; as root, also its owner.
#[test]
fn mode_and_owner_stay() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let shown = |name: &str| {
        let metadata = fs::metadata(at(name)).unwrap();
        (format!("{:o}", metadata.mode() & 0o7777), metadata.uid(), metadata.gid())
    };
    for mode in [0o600, 0o640, 0o664, 0o666, 0o755] {
        fs::write(at("a"), "1").unwrap();
        fs::set_permissions(at("a"), Permissions::from_mode(mode)).unwrap();
        let is_root = std::os::unix::fs::chown(at("a"), Some(4_321), Some(4_322)).is_ok();
        let before = shown("a");
        assert_eq!((before.0.clone(), is_root), (format!("{mode:o}"), before.1 == 4_321));
        replace(&at("a"), b"2").unwrap();
        assert_eq!(shown("a"), before);
        replace_like(&at("b"), b"3", &at("a")).unwrap();
        assert_eq!(shown("b"), before);
        // A file of another mode is renamed over it.
        fs::set_permissions(at("b"), Permissions::from_mode(0o444)).unwrap();
        rename(&at("b"), &at("a")).unwrap();
        assert_eq!((shown("a"), fs::read(at("a")).unwrap()), (before, b"3".to_vec()));
    }
    replace_like(&at("c"), b"", &at("none")).unwrap();
    fs::write(at("d"), "").unwrap();
    assert_eq!(shown("c"), shown("d"), "a new file has the default mode");
}

/// A secret is readable by its owner only, whatever it replaces: also a file that others may read, and a link to one elsewhere.
#[test]
fn secrets_inherit_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let mode = |name: &str| fs::symlink_metadata(at(name)).unwrap().mode() & 0o7777;
    fs::write(at("public"), "old").unwrap();
    fs::set_permissions(at("public"), Permissions::from_mode(0o644)).unwrap();
    symlink("public", at("link")).unwrap();
    let given = std::os::unix::fs::chown(at("public"), Some(4_321), Some(4_322)).is_ok();
    replace_secret(&at("link"), b"key").unwrap();
    assert_eq!((mode("link"), fs::read(at("public")).unwrap()), (0o600, b"old".to_vec()), "the link is replaced");
    replace_secret(&at("public"), b"key").unwrap();
    assert_eq!(mode("public"), 0o600);
    assert_eq!(fs::metadata(at("public")).unwrap().uid(), user(), "{given}");
    assert!(is_private(&at("public")) && !is_private(&at("none")));
    // Room is reserved under another name, and given back.
    let mut replacement = SecretReplacement::new(&at("public")).unwrap();
    replacement.reserve(b"next", 1_000).unwrap();
    assert_eq!(fs::read(at("public")).unwrap(), b"key");
    replacement.finish(b"n").unwrap();
    assert_eq!(fs::read(at("public")).unwrap(), b"n");
    let mut dropped = SecretReplacement::new(&at("public")).unwrap();
    dropped.reserve(b"other", 10).unwrap();
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 3);
    drop(dropped);
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2);
    fs::create_dir(at("taken")).unwrap();
    assert_eq!(SecretReplacement::new(&at("taken")).unwrap_err().kind(), ErrorKind::IsADirectory);
    // Directories.
    fs::set_permissions(at("taken"), Permissions::from_mode(0o755)).unwrap();
    private_directory(&at("taken")).unwrap();
    assert_eq!(mode("taken"), 0o700);
    private_directory(&at("new/deep")).unwrap();
    assert_eq!(mode("new/deep"), 0o700);
    symlink("taken", at("way")).unwrap();
    assert_eq!(private_directory(&at("way")).unwrap_err().kind(), ErrorKind::PermissionDenied);
    if std::os::unix::fs::chown(at("taken"), Some(4_321), None).is_ok() {
        assert_eq!(private_directory(&at("taken")).unwrap_err().kind(), ErrorKind::PermissionDenied);
    }
}

#[test]
fn links_do_not_hide_the_directory() {
    let root = tempfile::tempdir().unwrap();
    let at = |name: &str| root.path().join(name);
    fs::create_dir_all(at("guests/deep")).unwrap();
    fs::create_dir(at("other")).unwrap();
    symlink(at("guests"), at("link")).unwrap();
    symlink("guests/later", at("dangling")).unwrap();
    symlink("../guests/deep", at("other/up")).unwrap();
    for inside in [
        "guests",
        "guests/",
        "./guests/c",
        "guests/./c/d",
        "other/../guests/c",
        "none/../guests/c",
        "link/c",
        "link/new/../c",
        "dangling",
        "dangling/c",
        "other/up/c",
        "other/up/../c",
    ] {
        assert!(is_inside(&at(inside), &at("guests")) && is_inside(&at(inside), &at("link")), "{inside}");
    }
    for outside in ["guests/../c", "guests2", "other/c", "link/../c", "guests/deep/../../c", "other/up/../../c"] {
        assert!(!is_inside(&at(outside), &at("guests")), "{outside}");
    }
    // Neither path exists.
    assert!(is_inside(&at("new/./c"), &at("new")) && !is_inside(&at("new/../c"), &at("new")));
    let relative = |text: &str| Path::new(text).to_owned();
    assert!(is_inside(&relative("./guests-of-nobody/c"), &relative("guests-of-nobody")));
    assert!(is_inside(&relative("guests-of-nobody/c"), &relative("./guests-of-nobody/")));
}

/// Who can replace a link on the way to a file can replace the file.
#[test]
fn the_links_that_lead_to_a_file_count() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    for name in ["real", "links", "way", "other"] {
        fs::create_dir(at(name)).unwrap();
    }
    fs::write(at("real/key"), "").unwrap();
    symlink("../real", at("way/current")).unwrap();
    symlink("../way/current/key", at("links/key")).unwrap();
    for through in ["real", "way", "links", "."] {
        assert!(leads_through(&at("links/key"), &at(through)), "{through}");
    }
    assert!(!leads_through(&at("links/key"), &at("other")) && !leads_through(&at("real/key"), &at("links")));
    assert!(leads_through(&at("links/none/../key"), &at("real")), "a name that does not exist");
    symlink("loop", at("loop")).unwrap();
    assert!(leads_through(&at("loop"), &at(".")));
}
