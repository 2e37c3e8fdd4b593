//! What can go wrong, in sentences for a user.

use std::path::PathBuf;

use engraft_data::DataError;
use engraft_engine::EngineError;
use engraft_graph::GraphError;
use engraft_train::{LARGEST_SIDE, TrainError};
use engraft_weights::WeightsError;
use engraft_zoo::{SizeError, UnknownArchitecture};
use thiserror::Error;

/// Why something cannot be done.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// No architecture of this name.
    #[error(transparent)]
    Architecture(#[from] UnknownArchitecture),
    /// The architecture cannot take images of this size.
    #[error(transparent)]
    Size(#[from] SizeError),
    /// The network cannot be what is asked.
    #[error(transparent)]
    Graph(#[from] GraphError),
    /// The engine cannot do what is asked.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// Weights cannot be found, read or matched.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// The photos cannot be read as a dataset.
    #[error(transparent)]
    Data(#[from] DataError),
    /// Training, a checkpoint, or a run.
    #[error(transparent)]
    Train(#[from] TrainError),
    /// An architecture whose weights nobody has published.
    #[error("no published weights of {architecture} are known; name a weights file of your own")]
    NoPublishedWeights {
        /// torchvision's name.
        architecture: String,
    },
    /// Neither a file nor the name of published weights.
    #[error(
        "the weights {weights}: there is no such file, and no such published weights of {architecture}, which are: {known}"
    )]
    UnknownWeights {
        /// As given.
        weights: String,
        /// torchvision's name.
        architecture: String,
        /// The names of those that are published.
        known: String,
    },
    /// Images of a size that no checkpoint may ask for.
    #[error("images of {size} pixels a side are too large; {LARGEST_SIDE} are the most")]
    TooLarge {
        /// As given.
        size: u32,
    },
    /// Auxiliary heads that cannot be trained.
    #[error("{0}")]
    AuxiliaryHeads(&'static str),
    /// A training configuration that cannot be read.
    #[error("{}: {reason}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A run whose options are others now.
    #[error(
        "the options are not those that the run {} began with: {difference}. It cannot end as it would have; leave them away, begin a \
         new run, or force this one to go on with them",
        run.display()
    )]
    OptionsChanged {
        /// The folder of the run.
        run: PathBuf,
        /// What has changed.
        difference: String,
    },
    /// The result cannot be written where it was to be.
    #[error("{error}. The trained network is not lost: it is in {}", best.display())]
    NotWritten {
        /// Why not.
        error: String,
        /// The checkpoint in the run's folder.
        best: PathBuf,
    },
}
