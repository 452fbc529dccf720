//! The task of one source: resolves it, publishes the result, and waits until the next lookup is due.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use super::resolver::{Resolver, SrvTarget};
use super::settling::{CHANGING, FileSettling, ReadOutcome};
use super::source_state::{Resolution, SourceState};
use super::{Endpoint, Pace, SharedEndpoints};
use crate::upstreams::count;
use crate::upstreams::transport::Target;
use lodge_base::files;
use lodge_manifest::upstream::MOST_REPLICAS;
use lodge_manifest::upstream::protocol::Scheme;
use lodge_manifest::upstream::source;
use lodge_manifest::upstream::source::{Fixed, Source};

/// The largest file of replicas, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// The task of one source.
#[derive(Clone)]
pub(super) struct SourceTask {
    /// The index of the source.
    pub(super) at: usize,
    pub(super) shared: Arc<SharedEndpoints>,
    pub(super) resolver: Arc<Resolver>,
    pub(super) pace: Pace,
    /// Whether replicas without TLS are refused.
    pub(super) tls_only: bool,
}

/// A line of a file of replicas, or a host of a cluster, with the state of its host name.
pub(super) struct FileEntry {
    pub(super) fixed: Fixed,
    pub(super) state: SourceState,
    pub(super) error: Option<String>,
    pub(super) next: Instant,
}

impl SourceTask {
    /// Publishes a replica with a fixed address, which needs no task.
    pub(super) fn fixed(&self, fixed: &Fixed) {
        self.shared.put(self.at, fixed.address().map(|ip| endpoint(fixed, ip)).into_iter().collect());
        self.shared.finish_first_round();
    }

    /// Resolves a host name or a service record, for ever.
    pub(super) async fn named(self, source: Source) {
        let mut state = SourceState::default();
        let mut first = true;
        loop {
            let resolution = self.resolve(&source, state.known()).await;
            self.shared.source_errors.put(self.at, resolution.error());
            let update = state.apply(resolution, Instant::now(), &self.pace, jitter());
            log_update(&source, update.message);
            if update.changed {
                self.shared.put(self.at, state.known().to_vec());
            }
            if std::mem::take(&mut first) {
                self.shared.finish_first_round();
            }
            tokio::time::sleep(update.next).await;
        }
    }

    /// Reads a file and resolves the host names in it, for ever.
    pub(super) async fn file(self, path: PathBuf) {
        let source = Source::File(path.clone());
        let mut entries: Vec<FileEntry> = Vec::new();
        let (mut error, mut settling) = (None, FileSettling::default());
        // What is wrong with the content in use, which stays wrong until the file changes.
        let mut wrong = None;
        // Whether a warning was logged that the file changes at every read.
        let mut never_settles = false;
        let mut first = true;
        let named = |text: &str| named(text, self.tls_only);
        loop {
            match read(&path).await.map(|text| settling.look(text, Instant::now(), |text| named(text).is_ok())) {
                Ok(ReadOutcome::Same) => (error, never_settles) = (wrong.clone(), false),
                Ok(ReadOutcome::Wait) => {}
                Ok(ReadOutcome::Take { text, settled }) => match named(&text) {
                    Ok(named) => {
                        if !settled && !std::mem::replace(&mut never_settles, true) {
                            let long = humantime::format_duration(CHANGING);
                            tracing::warn!(
                                "{source}: the file changed at every read for {long}; using its last readable content; \
                                 to replace the file, write another one and rename it"
                            );
                        }
                        never_settles &= !settled;
                        tracing::info!("{source}: names {}", count(named.len()));
                        reconcile(&mut entries, named);
                        (error, wrong) = (None, None);
                    }
                    Err(why) => {
                        log_error(&source, &mut error, why, entries.len());
                        wrong.clone_from(&error);
                    }
                },
                Err(why) => {
                    settling.unreadable();
                    log_error(&source, &mut error, why, entries.len());
                }
            }
            self.resolve_due(&source, &mut entries).await;
            let of_line =
                || entries.iter().find_map(|entry| Some(format!("{}: {}", entry.fixed, entry.error.as_ref()?)));
            self.shared.source_errors.put(self.at, error.clone().or_else(of_line));
            let known = entries.iter().flat_map(|entry| entry.state.known().iter().cloned());
            self.shared.put(self.at, known.collect());
            if std::mem::take(&mut first) {
                self.shared.finish_first_round();
            }
            tokio::time::sleep(self.pace.file).await;
        }
    }

    /// Resolves the lines of a file whose next lookup is due.
    pub(super) async fn resolve_due(&self, source: &Source, entries: &mut [FileEntry]) {
        for entry in entries {
            let now = Instant::now();
            if now < entry.next {
                continue;
            }
            let resolution = self.resolve_one(&entry.fixed, entry.state.known()).await;
            entry.error = resolution.error();
            let update = entry.state.apply(resolution, now, &self.pace, jitter());
            entry.next = now + update.next;
            // A fixed address has no messages of its own.
            if entry.fixed.address().is_none() {
                log_update(source, update.message.map(|(text, bad)| (format!("{}: {text}", entry.fixed), bad)));
            }
        }
    }

    async fn resolve(&self, source: &Source, known: &[Endpoint]) -> Resolution<Vec<Endpoint>> {
        match source {
            Source::Fixed(fixed) => self.resolve_one(fixed, known).await,
            Source::Dns { scheme, name, port } => self.resolve_all(*scheme, name, *port, 1, known).await,
            Source::Srv { scheme, name } => self.srv_targets(*scheme, name, known).await,
            Source::Kubernetes(_) | Source::Cluster { .. } | Source::File(_) => {
                Resolution::Failed(format!("{source}: is not in DNS"))
            }
        }
    }

    /// Resolves a single replica: the first address of its host, and the first one of the other family.
    async fn resolve_one(&self, fixed: &Fixed, known: &[Endpoint]) -> Resolution<Vec<Endpoint>> {
        if let Some(ip) = fixed.address() {
            return Resolution::Good(vec![endpoint(fixed, ip)], self.pace.most);
        }
        match self.resolve_all(fixed.scheme, &fixed.host, fixed.port, fixed.weight, known).await {
            Resolution::Good(found, lasts) => {
                let first = found.first().cloned();
                let one = first.map(|mut first| {
                    let v4 = first.target.address.is_ipv4();
                    let mut others = found.iter().map(|endpoint| endpoint.target.address);
                    first.target.other = others.find(|address| address.is_ipv4() != v4);
                    first
                });
                Resolution::Good(one.into_iter().collect(), lasts)
            }
            other => other,
        }
    }

    /// Resolves a name to one replica per address. `known` are the previous replicas, of any name.
    async fn resolve_all(
        &self,
        scheme: Scheme,
        name: &str,
        port: u16,
        weight: u32,
        known: &[Endpoint],
    ) -> Resolution<Vec<Endpoint>> {
        // The certificate is for the name without the final dot.
        let host: Arc<str> = name.strip_suffix('.').unwrap_or(name).into();
        let known = known.iter().map(|endpoint| &endpoint.target).filter(|target| target.host == host);
        let known: Vec<_> = known.flat_map(|target| [target.address].into_iter().chain(target.other)).collect();
        let known: Vec<_> = known.iter().map(SocketAddr::ip).collect();
        match self.resolver.addresses(name, &known).await {
            Resolution::Good(addresses, lasts) => {
                let replica = |ip: IpAddr| {
                    let address = SocketAddr::new(ip, port);
                    let target = Target { scheme, host: Arc::clone(&host), address, other: None };
                    Endpoint { target, weight, is_far: false }
                };
                Resolution::Good(addresses.into_iter().take(MOST_REPLICAS).map(replica).collect(), lasts)
            }
            Resolution::Empty(why) => Resolution::Empty(why),
            Resolution::Failed(why) => Resolution::Failed(why),
        }
    }

    /// Resolves the targets of the best priority that has any. A lower priority is used only when no target of a higher
    /// one is left in DNS (RFC 2782).
    async fn srv_targets(&self, scheme: Scheme, name: &str, known: &[Endpoint]) -> Resolution<Vec<Endpoint>> {
        let (services, mut lasts) = match self.resolver.services(name).await {
            Resolution::Good(services, lasts) => (services, lasts),
            Resolution::Empty(why) => return Resolution::Empty(why),
            Resolution::Failed(why) => return Resolution::Failed(why),
        };
        let mut found: Vec<Endpoint> = Vec::new();
        for group in services.chunk_by(|a, b| a.priority == b.priority) {
            for SrvTarget { weight, port, name, .. } in group {
                match self.resolve_all(scheme, name, *port, u32::from(*weight).max(1), known).await {
                    Resolution::Good(replicas, long) => {
                        found.extend(replicas);
                        lasts = lasts.min(long);
                    }
                    Resolution::Empty(_) => {}
                    // A partial result would remove the replicas that could not be resolved.
                    Resolution::Failed(why) => return Resolution::Failed(why),
                }
            }
            if !found.is_empty() {
                found.truncate(MOST_REPLICAS);
                return Resolution::Good(found, lasts);
            }
        }
        Resolution::Empty(format!("no target of {name} has an address"))
    }
}

fn endpoint(fixed: &Fixed, ip: IpAddr) -> Endpoint {
    let address = SocketAddr::new(ip, fixed.port);
    let target = Target { scheme: fixed.scheme, host: Arc::clone(&fixed.host), address, other: None };
    Endpoint { target, weight: fixed.weight, is_far: false }
}

/// Replaces the lines, and keeps the state of those that are still there.
pub(super) fn reconcile(entries: &mut Vec<FileEntry>, named: Vec<Fixed>) {
    let mut before = std::mem::take(entries);
    let now = Instant::now();
    entries.extend(named.into_iter().map(|fixed| {
        let same = before.iter().position(|entry| entry.fixed == fixed);
        same.map_or_else(
            || FileEntry { fixed, state: SourceState::default(), error: None, next: now },
            |at| before.swap_remove(at),
        )
    }));
}

/// Parses a file of replicas: at least one, at most [`MOST_REPLICAS`], and with `tls_only` all of them https.
fn named(text: &str, tls_only: bool) -> Result<Vec<Fixed>, String> {
    let named = source::lines(text)?;
    if let Some(plain) = named.iter().find(|fixed| tls_only && fixed.scheme == Scheme::Http) {
        return Err(format!("{plain}: upstream.tls is set, and without TLS no replica is verified; write https://"));
    }
    match named.len() {
        0 => Err("names no replicas; to have none, remove the file from the manifest".into()),
        many if many > MOST_REPLICAS => Err(format!("names {many} replicas; the maximum is {MOST_REPLICAS}")),
        _ => Ok(named),
    }
}

async fn read(path: &Path) -> Result<String, String> {
    let path = path.to_owned();
    // On the runtime's blocking pool, whose threads do not delay the exit of the process (`cli::block_on`).
    match tokio::task::spawn_blocking(move || files::read_text(&path, MAX_FILE)).await {
        Ok(Ok(text)) => Ok(text),
        Ok(Err(error)) => Err(error.to_string()),
        Err(error) => Err(error.to_string()),
    }
}

/// Logs what is wrong with a file, unless that was the last message.
fn log_error(source: &Source, said: &mut Option<String>, why: String, entries: usize) {
    if said.as_ref() != Some(&why) {
        tracing::warn!("{source}: {why}; the previous content stays in use: {}", count(entries));
    }
    *said = Some(why);
}

pub(super) fn log_update(source: &Source, message: Option<(String, bool)>) {
    match message {
        Some((text, true)) => tracing::warn!("{source}: {text}"),
        Some((text, false)) => tracing::info!("{source}: {text}"),
        None => {}
    }
}

pub(super) fn jitter() -> u32 {
    getrandom::u32().unwrap_or_default()
}
