//! What a manifest denies while another is written, slowly or with mistakes.

use super::*;

/// What denies requests, each on a line of its own.
const GUARDS: [&str; 8] = [
    "auth.api_keys = 'k'",
    "deny = ['10.0.0.0/8']",
    "routes = [{ path = '/a', allow = ['10.0.0.0/8'] }]",
    "routes = [{ path = '/a', methods = ['POST'] }]",
    "rules = [{ deny = true }]",
    "rate = '1/h'",
    "headers.request.remove = ['x-role']",
    "routes = [{ path = '/*', rewrite = '/public' }]",
];

/// Who may send requests is not undone by a file that is gone or empty, nor soon by the first part of one.
#[test]
fn a_manifest_that_guards_is_not_undone_by_its_absence() {
    for guard in GUARDS {
        let text = format!("env.N = '1'\n{guard}");
        let mut world = World::new(&[("a.wasm", &component(0)), ("a.toml", text.as_bytes())], true);
        let is_in_force = |world: &World| assert_eq!(world.said("a"), Some("1".into()), "{guard}");
        for empty in [false, true] {
            if empty {
                world.write("a.toml", "\n")
            } else {
                world.unlink("a.toml")
            }
            world.pass(Duration::from_secs(60));
            is_in_force(&world);
            assert!(world.refused().concat().contains("it is gone or empty"), "{:?}", world.refused());
            world.write("a.toml", &text);
            world.pass(SETTLE);
            is_in_force(&world);
            assert_eq!(world.refused(), Vec::<String>::new());
        }
        // The first part of a text that is written slowly.
        world.write("a.toml", "env.N = '2'");
        world.pass(OPENS - Duration::from_millis(1));
        is_in_force(&world);
        world.pass(Duration::from_millis(1));
        assert_eq!(world.said("a"), Some("2".into()));
        // One that guards as much.
        world.write("a.toml", format!("{guard}\nenv.N = '1'"));
        world.pass(SETTLE);
        world.write("a.toml", format!("{guard}\n"));
        world.pass(SETTLE);
        assert_eq!(world.said("a"), None);
        // What was complete at once is taken at once.
        world.write("a.toml", &text);
        world.pass(SETTLE);
        is_in_force(&world);
        world.rename("a.toml", "env.N = '3'");
        world.pass(PLACED * 2);
        assert_eq!(world.said("a"), Some("3".into()), "{guard}");
        // With its component, the service is gone.
        world.write("a.toml", &text);
        world.pass(SETTLE);
        world.unlink("a.toml");
        world.unlink("a.wasm");
        world.pass(GONE + SETTLE);
        assert!(world.live("a").is_none());
        assert_eq!(world.refused(), Vec::<String>::new());
    }
    // More rules than before make up for no key, for no rule that is not there yet, and for none of a route.
    let (one, two) = ("[[rules]]\nwhen = 'true'\ndeny = 403\n", "[[rules]]\nwhen = 'true'\ndeny = 404\n");
    let route = |path: &str| format!("[[routes]]\npath = '{path}'\nallow = ['10.0.0.0/8']\n");
    for (before, after) in [
        (format!("auth.api_keys = 'k'\n{one}"), format!("{one}{two}")),
        (one.to_owned(), two.repeat(2)),
        (route("/a"), route("/b")),
    ] {
        let (before, after) = (format!("env.N = '1'\n{before}"), format!("env.N = '2'\n{after}"));
        let mut world = World::new(&[("a.wasm", &component(0)), ("a.toml", before.as_bytes())], true);
        world.write("a.toml", after);
        world.pass(OPENS - Duration::from_millis(1));
        assert_eq!(world.said("a"), Some("1".into()), "{before}");
        world.pass(Duration::from_millis(1));
        assert_eq!(world.said("a"), Some("2".into()), "{before}");
    }
    // The first of two rules, in a text that is new from its first line.
    let text = "env.N = '1'\n[[rules]]\nwhen = 'true'\ndeny = 403\n[[rules]]\nwhen = 'true'\ndeny = 404";
    let mut world = World::new(&[("a.wasm", &component(0)), ("a.toml", text.as_bytes())], true);
    world.write("a.toml", "env.N = '2'\n[[rules]]\nwhen = 'true'\ndeny = 403");
    world.pass(OPENS - Duration::from_millis(1));
    assert_eq!(world.said("a"), Some("1".into()));
    world.pass(Duration::from_millis(1));
    assert_eq!(world.said("a"), Some("2".into()));
}

/// A text that was never in force ends nothing: whatever is refused, and however, what the service denied is denied afterwards.
#[test]
fn a_refused_text_disarms_nothing() {
    const REFUSED: [&str; 5] = [
        "allow = ['10.0.0.0/8'",
        "alow = ['10.0.0.0/8']",
        "isolation = 'none'",
        "component = 'nope.wasm'",
        "files.root = 'site'",
    ];
    for (refused, guard) in REFUSED.into_iter().flat_map(|refused| GUARDS.map(|guard| (refused, guard))) {
        for (placed, after) in [false, true]
            .into_iter()
            .flat_map(|placed| [None, Some(""), Some("env.N = '3'\n")].map(|after| (placed, after)))
        {
            let whole = format!("env.N = '1'\n{guard}\n");
            let mut world = World::new(&[("a.wasm", &component(0)), ("a.toml", whole.as_bytes())], true);
            let told = format!("{guard}, {refused}, placed: {placed}, then {after:?}");
            if placed {
                world.rename("a.toml", refused);
            } else {
                world.write("a.toml", refused);
            }
            world.pass(OPENS * 2);
            assert_eq!((world.said("a"), world.refused().len()), (Some("1".into()), 1), "{told}");
            match after {
                None => world.unlink("a.toml"),
                Some(text) => world.write("a.toml", text),
            }
            world.pass(OPENS - Duration::from_millis(1));
            assert_eq!(world.said("a"), Some("1".into()), "{told}");
            if after.is_none_or(str::is_empty) {
                world.pass(OPENS);
                assert_eq!((world.said("a"), world.refused().len()), (Some("1".into()), 1), "{told}");
            }
            world.write("a.toml", whole.replace('1', "4"));
            world.pass(OPENS);
            assert_eq!((world.said("a"), world.refused()), (Some("4".into()), vec![]), "{told}");
        }
    }
}

/// The files of a service that cannot be served with the guard, from the start or since they came.
fn unserved(guard: &str) -> [(String, Vec<u8>); 5] {
    let with = |line: &str| format!("env.N = '1'\n{guard}\n{line}\n");
    [
        (with("alow = ['10.0.0.0/8']"), component(0)),
        (with("env.B = 'cut off"), component(0)),
        (with("isolation = 'none'"), component(0)),
        (with(""), b"\0as".to_vec()),
        (with(""), Vec::new()),
    ]
}

/// A manifest that was never served ends like one that was: by a text that is complete. It may be refused since the host started.
#[test]
fn what_was_never_served_opens_nothing_either() {
    let cases = GUARDS.into_iter().flat_map(|guard| unserved(guard).map(|files| (guard, files)));
    for (guard, (text, wasm)) in cases {
        for (is_start, is_version) in [(true, false), (false, false), (true, true)] {
            let told = format!("{text}, at start: {is_start}, a version: {is_version}");
            let mut files: Vec<(&str, &[u8])> = vec![("a.toml", text.as_bytes()), ("b.wasm", &wasm)];
            let name = if is_version { "a@2" } else { "a" };
            let file = format!("{name}.wasm");
            files[1].0 = &file;
            files.retain(|(_, bytes)| !bytes.is_empty());
            let mut world = World::new(if is_start { &files } else { &[] }, true);
            if !is_start {
                files.iter().for_each(|(name, bytes)| world.write(name, bytes));
                world.pass(SETTLE);
            }
            assert!(world.live(name).is_none(), "{told}");
            // It is emptied, vanishes, and is written in pieces.
            world.write("a.toml", "");
            world.write(&file, component(1));
            world.pass(Duration::from_secs(60));
            assert!(world.live(name).is_none(), "{told}: empty");
            assert!(world.refused().concat().contains("it is gone or empty"), "{told}: {:?}", world.refused());
            world.unlink("a.toml");
            world.pass(Duration::from_secs(60));
            assert!(world.live(name).is_none(), "{told}: gone");
            world.write("a.toml", "env.N = '2'\n");
            world.pass(OPENS - Duration::from_millis(1));
            assert!(world.live(name).is_none(), "{told}: cut off");
            world.append("a.toml", &format!("{guard}\n"));
            world.pass(OPENS);
            world.pass(HELD * 2);
            assert_eq!(world.said(name), Some("2".into()), "{told}: {:?}", world.refused());
            let denies = |world: &World| world.live(name).is_some_and(|spec| spec.manifest.denies());
            assert!(denies(&world) || is_version, "{told}");
        }
        // What is complete at once is taken at once.
        let mut world = World::new(&[("a.toml", text.as_bytes()), ("a.wasm", &component(0))], true);
        world.rename("a.toml", "env.N = '3'");
        world.pass(PLACED * 2);
        assert_eq!(world.said("a"), Some("3".into()), "{text}");
    }
}

/// A service without a component of its own stays while its manifest is empty, and goes with it. What it denied is remembered.
#[test]
fn a_service_that_is_its_manifest_keeps_its_guards() {
    let directory = tempfile::tempdir().unwrap();
    let root = format!("files.root = '{}'", directory.path().display());
    for what in [
        "upstream.replicas = ['http://127.0.0.1:1']",
        &root,
        "component = 'other.wasm'",
        "component = 'oci://r.example/a:1'",
    ] {
        let open = format!("routes = ['/a']\n{what}\n");
        let whole = format!("{open}allow = ['10.0.0.0/8']\n");
        let mut world = World::new(&[("other.wasm", &component(0)), ("a.toml", whole.as_bytes())], true);
        let denies = |world: &World| world.live("a").map(|spec| !spec.manifest.policies.service.clients.admits_all());
        assert_eq!(denies(&world), Some(true), "{what}: {:?}", world.refused());
        for empty in [true, false] {
            if empty {
                world.write("a.toml", "");
                world.pass(Duration::from_secs(60));
                assert_eq!(denies(&world), Some(true), "{what}");
                assert!(world.refused().concat().contains("it is gone or empty"), "{:?}", world.refused());
            } else {
                world.unlink("a.toml");
                world.pass(Duration::from_secs(60));
                assert!(world.live("a").is_none(), "{what}");
            }
            world.write("a.toml", &open);
            world.pass(OPENS - Duration::from_millis(1));
            assert_ne!(denies(&world), Some(false), "{what}");
            world.append("a.toml", "allow = ['10.0.0.0/8']\n");
            world.pass(SETTLE);
            assert_eq!(denies(&world), Some(true), "{what}");
        }
        // What stays for long is what the operator wrote.
        world.write("a.toml", &open);
        world.pass(OPENS);
        assert_eq!(denies(&world), Some(false), "{what}");
    }
}

/// A disabled service needs a whole manifest, and a version never has less than its service.
#[test]
fn neither_a_disabled_service_nor_a_version_opens_by_accident() {
    let files: [(&str, &[u8]); 4] = [
        ("a.wasm", &component(0)),
        ("a.toml", b"deny = ['10.0.0.0/8']\n"),
        ("b.wasm", &component(0)),
        ("b.toml", b"enabled = false\n"),
    ];
    let mut world = World::new(&files, true);
    for text in [None, Some(""), Some("env.N = '1'\n")] {
        for file in ["a.toml", "b.toml"] {
            match text {
                None => world.unlink(file),
                Some(text) => world.write(file, text),
            }
        }
        world.pass(SETTLE);
        world.write("a@2.wasm", component(1));
        world.pass(OPENS - SETTLE - Duration::from_millis(1));
        assert_eq!(
            (world.said("a"), world.live("a@2").is_some(), world.live("b").is_some()),
            (None, false, false),
            "{text:?}"
        );
    }
    world.pass(HELD * 2);
    assert!(world.live("b").is_some() && world.live("a@2").is_some());
}

/// A version that is removed and comes again needs no more than it had: what it gets of the requests denies none.
#[test]
fn a_version_returns_without_the_manifest_of_its_service() {
    let steps = |percent: u8| [("a@2.toml", format!("percent = {percent}").into_bytes()), ("a@2.wasm", component(1))];
    for (gap, is_renamed) in [0, 10, 60, 700].into_iter().flat_map(|gap| [(gap, true), (gap, false)]) {
        for order in [0, 1] {
            let mut world = World::new(&[("a.wasm", &component(0))], true);
            for percent in [40, 50, 60] {
                let mut steps = steps(percent);
                steps.rotate_left(order);
                for (name, bytes) in &steps {
                    if is_renamed {
                        world.rename(name, bytes);
                    } else {
                        world.write(name, bytes);
                    }
                    world.pass(Duration::from_millis(gap));
                }
                world.pass(Duration::from_secs(60));
                assert!(world.live("a@2").is_some(), "{gap} {is_renamed} {order} {percent}: {:?}", world.refused());
                // As `lodge rollback` does.
                world.rename("a@2.toml", "enabled = false");
                world.pass(Duration::from_millis(gap + 60));
                for (name, _) in &steps {
                    world.unlink(name);
                    world.pass(Duration::from_millis(gap));
                }
            }
        }
    }
}
