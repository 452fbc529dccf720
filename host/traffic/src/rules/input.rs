//! What conditions of rules can name. Nothing is computed before a condition names it.

use std::net::IpAddr;
use std::time::SystemTime;

use http::{HeaderMap, HeaderName, Method, Uri};

use super::failure::RuleFailure;
use crate::auth::RequestSender;
use crate::auth::identity::{AuthMethod, Identity};
use lodge_base::headers::is_same;

/// A request as rules see it.
#[derive(Clone, Copy, Debug)]
pub struct RuleInput<'a> {
    /// The method.
    pub method: &'a Method,
    /// The absolute URI in canonical form.
    pub uri: &'a Uri,
    /// The path that the service sees, in the one form that all of its spellings have. Any text, if [no rule needs
    /// it](lodge_manifest::expression::Uses::path).
    pub path: &'a str,
    /// The headers that the service will see.
    pub headers: &'a HeaderMap,
    /// The bytes of the body, if they are known.
    pub size: Option<u64>,
    /// Whose request it is, if its route needs credentials.
    pub identity: Option<&'a Identity>,
    /// The sender, whatever the route needs.
    pub sender: RequestSender<'a>,
    /// The address of the client.
    pub client: IpAddr,
    /// The address that headers claim which are not trusted.
    pub claimed: Option<IpAddr>,
    /// The time of the request. Any time, if [no rule needs it](lodge_manifest::expression::Uses::clock).
    pub now: SystemTime,
}

impl<'a> RuleInput<'a> {
    /// How the sender is known: a name of [`AuthMethod`], or `anonymous`.
    pub(super) fn kind(&self) -> &'static str {
        match (self.identity, self.sender) {
            (Some(identity), _) => identity.method().name(),
            (None, RequestSender::Client(_)) => "anonymous",
            (None, RequestSender::Service(_)) => AuthMethod::Call.name(),
            (None, RequestSender::Host) => AuthMethod::Host.name(),
        }
    }

    /// The name of the sender; empty if it is anonymous.
    pub(super) fn subject(&self) -> &'a str {
        match (self.identity, self.sender) {
            (Some(identity), _) => identity.subject(),
            (None, RequestSender::Client(_)) => "",
            (None, RequestSender::Service(name)) => name,
            (None, RequestSender::Host) => "lodge",
        }
    }
}

/// Whether rules see a header of this name: it is in small letters, as in all requests, and not `host`, which only HTTP/1.1 has.
pub(super) fn is_seen(name: &str) -> bool {
    name != "host" && !name.bytes().any(|byte| byte.is_ascii_uppercase())
}

/// Whether rules see a header of this name. A map has no key in other letters.
///
/// # Errors
/// If there is one with another name that is the same to some services: which one they read is not known here.
pub(super) fn has_header(headers: &HeaderMap, name: &str) -> Result<bool, RuleFailure> {
    let is_other = |other: &HeaderName| is_same(other.as_str(), name) && other.as_str() != name;
    if is_seen(name) && headers.keys().any(is_other) {
        return Err(RuleFailure::Spelling);
    }
    Ok(is_seen(name) && headers.contains_key(name))
}
