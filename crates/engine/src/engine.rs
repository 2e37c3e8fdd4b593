//! The interface between training and whatever computes.

use engraft_graph::Graph;
use engraft_tensor::{StateDict, Tensor};

use crate::{EngineError, MemoryPlan, Rate, Rule, Snapshot, Targets};

/// Something that runs networks: a device and the code that drives it.
pub trait Engine: Send + Sync {
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

    /// Prepares a network for training, and takes the state dict over.
    ///
    /// # Errors
    /// As [`network`](Self::network); when the engine cannot train an operation, nothing would change, or the numbers of the rule are out of
    /// range.
    fn trainer(
        &self,
        graph: &Graph,
        state: StateDict,
        training: &Training<'_>,
    ) -> Result<Box<dyn Trainer>, EngineError>;
}

/// A network on a device, in evaluation mode: dropout is off, batch norm uses its running statistics.
pub trait Network: Send {
    /// The output for a batch, `[batch, ..]` both.
    ///
    /// # Errors
    /// When the input's shape does not fit the network.
    fn forward(&mut self, input: &Tensor) -> Result<Tensor, EngineError>;
}

/// What changes in a network that is trained, and how.
#[derive(Clone, Copy)]
pub struct Training<'a> {
    /// The group, from 0, of a parameter by its full name, as in `fc.weight`. A group is what shares a [`Rate`]; a parameter without one
    /// is frozen.
    pub group: &'a dyn Fn(&str) -> Option<usize>,
    /// Which batch norms, by their module path as in `layer1.0.bn1`, normalise by the statistics of the batch and update their
    /// running ones. The others use and keep their running statistics. Neither has to do with whether their weights change.
    pub live_norms: &'a dyn Fn(&str) -> bool,
    /// How the gradients change the parameters.
    pub rule: Rule,
}

/// What the loss of an auxiliary head counts, that of the network's output being 1 (Szegedy et al. 2014, arXiv 1409.4842, section 5).
pub const AUX_WEIGHT: f64 = 0.3;

/// A network in training. An update is made of the gradients of one batch or, added up, of several.
///
/// The same calls give the same bits on one machine, whatever the number of threads. After an error everything is as it was before the call.
pub trait Trainer: Send {
    /// Runs a batch forward in training mode and backward, and adds the gradient of `scale` times the loss to the gradients.
    ///
    /// The loss is that of the network's output `[batch, classes]` (see [`Targets`]) and [`AUX_WEIGHT`] times that of each auxiliary
    /// head. For the mean over an update of several batches, `scale` is each one's share of it: its [`Targets::weight`] through
    /// that of all. `draw` decides dropout and stochastic depth; the same number draws the same, so each batch of a run needs its own.
    /// Batch norms that are live update their running statistics.
    ///
    /// # Errors
    /// When the input's shape does not fit the network, the targets do not fit the output, a live batch norm would see a single
    /// value a channel, of which there is no variance, or the memory does not suffice.
    fn accumulate(
        &mut self,
        input: &Tensor,
        targets: &Targets,
        scale: f32,
        draw: u64,
    ) -> Result<Accumulated, EngineError>;

    /// What running a batch of a shape, `[batch, ..]`, takes of the memory, and what is done so that it fits; before anything is
    /// allocated. `None` from an engine that does not plan its memory.
    ///
    /// # Errors
    /// When the shape does not fit the network, or the batch cannot be run within the memory that the training may take.
    fn memory(&mut self, input: &[usize]) -> Result<Option<MemoryPlan>, EngineError> {
        let _ = input;
        Ok(None)
    }

    /// Shows the gradients added up so far, to be read or changed: the full name of each parameter and its gradient, flat and in
    /// row-major order, in the order of the graph. Parameters that are frozen or do not lead to an output have none, and before
    /// the first batch of an update there are none at all.
    fn gradients(&mut self, visit: &mut dyn FnMut(&str, &mut [f32]));

    /// Changes the parameters by the gradients, and clears them. `rates[group]` is the rate of a group.
    ///
    /// With `clip`, gradients whose norm (that of all of them as one vector) is larger are scaled to that norm beforehand, as by
    /// `torch.nn.utils.clip_grad_norm_`. With `average`, the decay `0..=1`, averages are kept of all parameters and running statistics that
    /// change: the first time they are the values themselves, then `decay` times the average and the rest of the value
    /// (`torch.optim.swa_utils.AveragedModel` with `use_buffers`).
    ///
    /// Returns the norm of the gradients before clipping.
    ///
    /// # Errors
    /// When there is no gradient, a gradient is not finite (the first such parameter is named), a group has no rate, or a number is out of range.
    fn update(&mut self, rates: &[Rate], clip: Option<f64>, average: Option<f64>)
    -> Result<f64, EngineError>;

    /// The output for a batch in evaluation mode, without auxiliary heads; of the averages if `averaged`. Before the first update
    /// that averages they are the values themselves.
    ///
    /// # Errors
    /// When the input's shape does not fit the network.
    fn evaluate(&mut self, input: &Tensor, averaged: bool) -> Result<Tensor, EngineError>;

    /// Parameters and buffers as they are now, in the order of the graph; averages in place of what has one, if `averaged`.
    fn state(&self, averaged: bool) -> StateDict;

    /// Everything that the next batch needs, apart from gradients: a snapshot is taken between an update and the next batch.
    fn save(&self) -> Snapshot;

    /// Goes back, or on, to a snapshot of a training that was set up alike; gradients are cleared.
    ///
    /// # Errors
    /// When the snapshot is of another network, or of a training by another rule or of other parameters.
    fn restore(&mut self, snapshot: Snapshot) -> Result<(), EngineError>;
}

/// What a batch gave on the way.
#[derive(Clone, Debug, PartialEq)]
pub struct Accumulated {
    /// The loss of the batch, before `scale`.
    pub loss: f32,
    /// The logits `[batch, classes]`, in training mode.
    pub outputs: Tensor,
}
