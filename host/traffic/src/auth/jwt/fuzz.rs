//! Fuzz targets for tokens, and for the files of keys.

use std::time::{Duration, SystemTime};

use super::claims::{self, Validity};
use super::keys::KeySet;
use super::token::SignedToken;
use crate::auth::api_keys::{KeyFile, KeyRing};

/// The time of the tokens, in seconds since 1970.
const NOW: u64 = 1_800_000_000;

/// Keys whose private parts nobody has.
const OTHERS: &str = r#"{"keys":[{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"},
{"kty":"EC","crv":"P-256","x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4","y":"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM"}]}"#;

/// A token: what is signed is its beginning, and no key of others verifies it.
pub fn token(bytes: &[u8]) {
    let Ok(token) = SignedToken::parse(bytes) else { return };
    assert!(bytes.starts_with(token.signed) && bytes.get(token.signed.len()) == Some(&b'.'));
    assert!(KeySet::read(OTHERS).is_ok_and(|keys| keys.verify(&token).is_err()));
    let Ok(all) = token.claims() else { return };
    let _ = claims::scopes(&all);
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(NOW);
    if let Ok(validity) = Validity::of(&all) {
        let (early, late) = (Duration::ZERO, Duration::from_secs(300));
        assert!(validity.check(now, early).is_err() || validity.check(now, late).is_ok(), "leeway only allows more");
    }
}

/// A JWK Set, or a file of API keys: what is read can be written, and is the same then.
pub fn keys(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let _ = KeySet::read(text);
    if let Ok(file) = KeyFile::read(text) {
        assert_eq!(KeyFile::read(&file.text()).as_ref(), Ok(&file));
        assert!(KeyRing::read(text).is_ok_and(|ring| ring.count() == file.keys.len()));
    }
}
