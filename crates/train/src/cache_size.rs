//! How much of the disk features may take, and which of them go first.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::segment::lock_if_possible;

/// Where features are kept, and how many of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheSettings {
    /// The program's cache folder, which need not exist.
    pub folder: PathBuf,
    /// How many bytes all features may take; `None` for a share of the disk ([`default_cache_size`]).
    pub limit_bytes: Option<u64>,
}

/// What the cache may take where the system does not say how much of the disk is free.
const UNKNOWN_DISK: u64 = 20 << 30;

/// How much features may take unless the user says otherwise, in bytes: a quarter of what is free on the disk of the cache folder `root`
/// and what they take already.
pub fn default_cache_size(root: &Path) -> u64 {
    let held = disk_usage(&features_folder(root)).map_or(0, |(_, bytes)| bytes);
    free_disk(root).map_or(UNKNOWN_DISK, |free| (free + held) / 4)
}

/// How much of the disk of a folder, which need not exist, is free for the user, in bytes; `None` where the system does not say.
pub fn free_disk(folder: &Path) -> Option<u64> {
    #[cfg(unix)]
    {
        let folder = std::path::absolute(folder).ok()?;
        let disk = folder.ancestors().find_map(|folder| rustix::fs::statvfs(folder).ok())?;
        Some(disk.f_bavail * disk.f_frsize)
    }
    #[cfg(not(unix))]
    {
        let _ = folder;
        None
    }
}

/// Where the program's cache folder keeps features.
pub fn features_folder(root: &Path) -> PathBuf {
    root.join("features")
}

/// Where the program's cache folder keeps what it knows of photos.
pub fn index_folder(root: &Path) -> PathBuf {
    root.join("index")
}

/// Number of files and bytes below a folder; none for a folder that is not there.
///
/// # Errors
/// When a folder below it cannot be read.
pub fn disk_usage(folder: &Path) -> io::Result<(usize, u64)> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((0, 0)),
        entries => entries?,
    };
    let mut total = (0, 0);
    for entry in entries {
        let entry = entry?;
        let (files, bytes) = match entry.file_type()?.is_dir() {
            true => disk_usage(&entry.path())?,
            // One that another process has just deleted takes nothing.
            false => (1, entry.metadata().map_or(0, |metadata| metadata.len())),
        };
        total = (total.0 + files, total.1 + bytes);
    }
    Ok(total)
}

/// What is deleted as a whole: the files of one segment, or a shard of an earlier version.
struct Unit {
    files: Vec<PathBuf>,
    bytes: u64,
    last_use: SystemTime,
}

/// Deletes features until all together take no more than `bound` bytes: those first that were not used for the longest time, and none
/// that a running process uses. Returns what the others take.
///
/// # Errors
/// When a folder cannot be read.
pub fn evict(features: &Path, bound: u64) -> io::Result<u64> {
    let mut units = units(features)?;
    let mut held: u64 = units.iter().map(|unit| unit.bytes).sum();
    units.sort_by_key(|unit| unit.last_use);
    for unit in units {
        if held <= bound {
            break;
        }
        if unit.delete() {
            held -= unit.bytes;
        }
    }
    Ok(held)
}

fn units(features: &Path) -> io::Result<Vec<Unit>> {
    let mut units: HashMap<PathBuf, Unit> = HashMap::new();
    let folders = match fs::read_dir(features) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        folders => folders?,
    };
    for folder in folders {
        let folder = folder?;
        if !folder.file_type()?.is_dir() {
            continue;
        }
        for entry in fs::read_dir(folder.path())? {
            let entry = entry?;
            let path = entry.path();
            let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
            // What else lies here is not ours to delete. Safetensors files are of an earlier version.
            if !["lock", "rows", "keys", "safetensors"].contains(&extension) {
                continue;
            }
            let Ok(metadata) = entry.metadata() else { continue };
            let unit = units.entry(path.with_extension("")).or_insert_with(|| Unit {
                files: Vec::new(),
                bytes: 0,
                last_use: SystemTime::UNIX_EPOCH,
            });
            unit.bytes += metadata.len();
            unit.last_use = unit.last_use.max(metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH));
            unit.files.push(path);
        }
    }
    Ok(units.into_values().collect())
}

impl Unit {
    /// Returns false for one that is in use.
    fn delete(&self) -> bool {
        let is_lock = |path: &&PathBuf| path.extension().is_some_and(|extension| extension == "lock");
        let lock = self.files.iter().find(is_lock).map(File::open);
        match &lock {
            Some(Ok(lock)) if lock_if_possible(lock).is_ok() => {}
            None => {}
            _ => return false,
        }
        // The lock goes last, and is held until then.
        let (locks, others): (Vec<_>, Vec<_>) = self.files.iter().partition(is_lock);
        others.into_iter().chain(locks).all(|path| fs::remove_file(path).is_ok())
    }
}
