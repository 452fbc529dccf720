//! Where answers are kept: by service and URI, and under one URI the variants that `Vary` makes of it.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::Uri;
use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{DefaultHashBuilder, OptionsBuilder, Weighter};

use super::kept::{Draft, Kept};
use lodge_manifest::cache::Edition;

/// Variants of one URI. What makes a variant is in the client's hands, so a further one never takes the place of one that is
/// in use: it is not stored.
const VARIANTS: usize = 16;

/// A variant that no request has asked for in this time is not in use, and can be replaced by another. It also ends what a
/// client can do that stores variants of which nobody else has any use.
const UNUSED: Duration = Duration::from_secs(60);

/// Entries of the largest size that fit into one shard at least. A shard has a lock of its own.
const PER_SHARD: usize = 8;

/// Of this size are usual answers: how many hashes of what had to go are remembered follows from it.
const USUAL: usize = 4 << 10;

/// What an answer is kept under. The versions of a service have it in common: a POST to one ends what all have.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    /// `users http://api.example.com/users?page=2`
    text: Arc<str>,
}

/// The answers of one URI, the last one first.
pub(super) type Variants = Arc<[Arc<Kept>]>;

/// All of them.
pub(super) struct Store(Cache<Key, Variants, Weigh>);

#[derive(Clone)]
struct Weigh;

impl Weighter<Key, Variants> for Weigh {
    fn weight(&self, key: &Key, variants: &Variants) -> u64 {
        (key.text.len() + variants.iter().map(|kept| kept.bytes()).sum::<usize>()) as u64
    }
}

impl Key {
    /// The key of what was asked of a service, or of a version of it. The URI is absolute; its host's case does not matter.
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

    /// Whose it is.
    pub(super) fn service(&self) -> &str {
        self.text.split(' ').next().unwrap_or_default()
    }

    /// Whether its path is this one, or below it.
    pub(super) fn is_below(&self, prefix: &str) -> bool {
        let uri = self.text.split_once("://").map_or("", |(_, uri)| uri);
        let path = uri.find('/').and_then(|slash| uri.get(slash..)).unwrap_or("/");
        let rest = path.strip_prefix(prefix);
        rest.is_some_and(|rest| rest.is_empty() || prefix.ends_with('/') || rest.starts_with(['/', '?']))
    }

    /// Bytes that it is.
    pub(super) fn len(&self) -> usize {
        self.text.len()
    }
}

impl Store {
    /// For `most` bytes, of which one answer has at most `entry`.
    pub(super) fn new(most: usize, entry: usize) -> Option<Self> {
        let shards = (most / entry.max(1) / PER_SHARD).clamp(1, 64);
        // Rounded down to a power of two: the cache itself would round up, and make shards too small for an answer.
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

    /// What there is under a key.
    pub(super) fn get(&self, key: &Key) -> Option<Variants> {
        self.0.get(key)
    }

    /// Stores a response in the place of those that it stands for: the same variant, and whatever an earlier edition of
    /// its maker has left. False when there is no place for another variant. Only one at a time may do this.
    pub(super) fn put(&self, key: Key, kept: Arc<Kept>, now: SystemTime) -> bool {
        let Some(others) = others(self.0.peek(&key).as_ref(), kept.draft(), now) else { return false };
        self.0.insert(key, std::iter::once(kept).chain(others).collect());
        true
    }

    /// Whether a response has a place beside the other variants of its URI, or can take the place of one.
    pub(super) fn has_place(&self, key: &Key, draft: &Draft, now: SystemTime) -> bool {
        others(self.0.peek(key).as_ref(), draft, now).is_some()
    }

    /// Drops this one, if it is still stored.
    pub(super) fn remove_one(&self, key: &Key, kept: &Arc<Kept>) {
        let Some(before) = self.0.peek(key) else { return };
        let stay: Variants = before.iter().filter(|other| !Arc::ptr_eq(other, kept)).map(Arc::clone).collect();
        if stay.is_empty() {
            self.0.remove(key);
        } else if stay.len() < before.len() {
            let _ = self.0.replace(key.clone(), stay, true);
        }
    }

    /// Drops all that is under a key; says how many answers that was.
    pub(super) fn remove(&self, key: &Key) -> usize {
        self.0.remove(key).map_or(0, |(_, variants)| variants.len())
    }

    /// Drops every answer that is so, and says how many. Looks at all of them.
    pub(super) fn drop_if(&self, so: impl Fn(&Key, &Edition) -> bool) -> usize {
        let mut dropped = 0;
        for (key, variants) in self.0.iter() {
            let stay: Variants = variants.iter().filter(|kept| !so(&key, kept.edition())).map(Arc::clone).collect();
            dropped += variants.len() - stay.len();
            if stay.is_empty() {
                self.0.remove(&key);
            } else if stay.len() < variants.len() {
                let _ = self.0.replace(key, stay, true);
            }
        }
        dropped
    }

    /// Bytes of all.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        usize::try_from(self.0.weight()).unwrap_or(usize::MAX)
    }
}

/// The variants that stay beside a new one; `None` when it has no place among them.
fn others(before: Option<&Variants>, draft: &Draft, now: SystemTime) -> Option<Vec<Arc<Kept>>> {
    let all = before.into_iter().flat_map(|before| before.iter());
    let mut others: Vec<_> = all.filter(|other| !draft.replaces(other)).map(Arc::clone).collect();
    if others.len() >= VARIANTS {
        others.retain(|other| other.terms().serves_on_error(now));
    }
    if others.len() >= VARIANTS {
        let unused = others.iter().enumerate().filter(|(_, other)| other.unused(now) >= UNUSED);
        let (place, _) = unused.max_by_key(|(_, other)| other.unused(now))?;
        others.remove(place);
    }
    Some(others)
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
