//! The kinds of files, and what each contains.

use super::WatchedKeys;
use crate::auth::api_keys::{self, KeyRing};
use crate::auth::jwt::keys::{self, KeySet};
use crate::auth::login::sealing::{self, SealingKeys};
use crate::auth::login::secret::{self, ClientSecret};
use crate::auth::passwords::UserList;
use lodge_base::key_changes::KeyMarks;

impl WatchedKeys for KeyRing {
    const WHAT: &'static str = "API keys";
    const MOST: u64 = api_keys::MOST_BYTES;

    fn read(text: &str) -> Result<Self, String> {
        Self::read(text)
    }

    fn count(&self) -> usize {
        self.count()
    }

    fn marks(&self) -> KeyMarks {
        self.marks()
    }
}

impl WatchedKeys for UserList {
    const WHAT: &'static str = "passwords";
    const MOST: u64 = api_keys::MOST_BYTES;

    fn read(text: &str) -> Result<Self, String> {
        Self::read(text)
    }

    fn count(&self) -> usize {
        self.count()
    }

    fn marks(&self) -> KeyMarks {
        self.marks()
    }
}

impl WatchedKeys for KeySet {
    const WHAT: &'static str = "keys of an issuer";
    const MOST: u64 = keys::MOST_BYTES as u64;

    fn read(text: &str) -> Result<Self, String> {
        Self::read(text)
    }

    fn count(&self) -> usize {
        self.count()
    }

    fn marks(&self) -> KeyMarks {
        self.marks()
    }
}

impl WatchedKeys for SealingKeys {
    const WHAT: &'static str = "keys of cookies";
    const MOST: u64 = sealing::MOST_BYTES;

    fn read(text: &str) -> Result<Self, String> {
        Self::read(text)
    }

    fn count(&self) -> usize {
        self.count()
    }

    fn marks(&self) -> KeyMarks {
        self.marks()
    }
}

impl WatchedKeys for ClientSecret {
    const WHAT: &'static str = "the secret of a client";
    const MOST: u64 = secret::MOST_BYTES;

    fn read(text: &str) -> Result<Self, String> {
        Self::read(text)
    }

    fn count(&self) -> usize {
        1
    }

    fn marks(&self) -> KeyMarks {
        self.marks()
    }
}
