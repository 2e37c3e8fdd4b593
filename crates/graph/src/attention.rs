//! Self-attention as one operation: what the transformers of torchvision differ in, as attributes.

use serde::{Deserialize, Serialize};

use crate::{Activation, Linear, Op, TensorKind, TensorSpec};

/// Multi-head self-attention (Vaswani et al. 2017, arXiv 1706.03762), projections included: on `[.., tokens, dim]`, or, with
/// [`windows`](Self::windows), on `[batch, height, width, dim]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Attention {
    /// Features of a token.
    pub dim: usize,
    /// Heads; divides `dim`.
    pub heads: usize,
    /// How the projections' tensors are called.
    pub names: ProjectionNames,
    /// How scores are computed from queries and keys.
    pub scores: Scores,
    /// What is added to the scores for the distance between two tokens of a window.
    pub position: PositionBias,
    /// Whether tokens see those of their own window alone.
    pub windows: Option<Windows>,
}

/// What the tensors of an attention's projections are called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ProjectionNames {
    /// `in_proj_weight`, `in_proj_bias`, `out_proj.weight`, `out_proj.bias`: `torch.nn.MultiheadAttention`.
    Torch,
    /// `qkv.*`, `proj.*`: torchvision's Swin.
    Swin,
    /// `to_qkv.*`, `merge.*`: torchvision's MaxViT.
    MaxVit,
}

/// How scores are computed from queries and keys.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Scores {
    /// Their product, times a number.
    Product {
        /// The number.
        scale: f64,
    },
    /// Their cosine, times `exp(min(logit_scale, ln 100))`, a learned number for each head; the keys have no bias (Swin V2, Liu
    /// et al. 2021, arXiv 2111.09883).
    Cosine,
}

/// What is added to the scores for the distance between two tokens of a square window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PositionBias {
    /// Nothing.
    None,
    /// A learned number for each distance and head.
    Table {
        /// Side of the window in tokens.
        window: usize,
        /// Whether PyTorch keeps the index of distances as a matrix, not flat.
        matrix: bool,
    },
    /// Sixteen times the sigmoid of what a small network makes of the distance on a logarithmic scale (Swin V2).
    Network {
        /// Side of the window in tokens.
        window: usize,
    },
}

/// Square windows, shifted so that their borders differ from those of the layer before (Swin, Liu et al. 2021, arXiv 2103.14030). The
/// image is padded to whole windows; along a side that one window covers nothing is shifted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Windows {
    /// Side in tokens.
    pub side: usize,
    /// By how many tokens.
    pub shift: usize,
}

/// Hidden units of the network behind [`PositionBias::Network`].
const POSITION_UNITS: usize = 512;

impl Attention {
    /// The prefixes of the tensors of the projection to queries, keys and values, and of that of the result.
    pub fn projections(&self) -> [&'static str; 2] {
        match self.names {
            ProjectionNames::Torch => ["in_proj_", "out_proj."],
            ProjectionNames::Swin => ["qkv.", "proj."],
            ProjectionNames::MaxVit => ["to_qkv.", "merge."],
        }
    }

    /// The side in tokens of the window for whose distances there are biases.
    pub(crate) fn biased_window(&self) -> Option<usize> {
        match self.position {
            PositionBias::None => None,
            PositionBias::Table { window, .. } | PositionBias::Network { window } => Some(window),
        }
    }

    /// The tensors that belong to the attention module itself, in PyTorch's order.
    pub fn own_tensors(&self) -> Vec<TensorSpec> {
        let mut own = Vec::new();
        let mut tensor = |name: &str, shape: &[usize], kind| {
            own.push(TensorSpec { name: name.into(), shape: shape.into(), kind });
        };
        if self.names == ProjectionNames::Torch {
            tensor("in_proj_weight", &[3 * self.dim, self.dim], TensorKind::Parameter);
            tensor("in_proj_bias", &[3 * self.dim], TensorKind::Parameter);
        }
        if self.scores == Scores::Cosine {
            tensor("logit_scale", &[self.heads, 1, 1], TensorKind::Parameter);
        }
        match self.position {
            PositionBias::None => {}
            PositionBias::Table { window, matrix } => {
                let (distances, tokens) = ((2 * window - 1).pow(2), window * window);
                tensor("relative_position_bias_table", &[distances, self.heads], TensorKind::Parameter);
                let index = if matrix { vec![tokens, tokens] } else { vec![tokens * tokens] };
                tensor("relative_position_index", &index, TensorKind::Index);
            }
            PositionBias::Network { window } => {
                let distances = 2 * window - 1;
                tensor("relative_coords_table", &[1, distances, distances, 2], TensorKind::Buffer);
                tensor("relative_position_index", &[window.pow(4)], TensorKind::Index);
            }
        }
        own
    }

    /// The layers within the attention module, in the order in which PyTorch registers them: path and operation.
    pub fn layers(&self) -> Vec<(&'static str, Op)> {
        let linear = |outputs| Linear::new(self.dim, outputs).into();
        let [qkv, out] = self.projections();
        let mut layers = Vec::new();
        if self.names != ProjectionNames::Torch {
            layers.push((qkv.trim_end_matches('.'), linear(3 * self.dim)));
        }
        layers.push((out.trim_end_matches('.'), linear(self.dim)));
        if let PositionBias::Network { .. } = self.position {
            layers.push(("cpb_mlp.0", Linear::new(2, POSITION_UNITS).into()));
            layers.push(("cpb_mlp.1", Activation::ReLU.inplace()));
            layers.push((
                "cpb_mlp.2",
                Linear { bias: false, ..Linear::new(POSITION_UNITS, self.heads) }.into(),
            ));
        }
        layers
    }
}
