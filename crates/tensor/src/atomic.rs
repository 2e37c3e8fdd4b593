//! Files that appear whole or not at all.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

/// Why a file could not be written. The old file, if there was one, is untouched, and nothing else is left
/// behind.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {}: {}", path.display(), reason(path, source))]
pub struct WriteError {
    /// The file that was to be written.
    pub path: PathBuf,
    /// What the operating system said.
    pub source: io::Error,
}

impl WriteError {
    /// An error of writing `path`.
    pub fn new(path: &Path, source: io::Error) -> Self {
        Self { path: path.to_path_buf(), source }
    }
}

fn reason(path: &Path, source: &io::Error) -> String {
    let folder = folder_of(path).display();
    match source.kind() {
        io::ErrorKind::StorageFull => "the disk is full".to_string(),
        io::ErrorKind::QuotaExceeded => "the disk quota is used up".to_string(),
        io::ErrorKind::PermissionDenied => format!("no permission to write in {folder}"),
        io::ErrorKind::ReadOnlyFilesystem => format!("{folder} is on a read-only file system"),
        io::ErrorKind::NotFound => format!("the folder {folder} does not exist"),
        _ => source.to_string(),
    }
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    }
}

/// Writes the file `path` so that it is there whole or, after an error or a crash at any moment, as it was
/// before.
///
/// `write` fills a file of a temporary name in the same folder. When it returns `Ok`, the file is synced to
/// the disk and renamed to `path`, and the folder is synced; when it fails, the temporary file is removed.
///
/// ```
/// use std::io::Write;
///
/// let folder = tempfile::tempdir()?;
/// let path = folder.path().join("classes.txt");
/// engraft_tensor::write_atomically(&path, |file| writeln!(file, "ants\nbees"))?;
/// assert_eq!(std::fs::read_to_string(&path)?, "ants\nbees\n");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn write_atomically(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<&File>) -> io::Result<()>,
) -> Result<(), WriteError> {
    let file = AtomicFile::create(path)?;
    let mut writer = BufWriter::new(file.file());
    write(&mut writer).and_then(|()| writer.flush()).map_err(|error| WriteError::new(path, error))?;
    drop(writer);
    file.commit()
}

/// Whether a file could be written here: worth knowing before hours of work whose result goes there.
///
/// # Errors
/// As [`write_atomically`] would fail, but for a disk that fills up.
pub fn check_writable(path: &Path) -> Result<(), WriteError> {
    AtomicFile::create(path).map(drop)
}

/// A file under a temporary name beside its place, removed when dropped unless [`commit`](Self::commit)ted.
pub(crate) struct AtomicFile {
    temporary: NamedTempFile,
    path: PathBuf,
}

impl AtomicFile {
    /// Creates the temporary file, of a name that no other process has, in the folder of `path`.
    pub(crate) fn create(path: &Path) -> Result<Self, WriteError> {
        let mut builder = tempfile::Builder::new();
        builder.prefix(".engraft-").suffix(".part");
        // Private by default, as files in /tmp should be. This one gets the permissions that a new file has.
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        let temporary = builder
            .tempfile_in(folder_of(path))
            .map_err(|error| WriteError::new(path, without_path(error)))?;
        Ok(Self { temporary, path: path.to_path_buf() })
    }

    /// What is written.
    pub(crate) fn file(&self) -> &File {
        self.temporary.as_file()
    }

    /// Syncs the file and gives it its name.
    pub(crate) fn commit(self) -> Result<(), WriteError> {
        let Self { temporary, path } = self;
        let finish = || {
            temporary.as_file().sync_all()?;
            temporary.persist(&path).map_err(|error| error.error)?;
            sync_folder(&path)
        };
        finish().map_err(|error| WriteError::new(&path, error))
    }
}

/// Makes the new name of the file `of` survive a power failure.
///
/// # Errors
/// When its folder cannot be opened or synced.
#[cfg(unix)]
pub fn sync_folder(of: &Path) -> io::Result<()> {
    File::open(folder_of(of))?.sync_all()
}

/// Nothing needs to be done here.
#[cfg(not(unix))]
pub fn sync_folder(_: &Path) -> io::Result<()> {
    Ok(())
}

/// The error as the operating system gave it: `tempfile` adds the temporary name, which says nothing to a
/// user.
fn without_path(error: io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(code) => io::Error::from_raw_os_error(code),
        None => error.kind().into(),
    }
}
