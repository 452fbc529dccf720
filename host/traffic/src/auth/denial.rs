//! Why a request is not taken: for its client in general, for operators in detail.

use std::sync::Arc;

use http::header::HeaderValue;

use super::redirect::LoginRedirect;

/// The refusal of a request by its credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthDenial {
    /// The cause.
    pub cause: Cause,
    /// The values of `WWW-Authenticate`.
    pub challenges: Vec<HeaderValue>,
    /// Where a browser can log in, in place of the refusal.
    pub login: Option<Box<LoginRedirect>>,
    /// Whether a person sees it at the end of a login or of a session.
    pub ends_login: bool,
    /// The name of the API key, if that is known.
    pub key: Option<Arc<str>>,
}

/// What is wrong with the credentials of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// There are none.
    Missing,
    /// `Authorization` has another scheme than `Bearer`.
    NoBearer,
    /// There is more than one.
    Several,
    /// They are longer than any that are valid.
    TooLong,
    /// There is no such API key.
    UnknownKey,
    /// The API key has expired.
    ExpiredKey,
    /// It is not a token that is supported.
    Malformed,
    /// The token has an algorithm that is not allowed, or not for its key.
    Algorithm,
    /// The token names no key of the issuer.
    UnknownKid,
    /// The signature of the token is wrong.
    Signature,
    /// A claim of the token is missing that each must have, or has a wrong type.
    Claims,
    /// The token is of another issuer.
    Issuer,
    /// The token is for others.
    Audience,
    /// The token has expired.
    ExpiredToken,
    /// The token is not valid yet.
    EarlyToken,
    /// The user is not known, or has another password.
    WrongPassword,
    /// The hash of the password is not computed yet.
    UnverifiedPassword,
    /// The client certificate has none of the names that are allowed.
    Certificate,
    /// The client certificate has expired since the handshake.
    ExpiredCertificate,
    /// The keys of the issuer are not known.
    NoKeys,
    /// The cookie is no session of this service, or the session is over.
    Session,
    /// It is not the end of a login that this browser began within its time, or it is the end of one for the second time.
    LoginState,
    /// The provider did not confirm the login.
    LoginRefused,
    /// The provider does not accept the service.
    ClientRefused,
    /// The ID token is for another login.
    Nonce,
    /// The claims of a session do not fit into a cookie.
    SessionTooLarge,
    /// The provider is not known, or does not respond.
    NoProvider,
    /// A page of another origin uses the session of its browser.
    ForeignPage,
    /// A scope is missing.
    Scope,
    /// A claim is missing, or has another value.
    Claim,
}

/// What a client is told of a [`Cause`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DenialKind {
    /// The request needs credentials.
    Missing,
    /// The credentials are not valid.
    Invalid,
    /// They are valid, and do not suffice.
    Insufficient,
    /// They cannot be verified at present.
    Unavailable,
}

impl std::error::Error for AuthDenial {}

impl AuthDenial {
    /// Returns the refusal of any request on a connection whose certificate has expired.
    pub fn expired_certificate() -> Self {
        let challenges = vec![HeaderValue::from_static("ClientCertificate")];
        Self { cause: Cause::ExpiredCertificate, challenges, login: None, ends_login: false, key: None }
    }

    /// Returns what a person whose login fails can do. Others are not told what is wrong with their credentials.
    pub fn advice(&self) -> Option<&'static str> {
        Some(match self.cause {
            Cause::LoginState => {
                "the login did not begin in this browser within the last 10 minutes; open the page again"
            }
            Cause::LoginRefused | Cause::Nonce => "the provider did not confirm the login; open the page again",
            Cause::SessionTooLarge => "the claims of the login do not fit into a cookie",
            Cause::ForeignPage if self.ends_login => {
                "a page of another origin may not log out; send the form from a page of `login.url`"
            }
            Cause::ForeignPage => {
                "a page of another origin sent the request; `cors` with `credentials` allows its origin"
            }
            Cause::ClientRefused => {
                "the provider refuses this service; its operator must check `client_id` and the secret"
            }
            Cause::NoProvider => "the provider of logins does not respond; try again later",
            Cause::NoKeys if self.ends_login => "the keys of the provider cannot be fetched; try again later",
            Cause::ExpiredToken | Cause::EarlyToken if self.ends_login => {
                "the login took too long, or the clocks of the provider and of this service differ; open the page again, or \
                 tell the operator of this service"
            }
            _ if self.ends_login => {
                "what the provider says of the login is not valid for this service; its operator finds the cause in the log"
            }
            _ => return None,
        })
    }
}

impl std::fmt::Display for AuthDenial {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self.cause.kind() {
            DenialKind::Missing => "credentials are required",
            DenialKind::Invalid => "the credentials are not valid",
            DenialKind::Insufficient => "the credentials do not allow this",
            DenialKind::Unavailable => "the credentials cannot be verified at present",
        })
    }
}

impl Cause {
    /// Returns what the client is told. An error of a key or a token is not told in detail.
    pub fn kind(self) -> DenialKind {
        match self {
            Self::Missing | Self::NoBearer => DenialKind::Missing,
            Self::Several | Self::TooLong | Self::UnknownKey | Self::ExpiredKey | Self::ExpiredCertificate => {
                DenialKind::Invalid
            }
            Self::WrongPassword
            | Self::Malformed
            | Self::Algorithm
            | Self::UnknownKid
            | Self::Signature
            | Self::Claims => DenialKind::Invalid,
            Self::Issuer | Self::Audience | Self::ExpiredToken | Self::EarlyToken => DenialKind::Invalid,
            Self::Session | Self::LoginState | Self::LoginRefused | Self::Nonce => DenialKind::Invalid,
            Self::NoKeys | Self::UnverifiedPassword | Self::NoProvider | Self::ClientRefused => DenialKind::Unavailable,
            Self::Scope | Self::Claim | Self::Certificate | Self::SessionTooLarge | Self::ForeignPage => {
                DenialKind::Insufficient
            }
        }
    }

    /// Whether this may be a guess, which counts as a failed attempt. What was issued once and is not valid here or now is none:
    /// a client with an old token must not keep others at its address out.
    pub fn is_guess(self) -> bool {
        matches!(self, Self::UnknownKey | Self::WrongPassword | Self::Signature | Self::Malformed | Self::LoginRefused)
    }

    /// Returns a short name for metrics and logs that never changes.
    pub fn name(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::NoBearer => "no-bearer",
            Self::Several => "several",
            Self::TooLong => "too-long",
            Self::UnknownKey => "unknown-key",
            Self::ExpiredKey => "expired-key",
            Self::Malformed => "malformed-token",
            Self::Algorithm => "algorithm",
            Self::UnknownKid => "unknown-kid",
            Self::Signature => "signature",
            Self::Claims => "claims",
            Self::Issuer => "issuer",
            Self::Audience => "audience",
            Self::ExpiredToken => "expired-token",
            Self::EarlyToken => "early-token",
            Self::WrongPassword => "wrong-password",
            Self::UnverifiedPassword => "unverified-password",
            Self::Certificate => "certificate",
            Self::ExpiredCertificate => "expired-certificate",
            Self::NoKeys => "no-keys",
            Self::Session => "session",
            Self::LoginState => "login-state",
            Self::LoginRefused => "login-refused",
            Self::ClientRefused => "client-refused",
            Self::Nonce => "nonce",
            Self::SessionTooLarge => "session-too-large",
            Self::NoProvider => "no-provider",
            Self::ForeignPage => "foreign-page",
            Self::Scope => "scope",
            Self::Claim => "claim",
        }
    }

    /// Returns the challenge of the scheme `Bearer` (RFC 6750 3).
    pub(super) fn bearer_challenge(self, realm: &str, scopes: &[String]) -> String {
        let error = match (self, self.kind()) {
            (_, DenialKind::Missing | DenialKind::Unavailable) => String::new(),
            (Self::Several, _) => ", error=\"invalid_request\"".into(),
            (_, DenialKind::Invalid) => ", error=\"invalid_token\"".into(),
            (_, DenialKind::Insufficient) if scopes.is_empty() => ", error=\"insufficient_scope\"".into(),
            (_, DenialKind::Insufficient) => format!(", error=\"insufficient_scope\", scope=\"{}\"", scopes.join(" ")),
        };
        format!("Bearer realm=\"{realm}\"{error}")
    }
}
