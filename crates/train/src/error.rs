//! What can go wrong between a folder of images and a checkpoint.

use std::io;
use std::path::{Path, PathBuf};

use engraft_engine::EngineError;
use engraft_graph::GraphError;
use engraft_tensor::{ReadError, WriteError};
use thiserror::Error;

/// Why features could not be computed, a network not be trained, or a checkpoint not be read.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TrainError {
    /// The network cannot be what is asked.
    #[error(transparent)]
    Graph(#[from] GraphError),
    /// The engine cannot do what is asked.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A file of tensors cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A file cannot be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// A photo that could be used before cannot be used any more.
    #[error("{0}")]
    Lost(String),
    /// The cache folder.
    #[error("cannot use the cache folder {}: {source}; choose another with the variable ENGRAFT_CACHE, or run with --no-cache", path.display())]
    Cache {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Training went astray.
    #[error(
        "the loss is no number any more in epoch {epoch}: the learning rate {learning_rate} is too high; try a tenth of it"
    )]
    Diverged {
        /// From 1.
        epoch: usize,
        /// As given.
        learning_rate: f64,
    },
    /// Nothing to do.
    #[error("0 epochs train nothing; ask for at least one")]
    NoEpochs,
    /// A class whose images are all unusable, or a split without usable images.
    #[error("no usable image is left {0}")]
    NoImages(String),
    /// Images that cannot be used, where all must be usable.
    #[error(
        "{count} images cannot be used (the first is {first}); repair or remove them, or run without --strict to leave them out"
    )]
    Strict {
        /// How many.
        count: usize,
        /// Path and reason of the first.
        first: String,
    },
    /// Stopped by the user before anything was worth keeping.
    #[error("stopped before the first epoch was done, so that there is no network to save yet")]
    Stopped,
    /// No file where a checkpoint should be.
    #[error("the checkpoint {} does not exist", path.display())]
    MissingCheckpoint {
        /// The path as it was given.
        path: PathBuf,
    },
    /// A file that this program did not write.
    #[error(
        "{} is no checkpoint of engraft; a weights file is used with `--arch ARCH --weights FILE`",
        path.display()
    )]
    NoCheckpoint {
        /// The file.
        path: PathBuf,
    },
    /// A checkpoint of another version.
    #[error(
        "{} is a checkpoint of format {found}, and this version of engraft reads format {known}: use the version that \
         wrote it, or train again",
        path.display()
    )]
    CheckpointVersion {
        /// The file.
        path: PathBuf,
        /// The file's format.
        found: String,
        /// What this version reads.
        known: u32,
    },
    /// A checkpoint whose description or tensors cannot be read.
    #[error("the checkpoint {} is damaged or cut short ({reason}): copy it again, or train again", path.display())]
    DamagedCheckpoint {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A description that cannot be written as JSON.
    #[error("the network cannot be described in JSON: {0}")]
    Description(String),
}

impl TrainError {
    pub(crate) fn cache(path: &Path, source: io::Error) -> Self {
        Self::Cache { path: path.into(), source }
    }

    /// An error of reading a checkpoint, which is no weights file to its user.
    pub(crate) fn read(path: &Path, error: ReadError) -> Self {
        let path = path.into();
        match error {
            ReadError::Missing { .. } => Self::MissingCheckpoint { path },
            ReadError::NotWeights { .. } => Self::NoCheckpoint { path },
            ReadError::Empty { .. } => Self::DamagedCheckpoint { path, reason: "it is empty".into() },
            ReadError::Damaged { reason, .. } => Self::DamagedCheckpoint { path, reason },
            other => other.into(),
        }
    }

    pub(crate) fn describe(error: serde_json::Error) -> Self {
        Self::Description(error.to_string())
    }
}
