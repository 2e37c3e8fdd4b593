//! What can go wrong with weights, in sentences for a user.

use std::path::PathBuf;

use engraft_tensor::{ReadError, WriteError};

use crate::matching::Mismatch;

/// Why weights could not be read, matched, found or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WeightsError {
    /// The file cannot be read, or its values cannot be used.
    #[error(transparent)]
    Read(#[from] ReadError),
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
    /// Readable, but not the tensors that the network needs.
    #[error(transparent)]
    Mismatch(#[from] Mismatch),
    /// A file could not be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// No network, no such file on the server, or a connection that broke.
    #[error(
        "cannot download {url}: {reason}. Fetch it elsewhere and put it at {}, or name a weights file of your own",
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
         try again, or fetch the file elsewhere and put it at {}, or name a weights file of your own",
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
