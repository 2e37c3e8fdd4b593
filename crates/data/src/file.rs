//! An image file as the disk holds it: read once, whole, within bounds, and remembered by what it was.

use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::path::Path;
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};

use crate::error::ImageError;

/// The BLAKE3 hash of a file's bytes: what names a picture, wherever it lies.
pub type ContentHash = [u8; 32];

/// The largest file that is read, in bytes: what [`MAX_PIXELS`](crate::MAX_PIXELS) pixels of 24 bits need
/// without any compression.
pub const MAX_FILE_BYTES: u64 = 512 << 20;

/// How often a file that is being written is read again.
const ATTEMPTS: usize = 3;

/// What tells, without reading a file, that it is still the one that was read: Git's index goes by the same.
///
/// The device is left out, because its number may change with every mount. A file that is rewritten in its
/// place with as many bytes and within one tick of the file system's clock (some milliseconds; 2 s on FAT)
/// keeps its stamp.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FileStamp {
    /// In bytes.
    pub size: u64,
    /// When it was last written, in nanoseconds since 1970; 0 where the system does not tell.
    pub mtime_ns: i64,
    /// Its number in its file system; 0 where there are none (Windows).
    pub inode: u64,
}

impl FileStamp {
    /// The stamp of what lies at `path` now, by one `stat`; symbolic links are followed.
    ///
    /// # Errors
    /// When there is nothing, or nothing that is a regular file.
    pub fn of(path: &Path) -> Result<FileStamp, ImageError> {
        let metadata =
            std::fs::metadata(path).map_err(|source| ImageError::Read { path: path.into(), source })?;
        if !metadata.is_file() {
            return Err(ImageError::NotAFile { path: path.into() });
        }
        Ok(FileStamp::from(&metadata))
    }
}

impl From<&Metadata> for FileStamp {
    fn from(metadata: &Metadata) -> FileStamp {
        #[cfg(unix)]
        let inode = std::os::unix::fs::MetadataExt::ino(metadata);
        #[cfg(not(unix))]
        let inode = 0;
        let nanoseconds = |time: std::time::SystemTime| match time.duration_since(UNIX_EPOCH) {
            Ok(after) => i64::try_from(after.as_nanos()).ok(),
            Err(before) => i64::try_from(before.duration().as_nanos()).ok().map(|before| -before),
        };
        let mtime_ns = metadata.modified().ok().and_then(nanoseconds).unwrap_or(0);
        FileStamp { size: metadata.len(), mtime_ns, inode }
    }
}

/// All bytes of a file, and the stamp that they belong to.
///
/// What is no regular file is not opened: a pipe would wait for a writer.
pub(crate) fn read(path: &Path) -> Result<(Vec<u8>, FileStamp), ImageError> {
    let failed = |source| ImageError::Read { path: path.into(), source };
    for _ in 0..ATTEMPTS {
        let stamp = FileStamp::of(path)?;
        if stamp.size > MAX_FILE_BYTES {
            return Err(ImageError::FileTooLarge { path: path.into(), bytes: stamp.size });
        }
        if let Some(bytes) = read_unchanged(path, stamp).map_err(failed)? {
            return Ok((bytes, stamp));
        }
    }
    Err(ImageError::Changing { path: path.into() })
}

/// `None` when the file is not, before and after, the one of the stamp.
fn read_unchanged(path: &Path, stamp: FileStamp) -> io::Result<Option<Vec<u8>>> {
    let file = File::open(path)?;
    if FileStamp::from(&file.metadata()?) != stamp {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    // One byte more than there should be, so that the buffer does not grow at the end of the file.
    bytes.try_reserve_exact(stamp.size as usize + 1)?;
    (&file).take(stamp.size + 1).read_to_end(&mut bytes)?;
    let unchanged = bytes.len() as u64 == stamp.size && FileStamp::from(&file.metadata()?) == stamp;
    Ok(unchanged.then_some(bytes))
}
