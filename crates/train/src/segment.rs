//! A part of the feature store: rows in the order in which they were computed.
//!
//! On disk it is three files. `NAME.rows` is a matrix of f32, row after row, and nothing else. `NAME.keys` says for each row what the photo's file hashes
//! to, and has a checksum of the row. `NAME.lock` is empty: whoever uses rows holds a shared lock on it, whoever appends or deletes an exclusive one; the time of
//! its last change is that of the last use. Rows are written before their keys, so that a process may be killed at any moment: what is there
//! of a row without a key, or of a key, is cut off by the next one that appends. Nothing is synced: what a power failure takes, the checksums tell.
//!
//! Rows are read by position and not from a memory map (docs/decisions.md has the figures): a file that is cut short or a disk that
//! fails is an error and not the end of the process, and pages of the system's cache do not count as the process's memory.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{OnceLock, PoisonError, RwLock};
use std::time::SystemTime;

use engraft_data::{ContentHash, Notes};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::index::{bits, notes_of};

/// Bytes of a key: the hash of the photo's file, the checksum of the row, the photo's notes, nothing.
const KEY: usize = 48;

/// What is known of a row beside its values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RowKey {
    pub(crate) hash: ContentHash,
    pub(crate) check: u64,
    pub(crate) notes: Notes,
}

impl RowKey {
    pub(crate) fn new(hash: ContentHash, notes: Notes, row: &[f32]) -> RowKey {
        RowKey { hash, check: check(&hash, notes, row), notes }
    }

    /// Whether these are the values that the key was made for.
    pub(crate) fn fits(&self, row: &[f32]) -> bool {
        check(&self.hash, self.notes, row) == self.check
    }

    fn bytes(&self) -> [u8; KEY] {
        let mut bytes = [0; KEY];
        bytes[..32].copy_from_slice(&self.hash);
        bytes[32..40].copy_from_slice(&self.check.to_le_bytes());
        bytes[40] = bits(self.notes);
        bytes
    }

    fn from_bytes(bytes: &[u8; KEY]) -> RowKey {
        let mut key = RowKey { hash: [0; 32], check: 0, notes: notes_of(bytes[40]) };
        key.hash.copy_from_slice(&bytes[..32]);
        let mut check = [0; 8];
        check.copy_from_slice(&bytes[32..40]);
        key.check = u64::from_le_bytes(check);
        key
    }
}

fn check(hash: &ContentHash, notes: Notes, row: &[f32]) -> u64 {
    xxh3_64_with_seed(bytemuck::cast_slice(row), prefix(hash) ^ u64::from(bits(notes)))
}

/// The beginning of a hash, by which a row is found.
pub(crate) fn prefix(hash: &ContentHash) -> u64 {
    let mut prefix = [0; 8];
    prefix.copy_from_slice(&hash[..8]);
    u64::from_le_bytes(prefix)
}

/// Some rows of `width` values each.
pub(crate) enum Segment {
    /// In the cache folder.
    Kept(KeptSegment),
    /// In a file without a name, which ends with the process.
    Temporary { rows: File, keys: RwLock<Vec<RowKey>>, width: usize },
    /// In memory.
    Memory { rows: RwLock<Vec<f32>>, keys: RwLock<Vec<RowKey>>, width: usize },
}

impl Segment {
    /// Fills `values`, whole rows, with those from `row` on.
    ///
    /// # Errors
    /// When they cannot be read, or are not there.
    pub(crate) fn read(&self, row: u32, values: &mut [f32]) -> io::Result<()> {
        let read = |file: &File, width: usize, values: &mut [f32]| {
            read_at(file, bytemuck::cast_slice_mut(values), row_offset(row, width))
        };
        match self {
            Segment::Kept(segment) => {
                let files = segment.files().ok_or(io::ErrorKind::NotFound)?;
                read(&files.rows, segment.width, values)
            }
            Segment::Temporary { rows, width, .. } => read(rows, *width, values),
            Segment::Memory { rows, width, .. } => {
                let rows = rows.read().unwrap_or_else(PoisonError::into_inner);
                let from = rows.get(row as usize * width..).and_then(|rows| rows.get(..values.len()));
                values.copy_from_slice(from.ok_or(io::ErrorKind::UnexpectedEof)?);
                Ok(())
            }
        }
    }

    /// Asks the system to read rows ahead, where it can be asked.
    pub(crate) fn will_need(&self, row: u32, rows: usize) {
        #[cfg(target_os = "linux")]
        if let Segment::Kept(segment) = self
            && let Some(files) = segment.files()
            && let Some(bytes) = std::num::NonZeroU64::new((rows * segment.width * size_of::<f32>()) as u64)
        {
            let advice = rustix::fs::Advice::WillNeed;
            // Nothing is lost where it is refused.
            let _ = rustix::fs::fadvise(&files.rows, row_offset(row, segment.width), Some(bytes), advice);
        }
        #[cfg(not(target_os = "linux"))]
        let _ = (row, rows);
    }

    /// What is known of a row.
    pub(crate) fn key(&self, row: u32) -> Option<RowKey> {
        match self {
            Segment::Kept(segment) => {
                let mut bytes = [0; KEY];
                read_at(&segment.files()?.keys, &mut bytes, key_offset(row)).ok()?;
                Some(RowKey::from_bytes(&bytes))
            }
            Segment::Temporary { keys, .. } | Segment::Memory { keys, .. } => {
                keys.read().unwrap_or_else(PoisonError::into_inner).get(row as usize).copied()
            }
        }
    }
}

/// A segment in the cache folder. Its files are opened when a row is first asked for.
pub(crate) struct KeptSegment {
    /// The files' common path, without extension.
    stem: PathBuf,
    /// Values in a row.
    pub(crate) width: usize,
    files: OnceLock<Option<Files>>,
}

struct Files {
    rows: File,
    keys: File,
    lock: File,
}

impl KeptSegment {
    /// The segment of a file of keys.
    pub(crate) fn new(keys: &Path, width: usize) -> KeptSegment {
        KeptSegment { stem: keys.with_extension(""), width, files: OnceLock::new() }
    }

    /// How many rows there are.
    ///
    /// # Errors
    /// When the files are gone.
    pub(crate) fn count(&self) -> io::Result<u32> {
        let rows = fs::metadata(self.path("rows"))?.len() / row_offset(1, self.width).max(1);
        let keys = fs::metadata(self.path("keys"))?.len() / key_offset(1);
        Ok(u32::try_from(rows.min(keys)).unwrap_or(u32::MAX))
    }

    /// The rows that are not forgotten, with the beginnings of their hashes, as [`prefix`] gives them.
    ///
    /// # Errors
    /// When the files are gone.
    pub(crate) fn prefixes(&self) -> io::Result<Vec<(u64, u32)>> {
        let count = self.count()?;
        let keys = fs::read(self.path("keys"))?;
        let (keys, _) = keys.as_chunks::<KEY>();
        let known = (0..count).zip(keys).filter(|(_, key)| **key != [0; KEY]);
        Ok(known.map(|(row, key)| (prefix(&RowKey::from_bytes(key).hash), row)).collect())
    }

    /// Makes a row unknown, whose values are not what they were.
    pub(crate) fn forget(&self, row: u32) {
        if let Some(files) = self.files() {
            // Where it may not be written it is found damaged again.
            let _ = write_at(&files.keys, &[0; KEY], key_offset(row));
        }
    }

    /// The open files, locked against deletion; `None` when they are gone.
    fn files(&self) -> Option<&Files> {
        let open = || {
            let lock = open_for_both(&self.path("lock")).ok()?;
            // Who appends holds it exclusively, and then nobody can delete the segment either.
            let _ = lock.try_lock_shared();
            let files = Files {
                rows: open_for_both(&self.path("rows")).ok()?,
                keys: open_for_both(&self.path("keys")).ok()?,
                lock,
            };
            // In a folder that may not be written nothing is evicted.
            let _ = files.lock.set_modified(SystemTime::now());
            Some(files)
        };
        self.files.get_or_init(open).as_ref()
    }

    fn path(&self, extension: &str) -> PathBuf {
        self.stem.with_extension(extension)
    }
}

impl KeptSegment {
    /// Makes a new segment in a folder, to be appended to by this process alone.
    ///
    /// # Errors
    /// When the disk is full, or the folder may not be written.
    pub(crate) fn create(folder: &Path, width: usize) -> io::Result<KeptSegment> {
        let mut name = tempfile::Builder::new();
        name.prefix("").suffix(".lock").rand_bytes(16);
        // Private by default, as files in /tmp should be. These are no more secret than others of the user.
        #[cfg(unix)]
        name.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        let (lock, path) = name.tempfile_in(folder)?.keep().map_err(|error| error.error)?;
        let segment = KeptSegment::new(&path, width);
        let created = lock_if_possible(&lock).and_then(|()| {
            let create = |extension| {
                OpenOptions::new().read(true).write(true).create_new(true).open(segment.path(extension))
            };
            // Keys come last: by them a segment is found.
            Ok(Files { rows: create("rows")?, keys: create("keys")?, lock })
        });
        match created {
            Ok(files) => {
                let _ = segment.files.set(Some(files));
                Ok(segment)
            }
            Err(error) => {
                segment.delete();
                Err(error)
            }
        }
    }

    /// Locks the segment so that rows can be appended, unless another process uses it; returns how many rows there are. What was
    /// written of others is cut off.
    pub(crate) fn begin_appending(&self) -> Option<u32> {
        let files = self.files()?;
        // On some systems a lock is not changed while it is held.
        let _ = files.lock.unlock();
        let count = lock_if_possible(&files.lock).ok().and_then(|()| {
            let count = self.count().ok()?;
            self.cut(files, count).ok()?;
            Some(count)
        });
        if count.is_none() {
            self.end_appending();
        }
        count
    }

    /// Appends a row behind the `count` that there are.
    ///
    /// # Errors
    /// When the disk is full: nothing has changed then.
    pub(crate) fn append(&self, count: u32, key: &RowKey, row: &[f32]) -> io::Result<()> {
        let files = self.files().ok_or(io::ErrorKind::NotFound)?;
        let written = write_at(&files.rows, bytemuck::cast_slice(row), row_offset(count, self.width))
            .and_then(|()| write_at(&files.keys, &key.bytes(), key_offset(count)));
        if written.is_err() {
            self.cut(files, count)?;
        }
        written
    }

    /// Lets others use the segment too.
    pub(crate) fn end_appending(&self) {
        if let Some(files) = self.files() {
            let _ = files.lock.unlock();
            // Who was faster is about to append, or to delete what stays readable here.
            let _ = files.lock.try_lock_shared();
        }
    }

    /// Deletes the files.
    pub(crate) fn delete(&self) {
        for extension in ["keys", "rows", "lock"] {
            // What cannot be deleted is found by the next eviction.
            let _ = fs::remove_file(self.path(extension));
        }
    }

    fn cut(&self, files: &Files, count: u32) -> io::Result<()> {
        files.keys.set_len(key_offset(count))?;
        files.rows.set_len(row_offset(count, self.width))
    }
}

/// Locks a file for this process alone, where the file system has locks.
///
/// # Errors
/// When another process has locked it.
pub(crate) fn lock_if_possible(file: &File) -> io::Result<()> {
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
        Err(TryLockError::Error(error)) if error.kind() != io::ErrorKind::Unsupported => Err(error),
        _ => Ok(()),
    }
}

/// For reading and, if it may be, writing.
fn open_for_both(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(path).or_else(|_| File::open(path))
}

#[cfg(unix)]
fn read_at(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, bytes, offset)
}

#[cfg(windows)]
fn read_at(file: &File, mut bytes: &mut [u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, bytes, offset)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => {
                bytes = &mut bytes[read..];
                offset += read as u64;
            }
        }
    }
    Ok(())
}

#[cfg(unix)]
pub(crate) fn write_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, bytes, offset)
}

#[cfg(windows)]
pub(crate) fn write_at(file: &File, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match std::os::windows::fs::FileExt::seek_write(file, bytes, offset)? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            written => {
                bytes = &bytes[written..];
                offset += written as u64;
            }
        }
    }
    Ok(())
}

/// Where a row begins, in bytes.
pub(crate) fn row_offset(row: u32, width: usize) -> u64 {
    u64::from(row) * (width * size_of::<f32>()) as u64
}

fn key_offset(row: u32) -> u64 {
    u64::from(row) * KEY as u64
}
