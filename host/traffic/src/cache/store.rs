//! The stored responses by service and URI, and under one URI by the variants of `Vary`.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::Uri;
use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{DefaultHashBuilder, OptionsBuilder, Weighter};

use super::stored::{StoredHead, StoredResponse};
use lodge_manifest::edition::Edition;

/// The maximum number of variants of one URI. Clients can create variants at will, so a new one never evicts one that
/// is in use; the new one is not stored.
const VARIANTS: usize = 16;

/// A variant that was not used for this long can be replaced by another. This also bounds how long variants that only
/// one client uses keep others out.
const UNUSED: Duration = Duration::from_secs(60);

/// The minimum of largest entries that fit into one shard. Each shard has its own lock.
const PER_SHARD: usize = 8;

/// The estimated size of a response, from which the library derives how many hashes of evicted entries it keeps.
const USUAL: usize = 4 << 10;

/// The key of stored responses. All versions of a service share it, so that a POST to one version invalidates the
/// responses of all.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct CacheKey {
    /// Such as `users http://api.example.com/users?page=2`.
    text: Arc<str>,
}

/// The stored responses of one URI, the newest first.
pub(super) type Variants = Arc<[Arc<StoredResponse>]>;

/// The stored responses of all services.
pub(super) struct ResponseStore(Cache<CacheKey, Variants, Weigh>);

#[derive(Clone)]
struct Weigh;

impl Weighter<CacheKey, Variants> for Weigh {
    fn weight(&self, key: &CacheKey, variants: &Variants) -> u64 {
        (key.text.len() + variants.iter().map(|stored| stored.bytes()).sum::<usize>()) as u64
    }
}

impl CacheKey {
    /// The key of a URI of a service or of one of its versions. The URI is absolute; the case of its host does not
    /// matter.
    pub(super) fn new(service: &str, uri: &Uri) -> Self {
        let scheme = uri.scheme_str().unwrap_or_default();
        let authority = uri.authority().map_or("", |authority| authority.as_str());
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let mut text = String::with_capacity(service.len() + scheme.len() + authority.len() + path.len() + 4);
        text.push_str(service);
        text.push(' ');
        text.push_str(scheme);
        text.push_str("://");
        text.extend(authority.chars().map(|letter| letter.to_ascii_lowercase()));
        text.push_str(path);
        Self { text: text.into() }
    }

    /// The service's name.
    pub(super) fn service(&self) -> &str {
        self.text.split(' ').next().unwrap_or_default()
    }

    /// Whether the path is `prefix` or below it.
    pub(super) fn is_below(&self, prefix: &str) -> bool {
        let uri = self.text.split_once("://").map_or("", |(_, uri)| uri);
        let path = uri.find('/').and_then(|slash| uri.get(slash..)).unwrap_or("/");
        let rest = path.strip_prefix(prefix);
        rest.is_some_and(|rest| rest.is_empty() || prefix.ends_with('/') || rest.starts_with(['/', '?']))
    }

    pub(super) fn len(&self) -> usize {
        self.text.len()
    }
}

impl ResponseStore {
    /// Creates a store of `most` bytes for responses of at most `entry` bytes.
    pub(super) fn new(most: usize, entry: usize) -> Option<Self> {
        let shards = (most / entry.max(1) / PER_SHARD).clamp(1, 64);
        // Rounded down to a power of two. The library would round up, and its shards would be too small for the largest
        // response.
        let shards = 1 << shards.ilog2();
        let options = OptionsBuilder::new()
            .weight_capacity(most as u64)
            .estimated_items_capacity(most / USUAL)
            .shards(shards)
            .build()
            .ok()?;
        let (hasher, lifecycle) = (DefaultHashBuilder::default(), DefaultLifecycle::default());
        Some(Self(Cache::with_options(options, Weigh, hasher, lifecycle)))
    }

    /// The variants under a key.
    pub(super) fn get(&self, key: &CacheKey) -> Option<Variants> {
        self.0.get(key)
    }

    /// Stores a response in place of the same variant and of all responses of earlier editions of its version. Returns
    /// false if there is no space for another variant. Calls for one key must not be concurrent.
    pub(super) fn put(&self, key: CacheKey, stored: Arc<StoredResponse>, now: SystemTime) -> bool {
        let Some(others) = others(self.0.peek(&key).as_ref(), stored.stored_head(), now) else { return false };
        self.0.insert(key, std::iter::once(stored).chain(others).collect());
        true
    }

    /// Whether there is space for a response among the variants of its URI.
    pub(super) fn has_place(&self, key: &CacheKey, stored_head: &StoredHead, now: SystemTime) -> bool {
        others(self.0.peek(key).as_ref(), stored_head, now).is_some()
    }

    /// Removes this response, if it is still stored.
    pub(super) fn remove_one(&self, key: &CacheKey, stored: &Arc<StoredResponse>) {
        let Some(before) = self.0.peek(key) else { return };
        let stay: Variants = before.iter().filter(|other| !Arc::ptr_eq(other, stored)).map(Arc::clone).collect();
        if stay.is_empty() {
            self.0.remove(key);
        } else if stay.len() < before.len() {
            let _ = self.0.replace(key.clone(), stay, true);
        }
    }

    /// Removes all responses under a key, and returns their number.
    pub(super) fn remove(&self, key: &CacheKey) -> usize {
        self.0.remove(key).map_or(0, |(_, variants)| variants.len())
    }

    /// Removes all responses that match, and returns their number. Visits every entry.
    pub(super) fn drop_if(&self, so: impl Fn(&CacheKey, &Edition) -> bool) -> usize {
        let mut dropped = 0;
        for (key, variants) in self.0.iter() {
            let stay: Variants = variants.iter().filter(|stored| !so(&key, stored.edition())).map(Arc::clone).collect();
            dropped += variants.len() - stay.len();
            if stay.is_empty() {
                self.0.remove(&key);
            } else if stay.len() < variants.len() {
                let _ = self.0.replace(key, stay, true);
            }
        }
        dropped
    }

    /// The bytes of all responses.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        usize::try_from(self.0.weight()).unwrap_or(usize::MAX)
    }
}

/// The variants to keep beside a new one; `None` if there is no space for it.
fn others(before: Option<&Variants>, stored_head: &StoredHead, now: SystemTime) -> Option<Vec<Arc<StoredResponse>>> {
    let all = before.into_iter().flat_map(|before| before.iter());
    let mut others: Vec<_> = all.filter(|other| !stored_head.replaces(other)).map(Arc::clone).collect();
    if others.len() >= VARIANTS {
        others.retain(|other| other.freshness().allows_on_error(now));
    }
    if others.len() >= VARIANTS {
        let unused = others.iter().enumerate().filter(|(_, other)| other.idle_time(now) >= UNUSED);
        let (place, _) = unused.max_by_key(|(_, other)| other.idle_time(now))?;
        others.remove(place);
    }
    Some(others)
}

impl fmt::Debug for CacheKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
