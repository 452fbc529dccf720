//! Parses the sources of replicas. Pure.
//!
//! ```text
//! http://10.0.0.7:8080 weight=3      one replica; https too; a name stands for its first address
//! dns://users.internal:8080          every address of a name; dns+https for TLS
//! srv://_http._tcp.users.internal    every target of a service record; srv+https for TLS
//! k8s://shop/users:http            every endpoint of a Service of Kubernetes; k8s+https for TLS
//! cluster://users                  every other host of the cluster with users; cluster+https for TLS
//! file:/etc/lodge/users.replicas     a file of entries of the first kind, one per line; # begins a comment
//! ```

use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::path::PathBuf;
use std::sync::Arc;

use crate::name::is_name;
use crate::upstream::kubernetes::ServiceEndpoints;
use crate::upstream::protocol::Scheme;

/// The highest weight of a replica, as in SRV records (RFC 2782).
pub const WEIGHT: u32 = 65_535;

const SCHEMES: [&str; 10] =
    ["http", "https", "dns", "dns+https", "srv", "srv+https", "k8s", "k8s+https", "cluster", "cluster+https"];

/// An entry of a list of replicas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// One replica.
    Fixed(Fixed),
    /// All addresses of a name.
    Dns {
        /// The scheme: with TLS or without.
        scheme: Scheme,
        /// The name.
        name: Arc<str>,
        /// The port of every address.
        port: u16,
    },
    /// All targets of an SRV record.
    Srv {
        /// The scheme: with TLS or without.
        scheme: Scheme,
        /// The record's name, `_http._tcp.users.internal`.
        name: Arc<str>,
    },
    /// All endpoints of a Service of Kubernetes.
    Kubernetes(ServiceEndpoints),
    /// All other hosts of the cluster that serve a service.
    Cluster {
        /// The scheme of the addresses of these hosts.
        scheme: Scheme,
        /// The name of the service.
        service: Arc<str>,
    },
    /// The current content of a file.
    File(PathBuf),
}

/// One replica, by name or address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fixed {
    /// The scheme: with TLS or without.
    pub scheme: Scheme,
    /// A name, or an address without brackets.
    pub host: Arc<str>,
    /// The port, never 0.
    pub port: u16,
    /// The weight in relation to other replicas, from 1 to [`WEIGHT`].
    pub weight: u32,
}

impl Source {
    /// Whether both have the same location, whatever their weights.
    pub fn is_at(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Fixed(one), Self::Fixed(other)) => {
                (&one.scheme, &one.host, one.port) == (&other.scheme, &other.host, other.port)
            }
            _ => self == other,
        }
    }

    /// Parses an entry.
    ///
    /// # Errors
    /// One line: the entry, the problem, and the expected form.
    pub fn parse(text: &str) -> Result<Self, String> {
        read(text).map_err(|why| format!("{text:?}: {why}"))
    }
}

impl Source {
    /// Whether its replicas may use TLS. A file may list such replicas.
    pub fn is_tls(&self) -> bool {
        match self {
            Self::Fixed(fixed) => fixed.scheme == Scheme::Https,
            Self::Dns { scheme, .. } | Self::Srv { scheme, .. } | Self::Cluster { scheme, .. } => {
                *scheme == Scheme::Https
            }
            Self::Kubernetes(endpoints) => endpoints.scheme == Scheme::Https,
            Self::File(_) => true,
        }
    }

    /// Returns the weight; 1 for sources whose replicas have their own.
    pub fn weight(&self) -> u32 {
        if let Self::Fixed(fixed) = self { fixed.weight } else { 1 }
    }
}

impl Fixed {
    /// Returns the address, if the host is one.
    pub fn address(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }
}

/// Parses a file of replicas.
///
/// # Errors
/// The first invalid line and its number.
pub fn lines(text: &str) -> Result<Vec<Fixed>, String> {
    // Some editors begin a file with a byte order mark.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut replicas = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        match read(line) {
            Ok(Source::Fixed(fixed)) => replicas.push(fixed),
            Ok(_) => return Err(format!("line {number}: {line:?}: a file contains replicas only: http://HOST:PORT")),
            Err(why) => return Err(format!("line {number}: {line:?}: {why}")),
        }
    }
    Ok(replicas)
}

fn read(text: &str) -> Result<Source, String> {
    let mut words = text.split_whitespace();
    let first = words.next().ok_or("is empty: write http://HOST:PORT")?;
    let mut weight = None;
    for word in words {
        let number =
            word.strip_prefix("weight=").ok_or_else(|| format!("{word:?} is unknown: only weight=N may follow"))?;
        let number = number.parse().ok().filter(|number| (1..=WEIGHT).contains(number));
        weight = Some(number.ok_or_else(|| format!("{word:?} is not from 1 to {WEIGHT}"))?);
    }
    let bare = || format!("has no scheme: write http://{}", if first.contains('/') { "HOST:PORT" } else { first });
    let (scheme, rest) = first.split_once(':').ok_or_else(bare)?;
    let is_known = SCHEMES.contains(&scheme) || scheme == "file";
    if !is_known && !rest.starts_with("//") {
        return Err(bare());
    }
    let source = match scheme {
        "http" | "https" => {
            let scheme = tls(scheme == "https");
            let (host, port) = authority(rest)?;
            let port = port.unwrap_or(scheme.port());
            return Ok(Source::Fixed(Fixed { scheme, host, port, weight: weight.unwrap_or(1) }));
        }
        "dns" | "dns+https" => {
            let (name, port) = authority(rest)?;
            let port = port.ok_or("has no port: write dns://NAME:PORT")?;
            Source::Dns { scheme: tls(scheme == "dns+https"), name, port }
        }
        "srv" | "srv+https" => {
            let (name, port) = authority(rest)?;
            if port.is_some() || !name.starts_with('_') {
                return Err("write srv://_SERVICE._tcp.NAME: the records have the ports".into());
            }
            let https = scheme == "srv+https" || name.starts_with("_https.");
            Source::Srv { scheme: tls(https), name }
        }
        "k8s" | "k8s+https" => Source::Kubernetes(ServiceEndpoints::parse(tls(scheme == "k8s+https"), rest)?),
        "cluster" | "cluster+https" => {
            Source::Cluster { scheme: tls(scheme == "cluster+https"), service: service(rest)? }
        }
        "file" => Source::File(path(rest)?),
        other => return Err(unknown(other)),
    };
    if weight.is_some() {
        return Err("only a single replica can have a weight; SRV records have their own".into());
    }
    Ok(source)
}

fn unknown(scheme: &str) -> String {
    let nearest = SCHEMES.iter().max_by(|a, b| strsim::jaro(a, scheme).total_cmp(&strsim::jaro(b, scheme)));
    let nearest = nearest.filter(|nearest| strsim::jaro(nearest, scheme) > 0.7);
    let hint = nearest.map(|nearest| format!(" (did you mean {nearest:?}?)")).unwrap_or_default();
    format!("{scheme:?} is not one of {}{hint}", SCHEMES.join(", "))
}

fn tls(https: bool) -> Scheme {
    if https { Scheme::Https } else { Scheme::Http }
}

/// Parses `//host`, `//host:port` or `//[v6]:port`, optionally with a slash at the end.
fn authority(rest: &str) -> Result<(Arc<str>, Option<u16>), String> {
    let rest = rest.strip_prefix("//").ok_or("has no // after its scheme")?;
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    if let Some(sign) = rest.chars().find(|sign| "/?@".contains(*sign)) {
        return Err(format!("must end after the port: {sign:?} is not allowed"));
    }
    let (host, port) = match rest.strip_prefix('[') {
        Some(bracketed) => {
            let (host, port) = bracketed.split_once(']').ok_or("has no ] after its address")?;
            let address = host.parse::<Ipv6Addr>().map_err(|_| format!("{host:?} is not an IPv6 address"))?;
            let colon = port.strip_prefix(':');
            if colon.is_none() && !port.is_empty() {
                return Err("has more than a port after its address".into());
            }
            // The canonical form, so that two spellings are one replica.
            (Cow::Owned(address.to_canonical().to_string()), colon)
        }
        None => {
            let (host, port) = rest.split_once(':').map_or((rest, None), |(host, port)| (host, Some(port)));
            (Cow::Borrowed(host), port)
        }
    };
    if !rest.starts_with('[') && !is_host(&host) {
        return Err(format!("{host:?} is not a host"));
    }
    let number = |port: &str| port.parse().ok().filter(|port| *port != 0);
    let port = port.map(|port| number(port).ok_or_else(|| format!("{port:?} is not a port, 1 to 65535")));
    // Names are compared byte by byte, so they are stored in lower case.
    Ok((host.to_ascii_lowercase().into(), port.transpose()?))
}

fn is_host(host: &str) -> bool {
    let fits = |label: &str| {
        let letters = label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
        letters && (1..=63).contains(&label.len())
    };
    host.len() <= 253 && host.strip_suffix('.').unwrap_or(host).split('.').all(fits)
}

/// Parses `//SERVICE`, optionally with a slash at the end.
fn service(rest: &str) -> Result<Arc<str>, String> {
    let rest = rest.strip_prefix("//").ok_or("has no // after its scheme")?;
    let name = rest.strip_suffix('/').unwrap_or(rest);
    if is_name(name) { Ok(name.into()) } else { Err(format!("{name:?} is not the name of a service")) }
}

/// Parses `file:PATH` and `file:///PATH`.
fn path(rest: &str) -> Result<PathBuf, String> {
    let path = rest.strip_prefix("//").unwrap_or(rest);
    if path.is_empty() { Err("has no path: write file:/PATH".into()) } else { Ok(path.into()) }
}

impl fmt::Display for Fixed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, port) = (self.scheme.uri(), self.port);
        if self.host.contains(':') {
            write!(f, "{scheme}://[{}]:{port}", self.host)
        } else {
            write!(f, "{scheme}://{}:{port}", self.host)
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plus = |scheme: &Scheme| if *scheme == Scheme::Https { "+https" } else { "" };
        match self {
            Self::Fixed(fixed) => fixed.fmt(f),
            Self::Dns { scheme, name, port } => write!(f, "dns{}://{name}:{port}", plus(scheme)),
            Self::Srv { scheme, name } => write!(f, "srv{}://{name}", plus(scheme)),
            Self::Kubernetes(endpoints) => endpoints.fmt(f),
            Self::Cluster { scheme, service } => write!(f, "cluster{}://{service}", plus(scheme)),
            Self::File(path) => write!(f, "file:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn entries() {
        for (text, shown) in [
            ("http://10.0.0.7:8080", "http://10.0.0.7:8080"),
            ("http://Users/", "http://users:80"),
            ("https://users.internal weight=3", "https://users.internal:443"),
            ("https://[::1]:8443", "https://[::1]:8443"),
            ("http://[::1]", "http://[::1]:80"),
            ("dns://users:8080", "dns://users:8080"),
            ("dns+https://users.:8080", "dns+https://users.:8080"),
            ("srv://_http._tcp.users", "srv://_http._tcp.users"),
            ("srv://_https._tcp.users", "srv+https://_https._tcp.users"),
            ("k8s://shop/users:http", "k8s://shop/users:http"),
            ("k8s+https://users:8443/", "k8s+https://users:8443"),
            ("cluster://users/", "cluster://users"),
            ("cluster+https://Users_2", "cluster+https://Users_2"),
            ("file:replicas", "file:replicas"),
            ("file:///etc/replicas", "file:/etc/replicas"),
        ] {
            let source = Source::parse(text).unwrap();
            assert_eq!(source.to_string(), shown);
            assert_eq!(Source::parse(shown).map(|source| source.to_string()), Ok(shown.into()));
        }
        let Source::Fixed(fixed) = Source::parse("https://[::1]:8443 weight=7").unwrap() else { panic!() };
        assert_eq!((fixed.weight, fixed.address()), (7, Some("::1".parse().unwrap())));
        for (written, same) in
            [("[0:0:0:0:0:0:0:1]", "http://[::1]:80"), ("[::ffff:10.0.0.7]:81", "http://10.0.0.7:81")]
        {
            let Source::Fixed(fixed) = Source::parse(&format!("http://{written}")).unwrap() else {
                panic!("{written}")
            };
            assert_eq!(fixed.to_string(), same);
        }
    }

    #[test]
    fn mistakes() {
        for (text, why) in [
            ("", "write http://HOST:PORT"),
            ("10.0.0.7", "has no scheme: write http://10.0.0.7"),
            ("10.0.0.7:8080", "has no scheme: write http://10.0.0.7:8080"),
            ("localhost:3000 weight=2", "has no scheme: write http://localhost:3000"),
            ("[::1]:80", "has no scheme: write http://[::1]:80"),
            ("http//b", "has no scheme: write http://HOST:PORT"),
            ("htp://a:1", "did you mean \"http\"?"),
            ("tcp://a:1", "\"tcp\" is not one of http, https"),
            ("http:a", "no //"),
            ("http://", "\"\" is not a host"),
            ("http://a b", "only weight=N may follow"),
            ("http://a:0", "not a port"),
            ("http://a:65536", "not a port"),
            ("http://a/path", "'/' is not allowed"),
            ("http://me@a", "'@' is not allowed"),
            ("http://a_b$:1", "is not a host"),
            ("http://a..b:1", "is not a host"),
            ("http://[::1:80", "no ]"),
            ("http://[a]:80", "not an IPv6 address"),
            ("http://[::1]80", "more than a port"),
            ("http://a weight=0", "not from 1 to 65535"),
            ("http://a weight=x", "not from 1 to 65535"),
            ("dns://a", "dns://NAME:PORT"),
            ("dns://a:1 weight=2", "only a single replica can have a weight"),
            ("srv://users", "srv://_SERVICE._tcp.NAME"),
            ("srv://_http._tcp.users:80", "srv://_SERVICE._tcp.NAME"),
            ("k8s://users", "k8s://NAMESPACE/SERVICE:PORT"),
            ("k8s:users:1", "no //"),
            ("k8s://a/b/c:1", "\"b/c\" is not the name of a Service"),
            ("k8s://Shop/users:1", "\"Shop\" is not the name of a namespace"),
            ("k8s:///users:1", "\"\" is not the name of a namespace"),
            ("k8s://-a:1", "\"-a\" is not the name of a Service"),
            ("k8s://a:0", "\"0\" is not a port"),
            ("k8s://a:65536", "\"65536\" is not a port"),
            ("k8s://a:Http", "\"Http\" is not a port"),
            ("k8s://a:1 weight=2", "only a single replica can have a weight"),
            ("cluster:users", "no //"),
            ("cluster://users@2", "\"users@2\" is not the name of a service"),
            ("cluster://users:1 weight=2", "is not the name of a service"),
            ("file:", "has no path"),
        ] {
            let error = Source::parse(text).unwrap_err();
            assert!(error.contains(why) && error.contains(&format!("{text:?}")), "{error}");
        }
    }

    #[test]
    fn a_file() {
        let text = "# ours\n\nhttp://10.0.0.7:8080 weight=3 # the large one\r\n  https://b  \n";
        let read: Vec<_> = lines(text).unwrap().iter().map(|fixed| (fixed.to_string(), fixed.weight)).collect();
        assert_eq!(read, [("http://10.0.0.7:8080".into(), 3), ("https://b:443".into(), 1)]);
        assert_eq!(lines(&format!("\u{feff}{text}\r\n")).unwrap(), lines(text).unwrap(), "from another system");
        assert!(lines("http://a\nhttp//b").unwrap_err().starts_with("line 2: \"http//b\": "));
        assert!(lines("\ndns://b:1").unwrap_err().starts_with("line 2: \"dns://b:1\": a file contains replicas only"));
    }

    proptest! {
        #[test]
        fn reads_what_it_shows(host in "[a-z][a-z0-9-]{0,20}(\\.[a-z0-9]{1,9}){0,3}", port: u16, weight in 1..=WEIGHT, v6: [u16; 8]) {
            for host in [host, Ipv6Addr::from(v6).to_string()] {
                let fixed = Fixed { scheme: Scheme::Https, host: host.into(), port: port.max(1), weight };
                let shown = format!("\t{fixed}  weight={weight}#");
                prop_assert_eq!(lines(&shown).unwrap(), [fixed]);
            }
        }

        /// Whatever a file has in it, it is read or refused by line.
        #[test]
        fn survives(text in "[a-z:/\\[\\]0-9#=@ .\n_$+-]{0,80}") {
            if let Err(error) = lines(&text) {
                prop_assert!(error.starts_with("line "), "{}", error);
            }
        }
    }
}
