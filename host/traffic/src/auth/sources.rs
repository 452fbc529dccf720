//! The files that credentials are verified with, and the servers with keys of issuers.

mod kinds;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Weak};

use http::Uri;
use tokio::sync::Semaphore;

use super::Authentication;
use super::api_keys::KeyRing;
use super::jwt::Verifier;
use super::jwt::keys::KeySet;
use super::login::Logins;
use super::login::secret::ClientSecret;
use super::passwords::{Hashing, Passwords, UserList};
use super::remote::Remote;
use crate::live_files::{FileContent, LiveFiles, LiveValue};
use lodge_base::key_changes::{KeyChange, KeyMarks, KeyObserver};
use lodge_base::lock::lock;
use lodge_base::sealing::SealingKeys;
use lodge_base::telemetry::metrics::Metrics;
use lodge_manifest::auth::jwt::{JwkSource, Jwt};
use lodge_manifest::auth::login::Login;

/// The most threads that read. One in a file system that hangs stays until that responds.
const THREADS: usize = 64;

/// What the services of a host verify credentials with. Services that name the same file share it.
#[derive(Debug)]
pub struct CredentialSources {
    api_keys: LiveFiles<KeyRing>,
    key_sets: LiveFiles<KeySet>,
    passwords: LiveFiles<UserList>,
    /// The same files with the results for them.
    verified: Mutex<HashMap<PathBuf, Weak<Passwords>>>,
    hashing: Hashing,
    cookie_keys: LiveFiles<SealingKeys>,
    secrets: LiveFiles<ClientSecret>,
    logins: Mutex<HashMap<String, Weak<Logins>>>,
    remotes: Mutex<HashMap<String, Weak<Remote>>>,
    threads: Arc<Semaphore>,
    metrics: Arc<Metrics>,
    /// Whether the host verifies certificates of clients.
    certificates: bool,
    /// Where changes of files go.
    observer: KeyObserver,
}

/// A file of keys.
trait WatchedKeys: FileContent {
    /// Returns the names of the keys, for the audit trail.
    fn marks(&self) -> KeyMarks;
}

impl CredentialSources {
    /// Returns the sources of a host. `metrics` counts fetches; `certificates` is whether it verifies those of clients.
    pub fn new(metrics: &Arc<Metrics>, certificates: bool) -> Self {
        Self {
            api_keys: LiveFiles::default(),
            key_sets: LiveFiles::default(),
            passwords: LiveFiles::default(),
            verified: Mutex::default(),
            hashing: Hashing::new(metrics),
            cookie_keys: LiveFiles::default(),
            secrets: LiveFiles::default(),
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

    /// Reads files as they are from now on, also those that may be incomplete: for a check that serves nothing.
    pub fn set_offline(&mut self) {
        self.api_keys.set_offline();
        self.passwords.set_offline();
        self.cookie_keys.set_offline();
        self.secrets.set_offline();
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
                check.keys = Some(keys.map_err(|why| {
                    format!(
                        "auth.api_keys: {0}: {why}; `lodge keys create NAME --file {0}` writes such a file",
                        path.display()
                    )
                })?);
            }
            if let Some(file) = &check.settings.passwords {
                let path = directory.join(file);
                let passwords = self.passwords(&path).await;
                check.passwords = Some(passwords.map_err(|why| {
                    format!(
                        "auth.passwords: {0}: {why}; `lodge keys create NAME --password --file {0}` writes such a file",
                        path.display()
                    )
                })?);
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
        let former = lock(&self.logins).values().filter_map(Weak::upgrade).find(|logins| logins.knows(login));
        let opened = Logins::open(service, login.clone(), keys, secret, former.as_deref(), &self.metrics).await;
        let opened = Arc::new(opened);
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
    async fn follow<T: WatchedKeys>(&self, files: &LiveFiles<T>, path: &Path) -> Result<Arc<LiveValue<T>>, String> {
        let observer = self.observer.clone();
        let changed = move |path: &Path, old: &T, new: &T| {
            observer.observe(KeyChange::between(path, &old.marks(), &new.marks()));
        };
        files.follow(path, &self.threads, changed).await
    }
}

#[cfg(test)]
mod tests;
