//! Fuzz targets: one for every parser of bytes from outside, each with the properties that hold for any input.
//!
//! `cargo test` runs every seed in `host/fuzz/seeds` and mutations of it; `.ci/fuzz` runs libFuzzer with coverage. A
//! target must not panic, must end, and must not use memory out of proportion to its input.

use http::header::HeaderValue;
use http::{Method, Request, Uri};
use ipnet::IpNet;

use crate::guests::trust::key::{PublicKey, SigningKey};
use crate::guests::trust::signature::Signature;
use crate::listener::proxy_protocol;
use crate::{cli, cluster, registry};
use lodge_base::canonical;
use lodge_base::config;
use lodge_base::fuzz::{header_lines, line};
use lodge_base::telemetry::{logs, traces};
use lodge_manifest::Manifest;
use lodge_manifest::key::RequestKey;
use lodge_manifest::route::{Pattern, Route};
use lodge_manifest::upstream::source;
use lodge_traffic::auth::jwt;
use lodge_traffic::proxy::compression;
use lodge_traffic::proxy::headers;
use lodge_traffic::proxy::headers::Peer;
use lodge_traffic::routing::router::Router;
use lodge_traffic::{cache, rules, upstreams, validation};

/// A fuzz target: takes any bytes, and panics when a property does not hold.
pub type Target = fn(&[u8]);

/// Every target by name; its seeds are in `host/fuzz/seeds/NAME`.
pub const TARGETS: &[(&str, Target)] = &[
    ("api", validation::fuzz::api),
    ("body", validation::fuzz::body),
    ("cache", cache::fuzz::response),
    ("cluster", cluster::record::fuzz::record),
    ("component", cli::fuzz::component),
    ("compression", compression::fuzz::response),
    ("dns", upstreams::discover::fuzz::message),
    ("endpoints", upstreams::discover::kubernetes::fuzz::events),
    ("events", cli::fuzz::events),
    ("forwarded", forwarded),
    ("keys", jwt::fuzz::keys),
    ("log", logs::fuzz::line),
    ("manifest", manifest),
    ("otlp", traces::fuzz::otlp),
    ("place", place),
    ("proxy", proxy_protocol::fuzz::header),
    ("registry", registry::fuzz::registry),
    ("replicas", replicas),
    ("route", route),
    ("rule", rules::fuzz::rule),
    ("settings", settings),
    ("signature", signature),
    ("token", jwt::fuzz::token),
    ("trace", traces::fuzz::context),
    ("yaml", validation::fuzz::yaml),
];

/// A manifest: read twice it is the same, and every problem is one line.
fn manifest(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(resolved) = config::resolve(&[]) else { return };
    let (limits, most) = (&resolved.config.limits, resolved.config.engine.max_memory);
    let read = Manifest::read("users", text, limits, most);
    assert_eq!(read, Manifest::read("users", text, limits, most));
    let _ = lodge_manifest::build::Build::of(text);
    let part = Manifest::read_partly("users", text, limits, most);
    assert!(part.denies() && part.partial);
    if let Ok(read) = &read {
        assert_eq!(part.routes, read.routes);
    }
    match read {
        Ok(manifest) => drop(manifest.version(text, most)),
        Err(problems) => assert!(!problems.is_empty()),
    }
}

/// `lodge.toml`: whatever is read can be resolved or has problems.
fn settings(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(source) = config::read_file(text)
        && let Err(problems) = config::resolve(&[(config::Origin::File, source)])
    {
        assert!(!problems.is_empty());
    }
}

/// The target on the first line and the headers below it, from a client and from a trusted proxy: the request that a
/// guest sees is absolute, and only a trusted proxy decides who the client is.
fn forwarded(bytes: &[u8]) {
    let (target, rest) = line(bytes);
    let headers = header_lines(rest);
    let Ok(uri) = Uri::try_from(target) else { return };
    let Ok(proxies) = "10.0.0.0/8".parse::<IpNet>().map(|net| [net]) else { return };
    for from in ["192.0.2.7:1", "10.0.0.7:1"].iter().filter_map(|address| address.parse().ok()) {
        let peer = Peer::new(from, from, &proxies);
        let Ok(mut request) = Request::get(uri.clone()).body(()) else { return };
        *request.headers_mut() = headers.clone();
        let (mut head, ()) = request.into_parts();
        if headers::normalize(&mut head, &peer).is_err() {
            continue;
        }
        assert!(head.uri.scheme().is_some() && head.uri.authority().is_some(), "{:?}", head.uri);
        let all = head.headers.get_all("x-forwarded-for");
        let last = all.iter().next_back().map(|value| String::from_utf8_lossy(value.as_bytes())).unwrap_or_default();
        assert!(last.ends_with(&peer.address().to_string()), "{last}");
        assert!(peer.is_trusted() || all.iter().count() == 1 && !last.contains(','), "{last}");
        if peer.is_trusted() {
            let said = headers.get_all("x-forwarded-for").iter().next_back().map(HeaderValue::as_bytes);
            let shown = all.iter().next_back().map(HeaderValue::as_bytes).unwrap_or_default();
            let own = format!(", {}", peer.address());
            let before = shown.strip_suffix(own.as_bytes()).unwrap_or_default();
            assert!(said.is_none_or(|said| before.ends_with(said)), "what a trusted proxy says is lost");
        }
    }
}

/// A route under policies on the first line, and paths to look up below it: canonical forms are their own canonical
/// forms, and a spelling that reaches the service reaches it by the normal form of its path.
fn route(bytes: &[u8]) {
    let (pattern, mut rest) = line(bytes);
    let mut router = Router::<()>::default();
    if let Ok(Ok(pattern)) = std::str::from_utf8(pattern).map(Pattern::read) {
        let _ = router.insert([Route::of(pattern)].iter(), &(), true);
    }
    while !rest.is_empty() {
        let (path, after) = line(rest);
        rest = after;
        let Ok(path) = std::str::from_utf8(path) else { continue };
        if let Some(host) = canonical::canonical_host(path) {
            assert_eq!(canonical::canonical_host(&host).as_ref(), Some(&host));
        }
        let Some(normal) = Some(path).filter(|path| path.starts_with('/')).and_then(canonical::normal) else {
            continue;
        };
        assert_eq!(canonical::normal(&normal).as_ref(), Some(&normal));
        let comparable = canonical::comparable(&normal);
        assert_eq!(canonical::comparable(&comparable), comparable);
        let found = router.find("example.org", &normal, &Method::GET, true);
        if let Ok(found) = found {
            assert!(found.prefix <= normal.len());
            let again = router.find("example.org", &comparable, &Method::GET, true);
            assert!(again.is_ok_and(|again| again.route == found.route), "{normal} is not {comparable}");
        }
    }
}

/// What `rate.by` and `sticky` name, on the first line, and a request's headers below it.
fn place(bytes: &[u8]) {
    let (text, rest) = line(bytes);
    let Ok(Ok(place)) = std::str::from_utf8(text).map(RequestKey::read) else { return };
    let headers = header_lines(rest);
    assert_eq!(RequestKey::read(&place.to_string()).as_ref(), Ok(&place));
    let key = place.key([127, 0, 0, 1].into(), &headers);
    assert_eq!(key, place.key([127, 0, 0, 1].into(), &headers));
}

/// A signature beside a component, and a file of keys: what is read is smaller than the file, and no key verifies what it has not
/// signed.
fn signature(bytes: &[u8]) {
    let keys = PublicKey::read(bytes).unwrap_or_default();
    assert!(keys.len() <= bytes.len());
    let _ = SigningKey::read(bytes);
    if let Signature::Bytes(signatures) = Signature::read(bytes) {
        assert!(signatures.iter().map(Vec::len).sum::<usize>() <= bytes.len());
        assert!(!keys.iter().any(|key| signatures.iter().any(|signature| key.verifies(bytes, signature))));
    }
}

/// A `replicas_file`: as many replicas as lines at most, and their weights within bounds.
fn replicas(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(replicas) = source::lines(text) {
        assert!(replicas.len() <= text.lines().count());
        assert!(replicas.iter().all(|replica| (1..=source::WEIGHT).contains(&replica.weight)));
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;
    use proptest::test_runner::{Config, TestRunner};

    use super::*;

    /// Every seed of a target; a crash that was mended stays here as one.
    fn seeds(name: &str) -> Vec<Vec<u8>> {
        let directory = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/seeds")).join(name);
        let entries = std::fs::read_dir(&directory).unwrap_or_else(|_| panic!("{} has no seeds", directory.display()));
        let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        paths.iter().map(|path| std::fs::read(path).unwrap()).collect()
    }

    #[test]
    fn every_seed_of_every_target() {
        for (name, target) in TARGETS {
            let seeds = seeds(name);
            assert!(!seeds.is_empty(), "{name} has no seeds");
            seeds.iter().for_each(|seed| target(seed));
        }
    }

    /// Seeds with some bytes replaced, removed, doubled or put between.
    #[test]
    fn mutations_of_every_seed() {
        for (name, target) in TARGETS {
            let seeds = seeds(name);
            let edits = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..4_u8), 0..8);
            let inputs = (prop::sample::select(seeds), edits).prop_map(|(mut bytes, edits)| {
                for (at, byte, edit) in edits {
                    let at = at.index(bytes.len() + 1).min(bytes.len());
                    match edit {
                        0 => bytes.insert(at, byte),
                        1 if at < bytes.len() => bytes[at] = byte,
                        2 if at < bytes.len() => drop(bytes.remove(at)),
                        _ => bytes.extend_from_within(at..),
                    }
                }
                bytes
            });
            let mut runner = TestRunner::new(Config { cases: 64, ..Config::default() });
            let held = runner.run(&inputs, |bytes| {
                target(&bytes);
                Ok(())
            });
            held.unwrap();
        }
    }
}
