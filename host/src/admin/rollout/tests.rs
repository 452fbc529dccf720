use std::cell::Cell;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use lodge_base::config::{self, Origin};

use super::*;
use crate::admin::contract::{FileReport, ServiceInfo, ServiceStatus};
use crate::guests::service_files::canary_manifest;
use crate::guests::trust::key::SigningKey;
use crate::guests::trust::signature::Signature;

/// A component with this content.
fn component(content: &str) -> Vec<u8> {
    [&[0, b'a', b's', b'm', 0x0d, 0, 1, 0], content.as_bytes()].concat()
}

/// A directory with the service `users`, and a host that serves it.
struct Place {
    directory: tempfile::TempDir,
    config: Config,
    key: SigningKey,
    /// Whether the host refuses everything, and whether a trial does.
    refuses: Cell<(bool, bool)>,
    /// Whether the host has not looked at the files yet, and whether it cannot be reached.
    lags: Cell<(bool, bool)>,
    own_only: bool,
}

impl Place {
    fn new() -> Self {
        let config = config::resolve(&[]).unwrap().config;
        let key = SigningKey::new().unwrap().0;
        let (directory, refuses) = (tempfile::tempdir().unwrap(), Cell::new((false, false)));
        Self { directory, config, key, refuses, lags: Cell::default(), own_only: false }
    }

    /// Components must be signed from now on.
    fn with_trust(mut self) -> Self {
        let public = self.at("release.pub");
        fs::write(&public, self.key.public().pem()).unwrap();
        let source = [("trust.keys".to_owned(), public.display().to_string())].into();
        self.config = config::resolve(&[(Origin::Flag, source)]).unwrap().config;
        self
    }

    fn at(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn put(&self, name: &str, content: &str, signed: bool) {
        fs::write(self.at(name), component(content)).unwrap();
        if signed {
            fs::write(self.at(&format!("{name}.sig")), self.key.sign(&component(content)).unwrap()).unwrap();
        }
    }

    fn everything(&self) -> Vec<(String, Vec<u8>)> {
        let entries = fs::read_dir(self.directory.path()).unwrap().map(|entry| entry.unwrap());
        let read = |entry: fs::DirEntry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap());
        let mut all: Vec<_> = entries.map(read).collect();
        all.sort();
        all
    }

    /// What the host says: it serves the component of the service, or refuses that.
    fn report(&self) -> FileReport {
        let digest = Digest::of(&fs::read(self.at("users.wasm")).unwrap_or_default()).to_string();
        let (mut service, mut refused) = (None, None);
        if self.refuses.get().0 {
            let why = RefusedFile { reason: "it is bad".into(), remedy: "mend it".into(), digest: Some(digest) };
            refused = Some(why);
        } else {
            let info = ServiceInfo { name: "users".into(), digest, ..ServiceInfo::default() };
            service = Some(ServiceStatus { info, ..ServiceStatus::default() });
        }
        FileReport { file: "users.wasm".into(), service, refused }
    }

    fn act<T>(&self, act: impl FnOnce(Rollout<'_>) -> T) -> T {
        let files = ServiceFiles::new(self.directory.path(), "users", 1 << 20).unwrap();
        let reports = || match self.lags.get() {
            (_, true) => Err("no host".to_owned()),
            (true, false) => Ok(vec![]),
            _ => Ok(vec![self.report()]),
        };
        let try_out = |_| if self.refuses.get().1 { Err("it does not start".into()) } else { Ok(()) };
        let (config, own_only) = (&self.config, self.own_only);
        let timeout = if self.lags.get().0 { Duration::from_millis(300) } else { verdict::TIMEOUT };
        act(Rollout { config, files: &files, reports: &reports, timeout, try_out: &try_out, own_only })
    }

    fn promote(&self, wanted: Option<Digest>) -> Result<Done, FileError> {
        self.act(|rollout| rollout.promote("canary", Promotion { force: false, wanted }))
    }

    fn roll_back(&self) -> Result<Done, FileError> {
        self.act(|rollout| rollout.restore_previous("canary"))
    }
}

fn verdict(done: Result<Done, FileError>) -> Verdict {
    match done.unwrap() {
        Done::Placed { verdict, .. } => verdict,
        Done::Removed(name) => panic!("removed {name}"),
    }
}

/// What the host would refuse is never put in the place of what it serves, and what it refuses then is taken back completely.
#[test]
fn what_is_refused_changes_nothing() {
    let place = Place::new();
    place.put("users.wasm", "good", true);
    place.put("users@canary.wasm", "canary", true);
    place.put("users.wasm.previous", "before", true);
    fs::write(place.at("users@canary.toml"), "percent = 10\nlimits.memory = '64MiB'\n").unwrap();
    let before = place.everything();
    place.refuses.set((false, true));
    for done in [place.promote(None), place.roll_back()] {
        assert_eq!(done.unwrap_err().to_string(), "it does not start");
        assert_eq!(place.everything(), before);
    }
    place.refuses.set((true, false));
    for done in [place.promote(None), place.roll_back()] {
        let verdict = verdict(done);
        assert!(matches!(&verdict, Verdict::Refused(why) if why == "it is bad; mend it"), "{verdict:?}");
        assert_eq!(place.everything(), before);
    }
    // What is no component at all is not even tried.
    place.refuses.set((false, false));
    fs::write(place.at("users@canary.wasm"), "<html>").unwrap();
    fs::write(place.at("users.wasm.previous"), "").unwrap();
    let before = place.everything();
    assert!(place.promote(None).unwrap_err().to_string().contains("it is HTML or XML, not WebAssembly"));
    assert!(place.roll_back().unwrap_err().to_string().contains("it is empty"));
    assert_eq!(place.everything(), before);
}

/// A version keeps its files until the host serves its component in the place of the service. Once more then ends the promotion.
#[test]
fn a_version_stays_until_the_service_is_its_component() {
    for lags in [(true, false), (false, true)] {
        let place = Place::new();
        place.put("users.wasm", "good", true);
        place.put("users@canary.wasm", "canary", true);
        fs::write(place.at("users@canary.toml"), "percent = 10\n").unwrap();
        place.lags.set(lags);
        let Done::Placed { verdict, stays, .. } = place.promote(None).unwrap() else { panic!() };
        assert!(matches!(verdict, Verdict::TimedOut | Verdict::Unreachable(_)), "{verdict:?}");
        assert_eq!(stays.as_deref(), Some("users@canary"));
        let names: Vec<_> = place.everything().into_iter().map(|(name, _)| name).collect();
        for name in ["users@canary.wasm", "users@canary.wasm.sig", "users@canary.toml", "users.wasm.previous"] {
            assert!(names.iter().any(|there| there == name), "{name} in {names:?}");
        }
        assert_eq!(fs::read(place.at("users.wasm")).unwrap(), component("canary"));
        place.lags.set((false, false));
        let Done::Placed { verdict, unchanged, stays, .. } = place.promote(None).unwrap() else { panic!() };
        assert!(matches!(verdict, Verdict::Serving) && unchanged && stays.is_none(), "{verdict:?}");
        let names: Vec<_> = place.everything().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["users.wasm", "users.wasm.previous", "users.wasm.previous.sig", "users.wasm.sig"]);
    }
}

/// A rollback swaps, so that another one undoes it; a promotion keeps what it replaces.
#[test]
fn rollbacks_can_be_undone() {
    let place = Place::new();
    place.put("users.wasm", "1", true);
    place.put("users@canary.wasm", "2", false);
    fs::write(place.at("users@canary.toml"), "percent = 10\n").unwrap();
    fs::remove_file(place.at("users.wasm.sig")).unwrap();
    let now = || ["users.wasm", "users.wasm.previous"].map(|name| fs::read(place.at(name)).unwrap()[8..].to_vec());
    assert!(matches!(verdict(place.promote(None)), Verdict::Serving));
    let names: Vec<_> = place.everything().into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["users.wasm", "users.wasm.previous"]);
    assert_eq!(now(), [b"2", b"1"]);
    for expected in [[b"1", b"2"], [b"2", b"1"]] {
        assert!(matches!(verdict(place.roll_back()), Verdict::Serving));
        assert_eq!(now(), expected);
    }
    fs::remove_file(place.at("users.wasm.previous")).unwrap();
    assert!(place.roll_back().unwrap_err().to_string().contains("nothing to roll back to"));
}

/// Signatures go with their components, and the component that a manifest requires is replaced by no other one.
#[test]
fn signatures_and_manifests_hold() {
    let place = Place::new();
    place.put("users.wasm", "good", true);
    place.put("users@canary.wasm", "canary", false);
    place.put("users.wasm.previous", "before", false);
    let refused = |place: &Place, words: &str| {
        let before = place.everything();
        for (done, file) in [(place.promote(None), "users@canary.wasm"), (place.roll_back(), "users.wasm.previous")] {
            let why = done.unwrap_err().to_string();
            assert!(why.contains(file) && why.contains(words), "{why}");
        }
        assert_eq!(place.everything(), before);
    };
    // Without `trust.keys`, the signature of the component that is there says that a host may want one.
    refused(&place, "nothing was changed");
    let place = place.with_trust();
    refused(&place, "nothing was changed");
    place.put("users@canary.wasm", "canary", true);
    place.put("users.wasm.previous", "before", true);
    let required = format!("digest = 'sha256:{}'", Digest::of(&component("good")));
    fs::write(place.at("users.toml"), required).unwrap();
    refused(&place, "its manifest requires sha256:");
    fs::remove_file(place.at("users.toml")).unwrap();
    let why = place.promote(Some(Digest::of(b"another"))).unwrap_err().to_string();
    assert!(why.contains("is to be promoted; nothing was changed"), "{why}");
    assert!(matches!(verdict(place.promote(Some(Digest::of(&component("canary"))))), Verdict::Serving));
    let verifies = |content: &str| {
        let Signature::Bytes(all) = Signature::read(&fs::read(place.at("users.wasm.sig")).unwrap()) else { panic!() };
        place.key.public().verifies(&component(content), &all[0])
    };
    assert!(verifies("canary"));
    assert!(matches!(verdict(place.roll_back()), Verdict::Serving));
    assert!(verifies("good"));
}

/// A key deploys nothing beside a manifest that an operator edited, also if that happens while the component is compiled.
#[test]
fn keys_leave_manifests_of_operators() {
    let place = Place { own_only: true, ..Place::new() };
    place.put("users.wasm", "good", false);
    let share = Percent::whole(10);
    let edited = format!("{}http = ['https://*']\n", canary_manifest("users", share));
    place.put("arrived", "new", false);
    let (file, manifest) = (place.at("arrived"), place.at("users@canary.toml"));
    for is_late in [false, true] {
        fs::write(&manifest, if is_late { canary_manifest("users", share) } else { edited.clone() }).unwrap();
        let late = |_| fs::write(&manifest, &edited).map_err(|error| error.to_string());
        let why = place.act(|rollout| {
            let candidate = NewComponent { file: &file, shown: "it", signature: &|_| Ok(None), try_out: &late };
            rollout.deploy(&candidate, Some((share, "canary")), false).unwrap_err().to_string()
        });
        assert!(why.contains("was written by an operator"), "{why}");
        assert!(!place.at("users@canary.wasm").exists());
    }
}

/// Only a refusal of the component that was placed is one: that of the component before stays until the host has compiled.
#[test]
fn refusals_of_other_components_are_not_believed() {
    let place = Place::new();
    place.put("users.wasm", "new", false);
    let new = Digest::of(&component("new"));
    let refused = |digest: Option<&[u8]>| {
        let digest = digest.map(|content| Digest::of(content).to_string());
        RefusedFile { reason: "it is cut off".into(), remedy: "copy it again".into(), digest }
    };
    let report =
        |why: &RefusedFile| FileReport { file: "users.wasm".into(), service: None, refused: Some(why.clone()) };
    // Without a digest, what was known before is not new. Compiling takes longer than noticing files.
    for (old, is_known) in [(refused(Some(b"old")), false), (refused(None), true)] {
        let begin = Instant::now();
        let has_compiled = || begin.elapsed() > Duration::from_millis(1500);
        let reports = || Ok(vec![if has_compiled() { place.report() } else { report(&old) }]);
        let verdict = Verdict::wait((&reports, verdict::TIMEOUT), "users", new, is_known.then_some(&old));
        assert!(matches!(verdict, Verdict::Serving), "{verdict:?}");
    }
    for its in [refused(Some(&component("new"))), refused(None)] {
        let verdict =
            Verdict::wait((&|| Ok(vec![report(&its)]), verdict::TIMEOUT), "users", new, Some(&refused(Some(b"old"))));
        assert!(matches!(verdict, Verdict::Refused(_)), "{verdict:?}");
    }
}
