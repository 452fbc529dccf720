use std::fs;
use std::os::unix::fs::symlink;

use proptest::prelude::*;

use super::*;
use crate::files;

/// The only file, as it is with this inode and content. Inodes above 9 are those of files that were renamed into place.
fn seen(inode: u64, changed: i64, text: &str) -> SeenFiles<String> {
    let file = SeenFile { stamp: Some((1, inode, changed, 0, 0)), is_placed: inode > 9, content: text.to_owned() };
    [("file".into(), file)].into()
}

fn waits(files: &mut FilesInUse<String>, found: &SeenFiles<String>) -> Option<(bool, u64)> {
    match files.judge(found) {
        Completeness::Complete => None,
        Completeness::Waits { is_new, left, .. } => Some((is_new, left.as_secs())),
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_written_in_place_has_to_stay() {
    let wait = async |seconds| tokio::time::advance(Duration::from_secs(seconds)).await;
    let mut files = FilesInUse::default();
    assert_eq!(waits(&mut files, &seen(1, 0, "a: 1\nb: 2\n")), None, "it was written long ago");
    files.accept(seen(1, 0, "a: 1\nb: 2\n"));
    assert_eq!(waits(&mut files, &seen(1, 1, "a: 1\nb: 2\n")), None, "it is the same");
    assert_eq!(waits(&mut files, &seen(1, 2, "a: 1\n")), Some((true, 5)));
    wait(4).await;
    assert_eq!(waits(&mut files, &seen(1, 2, "a: 1\n")), Some((false, 1)));
    assert_eq!(waits(&mut files, &seen(1, 3, "c: 1\n")), Some((true, 5)), "it may be the beginning of a new text");
    wait(4).await;
    assert_eq!(waits(&mut files, &seen(1, 4, "c: 1\n")), Some((false, 1)), "it was written again, as it was");
    assert_eq!(waits(&mut files, &seen(2, 4, "c: 1\n")), Some((false, 1)), "another file that was not renamed");
    wait(1).await;
    assert_eq!(waits(&mut files, &seen(2, 5, "c: 1\n")), None, "it has stayed");
    assert_eq!(waits(&mut files, &seen(10, 4, "c: 2\n")), None, "it was renamed into place");
    files.accept(seen(10, 4, "c: 2\n"));
    assert_eq!(waits(&mut files, &seen(10, 5, "c: 3\n")), Some((true, 5)), "the file in use was written to");
    assert_eq!(waits(&mut files, &SeenFiles::new()), Some((true, 5)), "it is not named any more, and may be again");
    let gone = SeenFile { stamp: None, is_placed: false, content: String::new() };
    assert_eq!(waits(&mut files, &[("file".into(), gone)].into()), Some((true, 5)), "it is gone, and may return");
}

#[tokio::test(start_paused = true)]
async fn the_first_content_has_to_have_stayed() {
    let ago = |seconds: u64| {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        seen(1, (now.as_secs() - seconds).cast_signed(), "a")
    };
    let first = |found: SeenFiles<String>| waits(&mut FilesInUse::default(), &found);
    assert_eq!(first(ago(6)), None);
    let (is_new, left) = first(ago(2)).unwrap();
    assert!(is_new && left < 4, "{left}");
    // The clock of its file system is ahead.
    let ahead = ago(0).into_iter().map(|(path, file)| {
        let stamp = file.stamp.map(|(device, inode, seconds, ..)| (device, inode, seconds + 3600, 0, 0));
        (path, SeenFile { stamp, ..file })
    });
    let (mut files, ahead) = (FilesInUse::default(), ahead.collect());
    assert_eq!(waits(&mut files, &ahead), Some((true, 5)));
    tokio::time::advance(CUT_TIME).await;
    assert_eq!(waits(&mut files, &ahead), None);
    assert_eq!(first(seen(10, i64::MAX, "a")), None, "it was renamed into place");
    // Once something is in use, an age says nothing.
    files.accept(ahead);
    assert_eq!(waits(&mut files, &seen(1, 0, "b")), Some((true, 5)));
}

/// A link that is made after its file was written names a complete one; a file that is written to after that is not.
#[test]
fn links_place_files() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    // As long as the clock of the file system has not moved, nothing is known.
    let until = |name: &str, placed: bool, again: &dyn Fn()| {
        let holds = (0..10_000).any(|_| {
            again();
            is_placed(&at(name)) == placed
        });
        assert!(holds, "{name}");
    };
    fs::create_dir(at("first")).unwrap();
    fs::write(at("first/key"), "one").unwrap();
    assert!(!is_placed(&at("first/key")) && !is_placed(&at("none")));
    symlink("first", at("data")).unwrap();
    symlink("data/key", at("key")).unwrap();
    until("key", true, &|| {
        fs::remove_file(at("key")).unwrap();
        symlink("data/key", at("key")).unwrap();
    });
    until("key", false, &|| fs::write(at("first/key"), "two").unwrap());
    // The directory is replaced, as a whole.
    until("key", true, &|| {
        let _ = fs::remove_file(at("new"));
        symlink("first", at("new")).unwrap();
        fs::rename(at("new"), at("data")).unwrap();
    });
    fs::write(at("plain"), "one").unwrap();
    assert!(!is_placed(&at("plain")));
    files::replace(&at("plain"), b"two").unwrap();
    assert!(is_placed(&at("plain")));
}

/// The bytes of a whole content.
const WHOLE: u64 = 5;

/// A step of a writer.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// It opens the file, which is empty then.
    Open,
    /// It writes the next byte.
    Write,
    Unlink,
    /// It renames a whole file into place.
    Rename,
    /// Time passes.
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        1 => Just(Step::Open),
        4 => Just(Step::Write),
        1 => Just(Step::Unlink),
        1 => Just(Step::Rename),
        2 => (0..5_000u64).prop_map(Step::Wait),
    ]
}

proptest! {
    /// Whatever a writer does that never pauses for [`CUT_TIME`] within a content: only whole contents are used, also of a host that
    /// starts meanwhile.
    #[test]
    fn no_half_is_used(steps in prop::collection::vec((step(), any::<bool>()), 1..40), starts in 0..20usize) {
        let (begun, zero, mut time) = (SystemTime::UNIX_EPOCH, Instant::now(), Duration::from_secs(1));
        // The inode, and of a file that is there its bytes, its number, and whether it was renamed.
        let (mut inode, mut file, mut number, mut last) = (1, Some((WHOLE, 0, false)), 0, time);
        // When the host saw first that there is no file, and has seen nothing else since.
        let (mut files, mut used, mut gone) = (FilesInUse::default(), None, None);
        for (index, (step, looks)) in steps.into_iter().enumerate() {
            match step {
                Step::Open => {
                    inode += u64::from(file.is_none());
                    (number, last) = (number + 1, time);
                    file = Some((0, number, false));
                }
                Step::Write => {
                    if let Some((length, _, is_placed)) = file.as_mut().filter(|(length, ..)| *length < WHOLE) {
                        (*length, *is_placed, last) = (*length + 1, false, time);
                    }
                }
                Step::Unlink => (file, last) = (None, time),
                Step::Rename => {
                    (number, inode, last) = (number + 1, inode + 1, time);
                    file = Some((WHOLE, number, true));
                }
                Step::Wait(ms) => {
                    let is_whole = file.is_some_and(|(length, ..)| length == WHOLE);
                    let end = if is_whole { Duration::MAX } else { last + CUT_TIME - Duration::from_millis(1) };
                    time = (time + Duration::from_millis(ms)).min(end);
                }
            }
            if !looks || index < starts {
                continue;
            }
            gone = file.is_none().then(|| gone.unwrap_or(time));
            let stamp = |length| (1, inode, last.as_secs().cast_signed(), last.subsec_nanos().into(), length);
            let seen = SeenFile {
                stamp: file.map(|(length, ..)| stamp(length)),
                is_placed: file.is_some_and(|(.., is_placed)| is_placed),
                content: file.map(|(length, number, _)| (length, number)),
            };
            let seen = SeenFiles::from([(PathBuf::from("file"), seen)]);
            if files.judge_at(&seen, zero + time, begun + time) == Completeness::Complete {
                files.accept(seen);
                // Nothing is known of a file that is absent at the first look.
                let is_gone = used.is_none() || gone.is_some_and(|since| time >= since + CUT_TIME);
                let is_whole = file.map_or(is_gone, |(length, ..)| length == WHOLE);
                prop_assert!(is_whole, "{:?} is used after {:?}", file, step);
                used = file;
            }
        }
    }
}
