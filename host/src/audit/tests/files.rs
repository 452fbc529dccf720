//! The files of a trail: they rotate, and others may change, move or remove them.

use super::*;

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

/// What is done to the file while the host runs does not make the next line a part of another, or full of NUL bytes.
#[test]
fn a_file_that_is_changed_in_place() {
    let (_directory, file) = trail(3, 1 << 20, 3);
    let settings = settings(&file, 1 << 20, 3);
    let mut trail = Trail::open(&file, &settings).unwrap();
    trail.append(SystemTime::now(), &change(3)).unwrap();
    // Truncated, and then the disk is full.
    fs::write(&file, "").unwrap();
    trail.take_back();
    assert_eq!(fs::metadata(&file).unwrap().len(), 0);
    for (name, changed) in [("truncated", ""), ("a part", "{\"seq\":1"), ("garbage", "garbage")] {
        fs::write(&file, changed).unwrap();
        trail.append(SystemTime::now(), &change(5)).unwrap();
        let text = text(&file);
        let last = text.lines().last().unwrap();
        assert!(number(last.as_bytes()).is_some() && text.lines().count() <= 2, "{name}: {text}");
    }
    // Another file without a newline at its end is moved there.
    let other = file.with_file_name("other");
    fs::write(&other, "garbage").unwrap();
    fs::rename(&other, &file).unwrap();
    trail.append(SystemTime::now(), &change(6)).unwrap();
    let text = text(&file);
    assert!(text.starts_with("garbage\n{\"seq\":") && text.lines().count() == 2, "{text}");
}

/// A rotation that fails stops no line.
#[test]
fn a_file_that_cannot_be_moved_grows() {
    let (_directory, file) = trail(1, 1 << 20, 2);
    let settings = settings(&file, 16 << 10, 2);
    let target = older(&file, 1);
    fs::create_dir(&target).unwrap();
    let mut trail = Trail::open(&file, &settings).unwrap();
    (0..200).for_each(|number| trail.append(SystemTime::now(), &change(number)).unwrap());
    assert!(fs::metadata(&file).unwrap().len() > 32 << 10);
    fs::remove_dir(&target).unwrap();
    trail.rotate_again_for_test();
    trail.append(SystemTime::now(), &change(200)).unwrap();
    let chain = check(&[target, file]).unwrap();
    assert!(chain.whole && chain.lines == 202, "{chain:?}");
}

/// Files are checked in the order of their lines, whatever order they are named in.
#[test]
fn files_have_an_order() {
    let (_directory, file) = trail(400, 16 << 10, 4);
    let number = |file: &Path| first_number(fs::read(file).unwrap().as_slice()).unwrap();
    let [oldest, middle, last] = [older(&file, 2), older(&file, 1), file.clone()].map(|file| number(&file).unwrap());
    assert!(oldest < middle && middle < last);
    assert_eq!(first_number(&b"{\"se\n{\"seq\":7}\n"[..]).unwrap(), Some(7), "after a part of a line");
    assert_eq!(first_number("x\n".repeat(1000).as_bytes()).unwrap(), None);
}
