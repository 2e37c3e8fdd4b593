//! What can be wrong with a network, or with what is asked of it.

use thiserror::Error;

/// Why a network cannot be built, run or cut as asked.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum GraphError {
    /// An operation cannot take its input.
    #[error("{node} needs an input {needs}, but gets {found}: {reason}")]
    Shape {
        /// Module path and operation.
        node: String,
        /// The shape or the property that it needs.
        needs: String,
        /// The shape or shapes that it gets.
        found: String,
        /// Why it needs that.
        reason: String,
    },
    /// A path that names no module.
    #[error("the network has no module `{path}`; the nearest name is `{nearest}`")]
    NoSuchModule {
        /// As given.
        path: String,
        /// The module whose path is most like it.
        nearest: String,
    },
    /// A module that the output does not depend on.
    #[error("the module `{path}` takes no part in computing the output")]
    UnusedModule {
        /// As given.
        path: String,
    },
    /// A module whose output is no value of its own, as a projection within an attention.
    #[error("`{path}` is computed as a part of `{whole}`; name that module instead")]
    PartOfModule {
        /// As given.
        path: String,
        /// The module that is computed as one.
        whole: String,
    },
    /// No classification layer was found.
    #[error(
        "no classification layer was found: walking back from the output, {node} comes before any linear or \
         convolutional layer; name the module that the new head shall replace"
    )]
    NoHead {
        /// The node that stopped the search.
        node: String,
    },
    /// A cut at a module that has several inputs, or is called several times.
    #[error(
        "`{path}` cannot be replaced by a head: it takes its input from {inputs} places; cut at a module that takes it from one"
    )]
    SeveralInputs {
        /// As given.
        path: String,
        /// How many values enter it.
        inputs: usize,
    },
    /// A cut so early that no layer of the network is left.
    #[error("a cut at `{path}` leaves no layer of the network to take features from; cut at a later module")]
    NothingLeft {
        /// As given.
        path: String,
    },
    /// A place at which the network is not one value.
    #[error("the network cannot be cut in two at {node}: what comes behind it also reads from before it")]
    NotPassedByAll {
        /// Module path and operation.
        node: String,
    },
    /// A description of a network, read from somewhere, that describes none.
    #[error("this describes no network: {0}")]
    Malformed(String),
    /// A word that does not say what to train.
    #[error("`{text}` does not say what to train: {reason}")]
    BadPolicy {
        /// As given.
        text: String,
        /// What would.
        reason: String,
    },
    /// More blocks are to train than there are.
    #[error(
        "the last {asked} blocks before the head cannot be trained, as there are {blocks}: ask for fewer, or train everything"
    )]
    TooFewBlocks {
        /// How many were asked for.
        asked: usize,
        /// How many there are.
        blocks: usize,
    },
    /// A head that cannot be.
    #[error("{0}")]
    BadHead(String),
}
