//! A disk that loses what was not synced.
//!
//! It is a VFS of SQLite, installed as the default one, that passes everything to the system's. Beside that it keeps an image
//! of every file as it is on the disk for certain, and the writes since the last sync, of which a power cut leaves any: each
//! may be on the disk, in any order, whole or only some of its sectors. The cut takes the images at one moment, and makes
//! files of them in another directory.

#![allow(unsafe_code, reason = "a VFS is a table of C functions, and SQLite calls it with raw pointers")]

use std::collections::{HashMap, HashSet};
use std::ffi::{CStr, c_char, c_int, c_void};
use std::path::{Path, PathBuf};
use std::ptr;
use std::sync::{Mutex, MutexGuard, OnceLock};

use rusqlite::ffi::{self, sqlite3_file, sqlite3_int64, sqlite3_io_methods, sqlite3_vfs};

/// Bytes that a disk writes as a whole.
const SECTOR: usize = 512;

/// A change of a file that was not synced.
enum Unsynced {
    Write { at: usize, bytes: Vec<u8> },
    Truncate(usize),
}

/// A file on the disk.
#[derive(Default)]
struct Image {
    /// Its content at the last sync.
    synced: Vec<u8>,
    unsynced: Vec<Unsynced>,
    /// Whether it is certain that the directory has it: after the first sync.
    linked: bool,
}

impl Image {
    fn apply(content: &mut Vec<u8>, change: &Unsynced, mut keep: impl FnMut() -> bool) {
        match change {
            Unsynced::Truncate(length) => content.truncate(*length),
            Unsynced::Write { at, bytes } => {
                for (number, sector) in bytes.chunks(SECTOR).enumerate() {
                    let begin = at + number * SECTOR;
                    if keep() {
                        content.resize(content.len().max(begin + sector.len()), 0);
                        content[begin..begin + sector.len()].copy_from_slice(sector);
                    }
                }
            }
        }
    }

    fn sync(&mut self) {
        for change in std::mem::take(&mut self.unsynced) {
            Image::apply(&mut self.synced, &change, || true);
        }
        self.linked = true;
    }
}

static IMAGES: OnceLock<Mutex<HashMap<PathBuf, Image>>> = OnceLock::new();
static SYSTEM: OnceLock<System> = OnceLock::new();
/// Directories in which nothing can be written.
static FULL: OnceLock<Mutex<HashSet<PathBuf>>> = OnceLock::new();

fn images() -> MutexGuard<'static, HashMap<PathBuf, Image>> {
    IMAGES.get_or_init(Mutex::default).lock().unwrap()
}

/// The system's VFS.
struct System {
    vfs: *mut sqlite3_vfs,
}

// SAFETY: SQLite's own VFS lives as long as the process, and may be called by all threads.
unsafe impl Send for System {}
// SAFETY: as above.
unsafe impl Sync for System {}

/// The disk.
#[derive(Clone, Copy)]
pub(crate) struct Disk(());

impl Disk {
    /// Makes all databases of this process live on the disk.
    pub(crate) fn install() -> Disk {
        static INSTALLED: OnceLock<Disk> = OnceLock::new();
        *INSTALLED.get_or_init(Disk::register)
    }

    fn register() -> Disk {
        // SAFETY: the default VFS exists and is never freed; the copy of its table lives as long as the process, and differs
        // only in name, size of files, and two functions of the same type.
        unsafe {
            let vfs = ffi::sqlite3_vfs_find(ptr::null());
            assert!(SYSTEM.set(System { vfs }).is_ok(), "installed twice");
            let mut ours = *vfs;
            ours.szOsFile += size_of::<File>() as c_int;
            ours.zName = c"power".as_ptr();
            ours.pNext = ptr::null_mut();
            ours.xOpen = Some(open);
            ours.xDelete = Some(delete);
            assert_eq!(ffi::sqlite3_vfs_register(Box::leak(Box::new(ours)), 1), ffi::SQLITE_OK);
        }
        Disk(())
    }

    /// Lets writes in `directory` fail, or succeed again.
    pub(crate) fn fill(self, directory: &Path, full: bool) {
        let mut all = FULL.get_or_init(Mutex::default).lock().unwrap();
        let directory = directory.canonicalize().unwrap();
        let _ = if full { all.insert(directory) } else { all.remove(&directory) };
    }

    /// Cuts the power: writes the files of `from` as the disk may have them now to `to`, and forgets them.
    pub(crate) fn cut(self, from: &Path, to: &Path, seed: u64) {
        let from = from.canonicalize().unwrap();
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let mut images = images();
        let paths: Vec<_> = images.keys().filter(|path| path.parent() == Some(&from)).cloned().collect();
        for path in paths {
            let mut image = images.remove(&path).unwrap();
            // An early cut leaves little, and most cuts something.
            let share = [0, 50, 90, 100][random.below(4)];
            let mut content = std::mem::take(&mut image.synced);
            let mut changed = false;
            for change in &image.unsynced {
                if random.below(100) < share {
                    changed = true;
                    let whole = random.below(4) > 0;
                    Image::apply(&mut content, change, || whole || random.below(2) == 0);
                }
            }
            if image.linked || changed {
                std::fs::write(to.join(path.file_name().unwrap()), content).unwrap();
            }
        }
    }
}

/// Random numbers (xorshift), the same in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }
}

/// An open file; the system's follows it in memory.
#[repr(C)]
struct File {
    methods: *const sqlite3_io_methods,
    /// Its name, if it has an image.
    path: *mut PathBuf,
}

/// The system's file of one of ours.
///
/// # Safety
/// `file` must be one that [`open`] has opened.
unsafe fn real(file: *mut sqlite3_file) -> *mut sqlite3_file {
    // SAFETY: SQLite allocates `szOsFile` bytes, which is the size of both, and `File` has the alignment of the other.
    unsafe { file.cast::<File>().add(1).cast() }
}

/// Changes the image of a file, if it has one.
///
/// # Safety
/// As [`real`].
unsafe fn record(file: *mut sqlite3_file, change: impl FnOnce(&mut Image)) {
    // SAFETY: `path` is null or from `Box::into_raw`, and freed by `close` only.
    let path = unsafe { (*file.cast::<File>()).path.as_ref() };
    // Without an image, the power is off.
    if let Some(path) = path
        && let Some(image) = images().get_mut(path)
    {
        change(image);
    }
}

unsafe extern "C" fn open(
    _: *mut sqlite3_vfs,
    name: *const c_char,
    file: *mut sqlite3_file,
    flags: c_int,
    out: *mut c_int,
) -> c_int {
    let system = SYSTEM.get().unwrap().vfs;
    // SAFETY: called by SQLite with a valid name or null, and memory for both files.
    unsafe {
        let result = (*system).xOpen.unwrap()(system, name, real(file), flags, out);
        let ours = file.cast::<File>();
        (*ours).methods = if (*real(file)).pMethods.is_null() { ptr::null() } else { &METHODS };
        (*ours).path = ptr::null_mut();
        let kept = ffi::SQLITE_OPEN_MAIN_DB | ffi::SQLITE_OPEN_WAL | ffi::SQLITE_OPEN_MAIN_JOURNAL;
        if result == ffi::SQLITE_OK && flags & kept != 0 && !name.is_null() {
            let path = PathBuf::from(CStr::from_ptr(name).to_str().unwrap());
            // What was there before was synced long ago.
            let load = || {
                let synced = std::fs::read(&path).unwrap_or_default();
                Image { linked: !synced.is_empty(), synced, unsynced: Vec::new() }
            };
            images().entry(path.clone()).or_insert_with(load);
            (*ours).path = Box::into_raw(Box::new(path));
        }
        result
    }
}

unsafe extern "C" fn delete(_: *mut sqlite3_vfs, name: *const c_char, sync: c_int) -> c_int {
    let system = SYSTEM.get().unwrap().vfs;
    // SAFETY: called by SQLite with a valid name.
    unsafe {
        images().remove(Path::new(CStr::from_ptr(name).to_str().unwrap()));
        (*system).xDelete.unwrap()(system, name, sync)
    }
}

unsafe extern "C" fn close(file: *mut sqlite3_file) -> c_int {
    // SAFETY: `open` has made the path, and this is its end.
    unsafe {
        let path = (*file.cast::<File>()).path;
        if !path.is_null() {
            drop(Box::from_raw(path));
        }
        (*(*real(file)).pMethods).xClose.unwrap()(real(file))
    }
}

unsafe extern "C" fn write(file: *mut sqlite3_file, data: *const c_void, size: c_int, at: sqlite3_int64) -> c_int {
    // SAFETY: SQLite gives `size` bytes at `data`.
    unsafe {
        let path = (*file.cast::<File>()).path.as_ref();
        if path.is_some_and(|path| FULL.get_or_init(Mutex::default).lock().unwrap().contains(path.parent().unwrap())) {
            return ffi::SQLITE_FULL;
        }
        let bytes = std::slice::from_raw_parts(data.cast::<u8>(), size as usize).to_vec();
        record(file, |image| image.unsynced.push(Unsynced::Write { at: at as usize, bytes }));
        (*(*real(file)).pMethods).xWrite.unwrap()(real(file), data, size, at)
    }
}

unsafe extern "C" fn truncate(file: *mut sqlite3_file, size: sqlite3_int64) -> c_int {
    // SAFETY: a file of `open`.
    unsafe {
        record(file, |image| image.unsynced.push(Unsynced::Truncate(size as usize)));
        (*(*real(file)).pMethods).xTruncate.unwrap()(real(file), size)
    }
}

/// Syncs the image only. The real file need not survive anything.
unsafe extern "C" fn sync(file: *mut sqlite3_file, _: c_int) -> c_int {
    // SAFETY: a file of `open`.
    unsafe { record(file, Image::sync) };
    ffi::SQLITE_OK
}

/// Functions that only pass their arguments on.
macro_rules! pass {
    ($($function:ident = $method:ident($($argument:ident: $type:ty),*) $(-> $result:ty)?;)*) => {
        $(
            unsafe extern "C" fn $function(file: *mut sqlite3_file, $($argument: $type),*) $(-> $result)? {
                // SAFETY: a file of `open`, and the arguments of SQLite.
                unsafe { (*(*real(file)).pMethods).$method.unwrap()(real(file), $($argument),*) }
            }
        )*
    };
}

pass! {
    read = xRead(data: *mut c_void, size: c_int, at: sqlite3_int64) -> c_int;
    file_size = xFileSize(size: *mut sqlite3_int64) -> c_int;
    lock = xLock(level: c_int) -> c_int;
    unlock = xUnlock(level: c_int) -> c_int;
    check_reserved_lock = xCheckReservedLock(result: *mut c_int) -> c_int;
    file_control = xFileControl(operation: c_int, argument: *mut c_void) -> c_int;
    sector_size = xSectorSize() -> c_int;
    device_characteristics = xDeviceCharacteristics() -> c_int;
    shm_map = xShmMap(page: c_int, size: c_int, extend: c_int, out: *mut *mut c_void) -> c_int;
    shm_lock = xShmLock(offset: c_int, count: c_int, flags: c_int) -> c_int;
    shm_barrier = xShmBarrier();
    shm_unmap = xShmUnmap(remove: c_int) -> c_int;
}

static METHODS: sqlite3_io_methods = sqlite3_io_methods {
    // Without memory-mapped reads.
    iVersion: 2,
    xClose: Some(close),
    xRead: Some(read),
    xWrite: Some(write),
    xTruncate: Some(truncate),
    xSync: Some(sync),
    xFileSize: Some(file_size),
    xLock: Some(lock),
    xUnlock: Some(unlock),
    xCheckReservedLock: Some(check_reserved_lock),
    xFileControl: Some(file_control),
    xSectorSize: Some(sector_size),
    xDeviceCharacteristics: Some(device_characteristics),
    xShmMap: Some(shm_map),
    xShmLock: Some(shm_lock),
    xShmBarrier: Some(shm_barrier),
    xShmUnmap: Some(shm_unmap),
    xFetch: None,
    xUnfetch: None,
};
