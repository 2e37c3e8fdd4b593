//! Which file it is, by its content.

use std::fs::File;
use std::io;
use std::path::Path;

use engraft_tensor::ReadError;
use sha2::{Digest, Sha256};

/// The SHA-256 of all bytes of a file, in lower-case hexadecimal: what published weights are known by, as a file's name
/// proves nothing. A renamed file is still the published one, and another under its name is not.
///
/// # Errors
/// When the file is missing or cannot be read.
pub fn sha256_of(path: &Path) -> Result<String, ReadError> {
    let mut hasher = Sha256::new();
    File::open(path)
        .and_then(|mut file| io::copy(&mut file, &mut hasher))
        .map_err(|error| ReadError::from_system(path, error))?;
    Ok(format!("{:x}", hasher.finalize()))
}
