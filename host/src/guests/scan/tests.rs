//! The scanner and the ledger on a real directory with a clock of the test: no intermediate step of an edit is ever
//! served.

use std::fs::{self, File};
use std::io::Write;
use std::time::Instant;

use http::Method;

mod absences;
mod edits;
mod guards;
mod signatures;

use super::settle::OPENS;
use super::*;
use crate::guests::absent::Absentees;
use crate::guests::ledger::{GONE, HELD, Ledger};
use lodge_base::config::{self, Config};
use lodge_manifest::digest::Digest;
use std::path::PathBuf;

/// A component with a custom section only, whose name is the number.
fn component(number: u8) -> Vec<u8> {
    vec![0, b'a', b's', b'm', 0x0d, 0, 1, 0, 0, 2, 1, number]
}

/// A directory with its scanner and ledger. Everything is compiled at once.
struct World {
    directory: tempfile::TempDir,
    config: Config,
    scanner: Scanner,
    ledger: Ledger<GuestSpec>,
    now: Instant,
    /// Whether renames cause events.
    events: bool,
    placed: Vec<String>,
    /// The number of writes. Each gets a timestamp of its own, as if time had passed in between.
    writes: u64,
    compiles: Compiles,
}

/// What becomes of components that are compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Compiles {
    AtOnce,
    Fails,
    /// It takes longer than the test.
    Long,
}

impl World {
    fn new(files: &[(&str, &[u8])], events: bool) -> Self {
        Self::starting(files, events, Compiles::AtOnce)
    }

    fn starting(files: &[(&str, &[u8])], events: bool, compiles: Compiles) -> Self {
        let directory = tempfile::tempdir().unwrap();
        for (name, content) in files {
            fs::write(directory.path().join(name), content).unwrap();
        }
        let mut world = Self::unseen(directory, config::resolve(&[]).unwrap().config, events);
        world.compiles = compiles;
        world.look();
        world
    }

    fn of(directory: tempfile::TempDir, config: Config, events: bool) -> Self {
        let mut world = Self::unseen(directory, config, events);
        world.look();
        world
    }

    /// A world before the first scan.
    fn unseen(directory: tempfile::TempDir, config: Config, events: bool) -> Self {
        let scanner = Scanner::new(directory.path());
        let (ledger, now) = (Ledger::default(), Instant::now());
        Self {
            directory,
            config,
            scanner,
            ledger,
            now,
            events,
            placed: Vec::new(),
            writes: 0,
            compiles: Compiles::AtOnce,
        }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn look(&mut self) -> Scan {
        let placed = |name: &std::ffi::OsStr| self.events && self.placed.iter().any(|placed| name == placed.as_str());
        let scan = self.scanner.scan_at(&self.config, self.now, &placed).unwrap();
        let (wanted, _) = self.ledger.see(scan.found.clone(), self.now);
        self.compile(wanted);
        self.ledger.published(|_| true);
        scan
    }

    fn compile(&mut self, wanted: Vec<GuestSpec>) {
        for spec in wanted {
            let bad = Refusal::new("a.wasm", "it does not start", "mend it");
            let _ = match self.compiles {
                // The less specific service beside others.
                _ if spec.name == "site" => self.ledger.compiled(spec.clone(), Ok(spec)),
                Compiles::AtOnce => self.ledger.compiled(spec.clone(), Ok(spec)),
                Compiles::Fails => self.ledger.compiled(spec, Err(bad)),
                Compiles::Long => None,
            };
        }
    }

    /// Whether a request for this path is one for a service that cannot serve, or for none.
    fn is_held(&self, path: &str) -> bool {
        let mut absent = Absentees::new(self.ledger.absent(), self.ledger.names());
        absent.beside(self.ledger.live().collect::<Vec<_>>().iter(), |_, _| true);
        absent.at("x", path, &Method::GET, false) != Ok(None)
    }

    /// Scans whenever the scanner or the ledger request it, for this time.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let again = self.look().again.map(|again| self.now + again);
            let next = [again, self.ledger.next_look()].into_iter().flatten().min();
            match next.map(|next| next.max(self.now + Duration::from_millis(1))).filter(|next| *next < end) {
                Some(next) => self.now = next,
                None => break,
            }
        }
        self.now = end;
        self.look();
    }

    fn live(&self, name: &str) -> Option<GuestSpec> {
        self.ledger.live().find(|spec| spec.name == name)
    }

    /// A value of its environment, which identifies the manifest.
    fn said(&self, name: &str) -> Option<String> {
        self.live(name)?.manifest.env.first_key_value()?.1.text().map(str::to_owned)
    }

    fn stamp(&mut self, name: &str) {
        self.writes += 1;
        let file = File::options().append(true).open(self.at(name)).unwrap();
        file.set_modified(std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(self.writes)).unwrap();
    }

    fn write(&mut self, name: &str, text: impl AsRef<[u8]>) {
        fs::write(self.at(name), text).unwrap();
        self.stamp(name);
        self.placed.retain(|placed| placed != name);
    }

    fn unlink(&mut self, name: &str) {
        let _ = fs::remove_file(self.at(name));
        self.placed.retain(|placed| placed != name);
    }

    fn append(&mut self, name: &str, text: &str) {
        let file = File::options().append(true).create(true).open(self.at(name));
        file.unwrap().write_all(text.as_bytes()).unwrap();
        self.stamp(name);
        self.placed.retain(|placed| placed != name);
    }

    fn rename(&mut self, name: &str, text: impl AsRef<[u8]>) {
        fs::write(self.at(".new"), text).unwrap();
        self.stamp(".new");
        fs::rename(self.at(".new"), self.at(name)).unwrap();
        self.placed.push(name.to_owned());
    }

    fn refused(&self) -> Vec<String> {
        self.ledger.refusals().iter().map(ToString::to_string).collect()
    }
}

#[test]
fn a_manifest_counts_as_removed_after_a_while() {
    let mut world = World::new(&[("a.wasm", &component(0)), ("a.toml", b"env.N = '1'")], true);
    world.unlink("a.toml");
    world.pass(SETTLE - Duration::from_millis(1));
    assert_eq!(world.said("a"), Some("1".into()));
    world.pass(Duration::from_millis(1));
    assert_eq!((world.said("a"), world.live("a").is_some()), (None, true));
    // Both files are removed and return, the component first: it is not served without its manifest.
    world.write("a.toml", "env.N = '2'");
    world.pass(SETTLE);
    world.unlink("a.wasm");
    world.unlink("a.toml");
    world.pass(GONE - Duration::from_millis(100));
    world.write("a.wasm", component(1));
    world.pass(SETTLE - Duration::from_millis(100));
    assert_eq!(world.said("a"), Some("2".into()));
    world.write("a.toml", "env.N = '3'");
    world.pass(SETTLE);
    assert_eq!((world.said("a"), world.live("a").unwrap().digest), (Some("3".into()), Digest::of(&component(1))));
}

/// A component that is written again while its manifest changes counts as touched once the manifest has settled; one that is not,
/// does not.
#[test]
fn a_touch_beside_a_changing_manifest_counts() {
    for (name, file) in [("a", "a.wasm"), ("a@2", "a@2.wasm")] {
        for touched in [false, true] {
            let mut world = World::new(&[("a.wasm", &component(0)), ("a@2.wasm", &component(1))], false);
            world.pass(Duration::from_secs(3));
            world.write("a.toml", "env = { A = '1' }");
            world.look();
            if touched {
                world.stamp(file);
            }
            let mut seen = 0;
            for _ in 0..60 {
                world.now += Duration::from_millis(100);
                seen += usize::from(world.look().found[name].touched);
            }
            assert_eq!(seen, usize::from(touched), "{file}");
            assert_eq!(world.said(name).as_deref(), Some("1"));
        }
    }
}

#[test]
fn a_file_renamed_into_place_takes_effect_soon() {
    let mut world = World::new(&[("a.wasm", &component(0)), ("a.toml", b"env.N = '1'")], true);
    world.rename("a.toml", "env.N = '2'");
    world.pass(PLACED);
    assert_eq!(world.said("a"), Some("2".into()));
    // A new component takes effect at once.
    world.rename("a.wasm", component(1));
    world.look();
    assert_eq!(world.live("a").unwrap().digest, Digest::of(&component(1)));
    // An append ends that, as does anything that makes it another file than the renamed one.
    world.rename("a.toml", "env.N = '3'");
    world.look();
    world.append("a.toml", "\n");
    world.pass(PLACED * 2);
    assert_eq!(world.said("a"), Some("2".into()));
    world.pass(SETTLE - PLACED * 2);
    assert_eq!(world.said("a"), Some("3".into()));
    // The file in force is edited in place, before an event tells so.
    world.write("a.toml", "env.N = '4'");
    world.placed.push("a.toml".into());
    world.pass(SETTLE - Duration::from_millis(1));
    assert_eq!(world.said("a"), Some("3".into()));
    // A link can be renamed into place before its target is complete.
    fs::write(world.at("target"), "env.N = '5'").unwrap();
    std::os::unix::fs::symlink("target", world.at(".link")).unwrap();
    fs::rename(world.at(".link"), world.at("a.toml")).unwrap();
    world.pass(PLACED * 2);
    assert_eq!(world.said("a"), Some("3".into()));
    world.pass(SETTLE);
    assert_eq!(world.said("a"), Some("5".into()));
    // Without events renames are not known.
    world.events = false;
    world.rename("a.toml", "env.N = '6'");
    world.pass(SETTLE - Duration::from_millis(1));
    assert_eq!(world.said("a"), Some("5".into()));
    world.pass(Duration::from_millis(1));
    assert_eq!(world.said("a"), Some("6".into()));
}

#[test]
fn a_disabled_service_stays_disabled() {
    let off = "enabled = false\n";
    let mut world = World::new(&[("a.wasm", &component(0)), ("a.toml", off.as_bytes())], true);
    assert!(world.live("a").is_none());
    for _ in 0..2 {
        world.unlink("a.toml");
        world.pass(SETTLE / 2);
        world.write("a.toml", "");
        world.pass(SETTLE / 2);
        world.append("a.toml", "priority = 'low'\n");
        world.pass(SETTLE / 2);
        assert!(world.live("a").is_none());
        world.append("a.toml", off);
        world.pass(SETTLE / 2);
        assert!(world.live("a").is_none());
    }
    world.rename("a.toml", "enabled = true");
    world.pass(PLACED);
    assert!(world.live("a").is_some());
    // At once, in any form.
    world.write("a.toml", off);
    world.look();
    assert!(world.live("a").is_none());
}

/// A component whose manifest follows a moment later is not served without it. Without a manifest it is served soon.
#[test]
fn a_new_service_waits_for_its_manifest() {
    let mut world = World::new(&[], true);
    world.write("a.wasm", component(0));
    world.pass(HELD - Duration::from_millis(1));
    assert!(world.live("a").is_none());
    world.write("a.toml", "deny = ['0.0.0.0/0']");
    for _ in 0..4 {
        world.pass(SETTLE / 4 - Duration::from_millis(1));
        assert!(world.live("a").is_none());
    }
    world.pass(Duration::from_millis(4));
    assert_ne!(world.live("a").unwrap().manifest.policies, lodge_manifest::policies::Policies::default());
    world.write("b.wasm", component(0));
    world.pass(HELD);
    assert!(world.live("b").is_some());
}

/// A component that is put in place while a manifest changes waits for it: the two may belong together.
#[test]
fn old_and_new_files_are_not_mixed() {
    let mut world = World::new(&[("a.wasm", &component(0)), ("a.toml", b"env.N = '1'")], true);
    world.write("a.toml", "");
    world.look();
    world.rename("a.wasm", component(1));
    world.pass(SETTLE / 2);
    let live = world.live("a").unwrap();
    assert_eq!((live.digest, world.said("a")), (Digest::of(&component(0)), Some("1".into())));
    world.write("a.toml", "env.N = '2'");
    world.pass(SETTLE);
    let live = world.live("a").unwrap();
    assert_eq!((live.digest, world.said("a")), (Digest::of(&component(1)), Some("2".into())));
}

#[test]
fn ignored_names() {
    let mut world = World::new(&[("a.wasm", &component(0)), (".hidden.wasm", b"x"), (".hidden.toml", b"x=")], true);
    std::os::unix::fs::symlink("me@host.123:456", world.at(".#a.toml")).unwrap();
    fs::write(world.at("._a.wasm"), "x").unwrap();
    fs::write(world.at("Orders.WASM"), component(0)).unwrap();
    fs::write(world.at("orders.Toml"), "").unwrap();
    fs::write(world.at("readme.txt"), "").unwrap();
    let scan = world.look();
    assert_eq!(scan.found.keys().collect::<Vec<_>>(), ["a"]);
    assert_eq!(scan.ignored, ["Orders.WASM", "orders.Toml"]);
    world.pass(SETTLE * 2);
    assert_eq!(world.refused(), Vec::<String>::new());
}

/// An unreadable manifest is reported, and never counts as an empty one.
#[test]
fn unreadable_manifests() {
    let wide = |text: &str| text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<_>>();
    let large = vec![b' '; MANIFEST as usize + 1];
    let files: [(&str, &[u8]); 5] = [
        ("wide.toml", &wide("\u{feff}enabled = true")),
        ("latin.toml", b"# gr\xfc\xdfe\n"),
        ("large.toml", &large),
        ("marked.toml", b"\xef\xbb\xbfenv.N = '1'"),
        ("named.toml", b"\ncomponent = 'nope.wasm'"),
    ];
    let mut all: Vec<(String, Vec<u8>)> =
        files.iter().map(|(name, text)| ((*name).to_owned(), text.to_vec())).collect();
    all.extend(
        ["wide", "latin", "large", "marked", "fifo", "lost", "zero"].map(|name| (format!("{name}.wasm"), component(0))),
    );
    let borrowed: Vec<_> = all.iter().map(|(name, content)| (name.as_str(), content.as_slice())).collect();
    let mut world = World::new(&borrowed, true);
    assert!(std::process::Command::new("mkfifo").arg(world.at("fifo.toml")).status().unwrap().success());
    std::os::unix::fs::symlink("/nowhere/at/all", world.at("lost.toml")).unwrap();
    std::os::unix::fs::symlink("/dev/zero", world.at("zero.toml")).unwrap();
    let (fifo, lost) = (world.live("fifo").is_some(), world.live("lost").is_some());
    assert!(fifo && lost, "they were there before their manifests");
    world.pass(SETTLE * 2);
    let refused = world.refused();
    let directory = world.directory.path().display().to_string();
    for line in [
        "wide.toml: it is UTF-16; save it as UTF-8",
        "latin.toml: line 1 is not UTF-8; save it as UTF-8",
        "large.toml: it has 1.0 MiB, over 1.0 MiB; a manifest is a small text file; shorten it",
        "fifo.toml: it is not a regular file; replace it with the manifest or a link to the manifest",
        "zero.toml: it is not a regular file; replace it with the manifest or a link to the manifest",
        "lost.toml: cannot read it: No such file or directory (os error 2); let the user that runs Lodge read it",
        &format!("named.toml: line 2: component: there is no nope.wasm in {directory}; put it there, or name another"),
    ] {
        assert!(refused.iter().any(|refused| refused == line), "{line}\n{refused:#?}");
    }
    assert_eq!((refused.len(), world.said("marked")), (7, Some("1".into())));
}

/// A scan of an unchanged directory does not request another one.
#[test]
fn unchanged_directories_are_not_scanned_again() {
    let mut world = World::new(&[("a.wasm", &component(0)), ("a.toml", b""), ("b.wasm", b"rubbish")], true);
    assert!(world.look().again.is_none() && world.ledger.next_look().is_none());
    world.write("c.wasm", "rubbish");
    assert!(world.look().again.is_some());
    world.pass(SETTLE * 2);
    assert!(world.look().again.is_none() && world.ledger.next_look().is_none());
    assert_eq!(world.refused().len(), 2);
}
