use std::fs;
use std::sync::mpsc::sync_channel;

use super::verify::Chain;
use super::*;

fn settings(file: &Path, size: usize, files: usize) -> Settings {
    Settings { file: Some(file.to_owned()), size, files }
}

fn change(number: usize) -> Event {
    Event::Change { service: "users".into(), change: format!("change {number}") }
}

/// Writes lines to a trail of its own in a new directory.
fn trail(lines: usize, size: usize, files: usize) -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("audit.log");
    append(&file, lines, &settings(&file, size, files));
    (directory, file)
}

fn append(file: &Path, lines: usize, settings: &Settings) {
    let mut trail = Trail::open(file, settings).unwrap();
    (0..lines).for_each(|number| trail.append(SystemTime::now(), &change(number)).unwrap());
}

fn check(files: &[PathBuf]) -> Result<Chain, String> {
    let mut chain = Chain::default();
    files.iter().try_for_each(|file| chain.read(fs::read(file).unwrap().as_slice()))?;
    Ok(chain)
}

#[test]
fn whatever_is_changed_is_found() {
    let (_directory, file) = trail(6, 1 << 20, 3);
    let whole = fs::read_to_string(&file).unwrap();
    let chain = check(std::slice::from_ref(&file)).unwrap();
    assert!(chain.lines == 6 && chain.whole && chain.lost == 0 && !chain.ends_cut_off(), "{chain:?}");
    let lines: Vec<&str> = whole.lines().collect();
    let without = |at: usize| {
        lines.iter().enumerate().filter(|(n, _)| *n != at).map(|(_, line)| format!("{line}\n")).collect::<String>()
    };
    let mut swapped = lines.clone();
    swapped.swap(2, 3);
    for (name, text) in [
        ("a digit", whole.replace("change 2", "change 9")),
        ("a space", whole.replacen("change 2", "change  2", 1)),
        ("a line is removed", without(3)),
        ("a line is added", whole.replacen(lines[3], &format!("{}\n{}", lines[3], lines[3]), 1)),
        ("two are swapped", swapped.join("\n")),
        ("a line that is none", whole.replacen(lines[3], &format!("what\n{}", lines[3]), 1)),
        ("an object that is none", whole.replacen(lines[3], &format!("{{}}\n{}", lines[3]), 1)),
        ("a long line", whole.clone() + &"x".repeat(100_000)),
        ("no trail", "hello\n".into()),
    ] {
        assert!(Chain::default().read(text.as_bytes()).is_err(), "{name}");
    }
    // The beginning and the end can be cut off, which only their numbers and the last hash tell.
    let later = Chain::default();
    let cut = |text: &str| {
        let mut chain = Chain::default();
        chain.read(text.as_bytes()).unwrap();
        chain
    };
    assert!(!cut(&without(0)).whole && !later.whole);
    assert_ne!(cut(&without(5)).ends.unwrap()[1], chain.ends.unwrap()[1]);
}

/// The chain goes on in the next file, and after a restart.
#[test]
fn files_rotate_and_hosts_restart() {
    let (_directory, file) = trail(400, 16 << 10, 4);
    let files: Vec<_> = [older(&file, 3), older(&file, 2), older(&file, 1), file.clone()].into();
    assert!(files.iter().all(|file| fs::metadata(file).unwrap().len() <= 16 << 10) && !older(&file, 4).exists());
    let before = check(&files).unwrap();
    assert!(before.lines < 400 && !before.whole && before.ends.clone().unwrap()[1].0 == 400, "{before:?}");
    append(&file, 3, &settings(&file, 1 << 20, 4));
    assert_eq!(check(&files).unwrap().ends.unwrap()[1].0, 403);
    // Without one of the files, the chain is broken.
    assert!(check(&[files[0].clone(), files[2].clone()]).unwrap_err().contains("was changed, removed or added"));
    // A file that was moved away just before the host restarts.
    fs::rename(&file, older(&file, 1)).unwrap();
    append(&file, 1, &settings(&file, 1 << 20, 4));
    assert_eq!(check(&[older(&file, 1), file.clone()]).unwrap().ends.unwrap()[1].0, 404);
}

/// A file that is removed or replaced while the host runs does not take the lines that follow with it.
#[test]
fn a_file_that_is_removed_is_begun_again() {
    let (_directory, file) = trail(2, 1 << 20, 3);
    let mut trail = Trail::open(&file, &settings(&file, 1 << 20, 3)).unwrap();
    trail.append(SystemTime::now(), &change(2)).unwrap();
    let moved = file.with_file_name("moved.log");
    fs::rename(&file, &moved).unwrap();
    trail.append(SystemTime::now(), &change(3)).unwrap();
    assert_eq!(check(&[moved, file.clone()]).unwrap().ends.unwrap()[1].0, 4);
    fs::remove_file(&file).unwrap();
    trail.append(SystemTime::now(), &change(4)).unwrap();
    let rest = check(&[file]).unwrap();
    assert!(rest.lines == 1 && !rest.whole, "{rest:?}");
}

/// A host that ends while it writes leaves a part of a line. Nobody can make one later.
#[test]
fn a_line_that_is_cut_off() {
    let (_directory, file) = trail(3, 1 << 20, 3);
    let whole = fs::read(&file).unwrap();
    for part in [1, 9, 60, 120] {
        fs::write(&file, &whole[..whole.len() - part]).unwrap();
        let cut = check(std::slice::from_ref(&file));
        assert!(part == 1 || cut.unwrap().ends_cut_off());
        append(&file, 2, &settings(&file, 1 << 20, 3));
        let chain = check(std::slice::from_ref(&file)).unwrap();
        assert!(chain.cut_off == u64::from(part > 1) && !chain.ends_cut_off(), "{part}: {chain:?}");
        let changed = fs::read_to_string(&file).unwrap();
        let part_line = changed.lines().nth(2).unwrap();
        assert!(Chain::default().read(changed.replacen(part_line, "{", 1).as_bytes()).is_err());
    }
}

/// What cannot be written is counted, and told by the next line that can be.
#[test]
fn lines_are_lost_and_the_trail_says_so() {
    let (_directory, file) = trail(1, 1 << 20, 3);
    let settings = settings(&file, 1 << 20, 3);
    let run = |trail: Trail, lost: &AtomicU64| {
        let (queue, orders) = sync_channel(8);
        (0..5).for_each(|number| queue.send(Order::Write(SystemTime::now(), change(number))).unwrap());
        drop(queue);
        write(trail, &orders, lost);
    };
    let lost = AtomicU64::new(2);
    let mut broken = Trail::open(&file, &settings).unwrap();
    broken.break_for_test();
    run(broken, &lost);
    assert_eq!(lost.load(Relaxed), 7);
    run(Trail::open(&file, &settings).unwrap(), &lost);
    let chain = check(std::slice::from_ref(&file)).unwrap();
    assert_eq!((chain.lines, chain.lost, lost.load(Relaxed)), (7, 7, 0));
    // A full queue never makes anybody wait.
    let (queue, orders) = sync_channel(2);
    let audit = AuditTrail { queue, lost: Arc::default() };
    (0..10).for_each(|number| audit.record(change(number)));
    assert_eq!(audit.lost.load(Relaxed), 8);
    drop(orders);
    audit.flush();
}

#[test]
fn a_trail_has_one_writer_and_short_texts() {
    let (_directory, file) = trail(1, 1 << 20, 3);
    let held = Trail::open(&file, &settings(&file, 1 << 20, 3)).unwrap();
    assert!(Trail::open(&file, &settings(&file, 1 << 20, 3)).err().unwrap().contains("another host writes to it"));
    drop(held);
    assert!(Trail::open(file.parent().unwrap(), &settings(&file, 1 << 20, 3)).is_err());
    let head = Head { next: 1, hash: BEGINNING };
    let event = Event::Change { service: "users".into(), change: "\u{20ac}\n".repeat(10_000) };
    let text = line(head, SystemTime::UNIX_EPOCH, &event).unwrap();
    assert!(text.len() < 4 << 10 && !text.contains('\n'), "{}", text.len());
    assert!(text.contains("\"kind\":\"change\"") && text.contains("\"time\":\"1970-01-01T00:00:00.000Z\""), "{text}");
}
