//! The header by which a host of a cluster says to another one that it forwards a request, for which service, and what led to it.
//!
//! The receiver lets nobody do more because of it: the request must lead to this service, is not forwarded again, and has no fewer calls
//! before it than the header says. So a client or a guest that forges it only restricts its own request. What says something about others is
//! believed only with the [key](HostKey) of a host of the cluster: the time that is left, since a service that is late has failed, and
//! the service that calls.

use std::time::Duration;

use http::header::{HeaderMap, HeaderName, HeaderValue};

use super::host_key::HostKey;
use lodge_manifest::spec::is_name;

/// The header.
pub const CLUSTER_HOP: HeaderName = HeaderName::from_static(lodge_base::headers::CLUSTER_HOP);

/// What the header says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterHop {
    /// The service that the request is for.
    pub service: Box<str>,
    /// The number of calls between services that led to the request.
    pub calls: usize,
    /// The time that it has left.
    pub left: Duration,
    /// The service that calls; `None` for a request of a client.
    pub from: Option<Box<str>>,
    /// The key of the host that sends it.
    pub key: Option<HostKey>,
}

impl ClusterHop {
    /// Returns what the headers of a request say; `None` for a request that no other host forwards. What cannot be read is for no
    /// service. Leaves in the header that there is one, and nothing of what it says: neither logs nor services get to see a key.
    pub fn take(headers: &mut HeaderMap) -> Option<Self> {
        let mut values = headers.get_all(CLUSTER_HOP).iter();
        let first = values.next()?;
        let only = if values.next().is_none() { first.to_str().ok() } else { None };
        let nowhere = Self { service: "".into(), calls: usize::MAX, left: Duration::ZERO, from: None, key: None };
        let hop = only.and_then(Self::read).unwrap_or(nowhere);
        headers.insert(CLUSTER_HOP, HeaderValue::from_static("taken"));
        Some(hop)
    }

    fn read(text: &str) -> Option<Self> {
        let (text, key) = match text.split_once(";key=") {
            Some((text, key)) => (text, Some(HostKey::read(key)?)),
            None => (text, None),
        };
        let (service, rest) = text.split_once(";calls=")?;
        let (calls, rest) = rest.split_once(";ms=")?;
        let (left, from) = rest.split_once(";from=").map_or((rest, None), |(left, from)| (left, Some(from)));
        let (calls, left): (u32, u32) = (calls.parse().ok()?, left.parse().ok()?);
        let left = Duration::from_millis(left.into());
        let named = is_name(service) && from.is_none_or(is_name);
        named.then(|| Self { service: service.into(), calls: calls as usize, left, from: from.map(Box::from), key })
    }

    /// Sets the header, in place of what the request has.
    pub fn write(&self, headers: &mut HeaderMap) {
        let (calls, left) = (self.calls.min(u32::MAX as usize), self.left.as_millis().min(u32::MAX.into()));
        let from = self.from.as_ref().map_or(String::new(), |from| format!(";from={from}"));
        let key = self.key.as_ref().map_or(String::new(), |key| format!(";key={}", key.text()));
        let text = format!("{};calls={calls};ms={left}{from}{key}", self.service);
        // A name is a valid header value.
        let mut value = HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static(""));
        // Not shown by what writes headers to a log, and in no table of HTTP/2.
        value.set_sensitive(true);
        headers.insert(CLUSTER_HOP, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(values: &[&'static str]) -> Option<ClusterHop> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(CLUSTER_HOP, HeaderValue::from_static(value));
        }
        let hop = ClusterHop::take(&mut headers);
        assert_eq!(headers.get(CLUSTER_HOP).is_some_and(|value| value == "taken"), !values.is_empty());
        hop
    }

    #[test]
    fn what_is_written_is_read() {
        let (shop, key) = (Some(Box::from("shop")), HostKey::random());
        for (calls, left, millis, from) in [(0, Duration::ZERO, 0, None), (7, Duration::from_micros(1_999), 1, shop)] {
            for key in [None, Some(key.clone())] {
                let from = from.clone();
                let mut headers = HeaderMap::new();
                let hop = ClusterHop { service: "Users_2".into(), calls, left, from, key: key.clone() };
                headers.append(CLUSTER_HOP, HeaderValue::from_static("forged"));
                hop.write(&mut headers);
                assert!(!format!("{hop:?} {headers:?}").contains(key.as_ref().map_or("forged", HostKey::text)));
                let hop = ClusterHop { left: Duration::from_millis(millis), ..hop };
                assert_eq!(ClusterHop::take(&mut headers), Some(hop));
                assert_eq!(headers[CLUSTER_HOP], "taken");
            }
        }
        let (most, mut headers) = (Duration::MAX, HeaderMap::new());
        ClusterHop { service: "users".into(), calls: usize::MAX, left: most, from: None, key: None }
            .write(&mut headers);
        assert_eq!(headers[CLUSTER_HOP], "users;calls=4294967295;ms=4294967295");
    }

    /// What cannot be read leads nowhere: it is no way to be taken for a request of a client.
    #[test]
    fn nonsense_is_for_no_service() {
        assert_eq!(read(&[]), None);
        for values in [
            &[""][..],
            &["users"],
            &["users;calls=1"],
            &["users;calls=-1;ms=1"],
            &["users;calls=1;ms=99999999999"],
            &["users;calls=1;ms=1;more"],
            &["users;calls=1;ms=1;from="],
            &["users;calls=1;ms=1;from=a@b"],
            &["users;calls=1;ms=1;from=a;from=b"],
            &["users;calls=1;ms=1;key="],
            &["users;calls=1;ms=1;key=0123456789abcdef0123456789abcdef;from=a"],
            &["users;calls=1;ms=1;key=0123456789ABCDEF0123456789abcdef"],
            &["us ers;calls=1;ms=1"],
            &["users@2;calls=1;ms=1"],
            &["users;calls=1;ms=1", "users;calls=1;ms=1"],
        ] {
            let hop = read(values).unwrap();
            assert!(hop.service.is_empty() && hop.left.is_zero() && hop.calls == usize::MAX, "{values:?}");
        }
    }
}
