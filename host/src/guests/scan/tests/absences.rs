//! What a service restricts is known before it serves, whatever is wrong with its other files, and while these change.

use std::sync::Arc;

use super::*;
use crate::registry::follow::Pulls;
use lodge_traffic::routing::router::Missed;

/// Its route is another one than its name has.
const ORDERS: &str = "routes = ['/api']\nauth.api_keys = 'keys'\n";

/// A host that starts with a service `orders`, which has keys, and another one that has all paths.
fn started(manifest: &str, component: &[u8], registries: &str) -> World {
    let directory = tempfile::tempdir().unwrap();
    for (name, content) in [
        ("orders.wasm", component),
        ("orders.toml", manifest.as_bytes()),
        ("site.wasm", &super::component(9)),
        ("site.toml", b"routes = '/*'"),
    ] {
        if !content.is_empty() {
            fs::write(directory.path().join(name), content).unwrap();
        }
    }
    let source = (config::Origin::Flag, [("pull.registries".to_owned(), registries.to_owned())].into());
    let mut config = config::resolve(&[source]).unwrap().config;
    config.cache.directory = config::CacheDirectory::At(directory.path().join("cache"));
    let pulls = Pulls::new(Arc::new(config.clone()), Arc::default());
    let (scanner, ledger, now) = (Scanner::new(directory.path()).pulling(pulls), Ledger::default(), Instant::now());
    World {
        directory,
        config,
        scanner,
        ledger,
        now,
        events: false,
        placed: Vec::new(),
        writes: 0,
        compiles: Compiles::Long,
    }
}

/// Scans, compiles the other service alone, and checks that it gets nothing that `orders` restricts.
#[track_caller]
fn holds(world: &mut World, case: &str) {
    let scan = world.scanner.scan_at(&world.config, world.now, &|_| false).unwrap();
    let (site, others) = world.ledger.see(scan.found, world.now).0.into_iter().partition(|spec| spec.name == "site");
    let compiles = std::mem::replace(&mut world.compiles, Compiles::AtOnce);
    world.compile(site);
    world.compiles = compiles;
    world.compile(others);
    let served: Vec<_> = world.ledger.live().collect();
    assert!(served.iter().map(|spec| &*spec.name).eq(["site"]), "{case}");
    let mut absent = Absentees::new(world.ledger.absent(), world.ledger.names());
    absent.beside(served.iter(), |_, _| true);
    let at = |path| absent.at("x", path, &Method::GET, false).map(|why| why.is_some());
    assert_eq!(["/", "/api/secret"].map(at), [Ok(false), Ok(true)], "{case}");
    assert_eq!(at("/x/..%2Fapi/secret"), Err(Missed::Ambiguous), "{case}");
}

#[test]
fn restrictions_are_known_whatever_is_wrong() {
    let (good, zeros) = (component(0), "0".repeat(64));
    let digest = format!("digest = 'sha256:{zeros}'");
    let pulled = "component = 'oci://registry.example/orders:1'";
    for (line, component, registries) in [
        (&*digest, &*good, ""),
        ("middleware = ['front.wasm']", &good, ""),
        ("component = 'other.wasm'", b"", ""),
        ("files.root = 'public'", &good, ""),
        ("", b"\0as", ""),
        // A manifest with mistakes, whether it is TOML or not, and one without a component.
        ("unknown = 1", &good, ""),
        ("limits.memory = 'much'", &good, ""),
        ("env.N = 'cut off", &good, ""),
        ("[limits\nmemory = '1MB'", &good, ""),
        ("", b"", ""),
        ("unknown = 1", b"", ""),
        // One that is being pulled, and one that never will be.
        (pulled, b"", ""),
        (pulled, b"", "other.example"),
    ] {
        let mut world = started(&format!("{ORDERS}{line}"), component, registries);
        holds(&mut world, line);
        world.now += SETTLE;
        holds(&mut world, line);
    }
}

#[test]
fn restrictions_hold_while_files_change() {
    let mut world = started(ORDERS, &component(0), "");
    holds(&mut world, "compiling");
    let edited = format!("{ORDERS}env.N = '2'");
    for text in [&*edited, "unknown = 1", ORDERS, "", &edited, "env.N = '3'", "env.N = '4'", "digest = 'no'"] {
        world.write("orders.toml", text);
        for wait in [0, 1, 600, 900] {
            world.now += Duration::from_millis(wait);
            holds(&mut world, text);
        }
    }
    world.write("orders.toml", ORDERS);
    world.now += OPENS * 2;
    holds(&mut world, "it is as before");
    for content in [&*component(1), b"\0as"] {
        world.write("orders.wasm", content);
        for wait in [0, 1, 600] {
            world.now += Duration::from_millis(wait);
            holds(&mut world, "another component");
        }
    }
    // The first part of a text, or none at all, beside a component that is refused.
    for text in ["env.N = '5'", ""] {
        world.write("orders.toml", text);
        for wait in [0, 600, 900] {
            world.now += Duration::from_millis(wait);
            holds(&mut world, text);
        }
    }
    world.write("orders.toml", "env.N = '6'");
    world.pass(OPENS * 2);
    let mut absent = Absentees::new(world.ledger.absent(), world.ledger.names());
    absent.beside(world.ledger.live().collect::<Vec<_>>().iter(), |_, _| true);
    let at = |path| absent.at("x", path, &Method::GET, false).map(|why| why.is_some());
    assert_eq!(["/api/secret", "/orders"].map(at), [Ok(false), Ok(true)], "a text that stays is followed");
}

/// A component that does not start, whether it is written in place, renamed, or replaced by one that does not start either.
#[test]
fn restrictions_hold_while_components_fail() {
    for is_placed in [false, true] {
        let mut world = started(ORDERS, b"", "");
        world.compiles = Compiles::Fails;
        holds(&mut world, "no component yet");
        for number in 0..4 {
            if is_placed {
                world.rename("orders.wasm", component(number))
            } else {
                world.write("orders.wasm", component(number))
            }
            for wait in [0, 1, 50, 100, 400, 600, 2_000] {
                world.now += Duration::from_millis(wait);
                holds(&mut world, &format!("component {number}, renamed: {is_placed}, {wait} ms"));
            }
        }
        // One that was refused is written again, slowly.
        for content in [&component(3)[..9], &component(3)] {
            world.write("orders.wasm", content);
            holds(&mut world, "it is written again");
            world.now += Duration::from_millis(1);
        }
        // It is deleted, and copied later.
        world.unlink("orders.wasm");
        for wait in [0, 1, 600, 5_000] {
            world.now += Duration::from_millis(wait);
            holds(&mut world, "it is deleted");
        }
        world.write("orders.wasm", component(9));
        holds(&mut world, "it is copied");
    }
}

/// A service that its manifest disables keeps its routes, also while that is written, and while what is served ends.
#[test]
fn a_disabled_service_keeps_its_routes() {
    let site: [(&str, &[u8]); 4] = [
        ("a.wasm", &component(0)),
        ("a.toml", b"routes = ['/p']\ndeny = ['10.0.0.0/8']\n"),
        ("site.wasm", &component(1)),
        ("site.toml", b"routes = '/*'\n"),
    ];
    let mut world = World::new(&site, true);
    assert!(world.live("a").is_some() && !world.is_held("/b"));
    world.write("a.toml", "enabled = false\n");
    for _ in 0..8 {
        world.pass(Duration::from_millis(100));
        assert!(world.live("a").is_none() && world.is_held("/p") && !world.is_held("/b"));
    }
    world.append("a.toml", "routes = ['/p']\n");
    world.pass(OPENS * 2);
    assert!(world.live("a").is_none() && world.is_held("/p"));
    // What is complete is followed.
    world.rename("a.toml", "enabled = false\nroutes = ['/b']\n");
    world.pass(Duration::from_secs(1));
    assert!(!world.is_held("/p") && world.is_held("/b"));
    // Its component moves on under another name.
    fs::rename(world.at("a.wasm"), world.at("c.wasm")).unwrap();
    world.pass(GONE * 4);
    assert!(world.live("c").is_some() && world.is_held("/b"));
}

/// A component that gets another name, or is gone, leaves the routes to a manifest that stays.
#[test]
fn a_manifest_that_stays_keeps_its_routes() {
    let files: [(&str, &[u8]); 4] = [
        ("a.wasm", &component(0)),
        ("a.toml", b"routes = ['/p']\ndeny = ['10.0.0.0/8']\n"),
        ("site.wasm", &component(1)),
        ("site.toml", b"routes = '/*'\n"),
    ];
    for (renamed, touched) in [(false, false), (false, true), (true, false), (true, true)] {
        let told = format!("renamed: {renamed}, touched: {touched}");
        let mut world = World::new(&files, true);
        if renamed {
            fs::rename(world.at("a.wasm"), world.at("c.wasm")).unwrap()
        } else {
            world.unlink("a.wasm")
        }
        world.look();
        world.now += GONE - Duration::from_millis(1);
        if touched {
            world.append("a.toml", "# more\n");
        }
        for wait in [0, 1, 10, 200, 600, 6_000] {
            world.now += Duration::from_millis(wait);
            world.look();
            assert!(world.live("a").is_some() || world.is_held("/p"), "{told}, {wait} ms");
        }
        assert!(world.live("a").is_none() && world.live("c").is_some() == renamed, "{told}");
    }
}
