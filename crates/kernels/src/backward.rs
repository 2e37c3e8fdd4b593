//! The backward passes: gradients of what the other modules compute, and what training does with them.
//!
//! A gradient has the layout of what it is the gradient of: maps are channels last, weights are PyTorch's. `dy` is always the loss'
//! gradient by a kernel's output, `dx` by its input. Sums over pixels are made chunk by chunk, in an order that follows from the
//! shapes alone, so that their bits do not depend on the number of threads.
//!
//! Where `accumulate` is set, a gradient is added to what is there, otherwise it replaces it.

mod activation;
mod attention;
mod batch_norm;
mod batch_statistics;
mod conv;
mod cross_entropy;
mod depthwise;
mod layer_norm;
pub(crate) mod outer;
mod packing;
mod pooling;
mod product;
mod reduction;
mod update;

use crate::{Activation, Matrix};

pub use activation::{activation_backward, softmax_backward};
pub use attention::{AttentionGradients, attention_backward};
pub use batch_norm::{
    BatchNorm, FoldedNorm, batch_norm_affine, batch_norm_backward, folded_norm_backward, normalise,
};
pub use batch_statistics::batch_statistics;
pub use conv::{ConvGradientWeights, conv_input_gradient, conv_weight_gradient};
pub use cross_entropy::cross_entropy;
pub use depthwise::{depthwise_input_gradient, depthwise_weight_gradient};
pub use layer_norm::layer_norm_backward;
pub use pooling::{adaptive_avg_pool_backward, avg_pool_backward, max_pool_backward};
pub use product::{product_input_gradient, product_weight_gradient};
pub use reduction::{add_rows, column_products, column_sums, scale_images};
pub use update::{Adam, Sgd, adam, average, scale, sgd, sum_of_squares};

/// What happens to an input's gradient before it is stored: `dx = (g + dx) f'(z)`, without accumulation `g f'(z)`.
#[derive(Clone, Copy, Default)]
pub struct GradientEpilogue<'a> {
    /// Whether it is added to what is there.
    pub accumulate: bool,
    /// The activation `f` that made the input, and what its derivative is computed from: see [`activation_backward`]. A matrix of
    /// the gradient's shape.
    pub activation: Option<(Activation, Matrix<'a>)>,
}

impl GradientEpilogue<'_> {
    /// Panics when a slice is too short for the gradient's shape.
    fn check(&self, rows: usize, columns: usize) {
        assert!(
            self.activation.is_none_or(|(_, z)| z.has(rows, columns)),
            "the activation's matrix has fewer than {rows} rows of {columns}"
        );
    }
}
