//! Tokens that were verified before: their digests, with what they say. A signature costs some tens of microseconds, a
//! digest one or two.

use std::fmt;
use std::sync::Arc;

use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{DefaultHashBuilder, OptionsBuilder, Weighter};
use sha2::{Digest as _, Sha256};

use super::claims::Validity;
use crate::auth::identity::Identity;

/// The most bytes of verified tokens per issuer of a service, and of what they say.
const MOST_BYTES: u64 = 4 << 20;

/// The size of a usual token, from which the library derives how many hashes of evicted entries it keeps.
const USUAL: u64 = 2 << 10;

/// Verified tokens.
pub(super) struct VerifiedTokens(Cache<[u8; 32], Verified, TokenWeight>);

/// What a verified token says.
#[derive(Clone)]
pub(super) struct Verified {
    /// Whose it is.
    pub(super) identity: Arc<Identity>,
    /// When it is valid.
    pub(super) validity: Validity,
    /// The mark of the keys that it was verified with.
    pub(super) mark: u64,
    /// Its length in bytes.
    pub(super) length: usize,
}

#[derive(Clone)]
struct TokenWeight;

impl Weighter<[u8; 32], Verified> for TokenWeight {
    fn weight(&self, _: &[u8; 32], verified: &Verified) -> u64 {
        // The claims are stored as text, and as values that take about twice as much.
        verified.length as u64 * 3 + 512
    }
}

impl VerifiedTokens {
    pub(super) fn new() -> Self {
        let options = OptionsBuilder::new()
            .estimated_items_capacity(usize::try_from(MOST_BYTES / USUAL).unwrap_or_default())
            .weight_capacity(MOST_BYTES)
            .shards(4)
            .build();
        // Every option that has no default is set.
        let cache = match options {
            Ok(options) => {
                Cache::with_options(options, TokenWeight, DefaultHashBuilder::default(), DefaultLifecycle::default())
            }
            Err(_) => Cache::with_weighter(0, MOST_BYTES, TokenWeight),
        };
        Self(cache)
    }

    /// Returns the digest of a token.
    pub(super) fn digest(token: &[u8]) -> [u8; 32] {
        Sha256::digest(token).into()
    }

    /// Returns what a token says that was verified with the keys of this mark.
    pub(super) fn get(&self, digest: &[u8; 32], mark: u64) -> Option<Verified> {
        self.0.get(digest).filter(|verified| verified.mark == mark)
    }

    /// Remembers a token.
    pub(super) fn insert(&self, digest: [u8; 32], verified: Verified) {
        self.0.insert(digest, verified);
    }
}

impl fmt::Debug for VerifiedTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("VerifiedTokens").field(&self.0.len()).finish()
    }
}
