//! The header by which a host of a cluster says to another one that it forwards a request, for which service, and what led to it.
//!
//! The receiver lets nobody do more because of it: the request must lead to this service, is not forwarded again, and has no more time
//! and no fewer calls before it than the header says. So a client or a guest that forges it only restricts its own request.

use std::time::Duration;

use http::header::{HeaderMap, HeaderName, HeaderValue};

use lodge_manifest::spec::is_name;

/// The header.
pub const CLUSTER_HOP: HeaderName = HeaderName::from_static("lodge-call");

/// What the header says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterHop {
    /// The service that the request is for.
    pub service: Box<str>,
    /// The number of calls between services that led to the request.
    pub calls: usize,
    /// The time that it has left.
    pub left: Duration,
}

impl ClusterHop {
    /// Returns what the headers of a request say; `None` for a request that no other host forwards. What cannot be read is for no
    /// service.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let mut values = headers.get_all(CLUSTER_HOP).iter();
        let first = values.next()?;
        let only = if values.next().is_none() { first.to_str().ok() } else { None };
        let nowhere = Self { service: "".into(), calls: usize::MAX, left: Duration::ZERO };
        Some(only.and_then(Self::read).unwrap_or(nowhere))
    }

    fn read(text: &str) -> Option<Self> {
        let (service, rest) = text.split_once(";calls=")?;
        let (calls, left) = rest.split_once(";ms=")?;
        let (calls, left): (u32, u32) = (calls.parse().ok()?, left.parse().ok()?);
        let left = Duration::from_millis(left.into());
        is_name(service).then(|| Self { service: service.into(), calls: calls as usize, left })
    }

    /// Sets the header, in place of what the request has.
    pub fn write(&self, headers: &mut HeaderMap) {
        let (calls, left) = (self.calls.min(u32::MAX as usize), self.left.as_millis().min(u32::MAX.into()));
        let text = format!("{};calls={calls};ms={left}", self.service);
        // A name is a valid header value.
        headers.insert(CLUSTER_HOP, HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("")));
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
        ClusterHop::of(&headers)
    }

    #[test]
    fn what_is_written_is_read() {
        for (calls, left, millis) in [(0, Duration::ZERO, 0), (7, Duration::from_micros(1_999), 1)] {
            let (hop, mut headers) = (ClusterHop { service: "Users_2".into(), calls, left }, HeaderMap::new());
            headers.append(CLUSTER_HOP, HeaderValue::from_static("forged"));
            hop.write(&mut headers);
            assert_eq!(ClusterHop::of(&headers), Some(ClusterHop { left: Duration::from_millis(millis), ..hop }));
        }
        let (most, mut headers) = (Duration::MAX, HeaderMap::new());
        ClusterHop { service: "users".into(), calls: usize::MAX, left: most }.write(&mut headers);
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
            &["us ers;calls=1;ms=1"],
            &["users@2;calls=1;ms=1"],
            &["users;calls=1;ms=1", "users;calls=1;ms=1"],
        ] {
            let hop = read(values).unwrap();
            assert!(hop.service.is_empty() && hop.left.is_zero() && hop.calls == usize::MAX, "{values:?}");
        }
    }
}
