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
    #[error("cannot use the cache folder {}: {source}; choose another with the variable ENGRAFT_CACHE, or keep no features", path.display())]
    Cache {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Training went astray before any epoch was done.
    #[error("{0}")]
    Diverged(String),
    /// Nothing to do.
    #[error("0 epochs train nothing; ask for at least one")]
    NoEpochs,
    /// A class whose images are all unusable, or a split without usable images.
    #[error("no usable image is left {0}")]
    NoImages(String),
    /// Images that cannot be used, where all must be usable.
    #[error(
        "{count} images cannot be used (the first is {first}); repair or remove them, or leave them out by being less strict"
    )]
    Strict {
        /// How many.
        count: usize,
        /// Path and reason of the first.
        first: String,
    },
    /// Stopped by the user before training began; features that were computed are kept.
    #[error("stopped before training began; the features that were computed until then are kept")]
    Stopped,
    /// No file where a checkpoint should be.
    #[error("the checkpoint {} does not exist", path.display())]
    MissingCheckpoint {
        /// The path as it was given.
        path: PathBuf,
    },
    /// A file that this program did not write.
    #[error(
        "{} is no checkpoint of engraft: a weights file needs its architecture to be named beside it",
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
    /// A folder that holds a run already.
    #[error("there is a run in {} already: go on with it, or choose another name", path.display())]
    RunExists {
        /// The folder.
        path: PathBuf,
    },
    /// A folder that holds no run.
    #[error("there is no run in {}: a run's folder holds a config.toml", path.display())]
    NoRun {
        /// The folder.
        path: PathBuf,
    },
    /// A run that another process has.
    #[error("another process is working on the run {}: wait for it, or stop it", path.display())]
    RunInUse {
        /// The folder.
        path: PathBuf,
    },
    /// A file of a run that cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    UnreadableRun {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file of a run that is there, but not as it was written.
    #[error("{} is damaged ({reason}): delete it, and the run begins anew from what is left", path.display())]
    DamagedRun {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A run whose photos are others now.
    #[error(
        "the photos have changed since the run {} began: {changes}. It cannot end as it would have; begin a new run, or force this one \
         to go on with the photos as they are",
        path.display()
    )]
    PhotosChanged {
        /// The folder of the run.
        path: PathBuf,
        /// What has changed.
        changes: String,
    },
    /// Copies of a photo under several labels.
    #[error(
        "{count} photos are there under several labels, the first of them as {first}: correct the labels, or be less strict"
    )]
    Contradicting {
        /// How many contents.
        count: usize,
        /// The copies of the first one.
        first: String,
    },
    /// A head that L-BFGS cannot find.
    #[error(
        "L-BFGS finds linear heads on frozen networks alone: for hidden layers, or where more than the head is trained, use Adam"
    )]
    NotLinear,
    /// Features that L-BFGS would have to compute in every pass.
    #[error(
        "the features are not kept, because they are large or there is no room for them, and L-BFGS reads them many times: use Adam"
    )]
    NotKept,
    /// The solver for linear heads.
    #[error(transparent)]
    Solver(#[from] engraft_solver::SolverError),
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

    pub(crate) fn run(path: &Path, source: io::Error) -> Self {
        Self::UnreadableRun { path: path.into(), source }
    }

    pub(crate) fn describe(error: serde_json::Error) -> Self {
        Self::Description(error.to_string())
    }
}
