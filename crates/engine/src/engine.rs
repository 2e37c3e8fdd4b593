//! The interface between training and whatever computes.

use engraft_graph::Graph;
use engraft_tensor::{StateDict, Tensor};

use crate::EngineError;

/// Something that runs networks: a device and the code that drives it.
pub trait Engine {
    /// The device as a person would call it, as in `cpu`.
    fn device(&self) -> String;

    /// What the last bits of a result depend on: kernels, their version and the instruction set, as in `cpu 1 avx2`. Results that are
    /// kept are used again only where this is the same.
    fn numerics(&self) -> String;

    /// Prepares a network for running in evaluation mode. It takes the state dict over, so that large networks are in memory once.
    ///
    /// # Errors
    /// When the state dict lacks a tensor of the graph, or has it in another shape.
    fn network(&self, graph: &Graph, state: StateDict) -> Result<Box<dyn Network>, EngineError>;

    /// Prepares a network for training.
    ///
    /// # Errors
    /// As [`network`](Self::network).
    fn trainer(
        &self,
        graph: &Graph,
        state: &StateDict,
        training: Training<'_>,
    ) -> Result<Box<dyn Trainer>, EngineError>;
}

/// How a network is trained.
#[derive(Clone, Copy)]
pub struct Training<'a> {
    /// Which parameters change, by their full name as in `fc.weight`. A batch norm whose weight does not change is frozen: it
    /// uses and keeps its running statistics.
    pub trainable: &'a dyn Fn(&str) -> bool,
    /// Where the randomness of dropout begins.
    pub seed: u64,
}

/// A network on a device, in evaluation mode: dropout is off, batch norm uses its running statistics.
pub trait Network {
    /// The output for a batch, `[batch, ..]` both.
    ///
    /// # Errors
    /// When the input's shape does not fit the network.
    fn forward(&self, input: &Tensor) -> Result<Tensor, EngineError>;
}

/// What the loss of an auxiliary head counts, that of the network's output being 1 (Szegedy et al. 2014, arXiv 1409.4842, section 5).
pub const AUX_WEIGHT: f64 = 0.3;

/// A network in training. Its [`forward`](Network::forward) is that of evaluation.
pub trait Trainer: Network {
    /// One step of Adam (Kingma and Ba 2014, betas 0.9 and 0.999, epsilon 1e-8, as `torch.optim.Adam`) on the mean cross entropy
    /// between the output `[batch, classes]` and the labels, and [`AUX_WEIGHT`] times that of each auxiliary head. Returns that loss, as
    /// it was before the step.
    ///
    /// # Errors
    /// When the input's shape does not fit the network, or the labels do not fit the input or the classes.
    fn step(&mut self, input: &Tensor, labels: &[usize], learning_rate: f64) -> Result<f32, EngineError>;

    /// Parameters and buffers as they are now.
    fn state(&self) -> StateDict;
}
