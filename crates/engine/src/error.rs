//! Why an engine cannot do what it is asked.

use engraft_graph::GraphError;
use thiserror::Error;

/// Why an engine cannot do what it is asked.
#[derive(Debug, Clone, PartialEq, Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The network cannot run on such an input.
    #[error(transparent)]
    Graph(#[from] GraphError),
    /// A tensor of the network is missing, or has another shape.
    #[error("the network needs the tensor `{name}` of shape {needed:?}, but {found}")]
    State {
        /// Full name.
        name: String,
        /// The shape that the graph says.
        needed: Vec<usize>,
        /// What there is in its place.
        found: String,
    },
    /// Labels that do not belong to the batch.
    #[error("{0}")]
    Labels(String),
    /// A device that is not there.
    #[error("{0}")]
    Device(String),
}
