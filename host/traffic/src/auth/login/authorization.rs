//! The response of a provider to a request for authorization, in the query of the request that a browser comes back with.

use super::browser::BrowserRequest;
use lodge_base::telemetry::logs::clean;

/// What a provider says when it sends a browser back (RFC 6749 4.1.2, RFC 9207).
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct AuthorizationResponse {
    pub(super) state: Option<String>,
    pub(super) code: Option<String>,
    pub(super) issuer: Option<String>,
    /// The error, and its description for developers.
    pub(super) error: Option<String>,
    pub(super) description: Option<String>,
}

/// The most characters of each of these for operators.
const MOST_SAID: usize = 200;

impl AuthorizationResponse {
    /// Reads the query of a request; `None` if it has a parameter twice.
    pub(super) fn read(browser: &BrowserRequest) -> Option<Self> {
        let mut answer = Self::default();
        for (name, value) in form_urlencoded::parse(browser.target.query().unwrap_or_default().as_bytes()) {
            let place = match &*name {
                "state" => &mut answer.state,
                "code" => &mut answer.code,
                "iss" => &mut answer.issuer,
                "error" => &mut answer.error,
                // It decides nothing.
                "error_description" => {
                    answer.description.get_or_insert_with(|| value.into_owned());
                    continue;
                }
                _ => continue,
            };
            if place.replace(value.into_owned()).is_some() {
                return None;
            }
        }
        Some(answer)
    }

    /// Returns what the provider says of a login that failed, without control characters and cut: it comes through a browser.
    pub(super) fn said(&self) -> Option<String> {
        let shown = |text: &str| clean(&text.chars().take(MOST_SAID).collect::<String>()).into_owned();
        let error = self.error.as_deref().map(shown)?;
        let description = self.description.as_deref().filter(|text| !text.is_empty()).map(shown);
        Some(format!("{error}{}", description.map_or(String::new(), |text| format!(": {text}"))))
    }
}
