//! An edit of a rate gives no room and loses no charge.

use std::sync::Arc;

use lodge_manifest::rate::{By, Scope, Settings};

use super::super::super::Rate;
use super::model::Model;
use super::{SECOND, ahead, settings};

/// Another rate keeps what the server knows of a key; the scope is an edit as well. Outside of a cluster, the limit is that of a host.
#[test]
fn use_survives_an_edit() {
    let before = settings(1, SECOND, 8, By::Client);
    let mut model = Model::new(&before, &[0, 0]);
    while model.request(0, 0).is_ok() {
        model.settle(0);
    }
    let all = model.admitted[0].len();
    assert!((8..=8 + 1).contains(&all), "{all}");
    model.edit(&before);
    assert_eq!(model.hosts[0].rates.keys(), 1, "the same buckets");
    // What is not published changes nothing.
    let host = &model.hosts[0];
    let _refused = host.rate.with_settings(&settings(50, SECOND, 90, By::Client), "", host.start);
    assert_eq!(host.rates.keys(), 1);
    assert!(model.request(0, 0).is_err());
    model.edit(&settings(2, SECOND, 9, By::Client));
    let more = (0..20).filter(|_| {
        let taken = model.request(0, 0).is_ok();
        model.settle(0);
        taken
    });
    assert_eq!(more.count(), 1);
    let (alone, host) = (Scope::Host, &mut model.hosts[1]);
    let start = host.start;
    host.rate = host.rate.with_settings(&Settings { scope: alone, ..before.clone() }, "", start);
    assert!(host.rate.shared().is_none());
    assert_eq!((0..20).filter(|_| model.request(1, 1).is_ok()).count(), 8);
    let lonely = Rate::new(&before, "", start).in_cluster(&Arc::default(), "users", "");
    assert_eq!(lonely.shared().unwrap(), "this host is in no cluster");
    model.hosts[1].rate = lonely;
    model.admitted[1].clear();
    assert_eq!((0..20).filter(|_| model.request(1, 1).is_ok()).count(), 8);
}

/// A key that has used up all of it gets nothing by edits: neither of the part of the cluster, nor of those of its hosts, nor of their
/// shares without the server.
#[test]
fn edits_give_no_room() {
    let limit = |count| settings(count, 3_600 * SECOND, 16, By::Client);
    let mut model = Model::new(&limit(60), &[0, 0]);
    let use_up = |model: &mut Model| {
        for (_, host) in (0..80).zip([0, 1].iter().cycle()) {
            drop(model.request(*host, 0));
            model.settle(*host);
        }
        model.admitted[0].len()
    };
    let all = use_up(&mut model);
    assert!((16..=16 + ahead(16, 2) as usize).contains(&all), "{all}");
    for is_away in [false, true] {
        for host in &model.hosts {
            host.rates.set_away(is_away);
        }
        let all = use_up(&mut model);
        for count in [61, 62, 63, 64, 1, 60] {
            model.edit(&limit(count));
            assert_eq!(use_up(&mut model), all, "{count} {is_away}");
        }
    }
}

/// What is not charged yet when the rate changes is charged once, also if an exchange is on its way.
#[test]
fn an_edit_loses_no_charge() {
    let limit = |count| settings(count, 3_600 * SECOND, 80, By::Client);
    let mut model = Model::new(&limit(1), &[0]);
    let admit = |model: &mut Model, count| (0..count).for_each(|_| drop(model.request(0, 0).unwrap()));
    // Those of the host's own bucket are not charged.
    admit(&mut model, 20);
    model.settle(0);
    admit(&mut model, 12);
    model.begin(0);
    admit(&mut model, 5);
    model.edit(&limit(2));
    model.deliver(0);
    model.edit(&limit(3));
    model.deliver(0);
    assert_eq!(model.server.charged(), 12);
    admit(&mut model, 3);
    model.edit(&limit(4));
    model.hosts[0].rates.sweep(model.hosts[0].start);
    model.settle(0);
    assert_eq!((model.server.charged(), model.admitted[0].len()), (20, 40));
}
