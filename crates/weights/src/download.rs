//! Published weights: found in a cache, or downloaded into one.

use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::atomic::AtomicFile;
use crate::{WeightsError, WeightsFolders, WriteError};

/// How long a server may take to accept a connection, and to begin its answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// A weights file that somebody published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Where it can be downloaded.
    pub url: String,
    /// Its name in PyTorch's cache and in ours: `resnet18-f37072fd.pth`.
    pub file_name: String,
    /// The first hexadecimal digits of its SHA-256, in lower case: `f37072fd`.
    pub sha256_prefix: String,
}

/// The file of `source` in the folders that the environment names; see [`WeightsFolders::find_or_download`].
pub fn find_or_download(
    source: &Source,
    progress: impl FnMut(u64, Option<u64>),
) -> Result<PathBuf, WeightsError> {
    WeightsFolders::from_env().find_or_download(source, progress)
}

impl WeightsFolders {
    /// The file of `source`: from PyTorch's cache, else from Engraft's, else downloaded into Engraft's.
    ///
    /// `progress` is called while bytes arrive, with their number so far and, where the server says so, in
    /// total; and not at all for a file that is there already. A download is checked against the published
    /// hash once, before it gets its name. A file that is there is taken as it is: both caches hold complete
    /// downloads only, and reading detects one that somebody cut short.
    ///
    /// # Errors
    /// When the file can neither be downloaded nor written, and when what arrived has another hash.
    pub fn find_or_download(
        &self,
        source: &Source,
        progress: impl FnMut(u64, Option<u64>),
    ) -> Result<PathBuf, WeightsError> {
        let ours = self.engraft.join(&source.file_name);
        if let Some(found) =
            [self.torch.join(&source.file_name), ours.clone()].into_iter().find(|path| path.is_file())
        {
            return Ok(found);
        }
        fs::create_dir_all(&self.engraft).map_err(|error| WriteError::new(&ours, error))?;
        download(source, &ours, progress)?;
        Ok(ours)
    }
}

fn download(
    source: &Source,
    destination: &Path,
    progress: impl FnMut(u64, Option<u64>),
) -> Result<(), WeightsError> {
    let failed = |reason: String| WeightsError::Download {
        url: source.url.clone(),
        reason,
        destination: destination.to_path_buf(),
    };
    let config = ureq::Agent::config_builder()
        .timeout_connect(Some(PATIENCE))
        .timeout_recv_response(Some(PATIENCE))
        .build();
    let response = config.new_agent().get(&source.url).call().map_err(|error| failed(reason(&error)))?;
    let total = response.body().content_length();

    let mut file = AtomicFile::create(destination)?;
    let mut body = response.into_body().into_reader();
    let digest = match copy(&mut body, &mut file, total, progress) {
        Ok(digest) => digest,
        Err(CopyError::Receive(error)) => return Err(failed(format!("the connection broke off ({error})"))),
        Err(CopyError::Store(error)) => return Err(WriteError::new(destination, error).into()),
    };
    let actual: String = digest.chars().take(source.sha256_prefix.len()).collect();
    if actual != source.sha256_prefix {
        return Err(WeightsError::WrongHash {
            url: source.url.clone(),
            expected: source.sha256_prefix.clone(),
            actual,
            destination: destination.to_path_buf(),
        });
    }
    Ok(file.commit()?)
}

/// Which side of a copy failed.
enum CopyError {
    Receive(io::Error),
    Store(io::Error),
}

/// Copies all of `from`, and returns the SHA-256 in hexadecimal.
fn copy(
    from: &mut impl Read,
    to: &mut impl Write,
    total: Option<u64>,
    mut progress: impl FnMut(u64, Option<u64>),
) -> Result<String, CopyError> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 128 << 10];
    let mut so_far = 0;
    loop {
        let count = match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(CopyError::Receive(error)),
        };
        hasher.update(&buffer[..count]);
        to.write_all(&buffer[..count]).map_err(CopyError::Store)?;
        so_far += count as u64;
        progress(so_far, total);
    }
    Ok(format!("{:x}", hasher.finalize()))
}

fn reason(error: &ureq::Error) -> String {
    match error {
        ureq::Error::StatusCode(404) => "the server has no such file (HTTP 404)".to_string(),
        ureq::Error::StatusCode(code) => format!("the server answered with HTTP status {code}"),
        ureq::Error::Timeout(_) => format!("the server did not answer within {} seconds", PATIENCE.as_secs()),
        ureq::Error::Io(error) => error.to_string(),
        error => error.to_string(),
    }
}
