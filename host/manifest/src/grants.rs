//! The destinations that a service may send requests to: `calls` for services of this host, `http` for other servers.
//!
//! Pure. An entry of `http` allows an origin: a scheme, a host and a port. Only an entry with an address or a network
//! allows connections to addresses that are not public; a name never does.

use std::fmt;
use std::net::IpAddr;

use http::uri::Scheme;
use ipnet::IpNet;
use serde_json::json;

use crate::name::is_name;
use crate::schema;
use crate::section::{Capability, Owner, Section, Subject, View, words};
use crate::written::Written;
use lodge_base::config::key::{nearest, network};

/// `calls`.
pub(crate) const CALLS: Section = Section {
    name: "calls",
    page: "calls",
    schema: || {
        let calls = schema::texts(json!({ "type": "string" }));
        schema::described(calls, "services of this host that its guests may call, one or a list; \"*\" is all")
    },
    owner: Owner::All(|manifest, written, problems| {
        if let Some(calls) = problems.take(Callees::read(written)) {
            manifest.grants.calls = calls;
        }
    }),
    subject: Subject::Execution,
    view: Some(View {
        label: "may call",
        value: |manifest| Some(manifest.grants.calls.names()).filter(|names| !names.is_empty()).map(Into::into),
        text: words,
    }),
    capability: Some(&REQUESTS),
};

/// What both sections grant.
const REQUESTS: Capability = Capability {
    what: "outgoing HTTP",
    interfaces: &["wasi:http/outgoing-handler", "wasi:http/client"],
    given: "imported; denied except what `calls` and `http` of its manifest allow",
    grant: Some(
        "# calls = [\"users\"]                    # services of the same host\n\
         # http = [\"https://api.example.com\"]  # origins of the world\n",
    ),
};

/// `http`.
pub(crate) const HTTP: Section = Section {
    name: "http",
    page: "calls",
    schema: || {
        let http = schema::texts(json!({ "type": "string", "pattern": "^https?://" }));
        let help = "origins that its guests may send requests to, such as https://*.example.org, one or a list";
        schema::described(http, help)
    },
    owner: Owner::All(|manifest, written, problems| {
        let read = |origin: &Written<'_>| Origin::read(origin.string(FORM)?).map_err(|wrong| origin.at(wrong));
        if let Some(origins) = problems.take(written.items("[\"https://api.example.com\"]")) {
            manifest.grants.http = origins.iter().filter_map(|origin| problems.take(read(origin))).collect();
        }
    }),
    subject: Subject::Execution,
    view: Some(View {
        label: "may send to",
        value: |manifest| {
            let origins: Vec<_> = manifest.grants.http.iter().map(ToString::to_string).collect();
            Some(origins).filter(|origins| !origins.is_empty()).map(Into::into)
        },
        text: words,
    }),
    capability: Some(&REQUESTS),
};

/// The destinations of a service's requests. By default there are none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grants {
    /// Services of this host.
    pub calls: Callees,
    /// Origins of other servers.
    pub http: Vec<Origin>,
}

/// The services that may be called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Callees {
    /// All services.
    All,
    /// The services with these names, as in the manifest.
    These(Vec<String>),
}

/// An entry of `http`: scheme, host and port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    https: bool,
    host: Host,
    /// The port; `None` for any.
    port: Option<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Host {
    /// Every host with a public address.
    Any,
    /// This name, in lower case.
    Name(String),
    /// All names below this domain, but not the domain itself.
    Below(String),
    /// These addresses, public or not.
    Addresses(IpNet),
}

/// The syntax of an entry, for messages.
const FORM: &str = "write it like \"https://api.example.com\", \"https://*.example.org\", \"http://10.0.0.7:8080\" or \"http://10.0.0.0/8\"";

impl Grants {
    /// Whether no request may be sent.
    pub fn is_empty(&self) -> bool {
        self.http.is_empty() && matches!(&self.calls, Callees::These(names) if names.is_empty())
    }

    /// Whether the service `name` may be called.
    pub fn calls(&self, name: &str) -> bool {
        match &self.calls {
            Callees::All => true,
            Callees::These(names) => names.iter().any(|allowed| is_same(allowed, name)),
        }
    }

    /// Whether a request to this host may be sent.
    pub fn asks(&self, scheme: &Scheme, host: &str, port: u16) -> bool {
        self.http.iter().any(|origin| origin.is_at(scheme, port) && origin.names(host))
    }

    /// Whether this address may be connected to although it is not public.
    pub fn reaches(&self, scheme: &Scheme, address: IpAddr, port: u16) -> bool {
        self.http.iter().any(|origin| origin.is_at(scheme, port) && origin.holds(address))
    }

    /// Whether any entry allows connections to addresses that are not `public`.
    pub fn lists_private(&self, public: impl Fn(IpAddr) -> bool) -> bool {
        // A network may contain both kinds; it counts as a grant for the private ones.
        let some = |net: &IpNet| net.prefix_len() < net.max_prefix_len() || !public(net.addr());
        self.http.iter().any(|origin| matches!(&origin.host, Host::Addresses(net) if some(net)))
    }
}

impl Default for Callees {
    fn default() -> Self {
        Self::These(Vec::new())
    }
}

impl Callees {
    /// Returns the names, as in a manifest.
    pub fn names(&self) -> Vec<String> {
        match self {
            Self::All => vec!["*".to_owned()],
            Self::These(names) => names.clone(),
        }
    }

    /// Reads a name, `"*"`, or a list of them.
    fn read(written: &Written<'_>) -> Result<Self, String> {
        const FORM: &str = "write it like [\"users\"], or \"*\"";
        let name = |item: &Written<'_>| {
            let name = item.string(FORM)?;
            let sound = name == "*" || is_name(name);
            let wrong = || item.error(format!("`{}` cannot be the name of a service; {FORM}", name.escape_debug()));
            if sound { Ok(name.to_owned()) } else { Err(wrong()) }
        };
        let names = written.items("[\"users\"], or \"*\"")?.iter().map(name).collect::<Result<Vec<_>, _>>()?;
        Ok(if names.iter().any(|name| name == "*") { Self::All } else { Self::These(names) })
    }
}

/// Compares service names without regard to case, and `_` as `-`, because host names have no `_`.
fn is_same(one: &str, other: &str) -> bool {
    let plain = |byte: u8| if byte == b'_' { b'-' } else { byte.to_ascii_lowercase() };
    one.len() == other.len() && one.bytes().map(plain).eq(other.bytes().map(plain))
}

impl Origin {
    /// Parses an entry of `http`.
    ///
    /// # Errors
    /// The problem and the expected syntax.
    pub(super) fn read(text: &str) -> Result<Self, String> {
        let wrong = |why: &str| format!("http: `{}`: {why}; {FORM}", text.escape_debug());
        let Some((scheme, rest)) = text.split_once("://") else {
            return Err(wrong("it has no scheme"));
        };
        let https = match scheme {
            "https" => true,
            "http" => false,
            other => {
                let near = nearest(other, ["https", "http"].into_iter());
                let hint = near.map_or(String::new(), |near| format!(", did you mean `{near}`?"));
                return Err(wrong(&format!("the scheme is not http or https{hint}")));
            }
        };
        let (authority, bits) = match rest.split_once('/') {
            Some((authority, "")) => (authority, None),
            Some((authority, bits)) => (authority, Some(bits)),
            None => (rest, None),
        };
        let (host, port) =
            split_port(authority).ok_or_else(|| wrong("the port is not a number from 0 to 65535, or `*`"))?;
        let host = match bits {
            Some(bits) => {
                let is_address = bare(host).parse::<IpAddr>().is_ok();
                let net = network(&format!("{}/{bits}", bare(host)));
                Host::Addresses(net.map_err(|why| match is_address {
                    true => wrong(&why),
                    false => wrong("it has a path and is not a network"),
                })?)
            }
            None => Host::read(host).ok_or_else(|| wrong("its host is neither a name nor an address"))?,
        };
        let port = match port {
            None => Some(if https { 443 } else { 80 }),
            Some("*") => None,
            Some(port) => Some(port.parse().map_err(|_| wrong("the port is not a number from 0 to 65535, or `*`"))?),
        };
        Ok(Self { https, host, port })
    }

    fn is_at(&self, scheme: &Scheme, port: u16) -> bool {
        self.https == (*scheme == Scheme::HTTPS) && self.port.is_none_or(|only| only == port)
    }

    /// Whether the entry covers the host of a URL.
    fn names(&self, host: &str) -> bool {
        let host = host.strip_suffix('.').unwrap_or(host);
        match &self.host {
            Host::Any => true,
            Host::Name(name) => name.eq_ignore_ascii_case(host),
            Host::Below(domain) => {
                let cut = host.len().checked_sub(domain.len() + 1).filter(|cut| *cut > 0);
                cut.and_then(|cut| host.split_at_checked(cut)).is_some_and(|(_, rest)| {
                    rest.strip_prefix('.').is_some_and(|rest| rest.eq_ignore_ascii_case(domain))
                })
            }
            Host::Addresses(net) => {
                bare(host).parse::<IpAddr>().is_ok_and(|address| net.contains(&address.to_canonical()))
            }
        }
    }

    fn holds(&self, address: IpAddr) -> bool {
        matches!(&self.host, Host::Addresses(net) if net.contains(&address.to_canonical()))
    }
}

impl Host {
    fn read(text: &str) -> Option<Self> {
        if text == "*" {
            return Some(Self::Any);
        }
        if let Ok(address) = bare(text).parse::<IpAddr>() {
            return Some(Self::Addresses(address.to_canonical().into()));
        }
        let name = |text: &str| {
            let text = text.strip_suffix('.').unwrap_or(text);
            let label = |label: &str| {
                !label.is_empty()
                    && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
            };
            text.split('.').all(label).then(|| text.to_ascii_lowercase())
        };
        match text.strip_prefix("*.") {
            Some(domain) => name(domain).map(Self::Below),
            None => name(text).map(Self::Name),
        }
    }
}

/// Returns an IPv6 address without its brackets, and any other host unchanged.
pub fn bare(host: &str) -> &str {
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
}

/// Splits host and port. Colons between brackets belong to an IPv6 address.
fn split_port(authority: &str) -> Option<(&str, Option<&str>)> {
    let end = authority.rfind(']').map_or(0, |end| end + 1);
    let (inside, rest) = authority.split_at_checked(end)?;
    match rest.split_once(':') {
        None => Some((authority, None)),
        Some((name, port)) if !port.contains(':') => Some((authority.get(..inside.len() + name.len())?, Some(port))),
        Some(_) => None,
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, usual) = if self.https { ("https", 443) } else { ("http", 80) };
        let port = match self.port {
            None => ":*".to_owned(),
            Some(port) if port == usual => String::new(),
            Some(port) => format!(":{port}"),
        };
        write!(f, "{scheme}://")?;
        match &self.host {
            Host::Any => write!(f, "*{port}"),
            Host::Name(name) => write!(f, "{name}{port}"),
            Host::Below(domain) => write!(f, "*.{domain}{port}"),
            Host::Addresses(net) => {
                let address = match net.addr() {
                    IpAddr::V4(v4) => v4.to_string(),
                    IpAddr::V6(v6) => format!("[{v6}]"),
                };
                let bits = if net.prefix_len() == net.max_prefix_len() {
                    String::new()
                } else {
                    format!("/{}", net.prefix_len())
                };
                write!(f, "{address}{port}{bits}")
            }
        }
    }
}

#[cfg(test)]
mod tests;
