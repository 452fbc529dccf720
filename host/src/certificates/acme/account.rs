//! The account at an authority, which the host creates once and keeps in a file.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use instant_acme::{Account, AccountCredentials, ExternalAccountKey, NewAccount};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::task::spawn_blocking;

use super::client::AuthorityClient;
use super::failure::{FailureKind, OrderFailure};
use lodge_base::config::acme::Acme;
use lodge_base::files::{self, SecretReplacement};

/// The most bytes of the file.
const MOST_BYTES: u64 = 64 << 10;

/// The bytes that are reserved for an account before it is created.
const ROOM: usize = 8 << 10;

/// The most bytes of the key of an external account.
const MOST_KEY: u64 = 4 << 10;

/// The account as it is stored.
#[derive(Deserialize, Serialize)]
struct StoredAccount {
    /// What the authority knows of the contacts.
    contact: Vec<String>,
    /// The key, the URL of the account and that of the directory.
    credentials: Value,
}

/// Returns the file of the account.
pub(super) fn file(directory: &Path) -> PathBuf {
    directory.join("account.json")
}

/// Returns the account that is stored in `directory`, or else a new one, which is stored before it is used.
pub(super) async fn open(settings: &Acme, directory: &Path, client: AuthorityClient) -> Result<Account, OrderFailure> {
    let (path, url) = (file(directory), settings.directory.to_string());
    let stored = {
        let (path, url) = (path.clone(), url.clone());
        blocking(move || Ok(read(&path, &url))).await?
    };
    let Some((stored, credentials)) = stored else { return create(settings, path, url, client).await };
    let account = Account::builder_with_http(Box::new(client)).from_credentials(credentials).await?;
    if stored.contact != settings.contact {
        account.update_contacts(&contacts(settings)).await?;
        let replacement = SecretReplacement::new(&path).map_err(|error| unwritten(&path, &error))?;
        save(path, replacement, StoredAccount { contact: settings.contact.clone(), ..stored }).await?;
    }
    Ok(account)
}

/// Forgets the account, which the authority does not know. The file stays under another name.
pub(super) fn forget(directory: &Path) -> Result<(), OrderFailure> {
    let path = file(directory);
    files::rename(&path, &path.with_extension("unknown.json")).map_err(OrderFailure::unusable)
}

/// Reads the account; `None` if there is none, or none that can be used. A new one costs little, and no certificate.
fn read(path: &Path, url: &str) -> Option<(StoredAccount, AccountCredentials)> {
    let why = match files::read(path, MOST_BYTES) {
        Err(error) if error.kind() == ErrorKind::NotFound => return None,
        Err(error) => error.to_string(),
        Ok(bytes) => match serde_json::from_slice::<StoredAccount>(&bytes) {
            Err(error) => format!("it is damaged: {error}"),
            Ok(stored) if stored.credentials.get("directory").and_then(Value::as_str) != Some(url) => {
                "it is an account of another authority".into()
            }
            Ok(stored) => match serde_json::from_value(stored.credentials.clone()) {
                Ok(credentials) => return Some((stored, credentials)),
                Err(error) => format!("it is damaged: {error}"),
            },
        },
    };
    tracing::warn!("{} cannot be used: {why}; a new account is created", path.display());
    None
}

async fn create(settings: &Acme, path: PathBuf, url: String, client: AuthorityClient) -> Result<Account, OrderFailure> {
    let key = match &settings.eab_key {
        Some(path) => Some(external_key(&settings.eab_kid, path.clone()).await?),
        None => None,
    };
    // An account that cannot be stored would be created again and again.
    let place = path.clone();
    let reserved = blocking(move || {
        let mut replacement = SecretReplacement::new(&place).map_err(|error| unwritten(&place, &error))?;
        replacement.reserve(b"", ROOM).map_err(|error| unwritten(&place, &error))?;
        Ok(replacement)
    });
    let reserved = reserved.await?;
    let contact = contacts(settings);
    let new = NewAccount { contact: &contact, terms_of_service_agreed: true, only_return_existing: false };
    let (account, credentials) =
        Account::builder_with_http(Box::new(client)).create(&new, url.clone(), key.as_ref()).await?;
    let credentials = serde_json::to_value(&credentials).map_err(OrderFailure::unusable)?;
    save(path, reserved, StoredAccount { contact: settings.contact.clone(), credentials }).await?;
    tracing::info!("created an account at {url}, and agreed to the terms of service of this authority");
    Ok(account)
}

fn contacts(settings: &Acme) -> Vec<&str> {
    settings.contact.iter().map(String::as_str).collect()
}

async fn save(path: PathBuf, replacement: SecretReplacement, stored: StoredAccount) -> Result<(), OrderFailure> {
    let text = serde_json::to_vec_pretty(&stored).map_err(OrderFailure::unusable)?;
    blocking(move || replacement.finish(&text).map_err(|error| unwritten(&path, &error))).await
}

fn unwritten(path: &Path, error: &std::io::Error) -> OrderFailure {
    OrderFailure::unusable(format!("{} cannot be written: {error}", path.display()))
}

/// Reads the key of the account elsewhere. Authorities show it in base64url, some with the other alphabet.
async fn external_key(kid: &str, path: PathBuf) -> Result<ExternalAccountKey, OrderFailure> {
    let kid = kid.to_owned();
    blocking(move || {
        let failed = |why: String| OrderFailure::unusable(format!("tls.acme.eab_key: {}: {why}", path.display()));
        let text = files::read_text(&path, MOST_KEY).map_err(|error| failed(error.to_string()))?;
        let text = text.trim().trim_end_matches('=');
        let key = URL_SAFE_NO_PAD.decode(text).or_else(|_| STANDARD_NO_PAD.decode(text));
        let key = key.ok().filter(|key| !key.is_empty()).ok_or_else(|| failed("it is not base64url".into()))?;
        Ok(ExternalAccountKey::new(kid, &key))
    })
    .await
}

/// Runs what waits for the disk.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, OrderFailure> + Send + 'static,
) -> Result<T, OrderFailure> {
    spawn_blocking(work).await.unwrap_or_else(|error| Err(OrderFailure::new(FailureKind::Unusable, error.to_string())))
}
