//! EndpointSlices as the API sends them, and the replicas that all slices of a Service name together. Pure.
//!
//! As kube-proxy does, endpoints that end are used only while no other one is ready, and hints about zones count only if
//! every endpoint has one.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use serde::Deserialize;

use crate::upstreams::discover::Endpoint;
use crate::upstreams::transport::Target;
use lodge_base::bounded::Bounded;
use lodge_base::budget::{Budget, Reservation};
use lodge_base::ids::{hash_of, mix};
use lodge_manifest::upstream::MOST_REPLICAS;
use lodge_manifest::upstream::kubernetes::EndpointPort;
use lodge_manifest::upstream::protocol::Scheme;

/// The most slices and the most endpoints of one Service.
const SLICES: usize = 2_000;
const ENDPOINTS: usize = 20_000;
/// The most bytes that are kept of the slices of one Service, and of those of all Services.
const BYTES: usize = 4 << 20;
pub(super) const BYTES_OF_ALL: usize = 32 << 20;
/// What a slice takes at most without its names, ports and endpoints, and what a port takes, with their places in lists and maps.
const SLICE_BYTES: usize = 512;
const PORT_BYTES: usize = 128;
/// The longest name of a port.
const NAME: usize = 63;
/// The longest name of an object.
const OBJECT_NAME: usize = 253;
/// What the API server itself allows in a slice.
const SLICE_ENDPOINTS: usize = 1_000;
const ADDRESSES: usize = 100;
const PORTS: usize = 100;
const ZONES: usize = 64;

/// An EndpointSlice of `discovery.k8s.io/v1` or `v1beta1`, which are the same in all that is read here.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct WrittenSlice {
    pub(super) kind: String,
    pub(super) api_version: String,
    pub(super) metadata: WrittenMetadata,
    /// What a Status has, which is in the place of a slice where a watch ends.
    pub(super) code: u16,
    pub(super) message: String,
    address_type: String,
    endpoints: Bounded<WrittenEndpoint, SLICE_ENDPOINTS>,
    ports: Bounded<WrittenPort, PORTS>,
}

/// The metadata of an object or a list.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct WrittenMetadata {
    pub(super) name: String,
    pub(super) resource_version: String,
    /// Where the next page of a list begins.
    #[serde(rename = "continue")]
    pub(super) next: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct WrittenEndpoint {
    addresses: Bounded<String, ADDRESSES>,
    conditions: Option<WrittenConditions>,
    hints: Option<WrittenHints>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct WrittenConditions {
    ready: Option<bool>,
    serving: Option<bool>,
    terminating: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct WrittenHints {
    for_zones: Bounded<WrittenZone, ZONES>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct WrittenZone {
    name: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct WrittenPort {
    name: Option<String>,
    port: Option<u16>,
    protocol: Option<String>,
}

/// What is kept of an EndpointSlice.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct EndpointSlice {
    /// Whether it has names instead of addresses.
    is_named: bool,
    endpoints: Box<[SliceEndpoint]>,
    /// The TCP ports, with their names in the Service.
    ports: Box<[(Arc<str>, u16)]>,
}

/// A slice within the bytes that are kept of all.
#[derive(Debug)]
struct KeptSlice {
    slice: EndpointSlice,
    room: Reservation,
}

#[derive(Debug, PartialEq, Eq)]
struct SliceEndpoint {
    address: IpAddr,
    condition: Readiness,
    hint: Hint,
}

/// Whether an endpoint takes new requests. A later variant is preferred to an earlier one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Readiness {
    NotReady,
    /// It ends, and still serves.
    Ending,
    Ready,
}

/// The zones that an endpoint is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hint {
    None,
    Here,
    Elsewhere,
}

/// The slices of one Service, by name.
#[derive(Clone, Debug)]
pub(super) struct SliceMap {
    slices: BTreeMap<String, Arc<KeptSlice>>,
    /// The endpoints of all of them.
    endpoints: usize,
    /// The bytes of all of them.
    bytes: usize,
    /// What is left for the slices of all Services.
    room: Arc<Budget>,
}

/// The replicas that slices name.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Merged {
    /// By address, without duplicates, at most [`MOST_REPLICAS`].
    pub(super) endpoints: Vec<Endpoint>,
    /// Why there are none, or what was left out.
    pub(super) note: Option<String>,
}

impl WrittenSlice {
    /// Returns the name of the slice, if an object can have it.
    ///
    /// # Errors
    /// One line.
    pub(super) fn name(&self) -> Result<String, String> {
        let name = &self.metadata.name;
        let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte);
        let is_name = (1..=OBJECT_NAME).contains(&name.len()) && name.bytes().all(fits);
        if is_name { Ok(name.clone()) } else { Err("the API server sent an object without a valid name".into()) }
    }

    /// Takes from a slice what is needed, for a host in this zone. Of the addresses of an endpoint, the first counts.
    pub(super) fn read(self, zone: Option<&str>) -> EndpointSlice {
        let is_named = self.address_type == "FQDN";
        let endpoint = |written: WrittenEndpoint| {
            let first = written.addresses.0.into_iter().next()?;
            let address = first.parse::<IpAddr>().ok()?.to_canonical();
            let condition = written.conditions.unwrap_or_default().condition();
            let hint = written.hints.unwrap_or_default().hint(zone);
            is_allowed(address).then_some(SliceEndpoint { address, condition, hint })
        };
        let port = |written: WrittenPort| {
            let is_tcp = written.protocol.as_deref().is_none_or(|protocol| protocol == "TCP");
            let port = written.port.filter(|port| is_tcp && *port != 0)?;
            let name = written.name.unwrap_or_default();
            let is_name = name.len() <= NAME && name.bytes().all(|byte| byte.is_ascii_graphic());
            is_name.then(|| (name.into(), port))
        };
        let endpoints = self.endpoints.0.into_iter().filter(|_| !is_named);
        EndpointSlice {
            is_named,
            endpoints: endpoints.filter_map(endpoint).collect(),
            ports: self.ports.0.into_iter().filter_map(port).collect(),
        }
    }
}

impl WrittenConditions {
    /// An unknown condition is a good one.
    fn condition(&self) -> Readiness {
        let ready = self.ready.unwrap_or(true);
        let ends = self.terminating.unwrap_or(false);
        match (ready, ends, self.serving.unwrap_or(ready)) {
            (true, false, _) => Readiness::Ready,
            // A Service that publishes endpoints that are not ready calls those that end ready, too.
            (true, true, _) | (false, true, true) => Readiness::Ending,
            (false, false, _) | (false, true, false) => Readiness::NotReady,
        }
    }
}

impl WrittenHints {
    fn hint(&self, zone: Option<&str>) -> Hint {
        match (&*self.for_zones.0, zone) {
            ([], _) | (_, None) => Hint::None,
            (zones, Some(here)) if zones.iter().any(|zone| zone.name == here) => Hint::Here,
            _ => Hint::Elsewhere,
        }
    }
}

/// Whether an endpoint may have this address. The API server refuses these as well: they would lead to the machine's
/// own network, such as its metadata service.
fn is_allowed(address: IpAddr) -> bool {
    let local = match address {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    !local && !address.is_unspecified() && !address.is_multicast()
}

impl EndpointSlice {
    /// Returns the bytes that a slice of this name takes at most. The name is there twice: where it is followed, and in what is in use.
    fn bytes(&self, name: &str) -> usize {
        SLICE_BYTES + 2 * name.len() + self.ports.len() * PORT_BYTES + std::mem::size_of_val(&*self.endpoints)
    }
}

impl SliceMap {
    /// Creates the slices of a Service within this room for all.
    pub(super) fn new(room: Arc<Budget>) -> Self {
        Self { slices: BTreeMap::new(), endpoints: 0, bytes: 0, room }
    }

    /// Adds a slice, or replaces it.
    ///
    /// # Errors
    /// One line, if the Service, or all together, have too many slices, ports or endpoints.
    pub(super) fn insert(&mut self, name: String, slice: EndpointSlice) -> Result<(), String> {
        let bytes = slice.bytes(&name);
        let Some(room) = self.room.reserve(bytes) else {
            let most = BYTES_OF_ALL >> 20;
            return Err(format!("the EndpointSlices of all Services that this host follows take more than {most} MiB"));
        };
        self.endpoints += slice.endpoints.len();
        self.bytes += bytes;
        if let Some(before) = self.slices.insert(name, Arc::new(KeptSlice { slice, room })) {
            self.forget(&before);
        }
        if self.slices.len() > SLICES || self.endpoints > ENDPOINTS {
            return Err(format!("the Service has more than {SLICES} EndpointSlices or {ENDPOINTS} endpoints"));
        }
        if self.bytes > BYTES {
            return Err(format!(
                "the EndpointSlices of the Service, with their ports, take more than {} MiB",
                BYTES >> 20
            ));
        }
        Ok(())
    }

    fn forget(&mut self, before: &KeptSlice) {
        self.endpoints -= before.slice.endpoints.len();
        self.bytes -= before.room.bytes();
    }

    /// Removes a slice. Returns whether there was one of this name.
    pub(super) fn remove(&mut self, name: &str) -> bool {
        let Some(before) = self.slices.remove(name) else { return false };
        self.forget(&before);
        true
    }

    /// Returns the number of endpoints, in all slices together.
    pub(super) fn endpoints(&self) -> usize {
        self.endpoints
    }
}

/// Merges the slices of `service` (`namespace/name`) to replicas of `scheme` with this port. `host` is the name that certificates
/// of replicas are verified by. Of too many replicas, those for this zone are used first, and of these the ones that `seed` chooses:
/// other hosts have another seed.
pub(super) fn merge(
    slices: &SliceMap,
    service: &str,
    (scheme, port): (Scheme, &EndpointPort),
    host: &Arc<str>,
    seed: u64,
) -> Merged {
    let slices = &slices.slices;
    let mut known = BTreeMap::<SocketAddr, (Readiness, Hint)>::new();
    for KeptSlice { slice, .. } in slices.values().map(|kept| &**kept) {
        // The API server accepts each name once: of a slice with more, endpoints are not multiplied by ports.
        if let Some((_, number)) = slice.ports.iter().find(|(name, number)| port.is(name, *number)) {
            for endpoint in &*slice.endpoints {
                let address = SocketAddr::new(endpoint.address, *number);
                // An endpoint is in two slices while it moves from one to the other.
                let found = (endpoint.condition, endpoint.hint);
                let known = known.entry(address).or_insert(found);
                if known.0 < found.0 {
                    *known = found;
                }
            }
        }
    }
    let best = known.values().map(|(condition, _)| *condition).max().unwrap_or(Readiness::NotReady);
    let total = known.len();
    known.retain(|_, (condition, _)| *condition == best && best != Readiness::NotReady);
    let note = if known.is_empty() { Some(why_none(slices, service, port, total)) } else { named(slices, service) };
    let all_hint = known.values().all(|(_, hint)| *hint != Hint::None);
    let hints = all_hint && known.values().any(|(_, hint)| *hint == Hint::Here);
    let endpoint = |(address, (_, hint)): (SocketAddr, (Readiness, Hint))| Endpoint {
        target: Target { scheme, host: Arc::clone(host), address, other: None },
        weight: 1,
        is_far: hints && hint == Hint::Elsewhere,
    };
    let mut endpoints: Vec<_> = known.into_iter().map(endpoint).collect();
    if endpoints.len() > MOST_REPLICAS {
        endpoints.sort_by_cached_key(|endpoint| {
            let address = endpoint.target.address.to_string();
            (endpoint.is_far, mix(seed ^ hash_of(address.as_bytes())))
        });
        endpoints.truncate(MOST_REPLICAS);
        endpoints.sort_by_key(|endpoint| endpoint.target.address);
    }
    Merged { endpoints, note }
}

/// The note about slices that have names instead of addresses, if there are any.
fn named(slices: &BTreeMap<String, Arc<KeptSlice>>, service: &str) -> Option<String> {
    let skipped = slices.values().any(|kept| kept.slice.is_named);
    skipped.then(|| format!("EndpointSlices of {service} with names instead of addresses (FQDN) are left out"))
}

/// Says why a Service has no replicas. `total` endpoints with the port are not ready.
fn why_none(slices: &BTreeMap<String, Arc<KeptSlice>>, service: &str, port: &EndpointPort, total: usize) -> String {
    if slices.is_empty() {
        return format!("there is no EndpointSlice of {service}: is there a Service of this name, with a selector?");
    }
    if total > 0 {
        return format!("none of the endpoints of {service} is ready; it has {total}");
    }
    let shown = |(name, number): &(Arc<str>, u16)| {
        if name.is_empty() { number.to_string() } else { format!("{name} ({number})") }
    };
    let with_endpoints = slices.values().map(|kept| &kept.slice).filter(|slice| !slice.endpoints.is_empty());
    let ports: BTreeSet<_> = with_endpoints.flat_map(|slice| slice.ports.iter().map(shown)).collect();
    if !ports.is_empty() {
        let ports: Vec<_> = ports.into_iter().take(8).collect();
        return format!("no endpoint of {service} has the port {port}; they have {}", ports.join(", "));
    }
    named(slices, service).unwrap_or_else(|| format!("{service} has no endpoints"))
}

#[cfg(test)]
mod tests;
