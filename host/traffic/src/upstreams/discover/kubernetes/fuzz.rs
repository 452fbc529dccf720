//! A fuzz target for what a watch receives.

use lodge_base::budget::Budget;
use lodge_manifest::upstream::MOST_REPLICAS;
use lodge_manifest::upstream::kubernetes::EndpointPort;
use lodge_manifest::upstream::protocol::Scheme;

use super::events::KnownSlices;
use super::failure::WatchFailure;
use super::lines::EventLines;
use super::slices::{BYTES_OF_ALL, merge};

/// The most bytes of an event here.
const EVENT: usize = 4096;

/// Applies a stream of events: however it is cut, the replicas are the same, and their number is bounded.
pub fn events(bytes: &[u8]) {
    let replicas = |size: usize| {
        let (mut followed, mut lines) = (KnownSlices::new("v1", &Budget::new(BYTES_OF_ALL)), EventLines::new(EVENT));
        let ends = bytes
            .chunks(size.max(1))
            .try_for_each(|part| lines.feed(part, |line| followed.apply(&line, Some("a")).map(|_| ())));
        let merged =
            merge(&followed.slices, "shop/users", (Scheme::Http, &EndpointPort::Number(80)), &"users".into(), 7);
        assert!(merged.endpoints.len() <= MOST_REPLICAS);
        assert!(merged.endpoints.is_sorted_by_key(|endpoint| endpoint.target.address));
        (merged, followed.revision, ends.map_err(|failure: WatchFailure| failure.why))
    };
    assert_eq!(replicas(bytes.len()), replicas(7));
}
