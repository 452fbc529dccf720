//! Directories of the host that guests see, as wasi:filesystem has them in 0.2 and 0.3. What a path in them leads to, and what is
//! read-only, is wasmtime's to decide.
//!
//! Two functions are replaced. `get-directories` gives handles of directories that were opened when the version was deployed: a
//! sandbox opens none, which might wait for the disk. `read-directory` is bounded: wasmtime's has no bound in 0.2, and in 0.3
//! it occupies a thread for as long as the guest does not read.

mod entries;

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use wasmtime::component::{FutureReader, Linker, Resource, StreamReader};
use wasmtime_wasi::filesystem::{Descriptor, Dir, WasiFilesystemView};
use wasmtime_wasi::p2::ReaddirIterator;
use wasmtime_wasi::p2::bindings::filesystem::types as types_02;
use wasmtime_wasi::p2::bindings::filesystem::types::HostDescriptor;
use wasmtime_wasi::p3::bindings::filesystem::types as types_03;
use wasmtime_wasi::{FsPerms, OpenMode};

use super::denied::deny;
use super::logged_denials::Denial;
use super::{Ctx, GuestCall};
use entries::{DirectoryEntries, ListingProblem, count};

/// The most entries that all listings of one request may have: about 10 MiB, with names of usual length.
pub(super) const REQUEST: usize = 100_000;

/// The directories that the manifest of a version grants.
pub struct GrantedVolumes {
    /// Each with the path at which guests see it.
    directories: Vec<(Dir, String)>,
    /// The paths of those that guests may write to, which whoever opened them knows for as long as they may.
    _written: Vec<Arc<Path>>,
}

impl GrantedVolumes {
    /// Grants open directories, each with the path at which guests see it and, if they may write to it, its own path.
    pub fn new(directories: Vec<(File, String, Option<Arc<Path>>)>) -> Self {
        let written = directories.iter().filter_map(|(.., written)| written.clone()).collect();
        let volume = |(directory, at, written): (File, String, Option<Arc<Path>>)| {
            let (permissions, mode) = match written {
                Some(_) => (FsPerms::ReadWrite, OpenMode::READ | OpenMode::WRITE),
                None => (FsPerms::ReadOnly, OpenMode::READ),
            };
            // Nothing blocks the thread that polls the guest.
            (Dir::new(directory, permissions, mode, false), at)
        };
        Self { directories: directories.into_iter().map(volume).collect(), _written: written }
    }
}

/// Replaces functions of WASI 0.2 in the linker, by their newest names, which also match older imports.
pub(super) fn link_02(linker: &mut Linker<Ctx>) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    linker.instance("wasi:filesystem/preopens@0.2.12")?.func_wrap("get-directories", directories)?;
    linker.instance("wasi:filesystem/types@0.2.12")?.func_wrap_async(
        "[method]descriptor.read-directory",
        |mut caller: GuestCall<'_>, (of,): (Resource<Descriptor>,)| {
            Box::new(async move {
                let entries = match caller.data().table.get(&of)? {
                    Descriptor::Dir(directory) => count(Arc::clone(&directory.dir)).await,
                    Descriptor::File(_) => Err(ListingProblem::NoDirectory),
                };
                if let Err(problem) = entries {
                    return Ok((Err::<Resource<ReaddirIterator>, _>(types_02::ErrorCode::from(problem)),));
                }
                // The listing stays in memory until the guest drops it.
                let Some(left) = caller.data().entries_left.checked_sub(entries.unwrap_or(0)) else {
                    return Ok((Err(ListingProblem::TooMany.into()),));
                };
                caller.data_mut().entries_left = left;
                let listing = caller.data_mut().filesystem().read_directory(of).await;
                Ok((match listing {
                    Ok(listing) => Ok(listing),
                    Err(error) => Err(error.downcast()?),
                },))
            })
        },
    )?;
    linker.allow_shadowing(false);
    Ok(())
}

/// Replaces functions of WASI 0.3 in the linker.
pub(super) fn link_03(linker: &mut Linker<Ctx>) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    linker.instance("wasi:filesystem/preopens@0.3.0")?.func_wrap("get-directories", directories)?;
    linker.instance("wasi:filesystem/types@0.3.0")?.func_wrap(
        "[method]descriptor.read-directory",
        |mut caller: GuestCall<'_>, (of,): (Resource<Descriptor>,)| {
            let directory = match caller.data().table.get(&of)? {
                Descriptor::Dir(directory) => Some(Arc::clone(&directory.dir)),
                Descriptor::File(_) => None,
            };
            let (entries, end) = DirectoryEntries::read(directory);
            let stream = StreamReader::new(&mut caller, entries)?;
            let end = FutureReader::new(&mut caller, async { Ok::<_, wasmtime::Error>(end.await.unwrap_or(Ok(()))) })?;
            Ok(((stream, end),))
        },
    )?;
    linker.allow_shadowing(false);
    Ok(())
}

/// Handles of directories, with the paths at which a guest sees them.
type Directories = Vec<(Resource<Descriptor>, String)>;

/// Makes handles of all directories that the guest may see.
fn directories(mut caller: GuestCall<'_>, (): ()) -> wasmtime::Result<(Directories,)> {
    let ctx = caller.data_mut();
    let Some(volumes) = ctx.volumes.clone() else {
        deny(&ctx.sandbox, Denial::Files);
        return Ok((Vec::new(),));
    };
    let handle =
        |(directory, at): &(Dir, String)| Ok((ctx.table.push(Descriptor::Dir(directory.clone()))?, at.clone()));
    Ok((volumes.directories.iter().map(handle).collect::<wasmtime::Result<_>>()?,))
}

/// What both versions of WASI call a problem of a directory.
macro_rules! error_code {
    ($types:ident) => {
        impl From<ListingProblem> for $types::ErrorCode {
            fn from(problem: ListingProblem) -> Self {
                match problem {
                    ListingProblem::NoDirectory => Self::NotDirectory,
                    ListingProblem::TooMany => Self::InsufficientMemory,
                    ListingProblem::Name => Self::IllegalByteSequence,
                    ListingProblem::Disk => Self::Io,
                }
            }
        }
    };
}

error_code!(types_02);
error_code!(types_03);
