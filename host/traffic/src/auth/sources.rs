//! The files that credentials are verified with. They are read again while the host runs, and a bad file never replaces
//! a good one.
//!
//! Files are looked at every second (`POLL`). Events of the file system would not do: a file that a Secret mounts by
//! `subPath`, and a symlink that is replaced, cause none for their path.

mod kinds;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use http::Uri;
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{sleep, timeout};

use super::Authentication;
use super::api_keys::KeyRing;
use super::jwt::Verifier;
use super::jwt::keys::KeySet;
use super::live::LiveValue;
use super::login::Logins;
use super::login::sealing::SealingKeys;
use super::login::secret::ClientSecret;
use super::passwords::{Hashing, Passwords, UserList};
use super::remote::Remote;
use lodge_base::files;
use lodge_base::files::FileStamp;
use lodge_base::key_changes::{KeyChange, KeyMarks, KeyObserver};
use lodge_base::lock::lock;
use lodge_base::telemetry::metrics::Metrics;
use lodge_manifest::auth::jwt::{JwkSource, Jwt};
use lodge_manifest::auth::login::Login;

/// The time between two looks.
const POLL: Duration = Duration::from_secs(1);

/// The time between two readings that must have the same result, so that no file is used that is being written.
const SETTLE: Duration = Duration::from_millis(100);

/// The most readings until two in a row have the same result.
const READINGS: usize = 5;

/// The time that one reading may take.
const READ_TIME: Duration = Duration::from_secs(5);

/// The most threads that read. One in a file system that hangs stays until that responds.
const THREADS: usize = 64;

/// What the services of a host verify credentials with. Services that name the same file share it.
#[derive(Debug)]
pub struct CredentialSources {
    api_keys: Files<KeyRing>,
    key_sets: Files<KeySet>,
    passwords: Files<UserList>,
    /// The same files with the results for them.
    verified: Mutex<HashMap<PathBuf, Weak<Passwords>>>,
    hashing: Hashing,
    cookie_keys: Files<SealingKeys>,
    secrets: Files<ClientSecret>,
    logins: Mutex<HashMap<String, Weak<Logins>>>,
    remotes: Mutex<HashMap<String, Weak<Remote>>>,
    threads: Arc<Semaphore>,
    metrics: Arc<Metrics>,
    /// Whether the host verifies certificates of clients.
    certificates: bool,
    /// Where changes of files go.
    observer: KeyObserver,
}

/// The files of one kind that are in use.
type Files<T> = Mutex<HashMap<PathBuf, Weak<LiveValue<T>>>>;

/// What a file contains.
trait WatchedKeys: Sized + Send + Sync + 'static {
    /// What it is, for the log.
    const WHAT: &'static str;
    /// The most bytes of a file.
    const MOST: u64;

    /// Reads the text of a file.
    fn read(text: &str) -> Result<Self, String>;

    /// Returns the number of keys.
    fn count(&self) -> usize;

    /// Returns the names of the keys, for the audit trail.
    fn marks(&self) -> KeyMarks;
}

impl CredentialSources {
    /// Returns the sources of a host. `metrics` counts fetches; `certificates` is whether it verifies those of clients.
    pub fn new(metrics: &Arc<Metrics>, certificates: bool) -> Self {
        Self {
            api_keys: Files::default(),
            key_sets: Files::default(),
            passwords: Files::default(),
            verified: Mutex::default(),
            hashing: Hashing::new(metrics),
            cookie_keys: Files::default(),
            secrets: Files::default(),
            logins: Mutex::default(),
            remotes: Mutex::default(),
            threads: Arc::new(Semaphore::new(THREADS)),
            metrics: Arc::clone(metrics),
            certificates,
            observer: KeyObserver::default(),
        }
    }

    /// Tells `observer` of changes of the files that are opened from now on.
    pub fn set_observer(&mut self, observer: KeyObserver) {
        self.observer = observer;
    }

    /// Reads what these checks need, and goes on reading it for as long as they are in use. Files are relative to
    /// `directory`.
    ///
    /// # Errors
    /// One line, if a file cannot be read or is not valid.
    pub async fn open(&self, checks: &mut Authentication, directory: &Path) -> Result<(), String> {
        for check in checks.checks() {
            if !check.settings.client_certificates.is_empty() && !self.certificates {
                let why =
                    "this host verifies no certificates of clients; set `tls.listen` and `tls.client_ca` in lodge.toml";
                return Err(format!("auth.client_certificates: {why}"));
            }
            if let Some(file) = &check.settings.api_keys {
                let path = directory.join(file);
                let keys = self.follow(&self.api_keys, &path).await;
                check.keys = Some(keys.map_err(|why| format!("auth.api_keys: {}: {why}", path.display()))?);
            }
            if let Some(file) = &check.settings.passwords {
                let path = directory.join(file);
                let passwords = self.passwords(&path).await;
                check.passwords = Some(passwords.map_err(|why| format!("auth.passwords: {}: {why}", path.display()))?);
            }
            if let Some(login) = &check.settings.login {
                check.logins = Some(self.logins(&check.realm, login, directory).await?);
            }
            let Some(jwt) = check.settings.jwt.clone() else { continue };
            let keys = match &jwt.keys {
                JwkSource::File(file) => {
                    let path = directory.join(file);
                    let keys = self.follow(&self.key_sets, &path).await;
                    keys.map_err(|why| format!("auth.jwt.keys: {}: {why}", path.display()))?
                }
                JwkSource::Url(url) => {
                    let remote = self.remote(url, &jwt).await;
                    let keys = Arc::clone(&remote.keys);
                    check.remote = Some(remote);
                    keys
                }
            };
            check.tokens = Some(Verifier::new(jwt, keys));
        }
        Ok(())
    }

    /// Returns the logins of a service. Its routes and deployments share them.
    async fn logins(&self, service: &str, login: &Login, directory: &Path) -> Result<Arc<Logins>, String> {
        let name = format!("{service} {} {login:?}", directory.display());
        if let Some(known) = lock(&self.logins).get(&name).and_then(Weak::upgrade) {
            return Ok(known);
        }
        let path = directory.join(&login.cookie_keys);
        let keys = self.follow(&self.cookie_keys, &path).await;
        let keys = keys.map_err(|why| format!("auth.login.cookie_keys: {}: {why}", path.display()))?;
        let secret = match &login.client_secret {
            Some(file) => {
                let path = directory.join(file);
                let secret = self.follow(&self.secrets, &path).await;
                Some(secret.map_err(|why| format!("auth.login.client_secret: {}: {why}", path.display()))?)
            }
            None => None,
        };
        let opened = Arc::new(Logins::open(service, login.clone(), keys, secret, &self.metrics).await);
        let mut logins = lock(&self.logins);
        logins.retain(|_, logins| logins.strong_count() > 0);
        logins.insert(name, Arc::downgrade(&opened));
        Ok(opened)
    }

    /// Returns the API keys of a file, which is read again whenever it changes, for as long as they are in use.
    ///
    /// # Errors
    /// One line, if the file cannot be read or is not valid.
    pub async fn api_keys(&self, path: &Path) -> Result<Arc<LiveValue<KeyRing>>, String> {
        self.follow(&self.api_keys, path).await
    }

    /// Returns the keys of an issuer on its server.
    async fn remote(&self, url: &Uri, jwt: &Jwt) -> Arc<Remote> {
        let name = format!("{url} {:?} {:?}", jwt.refresh, jwt.stale);
        if let Some(known) = lock(&self.remotes).get(&name).and_then(Weak::upgrade) {
            return known;
        }
        let remote = Remote::open(url.clone(), jwt, Arc::clone(&self.metrics)).await;
        let mut remotes = lock(&self.remotes);
        remotes.retain(|_, remote| remote.strong_count() > 0);
        remotes.insert(name, Arc::downgrade(&remote));
        remote
    }

    /// Returns the passwords of a file. Routes, services and deployments share its results.
    async fn passwords(&self, path: &Path) -> Result<Arc<Passwords>, String> {
        let users = self.follow(&self.passwords, path).await?;
        let mut verified = lock(&self.verified);
        if let Some(known) = verified.get(path).and_then(Weak::upgrade) {
            return Ok(known);
        }
        let passwords = Arc::new(Passwords::new(users, &self.hashing));
        verified.retain(|_, passwords| passwords.strong_count() > 0);
        verified.insert(path.to_owned(), Arc::downgrade(&passwords));
        Ok(passwords)
    }

    /// Returns the content of a file, which is replaced when the file changes.
    async fn follow<T: WatchedKeys>(&self, files: &Files<T>, path: &Path) -> Result<Arc<LiveValue<T>>, String> {
        if let Some(known) = lock(files).get(path).and_then(Weak::upgrade) {
            return Ok(known);
        }
        let file = Watched { path: path.to_owned(), most: T::MOST, threads: Arc::clone(&self.threads) };
        let (stamp, text) = file.settled().await?;
        let live = Arc::new(LiveValue::new(T::read(&text)?));
        let mut files = lock(files);
        files.retain(|_, live| live.strong_count() > 0);
        files.insert(path.to_owned(), Arc::downgrade(&live));
        tokio::spawn(follow(file, Arc::downgrade(&live), stamp, self.observer.clone()));
        Ok(live)
    }
}

/// A file that is looked at again and again.
struct Watched {
    path: PathBuf,
    /// The most bytes of it.
    most: u64,
    threads: Arc<Semaphore>,
}

impl Watched {
    /// Reads the file until two readings in a row are the same.
    async fn settled(&self) -> Result<(Option<FileStamp>, String), String> {
        let mut last = self.read().await?;
        for _ in 0..READINGS {
            sleep(SETTLE).await;
            let next = self.read().await?;
            if next == last {
                return Ok(next);
            }
            last = next;
        }
        Err("it changes again and again while it is read".into())
    }

    async fn read(&self) -> Result<(Option<FileStamp>, String), String> {
        let most = self.most;
        self.run(move |path| {
            let stamp = files::stamp(path);
            let text = files::read_text(path, most);
            text.map(|text| (stamp, text)).map_err(|error| format!("it cannot be read: {error}"))
        })
        .await
        .and_then(|read| read)
    }

    /// Runs `look` on a thread that may wait.
    async fn run<R: Send + 'static>(&self, look: impl FnOnce(&Path) -> R + Send + 'static) -> Result<R, String> {
        const LATE: &str = "it cannot be read: its file system does not respond";
        let permit = timeout(READ_TIME, Arc::clone(&self.threads).acquire_owned()).await;
        let Ok(Ok(permit)) = permit else { return Err(LATE.into()) };
        let path = self.path.clone();
        let thread: JoinHandle<R> = spawn_blocking(move || {
            let looked = look(&path);
            drop(permit);
            looked
        });
        match timeout(READ_TIME, thread).await {
            Ok(Ok(looked)) => Ok(looked),
            Ok(Err(_)) => Err("it cannot be read: the reader has panicked".into()),
            Err(_) => Err(LATE.into()),
        }
    }
}

/// Replaces the keys whenever their file changes, for as long as they are in use. What cannot be used is logged once.
async fn follow<T: WatchedKeys>(
    file: Watched,
    live: Weak<LiveValue<T>>,
    mut stamp: Option<FileStamp>,
    observer: KeyObserver,
) {
    let shown = format!("{} in {}", T::WHAT, file.path.display());
    let mut problem = None;
    loop {
        sleep(POLL).await;
        if live.strong_count() == 0 {
            return;
        }
        let found = match file.run(files::stamp).await {
            Ok(now) if now.is_some() && now == stamp => continue,
            Ok(_) => file.settled().await,
            Err(late) => Err(late),
        };
        let read = found.and_then(|(now, text)| {
            stamp = now;
            T::read(&text)
        });
        match (read, live.upgrade()) {
            (_, None) => return,
            (Ok(keys), Some(live)) => {
                tracing::info!("{shown}: {} are in force", keys.count());
                observer.observe(KeyChange::between(&file.path, &live.load().marks(), &keys.marks()));
                live.replace(keys);
                problem = None;
            }
            (Err(found), Some(_)) => {
                if problem.as_ref() != Some(&found) {
                    tracing::warn!("{shown}: {found}; the last good keys stay in force");
                }
                problem = Some(found);
            }
        }
    }
}

#[cfg(test)]
mod tests;
