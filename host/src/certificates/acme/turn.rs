//! Whose turn it is to order: one process of a directory at a time, and one host of those that share certificates. A host that has its
//! turn takes what the others have got, and gives what it gets.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use lodge_state::Guard;

use super::account::{self, blocking};
use super::directory::{self, attempts_of, lock_directory};
use super::failure::OrderFailure;
use super::proofs;
use super::schedule::OrderAttempts;
use super::shared::SharedFiles;
use super::{AcmeClient, seconds};
use lodge_base::files;
use lodge_base::lock::lock;

/// The most bytes of a file of the account.
const MOST_ACCOUNT: u64 = 64 << 10;

/// The turn to order, which ends when it is dropped.
pub(super) struct OrderTurn {
    _directory: File,
    _hosts: Option<Guard>,
}

impl AcmeClient {
    /// Begins the turn of this host, and takes what other hosts have got; `None` while another process or host has its turn.
    ///
    /// # Errors
    /// If the directory cannot be locked, or the server of what hosts share is away: without it, each host would order.
    pub(super) async fn begin_turn(self: &Arc<Self>, number: usize) -> Result<Option<OrderTurn>, OrderFailure> {
        let this = Arc::clone(self);
        let locked = blocking(move || lock_directory(&this.directory).map_err(OrderFailure::unusable)).await?;
        let Some(directory) = locked else { return Ok(None) };
        let Some(shared) = &self.shared else { return Ok(Some(OrderTurn { _directory: directory, _hosts: None })) };
        let Some(hosts) = shared.turn().await? else { return Ok(None) };
        self.take(shared, number).await?;
        Ok(Some(OrderTurn { _directory: directory, _hosts: Some(hosts) }))
    }

    /// Takes the account, the attempts and the certificate of other hosts.
    async fn take(self: &Arc<Self>, shared: &SharedFiles, number: usize) -> Result<(), OrderFailure> {
        let Some(wanted) = self.wanted.get(number) else { return Ok(()) };
        let account = account::file(&self.directory);
        if let Some(theirs) = shared.read(&name_of(&account)).await? {
            blocking(move || {
                if files::read(&account, MOST_ACCOUNT).ok().as_ref() == Some(&theirs) {
                    return Ok(());
                }
                files::replace_secret(&account, &theirs).map_err(OrderFailure::unusable)
            })
            .await?;
        }
        if let Some(text) = shared.read(&name_of(&attempts_of(&wanted.file))).await? {
            let theirs = serde_json::from_slice::<OrderAttempts>(&text).unwrap_or_default();
            lock(&wanted.state).attempts.look(theirs.plausible(seconds()), seconds());
        }
        let Some(text) = shared.read(&name_of(&wanted.file)).await? else { return Ok(()) };
        let (file, names, in_use) = (wanted.file.clone(), wanted.names.clone(), lock(&wanted.state).validity);
        let taken = blocking(move || directory::take(&file, &names, &text, in_use, seconds())).await?;
        if let Some(expires) = taken {
            let now = seconds();
            let mut state = lock(&wanted.state);
            state.attempts.succeed(now, u64::try_from(expires).unwrap_or(0).saturating_sub(now));
            state.problem = None;
            tracing::info!("another host has got a certificate for {}, which this one takes", wanted.names.join(", "));
        }
        Ok(())
    }

    /// Records for other hosts that an order begins: without this record nothing is ordered.
    ///
    /// # Errors
    /// If it cannot be recorded.
    pub(super) async fn announce_order(&self, number: usize) -> Result<(), OrderFailure> {
        let (Some(shared), Some(wanted)) = (&self.shared, self.wanted.get(number)) else { return Ok(()) };
        let attempts = serde_json::to_vec(&lock(&wanted.state).attempts).map_err(OrderFailure::unusable)?;
        shared.write(&name_of(&attempts_of(&wanted.file)), &attempts, None).await
    }

    /// Gives other hosts what this attempt has led to. If that fails, they order for themselves when their own certificates are due.
    pub(super) async fn give(&self, number: usize) {
        let (Some(shared), Some(wanted)) = (&self.shared, self.wanted.get(number)) else { return };
        let account = account::file(&self.directory);
        let given = async {
            proofs::take_back(shared).await?;
            for file in [&account, &attempts_of(&wanted.file), &wanted.file] {
                let path = file.clone();
                let content = blocking(move || Ok(files::read(&path, super::MOST_BYTES).ok())).await?;
                if let Some(content) = content {
                    shared.write(&name_of(file), &content, None).await?;
                }
            }
            Ok(())
        };
        if let Err(OrderFailure { why, .. }) = given.await {
            tracing::warn!("other hosts do not get the certificate for {}: {why}", wanted.names.join(", "));
        }
    }
}

/// Returns the name of a file, by which hosts share it.
fn name_of(file: &Path) -> String {
    file.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
