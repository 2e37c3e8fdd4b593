//! What can go wrong with weights, in sentences for a user.

use std::io;
use std::path::PathBuf;

use crate::atomic::WriteError;
use crate::matching::Mismatch;

/// Why weights could not be read, matched, found or written.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
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
    /// A PyTorch file that holds something else than named tensors.
    #[error(
        "{} holds no state dict ({reason}). Save one with torch.save(model.state_dict(), ...); other Python objects are not loaded, \
         and no code in a weights file is ever run",
        path.display()
    )]
    NotStateDict {
        /// The file.
        path: PathBuf,
        /// What was found instead.
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
    /// Readable, but not the tensors that the network needs.
    #[error(transparent)]
    Mismatch(#[from] Mismatch),
    /// A file could not be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// No network, no such file on the server, or a connection that broke.
    #[error(
        "cannot download {url}: {reason}. Fetch it elsewhere and put it at {}, or name a weights file with --weights FILE",
        destination.display()
    )]
    Download {
        /// Where the file was to come from.
        url: String,
        /// What happened.
        reason: String,
        /// Where Engraft looks for the file.
        destination: PathBuf,
    },
    /// The download is complete, but is not the file that was published.
    #[error(
        "what {url} sent is not the file that was published: its SHA-256 begins with {actual}, expected is {expected}. It was deleted; \
         try again, or fetch the file elsewhere and put it at {}, or name a weights file with --weights FILE",
        destination.display()
    )]
    WrongHash {
        /// Where the file came from.
        url: String,
        /// The first digits of the published SHA-256.
        expected: String,
        /// As many digits of what arrived.
        actual: String,
        /// Where Engraft looks for the file.
        destination: PathBuf,
    },
}
