//! The tensors a network needs: what PyTorch calls its state dict, without the values.

use serde::{Deserialize, Serialize};

/// What a tensor of a state dict is to its module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum TensorKind {
    /// Learned by gradient descent: weights and biases, `f32`.
    Parameter,
    /// Kept by the module itself, `f32`: batch norm's running mean and variance, a table of distances.
    Buffer,
    /// Batch norm's `num_batches_tracked`, one `i64` of shape `[]`. Files written before PyTorch 0.4.1 lack it.
    Counter,
    /// A constant of the architecture that PyTorch keeps in its files, `i64`: which entry of a table belongs to two tokens.
    Index,
}

impl TensorKind {
    /// Whether the values are `f32`; the others are `i64`.
    pub fn is_float(self) -> bool {
        matches!(self, TensorKind::Parameter | TensorKind::Buffer)
    }
}

/// The name, shape and kind of one tensor of a state dict.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TensorSpec {
    /// PyTorch's name: the module path and the tensor's own name, as in `layer1.0.conv1.weight`.
    pub name: String,
    /// Sizes as PyTorch stores them, `[out, in / groups, height, width]` for a convolution's weight.
    pub shape: Vec<usize>,
    /// Parameter, buffer or counter.
    pub kind: TensorKind,
}

impl TensorSpec {
    /// How many values the tensor holds.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// True for a tensor with a dimension of size zero.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
