//! Why a file of tensors cannot be read, in sentences for a user.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Why a file of tensors cannot be read, or its values cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// No file at the path.
    #[error("the weights file {} does not exist", path.display())]
    Missing {
        /// The path as it was given.
        path: PathBuf,
    },
    /// The operating system refused to open or read the file.
    #[error("cannot read the weights file {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// A file of zero bytes.
    #[error("the weights file {} is empty: delete it and fetch it again", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// Neither safetensors nor PyTorch.
    #[error(
        "{} is no weights file: it begins with `{beginning}`. Expected is a .safetensors file or a .pth file written by torch.save; \
         a download that failed may have saved a web page in its place",
        path.display()
    )]
    NotWeights {
        /// The file.
        path: PathBuf,
        /// The first characters of the file's first line, or its first bytes in hexadecimal when they are no
        /// text.
        beginning: String,
    },
    /// The beginning is that of a weights file, the rest is not.
    #[error("the weights file {} is damaged or cut short ({reason}): delete it and fetch it again", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What the reader met, in its words.
        reason: String,
    },
    /// A tensor of integers, booleans or 8-bit floats, for example.
    #[error("{}: tensor `{tensor}` has the type {dtype}; f16, bf16, f32, f64 and i64 can be read", path.display())]
    UnsupportedType {
        /// The file.
        path: PathBuf,
        /// Name of the tensor.
        tensor: String,
        /// Its element type.
        dtype: String,
    },
    /// Weights that make every output NaN.
    #[error(
        "the weights file {} contains {count} values that are NaN or infinite, the first of them in tensor `{tensor}`: \
         the training that wrote it diverged, or the file is damaged",
        path.display()
    )]
    NotFinite {
        /// The file.
        path: PathBuf,
        /// The first tensor that holds such a value.
        tensor: String,
        /// How many such values the file holds.
        count: usize,
    },
}

impl ReadError {
    /// The operating system's error of opening or reading `path`.
    pub fn from_system(path: &Path, source: io::Error) -> Self {
        let path = path.to_path_buf();
        match source.kind() {
            io::ErrorKind::NotFound => Self::Missing { path },
            _ => Self::Read { path, source },
        }
    }

    /// An error in the middle of a file. One that contradicts itself has these kinds, the operating system's
    /// errors have others.
    pub fn in_file(path: &Path, error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidInput => {
                Self::damaged(path, error)
            }
            _ => Self::from_system(path, error),
        }
    }

    /// A file that begins well and then contradicts itself.
    pub fn damaged(path: &Path, reason: impl ToString) -> Self {
        Self::Damaged { path: path.to_path_buf(), reason: reason.to_string() }
    }

    /// A file of another kind, which begins with these bytes.
    pub fn not_weights(path: &Path, beginning: &[u8]) -> Self {
        let line: String = String::from_utf8_lossy(beginning)
            .trim_start()
            .lines()
            .next()
            .unwrap_or_default()
            .chars()
            .take(40)
            .collect();
        let is_text =
            !line.is_empty() && !line.contains(|c: char| c == char::REPLACEMENT_CHARACTER || c.is_control());
        let hexadecimal =
            || beginning.iter().take(8).map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ");
        let beginning = if is_text { line } else { hexadecimal() };
        Self::NotWeights { path: path.to_path_buf(), beginning }
    }
}

/// The first `count` bytes of a file, or all of a shorter one.
///
/// # Errors
/// When it is missing or cannot be read.
pub fn first_bytes(path: &Path, count: u64) -> Result<Vec<u8>, ReadError> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(count).read_to_end(&mut bytes))
        .map_err(|error| ReadError::from_system(path, error))?;
    Ok(bytes)
}
