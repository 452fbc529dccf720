//! Authorization at a registry: Basic, or a token of the server that the registry's challenge names (RFC 9110 11, the token
//! authentication of the distribution project).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Request, StatusCode, Uri};
use http_body_util::Full;
use serde::Deserialize;

use super::RegistryError;
use super::credentials::{self, Credential};
use super::exchange::{RegistryHttp, body, failure};

/// The most bytes of the response of a token server.
const MOST_TOKEN: usize = 256 << 10;

/// What the requests of a session do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// They read.
    Pull,
    /// They read and write.
    Push,
}

/// What a session sends in `Authorization`.
pub(super) struct Authorization {
    repository: String,
    access: Access,
    header: Option<HeaderValue>,
}

/// A challenge of a registry.
#[derive(Debug, Default, PartialEq, Eq)]
struct Challenge {
    realm: String,
    service: Option<String>,
}

impl Authorization {
    pub(super) fn new(repository: &str, access: Access) -> Self {
        Self { repository: repository.to_owned(), access, header: None }
    }

    pub(super) fn header(&self) -> Option<&HeaderValue> {
        self.header.as_ref()
    }

    /// Answers the challenge of a response with status 401. Returns whether another attempt makes sense.
    ///
    /// # Errors
    /// If credentials cannot be read, or the token server does not respond.
    pub(super) async fn renew(
        &mut self,
        exchange: &RegistryHttp,
        registry: &str,
        headers: &HeaderMap,
    ) -> Result<bool, RegistryError> {
        let known = credentials::find(&exchange.settings, registry, &self.repository).await;
        let known = known.map_err(RegistryError::new)?;
        let all = headers.get_all(header::WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok());
        let challenges: Vec<&str> = all.collect();
        if let Some(challenge) = challenges.iter().find_map(|text| bearer(text)) {
            let token = self.token(exchange, registry, &challenge, known.as_ref()).await?;
            self.header = Some(secret(&format!("Bearer {token}"))?);
            return Ok(true);
        }
        let basic =
            challenges.iter().any(|text| scheme(text).is_some_and(|(name, _)| name.eq_ignore_ascii_case("basic")));
        match known {
            Some(Credential::Password { user, password }) if basic => {
                self.header = Some(basic_header(&user, &password)?);
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    /// Returns a token for the repository.
    async fn token(
        &self,
        exchange: &RegistryHttp,
        registry: &str,
        challenge: &Challenge,
        known: Option<&Credential>,
    ) -> Result<String, RegistryError> {
        let actions = match self.access {
            Access::Pull => "pull",
            Access::Push => "pull,push",
        };
        // The scope is that of this session, whatever the challenge says.
        let mut query = vec![("scope", format!("repository:{}:{actions}", self.repository))];
        query.extend(challenge.service.iter().map(|service| ("service", service.clone())));
        let mut request = Request::new(Full::default());
        let mut url = challenge.realm.clone();
        if let Some(Credential::IdentityToken(token)) = known {
            query.push(("grant_type", "refresh_token".into()));
            query.push(("client_id", "lodge".into()));
            query.push(("refresh_token", token.clone()));
            *request.method_mut() = Method::POST;
            *request.body_mut() = Full::new(Bytes::from(form(&query)));
            let kind = HeaderValue::from_static("application/x-www-form-urlencoded");
            request.headers_mut().insert(header::CONTENT_TYPE, kind);
        } else {
            if let Some(Credential::Password { user, password }) = known {
                request.headers_mut().insert(header::AUTHORIZATION, basic_header(user, password)?);
            }
            url.push(if url.contains('?') { '&' } else { '?' });
            url.push_str(&form(&query));
        }
        let not_a_url = |_| RegistryError::new("the registry names a server of tokens, but not by a URL");
        *request.uri_mut() = url.parse::<Uri>().map_err(not_a_url)?;
        let response = exchange.send(registry, request).await?;
        if response.status() != StatusCode::OK {
            return Err(failure(&format!("a token for {}", self.repository), response).await);
        }
        let token = serde_json::from_slice::<ServedToken>(&body(response, MOST_TOKEN).await?).unwrap_or_default();
        let token = [token.token, token.access_token].into_iter().find(|token| !token.is_empty());
        token.ok_or_else(|| RegistryError::new("the registry's server of tokens returns none"))
    }
}

/// The response of a token server.
#[derive(Default, Deserialize)]
#[serde(default)]
struct ServedToken {
    token: String,
    access_token: String,
}

fn form(pairs: &[(&str, String)]) -> String {
    form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish()
}

fn basic_header(user: &str, password: &str) -> Result<HeaderValue, RegistryError> {
    secret(&format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))))
}

fn secret(text: &str) -> Result<HeaderValue, RegistryError> {
    let value = HeaderValue::from_str(text);
    let mut value =
        value.map_err(|_| RegistryError::new("the registry's token has characters that no header can have"))?;
    value.set_sensitive(true);
    Ok(value)
}

/// Splits a challenge into its scheme and parameters.
fn scheme(text: &str) -> Option<(&str, &str)> {
    let text = text.trim();
    let (name, rest) = text.split_at(text.find(' ').unwrap_or(text.len()));
    (!name.is_empty()).then_some((name, rest.trim_start()))
}

/// Reads a challenge for a token; `None` if it is another one, or names no server.
fn bearer(text: &str) -> Option<Challenge> {
    let (name, mut rest) = scheme(text)?;
    if !name.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let mut challenge = Challenge::default();
    while !rest.is_empty() {
        let (key, after) = rest.split_once('=')?;
        let (value, after) = value(after)?;
        match key.trim().to_ascii_lowercase().as_str() {
            "realm" => challenge.realm = value,
            "service" => challenge.service = Some(value),
            _ => {}
        }
        rest = after.trim_start().trim_start_matches(',').trim_start();
    }
    (!challenge.realm.is_empty()).then_some(challenge)
}

/// Reads any challenge.
#[cfg(any(test, fuzzing))]
pub(super) fn read(text: &str) {
    let _ = bearer(text);
}

/// Reads a token or a quoted string. Returns what follows.
fn value(text: &str) -> Option<(String, &str)> {
    let text = text.trim_start();
    let Some(quoted) = text.strip_prefix('"') else {
        let (value, rest) = text.split_at(text.find(',').unwrap_or(text.len()));
        return Some((value.trim().to_owned(), rest));
    };
    let (mut value, mut escaped) = (String::new(), false);
    for (at, c) in quoted.char_indices() {
        match c {
            _ if escaped => {
                value.push(c);
                escaped = false;
            }
            '\\' => escaped = true,
            '"' => return Some((value, quoted.get(at + 1..)?)),
            c => value.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_read() {
        let of = |realm: &str, service: Option<&str>| {
            Some(Challenge { realm: realm.into(), service: service.map(str::to_owned) })
        };
        for (text, expected) in [
            (
                r#"Bearer realm="https://auth.example/token",service="r.example",scope="repository:a:pull,push""#,
                of("https://auth.example/token", Some("r.example")),
            ),
            (r#"bearer  Realm = "https://a/t" , error="x\"y, z=", service=plain"#, of("https://a/t", Some("plain"))),
            (r#"Bearer realm=https://a/t"#, of("https://a/t", None)),
            (r#"Bearer realm="https://a/t"#, None),
            ("Bearer", None),
            ("Bearer x", None),
            (r#"Bearer service="x""#, None),
            (r#"Basic realm="x""#, None),
            ("", None),
        ] {
            assert_eq!(bearer(text), expected, "{text}");
        }
    }
}
