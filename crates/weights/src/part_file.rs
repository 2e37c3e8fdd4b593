//! A download that is not complete yet. It outlives the process, and the next one continues it.

use engraft_tensor::{WriteError, sync_folder};
use std::fs::{self, File, TryLockError};
use std::io::{self, Seek, Write};
use std::path::{Path, PathBuf};

use same_file::Handle;
use sha2::{Digest, Sha256};

/// The file `<destination>.part`, which this process alone writes: it is locked, until it is dropped or the
/// process ends in whatever way.
///
/// A file without content is removed when dropped.
pub(crate) struct PartFile {
    file: File,
    path: PathBuf,
    destination: PathBuf,
    length: u64,
    hasher: Sha256,
}

impl PartFile {
    /// Opens the part file of `destination` with what an earlier run left in it, or creates it.
    ///
    /// When another process has it, calls `waits` and waits for that one to end. `None` when `destination` is
    /// there by then.
    pub(crate) fn open(destination: &Path, waits: impl FnMut()) -> Result<Option<Self>, WriteError> {
        let mut name = destination.as_os_str().to_os_string();
        name.push(".part");
        let path = PathBuf::from(name);
        let failed = |error| WriteError::new(destination, error);
        let file = lock(&path, waits).map_err(failed)?;
        let mut part =
            Self { file, path, destination: destination.to_path_buf(), length: 0, hasher: Sha256::new() };
        if destination.is_file() {
            return Ok(None);
        }
        part.length = io::copy(&mut part.file, &mut part.hasher).map_err(failed)?;
        Ok(Some(part))
    }

    /// The name that the file gets when it is complete.
    pub(crate) fn destination(&self) -> &Path {
        &self.destination
    }

    /// How many bytes there are.
    pub(crate) fn len(&self) -> u64 {
        self.length
    }

    /// The SHA-256 of all bytes, in hexadecimal.
    pub(crate) fn sha256(&self) -> String {
        format!("{:x}", self.hasher.clone().finalize())
    }

    pub(crate) fn append(&mut self, bytes: &[u8]) -> Result<(), WriteError> {
        self.file.write_all(bytes).map_err(|error| WriteError::new(&self.destination, error))?;
        self.hasher.update(bytes);
        self.length += bytes.len() as u64;
        Ok(())
    }

    /// Deletes the content.
    pub(crate) fn restart(&mut self) -> Result<(), WriteError> {
        let result = self.file.set_len(0).and_then(|()| self.file.rewind());
        result.map_err(|error| WriteError::new(&self.destination, error))?;
        self.hasher.reset();
        self.length = 0;
        Ok(())
    }

    /// Syncs the file and gives it its name.
    pub(crate) fn commit(self) -> Result<(), WriteError> {
        let finish = || {
            self.file.sync_all()?;
            fs::rename(&self.path, &self.destination)?;
            sync_folder(&self.destination)
        };
        finish().map_err(|error| WriteError::new(&self.destination, error))
    }
}

impl Drop for PartFile {
    fn drop(&mut self) {
        if self.length == 0 {
            // If that fails an empty file stays, which does no harm.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Opens the file at `path` and locks it.
fn lock(path: &Path, mut waits: impl FnMut()) -> io::Result<File> {
    loop {
        let file = File::options().read(true).write(true).create(true).truncate(false).open(path)?;
        match file.try_lock() {
            // An error means that this file system has no locks: two processes at once would write the same bytes
            // to the same places.
            Ok(()) | Err(TryLockError::Error(_)) => {}
            Err(TryLockError::WouldBlock) => {
                waits();
                file.lock()?;
            }
        }
        // The process that had the lock may have renamed or removed the file.
        let ours = Handle::from_file(file.try_clone()?)?;
        if Handle::from_path(path).is_ok_and(|there| there == ours) {
            return Ok(file);
        }
    }
}
