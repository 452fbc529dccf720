//! The `Via` header (RFC 9110 7.6.3). This host adds itself to the requests that it sends to replicas, and so detects
//! requests that return to it. Requests of guests to addresses that are not public carry it too.

use http::header::{self, HeaderMap, HeaderValue};
use http::{Request, Version};

use lodge_base::ids::Ids;

/// The suffix of this host's pseudonym in requests of its guests. It differs from the pseudonym itself, which counts as
/// a hop.
const GUEST: &str = "-guest";

/// The request has made more hops than allowed, between services or through this host: it is most likely in a loop.
#[derive(Debug, thiserror::Error)]
#[error("the chain of calls between services is too long")]
pub struct TooManyHops;

/// This host's pseudonym in `Via`: unique, and without information about the host.
pub struct Via {
    name: String,
    /// The elements for requests received by HTTP/1.1, HTTP/1.0 and HTTP/2.
    values: [HeaderValue; 3],
    /// The element that marks the requests of guests.
    guest: HeaderValue,
}

impl Via {
    /// Returns the pseudonym `lodge-` with this number.
    fn new(number: u32) -> Self {
        let name = format!("lodge-{number:08x}");
        // Letters, digits and a hyphen are always a valid header value.
        let value = |text| HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("1.1 lodge"));
        let values = ["1.1", "1.0", "2.0"].map(|version| value(format!("{version} {name}")));
        Self { values, guest: value(format!("1.1 {name}{GUEST}")), name }
    }

    /// Returns how often a request with these headers has passed this host.
    pub fn count(&self, headers: &HeaderMap) -> usize {
        headers.get_all(header::VIA).iter().map(|line| self.count_in_line(line)).sum()
    }

    /// Adds this host to `Via`. `depth` calls between services led to the request; each counts as a hop, because the
    /// next hop may be this host again, and then knows only the header.
    ///
    /// # Errors
    /// When the request has made more than `limit` hops.
    pub fn add_hop<B>(&self, request: &mut Request<B>, depth: usize, limit: usize) -> Result<(), TooManyHops> {
        let [one, zero, two] = &self.values;
        let value = match request.version() {
            Version::HTTP_2 => two,
            Version::HTTP_10 => zero,
            _ => one,
        };
        let before = self.count(request.headers());
        if depth.max(before) > limit {
            return Err(TooManyHops);
        }
        self.add(request.headers_mut(), value, (depth + 1).saturating_sub(before).max(1));
        Ok(())
    }

    /// Marks a guest's own request, and adds the number of calls that led to the guest. Hops that the guest copied from
    /// its own request count.
    pub fn mark_from_guest(&self, headers: &mut HeaderMap, depth: usize) {
        let [one, ..] = &self.values;
        if !self.is_from_guest(headers) {
            headers.append(header::VIA, self.guest.clone());
        }
        let missing = (depth + 1).saturating_sub(self.count(headers));
        if missing > 0 {
            self.add(headers, one, missing);
        }
    }

    /// Whether a guest of this host sent the request, directly or through proxies. Then its forwarding headers are the
    /// guest's claim, whichever proxy sends them.
    pub fn is_from_guest(&self, headers: &HeaderMap) -> bool {
        let of = |by: &[u8]| by.len() == self.name.len() + GUEST.len() && by.ends_with(GUEST.as_bytes());
        let marks = |hop: &[u8]| received_by(hop).is_some_and(|by| of(by) && by.starts_with(self.name.as_bytes()));
        headers.get_all(header::VIA).iter().any(|line| line.as_bytes().split(|byte| *byte == b',').any(marks))
    }

    /// Adds an element `times` times, in one line.
    fn add(&self, headers: &mut HeaderMap, value: &HeaderValue, times: usize) {
        let many = || HeaderValue::try_from(vec![value.to_str().unwrap_or_default(); times].join(", ")).ok();
        let value = if times > 1 { many() } else { None }.unwrap_or_else(|| value.clone());
        headers.append(header::VIA, value);
    }

    /// Returns how often this host is in one line, such as `1.1 front, HTTP/2.0 lodge-5eed5eed (words)`.
    fn count_in_line(&self, line: &HeaderValue) -> usize {
        line.as_bytes().split(|byte| *byte == b',').filter(|hop| self.is_own(hop)).count()
    }

    fn is_own(&self, hop: &[u8]) -> bool {
        received_by(hop).is_some_and(|by| by.eq_ignore_ascii_case(self.name.as_bytes()))
    }
}

/// Returns the pseudonym in one element: `lodge-5eed5eed` of `1.1 lodge-5eed5eed (words)`.
fn received_by(hop: &[u8]) -> Option<&[u8]> {
    hop.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty()).nth(1)
}

impl Default for Via {
    fn default() -> Self {
        Self::new(Ids::new().span() as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the `Via` lines of a request that is forwarded; `None` if it is refused.
    fn passed(version: Version, lines: &[&'static str], limit: usize) -> Option<Vec<String>> {
        let mut request = Request::new(());
        *request.version_mut() = version;
        for line in lines {
            request.headers_mut().append(header::VIA, HeaderValue::from_static(line));
        }
        let result = Via::new(0x5eed).add_hop(&mut request, 0, limit);
        let lines = request.headers().get_all(header::VIA).iter().map(|line| line.to_str().unwrap_or("?").to_owned());
        match result {
            Ok(()) => Some(lines.collect()),
            Err(TooManyHops) => None,
        }
    }

    #[test]
    fn adds_itself_with_the_received_version() {
        let own = |version, lines: &[&'static str]| passed(version, lines, 0).unwrap();
        assert_eq!(own(Version::HTTP_11, &[]), ["1.1 lodge-00005eed"]);
        assert_eq!(own(Version::HTTP_10, &[]), ["1.0 lodge-00005eed"]);
        assert_eq!(own(Version::HTTP_2, &["1.1 a, 1.0 b", "2 c"]), ["1.1 a, 1.0 b", "2 c", "2.0 lodge-00005eed"]);
    }

    #[test]
    fn counts_itself_in_any_position() {
        let times =
            |lines: &[&'static str]| (0..9).find(|limit| passed(Version::HTTP_11, lines, *limit).is_some()).unwrap();
        assert_eq!(times(&["1.1 lodge-00005eed"]), 1);
        assert_eq!(times(&["1.0 fred, 1.1 lodge-00005eed,HTTP/2.0\tLODGE-00005EED (by night) ,1.1 lodge-00005eed"]), 3);
        assert_eq!(times(&["1.1 lodge-00005eed", "1.1 front", "1.1 x, 2.0 lodge-00005eed"]), 2);
        // Bytes that are not text hide no other element.
        let mut request = Request::new(());
        let line = HeaderValue::from_bytes(b"1.1 caf\xe9, 1.1 lodge-00005eed").unwrap();
        request.headers_mut().append(header::VIA, line);
        assert!(Via::new(0x5eed).add_hop(&mut request, 0, 0).is_err());
    }

    /// Depth counts, whether it comes from calls or from hops.
    #[test]
    fn calls_count_as_passes() {
        let via = Via::new(0x5eed);
        let told = |lines: &[&'static str], tell: &dyn Fn(&mut Request<()>)| {
            let mut request = Request::new(());
            for line in lines {
                request.headers_mut().append(header::VIA, HeaderValue::from_static(line));
            }
            tell(&mut request);
            via.count(request.headers())
        };
        for depth in 0..5 {
            assert_eq!(told(&["1.1 front"], &|request| via.add_hop(request, depth, 4).unwrap()), depth + 1);
            assert_eq!(told(&["1.1 front"], &|request| via.mark_from_guest(request.headers_mut(), depth)), depth + 1);
            // Hops that are in the header already are not added twice.
            let twice = ["1.1 lodge-00005eed, 1.0 fred", "1.1 lodge-00005eed"];
            assert_eq!(told(&twice, &|request| via.add_hop(request, depth, 4).unwrap()), depth.max(2) + 1);
            assert_eq!(told(&twice, &|request| via.mark_from_guest(request.headers_mut(), depth)), (depth + 1).max(2));
        }
        assert!(via.add_hop(&mut Request::new(()), 5, 4).is_err());
    }

    /// A guest can neither remove nor prevent its mark, and the mark does not count as a hop.
    #[test]
    fn guests_are_marked() {
        let via = Via::new(0x5eed);
        for lines in
            [&[][..], &["1.1 front"], &["1.1 lodge-00005eed, 1.1 lodge-00005eed"], &["1.1 lodge-00005eed-guest"]]
        {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(header::VIA, HeaderValue::from_static(line));
            }
            let before = via.count(&headers);
            assert_eq!(via.is_from_guest(&headers), lines == ["1.1 lodge-00005eed-guest"]);
            via.mark_from_guest(&mut headers, 0);
            assert!(via.is_from_guest(&headers) && via.count(&headers) == before.max(1), "{headers:?}");
        }
        for line in ["1.1 lodge-00005eed", "1.1 lodge-0000beef-guest", "1.1 lodge-00005eed-guests", "1.1 -guest"] {
            assert!(
                !via.is_from_guest(&HeaderMap::from_iter([(header::VIA, HeaderValue::from_static(line))])),
                "{line}"
            );
        }
    }

    #[test]
    fn other_hosts_do_not_count() {
        let others = [
            "1.1 lodge-0000beef",
            "1.1 lodge-00005eed0",
            "lodge-00005eed",
            "lodge-00005eed 1.1",
            "1.1 a (lodge-00005eed)",
            ", ,,",
            "",
        ];
        for line in others {
            assert!(passed(Version::HTTP_11, &[line], 0).is_some(), "{line}");
        }
        assert_ne!(Via::default().name, Via::default().name);
    }
}
