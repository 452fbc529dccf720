//! Names of the objects of a container.

use std::fs::{self, ReadDir};
use std::io::ErrorKind;
use std::sync::Arc;

use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::space::BlobSpace;
use super::{BlobError, MAX_NAMES, path};
use crate::file_name::name_of;

/// Names of the objects of a container, page by page and in no order. An object that exists from the first page to the last is
/// among them; one that is written or deleted meanwhile may be.
pub struct BlobNames {
    space: Arc<BlobSpace>,
    walk: Option<Walk>,
    _place: Option<OwnedSemaphorePermit>,
}

/// The open directories: that of the container, and those of the parts of a long name. Each with the part of its names that
/// it stands for.
type Walk = Vec<(ReadDir, String)>;

impl BlobNames {
    /// Begins a listing.
    ///
    /// # Errors
    /// [`BlobError::NoContainer`], and those of every operation.
    pub async fn open(space: &Arc<BlobSpace>, container: &str, deadline: Instant) -> Result<Self, BlobError> {
        let path = space.directory.join(path::container(container)?);
        let place = space.place(deadline).await?;
        let open = move |_: &Arc<BlobSpace>| {
            let entries = fs::read_dir(&path).map_err(|error| BlobError::NoContainer.absent(&error))?;
            Ok(vec![(entries, String::new())])
        };
        let walk = space.run(deadline, open).await?;
        Ok(Self { space: Arc::clone(space), walk: Some(walk), _place: place })
    }

    /// Returns the next names, at most `most` and [`MAX_NAMES`], and whether these were the last.
    ///
    /// # Errors
    /// Those of every operation. Another listing must be begun then.
    pub async fn next(&mut self, most: usize, deadline: Instant) -> Result<(Vec<String>, bool), BlobError> {
        let lost = BlobError::Invalid { what: "the listing", problem: "has failed: begin another" };
        let mut walk = self.walk.take().ok_or(lost)?;
        let read = move |_: &Arc<BlobSpace>| {
            let names = page(&mut walk, most.min(MAX_NAMES))?;
            Ok((names, walk))
        };
        let (names, walk) = self.space.run(deadline, read).await?;
        let ended = walk.is_empty();
        self.walk = Some(walk);
        Ok((names, ended))
    }
}

fn page(walk: &mut Walk, most: usize) -> Result<Vec<String>, BlobError> {
    let mut names = Vec::new();
    while names.len() < most {
        let Some((entries, before)) = walk.last_mut() else { break };
        let Some(entry) = entries.next() else {
            walk.pop();
            continue;
        };
        let entry = entry?;
        let file = entry.file_name();
        // A name that is no text belongs to no object.
        let Some(file) = file.to_str() else { continue };
        if let Some(part) = path::continued(file) {
            let encoded = format!("{before}{part}");
            match fs::read_dir(entry.path()) {
                Ok(entries) => walk.push((entries, encoded)),
                // Its last object was deleted just now.
                Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {}
                Err(error) => return Err(error.into()),
            }
        } else if let Some(name) = name_of(&format!("{before}{file}")) {
            names.push(name);
        }
    }
    Ok(names)
}
