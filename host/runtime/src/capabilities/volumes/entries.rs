//! The entries of a directory, as many as the host keeps for a guest.

use std::fs::File;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rustix::fs::{AtFlags, Dir, FileType, statat};
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, spawn_blocking};
use wasmtime::StoreContextMut;
use wasmtime::component::{Destination, StreamProducer, StreamResult, VecBuffer};
use wasmtime_wasi::p3::bindings::filesystem::types::{DescriptorType, DirectoryEntry, ErrorCode};

use super::super::Ctx;

/// The most entries of a directory that guests can list.
const MOST: usize = 10_000;

/// Why a directory cannot be listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ListingProblem {
    /// It is a file.
    NoDirectory,
    /// It has more than [`MOST`] entries.
    TooMany,
    /// The name of an entry is not UTF-8.
    Name,
    /// It cannot be read.
    Disk,
}

/// Counts the entries of a directory, up to [`MOST`].
pub(super) async fn count(directory: Arc<File>) -> Result<usize, ListingProblem> {
    spawn_blocking(move || read(&directory, |_, _| Ok(())).map(|entries| entries.len()))
        .await
        .unwrap_or(Err(ListingProblem::Disk))
}

/// Reads a directory, without `.` and `..`. Waits for the disk.
fn read<T>(
    directory: &File,
    entry: impl Fn(&File, &rustix::fs::DirEntry) -> Result<T, ListingProblem>,
) -> Result<Vec<T>, ListingProblem> {
    let mut entries = Vec::new();
    for found in Dir::read_from(directory).map_err(|_| ListingProblem::Disk)? {
        let found = found.map_err(|_| ListingProblem::Disk)?;
        if matches!(found.file_name().to_bytes(), b"." | b"..") {
            continue;
        }
        if entries.len() >= MOST {
            return Err(ListingProblem::TooMany);
        }
        entries.push(entry(directory, &found)?);
    }
    Ok(entries)
}

fn described(directory: &File, entry: &rustix::fs::DirEntry) -> Result<DirectoryEntry, ListingProblem> {
    let name = entry.file_name().to_str().map_err(|_| ListingProblem::Name)?.to_owned();
    // Some file systems do not say.
    let kind = match entry.file_type() {
        FileType::Unknown => statat(directory, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW)
            .map_or(FileType::Unknown, |stat| FileType::from_raw_mode(stat.st_mode)),
        known => known,
    };
    let type_ = match kind {
        FileType::RegularFile => DescriptorType::RegularFile,
        FileType::Directory => DescriptorType::Directory,
        FileType::Symlink => DescriptorType::SymbolicLink,
        FileType::Fifo => DescriptorType::Fifo,
        FileType::Socket => DescriptorType::Socket,
        FileType::CharacterDevice => DescriptorType::CharacterDevice,
        FileType::BlockDevice => DescriptorType::BlockDevice,
        _ => DescriptorType::Other(None),
    };
    Ok(DirectoryEntry { type_, name })
}

/// The entries of a directory, which a 0.3 guest takes from a stream. It is read when the guest does, and not after the guest has
/// dropped the stream.
pub(super) struct DirectoryEntries {
    /// `None` for a file.
    directory: Option<Arc<File>>,
    reading: Option<JoinHandle<Result<Vec<DirectoryEntry>, ListingProblem>>>,
    /// Receives the result.
    ended: Option<oneshot::Sender<Result<(), ErrorCode>>>,
}

impl DirectoryEntries {
    /// The entries of a directory. `None` is a file.
    pub(super) fn read(directory: Option<Arc<File>>) -> (Self, oneshot::Receiver<Result<(), ErrorCode>>) {
        let (ended, end) = oneshot::channel();
        (Self { directory, reading: None, ended: Some(ended) }, end)
    }

    /// Begins to read.
    ///
    /// # Errors
    /// If it is a file, or the request has listed as much as it may. As many entries as there can be are taken from what it may
    /// list; those that there are not are given back.
    fn begin(
        &mut self,
        ctx: &mut Ctx,
    ) -> Result<&mut JoinHandle<Result<Vec<DirectoryEntry>, ListingProblem>>, ListingProblem> {
        let directory = self.directory.take().ok_or(ListingProblem::NoDirectory)?;
        ctx.entries_left = ctx.entries_left.checked_sub(MOST).ok_or(ListingProblem::TooMany)?;
        Ok(self.reading.insert(spawn_blocking(move || read(&directory, described))))
    }

    fn end(&mut self, result: Result<(), ListingProblem>) {
        if let Some(ended) = self.ended.take() {
            // The guest may have dropped the future.
            let _ = ended.send(result.map_err(ErrorCode::from));
        }
    }
}

impl Drop for DirectoryEntries {
    fn drop(&mut self) {
        // Without effect if it has begun.
        self.reading.iter().for_each(JoinHandle::abort);
    }
}

impl StreamProducer<Ctx> for DirectoryEntries {
    type Item = DirectoryEntry;
    type Buffer = VecBuffer<DirectoryEntry>;

    fn poll_produce<'a>(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut store: StoreContextMut<'a, Ctx>,
        mut destination: Destination<'a, Self::Item, Self::Buffer>,
        finish: bool,
    ) -> Poll<wasmtime::Result<StreamResult>> {
        let this = &mut *self;
        if this.ended.is_none() {
            return Poll::Ready(Ok(StreamResult::Dropped));
        }
        let begun = match &mut this.reading {
            Some(_) => Ok(()),
            None => this.begin(store.data_mut()).map(drop),
        };
        let (Ok(()), Some(reading)) = (begun, &mut this.reading) else {
            this.end(begun);
            return Poll::Ready(Ok(StreamResult::Dropped));
        };
        let read = match Pin::new(reading).poll(cx) {
            Poll::Ready(read) => read.unwrap_or(Err(ListingProblem::Disk)),
            Poll::Pending if finish => return Poll::Ready(Ok(StreamResult::Cancelled)),
            Poll::Pending => return Poll::Pending,
        };
        this.reading = None;
        let count = read.as_ref().map_or(0, Vec::len);
        store.data_mut().entries_left += MOST.saturating_sub(count);
        this.end(read.map(|entries| destination.set_buffer(entries.into())));
        Poll::Ready(Ok(StreamResult::Dropped))
    }
}
