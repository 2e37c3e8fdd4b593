//! Why an engine cannot do what it is asked.

use engraft_graph::GraphError;
use thiserror::Error;

use crate::memory::bytes_in_words;

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
    /// An operation that the engine does not have.
    #[error("{node} has no kernel in this engine")]
    NoKernel {
        /// Its module and operation, as [`Node::describe`](engraft_graph::Node::describe) says.
        node: String,
    },
    /// A graph whose values fit together for the input that it was designed for, and in another way for this one.
    #[error(
        "{node} pairs values of other shapes than in the network's own images; give it images of {input:?}"
    )]
    OtherShapes {
        /// Its module and operation.
        node: String,
        /// The network's own input, without the batch.
        input: Vec<usize>,
    },
    /// A device that is not there.
    #[error("{0}")]
    Device(String),
    /// A training in which nothing would change.
    #[error("there is nothing to train: no parameter that leads to the network's output is to change")]
    NothingTrains,
    /// A number of a training that is out of its range.
    #[error("{0}")]
    Setting(String),
    /// Targets that do not belong to the batch.
    #[error("{0}")]
    Targets(String),
    /// A batch norm that would have to normalise single values.
    #[error(
        "the batch norm `{module}` would see one value a channel in this batch, which has no variance: train on more images at a \
         time, leave the last batch away if it is of one image, or let this norm keep its running statistics"
    )]
    SingleValue {
        /// Module path.
        module: String,
    },
    /// An update without a batch before it.
    #[error("there are no gradients to update by: no batch has been run since the last update")]
    NoGradients,
    /// A gradient that holds NaN or infinity.
    #[error(
        "the gradient of `{parameter}` is no finite number: the learning rate may be too high, or an input not finite"
    )]
    NotFinite {
        /// Full name.
        parameter: String,
    },
    /// A group of parameters that no rate was given for.
    #[error("`{parameter}` is in group {group}, but there are rates for {rates} groups only")]
    NoRate {
        /// Full name of a parameter of the group.
        parameter: String,
        /// From 0.
        group: usize,
        /// How many rates there are.
        rates: usize,
    },
    /// A training that needs more memory than it may take.
    #[error(
        "training on batches of {batch} images needs at least {} of memory, but may take {}: train on smaller batches, or allow more \
         with --memory",
        bytes_in_words(*needed),
        bytes_in_words(*limit)
    )]
    Memory {
        /// Images in a batch.
        batch: usize,
        /// The fewest bytes that it could do with.
        needed: u64,
        /// The bytes that it may take.
        limit: u64,
    },
    /// A snapshot that is none, or is of another training.
    #[error("this snapshot of a training cannot be used: {0}")]
    Snapshot(String),
}
