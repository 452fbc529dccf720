//! The kinds of files, and what each contains.

use super::WatchedKeys;
use crate::auth::api_keys::{self, KeyRing};
use crate::auth::jwt::keys::{self, KeySet};
use crate::auth::login::sealing::{self, SealingKeys};
use crate::auth::login::secret::{self, ClientSecret};
use crate::auth::passwords::UserList;
use crate::live_files::FileContent;
use lodge_base::key_changes::KeyMarks;

impl FileContent for KeyRing {
    const WHAT: &'static str = "API keys";
    const MOST_BYTES: u64 = api_keys::MOST_BYTES;

    fn read(text: &str) -> Result<Self, String> {
        Self::read(text)
    }

    fn describe(&self) -> String {
        format!("{} are", self.count())
    }
}

impl WatchedKeys for KeyRing {
    fn marks(&self) -> KeyMarks {
        self.marks()
    }
}

impl FileContent for UserList {
    const WHAT: &'static str = "passwords";
    const MOST_BYTES: u64 = api_keys::MOST_BYTES;

    fn read(text: &str) -> Result<Self, String> {
        Self::read(text)
    }

    fn describe(&self) -> String {
        format!("{} are", self.count())
    }
}

impl WatchedKeys for UserList {
    fn marks(&self) -> KeyMarks {
        self.marks()
    }
}

impl FileContent for KeySet {
    const WHAT: &'static str = "keys of an issuer";
    const MOST_BYTES: u64 = keys::MOST_BYTES as u64;

    fn read(text: &str) -> Result<Self, String> {
        Self::read(text)
    }

    fn describe(&self) -> String {
        format!("{} are", self.count())
    }
}

impl WatchedKeys for KeySet {
    fn marks(&self) -> KeyMarks {
        self.marks()
    }
}

impl FileContent for SealingKeys {
    const WHAT: &'static str = "keys of cookies";
    const MOST_BYTES: u64 = sealing::MOST_BYTES;

    fn read(text: &str) -> Result<Self, String> {
        Self::read(text)
    }

    fn describe(&self) -> String {
        format!("{} are", self.count())
    }
}

impl WatchedKeys for SealingKeys {
    fn marks(&self) -> KeyMarks {
        self.marks()
    }
}

impl FileContent for ClientSecret {
    const WHAT: &'static str = "the secret of a client";
    const MOST_BYTES: u64 = secret::MOST_BYTES;

    fn read(text: &str) -> Result<Self, String> {
        Self::read(text)
    }

    fn describe(&self) -> String {
        "it is".to_owned()
    }
}

impl WatchedKeys for ClientSecret {
    fn marks(&self) -> KeyMarks {
        self.marks()
    }
}
