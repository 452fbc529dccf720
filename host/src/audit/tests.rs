mod files;
mod parts;

use std::fs;
use std::io::Write as _;

use super::trail::{Head, line};
use super::verify::{Chain, first_number};
use super::*;

fn settings(file: &Path, size: usize, files: usize) -> Settings {
    Settings { file: Some(file.to_owned()), size, files, required: false }
}

fn change(number: usize) -> Event {
    Event::Change { service: Some("users".into()), file: None, change: format!("change {number}") }
}

fn request() -> Event {
    Event::Request(Box::new(RequestEvent {
        request_id: "id".into(),
        service: "users".into(),
        route: "/users".into(),
        auth: None,
        subject: None,
        client: [127, 0, 0, 1].into(),
        method: "GET".into(),
        path: "/users".into(),
        decision: "allow",
        status: Some(200),
        reason: None,
        ms: 1,
    }))
}

/// Writes to a trail until it is closed.
fn host(file: &Path, drained: bool, events: usize) {
    let audit = AuditTrail::open(&settings(file, 1 << 20, 3)).unwrap().unwrap();
    audit.begin(Path::new("/srv"));
    (0..events).for_each(|number| audit.record(change(number)));
    audit.close(drained);
}

fn text(file: &Path) -> String {
    fs::read_to_string(file).unwrap()
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

/// What cannot be written is counted, told by the next line that can be, and noted for the next host.
#[test]
fn lines_are_lost_and_the_trail_says_so() {
    let (_directory, file) = trail(1, 1 << 20, 3);
    let settings = settings(&file, 1 << 20, 3);
    let run = |trail: Trail, events: usize, counts: &Arc<TrailCounts>| {
        let (queue, orders) = sync_channel(8);
        (0..events).for_each(|number| queue.send(Order::Write(SystemTime::now(), change(number))).unwrap());
        let (done, closed) = sync_channel(1);
        queue.send(Order::Close(Event::Stopped { drained: true }, done)).unwrap();
        counts.waiting.store(events as u64, Relaxed);
        TrailWriter::new(trail, Arc::clone(counts)).run(&orders);
        closed.recv().unwrap();
    };
    let counts = Arc::new(TrailCounts::default());
    counts.lose(2);
    let mut broken = Trail::open(&file, &settings).unwrap();
    broken.break_for_test();
    run(broken, 5, &counts);
    // The last line is one of them.
    assert_eq!([counts.untold.load(Relaxed), counts.lost.load(Relaxed)], [8, 8]);
    assert!(counts.fails.load(Relaxed));
    let next = Trail::open(&file, &settings).unwrap();
    assert_eq!(next.lost_before(), 8);
    let counts = Arc::new(TrailCounts::default());
    counts.untold.store(next.lost_before(), Relaxed);
    run(next, 5, &counts);
    let chain = check(std::slice::from_ref(&file)).unwrap();
    assert_eq!((chain.lines, chain.lost, counts.untold.load(Relaxed)), (8, 8, 0));
    assert_eq!(Trail::open(&file, &settings).unwrap().lost_before(), 0, "nothing is told twice");
    // A note without a number, as a full disk takes it.
    fs::write(file.with_file_name("audit.log.lost"), "").unwrap();
    assert_eq!(Trail::open(&file, &settings).unwrap().lost_before(), 1);
}

/// A full queue makes nobody wait, and requests do not push out what operators do.
#[test]
fn places_are_reserved() {
    let (queue, orders) = sync_channel(usize::try_from(QUEUE + RESERVED).unwrap());
    let audit = AuditTrail { queue, counts: Arc::default(), attempts: Mutex::new((Instant::now(), 0)), required: true };
    (0..QUEUE + 10).for_each(|_| audit.record(request()));
    assert_eq!(audit.lost(), 10);
    assert!(audit.counts.overflows.load(Relaxed));
    (0..RESERVED).for_each(|number| audit.record(change(usize::try_from(number).unwrap())));
    assert_eq!(audit.lost(), 10);
    audit.record(change(0));
    assert_eq!(audit.lost(), 11);
    assert!(!audit.refuses_changes());
    audit.counts.fails.store(true, Relaxed);
    assert!(audit.refuses_changes());
    drop(orders);
    audit.close(true);
}

/// A flood of refused operators is some lines, and a number.
#[test]
fn refused_operators_are_counted() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("audit.log");
    let audit = AuditTrail::open(&settings(&file, 1 << 20, 3)).unwrap().unwrap();
    (0..1000).for_each(|_| audit.record_attempt(change(0)));
    audit.close(true);
    let text = text(&file);
    assert_eq!(text.matches("change 0").count(), ATTEMPTS as usize);
    let counted: u64 = text.lines().filter(|line| line.contains("\"kind\":\"attempts\"")).map(requests).sum();
    assert_eq!(counted, 1000 - u64::from(ATTEMPTS));
    assert_eq!(audit.lost(), 0);
}

fn requests(line: &str) -> u64 {
    serde_json::from_str::<Value>(line).unwrap()["requests"].as_u64().unwrap()
}

/// The end of a host waits for operators' requests in progress.
#[test]
fn what_is_in_progress_is_recorded() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("audit.log");
    let audit = AuditTrail::open(&settings(&file, 1 << 20, 3)).unwrap().unwrap();
    audit.expect();
    let working = Arc::clone(&audit);
    let work = std::thread::spawn(move || {
        std::thread::park_timeout(LAST / 10);
        working.record(change(7));
        working.settle();
    });
    audit.close(false);
    work.join().unwrap();
    let text = text(&file);
    let last = text.lines().last().unwrap();
    assert!(
        text.contains("change 7") && last.contains("\"kind\":\"stopped\"") && last.contains("\"drained\":false"),
        "{text}"
    );
}

/// What was cut off while no host ran: found by a noted hash, and by a start without an end before it.
#[test]
fn a_tail_that_is_cut_before_a_start_is_found() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("audit.log");
    host(&file, true, 6);
    let before = text(&file);
    let noted = check(std::slice::from_ref(&file)).unwrap().ends.unwrap()[1].1.clone();
    host(&file, true, 1);
    let contains = |hash: &String| {
        let mut chain = Chain::with([hash]);
        chain.read(text(&file).as_bytes()).map(|()| chain)
    };
    let grown = contains(&noted).unwrap();
    assert!(grown.wanted.is_empty() && grown.unstopped.is_none(), "{grown:?}");
    // Half of the lines.
    let cut: String = before.split_inclusive('\n').take(4).collect();
    fs::write(&file, cut).unwrap();
    host(&file, true, 1);
    let cut = contains(&noted).unwrap();
    assert_eq!((cut.wanted.len(), cut.unstopped), (1, Some((1, 5))));
    // A line between the end of a host and the start of the next is of no host.
    let head = {
        let [_, (seq, hash)] = cut.ends.unwrap();
        let bytes = (0..64).step_by(2).map(|at| u8::from_str_radix(&hash[at..at + 2], 16).unwrap());
        Head { next: seq + 1, hash: bytes.collect::<Vec<_>>().try_into().unwrap() }
    };
    let forged = line(head, SystemTime::now(), &change(3)).unwrap() + "\n";
    fs::OpenOptions::new().append(true).open(&file).unwrap().write_all(forged.as_bytes()).unwrap();
    host(&file, true, 1);
    assert!(contains(&noted).unwrap_err().contains("it follows the end of a host"), "{:?}", contains(&noted));
}

/// After a text that is no line, the numbers go on, so that a check can compare them.
#[test]
fn numbers_go_on_after_what_is_no_line() {
    for junk in ["junk\n", "junk", "\n\n", "{\"seq\":4,\"previous\":\"\n", "{\"seq\":4"] {
        let (_directory, file) = trail(3, 1 << 20, 3);
        fs::OpenOptions::new().append(true).open(&file).unwrap().write_all(junk.as_bytes()).unwrap();
        append(&file, 1, &settings(&file, 1 << 20, 3));
        let junk_lines = junk.matches('\n').count().max(1);
        let last = text(&file).lines().last().and_then(|line| number(line.as_bytes()));
        assert_eq!(last, Some(4 + junk_lines as u64), "{junk:?}");
        let is_part = junk.starts_with('{');
        assert_eq!(check(std::slice::from_ref(&file)).is_ok(), is_part, "{junk:?}");
        if is_part {
            let other = text(&file).replace("{\"seq\":5,", "{\"seq\":9,");
            assert!(Chain::default().read(other.as_bytes()).unwrap_err().contains("number 9 in place of 5"));
        }
    }
}

#[test]
fn a_trail_has_one_writer_and_short_texts() {
    let (_directory, file) = trail(1, 1 << 20, 3);
    let held = Trail::open(&file, &settings(&file, 1 << 20, 3)).unwrap();
    assert!(Trail::open(&file, &settings(&file, 1 << 20, 3)).err().unwrap().contains("another host writes to it"));
    drop(held);
    assert!(Trail::open(file.parent().unwrap(), &settings(&file, 1 << 20, 3)).is_err());
    let head = Head::FIRST;
    let event = Event::Change { service: Some("users".into()), file: None, change: "\u{20ac}\n".repeat(10_000) };
    let text = line(head, SystemTime::UNIX_EPOCH, &event).unwrap();
    assert!(text.len() < 4 << 10 && !text.contains('\n'), "{}", text.len());
    assert!(text.contains("\"kind\":\"change\"") && text.contains("\"time\":\"1970-01-01T00:00:00.000Z\""), "{text}");
}

/// What is to be a host writes nothing before it serves.
#[test]
fn a_host_that_does_not_start_writes_nothing() {
    let (_directory, file) = trail(0, 1 << 20, 3);
    drop(AuditTrail::open(&settings(&file, 1 << 20, 3)).unwrap());
    while Trail::open(&file, &settings(&file, 1 << 20, 3)).is_err() {}
    assert_eq!(text(&file), "");
}
