//! Listings.

use std::collections::BTreeSet;

use crate::{Fixture, key, soon, value};
use lodge_state::Error;
use lodge_state::limits::{MAX_PAGE, Quota};
use lodge_state::{Cursor, Listing, Set, Store};

/// All keys of a bucket with a prefix, by pages of `limit`; calls `between` after each page.
async fn all(store: &dyn Store, prefix: &str, limit: usize, mut between: impl AsyncFnMut(usize)) -> Vec<String> {
    let (mut keys, mut cursor): (Vec<String>, Option<Cursor>) = Default::default();
    for pages in 0.. {
        assert!(pages < 10_000, "the listing does not end");
        let listing = Listing::new("bucket", prefix, limit).unwrap();
        let listing = cursor.as_ref().map_or(listing, |cursor| listing.at(cursor));
        let page = store.list(listing, soon()).await.unwrap();
        assert!(page.keys.len() <= limit, "{} keys in a page of {limit}", page.keys.len());
        keys.extend(page.keys);
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
        between(pages).await;
    }
    keys
}

/// Listings have each key once, in pages within their limit, and are stable under writes.
pub async fn paging(fixture: &Fixture) {
    let store = fixture.store(Quota::default()).await;
    let listed = |prefix: &'static str, limit| {
        let store = store.clone();
        async move {
            let keys = all(&*store, prefix, limit, async |_| {}).await;
            let sorted: BTreeSet<_> = keys.iter().cloned().collect();
            assert_eq!(sorted.len(), keys.len(), "a key twice with {prefix:?} and {limit}");
            sorted.into_iter().collect::<Vec<_>>()
        }
    };
    assert!(listed("", 10).await.is_empty());
    let mut names: Vec<_> = (0..100).map(|number| format!("key/{number:03}")).collect();
    names.extend(["a", "b*", "b?", "b[", "key", "key0", "ä", "äö", "\u{10ffff}", "k%", "k_"].map(str::to_owned));
    names.sort();
    for name in &names {
        store.set(key(name), value("1"), Set::default(), soon()).await.unwrap();
    }
    let other = lodge_state::Key::new("bucket2", "key/x").unwrap();
    store.set(other, value("1"), Set::default(), soon()).await.unwrap();
    for limit in [1, 7, names.len() - 1, names.len(), MAX_PAGE] {
        assert_eq!(listed("", limit).await, names, "pages of {limit}");
    }
    for prefix in ["key", "key/", "key/09", "key/099", "b*", "b", "ä", "\u{10ffff}", "k%", "k_", "none", "z"] {
        let expected: Vec<_> = names.iter().filter(|name| name.starts_with(prefix)).cloned().collect();
        assert_eq!(listed(prefix, 3).await, expected, "{prefix:?}");
    }
    stable(&*store).await;

    let long = Cursor::new("c".repeat(lodge_state::limits::MAX_CURSOR + 1));
    assert!(matches!(long, Err(Error::TooLarge { .. })));
    for text in ["", "zzz", "\0", "key/099", "!~ä", "-1", "18446744073709551615"] {
        let cursor = Cursor::new(text).unwrap();
        // An error or a page of this listing, but nothing else.
        if let Ok(page) = store.list(Listing::new("bucket", "key/", 10).unwrap().at(&cursor), soon()).await {
            assert!(page.keys.iter().all(|key| key.starts_with("key/")), "{text:?}: {page:?}");
        }
    }
}

/// Writes between the pages move no other key into or out of the rest of the listing.
async fn stable(store: &dyn Store) {
    let keys = all(store, "key/", 10, async |page| {
        let set =
            |name: String| async move { store.set(key(&name), value("2"), Set::default(), soon()).await.unwrap() };
        // Every tenth key is deleted and two are added, before and after what was read.
        store.delete(key(&format!("key/{:03}", 99 - page)), soon()).await.unwrap();
        store.delete(key(&format!("key/{page:03}")), soon()).await.unwrap();
        set(format!("key/000{page}")).await;
        set(format!("key/099{page}")).await;
        set("key/050".to_owned()).await;
    })
    .await;
    let unique: BTreeSet<_> = keys.iter().collect();
    assert_eq!(unique.len(), keys.len(), "a key twice");
    for number in 12..88 {
        assert!(
            unique.contains(&format!("key/{number:03}")),
            "key/{number:03} existed all the time, and is not in a page"
        );
    }
}

/// The names of buckets are listed in order, each once, and only those that have keys.
pub async fn buckets(fixture: &Fixture) {
    let store = fixture.store(Quota::default()).await;
    let list = async |after: &str| store.buckets(after, soon()).await.unwrap();
    assert!(list("").await.is_empty());
    let mut names: Vec<_> = (0..300).map(|number| format!("n{number:03}")).collect();
    names.extend(["a", "a*", "a.b", "a:b", "A", "ä", "\u{10ffff}", "\0"].map(str::to_owned));
    names.sort();
    for name in &names {
        for key in ["k", "l"] {
            let key = lodge_state::Key::new(name, key).unwrap();
            store.set(key, value("1"), Set::default(), soon()).await.unwrap();
        }
    }
    assert_eq!(list("").await, names);
    assert_eq!(list("n298").await, ["n299", "ä", "\u{10ffff}"]);
    assert_eq!(list("\u{10ffff}").await, Vec::<String>::new());
    for key in ["k", "l"] {
        assert_eq!(store.delete(lodge_state::Key::new("n299", key).unwrap(), soon()).await, Ok(true));
    }
    assert_eq!(list("n298").await, ["ä", "\u{10ffff}"]);
    assert!(!fixture.store(Quota::default()).await.buckets("", soon()).await.unwrap().contains(&names[1]));
}
