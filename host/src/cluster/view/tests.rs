use lodge_traffic::proxy::host_key::HostKey;

use super::*;
use crate::cluster::roster::Roster;

/// What others serve is known by service: not their versions, not this host itself, and where they are as they say.
#[test]
fn what_others_serve_is_passed_on() {
    let record = |address: &str, zone: &str, services: &[&str]| {
        let services = services.iter().map(|name| ((*name).to_owned(), "0123456789ab".to_owned())).collect();
        let zone = Some(zone.to_owned()).filter(|zone| !zone.is_empty());
        let (address, key) = (Some(address.to_owned()), Some(HostKey::random()));
        HostRecord { address, key, zone, services, ..HostRecord::default() }
    };
    let records = [
        ("b", record("http://10.0.0.2:8080/", "z1", &["users", "users@2"])),
        ("c", record("https://c.example/", "z2", &["orders", "users"])),
        ("d", HostRecord { address: None, ..record("", "z1", &["users"]) }),
        ("e", record("http://10.0.0.1:8080/", "z1", &["users"])),
        ("f", record("http://10.0.0.6:8080/", "", &["users"])),
        ("g", record("http://[fd00::7]:8080/", "", &[])),
    ];
    let records = records.map(|(name, record)| (name.to_owned(), (lodge_state::Version::new(1), record)));
    let mut view = ClusterView::default();
    view.members.update(Roster { records: records.into(), ..Default::default() }, false, Instant::now());
    let shown = |zone, own| {
        let serving = view.serving(zone, own);
        let shown = |(name, hosts): (&String, &Vec<Arc<ServingHost>>)| {
            let hosts = hosts
                .iter()
                .map(|host| format!("{} {}{}", host.name, host.fixed, if host.is_far { " far" } else { "" }));
            format!("{name}: {}", hosts.collect::<Vec<_>>().join(", "))
        };
        (serving.by_service.iter().map(shown).collect::<Vec<_>>(), serving.on_loopback)
    };
    let users = "users: b http://10.0.0.2:8080, c https://c.example:443 far, f http://10.0.0.6:8080 far";
    let own = Some("http://10.0.0.1:8080/");
    assert_eq!(
        shown(Some("z1"), own),
        (vec!["orders: c https://c.example:443 far".to_owned(), users.to_owned()], false)
    );
    let serving = view.serving(None, own);
    let mut named: Vec<_> = serving.keys.values().map(|name| &**name).collect();
    named.sort_unstable();
    assert_eq!(
        named,
        ["b", "c", "d", "e", "f", "g"],
        "also of one that nobody can reach, and of one that only forwards"
    );
    let (near, on_loopback) = shown(None, Some("http://127.0.0.1:8080/"));
    assert!(on_loopback && !near.iter().any(|line| line.contains("far")) && near[1].contains("10.0.0.1"), "{near:?}");
    assert!(shown(None, Some("http://localhost/")).1 && !shown(None, None).1);
}
