//! A login in progress. The provider returns it as the parameter `state`, so a browser can log in from several pages at once, and
//! any host can complete a login that another one began.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::{SecureRandom, SystemRandom};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use lodge_base::sealing::{SALT, SealPurpose, SealingKeys};

/// How long a login may take.
pub(super) const TIME: Duration = Duration::from_secs(600);

/// The most bytes of a path to return to.
const MOST_PATH: usize = 1 << 10;

/// A login in progress.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LoginState {
    /// When it began, in seconds since 1970.
    pub(super) at: u64,
    /// The digest of the cookie of the browser that began it.
    pub(super) browser: String,
    /// What the ID token must have.
    pub(super) nonce: String,
    /// The verifier of PKCE (RFC 7636).
    pub(super) verifier: String,
    /// Where the browser goes then.
    pub(super) path: String,
}

impl LoginState {
    /// Begins a login of the browser with this cookie, that leads to this path and query.
    pub(super) fn new(now: SystemTime, cookie: &[u8], target: &str) -> Option<Self> {
        Some(Self {
            at: seconds(now),
            browser: digest(cookie),
            nonce: random::<16>()?,
            verifier: random::<32>()?,
            path: local(target).unwrap_or("/").to_owned(),
        })
    }

    /// Returns it as the parameter `state`.
    pub(super) fn seal(&self, keys: &SealingKeys, context: &[u8]) -> Option<String> {
        let Self { at, browser, nonce, verifier, path } = self;
        let text = json!([at, browser, nonce, verifier, path]).to_string();
        keys.seal(SealPurpose::State, context, text.as_bytes())
    }

    /// Reads the parameter `state`, and returns its random bytes as well. `None` if no host has made it for this login, or too
    /// long ago.
    pub(super) fn open(
        keys: &SealingKeys,
        context: &[u8],
        text: &str,
        now: SystemTime,
        leeway: Duration,
    ) -> Option<([u8; SALT], Self)> {
        let (salt, plain) = keys.open(SealPurpose::State, context, text.as_bytes())?;
        let parts: [Value; 5] = serde_json::from_slice(&plain).ok()?;
        let [
            Value::Number(at),
            Value::String(browser),
            Value::String(nonce),
            Value::String(verifier),
            Value::String(path),
        ] = parts
        else {
            return None;
        };
        let this = Self { at: at.as_u64()?, browser, nonce, verifier, path };
        let (now, leeway) = (seconds(now), leeway.as_secs());
        let fits = this.at <= now.saturating_add(leeway) && now < this.at.saturating_add(TIME.as_secs() + leeway);
        (fits && local(&this.path).is_some()).then_some((salt, this))
    }

    /// Whether the browser with this cookie began the login.
    pub(super) fn is_of(&self, cookie: &[u8]) -> bool {
        self.browser == digest(cookie)
    }

    /// Returns the challenge of PKCE: `S256` of the verifier.
    pub(super) fn challenge(&self) -> String {
        digest(self.verifier.as_bytes())
    }
}

/// Returns the time in seconds since 1970.
pub(super) fn seconds(now: SystemTime) -> u64 {
    now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Returns random bytes as base64url; `None` if the system has none.
pub(super) fn random<const BYTES: usize>() -> Option<String> {
    let mut bytes = [0; BYTES];
    SystemRandom::new().fill(&mut bytes).ok()?;
    Some(URL_SAFE_NO_PAD.encode(bytes))
}

fn digest(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(Sha256::digest(bytes))
}

/// Returns a path with its query if it is certainly one of this origin: some programs take `//`, `\` and their encodings at the
/// start for the name of another server.
pub(super) fn local(target: &str) -> Option<&str> {
    let path = target.split(['?', '#']).next().unwrap_or_default();
    let visible = target.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\');
    let mut decoded = path.to_ascii_lowercase();
    // Programs that decode twice exist.
    for _ in 0..3 {
        decoded = decoded.replace("%25", "%").replace("%2f", "/").replace("%5c", "\\").replace("%2e", ".");
    }
    // Tabs and line breaks, which browsers remove from URLs.
    let hidden = ["%09", "%0a", "%0d", "%00", "\\"].iter().any(|part| decoded.contains(part));
    let fits = path.starts_with('/') && !decoded.contains("//") && !decoded.contains("/.") && !hidden;
    (fits && visible && target.len() <= MOST_PATH).then_some(target)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn keys(byte: u8) -> SealingKeys {
        use base64::engine::general_purpose::STANDARD;
        SealingKeys::read(&STANDARD.encode((byte..byte + 32).collect::<Vec<_>>())).unwrap()
    }

    #[test]
    fn states_are_of_one_browser_for_a_while() {
        let (start, keys) = (UNIX_EPOCH + Duration::from_secs(1_000_000), keys(1));
        let state = LoginState::new(start, b"cookie", "/cart?a=1").unwrap();
        assert_eq!((state.is_of(b"cookie"), state.is_of(b"other"), state.is_of(b"")), (true, false, false));
        assert_ne!(state.nonce, LoginState::new(start, b"cookie", "/").unwrap().nonce);
        let text = state.seal(&keys, b"shop").unwrap();
        let after = |seconds: i64| {
            let now = start.checked_add(Duration::from_secs(600)).unwrap();
            let now = if seconds < 0 {
                now - Duration::from_secs(seconds.unsigned_abs())
            } else {
                now + Duration::from_secs(seconds.unsigned_abs())
            };
            LoginState::open(&keys, b"shop", &text, now, Duration::from_secs(30)).map(|(_, state)| state)
        };
        assert_eq!(after(29), Some(state));
        assert_eq!((after(30), after(-630).is_some(), after(-631)), (None, true, None));
        for (keys, context) in [(&keys, &b"other"[..]), (&self::keys(2), b"shop")] {
            assert_eq!(LoginState::open(keys, context, &text, start, Duration::ZERO), None);
        }
    }

    #[test]
    fn only_local_paths_are_returned_to() {
        for good in [
            "/",
            "/cart",
            "/cart?next=https://evil.example",
            "/a/b;c=d",
            "/caf%C3%A9",
            "/a%20b?x=//y",
            "/@evil.example",
        ] {
            assert_eq!(local(good), Some(good));
        }
        for bad in [
            "",
            "*",
            "cart",
            "//evil.example",
            "///evil.example",
            "/\\evil.example",
            "\\\\evil.example",
            "/%2Fevil.example",
            "/%2f%2fevil.example",
            "/%5Cevil.example",
            "/%255cevil.example",
            "/%25252fevil.example",
            "/.//evil.example",
            "/%2e/%2fevil.example",
            "/../evil.example",
            "/a/..//evil.example",
            "/%09/evil.example",
            "/\t/evil.example",
            "/%0d%0aLocation:x",
            "/\r\nset-cookie: a=b",
            "https://evil.example/",
            "HTTPS:evil.example",
            "javascript:alert(1)",
            "data:text/html,x",
            "/\u{2044}evil.example",
            "/a b",
        ] {
            assert_eq!(local(bad), None, "{bad}");
        }
        assert_eq!(local(&format!("/{}", "a".repeat(MOST_PATH))), None);
    }

    proptest! {
        /// Whatever a browser is sent to is of this origin, as another parser of URLs sees it.
        #[test]
        fn a_return_never_leaves_the_origin(target in "[/\\\\.%25fFcC?#@:a-z0-9 \t]{0,12}") {
            if let Some(path) = local(&target) {
                let url: http::Uri = format!("https://shop.example{path}").parse().unwrap();
                prop_assert_eq!(url.host(), Some("shop.example"));
                prop_assert!(path.starts_with('/') && !path.starts_with("//"));
            }
        }
    }
}
