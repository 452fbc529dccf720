use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn read(slice: Value, zone: Option<&str>) -> EndpointSlice {
    serde_json::from_value::<WrittenSlice>(slice).unwrap().read(zone)
}

fn merged(slices: Vec<Value>, port: &str) -> (Vec<String>, String) {
    let mut map = SliceMap::new(Budget::new(BYTES_OF_ALL));
    for (n, slice) in slices.into_iter().enumerate() {
        map.insert(n.to_string(), read(slice, None)).unwrap();
    }
    let port = port.parse().map_or_else(|_| EndpointPort::Name(port.into()), EndpointPort::Number);
    let merged = merge(&map, "shop/users", (Scheme::Http, &port), &"users.shop.svc".into(), 0);
    let addresses = merged.endpoints.iter().map(|endpoint| endpoint.target.address.to_string()).collect();
    (addresses, merged.note.unwrap_or_default())
}

/// Conditions as the API documents them: an unknown `ready` is true, an unknown `serving` is as `ready`.
#[test]
fn conditions() {
    for (conditions, expected) in [
        (json!({}), Readiness::Ready),
        (json!({ "ready": null }), Readiness::Ready),
        (json!({ "ready": true, "serving": true, "terminating": false }), Readiness::Ready),
        (json!({ "ready": false }), Readiness::NotReady),
        (json!({ "ready": false, "serving": true }), Readiness::NotReady),
        (json!({ "ready": false, "serving": true, "terminating": true }), Readiness::Ending),
        (json!({ "ready": false, "serving": false, "terminating": true }), Readiness::NotReady),
        (json!({ "ready": false, "terminating": true }), Readiness::NotReady),
        (json!({ "ready": true, "terminating": true }), Readiness::Ending),
    ] {
        let written: WrittenConditions = serde_json::from_value(conditions.clone()).unwrap();
        assert_eq!(written.condition(), expected, "{conditions}");
    }
}

#[test]
fn what_is_left_out() {
    let slice = |kind: &str, addresses: &[&str]| {
        let endpoints: Vec<_> = addresses.iter().map(|address| json!({ "addresses": [address, "10.9.9.9"] })).collect();
        json!({ "addressType": kind, "endpoints": endpoints, "ports": [{ "port": 80 }] })
    };
    // Only the first address of an endpoint counts, and only one that leads to another machine's network.
    let odd = ["10.0.0.1", "x", "169.254.1.1", "0.0.0.0", "224.0.0.1", "255.255.255.255"];
    let v6 = ["fe80::1", "::", "ff02::1", "::ffff:10.0.0.2", "fd00::1"];
    let (found, note) = merged(vec![slice("IPv4", &odd), slice("IPv6", &v6)], "80");
    assert_eq!((found, note.as_str()), (vec!["10.0.0.1:80".into(), "10.0.0.2:80".into(), "[fd00::1]:80".into()], ""));
    let (found, note) = merged(vec![slice("IPv4", &["10.0.0.1"]), slice("FQDN", &["a.example"])], "80");
    assert!(
        found.len() == 1 && note == "EndpointSlices of shop/users with names instead of addresses (FQDN) are left out"
    );
    let (found, note) = merged(vec![slice("FQDN", &["10.0.0.1"])], "80");
    assert!(found.is_empty() && note.ends_with("(FQDN) are left out"), "{found:?} {note}");
    // Whatever is missing or null.
    for bare in [
        json!({}),
        json!({ "endpoints": null, "ports": null }),
        json!({ "endpoints": [{}], "ports": [{}] }),
        json!({ "ports": [{ "port": 80, "name": "a\nb" }] }),
    ] {
        assert_eq!(merged(vec![bare], "80"), (vec![], "shop/users has no endpoints".into()));
    }
    assert!(merged(vec![], "http").1.starts_with("there is no EndpointSlice of shop/users"));
    let (_, note) = merged(vec![slice("IPv4", &["10.0.0.1"])], "http");
    assert_eq!(note, "no endpoint of shop/users has the port http; they have 80");
}

#[test]
fn a_service_is_bounded() {
    let (mut map, empty) = (SliceMap::new(Budget::new(BYTES_OF_ALL)), || read(json!({}), None));
    for n in 0..SLICES {
        map.insert(n.to_string(), empty()).unwrap();
    }
    map.insert("0".into(), empty()).unwrap();
    assert!(map.insert("x".into(), empty()).is_err_and(|why| why.contains("2000 EndpointSlices")));
    let endpoints = |many: usize| -> Vec<_> { (0..many).map(|_| json!({ "addresses": ["10.0.0.1"] })).collect() };
    let full = || read(json!({ "endpoints": endpoints(SLICE_ENDPOINTS) }), None);
    let mut map = SliceMap::new(Budget::new(BYTES_OF_ALL));
    for n in 0..ENDPOINTS / SLICE_ENDPOINTS {
        map.insert(n.to_string(), full()).unwrap();
    }
    // The count is that of what is there: a slice may be replaced, or go and return.
    map.insert("0".into(), full()).unwrap();
    assert!(map.remove("0") && !map.remove("0"));
    map.insert("x".into(), full()).unwrap();
    assert_eq!(map.endpoints(), ENDPOINTS);
    assert!(map.insert("y".into(), full()).is_err_and(|why| why.contains("20000 endpoints")));
    let large = json!({ "endpoints": endpoints(SLICE_ENDPOINTS + 1) });
    assert!(serde_json::from_value::<WrittenSlice>(large).is_err());
}

/// What is kept has a bound in bytes as well, of a Service and of all: ports and long names count.
#[test]
fn what_is_kept_is_bounded() {
    let ports: Vec<_> = (1..=PORTS).map(|port| json!({ "name": "x".repeat(NAME), "port": port })).collect();
    let large = || read(json!({ "ports": ports }), None);
    let name = |service: usize, slice: usize| format!("{service}-{slice}-{}", "x".repeat(200));
    let room = Budget::new(BYTES_OF_ALL);
    let filled = |service: usize| {
        let mut map = SliceMap::new(Arc::clone(&room));
        let ends = (0..SLICES).find_map(|slice| map.insert(name(service, slice), large()).err());
        (map, ends.unwrap())
    };
    let (one, why) = filled(0);
    assert!(why.contains("of the Service, with their ports, take more than 4 MiB"), "{why}");
    assert!(one.bytes > BYTES && one.slices.len() < SLICES / 4 && room.used() == one.bytes, "{}", one.slices.len());
    // Each of the others is within its own bound.
    let others: Vec<_> = (1..BYTES_OF_ALL / BYTES).map(filled).collect();
    assert!(others.last().unwrap().1.contains("of all Services that this host follows take more than 32 MiB"));
    // What is in use counts until it is not, and the same slices in two places count once.
    let (published, before) = (one.clone(), room.used());
    drop(one);
    assert_eq!(room.used(), before);
    drop((published, others));
    assert_eq!(room.used(), 0);
    let mut map = SliceMap::new(Arc::clone(&room));
    for _ in 0..10 {
        map.insert("a".into(), large()).unwrap();
        assert!(map.bytes == room.used() && map.bytes > PORTS * NAME);
    }
    assert!(map.remove("a") && map.bytes == 0 && room.used() == 0);
}

/// Of more endpoints than are used, those for this zone are, and of these every host uses others.
#[test]
fn too_many_endpoints() {
    let mut map = SliceMap::new(Budget::new(BYTES_OF_ALL));
    for n in 0..20 {
        let endpoint = |m: usize| {
            // The nearest have the highest addresses.
            let zone = if n == 19 { "a" } else { "b" };
            json!({ "addresses": [format!("10.0.{n}.{m}")], "hints": { "forZones": [{ "name": zone }] } })
        };
        let endpoints: Vec<_> = (1..=100).map(endpoint).collect();
        let slice = json!({ "endpoints": endpoints, "ports": [{ "name": "http", "port": 80 }] });
        map.insert(n.to_string(), read(slice, Some("a"))).unwrap();
    }
    let chosen = |seed: u64| {
        let port = EndpointPort::Number(80);
        let merged = merge(&map, "shop/users", (Scheme::Http, &port), &"users".into(), seed);
        assert!(merged.endpoints.is_sorted_by_key(|endpoint| endpoint.target.address));
        assert_eq!(merged.endpoints.len(), MOST_REPLICAS);
        assert_eq!(merged.endpoints.iter().filter(|endpoint| !endpoint.is_far).count(), 100);
        merged.endpoints.into_iter().map(|endpoint| endpoint.target.address).collect::<BTreeSet<_>>()
    };
    let (one, other) = (chosen(1), chosen(2));
    assert_eq!(one, chosen(1));
    let (both, all) = (one.intersection(&other).count(), one.union(&other).count());
    assert!((400..=700).contains(&both) && all > 1_200, "{both} {all}");
}

/// API servers refuse such a slice. Its ports do not multiply its endpoints.
#[test]
fn of_ports_with_one_name_one_is_used() {
    let ports: Vec<_> = (1..=100).map(|port| json!({ "name": "http", "port": port })).collect();
    let mut map = SliceMap::new(Budget::new(BYTES_OF_ALL));
    let slice = json!({ "endpoints": [{ "addresses": ["10.0.0.1"] }, { "addresses": ["10.0.0.2"] }], "ports": ports });
    map.insert("a".into(), read(slice, None)).unwrap();
    let port = EndpointPort::Name("http".into());
    let merged = merge(&map, "shop/users", (Scheme::Http, &port), &"users".into(), 1);
    let addresses: Vec<_> = merged.endpoints.iter().map(|endpoint| endpoint.target.address.to_string()).collect();
    assert_eq!(addresses, ["10.0.0.1:1", "10.0.0.2:1"]);
}

#[test]
fn objects_have_names() {
    let name =
        |name: &str| serde_json::from_value::<WrittenSlice>(json!({ "metadata": { "name": name } })).unwrap().name();
    assert_eq!(name("users-1.x"), Ok("users-1.x".into()));
    for bad in ["", "Users", "a/b", "a\u{2028}b", &"a".repeat(254)] {
        assert!(name(bad).is_err(), "{bad:?}");
    }
}

/// Endpoints as a model: address, condition (0 not ready, 1 ending, 2 ready), zone (0 none), and port.
fn endpoint() -> impl Strategy<Value = (u8, u8, u8, u16)> {
    (1u8..6, 0u8..3, 0u8..3, 80u16..82)
}

proptest! {
    /// Replicas are those of the best condition that any endpoint with the port has, each once; those for other zones
    /// are far if all have hints and one is for this zone. In whatever slices they are.
    #[test]
    fn slices_are_merged(endpoints in prop::collection::vec(endpoint(), 0..12), split in prop::collection::vec(0usize..3, 12)) {
        let mut map = SliceMap::new(Budget::new(BYTES_OF_ALL));
        for (n, (address, condition, zone, port)) in endpoints.iter().enumerate() {
            let conditions = match condition {
                0 => json!({ "ready": false }),
                1 => json!({ "ready": false, "serving": true, "terminating": true }),
                _ => json!({ "ready": true }),
            };
            let zones = ["", "a", "b"][usize::from(*zone)];
            let hints = if zones.is_empty() { Value::Null } else { json!({ "forZones": [{ "name": zones }] }) };
            let mut written = json!({
                "addressType": "IPv4",
                "endpoints": [{ "addresses": [format!("10.0.0.{address}")], "conditions": conditions, "hints": hints }],
                "ports": [{ "name": "http", "port": port }],
            });
            // Some slices have further endpoints that are not ready.
            for _ in 0..split[n] {
                let more = json!({ "addresses": ["10.0.0.1"], "conditions": { "ready": false } });
                written["endpoints"].as_array_mut().unwrap().push(more);
            }
            map.insert(format!("{n:02}"), read(written, Some("a"))).unwrap();
        }
        let wanted = EndpointPort::Name("http".into());
        let merged = merge(&map, "shop/users", (Scheme::Http, &wanted), &"users".into(), 0);
        let best = endpoints.iter().map(|(_, condition, ..)| *condition).max().unwrap_or(0);
        let expected: BTreeSet<_> = endpoints.iter().filter(|(_, condition, ..)| best > 0 && *condition == best).map(|(address, _, _, port)| {
            format!("10.0.0.{address}:{port}")
        }).collect();
        let found: Vec<_> = merged.endpoints.iter().map(|endpoint| endpoint.target.address.to_string()).collect();
        prop_assert_eq!(&found, &expected.iter().cloned().collect::<Vec<_>>());
        prop_assert_eq!(merged.note.is_some(), found.is_empty());
        // Of duplicates with one condition, the first decides about the zone.
        let mut zones = BTreeMap::new();
        for (address, condition, zone, port) in &endpoints {
            if *condition == best {
                zones.entry(format!("10.0.0.{address}:{port}")).or_insert(*zone);
            }
        }
        let hints = zones.values().all(|zone| *zone != 0) && zones.values().any(|zone| *zone == 1);
        for endpoint in &merged.endpoints {
            let zone = zones[&endpoint.target.address.to_string()];
            prop_assert_eq!(endpoint.is_far, hints && zone == 2);
        }
    }
}
