//! Moves: a copy by the server, and the removal of the original.
//!
//! On one host, one move at a time has a key, as its original or as its new name. Otherwise several moves of one object would make as
//! many objects of it, and two that exchange names would remove both. A move that has begun to copy goes on when nobody waits for it
//! any more, so that one of both names stays.

use std::sync::Arc;
use std::time::Duration;

use lodge_remote::Backoff;
use lodge_state::blobs::BlobError;
use tokio::time::{Instant, sleep, timeout_at};

use crate::changes::ObjectChange;
use crate::failure::S3Failure;
use crate::operations::ObjectHead;
use crate::space::{OwnedName, S3Space, object, run};
use crate::transport::LONG_ATTEMPT;

/// How long the original is removed after the copy.
const REMOVAL: Duration = Duration::from_secs(60);

impl S3Space {
    pub(crate) async fn rename(
        self: Arc<Self>,
        from: OwnedName,
        to: OwnedName,
        deadline: Instant,
    ) -> Result<(), BlobError> {
        let (from, to) = self.both(&from, &to, deadline).await?;
        if from == to {
            return self.lane.head(&from, deadline).await?.map(drop).ok_or(BlobError::NoObject);
        }
        let late = |_| BlobError::Timeout;
        let place = timeout_at(deadline, self.moves.begin(&from, &to)).await.map_err(late)?;
        let change = self.changes.begin(&from);
        let head = self.lane.head(&from, deadline).await?.ok_or(BlobError::NoObject)?;
        let moving = run(async move {
            let _place = place;
            self.move_key((from, head), to, &change).await
        });
        timeout_at(deadline, moving).await.map_err(late)?
    }

    /// Copies an object and removes the original. The copy counts beside that until it is removed.
    async fn move_key(
        self: Arc<Self>,
        (from, mut head): (String, ObjectHead),
        to: String,
        change: &ObjectChange,
    ) -> Result<(), BlobError> {
        let end = Instant::now() + LONG_ATTEMPT;
        let mut changes = 0;
        loop {
            let mut charge = self.account.charge();
            charge.take_moved(head.bytes).inspect_err(|_| self.count_if_due(true))?;
            match self.place_copy((&from, &head), &to, true, end).await {
                Ok(()) => {
                    charge.keep();
                    break;
                }
                Err(S3Failure::Changed) if changes < 3 => changes += 1,
                Err(other) => return Err(other.or(BlobError::NoObject)),
            }
            head = self.lane.head(&from, end).await?.ok_or(BlobError::NoObject)?;
        }
        let (end, mut backoff) = (Instant::now() + REMOVAL, Backoff::new());
        loop {
            match self.remove_original(&from, &head, end).await {
                Ok(true) => {
                    self.give_back(object(head.bytes), change);
                    return Ok(());
                }
                // Another host has removed it, or a request has written something else there, which stays.
                Ok(false) => {
                    self.account.doubt();
                    return Ok(());
                }
                Err(error) if Instant::now() >= end => {
                    self.account.doubt();
                    return Err(error);
                }
                Err(_) => sleep(backoff.pause()).await,
            }
        }
    }

    /// Removes an object that has been copied; false if it was not there any more, as far as the server can tell.
    async fn remove_original(&self, key: &str, copied: &ObjectHead, deadline: Instant) -> Result<bool, BlobError> {
        match self.lane.head(key, deadline).await? {
            Some(now) if now.tag == copied.tag => self.lane.remove_unchanged(key, &copied.tag, deadline).await,
            _ => Ok(false),
        }
    }
}
