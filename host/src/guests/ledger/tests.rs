mod restart;

use super::*;
use lodge_base::config;
use lodge_manifest::Manifest;
use lodge_manifest::digest::Digest;

type Numbers = Ledger<u32>;

fn spec(name: &str, version: u8, manifest: u8) -> GuestSpec {
    let limits = config::resolve(&[]).unwrap().config.limits;
    let text = format!("routes = ['/{name}{manifest}']");
    GuestSpec {
        name: name.into(),
        path: format!("{name}.wasm").into(),
        content: None,
        digest: Digest::of(&[version]),
        size: 1,
        middleware: Vec::new(),
        manifest: Manifest::read(name, &text, &limits, 1 << 30).unwrap(),
    }
}

fn found(state: FileState, settled: bool) -> ScannedService {
    ScannedService { settled, ..ScannedService::of(state) }
}

fn ready(name: &str, version: u8) -> (String, ScannedService) {
    (name.into(), found(FileState::Ready(spec(name, version, 0)), true))
}

fn bad(name: &str, settled: bool) -> (String, ScannedService) {
    (name.into(), found(FileState::Refused(Refusal::new(name, "it is bad", "make it good")), settled))
}

fn see(
    ledger: &mut Numbers,
    found: impl IntoIterator<Item = (String, ScannedService)>,
    now: Instant,
) -> (usize, Vec<String>) {
    let (wanted, changes) = ledger.see(found.into_iter().collect(), now);
    (wanted.len(), changes.iter().map(ToString::to_string).collect())
}

#[test]
fn log_lines_of_changes() {
    let mut spec = spec("a", 1, 0);
    assert_eq!(Change::Added(spec.clone()).to_string(), "a at /a0 and a.localhost");
    spec.manifest.routes.clear();
    assert_eq!(Change::Reconfigured(spec).to_string(), "a has a new manifest, at a.localhost");
}

#[test]
fn a_service_stays_until_its_file_is_gone_for_good() {
    let (mut ledger, start) = (Numbers::default(), Instant::now());
    assert_eq!(see(&mut ledger, [ready("a", 1)], start), (1, vec![]));
    // Another scan during the compilation starts nothing.
    assert_eq!(see(&mut ledger, [ready("a", 1)], start), (0, vec![]));
    assert_eq!(ledger.compiled(spec("a", 1, 0), Ok(1)), Some(Change::Added(spec("a", 1, 0))));
    assert_eq!(see(&mut ledger, [], start), (0, vec![]));
    assert_eq!(ledger.next_look(), Some(start + GONE));
    // Deleted and created again: no change.
    assert_eq!(see(&mut ledger, [ready("a", 1)], start + GONE / 2), (0, vec![]));
    assert_eq!(ledger.next_look(), None);
    see(&mut ledger, [], start + GONE);
    assert_eq!(ledger.live().count(), 1);
    assert_eq!(see(&mut ledger, [], start + GONE * 2), (0, vec!["a removed".into()]));
    assert_eq!((ledger.live().count(), ledger.next_look()), (0, None));
}

#[test]
fn a_bad_file_does_not_affect_the_service() {
    let (mut ledger, now) = (Numbers::default(), Instant::now());
    see(&mut ledger, [ready("a", 1)], now);
    ledger.compiled(spec("a", 1, 0), Ok(1));
    // During a copy nothing is reported.
    see(&mut ledger, [bad("a", false)], now);
    assert_eq!((ledger.live().collect::<Vec<_>>(), ledger.refusals().len()), (vec![1], 0));
    see(&mut ledger, [bad("a", true)], now);
    assert_eq!((ledger.live().collect::<Vec<_>>(), ledger.refusals().len()), (vec![1], 1));
    // The files are again those that are served.
    assert_eq!(see(&mut ledger, [ready("a", 1)], now).1, ["a restored: its files are again those that are served"]);
    assert_eq!(ledger.refusals().len(), 0);
    // A version that does not start is refused and not tried again, and its predecessor stays.
    assert_eq!(see(&mut ledger, [ready("a", 2)], now).0, 1);
    assert_eq!(ledger.compiled(spec("a", 2, 0), Err(Refusal::new("a", "it does not start", "mend it"))), None);
    assert_eq!(see(&mut ledger, [ready("a", 2)], now).0, 0);
    assert_eq!((ledger.live().collect::<Vec<_>>(), ledger.refusals().len()), (vec![1], 1));
    // A temporary failure is tried again.
    assert_eq!(see(&mut ledger, [ready("a", 3)], now).0, 1);
    ledger.compiled(spec("a", 3, 0), Err(Refusal::new("a", "no room", "wait").passing()));
    assert_eq!(see(&mut ledger, [ready("a", 3)], now).0, 1);
    let change = ledger.compiled(spec("a", 3, 0), Ok(3));
    assert_eq!(change, Some(Change::Replaced(spec("a", 3, 0), Digest::of(&[1]))));
    assert_eq!((ledger.live().collect::<Vec<_>>(), ledger.refusals().len()), (vec![3], 0));
}

/// A temporary failure is tried again at once, and then less and less often, until its files change.
#[test]
fn attempts_are_spaced() {
    let (mut ledger, mut now) = (Numbers::default(), Instant::now());
    let fails = |ledger: &mut Numbers| {
        assert!(ledger.wants(&spec("a", 1, 0)));
        ledger.compiled(spec("a", 1, 0), Err(Refusal::new("a", "it is not ready", "wait").passing()));
        assert!(!ledger.wants(&spec("a", 1, 0)) && ledger.is_settled());
    };
    for _ in 0..2 {
        assert_eq!(see(&mut ledger, [ready("a", 1)], now).0, 1);
        fails(&mut ledger);
    }
    assert!(ledger.tries(Digest::of(&[1])) && !ledger.tries(Digest::of(&[2])));
    for wait in [1, 2, 4, 8, 16, 30, 30].map(Duration::from_secs) {
        // The first scan starts the wait, and returns when the next one is due.
        assert_eq!(see(&mut ledger, [ready("a", 1)], now).0, 0);
        assert_eq!(ledger.next_look(), Some(now + wait));
        assert_eq!(see(&mut ledger, [ready("a", 1)], now + wait / 2).0, 0);
        now += wait;
        assert_eq!(see(&mut ledger, [ready("a", 1)], now).0, 1);
        assert_eq!(ledger.next_look(), None);
        fails(&mut ledger);
    }
    let touched = ScannedService { touched: true, ..ready("a", 1).1 };
    assert_eq!(see(&mut ledger, [("a".into(), touched)], now).0, 1, "a touch starts an attempt");
    fails(&mut ledger);
    assert_eq!(see(&mut ledger, [ready("a", 2)], now).0, 1, "another version has its own count");
    assert!(ledger.tries(Digest::of(&[2])) && !ledger.tries(Digest::of(&[1])));
    see(&mut ledger, [], now);
    assert!(ledger.next_look().is_none() && !ledger.tries(Digest::of(&[2])));
}

/// The reason is known for each service in the directory that cannot serve, and for no other.
#[test]
fn absent_services_are_known() {
    let (mut ledger, now) = (Numbers::default(), Instant::now());
    let absent = |ledger: &Numbers| -> Vec<String> {
        let describe = |it: Absent| {
            let routes = it.manifest.map_or(0, |manifest| manifest.routes.len());
            format!("{} {routes} {}", it.name, it.refusal.map_or("starting", |refusal| refusal.reason.as_str()))
        };
        ledger.absent().map(describe).collect()
    };
    see(&mut ledger, [ready("a", 1), bad("b", true), orphan("c"), bad("d", false), ready("e", 1)], now);
    assert_eq!(absent(&ledger), ["a 1 starting", "b 0 it is bad", "c 0 it has no component", "e 1 starting"]);
    ledger.compiled(spec("a", 1, 0), Ok(1));
    ledger.compiled(spec("e", 1, 0), Err(Refusal::new("e", "it does not start", "mend it")));
    assert_eq!(absent(&ledger), ["b 0 it is bad", "c 0 it has no component", "e 1 it does not start"]);
    // A refused version beside a service that serves is not absent.
    see(&mut ledger, [bad("a", true), ("b".into(), found(FileState::Disabled, true))], now);
    assert_eq!(absent(&ledger), [""; 0]);
}

#[test]
fn one_line_per_difference() {
    let (mut ledger, now) = (Numbers::default(), Instant::now());
    see(&mut ledger, [ready("a", 1)], now);
    ledger.compiled(spec("a", 1, 0), Ok(1));
    let other = spec("a", 1, 9);
    see(&mut ledger, [("a".into(), found(FileState::Ready(other.clone()), true))], now);
    assert_eq!(ledger.compiled(other.clone(), Ok(2)), Some(Change::Reconfigured(other)));
    assert_eq!(see(&mut ledger, [ready("b", 1)], now), (1, vec![]));
    assert_eq!(ledger.compiled(spec("b", 1, 0), Ok(3)), Some(Change::Renamed(spec("b", 1, 0), "a".into())));
    assert_eq!(ledger.live().collect::<Vec<_>>(), [3]);
    let touched = ScannedService { touched: true, ..ready("b", 1).1 };
    assert_eq!(see(&mut ledger, [("b".into(), touched)], now), (0, vec!["b was touched but is unchanged".into()]));
    // A manifest without a component removes the service.
    let orphan = || ("b".into(), found(FileState::Orphan(Refusal::new("b.toml", "it has no component", "")), true));
    see(&mut ledger, [orphan()], now);
    assert_eq!(see(&mut ledger, [orphan()], now + GONE), (0, vec!["b removed".into()]));
    assert_eq!((ledger.live().count(), ledger.refusals().len(), ledger.next_look()), (0, 1, None));
}

#[test]
fn a_new_component_ends_the_refusal_of_its_manifest() {
    let now = Instant::now();
    let changing = || ("a".to_owned(), found(FileState::Changing, false));
    for comes in [changing(), ready("a", 1)] {
        let mut ledger = Numbers::default();
        see(&mut ledger, [orphan("a")], now);
        assert_eq!(ledger.refusals().len(), 1);
        // It is compiled, or waits for its manifest: either may take long.
        see(&mut ledger, [comes], now);
        assert_eq!(ledger.refusals().len(), 0);
    }
    // A bad component stays refused while it is edited.
    let mut ledger = Numbers::default();
    see(&mut ledger, [bad("a", true)], now);
    see(&mut ledger, [changing()], now);
    assert_eq!(ledger.refusals().len(), 1);
}

fn orphan(name: &str) -> (String, ScannedService) {
    (name.into(), found(FileState::Orphan(Refusal::new(name, "it has no component", "")), true))
}

/// Removing the component first, then the manifest, reports no problem in between.
#[test]
fn removing_the_files_one_by_one_is_not_a_problem() {
    let (mut ledger, start) = (Numbers::default(), Instant::now());
    see(&mut ledger, [ready("a", 1)], start);
    ledger.compiled(spec("a", 1, 0), Ok(1));
    see(&mut ledger, [orphan("a")], start);
    assert_eq!((ledger.live().count(), ledger.refusals().len(), ledger.next_look()), (1, 0, Some(start + GONE)));
    see(&mut ledger, [], start + GONE / 2);
    assert_eq!((ledger.live().count(), ledger.refusals().len()), (1, 0));
    assert_eq!(see(&mut ledger, [], start + GONE).1, ["a removed"]);
    assert_eq!((ledger.live().count(), ledger.refusals().len()), (0, 0));
    // A service that never served is reported at once; one that stays is reported when it is gone.
    see(&mut ledger, [orphan("b")], start);
    assert_eq!(ledger.refusals().len(), 1);
}

#[test]
fn a_disabled_service_stops_at_once() {
    let (mut ledger, now) = (Numbers::default(), Instant::now());
    see(&mut ledger, [ready("a", 1)], now);
    ledger.compiled(spec("a", 1, 0), Ok(1));
    see(&mut ledger, [bad("a", true)], now);
    let off = || ("a".to_owned(), found(FileState::Disabled, true));
    assert_eq!(see(&mut ledger, [off()], now), (0, vec!["a removed".into()]));
    assert_eq!((ledger.live().count(), ledger.refusals().len(), ledger.next_look()), (0, 0, None));
    assert_eq!(see(&mut ledger, [off()], now), (0, vec![]));
    assert!(ledger.is_settled() && ledger.absent().count() == 0 && ledger.names().eq(["a"]));
    // The compilation in progress is no longer wanted.
    assert_eq!(see(&mut ledger, [ready("a", 2)], now).0, 1);
    see(&mut ledger, [off()], now);
    assert_eq!((ledger.compiled(spec("a", 2, 0), Ok(2)), ledger.live().count()), (None, 0));
    assert_eq!(see(&mut ledger, [ready("a", 2)], now).0, 1);
}

/// A new service without a manifest is served once a late enough scan has found none. Any change before that scan
/// restarts the wait.
#[test]
fn a_bare_service_is_held_back() {
    let bare = |version| ("a".to_owned(), ScannedService { bare: true, ..ready("a", version).1 });
    let (mut ledger, start) = (Numbers::default(), Instant::now());
    assert_eq!(see(&mut ledger, [bare(1)], start).0, 1);
    assert_eq!((ledger.compiled(spec("a", 1, 0), Ok(1)), ledger.live().count()), (None, 0));
    assert_eq!((ledger.next_look(), ledger.is_settled()), (Some(start + HELD), false));
    assert_eq!(see(&mut ledger, [bare(1)], start + HELD / 2), (0, vec![]));
    assert_eq!(see(&mut ledger, [bare(1)], start + HELD), (0, vec!["a at /a0 and a.localhost".into()]));
    assert_eq!((ledger.next_look(), ledger.is_settled()), (None, true));
    // A service that is served already is replaced at once, with or without a manifest.
    see(&mut ledger, [bare(2)], start + HELD);
    assert!(ledger.compiled(spec("a", 2, 0), Ok(2)).is_some());
    let changing = || ("a".to_owned(), found(FileState::Changing, false));
    for ends in [Some(changing()), None, Some(bad("a", true)), Some(ready("a", 3))] {
        let mut ledger = Numbers::default();
        see(&mut ledger, [bare(1)], start);
        ledger.compiled(spec("a", 1, 0), Ok(1));
        see(&mut ledger, ends, start + HELD);
        assert_eq!((ledger.live().count(), ledger.next_look()), (0, None));
    }
}

/// While a manifest changes, the service stays, and the compilation in progress is no longer wanted.
#[test]
fn nothing_new_is_served_while_a_manifest_changes() {
    let (mut ledger, start) = (Numbers::default(), Instant::now());
    let changing = || ("a".to_owned(), found(FileState::Changing, false));
    see(&mut ledger, [ready("a", 1)], start);
    ledger.compiled(spec("a", 1, 0), Ok(1));
    see(&mut ledger, [], start);
    for late in 0..5 {
        assert_eq!(see(&mut ledger, [changing()], start + GONE * late), (0, vec![]));
        assert_eq!((ledger.live().collect::<Vec<_>>(), ledger.next_look()), (vec![1], None));
    }
    assert_eq!(see(&mut ledger, [ready("a", 2)], start).0, 1);
    see(&mut ledger, [changing()], start);
    assert_eq!((ledger.compiled(spec("a", 2, 0), Ok(2)), ledger.is_settled()), (None, false));
    assert_eq!(see(&mut ledger, [ready("a", 2)], start).0, 1);
}

/// A service whose files are being written is neither served nor refused, so a starting host is not ready before they
/// are complete.
#[test]
fn files_being_written_are_not_settled() {
    let now = Instant::now();
    let orphan = found(FileState::Orphan(Refusal::new("a", "it has no component", "add one")), false);
    for writing in [found(FileState::Changing, false), bad("a", false).1, orphan] {
        let mut ledger = Numbers::default();
        see(&mut ledger, [("a".to_owned(), writing)], now);
        assert!(!ledger.is_settled());
        see(&mut ledger, [], now);
        assert!(ledger.is_settled());
    }
    // A compilation that failed because its file was being written is tried again.
    let mut ledger = Numbers::default();
    see(&mut ledger, [("a".into(), found(FileState::Ready(spec("a", 1, 0)), false))], now);
    ledger.compiled(spec("a", 1, 0), Err(Refusal::new("a", "it is cut off", "mend it")));
    assert!(!ledger.is_settled());
}

/// A component that is being copied differs in every scan: the wait for its manifest starts at the last difference.
#[test]
fn a_bare_service_is_held_back_from_its_last_change() {
    let bare = |version| ("a".to_owned(), ScannedService { bare: true, ..ready("a", version).1 });
    let (mut ledger, start) = (Numbers::default(), Instant::now());
    see(&mut ledger, [bare(1)], start);
    let copied = start + HELD * 3;
    assert_eq!(see(&mut ledger, [bare(2)], copied).0, 1);
    assert_eq!(ledger.compiled(spec("a", 2, 0), Ok(2)), None);
    assert_eq!(see(&mut ledger, [bare(2)], copied + HELD / 2), (0, vec![]));
    assert_eq!(see(&mut ledger, [bare(2)], copied + HELD), (0, vec!["a at /a0 and a.localhost".into()]));
}
