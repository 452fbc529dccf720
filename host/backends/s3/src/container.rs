//! Containers: a record with a random id, by which the keys of objects begin.
//!
//! So a container is emptied by giving it another id, and deleted by deleting its record, with all objects at once. What a request
//! writes that has found the record before is written before. Keys with the old id are removed later, and if the host ends before
//! that, when another host counts the objects.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lodge_state::blobs::BlobError;
use tokio::time::Instant;

use crate::failure::{S3Failure, unavailable};
use crate::keys::{is_id, random};
use crate::operations::WriteCondition;
use crate::space::S3Space;

/// A container.
#[derive(Clone, Debug)]
pub(crate) struct ContainerRecord {
    pub(crate) id: String,
    pub(crate) created: SystemTime,
    /// The tag of the record.
    tag: String,
}

impl ContainerRecord {
    /// Reads a record.
    fn parse(text: &str, tag: String) -> Result<Self, BlobError> {
        let damaged = || unavailable("the record of a container is not one: something else has written to the prefix");
        let (id, created) = text.split_once(' ').filter(|(id, _)| is_id(id)).ok_or_else(damaged)?;
        let created =
            created.parse().ok().and_then(|milliseconds| UNIX_EPOCH.checked_add(Duration::from_millis(milliseconds)));
        Ok(Self { id: id.to_owned(), created: created.ok_or_else(damaged)?, tag })
    }
}

fn record(id: &str, created: SystemTime) -> (bytes::Bytes, Option<String>) {
    let milliseconds = created.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    (format!("{id} {milliseconds}").into(), None)
}

impl S3Space {
    /// Finds a container by the key of its record.
    pub(crate) async fn find_record(&self, key: &str, deadline: Instant) -> Result<ContainerRecord, BlobError> {
        let (text, tag) =
            self.lane.record(key, deadline).await.map_err(|failure| failure.or(BlobError::NoContainer))?;
        ContainerRecord::parse(&text, tag)
    }

    /// Finds a container.
    ///
    /// # Errors
    /// [`BlobError::NoContainer`] if there is none.
    pub(crate) async fn find(&self, name: &str, deadline: Instant) -> Result<ContainerRecord, BlobError> {
        self.find_record(&self.keys.container(name)?, deadline).await
    }

    /// Creates a container. Hosts that do this at the same time create one.
    pub(crate) async fn create(&self, name: &str, deadline: Instant) -> Result<(), BlobError> {
        let (key, id) = (self.keys.container(name)?, random()?);
        match self.lane.put(&key, record(&id, SystemTime::now()), WriteCondition::Absent, deadline).await {
            Ok(()) => Ok(()),
            // It may be that of an attempt whose response was lost.
            Err(S3Failure::Changed) => match self.find_record(&key, deadline).await {
                Ok(found) if found.id == id => Ok(()),
                Ok(_) | Err(BlobError::NoContainer) => Err(BlobError::ContainerExists),
                Err(other) => Err(other),
            },
            Err(other) => Err(other.or(BlobError::ContainerExists)),
        }
    }

    /// Gives a container another id, and returns the one that it had.
    pub(crate) async fn renew(&self, name: &str, deadline: Instant) -> Result<String, BlobError> {
        let key = self.keys.container(name)?;
        let mut last: Option<(String, String)> = None;
        for _ in 0..4 {
            let ContainerRecord { id, created, tag } = self.find_record(&key, deadline).await?;
            // The condition also fails if an attempt was done whose response was lost.
            if let Some((_, before)) = last.filter(|(renewed, _)| *renewed == id) {
                return Ok(before);
            }
            let renewed = random()?;
            let put = self.lane.put(&key, record(&renewed, created), WriteCondition::Unchanged(tag), deadline);
            match put.await {
                Ok(()) => return Ok(id),
                // Another request has emptied or deleted it.
                Err(S3Failure::Changed | S3Failure::Missing) => last = Some((renewed, id)),
                Err(other) => return Err(other.or(BlobError::NoContainer)),
            }
        }
        Err(unavailable("the container changes all the time: try again"))
    }

    /// Deletes the record of a container, and returns the id that it had.
    pub(crate) async fn delete_record(&self, name: &str, deadline: Instant) -> Result<String, BlobError> {
        let key = self.keys.container(name)?;
        let (mut container, mut changes) = (self.find_record(&key, deadline).await?, 0);
        while !self.lane.remove_unchanged(&key, &container.tag, deadline).await? {
            container = match self.find_record(&key, deadline).await {
                // By another host, or by an attempt whose response was lost.
                Err(BlobError::NoContainer) => return Ok(container.id),
                found => found?,
            };
            changes += 1;
            if changes >= 4 {
                return Err(unavailable("the container changes all the time: try again"));
            }
        }
        Ok(container.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read() {
        let created = UNIX_EPOCH + Duration::from_millis(1_700_000_000_123);
        let id = random().unwrap();
        let text = String::from_utf8(record(&id, created).0.to_vec()).unwrap();
        let read = ContainerRecord::parse(&text, "tag".into()).unwrap();
        assert_eq!((read.id, read.created), (id, created));
        for wrong in [
            "",
            "x",
            "0123456789abcdef",
            "0123456789abcdef x",
            "../../../../etc 1",
            "0123456789abcdef 99999999999999999999",
        ] {
            assert!(ContainerRecord::parse(wrong, String::new()).is_err(), "{wrong}");
        }
    }
}
