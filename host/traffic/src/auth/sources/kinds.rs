//! The kinds of files, and what each contains.

use super::WatchedKeys;
use crate::auth::api_keys::{self, KeyFile, KeyRing};
use crate::auth::jwt::keys::{self, KeySet};
use crate::auth::login::secret::{self, ClientSecret};
use crate::auth::passwords::UserList;
use crate::live_files::FileContent;
use lodge_base::key_changes::KeyMarks;
use lodge_base::sealing::{self, SealingKeys};

impl FileContent for KeyRing {
    const WHAT: &'static str = "API keys";
    const MOST_BYTES: u64 = api_keys::MOST_BYTES;
    // The first lines of an entry are one: what follows may be when it expires.
    const MAY_BE_CUT: bool = true;

    fn read(text: &str) -> Result<Self, String> {
        Self::read(text)
    }

    fn describe(&self) -> String {
        format!("{} are", self.count())
    }

    fn hints(text: &str) -> Vec<String> {
        let is_empty = KeyFile::read(text).is_ok_and(|file| file.keys.is_empty());
        if is_empty { vec!["it has no keys, so nobody can use one".into()] } else { Vec::new() }
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
    // As those of API keys.
    const MAY_BE_CUT: bool = true;

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
    // Fewer keys end sessions.
    const MAY_BE_CUT: bool = true;

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
    // Half of a secret is one.
    const MAY_BE_CUT: bool = true;

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
