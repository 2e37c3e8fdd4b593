//! What a training plan does, one kernel after the other.

use std::sync::Arc;

use engraft_graph::{Attention, Pool};
use engraft_kernels::{Activation, ConvGeometry};

use super::layers::{LayerId, Lies};
use crate::call::{Call, Extent, Maps, Rows, Strided, Tokens};

/// A step of a training plan, with all that its kernel needs but memory and weights.
pub(crate) enum Step {
    /// What plans for evaluation call as well. Constants are tensors of the state dict.
    Call(Call),
    /// A layer's output.
    Layer {
        layer: LayerId,
        x: Lies,
        residual: Option<Rows>,
        to: Lies,
        tokens: Option<Tokens>,
    },
    /// The mask of a node that drops, in the order of its values.
    Mask {
        node: usize,
        p: f64,
        to: Strided,
    },
    /// Rows times factors: one for each column of each so many rows.
    Scale {
        x: Rows,
        factors: Rows,
        rows_per_image: usize,
        to: Rows,
    },
    /// Rows times a number for each so many of them.
    ScaleImages {
        x: Rows,
        factors: Rows,
        rows_per_image: usize,
        to: Rows,
    },
    /// Mean, reciprocal deviation, scale and shift of each channel of a live batch norm; four rows. Updates the running statistics.
    Statistics {
        norm: Norm,
        x: Rows,
        to: Rows,
    },
    /// A live batch norm, by its [`Statistics`](Step::Statistics).
    Normalise {
        x: Rows,
        statistics: Rows,
        residual: Option<Rows>,
        activation: Activation,
        to: Rows,
    },
    /// The loss of an output, the network's first, and its gradient.
    Loss {
        output: usize,
        logits: Rows,
        to: Rows,
    },
    /// Zeros.
    Zero {
        to: Strided,
    },
    /// Adds rows to others.
    Add {
        x: Rows,
        to: Rows,
    },
    /// Adds values to others; where these are repeated, sums.
    AddStrided {
        x: Strided,
        to: Strided,
    },
    /// The sums of the columns, added.
    AddColumnSums {
        x: Rows,
        to: Rows,
    },
    /// The sums of the columns of the products of two matrices over the rows of an image, added.
    AddColumnProducts {
        x: Rows,
        y: Rows,
        rows_per_image: usize,
        to: Rows,
    },
    /// The gradient of an activation's input: in place without `dy`.
    Activation {
        function: Activation,
        z: Rows,
        dy: Option<Rows>,
        dx: Rows,
    },
    Softmax {
        y: Rows,
        dy: Rows,
        dx: Rows,
    },
    /// The gradient of a layer's input, and of what comes before the activation that gave it.
    InputGradient {
        layer: LayerId,
        dy: Lies,
        accumulate: bool,
        /// With what its derivative is told by.
        activation: Option<(Activation, Rows)>,
        dx: Lies,
    },
    /// The gradient of a weight of rows `[outputs, inputs]`.
    ProductGradient {
        x: Rows,
        dy: Rows,
        to: Sum,
    },
    /// The gradient of a convolution's weight.
    ConvGradient {
        geometry: ConvGeometry,
        x: Maps,
        dy: Maps,
        to: Sum,
    },
    /// The gradient of a bias: of a part of the columns zero, if there is one.
    BiasGradient {
        dy: Rows,
        without: Option<[usize; 2]>,
        to: Sum,
    },
    /// From the gradients of a convolution's weight and bias with a batch norm in them to those of its parts.
    FoldedGradient(Folded),
    /// The gradients of a batch norm's input and parameters. The statistics are the batch's, or the running ones without.
    NormGradient(NormGradient),
    /// Those of a layer norm.
    LayerNormGradient {
        node: usize,
        eps: f64,
        x: Rows,
        dy: Rows,
        gamma: Sum,
        beta: Sum,
        accumulate: bool,
        dx: Option<Rows>,
    },
    Attention(AttentionGradient),
    /// The gradient of a pool's input, which only the largest value needs.
    MaxPool {
        window: Pool,
        x: Maps,
        dy: Maps,
        accumulate: bool,
        dx: Maps,
    },
    AvgPool {
        window: Pool,
        count_include_pad: bool,
        dy: Maps,
        accumulate: bool,
        dx: Maps,
    },
    AdaptivePool {
        dy: Maps,
        accumulate: bool,
        dx: Maps,
    },
    /// The gradient of a tensor that is an operand.
    OperandGradient {
        dy: Strided,
        to: Sum,
    },
}

/// A batch norm and its tensors.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Norm {
    pub(crate) node: usize,
    pub(crate) eps: f64,
    pub(crate) momentum: f64,
}

/// Where the gradient of a tensor is added up.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Sum {
    /// Nowhere: it does not train.
    Frozen,
    /// Its place among those that train.
    Trained {
        place: usize,
        /// Whether nothing in the plan has added to it before.
        first: bool,
    },
    /// A buffer that holds nothing before.
    Buffer(Rows),
}

/// See [`Step::FoldedGradient`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Folded {
    pub(crate) conv: usize,
    pub(crate) norm: Norm,
    /// Of the folded weight; is changed.
    pub(crate) dw: Option<Rows>,
    pub(crate) dbias: Rows,
    pub(crate) weight: Sum,
    pub(crate) bias: Sum,
    pub(crate) gamma: Sum,
    pub(crate) beta: Sum,
}

/// See [`Step::NormGradient`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct NormGradient {
    pub(crate) norm: Norm,
    pub(crate) statistics: Option<Rows>,
    pub(crate) x: Rows,
    pub(crate) activation: Activation,
    /// Without it, `dx` holds it.
    pub(crate) dy: Option<Rows>,
    pub(crate) gamma: Sum,
    pub(crate) beta: Sum,
    pub(crate) accumulate: bool,
    pub(crate) dx: Option<Rows>,
}

/// The gradients of an attention between its projections.
pub(crate) struct AttentionGradient {
    pub(crate) layer: LayerId,
    pub(crate) node: usize,
    pub(crate) attention: Arc<Attention>,
    pub(crate) tokens: Tokens,
    pub(crate) qkv: Rows,
    pub(crate) dy: Rows,
    pub(crate) dqkv: Rows,
    /// Of the tensors that make the position biases, in the order of [`position_tensors`].
    pub(crate) position: Vec<Sum>,
    pub(crate) logit_scale: Sum,
    pub(crate) qkv_bias: Sum,
}

/// The tensors from which position biases are made and that may train.
pub(crate) fn position_tensors(attention: &Attention) -> &'static [&'static str] {
    match attention.position {
        engraft_graph::PositionBias::None => &[],
        engraft_graph::PositionBias::Table { .. } => &["relative_position_bias_table"],
        engraft_graph::PositionBias::Network { .. } => {
            &["cpb_mlp.0.weight", "cpb_mlp.0.bias", "cpb_mlp.2.weight"]
        }
    }
}

impl Lies {
    pub(crate) fn extent(&self) -> Extent {
        match self {
            Lies::Rows(rows) => rows.extent(),
            Lies::Maps(maps) => maps.extent(),
        }
    }
}

impl Sum {
    fn extent(&self) -> Option<Extent> {
        match self {
            Sum::Buffer(rows) => Some(rows.extent()),
            Sum::Frozen | Sum::Trained { .. } => None,
        }
    }
}

impl Step {
    /// What it only reads.
    pub(crate) fn reads(&self) -> Vec<Extent> {
        let some = |extents: &[Option<Extent>]| extents.iter().flatten().copied().collect();
        let rows = |rows: &Option<Rows>| rows.as_ref().map(Rows::extent);
        match self {
            Step::Call(call) => call.reads(),
            Step::Layer { x, residual, .. } => some(&[Some(x.extent()), rows(residual)]),
            Step::Mask { .. } | Step::Zero { .. } => Vec::new(),
            Step::Scale { x, factors, .. } | Step::ScaleImages { x, factors, .. } => {
                vec![x.extent(), factors.extent()]
            }
            Step::Statistics { x, .. } => vec![x.extent()],
            Step::Normalise { x, statistics, residual, .. } => {
                some(&[Some(x.extent()), Some(statistics.extent()), rows(residual)])
            }
            Step::Loss { logits, .. } => vec![logits.extent()],
            Step::Add { x, .. } | Step::AddColumnSums { x, .. } => vec![x.extent()],
            Step::AddStrided { x, .. } => vec![x.extent()],
            Step::AddColumnProducts { x, y, .. } => vec![x.extent(), y.extent()],
            Step::Activation { z, dy, .. } => some(&[Some(z.extent()), rows(dy)]),
            Step::Softmax { y, dy, .. } => vec![y.extent(), dy.extent()],
            Step::InputGradient { dy, activation, .. } => {
                some(&[Some(dy.extent()), activation.as_ref().map(|(_, z)| z.extent())])
            }
            Step::ProductGradient { x, dy, .. } => vec![x.extent(), dy.extent()],
            Step::ConvGradient { x, dy, .. } => vec![x.extent(), dy.extent()],
            Step::BiasGradient { dy, .. } => vec![dy.extent()],
            Step::FoldedGradient(folded) => vec![folded.dbias.extent()],
            Step::NormGradient(norm) => {
                some(&[Some(norm.x.extent()), rows(&norm.statistics), rows(&norm.dy)])
            }
            Step::LayerNormGradient { x, dy, .. } => vec![x.extent(), dy.extent()],
            Step::Attention(attention) => vec![attention.qkv.extent(), attention.dy.extent()],
            Step::MaxPool { x, dy, .. } => vec![x.extent(), dy.extent()],
            Step::AvgPool { dy, .. } | Step::AdaptivePool { dy, .. } => vec![dy.extent()],
            Step::OperandGradient { dy, .. } => vec![dy.extent()],
        }
    }

    /// What it writes, or reads and writes: one buffer at most.
    pub(crate) fn writes(&self) -> Option<Extent> {
        match self {
            Step::Call(call) => Some(call.to()),
            Step::Layer { to, .. } => Some(to.extent()),
            Step::Mask { to, .. } | Step::Zero { to } | Step::AddStrided { to, .. } => Some(to.extent()),
            Step::Scale { to, .. }
            | Step::ScaleImages { to, .. }
            | Step::Statistics { to, .. }
            | Step::Normalise { to, .. }
            | Step::Loss { to, .. }
            | Step::Add { to, .. }
            | Step::AddColumnSums { to, .. }
            | Step::AddColumnProducts { to, .. } => Some(to.extent()),
            Step::Activation { dx, .. } | Step::Softmax { dx, .. } => Some(dx.extent()),
            Step::InputGradient { dx, .. } => Some(dx.extent()),
            Step::ProductGradient { to, .. }
            | Step::ConvGradient { to, .. }
            | Step::BiasGradient { to, .. }
            | Step::OperandGradient { to, .. } => to.extent(),
            Step::FoldedGradient(folded) => folded.dw.as_ref().map(Rows::extent),
            Step::NormGradient(norm) => norm.dx.as_ref().map(Rows::extent),
            Step::LayerNormGradient { dx, .. } => dx.as_ref().map(Rows::extent),
            Step::Attention(attention) => Some(attention.dqkv.extent()),
            Step::MaxPool { dx, .. } | Step::AvgPool { dx, .. } | Step::AdaptivePool { dx, .. } => {
                Some(dx.extent())
            }
        }
    }

    /// Multiplications followed by additions, as the network's definition has them.
    pub(crate) fn multiply_adds(&self, weights: &dyn Fn(LayerId) -> usize) -> usize {
        let per_weight = |layer: LayerId, lies: &Lies| match lies {
            Lies::Rows(rows) => rows.rows * weights(layer),
            Lies::Maps(maps) => maps.shape.pixels() * weights(layer),
        };
        match self {
            Step::Call(call) => call.multiply_adds(),
            Step::Layer { layer, to, tokens: None, .. } => per_weight(*layer, to),
            Step::Layer { x: Lies::Rows(x), to: Lies::Rows(to), tokens: Some(tokens), .. } => {
                2 * tokens.pairs(x.rows) * to.columns
            }
            Step::InputGradient { layer, dy, .. } => per_weight(*layer, dy),
            Step::ProductGradient { x, dy, .. } => x.rows * x.columns * dy.columns,
            Step::ConvGradient { geometry, x, dy, .. } => {
                let taps = geometry.kernel[0] * geometry.kernel[1];
                dy.shape.pixels() * dy.shape.channels * x.shape.channels / geometry.groups * taps
            }
            Step::Attention(attention) => {
                4 * attention.tokens.pairs(attention.qkv.rows) * attention.dy.columns
            }
            _ => 0,
        }
    }

    /// What it is called in a profile.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Step::Call(Call::Input { .. }) => "input",
            Step::Call(Call::Copy { .. }) => "copy",
            Step::Call(Call::Combine { .. }) => "sum or product",
            Step::Call(Call::Activation { .. }) => "activation",
            Step::Call(Call::Pool { .. }) => "pool",
            Step::Call(Call::Softmax { .. }) => "softmax",
            Step::Call(Call::General { what, .. }) => what.name(),
            Step::Call(_) => "affine",
            Step::Layer { tokens: Some(_), .. } => "attention",
            Step::Layer { .. } => "layer",
            Step::Mask { .. } => "mask",
            Step::Scale { .. } | Step::ScaleImages { .. } => "scale",
            Step::Statistics { .. } => "statistics",
            Step::Normalise { .. } => "normalise",
            Step::Loss { .. } => "loss",
            Step::Zero { .. } => "zeros",
            Step::Add { .. } => "add",
            Step::AddStrided { .. } => "add, strided",
            Step::AddColumnSums { .. } | Step::BiasGradient { .. } => "column sums",
            Step::AddColumnProducts { .. } => "column products",
            Step::Activation { .. } => "activation gradient",
            Step::Softmax { .. } => "softmax gradient",
            Step::InputGradient { .. } => "input gradient",
            Step::ProductGradient { .. } | Step::ConvGradient { .. } => "weight gradient",
            Step::FoldedGradient(_) => "folded norm gradient",
            Step::NormGradient(_) => "batch norm gradient",
            Step::LayerNormGradient { .. } => "layer norm gradient",
            Step::Attention(_) => "attention gradient",
            Step::MaxPool { .. } | Step::AvgPool { .. } | Step::AdaptivePool { .. } => "pool gradient",
            Step::OperandGradient { .. } => "operand gradient",
        }
    }
}
