//! What hosts share in the server of their state: account, certificates, attempts, and the proofs of the order in progress. All of it
//! is encrypted with keys that only these hosts have, since certificates have private keys, and others can read the server.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lodge_state::{Error, Expiry, Guard, Key, Lease, LockName, Locker, Quota, Set, Store, Ttl, Value};
use tokio::sync::OnceCell;
use tokio::time::Instant;

use super::ORDER;
use super::account::blocking;
use super::directory::of_authority;
use super::failure::{FailureKind, OrderFailure, printable};
use crate::guests::stores::Stores;
use lodge_base::config::Config;
use lodge_base::files;
use lodge_base::lock::lock;
use lodge_base::sealing::{self, SealPurpose, SealingKeys};

/// The namespace of what hosts share. No service has such a name.
const NAMESPACE: &str = "@certificates";

/// The bytes of all clusters with one server.
const QUOTA: Quota = Quota { keys: 20_000, bytes: 256 << 20 };

/// How long one host orders at most, and a margin.
const LEASE: Duration = Duration::from_secs(ORDER.as_secs() + 60);

/// Small files that hosts share, by name.
pub(super) struct SharedFiles {
    stores: Arc<Stores>,
    /// The file with the keys. It is read each time, so that keys can be replaced.
    keys: PathBuf,
    /// The cluster: hosts of another one share nothing with these.
    cluster: String,
    /// The name of the authority.
    authority: String,
    opened: OnceCell<(Arc<dyn Store>, Locker)>,
    /// The files that could not be decrypted when they were read last, of which the log has a line.
    foreign: Mutex<BTreeSet<String>>,
}

impl SharedFiles {
    /// Prepares what the settings say; `None` if the host shares nothing. Nothing is opened yet.
    ///
    /// # Errors
    /// One line, if the keys cannot be used.
    pub(super) fn new(config: &Config, stores: &Arc<Stores>) -> Result<Option<Self>, String> {
        let Some(keys) = config.tls.acme.share_keys.clone() else { return Ok(None) };
        let shared = Self {
            stores: Arc::clone(stores),
            keys,
            cluster: config.cluster.name.clone().unwrap_or_else(|| "-".into()),
            authority: of_authority(&config.tls.acme),
            opened: OnceCell::new(),
            foreign: Mutex::default(),
        };
        read_keys(&shared.keys)?;
        Ok(Some(shared))
    }

    /// Returns the turn to order, which ends when it is dropped; `None` while another host has it.
    ///
    /// # Errors
    /// If the server cannot be used.
    pub(super) async fn turn(&self) -> Result<Option<Guard>, OrderFailure> {
        let (_, locker) = self.open().await?;
        let name = format!("{} {}", self.cluster, self.authority);
        let turn =
            async { locker.acquire(LockName::new(&name)?, Lease::new(LEASE)?, Instant::now(), self.deadline()).await };
        turn.await.map_err(unreachable)
    }

    /// Returns a file; `None` if no host has shared it, or none with one of these keys.
    ///
    /// # Errors
    /// If the server cannot be used, or the file with the keys.
    pub(super) async fn read(&self, name: &str) -> Result<Option<Vec<u8>>, OrderFailure> {
        let (store, _) = self.open().await?;
        let path = self.path(name);
        let found = async { store.get(Key::new(&self.cluster, &path)?, self.deadline()).await };
        let Some(entry) = found.await.map_err(unreachable)? else { return Ok(None) };
        let keys = self.keys().await?;
        let opened = keys.open(SealPurpose::Certificates, &self.context(&path), entry.value.as_slice());
        if self.is_newly_foreign(name, opened.is_none()) {
            tracing::warn!(
                "tls.acme.share_keys: what another host shares as {name} was not encrypted with one of the keys in {}; do all \
                 hosts have the same file?",
                self.keys.display()
            );
        }
        Ok(opened.map(|(_, content)| content))
    }

    /// Replaces a file, which lasts for `life`, or until it is replaced.
    ///
    /// # Errors
    /// If the server cannot be used, or the file with the keys.
    pub(super) async fn write(&self, name: &str, content: &[u8], life: Option<Duration>) -> Result<(), OrderFailure> {
        let (store, _) = self.open().await?;
        let path = self.path(name);
        let sealed = self.keys().await?.seal(SealPurpose::Certificates, &self.context(&path), content);
        let sealed = sealed.ok_or_else(|| OrderFailure::unusable("the system has no random numbers"))?;
        let written = async {
            let expiry = life.map(Ttl::new).transpose()?.map_or(Expiry::Never, Expiry::After);
            let set = Set { expiry, if_absent: false };
            store.set(Key::new(&self.cluster, &path)?, Value::new(sealed.into_bytes())?, set, self.deadline()).await
        };
        written.await.map(|_| ()).map_err(unreachable)
    }

    /// Records whether a file is encrypted with a key of others. Returns whether it has become so: whoever can write to the server could
    /// otherwise fill the log, since proofs are read every few seconds.
    pub(super) fn is_newly_foreign(&self, name: &str, is_foreign: bool) -> bool {
        let mut foreign = lock(&self.foreign);
        if is_foreign {
            return foreign.insert(name.to_owned());
        }
        foreign.remove(name);
        false
    }

    fn path(&self, name: &str) -> String {
        format!("{}/{name}", self.authority)
    }

    /// What a file is encrypted for: it cannot be put in the place of another one.
    fn context(&self, path: &str) -> Vec<u8> {
        format!("{}/{path}", self.cluster).into_bytes()
    }

    async fn keys(&self) -> Result<SealingKeys, OrderFailure> {
        let path = self.keys.clone();
        blocking(move || read_keys(&path).map_err(OrderFailure::unusable)).await
    }

    fn deadline(&self) -> Instant {
        Instant::now() + self.stores.timeout()
    }

    async fn open(&self) -> Result<&(Arc<dyn Store>, Locker), OrderFailure> {
        let opened = self.opened.get_or_try_init(|| async {
            let (store, locks) = self.stores.of_hosts(NAMESPACE, QUOTA, self.deadline()).await?;
            Ok((store, Locker::new(locks, tokio::runtime::Handle::current())))
        });
        opened.await.map_err(|why: String| away(&why))
    }
}

fn read_keys(path: &std::path::Path) -> Result<SealingKeys, String> {
    let text = files::read_text(path, sealing::MOST_BYTES).map_err(|error| error.to_string());
    let keys = text.and_then(|text| SealingKeys::read(&text));
    keys.map_err(|why| format!("tls.acme.share_keys: {}: {why}", path.display()))
}

fn unreachable(error: Error) -> OrderFailure {
    away(&error.for_operators())
}

fn away(why: &str) -> OrderFailure {
    OrderFailure::new(FailureKind::Unreachable, printable(&format!("hosts share certificates by `state.url`: {why}")))
}
